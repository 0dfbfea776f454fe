"""The module wheel: what it passes to the build, and what it reports."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.host import wheel_build
from ansible_collections.baton.web.plugins.module_utils.host.command import BatonError
from ansible_collections.baton.web.plugins.modules import wheel

from tests.support import modules

WHEELS = [{"path": "/out/x.whl", "filename": "x.whl", "key": "x"}]
PLACES: dict[str, Any] = {"job": "/job.tar", "out_dir": "/out"}


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The builds, which all succeed."""
    calls: list[tuple[Any, ...]] = []

    def build(*given: Any) -> list[dict[str, str]]:
        calls.append(given)
        return WHEELS

    monkeypatch.setattr(wheel_build, "build", build)
    return calls


def test_wheels_are_built_with_the_given_programs(builds: list[tuple[Any, ...]]) -> None:
    result = modules.run(wheel, **PLACES, uv="/uv", python="/python", system_packages=["libpq-dev"])
    assert (result["changed"], result["wheels"]) == (True, WHEELS)
    modules.run(wheel, **PLACES)
    defaults = (pathlib.Path("/var/lib/baton/bin/uv"), pathlib.Path("/usr/bin/python3"))
    job = (pathlib.Path("/job.tar"), pathlib.Path("/out"))
    assert builds == [
        (*job, pathlib.Path("/uv"), pathlib.Path("/python"), ["libpq-dev"]),
        (*job, *defaults, []),
    ]


def test_check_mode_builds_nothing(builds: list[tuple[Any, ...]]) -> None:
    result = modules.run(wheel, check=True, **PLACES)
    assert (result["changed"], result["wheels"], builds) == (True, [], [])


def test_failed_build_is_reported_with_cause_and_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise BatonError("x needs gcc.", "Install it.")

    monkeypatch.setattr(wheel_build, "build", fail)
    result = modules.run(wheel, **PLACES)
    assert (result["msg"], result["cause"], result["fix"]) == (
        "x needs gcc. Install it.",
        "x needs gcc.",
        "Install it.",
    )
