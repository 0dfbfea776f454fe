"""The applications. Each is deployed once, by the first test that uses it."""

from __future__ import annotations

import pathlib
import shutil

import pytest

from tests.support.playbooks import Done

from . import sources
from .support import SOURCES, Application


class Deployed(Application):
    """An application, and the output of its first deploy."""

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
def failed_first_deploy(folder: pathlib.Path) -> Done:
    """The first deploy of `plain`, with a version that can't boot."""
    sources.plain(folder)
    return Application("plain").play("site.yml", app_version="broken")


@pytest.fixture(scope="session")
def plain(failed_first_deploy: Done) -> Deployed:
    """A git repository with a requirements.txt; the failed deploy has provisioned the hosts."""
    assert failed_first_deploy.status != 0
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
    """A factory locked by Poetry, with many settings."""
    sources.factory(folder)
    return Deployed("factory")


@pytest.fixture(scope="session")
def compiled(folder: pathlib.Path) -> Deployed:
    """An application whose packages are compiled on build hosts."""
    sources.compiled(folder)
    return Deployed("compiled")


@pytest.fixture(scope="session")
def published() -> Deployed:
    """A server from the package index."""
    return Deployed("published")
