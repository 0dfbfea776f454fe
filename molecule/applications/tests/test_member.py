"""A member of a uv workspace, in a subfolder, with a src layout, extras and groups."""

from __future__ import annotations

import pytest

from .conftest import Deployed
from .support import SOLO


@pytest.mark.parametrize("name", SOLO)
def test_the_member_and_what_it_needs_are_served(member: Deployed, name: str) -> None:
    said = member.says(name)
    assert said["total"] == 42
    assert said["idna"] == "3.10"


@pytest.mark.parametrize("name", SOLO)
def test_it_has_the_extras_and_groups_named_and_no_others(member: Deployed, name: str) -> None:
    assert member.says(name)["versions"] == {
        "quotes": "1.0",
        "prices": "2.5",
        "orjson": "3.11.4",
        "humanize": "4.12.3",
        "simplejson": None,
        "iniconfig": None,
    }


@pytest.mark.parametrize("name", SOLO)
def test_it_runs_in_its_own_folder_without_what_git_ignores(member: Deployed, name: str) -> None:
    assert member.says(name)["files"] == ["pyproject.toml", "src"]
    assert member.release(name)["working_directory"] == "src/services/quotes"
    assert member.release(name)["lock"] == "uv.lock"
    assert member.release(name)["locked"] is True


def test_the_lock_needs_no_warning(member: Deployed) -> None:
    assert "not locked" not in member.first.words
