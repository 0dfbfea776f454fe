"""The applications, each deployed once, by the first test that asks for it."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil

import pytest

from . import sources
from .support import SOURCES, Application, Done


@dataclasses.dataclass(frozen=True)
class Deployed(Application):
    """An application and what its first deploy said."""

    first: Done


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
    return Deployed("plain", Application("plain").deploy())


@pytest.fixture(scope="session")
def fragile(folder: pathlib.Path) -> Deployed:
    """An application with versions that can't boot."""
    sources.fragile(folder)
    return Deployed("fragile", Application("fragile").deploy("site.yml"))


@pytest.fixture(scope="session")
def member(folder: pathlib.Path) -> Deployed:
    """A member of a uv workspace."""
    sources.workspace(folder)
    return Deployed("member", Application("member").deploy("site.yml"))


@pytest.fixture(scope="session")
def factory(folder: pathlib.Path) -> Deployed:
    """A factory locked by Poetry, with much that is set for it."""
    sources.factory(folder)
    return Deployed("factory", Application("factory").deploy("site.yml"))


@pytest.fixture(scope="session")
def compiled(folder: pathlib.Path) -> Deployed:
    """An application that needs a compiler, built on hosts that have one."""
    sources.compiled(folder)
    return Deployed("compiled", Application("compiled").deploy("site.yml"))


@pytest.fixture(scope="session")
def published() -> Deployed:
    """A server from the package index."""
    return Deployed("published", Application("published").deploy("site.yml"))
