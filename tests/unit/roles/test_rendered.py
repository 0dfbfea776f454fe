"""The rendered templates and the files of the roles, with the defaults and with most optional variables."""

from __future__ import annotations

from tests.support import rendered


def test_rendered_templates_are_unchanged() -> None:
    """After an intended change, run `python -m tests.support.rendered`."""
    now, before = rendered.texts(), rendered.written()
    assert now.keys() == before.keys()
    for path, text in now.items():
        assert text.splitlines() == before[path].splitlines(), path
