"""What preflight learns from the host's programs and processes: sockets of units, owners of ports, calendars."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import types

import pytest
from ansible_collections.baton.web.plugins.module_utils.host import preflight

from tests.support.program import write_script


@pytest.fixture
def programs(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return tmp_path


def test_socket_units_are_known_by_their_ports(programs: pathlib.Path) -> None:
    sockets = ["0.0.0.0:443 nginx.socket nginx.service", "[::]:22 - ssh.socket ssh.service", "[::]:25 -"]
    listing = "\n".join([*sockets, "/run/x.sock x.socket x.service"])
    write_script(programs / "systemctl", f'echo "$@" > {programs}/asked; cat <<END\n{listing}\nkobject-uevent 1 -\nEND')
    assert preflight.socket_units() == {443: "nginx.socket", 22: "ssh.socket"}
    asked = (programs / "asked").read_text().split()
    assert asked == ["list-sockets", "--no-legend", "--plain", "--full"]


def test_owner_of_a_port_is_its_unit_or_its_command() -> None:
    with contextlib.closing(socket.create_server(("::1", 0), family=socket.AF_INET6)) as server:
        port = server.getsockname()[1]
        ((found, owner),) = preflight.listeners({port})
    assert found == port
    names = {line.rpartition("/")[2] for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines()}
    assert owner in {pathlib.Path("/proc/self/comm").read_text().strip(), *names}


def test_unit_is_the_last_part_of_the_control_group(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for pid, group in (("7", "0::/system.slice/shop.service"), ("8", "0::/user.slice/session-1.scope")):
        (tmp_path / "proc" / pid).mkdir(parents=True)
        (tmp_path / "proc" / pid / "cgroup").write_text(f"{group}\n")
        (tmp_path / "proc" / pid / "comm").write_text("python3\n")
    below = types.SimpleNamespace(Path=lambda path: pathlib.Path(f"{tmp_path}{path}"))
    monkeypatch.setattr(preflight, "pathlib", below)
    assert [preflight._unit(pid) for pid in ("7", "8", "9")] == ["shop.service", "python3", "process 9"]


def test_disk_is_that_of_the_nearest_existing_folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[pathlib.Path] = []

    def usage(path: pathlib.Path) -> object:
        asked.append(path)
        return type("Usage", (), {"free": 3 * 2**20})()

    monkeypatch.setattr(shutil, "disk_usage", usage)
    (found,) = preflight.disk_problems("app1", [{"path": str(tmp_path / "a/b"), "megabytes": 4}])
    assert asked == [tmp_path]
    assert f"app1: {tmp_path}/a/b has 3 MiB free, but 4 MiB are needed." in found


def test_version_of_the_c_library_is_a_number() -> None:
    words = [sys.executable, "-c", "import os; print(os.confstr('CS_GNU_LIBC_VERSION'))"]
    shown = subprocess.run(words, check=True, capture_output=True, text=True, env=dict(os.environ)).stdout
    assert shown.strip() == f"glibc {preflight.glibc()}"
