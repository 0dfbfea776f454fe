"""One reload, as a state machine that the master's loop advances. No step blocks.

trial    a forked child loads the new configuration, where errors can't affect the master
apply    the master loads it; a signal interrupts a long load, which is then restarted
boot     new workers start up, but don't accept connections yet
retire   all new workers are ready and accept connections; the old ones drain
undo     a step failed: the new workers are killed, then the old configuration is restored
"""

from __future__ import annotations

import contextlib
import enum
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any, Protocol

from gunicorn_handover.board import State, describe

KILL_WAIT = 5.0  # seconds until killed workers have exited, which a hung file system can delay without end


class Master(Protocol):
    """What a reload needs of the master. `HandoverArbiter` is one."""

    # Gunicorn's own
    app: Any
    cfg: Any
    log: Any
    SIGNALS: Sequence[int]

    generation: int
    num_workers: int

    def setup(self, app: Any) -> None:
        """Applies the loaded configuration of `app` to the master."""

    def load_configuration(self) -> None:
        """Reloads the configuration into `app`. Raises, or exits, if it is invalid."""

    def try_configuration(self) -> None:
        """Does the rest of what a start would do, in a child that exits afterwards. Raises if a start would fail."""

    def apply_configuration(self) -> None:
        """Applies the configuration on disk to the master. Raises, or exits, if it is invalid."""

    def interruptible(self, deadline: float) -> contextlib.AbstractContextManager[None]:
        """Raises LoadInterrupted in the block if the master must handle a signal or an exited worker, and at `deadline`
        (monotonic seconds)."""

    def workers(self) -> list[Any]:
        """All workers, oldest first."""

    def ensure_workers(self) -> bool:
        """Starts missing workers. Returns whether all workers are ready."""

    def spawn(self, generation: int, *, low_priority: bool) -> None:
        """Forks a worker, which boots at the lowest priority if `low_priority`. Raises OSError, or a hook's error."""

    def free_boots(self, booting: Sequence[Any], *, low_priority: bool) -> int:
        """How many more workers may begin to boot now."""

    def admit(self, worker: Any) -> None:
        """Lets a worker that has started up accept connections. Call it until the worker is ready."""

    def retire(self, worker: Any) -> None:
        """Tells a worker to drain and exit, once."""

    def kill(self, worker: Any) -> None:
        """Kills a worker; its exit is then expected."""


class Phase(enum.Enum):
    """The phases of a reload, with the text for its progress."""

    TRIAL = "testing the configuration"
    APPLY = "loading the configuration"
    BOOT = "booting workers"
    RETIRE = "retiring the old workers"
    UNDO = "killing the new workers"


class LoadInterrupted(BaseException):
    """Loading a configuration was interrupted. Not an Exception, as the configuration isn't at fault and must not catch
    it."""


class Trial:
    """A forked child that loads the configuration and reports the result."""

    def __init__(self, master: Master) -> None:
        self._output = b""
        self._status: int | None = None
        # proof of success: a configuration may exit the child with status 0 before it is loaded
        self._token = os.urandom(16).hex().encode()
        reader, writer = os.pipe()
        try:
            sys.stdout.flush()
            sys.stderr.flush()
            self.pid = os.fork()
        except BaseException:
            os.close(reader)
            os.close(writer)
            raise
        if self.pid == 0:
            _try_configuration(master, reader, writer, self._token)
        os.close(writer)
        os.set_blocking(reader, False)
        self._reader = reader

    def set_status(self, status: int) -> None:
        """Records the child's wait status."""
        self._status = status

    @property
    def ended(self) -> bool:
        """Whether the child has exited. Reads its output, as a full pipe would block it."""
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self._reader, 65536):
                self._output = (self._output + chunk)[-65536:]
        return self._status is not None

    @property
    def output(self) -> str:
        """The child's output."""
        return self._output.decode(errors="replace").strip()

    @property
    def failure(self) -> str | None:
        """Why the configuration can't be loaded, in one line; None if it can."""
        if self._status == 0 and self._output.endswith(self._token):
            return None
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        errors = [line for line in lines if _ERROR_LINE.match(line)]
        if lines:
            # Gunicorn names the setting in a line of its own
            setting = [line for line in lines if line.startswith("Invalid value for ")]
            return ": ".join([*setting[-1:], (errors or lines)[-1].removeprefix("Error: ")])
        code = os.waitstatus_to_exitcode(self._status or 0)
        how = f"exit code {code}" if code >= 0 else f"signal {-code}"
        return f"loading it ended with {how}, without output"

    def close(self) -> None:
        """Kills the child if it still runs, and closes the pipe."""
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self.close_output()

    def close_output(self) -> None:
        """Closes the pipe."""
        os.close(self._reader)


