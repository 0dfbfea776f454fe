"""Small projects to build artifacts from, and one cache for all tests, so that each file is downloaded once."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.artifact import artifact, lockfile
from ansible_collections.baton.web.plugins.module_utils.artifact.targets import Target
from ansible_collections.baton.web.plugins.module_utils.artifact.toolchain import Tools

from tests.support import git_server
from tests.support.machine import HERE

ROOT = pathlib.Path(__file__).parents[3]
SERVER_LOCK = ROOT / "roles/app_release/files/server-requirements.txt"
BOOKWORM = Target(minor=11, architecture="x86_64", glibc=(2, 36), patch=2)
TRIXIE = Target(minor=13, architecture="x86_64", glibc=(2, 41), patch=5)

MAIN = """
async def app(scope, receive, send): ...
def create_app(): return app
"""
HATCHLING = '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'

Write = Callable[..., pathlib.Path]


def _run(*words: str | pathlib.Path, cwd: pathlib.Path) -> str:
    """Run a real tool."""
    environment = {
        **os.environ,
        "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}",
        "UV_PYTHON": sys.executable,
        "UV_PYTHON_DOWNLOADS": "never",
        "POETRY_VIRTUALENVS_CREATE": "false",
        "SETUPTOOLS_SCM_PRETEND_VERSION": "0.1",
        "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.org",
        "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@example.org",
        "GIT_CONFIG_GLOBAL": "/dev/null",
    }  # fmt: skip
    done = subprocess.run([str(word) for word in words], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _pyproject(
    name: str, dependencies: Sequence[str] = (), python: str = ">=3.11", build: bool = True, rest: str = ""
) -> str:
    """The text of a pyproject.toml."""
    listed = ", ".join(f'"{one}"' for one in dependencies)
    return (
        f'[project]\nname = "{name}"\nversion = "1.0"\nrequires-python = "{python}"\ndependencies = [{listed}]\n'
        f"{HATCHLING if build else ''}{rest}"
    )


@pytest.fixture(scope="session")
def pyproject() -> Callable[..., str]:
    """The text of a pyproject.toml: pyproject("name", ["dependency"])."""
    return _pyproject


@pytest.fixture(scope="session")
def run() -> Callable[..., str]:
    """Run one of the real tools: run("git", "init", cwd=folder)."""
    return _run


@pytest.fixture
def write(tmp_path: pathlib.Path) -> Write:
    """Write files of a project: write("app", {"main.py": "…"})."""

    def write_files(folder: str, files: dict[str, str]) -> pathlib.Path:
        for name, text in files.items():
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path / folder

    return write_files


@pytest.fixture
def rotated(tmp_path: pathlib.Path) -> Iterator[Callable[[str, str], str]]:
    """The URL of a repository in the test's folder, on a server that requires this token: rotated("repo", "TOKEN")."""
    tokens: set[str] = set()
    with git_server.served(tmp_path, tokens) as address:

        def url(name: str, token: str) -> str:
            tokens.clear()
            tokens.add(token)
            password = urllib.parse.quote(token, safe="")
            return f"http://{git_server.USER}:{password}@{address}/{name}"

        yield url


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Tools:
    return Tools(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def handover(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder: pathlib.Path = tmp_path_factory.mktemp("handover")
    (folder / "src/gunicorn_handover").mkdir(parents=True)
    (folder / "src/gunicorn_handover/__init__.py").write_text("")
    shutil.copy(ROOT / "handover/src/gunicorn_handover/environment.py", folder / "src/gunicorn_handover")
    (folder / "pyproject.toml").write_text(_pyproject("gunicorn-handover"))
    return folder


@pytest.fixture
def make_request(handover: pathlib.Path) -> Callable[..., artifact.Request]:
    """A request with defaults for what the test doesn't set."""

    def make(source: pathlib.Path | str, **changes: Any) -> artifact.Request:
        request = artifact.Request(
            app_name="demo",
            app_source=str(source),
            app_version="",
            app_source_subdir="",
            app_module="main:app",
            targets=[BOOKWORM],
            server_lock=SERVER_LOCK,
            handover_source=handover,
            base_dirs=["/"],
            options=lockfile.ResolveOptions(),
            state_dir="/var/lib/demo",
        )
        return dataclasses.replace(request, **changes)

    return make


@pytest.fixture
def build(write: Write, make_request: Callable[..., artifact.Request], tools: Tools) -> Callable[..., Any]:
    """Build an artifact for this machine from the text of main.py."""

    def make(text: str = MAIN, requirements: str = "idna==3.10\n", **changes: object) -> dict[str, Any]:
        app = write("app", {"main.py": text, "requirements.txt": requirements})
        built: dict[str, Any] = artifact.build(make_request(app, targets=[Target.parse(HERE)], **changes), tools)
        return built

    return make
