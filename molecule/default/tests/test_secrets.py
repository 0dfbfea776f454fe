"""A secret's rotation: the new value is in use, and neither it nor the old one is anywhere but where it is used."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import secrets
import shlex
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from .conftest import APP_SERVERS, FLEET, INVENTORY, Edge, other

pytestmark = [pytest.mark.hosts("edge1"), pytest.mark.long]

SEARCH = (pathlib.Path(__file__).parent / "on_host/search.py").read_text()
HOSTS = ("data1", "edge1", *APP_SERVERS)
CANARY = "import pathlib, sys; pathlib.Path('/var/tmp/canary').write_text(sys.argv[1][::-1])"
# systemd's copies for running units, in memory
CREDENTIALS = "/run/credentials"
# where Baton and Ansible write on the controller
CONTROLLER = (pathlib.Path.home() / ".cache/baton", pathlib.Path.home() / ".ansible", pathlib.Path("/tmp"), INVENTORY)


class Rotation(NamedTuple):
    """Two values of a secret, and what was printed when the second replaced the first."""

    old: str
    new: str
    output: str
    written: set[str]  # files on the controller that have one of them


def found(host: str, texts: list[str], excluded: str = CREDENTIALS) -> list[str]:
    """The places on a host that have one of the texts."""
    command = ["python3", "-Ic", SEARCH, excluded, *(text[::-1] for text in texts)]
    return str(other(host).check_output(shlex.join(command))).splitlines()


def written_since(began: float, texts: list[str], excluded: pathlib.Path) -> set[str]:
    """The controller's files that were written since then and have one of the texts."""
    written = set()
    listed = (pathlib.Path(top, name) for one in CONTROLLER for top, _, names in os.walk(one) for name in names)
    for path in listed:
        # other programs also use these folders, and may remove files during the search
        with contextlib.suppress(FileNotFoundError):
            if excluded not in path.parents and path.is_file() and path.stat().st_mtime >= began:
                content = path.read_bytes()
                if any(text.encode() in content for text in texts):
                    written.add(str(path))
    return written


@pytest.fixture(scope="module")
def rotation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rotation]:
    """Rotate a secret twice."""
    folder = tmp_path_factory.mktemp("variables")
    began = time.time()
    values = [secrets.token_hex(16) for _ in range(2)]
    output = ""
    for number, value in enumerate(values):
        # a run's command line is the operator's own business
        variables = folder / f"{number}.json"
        variables.write_text(json.dumps({"test_metrics_token": value, "deploy_bake_seconds": 0}))
        output += FLEET.succeed("playbooks/configure.yml", "-vvv", "--diff", "-e", f"@{variables}").output
    yield Rotation(values[0], values[1], output, written_since(began, values, folder))
    FLEET.succeed("playbooks/configure.yml", deploy_bake_seconds=0)


def test_rotated_secret_is_in_use(rotation: Rotation, edge: Edge) -> None:
    statuses = [
        edge("/metrics", headers={"Authorization": f"Bearer {value}"}).status_code
        for value in (rotation.old, rotation.new)
    ]
    assert statuses == [401, 200]
    for name in APP_SERVERS:
        # the old value is not even in the units' memory
        assert found(name, [rotation.old], excluded="/proc") == []
        assert found(name, [rotation.new], excluded="/proc") != []


def test_rotated_secret_is_neither_printed_nor_on_controller(rotation: Rotation) -> None:
    assert rotation.output.count("PLAY RECAP") == 2
    assert rotation.old not in rotation.output
    assert rotation.new not in rotation.output
    assert rotation.written == set()


@pytest.mark.parametrize("name", HOSTS)
def test_rotated_secret_is_nowhere_else(rotation: Rotation, name: str) -> None:
    # the search finds what is there
    canary = secrets.token_hex(16)
    other(name).check_output(shlex.join(["python3", "-c", CANARY, canary[::-1]]))
    places = found(name, [canary])
    other(name).check_output("rm /var/tmp/canary")
    assert places == ["/var/tmp/canary"]
    assert found(name, [rotation.old, rotation.new]) == []


def test_command_does_not_show_secret(rotation: Rotation) -> None:
    show = json.dumps({"command": "printenv; cat $CREDENTIALS_DIRECTORY/*; echo shown"})
    shown = FLEET.succeed("playbooks/exec.yml", "-vvv", "-e", show).output
    assert "shown" in shown
    assert rotation.new not in shown
