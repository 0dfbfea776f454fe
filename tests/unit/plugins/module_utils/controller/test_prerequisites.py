"""What the controller lacks is reported with the fix."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.controller import prerequisites

from tests.support.program import write_script

WANTED = [{"name": "ansible.posix", "version": ">=2.0.0"}]


def problems(**changed: object) -> list[str]:
    inputs: dict[str, Any] = {"ansible_version": "2.19.14", "wanted": WANTED, "installed": {"ansible.posix": "2.1.0"}}
    found: list[str] = prerequisites.problems(**(inputs | changed))
    return found


def test_complete_controller_has_no_problem() -> None:
    assert problems() == []


def test_old_ansible_is_refused_with_the_required_version() -> None:
    (found,) = problems(ansible_version="2.14.18")
    assert "2.14.18" in found
    assert "2.19 or newer" in found
    assert "make setup" in found


def test_missing_and_old_collections_are_named_together() -> None:
    wanted = [*WANTED, {"name": "community.crypto"}]
    (found,) = problems(wanted=wanted, installed={"ansible.posix": "1.5.4"})
    assert "ansible.posix >=2.0.0 (1.5.4)" in found
    assert "community.crypto  (not installed)" in found


def test_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (sentence,) = problems(program_folder=str(tmp_path))
    assert "uv, ssh, git" in sentence


def test_first_folder_with_a_collection_takes_precedence(tmp_path: pathlib.Path) -> None:
    for root, version in (("one", "2.1.0"), ("two", "1.0.0")):
        folder = tmp_path / root / "ansible_collections/ansible/posix"
        folder.mkdir(parents=True)
        manifest = {"collection_info": {"namespace": "ansible", "name": "posix", "version": version}}
        (folder / "MANIFEST.json").write_text(json.dumps(manifest))
    roots = [str(tmp_path / "one"), str(tmp_path / "two")]
    assert prerequisites.installed_collections(roots) == {"ansible.posix": "2.1.0"}


def test_programs_of_the_environment_count_as_well_as_those_of_the_system(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    environment, system = tmp_path / "venv", tmp_path / "system"
    for folder, name in ((environment, "uv"), (system, "ssh")):
        folder.mkdir()
        write_script(folder / name, "exit 0")
    monkeypatch.setenv("PATH", str(system))
    (sentence,) = problems(program_folder=str(environment))
    assert "lacks the programs git: " in sentence


@pytest.mark.parametrize(
    ("version", "refused"), [("2.18.99", True), ("2.19.0", False), ("2.19.0rc1", False), ("3.0.0+local.1", False)]
)
def test_first_accepted_version_of_ansible(version: str, refused: bool) -> None:
    assert bool(problems(ansible_version=version)) is refused
