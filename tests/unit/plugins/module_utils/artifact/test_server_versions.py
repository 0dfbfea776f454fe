from __future__ import annotations

import pathlib
import tomllib

import pytest
from ansible_collections.baton.web.plugins.module_utils.artifact import requirements, server_versions
from ansible_collections.baton.web.plugins.module_utils.artifact.requirements import Pin
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = pathlib.Path(__file__).parents[5]

LOCKED = requirements.read(ROOT / "roles/app_release/files/server-requirements.txt").pins


def overlay(**pins: str) -> dict[str, str]:
    application = [Pin(name.replace("_", "-"), version) for name, version in pins.items()]
    return {pin.name: pin.version for pin in server_versions.overlay(LOCKED, application)}


def test_application_without_a_server_gets_all_locked_versions() -> None:
    assert overlay(fastapi="0.100.0") == {pin.name: pin.version for pin in LOCKED}


@pytest.mark.parametrize(
    ("name", "version", "replaced"),
    [
        ("uvicorn", "0.20.0", True),
        ("uvicorn", "0.40.0", False),
        ("gunicorn", "23.0.0", True),
        ("gunicorn", "27.0.0", False),
        ("websockets", "12.0", True),
        ("websockets", "15.0.1", False),
        ("uvloop", "0.17.0", True),
        ("httptools", "0.6.1", True),
        ("h11", "0.14.0", True),
        ("h11", "0.16.0", False),
        ("click", "8.1.7", False),
    ],
)
def test_applications_version_takes_precedence_in_the_supported_range(name: str, version: str, replaced: bool) -> None:
    assert (name in overlay(**{name: version})) is replaced


def test_locked_versions_are_supported_and_hashed() -> None:
    for pin in LOCKED:
        assert SpecifierSet(server_versions.SUPPORTED[pin.name]).contains(pin.version), pin.name
        assert pin.hashes


def test_supported_ranges_are_inside_those_of_the_handover() -> None:
    project = tomllib.loads((ROOT / "handover/pyproject.toml").read_text())["project"]
    for requirement in map(Requirement, project["dependencies"]):
        supported = SpecifierSet(server_versions.SUPPORTED[requirement.name])
        floor = next(one.version for one in supported if one.operator == ">=")
        assert requirement.specifier.contains(floor), requirement.name
        ceilings = {one.version for one in requirement.specifier if one.operator == "<"}
        assert ceilings <= {one.version for one in supported if one.operator == "<"}, requirement.name
