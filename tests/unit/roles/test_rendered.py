"""What a host gets of each template, with the defaults and with most of what can be set."""

from __future__ import annotations

from tests.support import rendered


def test_templates_become_what_is_written_down() -> None:
    """Where that is meant, `python -m tests.support.rendered` writes it anew."""
    now, before = rendered.texts(), rendered.written()
    assert now.keys() == before.keys()
    for path, text in now.items():
        assert text.splitlines() == before[path].splitlines(), path