# in a traceback, the line that names the error: Gunicorn's own message, or an exception's first line
_ERROR_LINE = re.compile(r"Error: |[A-Za-z_][\w.]*(Error|Exception|Exit|Warning)\b: ?\S")


def _try_configuration(master: Master, reader: int, output: int, token: bytes) -> None:
    """Runs in the child, and exits it, whatever is raised. Writes the token if a start would accept the configuration,
    too."""
    status = 1
    try:
        for number in master.SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(reader)
        master.load_configuration()
        master.try_configuration()
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(output, token)
        status = 0
    except SystemExit:
        pass  # Gunicorn has printed why
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


class Snapshot:
    """The master's state that a configuration changes, to be restored."""

    def __init__(self, master: Master) -> None:
        app = master.app
        self._app_attributes = dict(app.__dict__)
        self._environ = dict(os.environ)
        self._path = list(sys.path)
        self.num_workers: int = master.num_workers
        self._directory = os.open(".", os.O_PATH)

    def restore(self, master: Master) -> None:
        """Restores the state and sets up the master with it."""
        master.app.__dict__.clear()
        master.app.__dict__.update(self._app_attributes)
        os.environ.clear()
        os.environ.update(self._environ)
        sys.path[:] = self._path
        os.fchdir(self._directory)
        master.setup(master.app)
        master.num_workers = self.num_workers

    def close(self) -> None:
        """Closes the old working directory."""
        os.close(self._directory)


