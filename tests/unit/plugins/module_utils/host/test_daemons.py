"""How far a running process is behind its unit's files."""

from __future__ import annotations

import os
import pathlib

import pytest
from ansible_collections.baton.web.plugins.module_utils.host import daemons

from tests.support.program import write_script

DROP_IN = "/etc/systemd/system/nginx.service.d/baton.conf"
STARTED = 1764072000.5  # Tue 2025-11-25 12:00:00.500000 UTC


@pytest.fixture
def host(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A host on which nginx was started after its drop-in was written."""
    write_script(tmp_path / "systemctl", f'echo "$*" >> {tmp_path}/calls\ncat {tmp_path}/output')
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    (tmp_path / "proc/7").mkdir(parents=True)
    (tmp_path / "proc/7/status").write_text("Name:\tnginx\nNoNewPrivs:\t1\nSeccomp:\t2\n")
    drop_in = tmp_path / DROP_IN.lstrip("/")
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text("[Service]\nNoNewPrivileges=true\n")
    os.utime(drop_in, (STARTED - 0.1, STARTED - 0.1))
    show(tmp_path)
    return tmp_path


def show(host: pathlib.Path, **changed: str) -> None:
    properties = {
        "Id": "nginx.service",
        "MainPID": "7",
        "NeedDaemonReload": "no",
        "NoNewPrivileges": "yes",
        "DropInPaths": DROP_IN,
        "ExecMainStartTimestamp": "Tue 2025-11-25 12:00:00.500000 UTC",
    }
    (host / "output").write_text("".join(f"{name}={value}\n" for name, value in (properties | changed).items()))


def behind(host: pathlib.Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = daemons.behind(["nginx.service", "redis-server@links.service"], str(host))
    return found


def test_up_to_date_process_is_not_reported(host: pathlib.Path) -> None:
    assert behind(host) == []
    # a single call, for any number of units
    (call,) = (host / "calls").read_text().splitlines()
    assert call.startswith("show nginx.service redis-server@links.service --all --property=")
    assert daemons.behind([], str(host)) == []


def test_process_older_than_its_drop_in_is_reported(host: pathlib.Path) -> None:
    os.utime(host / DROP_IN.lstrip("/"), (STARTED + 0.1, STARTED + 0.1))
    expected = {"unit": "nginx.service", "unread": False, "unconfined": False, "newer": [DROP_IN]}
    assert behind(host) == [expected]
    (host / "proc/7/status").write_text("NoNewPrivs:\t0\n")
    assert behind(host) == [expected | {"unconfined": True}]
    # a unit that isn't to be confined
    show(host, NoNewPrivileges="no")
    assert behind(host) == [expected]


def test_unit_files_that_systemd_has_not_reloaded_are_reported(host: pathlib.Path) -> None:
    show(host, NeedDaemonReload="yes")
    assert behind(host) == [{"unit": "nginx.service", "unread": True, "unconfined": False, "newer": []}]


def test_runtime_settings_and_stopped_processes_are_not_reported(host: pathlib.Path) -> None:
    control = "/etc/systemd/system.control/nginx.service.d/50-MemoryMax.conf"
    (host / control.lstrip("/")).parent.mkdir(parents=True)
    (host / control.lstrip("/")).write_text("")
    show(host, DropInPaths=f"{control} /gone/baton.conf")
    assert behind(host) == []
    show(host, MainPID="0", NeedDaemonReload="yes")
    assert behind(host) == []
    show(host, ExecMainStartTimestamp="", MainPID="8")
    assert behind(host) == []
