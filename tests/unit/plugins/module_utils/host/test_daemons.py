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
    expected = {"unit": "nginx.service", "unread": False, "unconfined": False, "newer": [DROP_IN], "replaced": []}
    assert behind(host) == [expected]
    (host / "proc/7/status").write_text("NoNewPrivs:\t0\n")
    assert behind(host) == [expected | {"unconfined": True}]
    # a unit that isn't to be confined
    show(host, NoNewPrivileges="no")
    assert behind(host) == [expected]


def test_unit_files_that_systemd_has_not_reloaded_are_reported(host: pathlib.Path) -> None:
    show(host, NeedDaemonReload="yes")
    (found,) = behind(host)
    assert found == {"unit": "nginx.service", "unread": True, "unconfined": False, "newer": [], "replaced": []}


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


@pytest.mark.parametrize("place", ["sys/fs/cgroup", "sys/fs/cgroup/systemd"])  # cgroup v2, and v1 or hybrid
@pytest.mark.parametrize(
    ("maps", "replaced"),
    [
        ("r-xp 00000000 08:01 12 /usr/lib/libssl.so.3 (deleted)", "/usr/lib/libssl.so.3"),
        ("r-xp 00000000 08:01 12 /usr/sbin/nginx (deleted)", "/usr/sbin/nginx"),
        ("r-xp 00000000 08:01 12 /lib/ld-linux.so.2 (deleted)", "/lib/ld-linux.so.2"),
        ("r-xp 00000000 08:01 12 /usr/lib/libssl.so.3", ""),
        ("r--p 00000000 08:01 12 /usr/lib/locale/locale-archive (deleted)", ""),
        ("rw-s 00000000 00:01 12 /dev/zero (deleted)", ""),
        ("rwxs 00000000 00:01 12 /dev/zero (deleted)", ""),
        ("rwxs 00000000 00:01 12 /memfd:jit (deleted)", ""),
        ("rwxp 00000000 08:01 12 /tmp/perf-7.map (deleted)", ""),
        ("rw-s 00000000 00:01 12 /SYSV0052e2c1 (deleted)", ""),
        ("rw-s 00000000 00:0f 12 /[aio] (deleted)", ""),
        ("r-xp 00000000 08:01 12 /opt/links/releases/old/venv/lib/x.so (deleted)", ""),
    ],
)
def test_replaced_libraries_of_any_of_its_processes_are_reported(
    host: pathlib.Path, place: str, maps: str, replaced: str
) -> None:
    show(host, ControlGroup="/system.slice/nginx.service", ActiveState="active")
    group = host / place / "system.slice/nginx.service"
    group.mkdir(parents=True)
    # the last one has ended
    (group / "cgroup.procs").write_text("7\n8\n9\n")
    for pid, text in ((7, "7f00-7f01 r-xp 00000000 08:01 12 /usr/lib/libz.so\n"), (8, f"7f00-7f01 {maps}\n")):
        (host / f"proc/{pid}").mkdir(exist_ok=True)
        (host / f"proc/{pid}/maps").write_text(text)
    assert [one["replaced"] for one in behind(host)] == ([[replaced]] if replaced else [])
    # it ends anyway
    show(host, ControlGroup="/system.slice/nginx.service", ActiveState="deactivating")
    assert behind(host) == []