class Reload:
    """A reload in progress. Call `step` repeatedly until `done`."""

    def __init__(self, master: Master, number: int) -> None:
        self.number = number
        self.generation = master.generation + 1
        self.phase = Phase.TRIAL
        self.error: str | None = None
        self.done = False
        self.requested_at = time.time()
        # callers compare it with their own clock: CLOCK_MONOTONIC is the same for all processes
        self.began = time.monotonic()
        self.previous = Snapshot(master)
        self._master = master
        self._applied = False
        self._interrupted = False
        self._deadline = self.began + master.cfg.handover_boot_timeout
        try:
            self.trial: Trial | None = Trial(master)
        except BaseException:
            self.previous.close()
            raise

    def step(self) -> None:
        """Advances as far as possible without blocking."""
        {
            Phase.TRIAL: self._try,
            Phase.APPLY: self._apply,
            Phase.BOOT: self._boot,
            Phase.RETIRE: self._retire,
            Phase.UNDO: self._undo,
        }[self.phase]()

    def fail(self, error: str) -> None:
        """Fails the reload for the reason `error`. Only the first reason is kept."""
        if self.phase in (Phase.RETIRE, Phase.UNDO):
            return  # the new generation serves, or the reload has failed already
        self.error = error
        self.phase = Phase.UNDO
        self._master.log.error("Reload %d failed: %s. The previous workers keep serving.", self.number, error)
        self._close_trial()
        self._deadline = time.monotonic() + KILL_WAIT
        for worker in self._new():
            if worker.board.state >= State.READY:
                # it serves already, as no old worker was left, perhaps alone: replace it only once another is ready
                worker.board.request_replacement()
            else:
                self._master.kill(worker)

    def abandon(self) -> None:
        """Ends what stopping the master would leave behind."""
        self._close_trial()

    def close_in_fork(self) -> None:
        """In a worker: closes the master's descriptors."""
        self.previous.close()
        if self.trial is not None:
            self.trial.close_output()

    def progress(self) -> str:
        """The current phase, as text."""
        if self.phase is Phase.BOOT:
            up = sum(worker.board.state >= State.STANDBY for worker in self._new())
            return f"{self.phase.value}, {up} of {self._master.num_workers} up"
        return str(self.phase.value)

    def _new(self) -> list[Any]:
        return [worker for worker in self._master.workers() if worker.generation == self.generation]

    def _old(self) -> list[Any]:
        return [worker for worker in self._master.workers() if worker.generation != self.generation]

    def _close_trial(self) -> None:
        if self.trial is not None:
            self.trial.close()
            self.trial = None

    def _try(self) -> None:
        assert self.trial is not None
        self._master.ensure_workers()
        if not self.trial.ended:
            if time.monotonic() > self._deadline:
                self.fail("the configuration took longer to load than handover_boot_timeout")
            return
        if failure := self.trial.failure:
            self._master.log.error("The configuration can't be loaded:\n%s", self.trial.output)
            self.fail(f"bad configuration: {failure}")
            return
        self._close_trial()
        self._deadline = time.monotonic() + self._master.cfg.handover_boot_timeout
        self.phase = Phase.APPLY

    def _apply(self) -> None:
        if not self._master.ensure_workers() and self._interrupted:
            # loading now would delay the replacement of a worker that has died
            if time.monotonic() > self._deadline:
                self.fail("workers died while the configuration was loaded, and no new ones could be started")
            return
        self._applied = True
        try:
            with self._master.interruptible(self._deadline):
                self._master.apply_configuration()
        except LoadInterrupted:
            self.previous.restore(self._master)
            self._applied = False
            self._interrupted = True
            if time.monotonic() > self._deadline:
                self.fail("the configuration took longer to load than handover_boot_timeout")
            return
        except (Exception, SystemExit) as error:
            self.fail(f"bad configuration: {error!r}")
            return
        self.phase = Phase.BOOT

    def _boot(self) -> None:
        master = self._master
        new = self._new()
        booting = [worker for worker in new if worker.board.state < State.STANDBY and not worker.killed]
        standby = [worker for worker in new if worker.board.state is State.STANDBY]
        ready = [worker for worker in new if worker.board.state is State.READY]
        old = [worker for worker in self._old() if worker.retired_at is None and not worker.killed]
        none_serving = not any(worker.board.state is State.READY for worker in old)
        if len(standby) + len(ready) >= master.num_workers or none_serving:
            admitted = standby
        else:
            # as many as old ones have died: the replacement of an old one wouldn't load the old code, either
            kept = sum(worker.board.state is not State.DRAINING for worker in old)
            admitted = standby[: max(0, self.previous.num_workers - kept - len(ready))]
        for worker in admitted:
            master.admit(worker)
        if len(ready) >= master.num_workers:
            self.phase = Phase.RETIRE
            master.generation = self.generation
            for worker in self._old():
                master.retire(worker)
        else:
            missing = master.num_workers - len(standby) - len(ready) - len(booting)
            for _ in range(min(missing, master.free_boots(booting, low_priority=not none_serving))):
                try:
                    master.spawn(self.generation, low_priority=True)
                except Exception as error:  # from fork, or from a hook of the configuration
                    self.fail(f"no worker could be started: {describe(error)}")
                    return

    def _retire(self) -> None:
        self._master.ensure_workers()  # an old worker may take long to react
        if all(worker.board.state is State.DRAINING for worker in self._old()):
            self._finish()

    def _undo(self) -> None:
        if any(worker.killed for worker in self._new()) and time.monotonic() < self._deadline:
            return
        try:
            if self._applied:
                self.previous.restore(self._master)
        finally:
            self._finish()  # even if the restore fails, the old workers serve

    def _finish(self) -> None:
        self.previous.close()
        self.done = True
