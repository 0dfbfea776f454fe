"""The hostile application: its source is written here, and it is deployed once, by the first test that asks for it."""

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
# the same folder each time: the controller's cache is keyed by a source's address
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
    """The application as it is deployed, and the folder that it is deployed from."""

    source: pathlib.Path = SOURCE


@pytest.fixture(scope="session")
def hostile() -> Hostile:
    """On both hosts, served."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    SOURCE.mkdir(parents=True)
    (SOURCE / "main.py").write_text(_MAIN.lstrip())
    (SOURCE / "requirements.txt").write_text("fastapi==0.165.0\n")
    for name in HOSTS:
        # as strict as a host's root may be: what the application is to read needs a mode of its own
        host(name).check_output(
            "printf 'Defaults umask=0077,umask_override\n' > /etc/sudoers.d/umask && chmod 0440 /etc/sudoers.d/umask"
        )
    application = Hostile(SCENARIO / "inventory", {"HOSTILE_SOURCE": str(SOURCE)})
    application.succeed("site.yml")
    return application
