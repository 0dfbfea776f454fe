"""One reload, as a state machine that the master's loop moves on. Nothing here waits.

trial    a forked child loads the new configuration; what breaks it can't break the master
apply    the master loads it; what takes long gives way to signals, and begins again
boot     new workers start up, held back from their first request
retire   all are there: they are let in, the old ones told to go
undo     something failed: the new ones are ended, then the old configuration is put back
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

from gunicorn_handover.board import State
from gunicorn_handover.worker import describe


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
        """Makes the loaded configuration of `app` the master's own."""

    def load_configuration(self) -> None:
        """Loads the configuration anew into `app`. Raises, or exits, when it is bad."""

    def try_configuration(self) -> None:
        """Does what else a start would, in a child that ends afterwards. Raises when a start would fail."""

    def apply_configuration(self) -> None:
        """Makes the configuration on disk the master's own. Raises, or exits, when it is bad."""

    def giving_way(self, deadline: float) -> contextlib.AbstractContextManager[None]:
        """Has what runs within it end by GaveWay when the master is needed elsewhere, and at `deadline` (monotonic)."""

    def workers(self) -> list[Any]:
        """All workers, oldest first."""

    def populated(self) -> bool:
        """Whether all workers serve; what is missing is on its way."""

    def spawn(self, generation: int, *, gentle: bool) -> None:
        """Forks a worker; a gentle one boots at the lowest priority. Raises OSError."""

    def admit(self, worker: Any) -> None:
        """Lets a worker that has started up accept connections; call it until it has."""

    def retire(self, worker: Any) -> None:
        """Tells a worker to drain and go, once."""

    def condemn(self, worker: Any) -> None:
        """Kills a worker, whose end is then no news."""


class Phase(enum.Enum):
    """Where a reload is."""

    TRIAL = "trying the configuration"
    APPLY = "loading the configuration"
    BOOT = "booting workers"
    RETIRE = "retiring the old workers"
    UNDO = "ending the new workers"


class GaveWay(BaseException):
    """A configuration was being loaded, and the master is needed elsewhere. No error: it isn't the configuration's."""


class Trial:
    """A forked child that loads the configuration and says how it went."""

    def __init__(self, master: Master) -> None:
        self._output = b""
        self._status: int | None = None
        # a configuration may end the child with status 0 before it is loaded
        self._token = os.urandom(16).hex().encode()
        reader, writer = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            self.pid = os.fork()
        except OSError:
            os.close(reader)
            os.close(writer)
            raise
        if self.pid == 0:
            os.close(reader)
            _try_configuration(master, writer, self._token)
        os.close(writer)
        os.set_blocking(reader, False)
        self._reader = reader

    def reaped(self, status: int) -> None:
        """Takes the child's wait status."""
        self._status = status

    @property
    def ended(self) -> bool:
        """Whether the child has ended. Reads on what it prints: a full pipe would hold it up."""
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self._reader, 65536):
                self._output = (self._output + chunk)[-65536:]
        return self._status is not None

    @property
    def output(self) -> str:
        """What the child printed."""
        return self._output.decode(errors="replace").strip()

    @property
    def failure(self) -> str | None:
        """Why the configuration can't be loaded, in one line; None when it can."""
        if self._status == 0 and self._output.endswith(self._token):
            return None
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        telling = [line for line in lines if _TELLING.match(line)]
        if lines:
            # which setting it is, Gunicorn says in a line of its own
            setting = [line for line in lines if line.startswith("Invalid value for ")]
            return ": ".join([*setting[-1:], (telling or lines)[-1].removeprefix("Error: ")])
        code = os.waitstatus_to_exitcode(self._status or 0)
        how = f"exit code {code}" if code >= 0 else f"signal {-code}"
        return f"it ended with {how} before it was loaded, and said nothing"

    def close(self) -> None:
        """Ends the child, should it still run, and closes the pipe."""
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        os.close(self._reader)


# a line that names what is wrong, among those of a traceback: Gunicorn's own, or an exception's first
_TELLING = re.compile(r"Error: |[A-Za-z_][\w.]*(Error|Exception|Exit|Warning)\b: ?\S")


