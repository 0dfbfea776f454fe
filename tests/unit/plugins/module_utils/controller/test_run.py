"""The identity of a run, and whether its process has ended."""

from __future__ import annotations

import getpass
import os
import platform
import subprocess

import pytest
from ansible_collections.baton.web.plugins.module_utils.controller import run


def test_running_process_has_not_ended() -> None:
    assert run.identity(os.getpid())
    assert not run.ended(run.identity(os.getpid()))


def test_killed_process_has_ended_even_before_it_is_reaped() -> None:
    sleeper = subprocess.Popen(["sleep", "60"])
    process = run.identity(sleeper.pid)
    assert not run.ended(process)
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert run.ended(process)
    sleeper.wait()
    assert run.ended(process)


def test_other_process_with_the_same_pid_is_recognised() -> None:
    boot, namespace, pid, started = run.identity(os.getpid()).split()
    assert run.ended(f"{boot} {namespace} {pid} {int(started) - 1}")


@pytest.mark.parametrize("index", [0, 1])
def test_process_of_another_boot_or_namespace_is_not_known_to_have_ended(index: int) -> None:
    sleeper = subprocess.Popen(["true"])
    parts = run.identity(sleeper.pid).split()
    sleeper.wait()
    assert run.ended(" ".join(parts))
    parts[index] = "another"
    assert not run.ended(" ".join(parts))


@pytest.mark.parametrize("process", ["", "x", "a b c d"])
def test_invalid_identity_is_not_known_to_have_ended(process: str) -> None:
    assert not run.ended(process)


def test_pid_that_no_process_can_have_is_not_known_to_have_ended() -> None:
    boot, namespace, _, started = run.identity(os.getpid()).split()
    assert not run.ended(f"{boot} {namespace} {10**30} {started}")


def test_user_without_a_name_is_named_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "node", lambda: "laptop")
    monkeypatch.setattr(getpass, "getuser", lambda: "ann")
    assert run.who() == "ann@laptop"

    def fail() -> str:
        raise KeyError("getpwuid(): uid not found: 1000")

    monkeypatch.setattr(getpass, "getuser", fail)
    assert run.who() == f"{os.getuid()}@laptop"
