"""The parts of Gunicorn and Uvicorn that are leaned on: known versions only, and a clear word when one has changed."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import uvicorn.server
from gunicorn.arbiter import Arbiter

from gunicorn_handover import internals

pytestmark = pytest.mark.versions


def test_what_is_installed_is_supported() -> None:
    internals.check_master("httptools")
    internals.check_protocol("httptools")
    internals.check_protocol("h11")


def test_the_package_declares_the_same_ranges() -> None:
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    declared = {}
    for requirement in project["dependencies"]:
        if match := re.fullmatch(r"([a-z-]+)>=([\d.]+),<([\d.]+)", requirement):
            declared[match[1]] = (match[2], match[3])
    assert declared == internals.SUPPORTED


def test_a_changed_part_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Arbiter, "kill_worker", lambda self, pid: None)  # noqa: ARG005
    with pytest.raises(internals.UnsupportedError, match=r"Arbiter\.kill_worker takes \(self, pid\)"):
        internals.check_master("httptools")


def test_a_missing_part_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(uvicorn.server.Server, "handle_exit")
    with pytest.raises(internals.UnsupportedError, match=r"Server\.handle_exit is gone"):
        internals.check_master("httptools")


def test_an_unknown_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(internals.SUPPORTED, "gunicorn", ("26.2", "26.2"))
    with pytest.raises(internals.UnsupportedError, match=r"gunicorn [\d.]+ is not supported"):
        internals.check_master("httptools")


def test_a_missing_parser_is_named() -> None:
    with pytest.raises(internals.UnsupportedError, match="no_such_parser is not installed"):
        internals.check_master("no_such_parser")


@pytest.mark.parametrize(("version", "release"), [("26.2.0", (26, 2)), ("27.0.1rc1", (27, 0, 1)), ("28", (28,))])
def test_versions_compare_by_number(version: str, release: tuple[int, ...]) -> None:
    assert internals._release(version) == release
