"""The installed collection, used by a team with an inventory in a repository of its own, instead of this checkout."""

from __future__ import annotations

import pathlib
import shutil
import subprocess

import pytest

from tests.support import collection
from tests.support.playbooks import PROJECT

from .shop import SCENARIO, SOURCE, Fleet, Source


@pytest.fixture
def team(fleet: Fleet, tmp_path: pathlib.Path) -> pathlib.Path:
    """The team's repository, with the inventory of the fleet, which serves already."""
    assert fleet.release()
    here = tmp_path / "team"
    here.mkdir()
    collection.install(collection.pack(PROJECT, tmp_path), here)
    shutil.rmtree(here / "inventory")
    shutil.copytree(SCENARIO / "inventory", here / "inventory", ignore=shutil.ignore_patterns("receipts"))
    return here


def play(team: pathlib.Path, playbook: str) -> subprocess.CompletedProcess[str]:
    """Run a playbook that must succeed."""
    done = collection.run(team, "ansible-playbook", f"baton.web.{playbook}", DEPLOY_SOURCE=str(SOURCE))
    assert done.returncode == 0, f"{playbook}: {done.stdout[-3000:]}{done.stderr[-1000:]}"
    return done


# tests/unit/test_collection.py installs the packed collection and loads its content
@pytest.mark.long
def test_a_team_provisions_deploys_and_rolls_back_with_the_installed_collection(
    team: pathlib.Path, fleet: Fleet, source: Source
) -> None:
    source.change()
    play(team, "site")
    before = fleet.release()

    source.change()
    play(team, "deploy")
    after = fleet.release()
    assert after != before

    status = play(team, "status").stdout
    assert after in status
    assert str(PROJECT) not in status

    play(team, "rollback")
    assert fleet.release() == before
    # generated files are in the team's own folder
    assert len(list((team / "inventory/receipts").glob("*.html"))) == 3