def _try_configuration(master: Master, output: int, token: bytes) -> None:
    """Runs in the child, and ends it. Says the token when the configuration is one that a start would take, too."""
    status = 1
    try:
        for number in master.SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        os.dup2(output, 1)
        os.dup2(output, 2)
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
    """What a configuration sets in the master, to be put back."""

    def __init__(self, master: Master) -> None:
        app = master.app
        self._app_attributes = dict(app.__dict__)
        self._environ = dict(os.environ)
        self._path = list(sys.path)
        self.num_workers: int = master.num_workers
        self._directory = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def restore(self, master: Master) -> None:
        """Puts all back and sets the master up with it."""
        master.app.__dict__.clear()
        master.app.__dict__.update(self._app_attributes)
        os.environ.clear()
        os.environ.update(self._environ)
        sys.path[:] = self._path
        os.fchdir(self._directory)
        master.setup(master.app)
        master.num_workers = self.num_workers

    def close(self) -> None:
        """Lets the old working directory go."""
        os.close(self._directory)


class Reload:
    """A reload under way. `step` is called again and again until `done`."""

    def __init__(self, master: Master, number: int) -> None:
        self.number = number
        self.generation = master.generation + 1
        self.phase = Phase.TRIAL
        self.error: str | None = None
        self.done = False
        self.requested_at = time.time()
        # compared with the callers' clocks: CLOCK_MONOTONIC is one for all processes
        self.began = time.monotonic()
        self.previous = Snapshot(master)
        self._master = master
        self._applied = False
        self._gave_way = False
        self._deadline = self.began + master.cfg.handover_boot_timeout
        try:
            self.trial: Trial | None = Trial(master)
        except OSError:
            self.previous.close()
            raise

    def step(self) -> None:
        """Moves on as far as it goes without waiting."""
        {
            Phase.TRIAL: self._try,
            Phase.APPLY: self._apply,
            Phase.BOOT: self._boot,
            Phase.RETIRE: self._retire,
            Phase.UNDO: self._undo,
        }[self.phase]()

    def fail(self, error: str) -> None:
        """Gives the reload up for the reason `error`. The first reason stays."""
        if self.phase is Phase.UNDO:
            return
        self.error = error
        self.phase = Phase.UNDO
        self._master.log.error("Reload %d failed: %s. The previous workers keep serving.", self.number, error)
        self._close_trial()
        for worker in self._new():
            if worker.board.state >= State.READY:
                # it serves already, for want of an old one, and perhaps alone: it goes when it has a successor
                worker.board.wear_out()
            else:
                self._master.condemn(worker)

    def abandon(self) -> None:
        """The master stops: leaves nothing behind that stopping would not end."""
        self._close_trial()

    def progress(self) -> str:
        """Where it is, for people."""
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
        if self._gave_way and not self._master.populated():
            # to load now would keep a worker that has died from being made good
            if time.monotonic() > self._deadline:
                self.fail("workers died while the configuration was loaded, and no new ones could be started")
            return
        self._applied = True
        try:
            with self._master.giving_way(self._deadline):
                self._master.apply_configuration()
        except GaveWay:
            self.previous.restore(self._master)
            self._applied = False
            self._gave_way = True
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
        booting = [worker for worker in new if worker.board.state < State.STANDBY and not worker.condemned]
        standby = [worker for worker in new if worker.board.state is State.STANDBY]
        ready = [worker for worker in new if worker.board.state is State.READY]
        nobody_serves = not any(worker.board.state is State.READY for worker in self._old())
        if len(standby) + len(ready) >= master.num_workers or nobody_serves:
            for worker in standby:
                master.admit(worker)
        if len(ready) >= master.num_workers:
            self.phase = Phase.RETIRE
            master.generation = self.generation
            for worker in self._old():
                master.retire(worker)
        else:
            missing = master.num_workers - len(standby) - len(ready) - len(booting)
            for _ in range(min(missing, master.cfg.handover_boot_at_once - len(booting))):
                try:
                    master.spawn(self.generation, gentle=True)
                except Exception as error:  # a fork, or a hook of the configuration
                    self.fail(f"no worker could be started: {describe(error)}")
                    return

    def _retire(self) -> None:
        if all(worker.board.state is State.DRAINING for worker in self._old()):
            self._finish()

    def _undo(self) -> None:
        if any(worker.condemned for worker in self._new()):
            return
        try:
            if self._applied:
                self.previous.restore(self._master)
        finally:
            self._finish()  # whatever can't be put back, the old workers serve

    def _finish(self) -> None:
        self.previous.close()
        self.done = True
