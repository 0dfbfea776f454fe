"""The check of the internals of Gunicorn and Uvicorn: known versions only, and a clear error if one has changed."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import uvicorn.server
from gunicorn.arbiter import Arbiter

from gunicorn_handover import internals

pytestmark = pytest.mark.versions


def test_installed_versions_are_supported() -> None:
    internals.check_master("httptools")
    internals.check_protocol("httptools")
    internals.check_protocol("h11")


def test_pyproject_declares_supported_versions() -> None:
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    declared = {}
    for requirement in project["dependencies"]:
        if match := re.fullmatch(r"([a-z-]+)>=([\d.]+),<([\d.]+)", requirement):
            declared[match[1]] = (match[2], match[3])
    assert declared == internals.SUPPORTED


def test_changed_internal_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Arbiter, "kill_worker", lambda self, pid: None)  # noqa: ARG005
    with pytest.raises(internals.UnsupportedError, match=r"Arbiter\.kill_worker takes \(self, pid\)"):
        internals.check_master("httptools")


def test_missing_internal_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(uvicorn.server.Server, "handle_exit")
    with pytest.raises(internals.UnsupportedError, match=r"Server\.handle_exit is missing"):
        internals.check_master("httptools")


def test_unknown_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(internals.SUPPORTED, "gunicorn", ("26.2", "26.2"))
    with pytest.raises(internals.UnsupportedError, match=r"gunicorn [\d.]+ is not supported"):
        internals.check_master("httptools")


def test_missing_parser_is_named() -> None:
    with pytest.raises(internals.UnsupportedError, match="no_such_parser is not installed"):
        internals.check_master("no_such_parser")


@pytest.mark.parametrize(("version", "release"), [("26.2.0", (26, 2)), ("27.0.1rc1", (27, 0, 1)), ("28", (28,))])
def test_version_is_parsed(version: str, release: tuple[int, ...]) -> None:
    assert internals._release(version) == release
