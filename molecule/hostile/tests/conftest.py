"""The hostile application: its source is generated here, and the first test that uses it deploys it."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shutil
from typing import Any

import pytest
import testinfra

from tests.support.playbooks import Playbooks

SCENARIO = pathlib.Path(__file__).parents[1]
HOSTS = ("bookworm", "trixie")
# always the same folder: the controller's cache is keyed by a source's address
SOURCE = (
    pathlib.Path(os.environ.get("MOLECULE_EPHEMERAL_DIRECTORY", pathlib.Path.home() / ".cache/baton/hostile"))
    / "source"
)

_MAIN = """
from fastapi import FastAPI

app = FastAPI()


@app.get("/")
def read() -> dict[str, str]:
    return {"hello": "world"}
"""


def host(name: str) -> Any:
    """A host of the fleet."""
    return testinfra.get_host(f"ansible://{name}", ansible_inventory=str(SCENARIO / "inventory"))


@dataclasses.dataclass(frozen=True)
class Hostile(Playbooks):
    """The deployed application, and the folder of its source."""

    source: pathlib.Path = SOURCE


@pytest.fixture(scope="session")
def hostile() -> Hostile:
    """The application, served by both hosts."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    SOURCE.mkdir(parents=True)
    (SOURCE / "main.py").write_text(_MAIN.lstrip())
    (SOURCE / "requirements.txt").write_text("fastapi==0.165.0\n")
    for name in HOSTS:
        # a strict umask for root: files for the application need an explicit mode
        host(name).check_output(
            "printf 'Defaults umask=0077,umask_override\n' > /etc/sudoers.d/umask && chmod 0440 /etc/sudoers.d/umask"
        )
    application = Hostile(SCENARIO / "inventory", {"HOSTILE_SOURCE": str(SOURCE)})
    application.succeed("site.yml")
    return application
