"""A process that leaves its login session is in its own scope before it goes on."""

from __future__ import annotations

import os
import pathlib

import pytest
from ansible_collections.baton.web.plugins.module_utils.host import systemd

from tests.support.clock import Clock
from tests.support.program import write_script

SCOPE = "baton-activation-7.scope"


class Host:
    """A host whose systemd moves a process some pauses after it was asked to."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root, self.moved_after = root, 3
        self.clock = Clock()
        self.answers(0)

    def answers(self, status: int) -> None:
        write_script(self.root / "busctl", f'printf "%s\\n" "$@" > {self.root}/asked; exit {status}')

    def cgroup(self) -> str:
        moved = len(self.clock.pauses) >= self.moved_after
        return f"0::/system.slice/{SCOPE}\n" if moved else "0::/user.slice/session-1.scope\n"


@pytest.fixture
def host(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    fake = Host(tmp_path)
    monkeypatch.setattr(systemd, "time", fake.clock)
    monkeypatch.setattr(systemd, "_cgroup", fake.cgroup)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return fake


def test_process_waits_until_it_is_in_its_scope(host: Host) -> None:
    systemd.leave_login(SCOPE)
    assert len(host.clock.pauses) == 3
    assert (host.root / "asked").read_text().split() == [
        *("--quiet", "call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1"),
        *("org.freedesktop.systemd1.Manager", "StartTransientUnit", "ssa(sv)a(sa(sv))"),
        # the scope, an error if there is one of that name, one property, and no auxiliary units
        *(SCOPE, "fail", "1", "PIDs", "au", "1", str(os.getpid()), "0"),
    ]


def test_wait_for_the_scope_ends_after_five_seconds(host: Host) -> None:
    host.moved_after = 10**6
    systemd.leave_login(SCOPE)
    assert sum(host.clock.pauses) == pytest.approx(5, abs=0.02)


def test_refused_scope_is_not_waited_for(host: Host) -> None:
    host.answers(1)
    systemd.leave_login(SCOPE)
    assert host.clock.pauses == []


def test_host_without_systemd_is_no_error(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(host.root / "nothing"))
    systemd.leave_login(SCOPE)
    assert host.clock.pauses == []
