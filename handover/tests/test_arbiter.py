"""The master's decisions, one by one, on the simulated kernel of test_arbiter_random."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import types
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gunicorn.arbiter
import pytest
from gunicorn.errors import HaltServer

from gunicorn_handover import accept, arbiter, forks, priority, status, worker
from gunicorn_handover.board import DrainReason, State
from gunicorn_handover.reload import KILL_WAIT, Reload
from test_arbiter_random import Master

STEP = 0.25  # seconds; the simulated clocks are exact at its multiples


@pytest.fixture
def machine() -> Iterator[Master]:
    """A master with two workers that have served for an hour."""
    machine = Master()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        machine.start()
        pass_time(machine, 3600)
        yield machine
    finally:
        machine.teardown()
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)  # a worker's, which a test has run in this process


def pass_time(machine: Master, seconds: float) -> None:
    """Lets time pass, in which workers make no progress, but send their heartbeats."""
    machine.world.now += seconds
    for one in machine.master.WORKERS.values():
        one.tmp.notify()
    machine.loop()


def forked(machine: Master) -> list[int]:
    """The workers that boot."""
    return [pid for pid, one in machine.master.WORKERS.items() if one.board.state is State.BOOTING]


def seconds_until(machine: Master, condition: Callable[[], Any]) -> float:
    """The simulated seconds until the condition is true. Only the master runs, not the workers."""
    began = machine.world.now
    machine.loop()
    while not condition():
        pass_time(machine, STEP)
        assert machine.world.now < began + 3600
    return machine.world.now - began


def fail_boots(machine: Master) -> None:
    for pid in forked(machine):
        machine.master.WORKERS[pid].board.record_failure("ImportError: gone")
        machine.world.end(pid, worker.BOOT_ERROR << 8)


def become_ready(machine: Master) -> None:
    """Lets all workers become ready, while no time passes."""
    for _ in range(8):
        machine.move()
        machine.loop()
    assert len(machine.serving()) == machine.master.num_workers


def crash(machine: Master) -> None:
    """Kills the youngest worker."""
    machine.world.end(max(machine.serving()), signal.SIGSEGV)


def test_delay_between_failed_boots_doubles_up_to_half_a_minute(machine: Master) -> None:
    for pid in list(machine.master.WORKERS):
        machine.world.end(pid, signal.SIGSEGV)
    delays = []
    for _ in range(9):
        delays.append(seconds_until(machine, lambda: forked(machine)))
        assert len(forked(machine)) == 2, "both at once"
        fail_boots(machine)
    assert delays == [0, 0.5, 1, 2, 4, 8, 16, 30, 30]


def test_boots_that_fail_for_days_are_retried_every_half_minute(machine: Master) -> None:
    crash(machine)
    machine.loop()
    machine.master._failures = 100_000
    for _ in range(2):
        fail_boots(machine)
        assert seconds_until(machine, lambda: forked(machine)) == arbiter.BACKOFF_MAX


def test_reload_forgets_failed_boots(machine: Master) -> None:
    crash(machine)
    for _ in range(3):
        seconds_until(machine, lambda: forked(machine))
        fail_boots(machine)
    # it doesn't wait for the next attempt, either
    machine.request_reload()
    machine.finish_trial("good")
    become_ready(machine)
    assert machine.master._reload is None
    crash(machine)
    assert seconds_until(machine, lambda: forked(machine)) == 0
    fail_boots(machine)
    # the crash of a worker that had just started counted as the first failure
    assert seconds_until(machine, lambda: forked(machine)) == 1


@pytest.mark.parametrize(("stable", "delay"), [(10, 4), (10 + STEP, 0)])
def test_failed_boots_are_forgotten_after_ten_stable_seconds(machine: Master, stable: float, delay: float) -> None:
    crash(machine)
    for _ in range(3):
        seconds_until(machine, lambda: forked(machine))
        fail_boots(machine)
    failed = machine.world.now
    seconds_until(machine, lambda: forked(machine))
    become_ready(machine)
    pass_time(machine, failed + stable - machine.world.now)
    crash(machine)
    assert seconds_until(machine, lambda: forked(machine)) == delay


def test_series_of_crashes_of_young_workers_is_slowed_down(machine: Master) -> None:
    """One crash after less than ten seconds is none yet."""
    delays = []
    for served in (3600, 0, 0, 0, 0, 5.75, 10, 0, 0, 9.75, 0):
        pass_time(machine, served)
        crash(machine)
        delays.append(seconds_until(machine, lambda: forked(machine)))
        become_ready(machine)
    assert delays == [0, 0, 1, 2, 4, 8, 0, 0, 1, 0, 1]


def test_master_starts_no_more_workers_than_wanted(machine: Master) -> None:
    machine.master.cfg.set("handover_boot_at_once", 9)
    machine.send_signals([signal.SIGTTIN])
    assert len(forked(machine)) == 1
    machine.loop()
    assert len(forked(machine)) == 1
    become_ready(machine)
    for pid in list(machine.master.WORKERS):
        machine.world.end(pid, signal.SIGSEGV)
    seconds_until(machine, lambda: forked(machine))
    machine.loop()
    assert len(machine.master.WORKERS) == len(forked(machine)) == 3


def test_last_worker_is_not_removed(machine: Master) -> None:
    for wanted in (1, 1):
        machine.send_signals([signal.SIGTTOU])
        assert machine.master.num_workers == wanted
    machine.settle()


@pytest.mark.parametrize("number", [0, 1])
def test_worker_that_hangs_is_removed_first(machine: Master, number: int) -> None:
    silent, other = sorted(machine.serving())[number], sorted(machine.serving())[1 - number]
    for _ in range(4):
        machine.world.now += 1
        machine.master.WORKERS[other].tmp.notify()
        machine.loop()
    machine.send_signals([signal.SIGTTOU])
    assert machine.master.WORKERS[silent].retired_at is not None
    assert machine.serving() == {other}


@pytest.mark.parametrize("state", [State.READY, State.DRAINING])
def test_workers_of_a_reload_boot_at_low_priority_if_others_serve(machine: Master, state: State) -> None:
    machine.master._nice = 0
    machine.request_reload()
    machine.finish_trial("good")
    for one in machine.master.workers():
        one.board.state = state
    machine.loop()
    machine.loop()
    assert {machine.master.WORKERS[pid].low_priority for pid in forked(machine)} == {state is State.READY}


def test_boots_at_once_are_limited(machine: Master) -> None:
    machine.master.cfg.set("handover_boot_at_once", 2)
    machine.master.num_workers = 5
    machine.loop()
    machine.loop()
    assert len(forked(machine)) == 2


# by the processors: how many of a reload's boots want one at the same time
@pytest.mark.parametrize(("processors", "busy"), [(1, 1), (2, 1), (3, 2), (4, 3), (64, 4)])
def test_boots_of_a_reload_leave_a_processor_to_workers_that_serve(
    machine: Master, monkeypatch: pytest.MonkeyPatch, processors: int, busy: int
) -> None:
    demand: defaultdict[int, float] = defaultdict(float)  # by pid
    monkeypatch.setattr(priority, "cpu_demand", demand.__getitem__)
    machine.master._processors = processors
    booting_reload(machine)
    machine.master.num_workers = 9
    machine.master.cfg.set("handover_boot_at_once", 4)
    machine.loop()
    assert len(forked(machine)) == busy
    for _ in range(8):
        for pid in forked(machine):
            demand[pid] += 0.6 * STEP
        pass_time(machine, STEP)
        assert len(forked(machine)) == busy
    # one waits for something else now
    waits = forked(machine)[0]
    for pid in forked(machine):
        demand[pid] += (0.4 if pid == waits else 0.6) * STEP
    pass_time(machine, STEP)
    assert len(forked(machine)) == min(busy + 1, 4)


def _nothing(_machine: Master, _worker: Any) -> None: ...


def _reload(machine: Master, _worker: Any) -> None:
    machine.request_reload()


def _missing(machine: Master, _worker: Any) -> None:
    machine.master.num_workers = 3


def _incomplete(machine: Master, _worker: Any) -> None:
    machine.master._complete = False


def _drains(_machine: Master, one: Any) -> None:
    one.board.state = State.DRAINING


def _warms_up(_machine: Master, one: Any) -> None:
    one.board.state = State.WARMING


def _worn(_machine: Master, one: Any) -> None:
    one.board.request_replacement()


def _session(_machine: Master, one: Any) -> None:
    one.pending_session_nice = 0


@pytest.mark.parametrize("what", [_nothing, _reload, _missing, _incomplete, _drains, _warms_up, _worn, _session])
def test_master_wakes_up_often_only_while_something_is_in_progress(
    machine: Master, monkeypatch: pytest.MonkeyPatch, what: Callable[[Master, Any], None]
) -> None:
    monkeypatch.setattr(gunicorn.arbiter.Arbiter, "wait_for_signals", lambda _, timeout: [timeout])
    what(machine, max(machine.master.workers(), key=lambda one: one.age))
    assert machine.master.wait_for_signals() == [1.0 if what is _nothing else arbiter.TICK]


def test_pending_signal_is_one_that_a_load_must_not_delay(machine: Master, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gunicorn.arbiter.Arbiter, "signal", lambda *_: None)
    monkeypatch.setattr(gunicorn.arbiter.Arbiter, "wait_for_signals", lambda *_, **__: [])
    for number, pending in ((signal.SIGHUP, False), (signal.SIGTERM, True), (signal.SIGHUP, True)):
        machine.master.signal(number, None)
        assert machine.master._signal_pending is pending
    machine.master.wait_for_signals()
    assert machine.master._signal_pending is False


@pytest.mark.parametrize("state", [State.WARMING, State.BOOTING, State.STANDBY, State.DRAINING])
def test_stop_kills_boots_after_their_grace(machine: Master, monkeypatch: pytest.MonkeyPatch, state: State) -> None:
    monkeypatch.setattr(gunicorn.arbiter.Arbiter, "stop", lambda *_: None)
    exit_timeout = machine.master.cfg.handover_exit_timeout
    machine.master.stop()
    assert machine.master.cfg.graceful_timeout == 10 + exit_timeout
    assert all(one.board.drain_reason is DrainReason.STOP for one in machine.master.WORKERS.values())
    for one in machine.master.WORKERS.values():
        one.board.state = state
    stopped = machine.world.now
    for after, left in (
        (0, 2),
        (arbiter.BOOT_GRACE, 2),
        (arbiter.BOOT_GRACE + STEP, 0 if state in (State.BOOTING, State.WARMING) else 2),
    ):
        machine.world.now = stopped + after
        machine.master.reap_workers()
        assert len(machine.master.WORKERS) == left


def test_stop_takes_fractions_of_the_timeouts_into_account(machine: Master, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gunicorn.arbiter.Arbiter, "stop", lambda *_: None)
    machine.master.cfg.set("handover_exit_timeout", 2.5)
    machine.master.stop()
    assert machine.master.cfg.graceful_timeout == 13


def test_worker_that_does_not_drain_is_killed_after_both_timeouts(machine: Master) -> None:
    """It gets its normal priority back when half of handover_exit_timeout is left."""
    machine.master.cfg.set("handover_exit_timeout", 9)
    limit = 10 + 9
    for hanging in (False, True):  # a worker that hangs and doesn't drain at all, and one that hangs while it drains
        pid = min(machine.serving())
        one = machine.master.WORKERS[pid]
        machine.world.processes[pid].hung_at = machine.world.now
        if hanging:
            one.board.state = State.DRAINING
            machine.loop()
        else:
            machine.master.retire(one)
        one.low_priority = True
        began = machine.world.now
        for after, low, gone in ((limit - 4.5, True, False), (limit - 4.5 + STEP, False, False), (limit, False, False)):
            pass_time(machine, began + after - machine.world.now)
            assert (one.low_priority, pid not in machine.master.WORKERS) == (low, gone)
        pass_time(machine, began + limit + STEP - machine.world.now)
        machine.loop()
        assert pid not in machine.master.WORKERS
        machine.settle()


def test_booting_worker_is_killed_after_its_timeout(machine: Master) -> None:
    """Its normal priority is restored after a quarter of it."""
    machine.master._nice = 0
    machine.master.cfg.set("handover_boot_nice", 19)
    machine.master.WORKERS[min(machine.serving())].board.request_replacement()
    machine.loop()
    (pid,) = forked(machine)
    one, began = machine.master.WORKERS[pid], machine.world.now
    assert one.low_priority
    for after, low in ((7.5, True), (7.5 + STEP, False), (30, False)):
        pass_time(machine, began + after - machine.world.now)
        assert (one.low_priority, one.killed) == (low, False)
    pass_time(machine, began + 30 + STEP - machine.world.now)
    assert one.killed
    assert one.board.failure == "not ready after 30 s (handover_boot_timeout)"


@pytest.mark.parametrize("required", [True, False])
def test_warmup_that_blocks_the_worker_is_ended(machine: Master, required: bool) -> None:
    cfg = machine.master.cfg
    for name, value in (("paths", ["/"]), ("timeout", 5), ("required", required)):
        cfg.set(f"handover_warmup_{name}", value)
    crash(machine)
    machine.loop()
    (pid,) = forked(machine)
    pass_time(machine, 20)
    machine.master.WORKERS[pid].board.state = State.WARMING
    machine.loop()  # the warm-up's own limit begins with it
    one, began = machine.master.WORKERS[pid], machine.world.now
    for after, killed in ((5 + arbiter.WARMUP_GRACE, False), (5 + arbiter.WARMUP_GRACE + STEP, True)):
        pass_time(machine, began + after - machine.world.now)
        assert one.killed is killed
    assert cfg.handover_warmup_paths == (["/"] if required else [])
    # a required warm-up is a part of the boot, so that its failure delays the next attempt
    assert seconds_until(machine, lambda: forked(machine)) == (0.5 if required else 0)


def test_time_that_a_busy_machine_takes_is_not_the_boots(machine: Master, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start, where nothing else limits it."""
    monkeypatch.setattr(priority, "cpu_wait", lambda _: 25.0)
    crash(machine)
    machine.loop()
    (pid,) = forked(machine)
    one = machine.master.WORKERS[pid]
    machine.master._complete = False
    pass_time(machine, 50)
    assert not one.killed
    machine.master._complete = True
    machine.loop()
    assert one.killed


