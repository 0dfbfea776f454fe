"""The master under random series of signals, crashes, failures and clock changes: it never stops the last serving
worker by its own actions, and it gets all its workers back as soon as nothing fails any more.

The master is real. Only the kernel's processes, signals and clocks are simulated.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

import gunicorn.arbiter
import gunicorn.workers.workertmp
import pytest
from gunicorn.app.base import BaseApplication
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import gunicorn_handover.settings
from gunicorn_handover import arbiter, forks, reload, status, worker
from gunicorn_handover.board import State
from gunicorn_handover.fingerprint import Fingerprint
from gunicorn_handover.notify import Notifier

assert gunicorn_handover.settings
FIRST_PID = 2**23  # above the largest that Linux gives: no file of /proc is one of these processes'
MOST = 5  # workers
FINGERPRINT = Fingerprint()


class Process:
    """A child of the master."""

    def __init__(self, output: int | None) -> None:
        self.output = output  # a trial's
        self.status: int | None = None  # its wait status, once it has exited
        self.told = False  # to drain, or to exit immediately
        self.hung_at: float | None = None  # monotonic seconds


class World:
    """The simulated kernel: processes and clocks."""

    def __init__(self) -> None:
        self.processes: dict[int, Process] = {}
        self.now, self.wall = 1000.0, 1_800_000_000.0
        self.wall_drift = 0.0  # seconds by which the wall clock is set whenever the master sleeps
        self.progress: Callable[[], None] = lambda: None  # of the processes, while the master sleeps
        self.broken: set[str] = set()
        self._next = FIRST_PID
        self._pipe: int | None = None
        self._real_pipe = os.pipe

    def check(self, part: str) -> None:
        if part in self.broken:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def pipe(self) -> tuple[int, int]:
        self.check("pipe")
        reader, writer = self._real_pipe()
        self._pipe = writer
        return reader, writer

    def fork(self) -> int:
        self.check("fork")
        # a fork right after a pipe is a trial's
        output, self._pipe = self._pipe, None
        self._next += 1
        self.processes[self._next] = Process(None if output is None else os.dup(output))
        return self._next

    def kill(self, pid: int, number: int) -> None:
        if pid not in self.processes:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        process = self.processes[pid]
        process.told |= number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGABRT, signal.SIGKILL)
        if number in (signal.SIGKILL, signal.SIGABRT):
            self.end(pid, number)

    def end(self, pid: int, status: int) -> None:
        process = self.processes[pid]
        if process.status is None:
            process.status = status
            if process.output is not None:
                os.close(process.output)

    def waitpid(self, _pid: int, _options: int) -> tuple[int, int]:
        if not self.processes:
            raise ChildProcessError
        for pid, process in self.processes.items():
            if process.status is not None:
                del self.processes[pid]
                return pid, process.status
        return 0, 0

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.wall += seconds + self.wall_drift
        self.progress()

    def bury(self, _pid: int) -> None:
        self.check("burial")

    def clock(self, *, steady: bool = False) -> types.SimpleNamespace:
        return types.SimpleNamespace(
            monotonic=lambda: self.now,
            time=lambda: self.now if steady else self.wall,
            sleep=self.sleep,
            gmtime=time.gmtime,
            strftime=time.strftime,
        )


class Application(BaseApplication):  # type: ignore[misc]  # Gunicorn carries no types
    """An application whose configuration changes between reloads."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.wanted = 2
        self.timeout = 30
        super().__init__()

    def load_config(self) -> None:
        values: dict[str, Any] = {
            "worker_class": worker.HandoverWorker,
            "workers": self.wanted,
            "errorlog": os.devnull,
            "handover_boot_timeout": 30,
            "graceful_timeout": 10,
            "timeout": self.timeout,
            "control_socket_disable": True,
            "bind": ["unix:/nowhere"],
        }
        for name, value in values.items():
            self.cfg.set(name, value)
        for hook, arity in HOOKS.items():
            self.cfg.set(hook, self.hook(hook, arity))
        if "configuration" in self.world.broken:
            raise ValueError("a bad configuration")
        if "a quick load" in self.world.broken:
            raise reload.LoadInterrupted

    def hook(self, name: str, arity: int) -> Any:
        def called(*arguments: Any) -> None:
            if name in self.world.broken and (name != "nworkers_changed" or arguments[2]):
                raise SystemExit(1) if "exit" in self.world.broken else ValueError(f"the hook {name} broke")

        return {
            1: lambda a: called(a),
            2: lambda a, b: called(a, b),
            3: lambda a, b, c: called(a, b, c),
        }[arity]


