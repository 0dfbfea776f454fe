"""A run is told from all others, and nobody is taken for dead who may live."""

from __future__ import annotations

import os
import subprocess

import pytest
from ansible_collections.baton.web.plugins.module_utils.controller import run


def test_a_living_process_has_not_ended() -> None:
    assert run.identity(os.getpid())
    assert not run.ended(run.identity(os.getpid()))


def test_a_process_that_is_gone_has_ended_also_before_it_is_reaped() -> None:
    sleeper = subprocess.Popen(["sleep", "60"])
    process = run.identity(sleeper.pid)
    assert not run.ended(process)
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert run.ended(process)
    sleeper.wait()
    assert run.ended(process)


def test_another_process_with_the_same_number_is_not_it() -> None:
    boot, namespace, pid, started = run.identity(os.getpid()).split()
    assert run.ended(f"{boot} {namespace} {pid} {int(started) - 1}")


@pytest.mark.parametrize("place", [0, 1])
def test_nothing_is_known_of_processes_elsewhere(place: int) -> None:
    sleeper = subprocess.Popen(["true"])
    parts = run.identity(sleeper.pid).split()
    sleeper.wait()
    assert run.ended(" ".join(parts))
    parts[place] = "another"
    assert not run.ended(" ".join(parts))


@pytest.mark.parametrize("process", ["", "x", "a b c d"])
def test_what_makes_no_sense_is_not_known_to_have_ended(process: str) -> None:
    assert not run.ended(process)