@pytest.mark.parametrize("permitted", [True, False])
def test_priority_that_cannot_be_restored_is_a_warning(
    machine: Master, monkeypatch: pytest.MonkeyPatch, permitted: bool
) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(machine.master.log, "warning", lambda text, *_: warnings.append(text))
    monkeypatch.setattr(priority, "renice", lambda *_: permitted)
    one = machine.master.workers()[0]
    one.low_priority = True
    one.board.state = State.STANDBY
    machine.loop()
    assert not one.low_priority
    assert any("can't be set back to" in text for text in warnings) is not permitted


@pytest.mark.parametrize("held", [True, False])
def test_workers_know_whether_a_service_manager_holds_their_sockets(machine: Master, held: bool) -> None:
    machine.master.systemd = held
    crash(machine)
    machine.loop()
    (pid,) = forked(machine)
    assert machine.master.WORKERS[pid].board.private_sockets is not held


def test_status_of_a_master_without_free_descriptors_does_not_say_that_it_has_ended(machine: Master) -> None:
    documents: list[dict[str, Any]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine.master._status_file, "write", documents.append)
        patch.setattr(status, "start_ticks", lambda _: None)  # /proc can't be read
        crash(machine)
        machine.loop()
    assert status.is_alive(documents[-1])


def test_exit_of_a_child_is_seen_without_reaping_it() -> None:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(7)
    assert not arbiter._has_exited(pid)
    os.close(writer)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert arbiter._has_exited(pid)
    assert arbiter._has_exited(pid)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert not arbiter._has_exited(pid)
    os.close(reader)


