"""The master: Gunicorn's arbiter, which here makes before it breaks.

Gunicorn's main loop calls `manage_workers` after each signal and at least once a second. All that takes time (a
reload, a worker's boot, a drain) is moved on from there in small steps, so that the master always answers.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import time
import types
from collections.abc import Iterator
from typing import Any

import gunicorn.arbiter as stock
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer
from gunicorn.workers.workertmp import WorkerTmp

from gunicorn_handover import forks, metrics, priority, status
from gunicorn_handover.board import Dismissal, State
from gunicorn_handover.fingerprint import Fingerprint
from gunicorn_handover.notify import Notifier
from gunicorn_handover.reload import GaveWay, Reload
from gunicorn_handover.worker import STOPPING, describe

TICK = 0.05  # seconds between two looks while something is under way
BACKOFF_FIRST = 0.5  # seconds until the second try after a failed boot; doubled each time
BACKOFF_MOST = 30.0
PROVEN = 10.0  # seconds that a worker has to serve for its death not to count as a failed boot
BUSY = 3  # times its limit that a boot gets at most: what it waits for a processor is not its own
LOADING = 0.5  # seconds that a configuration may load before it has to give way to a signal
PATIENCE = 3.0  # seconds that a slowed boot may wait for a processor in all, before it is slowed no longer
WARMUP_GRACE = 2.0  # seconds that a warm-up gets to end by itself, past its bound or in a stop
# what Gunicorn's stop() asks of the module `time`
_STEADY = types.SimpleNamespace(time=time.monotonic, monotonic=time.monotonic, sleep=time.sleep)


class HandoverArbiter(Arbiter):
    """The methods with Gunicorn's names replace Gunicorn's; the others are ours."""

    def __init__(self, app: Any, notifier: Notifier) -> None:
        self.notifier = notifier
        self.generation = 1
        self.stopping = False
        self._stopped_at = 0.0
        self._started_at = time.time()
        self._complete = False  # whether the first generation was ever complete
        self._announce = False
        self._reload: Reload | None = None
        self._reload_again = False
        self._reloads = 0
        self._last_reload: dict[str, Any] | None = None
        self._boot_failure: str | None = None
        self._failures = 0
        self._failed_at = 0.0
        self._next_spawn = 0.0
        self._survived = ""
        self._signalled = False
        self._unwritten = ""
        self._nice = priority.niceness()
        self._oom_kills = priority.oom_kills()
        self._fingerprint = Fingerprint()
        self._versions = status.versions()
        super().__init__(app)
        os.register_at_fork(after_in_child=self._let_go)
        self._status_file = status.StatusFile(self.cfg.handover_status_file)
        self._forget_gauges(self.cfg)

    def workers(self) -> list[Any]:
        """All workers, oldest first."""
        return sorted(self.WORKERS.values(), key=lambda worker: worker.age)

    def _let_go(self) -> None:
        """In a process that was forked, and in those that it forks: what is the master's alone."""
        if self._reload is not None:
            self._reload.previous.close()
            self._reload = None

    # Gunicorn's loop

    def signal(self, sig: int, frame: types.FrameType | None) -> None:
        self._signalled = self._signalled or sig != signal.SIGHUP  # which waits for the end of a reload anyway
        super().signal(sig, frame)

    def wait_for_signals(self, timeout: float = 1.0) -> list[int]:
        busy = (
            self._reload is not None
            or len(self.WORKERS) < self.num_workers
            or any(
                worker.board.state is not State.READY or worker.board.worn or worker.session_nice is not None
                for worker in self.WORKERS.values()
            )
        )
        self._signalled = False
        signals: list[int] = super().wait_for_signals(timeout=TICK if busy or not self._complete else timeout)
        return signals

    def manage_workers(self) -> None:
        if self.stopping:
            return
        if self._boot_failure is not None:
            raise HaltServer(self._boot_failure, self.WORKER_BOOT_ERROR)
        try:
            self._manage()
        except Exception as error:
            # the workers keep serving, whatever it is: the machine is out of something, or a hook raises
            self._survive(error)

    def _manage(self) -> None:
        self._watch_boots()
        self._end_overdue_drains()
        if self._reload is not None:
            self._reload.step()
            if self._reload.done:
                self._conclude_reload(self._reload)
        elif self._reload_again and self._complete:
            self._begin_reload()
        else:
            self._keep_population()
        self._publish()
        if self._announce:
            # after the status, so that who waits for this finds the new state there
            self._announce = False
            self.notifier.ready()

    def _survive(self, error: Exception) -> None:
        """After an error that no step of its own has taken care of."""
        what = describe(error)
        if self._reload is not None:
            self._reload.fail(what)
            if self._reload.done:
                self._conclude_reload(self._reload)
        elif not self._complete:
            self._boot_failure = what
        if what != self._survived:  # the loop comes by here many times a second
            self._survived = what
            self.log.error("An error in the master, which goes on: %s", what, exc_info=error)

    def reap_workers(self) -> None:
        if self.stopping:
            for worker in self.WORKERS.values():
                self._renice_session(worker)
            self._end_warmups()
        while True:
            try:
                pid, wait_status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if self._reload is not None and self._reload.trial is not None and self._reload.trial.pid == pid:
                self._reload.trial.reaped(wait_status)
                continue
            worker = self.WORKERS.pop(pid, None)
            if worker is not None:
                self._bury(worker, wait_status)

    def handle_hup(self) -> None:
        self.log.info("Reload requested")
        self._reload_again = True

    def handle_usr2(self) -> None:
        self.log.error(
            "USR2 is ignored: with sockets from systemd a second master can't take over. "
            "Send HUP to reload, or start a second service on the same socket."
        )

    def handle_ttin(self) -> None:
        self._resize(+1)

    def handle_ttou(self) -> None:
        if self.num_workers > 1:
            self._resize(-1)

    def _resize(self, change: int) -> None:
        try:
            self.num_workers += change
        except Exception:
            self.log.exception("The hook nworkers_changed raised; the master goes on")
        if self._reload is not None:
            previous = self._reload.previous
            previous.num_workers = max(1, previous.num_workers + change)

    def handle_usr1(self) -> None:
        try:
            super().handle_usr1()
        except OSError as error:
            self.log.error("The logs can't be opened anew: %s", error)

    def kill_worker(self, pid: int, sig: int) -> None:
        try:
            super().kill_worker(pid, sig)
        except Exception:
            self.log.exception("Worker (pid:%s) has gone, and the hook worker_exit raised; the master goes on", pid)

    def stop(self, graceful: bool = True) -> None:
        if not self.stopping:
            self.stopping = True
            self._stopped_at = time.monotonic()
            self.notifier.stopping()
            self.notifier.status("Stopping" if graceful else "Stopping at once")
            if self._reload is not None:
                self._reload.abandon()
            # Gunicorn's stop() kills what is left at this bound; the lifespan shutdown comes after the requests
            bound = self.cfg.graceful_timeout + self.cfg.handover_exit_timeout
            self.cfg.set("graceful_timeout", int(bound + 0.999))
            # and takes that from the wall clock, which may be set while workers drain
            stock.time = _STEADY
            for worker in self.WORKERS.values():
                worker.board.dismiss(Dismissal.STOP)
                # one that boots or has been replaced may be nice, and who stops the service waits for it
                self._hurry(worker)
        super().stop(graceful)

    def halt(self, reason: str | None = None, exit_status: int = 0) -> None:
        try:
            super().halt(reason, exit_status)
        finally:
            if reason is not None:
                self.notifier.status(f"Failed: {reason}")
            self._status_file.remove()

    def murder_workers(self) -> None:
        # one that drains has a bound of its own, and gives no sign of life while its interpreter ends
        for worker in self.WORKERS.values():
            if worker.board.state is State.DRAINING:
                worker.tmp.notify()
        super().murder_workers()

    # Workers

    def spawn(self, generation: int, *, gentle: bool) -> None:
        """Forks a worker; a gentle one boots at the lowest priority. Raises OSError."""
        serving = any(worker.board.state is State.READY for worker in self.WORKERS.values())
        release = status.release_id(self.cfg.handover_release_file)
        # until it has handlers of its own, a worker has the master's, which would swallow a word to go
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        try:
            pid = self.spawn_worker()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
        worker = self.WORKERS[pid]
        worker.generation = generation
        worker.release = release
        if not self.systemd:
            worker.board.own_sockets()
        score = priority.oom_score(pid)
        if score is not None and serving:
            worker.oom_score = score
            priority.set_oom_score(pid, score + priority.OOM_BIAS)
        nice = self.cfg.handover_boot_nice or self._nice  # 0 is off, whatever the unit's own niceness is
        if gentle and serving and nice > self._nice:
            worker.slowed = True
            worker.session_nice = nice  # which anybody may take back, unlike a process' own
            if priority.may_return_to(self._nice):
                priority.renice(pid, nice)
        if not self._complete:
            self.notifier.extend(BUSY * (self.cfg.handover_boot_timeout + self.cfg.handover_warmup_timeout))

    def admit(self, worker: Any) -> None:
        """Lets a worker that has started up accept connections, at the priority of all others; call it until it has.

        A connection that a worker of low priority takes waits with it, though others are idle.
        """
        self._hurry(worker)
        if worker.session_nice is not None:
            return  # see priority.renice_session: the kernel takes it a moment later
        if worker.oom_score is not None:
            priority.set_oom_score(worker.pid, worker.oom_score)
            worker.oom_score = None
        worker.board.admit()

    def retire(self, worker: Any) -> None:
        """Tells a worker to drain and go, once."""
        if worker.retired_at is None:
            worker.retired_at = time.monotonic()
            worker.board.dismiss(Dismissal.REPLACED)
            worker.slowed = True  # by itself, once it serves nothing any more
            self.kill_worker(worker.pid, signal.SIGTERM)

    def condemn(self, worker: Any) -> None:
        """Kills a worker, whose end is then no news."""
        worker.condemned = True
        self.kill_worker(worker.pid, signal.SIGKILL)

    def _hurry(self, worker: Any) -> None:
        if worker.slowed:
            worker.slowed = False
            worker.session_nice = 0  # as a new one has it
            self._renice_session(worker)
            if not priority.renice(worker.pid, self._nice):
                self.log.warning(
                    "Worker (pid:%s) can't be brought back to niceness %d. Set LimitNICE= in the unit, "
                    "or handover_boot_nice = 0.",
                    worker.pid,
                    self._nice,
                )

    def _renice_session(self, worker: Any) -> None:
        if worker.session_nice is not None and priority.renice_session(worker.pid, worker.session_nice):
            worker.session_nice = None

    def _watch_boots(self) -> None:
        now = time.monotonic()
        for worker in self.workers():
            self._renice_session(worker)
            if worker.board.state is State.STANDBY:
                self._hurry(worker)  # it waits for the others; when it is let in, it must be as quick as they are
            if worker.board.state >= State.STANDBY or worker.condemned:
                continue
            limit = worker.cfg.handover_boot_timeout
            took = now - worker.forked_at
            # at a reload it is slowed no longer when it starves, and who waits for its end has a bound
            waited = 0.0 if self._complete else priority.waited(worker.pid)
            if worker.board.state is State.WARMING:
                self._watch_warmup(worker, now)
            elif took > limit and (late := _late(took, waited, limit)):
                worker.board.explain(late)
                self.log.error("Worker (pid:%s) is %s; killing it", worker.pid, late)
                self.condemn(worker)
                self._boot_failed(worker, worker.board.failure)
            if worker.slowed and not worker.condemned and (priority.waited(worker.pid) > PATIENCE or took > limit / 4):
                # starved: on a machine with no idle moment the nicest process gets next to nothing
                self._hurry(worker)

    def _watch_warmup(self, worker: Any, now: float) -> None:
        """The worker bounds its warm-up itself, but for an application that lets nothing else run."""
        if worker.warming_since is None:
            worker.warming_since = now, priority.waited(worker.pid)
        began, waited = worker.warming_since
        limit = worker.cfg.handover_warmup_timeout + WARMUP_GRACE
        took = now - began
        if took - (priority.waited(worker.pid) - waited) > limit or took > BUSY * limit:
            reason = f"the warm-up has let nothing else run for {took:.0f} s (handover_warmup_timeout)"
            self.log.error("Worker (pid:%s): %s; killing it", worker.pid, reason)
            self.condemn(worker)
            self._warmup_failed(worker, reason)

    def _warmup_failed(self, worker: Any, reason: str) -> None:
        """After a warm-up that took its worker with it."""
        if worker.cfg.handover_warmup_required:
            self._boot_failed(worker, reason)
        elif worker.cfg.handover_warmup_paths:
            # the others have the same configuration
            worker.cfg.set("handover_warmup_paths", [])
            self.log.warning("Until the next reload no worker is warmed up: %s", reason)

    def _end_warmups(self) -> None:
        """In a stop: a worker that warms up has nothing to finish."""
        if time.monotonic() - self._stopped_at > WARMUP_GRACE:
            for worker in self.workers():
                if worker.board.state is State.WARMING:
                    self.kill_worker(worker.pid, signal.SIGKILL)

    def _end_overdue_drains(self) -> None:
        now = time.monotonic()
        for worker in self.workers():
            if worker.board.state is State.DRAINING and worker.retired_at is None:
                worker.retired_at = now
            limit = worker.cfg.graceful_timeout + worker.cfg.handover_exit_timeout
            if worker.retired_at is None or worker.condemned:
                continue
            if now - worker.retired_at > limit - worker.cfg.handover_exit_timeout / 2:
                self._hurry(worker)  # where no moment is idle, the nicest process would not come to its end
            if now - worker.retired_at > limit:
                self.log.warning("Worker (pid:%s) has not gone after %g s; killing it", worker.pid, limit)
                self.condemn(worker)

    def _keep_population(self) -> None:
        alive = [worker for worker in self.workers() if worker.retired_at is None and not worker.condemned]
        booting = [worker for worker in alive if worker.board.state < State.READY]
        serving = [worker for worker in alive if worker.board.state is State.READY]
        fresh = [worker for worker in serving if not worker.board.worn]
        for worker in booting:
            if worker.board.state is State.STANDBY:
                self.admit(worker)
        if len(fresh) >= self.num_workers:
            if time.monotonic() - self._failed_at > PROVEN:
                self._failures = 0
            for worker in serving:
                if worker.board.worn:
                    self.retire(worker)
            for worker in fresh[: len(fresh) - self.num_workers]:
                self.retire(worker)
            if not self._complete:
                self._complete = self._announce = True
        elif time.monotonic() >= self._next_spawn:
            missing = self.num_workers - len(fresh) - len(booting)
            for _ in range(min(missing, self.cfg.handover_boot_at_once - len(booting))):
                try:
                    # gentle when it replaces one that still serves; where one is missing there is no time to lose
                    self.spawn(self.generation, gentle=len(serving) >= self.num_workers)
                except Exception as error:  # a fork, or a hook of the configuration
                    failure = f"no worker could be started: {describe(error)}"
                    if self._complete:
                        self._back_off(failure)
                    else:
                        self._boot_failure = failure
                    return

    def populated(self) -> bool:
        """Whether all workers serve; what is missing is on its way."""
        self._keep_population()
        ready = [worker for worker in self.workers() if worker.retired_at is None and worker.board.state is State.READY]
        return bool(len(ready) >= self.num_workers)

    def _bury(self, worker: Any, wait_status: int) -> None:
        # the kernel need not have done it
        expected = self.stopping or worker.condemned
        how = _describe(wait_status) if expected else self._explain(wait_status)
        state = worker.board.state
        failure = worker.board.failure or how
        worker.tmp.close()
        worker.board.close()
        forks.kill(worker.pid)
        self._forget_gauges(worker.cfg)
        try:
            self.cfg.child_exit(self, worker)
        except Exception:
            self.log.exception("The hook child_exit raised; the master goes on")
        served = time.monotonic() - worker.forked_at
        if expected:
            self.log.info("Worker (pid:%s) %s", worker.pid, how)
        elif state is State.WARMING:
            self.log.error("Worker (pid:%s) ended in its warm-up: %s", worker.pid, failure)
            self._warmup_failed(worker, failure)
        elif state < State.READY:
            self.log.error("Worker (pid:%s) failed to boot: %s", worker.pid, failure)
            self._boot_failed(worker, failure)
        elif state is State.DRAINING and wait_status == 0:
            self.log.info("Worker (pid:%s) has gone", worker.pid)
        else:
            self.log.error("Worker (pid:%s) %s", worker.pid, how)
            # one sudden death is made good at once, a series is not
            if served < PROVEN and self._failures:
                self._back_off(how)
            elif served < PROVEN:
                self._failures, self._failed_at = 1, time.monotonic()

    def _forget_gauges(self, cfg: Any) -> None:
        """Of workers that have ended, those of an earlier master too."""
        if cfg.handover_metrics_directory and os.path.isdir(cfg.handover_metrics_directory):
            try:
                metrics.forget_gauges(cfg.handover_metrics_directory)
            except OSError as error:
                self.log.error("Gauges of workers that have ended stay in the metrics: %s", error)

    def _explain(self, wait_status: int) -> str:
        """How a process ended that the master had not told to end, in words."""
        how = _describe(wait_status)
        if os.waitstatus_to_exitcode(wait_status) != -signal.SIGKILL:
            return how
        before, self._oom_kills = self._oom_kills, priority.oom_kills()
        how += " (out of memory?)"
        if before is None or self._oom_kills is None:
            return how
        return f"{how}: {'yes' if self._oom_kills > before else 'no'}, by the kernel's count"

    def _boot_failed(self, worker: Any, failure: str) -> None:
        if self._reload is not None and worker.generation == self._reload.generation:
            self._reload.fail(f"worker (pid:{worker.pid}) failed to boot: {failure}")
        elif not self._complete:
            self._boot_failure = f"Worker (pid:{worker.pid}) failed to boot: {failure}"
        else:
            self._back_off(failure)

    def _back_off(self, failure: str) -> None:
        if time.monotonic() < self._next_spawn:
            return  # one of several that were started together: it is the same failure
        delay = min(BACKOFF_MOST, BACKOFF_FIRST * 2**self._failures)
        self._failures += 1
        self._failed_at = time.monotonic()
        self._next_spawn = self._failed_at + delay
        self.log.error("Trying again in %g s: %s", delay, failure)

    # Reloads

    def _begin_reload(self) -> None:
        self._reload_again = False
        self._reloads += 1
        self.notifier.reloading()
        sys.path_importer_cache.clear()
        importlib.invalidate_caches()
        requested, began = time.time(), time.monotonic()
        try:
            self._reload = Reload(self, self._reloads)
        except OSError as error:  # no process or descriptor to be had
            failure = f"it could not begin: {describe(error)}"
            self.log.error("Reload %d failed: %s. The workers keep serving.", self._reloads, failure)
            self._note_reload(self._reloads, requested, began, failure)
            return
        self.log.info("Reload %d begins", self._reloads)

    def load_configuration(self) -> None:
        """Loads the configuration anew into `self.app`. Raises, or exits, when it is bad."""
        addresses = self.cfg.address
        # what the old configuration added to the environment goes first
        for name in self.cfg.env:
            os.environ.pop(name, None)
            if name in self.cfg.env_orig:
                os.environ[name] = self.cfg.env_orig[name]
        self.app.reload()
        if not self.systemd and self.app.cfg.address != addresses:
            raise RuntimeError("A reload can't change `bind`. Restart the service for that.")
        # each is worked out when it is asked for, and raises then
        _ = self.app.cfg.worker_class, self.app.cfg.logger_class, self.app.cfg.env

    def try_configuration(self) -> None:
        """Does what else a start would, in a child that ends afterwards. Raises when a start would fail."""
        cfg = self.app.cfg
        cfg.logger_class(cfg)
        WorkerTmp(cfg).close()
        if cfg.pidfile and not os.access(os.path.dirname(os.path.abspath(cfg.pidfile)), os.W_OK):
            raise RuntimeError(f"pidfile: {cfg.pidfile} can't be written")

    def apply_configuration(self) -> None:
        """Makes the configuration on disk the master's own. Raises, or exits, when it is bad."""
        self.load_configuration()
        self.setup(self.app)
        self.log.reopen_files()
        self.cfg.on_reload(self)

    @contextlib.contextmanager
    def giving_way(self, deadline: float) -> Iterator[None]:
        """Has what runs within it end by GaveWay when it takes long and a signal waits or a worker has died, and at
        `deadline` (monotonic) in any case."""

        def look(*_: Any) -> None:
            if armed and (self._signalled or time.monotonic() > deadline or any(map(_has_ended, self.WORKERS))):
                raise GaveWay

        armed = True
        previous = signal.signal(signal.SIGALRM, look)
        signal.setitimer(signal.ITIMER_REAL, LOADING, 2 * TICK)
        try:
            yield
        finally:
            # what comes after the block must not be ended
            armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)

    def _conclude_reload(self, reload: Reload) -> None:
        self._reload = None
        if reload.error is None:
            self._failures = 0
            self._next_spawn = 0.0
            took = time.monotonic() - reload.began
            self.log.info("Reload %d done in %.1f s: generation %d serves", reload.number, took, self.generation)
        self._note_reload(reload.number, reload.requested_at, reload.began, reload.error)

    def _note_reload(self, number: int, requested: float, began: float, error: str | None) -> None:
        """Keeps how a reload ended, for the status, and has the service manager told that it has."""
        self._last_reload = {
            "number": number,
            "requested_at": _utc(requested),
            "began_monotonic": began,
            "outcome": "failed" if error else "ok",
            "error": error,
            "duration_seconds": round(time.monotonic() - began, 3),
        }
        self._announce = True

    # Status

    def _publish(self) -> None:
        self._fingerprint.update()
        workers = [
            {
                "pid": worker.pid,
                "state": _PUBLIC_STATE[worker.board.state],
                "generation": worker.generation,
                "release": worker.release,
                "since": _utc(worker.since),
            }
            for worker in self.workers()
        ]
        ready = sum(worker["state"] == "ready" for worker in workers)
        current = [worker["release"] for worker in workers if worker["generation"] == self.generation]
        release = current[-1] if current else None
        under_way = None
        if self._reload is not None:
            under_way = {
                "number": self._reload.number,
                "requested_at": _utc(self._reload.requested_at),
                "began_monotonic": self._reload.began,
                "progress": self._reload.progress(),
            }
        release_file = self.cfg.handover_release_file
        document = {
            "schema": status.SCHEMA,
            "master": {
                "pid": os.getpid(),
                "start_ticks": status.start_ticks(os.getpid()),
                "started_at": _utc(self._started_at),
            },
            "generation": self.generation,
            "release": release,
            "workers_wanted": self.num_workers,
            "workers": workers,
            "reload": self._last_reload,
            "reload_under_way": under_way,
            "versions": self._versions,
            "fingerprint": self._fingerprint.as_dict(os.path.dirname(release_file) if release_file else None),
        }
        try:
            self._status_file.write(document)
            self._unwritten = ""
        except OSError as error:
            if str(error) != self._unwritten:  # it is tried at each change, many times a second
                self._unwritten = str(error)
                self.log.error("The status file can't be written: %s", error)
        line = f"{ready} of {self.num_workers} workers ready, generation {self.generation}"
        if release:
            line += f", release {release}"
        if self._reload is not None:
            line += f"; reload {self._reload.number}: {self._reload.progress()}"
        elif self._last_reload is not None and self._last_reload["error"]:
            line += f"; reload {self._last_reload['number']} failed: {self._last_reload['error']}"
        self.notifier.status(line)


_PUBLIC_STATE = {
    State.BOOTING: "booting",
    State.WARMING: "booting",
    State.STANDBY: "booting",
    State.READY: "ready",
    State.DRAINING: "draining",
}


def _utc(moment: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


def _late(took: float, waited: float, limit: float) -> str:
    """That a boot took too long, in words; empty while it may go on.

    What counts is the time that it had a processor, or waited for anything else: a busy machine is no fault of its.
    """
    if took - waited <= limit and took <= BUSY * limit:
        return ""
    more = (
        f" and {took - limit:.0f} s more for the {waited:.0f} s that it waited for a processor" if waited >= 1 else ""
    )
    return f"not ready after {limit:g} s (handover_boot_timeout){more}"


def _has_ended(pid: int) -> bool:
    """Whether a child has ended, which stays to be reaped."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False


def _describe(wait_status: int) -> str:
    """How a process ended, in words."""
    code = os.waitstatus_to_exitcode(wait_status)
    if code >= 0:
        return f"exited with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}"
