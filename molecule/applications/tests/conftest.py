"""The applications, each deployed once, by the first test that asks for it."""

from __future__ import annotations

import pathlib
import shutil

import pytest

from tests.support.playbooks import Done

from . import sources
from .support import SOURCES, Application


class Deployed(Application):
    """An application and what its first deploy said."""

    def __init__(self, name: str, playbook: str = "site.yml") -> None:
        super().__init__(name)
        self.first = self.succeed(playbook)


@pytest.fixture(scope="session")
def folder() -> pathlib.Path:
    """An empty folder for the sources."""
    shutil.rmtree(SOURCES, ignore_errors=True)
    SOURCES.mkdir(parents=True)
    return SOURCES


@pytest.fixture(scope="session")
def stillborn(folder: pathlib.Path) -> Done:
    """The first deploy of `plain`, of a version that can't boot."""
    sources.plain(folder)
    return Application("plain").play("site.yml", app_version="broken")


@pytest.fixture(scope="session")
def plain(stillborn: Done) -> Deployed:
    """A git repository with a requirements.txt; the hosts were brought into shape by the deploy that failed."""
    assert stillborn.status != 0
    return Deployed("plain", "playbooks/deploy.yml")


@pytest.fixture(scope="session")
def fragile(folder: pathlib.Path) -> Deployed:
    """An application with versions that can't boot."""
    sources.fragile(folder)
    return Deployed("fragile")


@pytest.fixture(scope="session")
def member(folder: pathlib.Path) -> Deployed:
    """A member of a uv workspace."""
    sources.workspace(folder)
    return Deployed("member")


@pytest.fixture(scope="session")
def factory(folder: pathlib.Path) -> Deployed:
    """A factory locked by Poetry, with much that is set for it."""
    sources.factory(folder)
    return Deployed("factory")


@pytest.fixture(scope="session")
def compiled(folder: pathlib.Path) -> Deployed:
    """An application that needs a compiler, built on hosts that have one."""
    sources.compiled(folder)
    return Deployed("compiled")


@pytest.fixture(scope="session")
def published() -> Deployed:
    """A server from the package index."""
    return Deployed("published")