def interrupted_reload(machine: Master) -> Reload:
    """Begins a reload whose configuration takes so long to load that a signal has interrupted it."""
    machine.request_reload()
    machine.world.broken = {"a quick load"}
    machine.finish_trial("good")
    machine.loop()
    machine.world.broken = set()
    assert machine.master._reload is not None
    return machine.master._reload


def test_dead_worker_is_replaced_before_an_interrupted_load_is_repeated(machine: Master) -> None:
    reload = interrupted_reload(machine)
    crash(machine)
    machine.loop()
    (pid,) = forked(machine)
    assert machine.master.WORKERS[pid].generation == 1
    fail_boots(machine)  # which isn't the new configuration's fault
    assert seconds_until(machine, lambda: forked(machine)) > 0
    assert reload.error is None
    assert reload.progress() == "loading the configuration"
    become_ready(machine)
    machine.settle()
    assert reload.error is None
    assert machine.master.generation == 2


def test_interrupted_reload_fails_if_dead_workers_cannot_be_replaced(machine: Master) -> None:
    reload = interrupted_reload(machine)
    machine.world.broken = {"fork"}
    crash(machine)
    took = seconds_until(machine, lambda: reload.error)
    assert took == 30 + STEP, "handover_boot_timeout"
    assert reload.error == "workers died while the configuration was loaded, and no new ones could be started"
    machine.settle()
    assert machine.master.generation == 1


