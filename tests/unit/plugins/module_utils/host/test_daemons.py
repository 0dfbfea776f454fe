"""What a running process lacks of its unit's files."""

from __future__ import annotations

import os
import pathlib

import pytest
from ansible_collections.baton.web.plugins.module_utils.host import daemons

DROP_IN = "/etc/systemd/system/nginx.service.d/baton.conf"
STARTED = 1764072000.5  # Tue 2025-11-25 12:00:00.500000 UTC


@pytest.fixture
def host(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A host on which nginx was started after its drop-in, with all that it says."""
    program = tmp_path / "systemctl"
    program.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/asked\ncat {tmp_path}/said\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    (tmp_path / "proc/7").mkdir(parents=True)
    (tmp_path / "proc/7/status").write_text("Name:\tnginx\nNoNewPrivs:\t1\nSeccomp:\t2\n")
    drop_in = tmp_path / DROP_IN.lstrip("/")
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text("[Service]\nNoNewPrivileges=true\n")
    os.utime(drop_in, (STARTED - 0.1, STARTED - 0.1))
    say(tmp_path)
    return tmp_path


def say(host: pathlib.Path, **changed: str) -> None:
    told = {
        "Id": "nginx.service",
        "MainPID": "7",
        "NeedDaemonReload": "no",
        "NoNewPrivileges": "yes",
        "DropInPaths": DROP_IN,
        "ExecMainStartTimestamp": "Tue 2025-11-25 12:00:00.500000 UTC",
    }
    (host / "said").write_text("".join(f"{name}={value}\n" for name, value in (told | changed).items()))


def behind(host: pathlib.Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = daemons.behind(["nginx.service", "redis-server@links.service"], str(host))
    return found


def test_one_that_has_all_its_files_say_is_not_told_of(host: pathlib.Path) -> None:
    assert behind(host) == []
    # one call, whatever there is
    (asked,) = (host / "asked").read_text().splitlines()
    assert asked.startswith("show nginx.service redis-server@links.service --all --property=")
    assert daemons.behind([], str(host)) == []


def test_one_that_was_started_before_its_drop_in_came(host: pathlib.Path) -> None:
    os.utime(host / DROP_IN.lstrip("/"), (STARTED + 0.1, STARTED + 0.1))
    about = {"unit": "nginx.service", "unread": False, "unconfined": False, "newer": [DROP_IN]}
    assert behind(host) == [about]
    (host / "proc/7/status").write_text("NoNewPrivs:\t0\n")
    assert behind(host) == [about | {"unconfined": True}]
    # one that isn't to be confined
    say(host, NoNewPrivileges="no")
    assert behind(host) == [about]


def test_files_that_systemd_has_not_read(host: pathlib.Path) -> None:
    say(host, NeedDaemonReload="yes")
    assert behind(host) == [{"unit": "nginx.service", "unread": True, "unconfined": False, "newer": []}]


def test_what_counts_at_once_and_what_is_not_there_is_not_told_of(host: pathlib.Path) -> None:
    control = "/etc/systemd/system.control/nginx.service.d/50-MemoryMax.conf"
    (host / control.lstrip("/")).parent.mkdir(parents=True)
    (host / control.lstrip("/")).write_text("")
    say(host, DropInPaths=f"{control} /gone/baton.conf")
    assert behind(host) == []
    say(host, MainPID="0", NeedDaemonReload="yes")
    assert behind(host) == []
    say(host, ExecMainStartTimestamp="", MainPID="8")
    assert behind(host) == []
