"""The documented ways to build the container image."""

from __future__ import annotations

import pathlib
import re

PROJECT = pathlib.Path(__file__).parents[3]


def test_documented_lock_is_in_the_build_context() -> None:
    (lock,) = set(re.findall(r"--build-arg LOCK=([\w.-]+)", (PROJECT / "README.md").read_text()))
    assert (PROJECT / "app" / lock).is_file()
    assert f"!app/{lock}" in (PROJECT / ".dockerignore").read_text().splitlines()
    assert "ARG LOCK=" in (PROJECT / "app/Containerfile").read_text()