def test_load_that_is_interrupted_again_and_again_fails(machine: Master) -> None:
    reload = interrupted_reload(machine)
    machine.world.broken = {"a quick load"}
    assert seconds_until(machine, lambda: reload.error) == 30 + STEP
    assert reload.error == "the configuration took longer to load than handover_boot_timeout"


def test_trial_that_hangs_fails_reload(machine: Master) -> None:
    machine.request_reload()
    reload = machine.master._reload
    assert reload is not None
    assert reload.trial is not None
    process = machine.world.processes[reload.trial.pid]
    assert seconds_until(machine, lambda: reload.error) == 30 + STEP
    assert reload.error == "the configuration took longer to load than handover_boot_timeout"
    assert process.status == signal.SIGKILL


@pytest.mark.parametrize("part", ["pipe", "fork", "stdout"])
def test_reload_that_cannot_fork_leaves_no_descriptor(
    machine: Master, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    before = os.listdir("/proc/self/fd")
    machine.world.broken = {part}
    with monkeypatch.context() as patch:
        if part == "stdout":
            patch.setattr(sys, "stdout", types.SimpleNamespace(flush=lambda: int("closed")))
        machine.request_reload()
        machine.loop()
    assert machine.master._last_reload is not None
    assert "it could not start: " in machine.master._last_reload["error"]
    assert os.listdir("/proc/self/fd") == before


def test_reload_admits_its_workers_together(machine: Master) -> None:
    """No worker of an incomplete generation serves, unless nothing else does."""
    machine.request_reload()
    machine.finish_trial("good")
    machine.loop()
    machine.loop()
    first, second = (machine.master.WORKERS[pid].board for pid in forked(machine))
    assert machine.master._reload is not None
    assert machine.master._reload.progress() == "booting workers, 0 of 2 up"
    first.state = State.STANDBY
    machine.loop()
    assert machine.master._reload.progress() == "booting workers, 1 of 2 up"
    assert not first.admitted
    second.state = State.STANDBY
    machine.loop()
    assert first.admitted
    assert second.admitted
    first.state = State.READY
    machine.loop()
    assert machine.master.generation == 1
    second.state = State.READY
    machine.loop()
    assert machine.master.generation == 2
    old = [one for one in machine.master.workers() if one.generation == 1]
    assert [one.board.drain_reason for one in old] == [DrainReason.REPLACED] * 2
    old[0].board.state = State.DRAINING
    machine.loop()
    assert machine.master._reload is not None
    assert machine.master._reload.progress() == "retiring the old workers"
    old[1].board.state = State.DRAINING
    machine.loop()
    assert machine.master._reload is None


def booting_reload(machine: Master) -> list[Any]:
    """Begins a reload, and returns its two new workers, which boot."""
    machine.request_reload()
    machine.finish_trial("good")
    machine.loop()
    machine.loop()
    return [machine.master.WORKERS[pid] for pid in forked(machine)]


def test_new_worker_that_drains_already_does_not_complete_its_generation(machine: Master) -> None:
    first, second = booting_reload(machine)
    first.board.state = State.DRAINING
    second.board.state = State.READY
    machine.loop()
    assert machine.master.generation == 1


def test_new_worker_is_admitted_alone_if_no_old_one_serves(machine: Master) -> None:
    first, _ = booting_reload(machine)
    for one in machine.master.workers():
        if one.generation == 1:
            one.board.state = State.BOOTING  # the replacement of a worker that has died
    first.board.state = State.STANDBY
    machine.loop()
    assert first.board.admitted
    first.board.state = State.READY
    machine.loop()
    assert len([one for one in machine.master.workers() if one.generation == 2]) == 2, "no more than wanted"


def test_worker_whose_priority_takes_longer_to_restore_is_admitted_later(
    machine: Master, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = booting_reload(machine)
    for one in (first, second):
        one.pending_session_nice = 0
        one.board.state = State.STANDBY
    with monkeypatch.context() as patch:
        patch.setattr(priority, "renice_session", lambda pid, _: pid == first.pid)
        machine.loop()
    assert first.board.admitted
    assert not second.board.admitted
    first.board.state = State.READY
    machine.loop()
    assert second.board.admitted


def test_priority_that_is_never_restored_does_not_delay_the_reload_without_end(
    machine: Master, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel accepts ten changes a second, of all users together."""
    new = booting_reload(machine)
    for one in new:
        one.pending_session_nice = 0
        one.board.state = State.STANDBY
    with monkeypatch.context() as patch:
        patch.setattr(priority, "renice_session", lambda *_: False)
        machine.loop()
        pass_time(machine, arbiter.RENICE_WAIT - STEP)
        assert not any(one.board.admitted for one in new)
        pass_time(machine, STEP)
        assert all(one.board.admitted for one in new)
        assert all(one.pending_session_nice is not None for one in new)
    machine.loop()
    assert all(one.pending_session_nice is None for one in new), "it is restored later"


@pytest.mark.parametrize("dies", [False, True])
def test_new_worker_serves_instead_of_an_old_one_that_dies(machine: Master, dies: bool) -> None:
    first, second = booting_reload(machine)
    if dies:
        machine.world.end(min(machine.serving()), signal.SIGKILL)
    first.board.state = State.STANDBY
    machine.loop()
    assert first.board.admitted is dies
    if dies:
        first.board.state = State.READY
    second.board.state = State.STANDBY
    machine.loop()
    assert second.board.admitted, "the generation is complete"


def test_new_worker_is_not_admitted_early_beyond_those_that_have_died(machine: Master) -> None:
    machine.master.app.wanted = 3
    new = booting_reload(machine)
    machine.world.end(min(machine.serving()), signal.SIGKILL)
    new[0].board.state = new[1].board.state = State.STANDBY
    machine.loop()
    assert [one.board.admitted for one in new[:2]] == [True, False]


def test_killed_worker_that_does_not_exit_does_not_delay_the_end_of_a_reload(
    machine: Master, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its exit may wait for a file system that hangs."""
    new = booting_reload(machine)
    reload = machine.master._reload
    assert reload is not None
    monkeypatch.setattr(machine.master, "kill_worker", lambda *_: None)
    reload.fail("for a reason")
    pass_time(machine, KILL_WAIT - STEP)
    assert not reload.done
    pass_time(machine, STEP)
    assert reload.done
    for one in new:
        machine.world.end(one.pid, signal.SIGKILL)
    machine.settle()


def test_state_that_no_worker_has_is_no_error_of_the_master(machine: Master) -> None:
    pid = min(machine.serving())
    for field in range(5):  # all that are a byte
        machine.master.WORKERS[pid].board._page[field] = 200
    machine.loop()
    assert machine.master.WORKERS[pid].board.state is State.DRAINING
    assert machine.master.WORKERS[pid].board.drain_reason is DrainReason.REPLACED
    machine.world.end(pid, signal.SIGSEGV)
    machine.settle()


def test_heartbeats_need_no_file_system(machine: Master) -> None:
    one = machine.master.WORKERS[min(machine.serving())]
    one.tmp._tmp.close()
    machine.world.now += 7
    one.notify()
    assert one.tmp.last_update() == machine.world.now
    machine.master.murder_workers()
    machine.settle()


def test_failed_reload_kills_its_workers_unless_they_serve(machine: Master) -> None:
    first, second = booting_reload(machine)
    first.board.state = State.READY
    reload = machine.master._reload
    assert reload is not None
    reload.fail("for a reason")
    reload.fail("for another")
    assert reload.error == "for a reason"
    assert (first.killed, second.killed) == (False, True)
    assert first.board.to_be_replaced
    machine.settle()
    assert {first.pid, second.pid}.isdisjoint(machine.master.WORKERS)


def test_reload_boots_at_most_so_many_workers_at_once(machine: Master) -> None:
    machine.master.app.wanted = 4
    machine.master.cfg.set("handover_boot_at_once", 3)
    machine.request_reload()
    machine.finish_trial("good")
    machine.loop()
    machine.master.cfg.set("handover_boot_at_once", 3)
    machine.loop()
    machine.loop()
    booting = forked(machine)
    assert len(booting) == 3
    machine.master.WORKERS[booting[0]].board.state = State.STANDBY
    machine.loop()
    machine.loop()
    assert len(forked(machine)) == 3
    machine.master.WORKERS[booting[1]].board.state = State.STANDBY
    machine.loop()
    machine.loop()
    assert len(forked(machine)) == 2, "two are up, and four wanted"


def test_dead_worker_is_replaced_during_a_trial(machine: Master) -> None:
    machine.request_reload()
    assert machine.master._reload is not None
    for pid in list(machine.serving()):
        machine.world.end(pid, signal.SIGSEGV)
    machine.loop()
    become_ready(machine)
    assert machine.master._reload.trial is not None
    assert {one.generation for one in machine.master.workers()} == {1}
    machine.settle()
    assert machine.master.generation == 2


def test_worker_forked_during_a_trial_inherits_nothing_of_it(machine: Master) -> None:
    before = set(os.listdir("/proc/self/fd"))
    machine.request_reload()
    assert machine.master._reload is not None
    assert machine.master._reload.trial is not None
    output = machine.world.processes[machine.master._reload.trial.pid].output
    machine.master._close_in_fork()
    assert set(os.listdir("/proc/self/fd")) - before == {str(output)}


def test_replacement_of_a_dead_old_worker_serves_during_a_reload(machine: Master) -> None:
    """Also while no new worker can, however long these boot."""
    crash(machine)
    machine.loop()
    (pid,) = forked(machine)
    first, second = booting_reload(machine)[1:]
    replacement = machine.master.WORKERS[pid].board
    for board in (replacement, first.board):
        board.state = State.STANDBY
    machine.loop()
    assert replacement.admitted
    assert not first.board.admitted, "an old worker serves"
    assert second.board.state is State.BOOTING


def test_dead_new_worker_is_replaced_while_an_old_one_does_not_drain(machine: Master) -> None:
    old = list(machine.master.WORKERS)
    new = booting_reload(machine)
    for one in new:
        one.board.state = State.READY
    for pid in old:
        machine.world.processes[pid].hung_at = machine.world.now
    machine.loop()
    reload = machine.master._reload
    assert reload is not None
    pass_time(machine, arbiter.STABLE_AFTER)
    for one in new:
        machine.world.end(one.pid, signal.SIGSEGV)
    machine.loop()
    assert len(forked(machine)) == 2
    assert {machine.master.WORKERS[pid].generation for pid in forked(machine)} == {2}
    fail_boots(machine)  # which isn't the reload's failure any more
    assert seconds_until(machine, lambda: forked(machine)) > 0
    reload.fail("an error of the master")
    machine.settle()
    assert reload.error is None
    assert machine.master.generation == 2


@pytest.mark.parametrize("state", [State.BOOTING, State.WARMING, State.STANDBY])
def test_exit_of_an_old_worker_that_has_not_served_is_no_failed_boot(machine: Master, state: State) -> None:
    machine.master.cfg.set("handover_warmup_paths", ["/"])
    crash(machine)
    machine.loop()
    (pid,) = forked(machine)
    new = booting_reload(machine)[1:]
    old = machine.master.WORKERS[pid]
    old.board.state = state
    machine.world.processes[pid].hung_at = machine.world.now
    for one in new:
        one.board.state = State.READY
    machine.loop()
    assert old.retired_at is not None
    pass_time(machine, arbiter.BOOT_GRACE)
    assert pid in machine.master.WORKERS
    pass_time(machine, 12)  # it isn't killed as a boot that takes too long, or is blocked
    assert old.killed is (state is not State.STANDBY), "a startup may wait for something that doesn't come"
    if not old.killed:
        machine.world.end(pid, signal.SIGTERM)
        machine.loop()
    assert machine.master._failures == 0
    assert old.cfg.handover_warmup_paths == ["/"]


@pytest.mark.parametrize(("timeout", "limit"), [(0, 30), (5, 5), (60, 30)])
@pytest.mark.parametrize("reloads", [True, False])
def test_worker_that_blocks_after_its_startup_is_a_failed_boot(
    machine: Master, timeout: int, limit: float, reloads: bool
) -> None:
    """The limit is `timeout` or handover_boot_timeout, whichever is shorter."""
    if reloads:
        booting_reload(machine)
    else:
        crash(machine)
        machine.loop()
    reload = machine.master._reload
    (pid, *others) = forked(machine)
    one = machine.master.WORKERS[pid]
    one.cfg.set("timeout", timeout)
    for other in (pid, *others):
        machine.master.WORKERS[other].board.state = State.STANDBY
    machine.loop()
    for other in others:
        machine.master.WORKERS[other].board.state = State.READY
    began = machine.world.now
    for after, killed in ((limit - STEP, False), (limit, False), (limit + STEP, True)):
        pass_time(machine, began + after - machine.world.now)
        assert one.killed is killed
    reason = f"the application has blocked the event loop for {limit + STEP:.0f} s after its startup"
    assert one.board.failure == reason
    if reload is not None:
        assert reload.error == f"worker (pid:{pid}) failed to boot: {reason}"
    else:
        assert machine.master._failures == 1
    machine.settle()


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), MemoryError()])
def test_worker_that_cannot_be_buried_is_replaced(
    machine: Master, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(_: int) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(forks, "kill", fail)
        crash(machine)
        machine.loop()
    become_ready(machine)


def test_boot_that_fails_counts_even_if_it_cannot_be_buried(machine: Master) -> None:
    booting_reload(machine)
    reload = machine.master._reload
    assert reload is not None
    machine.world.broken = {"burial"}
    fail_boots(machine)
    machine.loop()
    assert "ImportError: gone" in str(reload.error)


def test_thread_list_that_cannot_be_read_does_not_end_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a free descriptor, only the main thread's niceness is set."""
    seen: list[int] = []

    def fail(_: str) -> list[str]:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "listdir", fail)
    monkeypatch.setattr(os, "setpriority", lambda _, thread, __: seen.append(thread))
    assert priority.renice(os.getpid(), 0)
    assert seen == [os.getpid()]