HOOKS = {"pre_fork": 2, "child_exit": 2, "worker_exit": 2, "on_reload": 1, "nworkers_changed": 3}  # with their arity
# exit: what a hook that is broken raises is SystemExit
PARTS = ("pipe", "fork", "configuration", "burial", "exit", *HOOKS)


@contextlib.contextmanager
def replaced(world: World) -> Iterator[None]:
    """Replaces the kernel's functions by the simulated ones."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("pipe", "fork", "kill", "waitpid"):
            patch.setattr(os, name, getattr(world, name))
        # the package's files don't change: read them once
        patch.setattr(arbiter, "Fingerprint", lambda: FINGERPRINT)
        patch.setattr(arbiter, "_STEADY", world.clock(steady=True))
        patch.setattr(forks, "kill", world.bury)
        patch.setattr(status, "versions", dict)
        for module in (arbiter, reload, worker, gunicorn.arbiter, gunicorn.workers.workertmp):
            patch.setattr(module, "time", world.clock())
        yield


class Master(RuleBasedStateMachine):
    """The life of one master."""

    @initialize()
    def start(self) -> None:
        self.world = World()
        self.world.progress = self.move
        self.stack = contextlib.ExitStack()
        self.stack.enter_context(replaced(self.world))
        self.master = arbiter.HandoverArbiter(Application(self.world), Notifier(None))
        self.master._processors = 4
        self.master.pid = os.getpid()
        self.settle()
        assert len(self.serving()) == 2

    def teardown(self) -> None:
        if hasattr(self, "stack"):
            for one in self.master.WORKERS.values():
                one.tmp.close()
            self.master.WORKERS.clear()
            if self.master._reload is not None:
                if self.master._reload.trial is not None:
                    self.master._reload.trial.close()
                self.master._reload.previous.close()
                self.master._reload = None  # what the master closes in processes that are forked later is closed
            for pid in self.world.processes:
                self.world.end(pid, 0)
            self.stack.close()

    def serving(self) -> set[int]:
        """The workers that accept connections and haven't been told to exit."""
        return {
            pid
            for pid, one in self.master.WORKERS.items()
            if one.board.state is State.READY
            and not one.board.drain_reason
            and (process := self.world.processes.get(pid))
            and process.status is None
            and not process.told
            and process.hung_at is None
        }

    def has_hung_lately(self) -> bool:
        """Whether a worker hangs that the master can't tell from the others yet."""
        return any(
            process.hung_at is not None and self.world.now - process.hung_at <= arbiter.SILENT
            for process in self.world.processes.values()
        )

    def unretired(self, *states: State) -> set[int]:
        """The workers in these states, as far as the master knows, that it hasn't told to exit."""
        return {
            pid
            for pid, one in self.master.WORKERS.items()
            if one.board.state in states and one.retired_at is None and not one.killed
        }

    def loop(self, *signals: int) -> None:
        """Runs Gunicorn's loop once."""
        before, under_way = self.serving(), self.master._reload
        standby = self.unretired(State.STANDBY)
        if under_way is None or under_way.trial is not None:
            self.kept = self.master.app.cfg
        for number in (*signals, signal.SIGCHLD):
            getattr(self.master, f"handle_{self.master.SIG_NAMES[number]}")()
        self.master.murder_workers()
        self.master.manage_workers()
        assert self.serving() or not before or self.has_hung_lately(), "the master has stopped the last serving worker"
        if not self.unretired(State.READY):
            for pid in standby & self.unretired(State.STANDBY):
                assert self.master.WORKERS[pid].board.admitted, "no worker serves, and one in standby isn't admitted"
            if (
                under_way is self.master._reload
                and (under_way is None or under_way.phase is not reload.Phase.UNDO)
                and self.world.now >= self.master._next_spawn
                and not self.world.broken & {"fork", "pre_fork"}
            ):
                assert self.unretired(State.BOOTING, State.WARMING, State.STANDBY), "no worker serves, and none boots"
        if under_way is not None and under_way.done and under_way.error:
            assert self.master.cfg is self.master.app.cfg is self.kept, "a failed reload has changed the configuration"

    def move(self, *, healthy: bool = True) -> None:
        """Lets each process make its next state change."""
        for pid, one in list(self.master.WORKERS.items()):
            process = self.world.processes[pid]
            if process.status is not None or process.hung_at is not None:
                continue
            one.tmp.notify()
            if one.board.state is State.DRAINING:
                self.world.end(pid, 0)
            elif process.told or one.board.drain_reason:
                one.board.state = State.DRAINING
            elif one.board.state is State.BOOTING and healthy:
                one.board.state = State.STANDBY
            elif one.board.state is State.STANDBY and one.board.admitted:
                one.board.state = State.READY

    def pick(self, number: int, *states: State) -> int | None:
        """The pid of a running worker in one of these states."""
        pids = [
            pid
            for pid, one in sorted(self.master.WORKERS.items())
            if self.world.processes[pid].status is None and one.board.state in states
        ]
        return pids[number % len(pids)] if pids else None

    @rule(seconds=st.sampled_from([0.0, 0.05, 1.0, 9.0, 31.0]), healthy=st.booleans())
    def pass_time(self, seconds: float, healthy: bool) -> None:
        self.world.now += seconds
        self.world.wall += seconds
        self.move(healthy=healthy)
        self.loop()

    @rule(
        signals=st.lists(
            st.sampled_from([signal.SIGTTOU, signal.SIGTTIN, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]),
            min_size=1,
            max_size=4,
        )
    )
    def send_signals(self, signals: list[signal.Signals]) -> None:
        room = MOST - self.master.num_workers
        self.loop(*(one for one in signals if one is not signal.SIGTTIN or room > 0))

    @precondition(lambda self: self.master._reload is None)
    @rule()
    def request_reload(self) -> None:
        self.loop(signal.SIGHUP)
        self.loop()

    @precondition(lambda self: self.master._reload is not None and self.master._reload.trial is None)
    @rule()
    def continue_reload(self) -> None:
        self.pass_time(0.05, healthy=True)

    @rule(number=st.integers(0, 9), status=st.sampled_from([0, 3 << 8, 1 << 8, signal.SIGKILL, signal.SIGSEGV]))
    def kill_worker(self, number: int, status: int) -> None:
        pid = self.pick(number, *State)
        if pid is not None:
            self.world.end(pid, status)
        self.loop()

    @precondition(lambda self: self.pick(0, State.BOOTING) is not None)
    @rule(number=st.integers(0, 9))
    def fail_boot(self, number: int) -> None:
        pid = self.pick(number, State.BOOTING)
        if pid is not None:
            self.master.WORKERS[pid].board.record_failure("ImportError: gone")
            self.world.end(pid, worker.BOOT_ERROR << 8)
        self.loop()

    @rule(
        number=st.sampled_from([signal.SIGTERM, signal.SIGINT, signal.SIGQUIT]),
        drift=st.sampled_from([0.0, -3600.0, 3600.0]),
    )
    def stop_and_start(self, number: signal.Signals, drift: float) -> None:
        self.stop(number, drift)
        self.teardown()
        self.start()

    def stop(self, number: signal.Signals, drift: float = 0.0) -> None:
        """Stops the master: all its processes exit, and those that serve and don't hang exit by themselves."""
        serving = [self.world.processes[pid] for pid in self.serving()]
        self.world.wall_drift = drift
        with contextlib.suppress(StopIteration):
            getattr(self.master, f"handle_{self.master.SIG_NAMES[number]}")()
        with pytest.raises(SystemExit) as exited:
            self.master.halt()
        assert exited.value.code == 0
        assert not self.master.WORKERS
        assert not self.world.processes
        assert [process.status for process in serving] == [0] * len(serving)

    @rule(number=st.integers(0, 9))
    def hang_worker(self, number: int) -> None:
        pid = self.pick(number, *State)
        if pid is not None:
            self.world.processes[pid].hung_at = self.world.now
        self.loop()

    @rule(number=st.integers(0, 9))
    def reach_max_requests(self, number: int) -> None:
        pid = self.pick(number, State.READY)
        if pid is not None:
            self.master.WORKERS[pid].board.request_replacement()
        self.loop()

    @precondition(lambda self: self.master._reload is not None and self.master._reload.trial is not None)
    @rule(how=st.sampled_from(["good", "good", "good", "bad", "silent", "killed"]))
    def finish_trial(self, how: str) -> None:
        self.end_trial(how)
        self.loop()

    def end_trial(self, how: str) -> None:
        trial = self.master._reload and self.master._reload.trial
        if not trial or self.world.processes[trial.pid].status is not None:
            return
        output = self.world.processes[trial.pid].output
        assert output is not None
        if how == "good":
            os.write(output, trial._token)
        elif how == "bad":
            os.write(output, b"Error: no such setting\n")
        self.world.end(trial.pid, {"bad": 1 << 8, "killed": int(signal.SIGKILL)}.get(how, 0))

    @rule(parts=st.sets(st.sampled_from(PARTS), max_size=3))
    def break_parts(self, parts: set[str]) -> None:
        self.world.broken = parts
        self.loop()

    @rule(seconds=st.sampled_from([-1e9, -3600.0, 3600.0, 1e9]))
    def set_wall_clock(self, seconds: float) -> None:
        self.world.wall += seconds
        self.loop()

    @rule(wanted=st.integers(1, 4))
    def change_configuration(self, wanted: int) -> None:
        self.master.app.wanted = wanted

    @rule()
    def settle(self) -> None:
        """Once nothing fails any more, the service recovers within the longest of its timeouts."""
        self.world.broken = set()
        end = self.world.now + 240
        while self.world.now < end:
            self.world.now += 1
            self.world.wall += 1
            self.move()
            self.end_trial("good")
            self.loop()
            alive = list(self.master.WORKERS)
            under_way = self.master._reload or self.master._reload_requested
            worn = any(one.board.to_be_replaced for one in self.master.WORKERS.values())
            if not under_way and not worn and set(alive) == self.serving() and len(alive) == self.master.num_workers:
                break
        assert self.master._reload is None
        assert len(self.serving()) == len(self.master.WORKERS) == self.master.num_workers >= 1
        assert {one.generation for one in self.master.WORKERS.values()} == {self.master.generation}

    @invariant()
    def workers_are_wanted(self) -> None:
        if hasattr(self, "master"):
            assert self.master.num_workers >= 1


def run_machine(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        Master,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_last_serving_worker_is_never_stopped() -> None:
    run_machine(50, 50)


@pytest.mark.long
def test_last_serving_worker_is_never_stopped_long() -> None:
    run_machine(5000, 80)


def test_failed_reload_without_old_workers_keeps_serving_new_one() -> None:
    master = Master()
    try:
        master.start()
        old = list(master.master.WORKERS)
        master.request_reload()
        master.finish_trial("good")
        while len(master.master.WORKERS) < 4:
            master.loop()
        for pid in old:
            master.world.end(pid, signal.SIGSEGV)
        first, second = (pid for pid in master.master.WORKERS if pid not in old)
        board = master.master.WORKERS[first].board
        board.state = State.STANDBY
        master.loop()
        assert board.admitted
        board.state = State.READY
        master.loop()
        assert master.serving() == {first}
        master.world.end(second, worker.BOOT_ERROR << 8)
        master.loop()  # asserts that a worker still serves
        assert master.serving() == {first}
        master.settle()
        assert first not in master.master.WORKERS
    finally:
        master.teardown()
