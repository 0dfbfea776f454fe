"""A member of a uv workspace, in a subfolder, with a src layout, extras and groups."""

from __future__ import annotations

import pytest

from .conftest import Deployed
from .support import SOLO


@pytest.mark.parametrize("name", SOLO)
def test_member_and_its_dependencies_are_served(member: Deployed, name: str) -> None:
    answer = member.get_json(name)
    assert answer["total"] == 42
    assert answer["idna"] == "3.10"


@pytest.mark.parametrize("name", SOLO)
def test_only_named_extras_and_groups_are_installed(member: Deployed, name: str) -> None:
    assert member.get_json(name)["versions"] == {
        "quotes": "1.0",
        "prices": "2.5",
        "orjson": "3.11.4",
        "humanize": "4.12.3",
        "simplejson": None,
        "iniconfig": None,
    }


@pytest.mark.parametrize("name", SOLO)
def test_member_runs_in_its_folder_without_ignored_files(member: Deployed, name: str) -> None:
    assert member.get_json(name)["files"] == ["pyproject.toml", "src"]
    assert member.release(name)["working_directory"] == "src/services/quotes"
    assert member.release(name)["lock"] == "uv.lock"
    assert member.release(name)["locked"] is True


def test_locked_project_causes_no_warning(member: Deployed) -> None:
    assert "not locked" not in member.first.words