@pytest.mark.parametrize("hook", ["pre_fork", "child_exit"])
def test_hook_that_exits_does_not_end_the_master(machine: Master, hook: str) -> None:
    machine.world.broken = {hook, "exit"}
    crash(machine)
    machine.loop()
    assert machine.master._failures == (hook == "pre_fork")
    machine.settle()


@pytest.mark.parametrize("error", [ValueError("broken"), SystemExit(1)])
def test_hook_for_a_worker_that_is_gone_does_not_end_the_master(machine: Master, error: BaseException) -> None:
    pid = min(machine.serving())
    machine.world.broken = {"worker_exit", *(["exit"] if isinstance(error, SystemExit) else [])}
    del machine.world.processes[pid]
    machine.master.kill_worker(pid, signal.SIGTERM)
    assert pid not in machine.master.WORKERS


def test_worker_that_exits_ends_its_own_process(machine: Master, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker runs within the master's code, in a forked process: its exit isn't an error of the master."""

    def fork() -> int:
        machine.master.pid -= 1  # this process is another one now
        raise SystemExit(0)

    monkeypatch.setattr(os, "fork", fork)
    crash(machine)
    with pytest.raises(SystemExit):
        machine.loop()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), HaltServer("a hook's"), asyncio.CancelledError()])
def test_whatever_a_worker_raises_ends_only_itself(
    machine: Master, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """Gunicorn's loop, which the worker is in as well, stops the service for some exceptions: it would tell its
    siblings to exit, and remove the socket."""

    def fork() -> int:
        machine.master.pid -= 1
        raise error

    monkeypatch.setattr(os, "fork", fork)
    crash(machine)
    with pytest.raises(SystemExit) as raised:
        machine.loop()
    assert raised.value.code == 1
    assert all(not one.board.drain_reason for one in machine.master.WORKERS.values())


def test_unexpected_exit_in_the_master_is_an_error(machine: Master, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(machine.master, "_publish", lambda: sys.exit(1))
        machine.loop()
    machine.settle()


@pytest.mark.parametrize("exits", [False, True])
def test_undo_is_complete_if_a_hook_breaks(machine: Master, exits: bool) -> None:
    machine.send_signals([signal.SIGTTIN])
    become_ready(machine)
    machine.master.app.timeout = 60
    machine.request_reload()
    machine.world.broken = {"nworkers_changed", "on_reload", *(["exit"] if exits else [])}
    machine.finish_trial("good")
    machine.loop()
    machine.loop()
    assert machine.master._reload is None
    assert machine.master._last_reload is not None
    assert machine.master._last_reload["outcome"] == "failed"
    assert (machine.master.timeout, machine.master.num_workers) == (30, 3)


def test_worker_that_cannot_be_created_leaves_umask(machine: Master) -> None:
    before = os.umask(0o027)
    try:
        machine.master.cfg.set("worker_tmp_dir", "/nonexistent")
        crash(machine)
        machine.loop()
        assert machine.master._failures == 1
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


def test_no_worker_is_killed_after_a_suspension(machine: Master) -> None:
    machine.world.now += 3600  # without a heartbeat
    machine.loop()
    assert len(machine.serving()) == 2


def test_worker_that_hangs_is_killed_also_if_the_service_was_suspended_before(machine: Master) -> None:
    pid = min(machine.serving())
    machine.world.processes[pid].hung_at = machine.world.now
    machine.world.now += 3600
    machine.loop()
    began = machine.world.now
    while pid in machine.master.WORKERS:
        machine.world.now += 1
        machine.move()
        machine.loop()
    assert machine.world.now - began == 32  # `timeout`, and a loop for its exit


@pytest.mark.parametrize("drift", [0, 3600, -3600])
def test_stop_ends_with_the_last_request_whatever_the_wall_clock_says(machine: Master, drift: float) -> None:
    machine.master.cfg.set("graceful_timeout", 10)
    machine.stop(signal.SIGTERM, drift)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_stop_without_the_socket_s_file_is_graceful(machine: Master, number: signal.Signals) -> None:
    closed: list[bool] = []
    listener = types.SimpleNamespace(getsockname=lambda: "/nonexistent/sock", close=lambda: closed.append(True))
    machine.master.LISTENERS = [listener, listener]
    machine.stop(number)
    assert closed == [True, True]


def test_log_files_that_cannot_be_reopened_do_not_end_the_master(
    machine: Master, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(machine.master.log, "reopen_files", fail)
    machine.loop(signal.SIGUSR1)
    assert len(machine.serving()) == 2


def test_reload_reopens_log_files(machine: Master, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[bool] = []
    monkeypatch.setattr(machine.master.log, "reopen_files", lambda: opened.append(True))
    machine.request_reload()
    machine.finish_trial("good")
    machine.loop()
    assert opened == [True]


def test_signals_to_stop_are_blocked_during_the_fork(machine: Master, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked: list[set[Any]] = []
    fork = os.fork

    def record() -> int:
        blocked.append(signal.pthread_sigmask(signal.SIG_BLOCK, []))
        return fork()

    monkeypatch.setattr(os, "fork", record)
    crash(machine)
    machine.loop()
    (during,) = blocked
    assert during >= set(worker.BLOCKED_IN_FORK)
    # the master passes it on to all workers
    assert signal.SIGUSR1 in during
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & set(worker.BLOCKED_IN_FORK)


def test_starving_boot_gets_its_normal_priority_back(machine: Master, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = booting_reload(machine)
    first.low_priority = True
    for waited, low in ((3.0, True), (3.0 + STEP, False)):
        monkeypatch.setattr(priority, "cpu_wait", lambda _, waited=waited: waited)
        machine.loop()
        assert first.low_priority is low


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("check_config", True, "check_config: a start would exit"),
        ("print_config", True, "print_config: a start would exit"),
        ("errorlog", "/nonexistent/error.log", "errorlog: "),
        ("accesslog", "/nonexistent/access.log", "accesslog: "),
        ("logconfig", "/nonexistent.ini", "logconfig: "),
        ("logconfig_dict", {"version": 7}, "logconfig_dict: "),
        ("worker_tmp_dir", "/nonexistent", "worker_tmp_dir: "),
        ("pidfile", "/nonexistent/pid", "pidfile: /nonexistent/pid can't be written"),
        ("pidfile", "/tmp", "pidfile: /tmp can't be written"),
        ("pidfile", "of another", r"pidfile: .* is that of another process \(pid:\d+\)"),
        ("pidfile", "own", ""),
        ("timeout", 7, ""),
    ],
)
def test_trial_refuses_what_a_start_would_refuse(
    machine: Master, tmp_path: Path, setting: str, value: Any, words: str
) -> None:
    if value in ("of another", "own"):
        path, pid = tmp_path / "pid", min(machine.serving())
        path.write_text(str(pid))
        if value == "own":
            machine.master.pid = pid
        value = str(path)
    machine.master.cfg.set("errorlog", os.devnull)
    machine.master.cfg.set(setting, value)
    with logs_restored(), pytest.raises(RuntimeError, match=words) if words else contextlib.nullcontext():
        machine.master.try_configuration()


@contextlib.contextmanager
def logs_restored() -> Iterator[None]:
    """Restores the server's loggers, which a trial sets up in a process of its own."""
    logs = [logging.getLogger(f"gunicorn.{kind}") for kind in ("error", "access")]
    before = [list(log.handlers) for log in logs]
    try:
        yield
    finally:
        for log, handlers in zip(logs, before, strict=True):
            log.handlers = handlers


def test_killed_worker_is_not_counted_among_those_that_accept(machine: Master) -> None:
    """The others' mean would include its last number of connections."""
    (pid, killed), (_, left) = sorted(machine.master.WORKERS.items())
    counts = [accept.Connections(one.age) for one in (killed, left)]
    for one in counts:
        one.count(True)
    for connection in range(100):
        counts[1].add(connection)
    assert counts[1].are_ahead()
    machine.world.end(pid, signal.SIGKILL)
    machine.loop()
    assert not counts[1].are_ahead()
    accept.forget(left.age)
