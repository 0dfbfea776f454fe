"""The master: Gunicorn's arbiter with make-before-break reloads.

Gunicorn's main loop calls `manage_workers` after each signal and at least once a second. Everything that takes time
(a reload, a worker's boot, a drain) advances from there in small steps, so that the master always handles signals.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import signal
import sys
import time
import types
from collections.abc import Iterator, Sequence
from typing import Any

import gunicorn.arbiter as stock
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer
from gunicorn.pidfile import Pidfile
from gunicorn.sock import close_sockets
from gunicorn.workers.workertmp import WorkerTmp

from gunicorn_handover import accept, forks, metrics, priority, resources, status
from gunicorn_handover.board import DrainReason, State, describe
from gunicorn_handover.fingerprint import Fingerprint
from gunicorn_handover.notify import Notifier
from gunicorn_handover.reload import LoadInterrupted, Reload
from gunicorn_handover.worker import BLOCKED_IN_FORK

TICK = 0.05  # seconds between two checks while something is in progress
BOOT_SAMPLE = 0.25  # seconds over which a boot's demand for processor time is measured
BACKOFF_FIRST = 0.5  # seconds until the first retry of a failed boot; doubled each time
BACKOFF_MAX = 30.0  # seconds
BACKOFF_DOUBLINGS = 10  # more than BACKOFF_MAX takes: the power would exceed a float after hours of failed boots
STABLE_AFTER = 10.0  # seconds of service after which a worker's crash doesn't count as a failed boot
BUSY_FACTOR = 3  # a boot's hard limit, in multiples of its timeout: time spent waiting for a processor is added
LOAD_GRACE = 0.5  # seconds that a configuration may load before a pending signal interrupts it
MAX_CPU_WAIT = 3.0  # seconds that a low-priority boot may wait for a processor in total before its priority is restored
WARMUP_GRACE = 2.0  # seconds that a warm-up gets to end by itself, after its timeout
BOOT_GRACE = 2.0  # seconds that a boot gets to end by itself when its worker is to exit
# Seconds that an admission waits for the session's niceness: any user can use up the changes that the kernel accepts.
RENICE_WAIT = 5.0
SILENT = 3.0  # seconds since a worker's last heartbeat, of which there are two per second, that mean that it may hang
SUSPENDED = 3.0  # seconds between two looks at the heartbeats, which are a second apart, that mean a suspended process
# what Gunicorn's stop() uses of the module `time`
_STEADY = types.SimpleNamespace(time=time.monotonic, monotonic=time.monotonic, sleep=time.sleep)


class HandoverArbiter(Arbiter):
    """Methods with Gunicorn's names override Gunicorn's; all others are this package's."""

    def __init__(self, app: Any, notifier: Notifier) -> None:
        self.notifier = notifier
        self.generation = 1
        self.stopping = False
        self._stopped_at = 0.0
        self._started_at = time.time()
        self._looked_at = time.monotonic()  # at the workers' heartbeats
        # read once: without a free descriptor, a later status would say that the master has ended
        self._start_ticks = status.start_ticks(os.getpid())
        self._complete = False  # whether the first generation has been complete once
        self._notify_ready = False
        self._reload: Reload | None = None
        self._reload_requested = False
        self._reloads = 0
        self._last_reload: dict[str, Any] | None = None
        self._boot_failure: str | None = None
        self._failures = 0
        self._failed_at = 0.0
        self._next_spawn = 0.0
        self._last_error = ""
        self._signal_pending = False
        self._write_error = ""
        self._nice = priority.niceness()
        self._processors = resources.cores()
        self._oom_kills = priority.oom_kills()
        self._fingerprint = Fingerprint()
        self._versions = status.versions()
        super().__init__(app)
        os.register_at_fork(after_in_child=self._close_in_fork)
        self._status_file = status.StatusFile(self.cfg.handover_status_file)
        self._clear_gauges(self.cfg)

    def workers(self) -> list[Any]:
        """All workers, oldest first."""
        return sorted(self.WORKERS.values(), key=lambda worker: worker.age)

    def _unretired(self) -> list[Any]:
        """The workers that haven't been told to exit, oldest first."""
        return [worker for worker in self.workers() if worker.retired_at is None and not worker.killed]

    def _close_in_fork(self) -> None:
        """In each forked process: close what only the master needs."""
        if self._reload is not None:
            self._reload.close_in_fork()
            self._reload = None

    @property
    def num_workers(self) -> int:
        """The number of workers wanted."""
        return int(self._num_workers)

    @num_workers.setter
    def num_workers(self, number: int) -> None:
        before = self._num_workers
        try:
            Arbiter.num_workers.fset(self, number)
        except (Exception, SystemExit):
            if before is None:
                raise  # the service starts
            # what follows in a reload or its undoing must not be skipped
            self.log.exception("The hook nworkers_changed raised; the master continues")

    # Gunicorn's loop

    def signal(self, sig: int, frame: types.FrameType | None) -> None:
        # a HUP waits for the end of the reload anyway
        self._signal_pending = self._signal_pending or sig != signal.SIGHUP
        super().signal(sig, frame)

    def wait_for_signals(self, timeout: float = 1.0) -> list[int]:
        busy = (
            self._reload is not None
            or len(self.WORKERS) < self.num_workers
            or any(
                worker.board.state is not State.READY
                or worker.board.to_be_replaced
                or worker.pending_session_nice is not None
                for worker in self.WORKERS.values()
            )
        )
        self._signal_pending = False
        signals: list[int] = super().wait_for_signals(timeout=TICK if busy or not self._complete else timeout)
        return signals

    def manage_workers(self) -> None:
        if self.stopping:
            return
        if self._boot_failure is not None:
            raise HaltServer(self._boot_failure, self.WORKER_BOOT_ERROR)
        try:
            self._manage()
        except (Exception, SystemExit) as error:
            if os.getpid() != self.pid:
                raise  # a worker exits, which has been forked in here
            # the workers keep serving, whatever the error: resources are exhausted, or a hook raises
            self._handle_error(error)

    def _manage(self) -> None:
        self._check_boots()
        self._kill_overdue_drains()
        for worker in self._unretired():
            # a reload admits those of its own generation
            if worker.board.state is State.STANDBY and worker.generation <= self.generation:
                self.admit(worker)
        if self._reload is not None:
            self._reload.step()
            if self._reload.done:
                self._finish_reload(self._reload)
        else:
            if self._reload_requested and self._complete:
                self._begin_reload()
            self._maintain_workers()
        self._publish()
        if self._notify_ready:
            # after the status is written: whoever waits for READY=1 then reads the new state
            self._notify_ready = False
            self.notifier.ready()

    def _handle_error(self, error: BaseException) -> None:
        """Handles an error that its step hasn't handled."""
        what = describe(error)
        if self._reload is not None:
            self._reload.fail(what)
            if self._reload.done:
                self._finish_reload(self._reload)
        elif not self._complete:
            self._boot_failure = what
        if what != self._last_error:  # the loop gets here many times a second
            self._last_error = what
            self.log.error("Error in the master, which continues: %s", what, exc_info=error)

    def reap_workers(self) -> None:
        if self.stopping:
            for worker in self.WORKERS.values():
                self._renice_session(worker)
            self._end_boots()
        while True:
            try:
                pid, wait_status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if self._reload is not None and self._reload.trial is not None and self._reload.trial.pid == pid:
                self._reload.trial.set_status(wait_status)
                continue
            worker = self.WORKERS.pop(pid, None)
            if worker is not None:
                try:
                    self._handle_exit(worker, wait_status)
                except Exception as error:
                    self._handle_error(error)

    def handle_hup(self) -> None:
        self.log.info("Reload requested")
        self._reload_requested = True

    def handle_usr2(self) -> None:
        self.log.error(
            "USR2 is ignored: a second master can't take over sockets that come from systemd. "
            "Send HUP to reload, or start a second service on the same socket."
        )

    def handle_ttin(self) -> None:
        self._resize(+1)

    def handle_ttou(self) -> None:
        if self.num_workers > 1:
            self._resize(-1)

    def _resize(self, change: int) -> None:
        self.num_workers += change
        if self._reload is not None:
            previous = self._reload.previous
            previous.num_workers = max(1, previous.num_workers + change)

    def handle_usr1(self) -> None:
        try:
            super().handle_usr1()
        except OSError as error:
            self.log.error("The log files can't be reopened: %s", error)

    def kill_worker(self, pid: int, sig: int) -> None:
        try:
            super().kill_worker(pid, sig)
        except (Exception, SystemExit):
            self.log.exception("Worker (pid:%s) has exited, and the hook worker_exit raised; the master continues", pid)

    def stop(self, graceful: bool = True) -> None:
        if not self.stopping:
            self.stopping = True
            self._stopped_at = time.monotonic()
            self.notifier.stopping()
            self.notifier.status("Stopping" if graceful else "Stopping immediately")
            if self._reload is not None:
                self._reload.abandon()
            # Gunicorn's stop() kills the remaining workers at this time; the lifespan shutdown follows the requests
            bound = self.cfg.graceful_timeout + self.cfg.handover_exit_timeout
            self.cfg.set("graceful_timeout", int(bound + 0.999))
            # it measures that by the wall clock, which may be set while workers drain
            stock.time = _STEADY
            # Gunicorn's stop() would raise before the workers drain if a socket's file has been removed
            for listener in self.LISTENERS:
                with contextlib.suppress(OSError):
                    close_sockets([listener], not self.systemd)
            self.LISTENERS: list[Any] = []
            for worker in self.WORKERS.values():
                worker.board.request_drain(DrainReason.STOP)
                # a booting or replaced worker may have low priority, and the stop waits for it
                self._restore_priority(worker)
        super().stop(graceful)

    def halt(self, reason: str | None = None, exit_status: int = 0) -> None:
        try:
            super().halt(reason, exit_status)
        finally:
            if reason is not None:
                self.notifier.status(f"Failed: {reason}")
            self._status_file.remove()

    def murder_workers(self) -> None:
        before, self._looked_at = self._looked_at, time.monotonic()
        # the machine or the service was suspended, and the master may be the first to continue: a worker that hangs has
        # another `timeout`
        suspended = self._looked_at - before > SUSPENDED
        for worker in self.WORKERS.values():
            # boots and drains have time limits of their own: a boot sends no heartbeat, nor does an exiting interpreter
            if suspended or worker.board.state is not State.READY:
                worker.tmp.notify()
        super().murder_workers()

    # Workers

    def spawn(self, generation: int, *, low_priority: bool) -> None:
        """Forks a worker, which boots at the lowest priority if `low_priority`. Raises OSError, or a hook's error."""
        serving = any(worker.board.state is State.READY for worker in self.WORKERS.values())
        release = status.release_id(self.cfg.handover_release_file)
        # until a worker has its own handlers, it would swallow a signal to stop, or be killed by one to reopen the logs
        signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED_IN_FORK)
        try:
            pid = self.spawn_worker()
        except SystemExit as error:
            if os.getpid() != self.pid:
                raise  # the worker exits
            raise RuntimeError(f"the hook pre_fork called sys.exit({error.code!r})") from error
        except BaseException as error:
            if os.getpid() == self.pid:
                raise
            # Gunicorn's loop, which this worker is in as well, would take it for an order to stop the service
            self.log.error("Worker (pid:%s) exits: %s", os.getpid(), describe(error))
            sys.exit(1)
        finally:
            if os.getpid() == self.pid:  # an exiting worker also gets here
                signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED_IN_FORK)
        worker = self.WORKERS[pid]
        worker.generation = generation
        worker.release = release
        if not self.systemd:
            worker.board.set_private_sockets()
        score = priority.oom_score(pid)
        if score is not None and serving:
            worker.oom_score = score
            priority.set_oom_score(pid, score + priority.OOM_BIAS)
        nice = self.cfg.handover_boot_nice or self._nice  # 0 means off, whatever the unit's own niceness is
        worker.pending_session_nice = self._session_nice()
        if low_priority and serving and nice > self._nice:
            worker.low_priority = True
            worker.pending_session_nice = nice  # may be lowered again without privileges, unlike a process's niceness
            priority.set_slice(pid, priority.LONGEST_SLICE)
            if priority.can_renice_to(self._nice):
                priority.renice(pid, nice)
        if not self._complete:
            self.notifier.extend(BUSY_FACTOR * (self.cfg.handover_boot_timeout + self.cfg.handover_warmup_timeout))

    def free_boots(self, booting: Sequence[Any], *, low_priority: bool) -> int:
        """How many more workers may begin to boot now. Boots of low priority leave a processor to the workers that
        serve, unless they wait for something else than a processor."""
        free: int = self.cfg.handover_boot_at_once - len(booting)
        if low_priority:
            busy = sum(self._boot_is_busy(worker) for worker in booting)
            free = min(free, max(1, self._processors - 1) - busy)
        return free

    def _boot_is_busy(self, worker: Any) -> bool:
        """Whether a booting worker has mostly wanted a processor lately; true until that is known."""
        (since, before), now = worker.boot_demand, time.monotonic()
        if now - since >= BOOT_SAMPLE:
            demand = priority.cpu_demand(worker.pid)
            worker.boot_demand = now, demand
            worker.boot_is_busy = demand - before > (now - since) / 2
        return bool(worker.boot_is_busy)

    def admit(self, worker: Any) -> None:
        """Lets a worker that has started up accept connections, at normal priority. Call it until the worker is ready.

        A connection that a low-priority worker accepted would wait, even if other workers were idle.
        """
        self._restore_priority(worker)
        worker.admission_began = worker.admission_began or time.monotonic()
        if worker.pending_session_nice is not None and time.monotonic() - worker.admission_began < RENICE_WAIT:
            return  # the kernel accepts it a moment later, see priority.renice_session
        if worker.oom_score is not None:
            priority.set_oom_score(worker.pid, worker.oom_score)
            worker.oom_score = None
        if worker.admitted_at is None:
            worker.admitted_at = time.monotonic()
        worker.board.admit()

    def retire(self, worker: Any) -> None:
        """Tells a worker to drain and exit, once."""
        if worker.retired_at is None:
            worker.retired_at = time.monotonic()
            worker.board.request_drain(DrainReason.REPLACED)
            worker.low_priority = True  # it lowers its own priority once it serves nothing any more
            self.kill_worker(worker.pid, signal.SIGTERM)

    def kill(self, worker: Any) -> None:
        """Kills a worker; its exit is then expected."""
        worker.killed = True
        self.kill_worker(worker.pid, signal.SIGKILL)

    def _restore_priority(self, worker: Any) -> None:
        if worker.low_priority:
            worker.low_priority = False
            worker.pending_session_nice = self._session_nice()
            self._renice_session(worker)
            priority.set_slice(worker.pid, 0)
            if not priority.renice(worker.pid, self._nice):
                self.log.warning(
                    "The niceness of worker (pid:%s) can't be set back to %d. Set LimitNICE= in the unit, "
                    "or handover_boot_nice = 0.",
                    worker.pid,
                    self._nice,
                )

    def _session_nice(self) -> int:
        """The niceness of a serving worker's session."""
        return priority.shared_niceness(self.num_workers)

    def _renice_session(self, worker: Any) -> None:
        if worker.pending_session_nice is not None and priority.renice_session(worker.pid, worker.pending_session_nice):
            worker.pending_session_nice = None

    def _check_boots(self) -> None:
        now = time.monotonic()
        for worker in self.workers():
            self._renice_session(worker)
            if worker.killed or worker.retired_at is not None:
                continue
            if worker.board.state is State.STANDBY:
                # while it waits for the others: once admitted, it must be as fast as they are
                self._restore_priority(worker)
                self._check_admitted(worker, now)
            if worker.board.state >= State.STANDBY:
                continue
            limit = worker.cfg.handover_boot_timeout
            took = now - worker.forked_at
            # only at the service's start: a reload restores a starving boot's priority, and its caller has a timeout
            waited = 0.0 if self._complete else priority.cpu_wait(worker.pid)
            if worker.board.state is State.WARMING:
                self._check_warmup(worker, now)
            elif took > limit and (reason := _overdue(took, waited, limit)):
                worker.board.record_failure(reason)
                self.log.error("Worker (pid:%s) is %s; killing it", worker.pid, reason)
                self.kill(worker)
                self._boot_failed(worker, worker.board.failure)
            if (
                worker.low_priority
                and not worker.killed
                and (priority.cpu_wait(worker.pid) > MAX_CPU_WAIT or took > limit / 4)
            ):
                # starved: on a machine that is never idle, the nicest process gets almost no processor time
                self._restore_priority(worker)

    def _check_admitted(self, worker: Any, now: float) -> None:
        """A worker that is admitted becomes ready at once, unless the application blocks its event loop. It sends no
        heartbeats yet, so that Gunicorn doesn't notice."""
        took = 0.0 if worker.admitted_at is None else now - worker.admitted_at
        if took > min(worker.cfg.timeout or math.inf, worker.cfg.handover_boot_timeout):
            reason = f"the application has blocked the event loop for {took:.0f} s after its startup"
            worker.board.record_failure(reason)
            self.log.error("Worker (pid:%s): %s; killing it", worker.pid, reason)
            self.kill(worker)
            self._boot_failed(worker, reason)

    def _check_warmup(self, worker: Any, now: float) -> None:
        """The worker limits its warm-up itself, unless the application blocks its event loop."""
        if worker.warming_since is None:
            worker.warming_since = now, priority.cpu_wait(worker.pid)
        began, waited = worker.warming_since
        limit = worker.cfg.handover_warmup_timeout + WARMUP_GRACE
        took = now - began
        if took - (priority.cpu_wait(worker.pid) - waited) > limit or took > BUSY_FACTOR * limit:
            reason = f"the warm-up has blocked the event loop for {took:.0f} s (handover_warmup_timeout)"
            self.log.error("Worker (pid:%s): %s; killing it", worker.pid, reason)
            self.kill(worker)
            self._warmup_failed(worker, reason)

    def _warmup_failed(self, worker: Any, reason: str) -> None:
        """Handles a warm-up that ended its worker."""
        if worker.cfg.handover_warmup_required:
            self._boot_failed(worker, reason)
        elif worker.cfg.handover_warmup_paths:
            # the other workers share this configuration object
            worker.cfg.set("handover_warmup_paths", [])
            self.log.warning("Workers are not warmed up until the next reload: %s", reason)

    def _end_boots(self) -> None:
        """During a stop: kills workers that still start up or warm up, which have nothing to finish."""
        if time.monotonic() - self._stopped_at > BOOT_GRACE:
            for worker in self.workers():
                if worker.board.state < State.STANDBY:
                    self.kill_worker(worker.pid, signal.SIGKILL)

    def _kill_overdue_drains(self) -> None:
        now = time.monotonic()
        for worker in self.workers():
            if worker.board.state is State.DRAINING and worker.retired_at is None:
                worker.retired_at = now
            limit = worker.cfg.graceful_timeout + worker.cfg.handover_exit_timeout
            if worker.retired_at is None or worker.killed:
                continue
            if worker.board.state < State.STANDBY:
                # it has nothing to finish, and a lifespan startup that waits for something doesn't end
                limit = BOOT_GRACE
            if now - worker.retired_at > limit - worker.cfg.handover_exit_timeout / 2:
                # on a machine that is never idle, the nicest process would not finish in time
                self._restore_priority(worker)
            if now - worker.retired_at > limit:
                self.log.warning("Worker (pid:%s) has not exited after %g s; killing it", worker.pid, limit)
                self.kill(worker)

    def _maintain_workers(self) -> None:
        alive = self._unretired()
        booting = [worker for worker in alive if worker.board.state < State.READY]
        serving = [worker for worker in alive if worker.board.state is State.READY]
        fresh = [worker for worker in serving if not worker.board.to_be_replaced]
        if len(fresh) >= self.num_workers:
            if time.monotonic() - self._failed_at > STABLE_AFTER:
                self._failures = 0
            for worker in serving:
                if worker.board.to_be_replaced:
                    self.retire(worker)
            if surplus := len(fresh) - self.num_workers:
                # a worker that may hang first: the others might be the only ones that serve
                for worker in sorted(fresh, key=_is_silent, reverse=True)[:surplus]:
                    self.retire(worker)
            if not self._complete:
                self._complete = self._notify_ready = True
        elif time.monotonic() >= self._next_spawn:
            missing = self.num_workers - len(fresh) - len(booting)
            # low priority only if it replaces a worker that still serves: a missing one is urgent
            low_priority = len(serving) >= self.num_workers
            for _ in range(min(missing, self.free_boots(booting, low_priority=low_priority))):
                try:
                    self.spawn(self.generation, low_priority=low_priority)
                except Exception as error:  # from fork, or from a hook of the configuration
                    failure = f"no worker could be started: {describe(error)}"
                    if self._complete:
                        self._back_off(failure)
                    else:
                        self._boot_failure = failure
                    return

    def ensure_workers(self) -> bool:
        """Starts missing workers. Returns whether all workers are ready."""
        self._maintain_workers()
        ready = [worker for worker in self._unretired() if worker.board.state is State.READY]
        return bool(len(ready) >= self.num_workers)

    def _handle_exit(self, worker: Any, wait_status: int) -> None:
        state = worker.board.state
        # an expected SIGKILL isn't the OOM killer's
        expected = self.stopping or worker.killed or (worker.retired_at is not None and state < State.READY)
        how = _describe(wait_status) if expected else self._exit_reason(wait_status)
        failure = worker.board.failure or how
        worker.tmp.close()
        worker.board.close()
        accept.forget(worker.age)
        try:
            forks.kill(worker.pid)
        except OSError as error:  # no descriptor or memory is free
            self.log.error("Processes that worker (pid:%s) has forked may still run: %s", worker.pid, error)
        self._clear_gauges(worker.cfg)
        try:
            self.cfg.child_exit(self, worker)
        except (Exception, SystemExit):
            self.log.exception("The hook child_exit raised; the master continues")
        served = time.monotonic() - worker.forked_at
        if expected:
            self.log.info("Worker (pid:%s) %s", worker.pid, how)
        elif state is State.WARMING:
            self.log.error("Worker (pid:%s) exited during its warm-up: %s", worker.pid, failure)
            self._warmup_failed(worker, failure)
        elif state < State.READY:
            self.log.error("Worker (pid:%s) failed to boot: %s", worker.pid, failure)
            self._boot_failed(worker, failure)
        elif state is State.DRAINING and wait_status == 0:
            self.log.info("Worker (pid:%s) has exited", worker.pid)
        else:
            self.log.error("Worker (pid:%s) %s", worker.pid, how)
            # a single crash is replaced immediately, a series of them with a growing delay
            if served < STABLE_AFTER and self._failures:
                self._back_off(how)
            elif served < STABLE_AFTER:
                self._failures, self._failed_at = 1, time.monotonic()

    def _clear_gauges(self, cfg: Any) -> None:
        """Clears the gauges of workers that have exited, including those of an earlier master."""
        if cfg.handover_metrics_directory and os.path.isdir(cfg.handover_metrics_directory):
            try:
                metrics.clear_gauges(cfg.handover_metrics_directory)
            except OSError as error:
                self.log.error("The gauges of exited workers can't be removed from the metrics: %s", error)

    def _exit_reason(self, wait_status: int) -> str:
        """How a process exited that the master had not told to exit, as text."""
        how = _describe(wait_status)
        if os.waitstatus_to_exitcode(wait_status) != -signal.SIGKILL:
            return how
        before, self._oom_kills = self._oom_kills, priority.oom_kills()
        how += " (out of memory?)"
        if before is None or self._oom_kills is None:
            return how
        return f"{how}: {'yes' if self._oom_kills > before else 'no'}, by the kernel's count"

    def _boot_failed(self, worker: Any, failure: str) -> None:
        if self._reload is not None and worker.generation > self.generation:
            self._reload.fail(f"worker (pid:{worker.pid}) failed to boot: {failure}")
        elif not self._complete:
            self._boot_failure = f"Worker (pid:{worker.pid}) failed to boot: {failure}"
        else:
            self._back_off(failure)

    def _back_off(self, failure: str) -> None:
        if time.monotonic() < self._next_spawn:
            return  # several workers were started together and have the same failure
        delay = min(BACKOFF_MAX, BACKOFF_FIRST * 2 ** min(self._failures, BACKOFF_DOUBLINGS))
        self._failures += 1
        self._failed_at = time.monotonic()
        self._next_spawn = self._failed_at + delay
        self.log.error("Retrying in %g s: %s", delay, failure)

    # Reloads

    def _begin_reload(self) -> None:
        self._reload_requested = False
        self._reloads += 1
        self.notifier.reloading()
        sys.path_importer_cache.clear()
        importlib.invalidate_caches()
        requested, began = time.time(), time.monotonic()
        try:
            self._reload = Reload(self, self._reloads)
        except Exception as error:  # no process or file descriptor is available
            failure = f"it could not start: {describe(error)}"
            self.log.error("Reload %d failed: %s. The workers keep serving.", self._reloads, failure)
            self._record_reload(self._reloads, requested, began, failure)
            return
        self.log.info("Reload %d started", self._reloads)

    def load_configuration(self) -> None:
        """Reloads the configuration into `self.app`. Raises, or exits, if it is invalid."""
        addresses = self.cfg.address
        # first undo what the old configuration added to the environment
        for name in self.cfg.env:
            os.environ.pop(name, None)
            if name in self.cfg.env_orig:
                os.environ[name] = self.cfg.env_orig[name]
        self.app.reload()
        if not self.systemd and self.app.cfg.address != addresses:
            raise RuntimeError("A reload can't change `bind`. Restart the service for that.")
        # these properties are evaluated, and raise, only when read
        _ = self.app.cfg.worker_class, self.app.cfg.logger_class, self.app.cfg.env

    def try_configuration(self) -> None:
        """Does the rest of what a start would do, in a child that exits afterwards. Raises if a start would fail."""
        cfg = self.app.cfg
        for name in ("check_config", "print_config"):
            if cfg.settings[name].get():
                raise RuntimeError(f"{name}: a start would exit without serving. Leave it off.")
        try:
            cfg.logger_class(cfg)
        except Exception as error:
            raise RuntimeError(f"{_log_setting(cfg, error)}: {describe(error)}") from error
        try:
            WorkerTmp(cfg).close()
        except Exception as error:
            raise RuntimeError(f"worker_tmp_dir: {describe(error)}") from error
        if cfg.pidfile:
            if not os.access(os.path.dirname(os.path.abspath(cfg.pidfile)), os.W_OK) or os.path.isdir(cfg.pidfile):
                raise RuntimeError(f"pidfile: {cfg.pidfile} can't be written")
            if (owner := Pidfile(cfg.pidfile).validate()) and owner != self.pid:
                raise RuntimeError(f"pidfile: {cfg.pidfile} is that of another process (pid:{owner})")

    def apply_configuration(self) -> None:
        """Applies the configuration on disk to the master. Raises, or exits, if it is invalid."""
        self.load_configuration()
        self.setup(self.app)
        self.log.reopen_files()
        self.cfg.on_reload(self)

    @contextlib.contextmanager
    def interruptible(self, deadline: float) -> Iterator[None]:
        """Raises LoadInterrupted in the block once it has taken longer than LOAD_GRACE and a signal is pending or a
        worker has exited, and at `deadline` (monotonic seconds) in any case."""

        def look(*_: Any) -> None:
            if armed and (self._signal_pending or time.monotonic() > deadline or any(map(_has_exited, self.WORKERS))):
                raise LoadInterrupted

        armed = True
        previous = signal.signal(signal.SIGALRM, look)
        signal.setitimer(signal.ITIMER_REAL, LOAD_GRACE, 2 * TICK)
        try:
            yield
        finally:
            # never interrupt what follows the block
            armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)

    def _finish_reload(self, reload: Reload) -> None:
        self._reload = None
        if reload.error is None:
            self._failures = 0
            self._next_spawn = 0.0
            took = time.monotonic() - reload.began
            self.log.info("Reload %d done in %.1f s: generation %d serves", reload.number, took, self.generation)
        self._record_reload(reload.number, reload.requested_at, reload.began, reload.error)

    def _record_reload(self, number: int, requested: float, began: float, error: str | None) -> None:
        """Records a reload's outcome for the status, and schedules the notification of the service manager."""
        self._last_reload = {
            "number": number,
            "requested_at": _utc(requested),
            "began_monotonic": began,
            "outcome": "failed" if error else "ok",
            "error": error,
            "duration_seconds": round(time.monotonic() - began, 3),
        }
        self._notify_ready = True

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
                "start_ticks": self._start_ticks,
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
            self._write_error = ""
        except OSError as error:
            if str(error) != self._write_error:  # every change is a new attempt, many times a second
                self._write_error = str(error)
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


def _is_silent(worker: Any) -> bool:
    """Whether a worker's heartbeats have stopped."""
    return time.monotonic() - float(worker.tmp.last_update()) > SILENT


def _overdue(took: float, waited: float, limit: float) -> str:
    """Why a boot is over its limit, as text; empty while it may continue. All times are in seconds.

    Time spent waiting for a processor doesn't count, up to BUSY_FACTOR times the limit: a busy machine isn't the
    application's fault.
    """
    if took - waited <= limit and took <= BUSY_FACTOR * limit:
        return ""
    more = (
        f" and {took - limit:.0f} s more for the {waited:.0f} s that it waited for a processor" if waited >= 1 else ""
    )
    return f"not ready after {limit:g} s (handover_boot_timeout){more}"


def _log_setting(cfg: Any, error: Exception) -> str:
    """The setting that makes the logger fail with `error`; several if it isn't clear."""
    names = ("errorlog", "accesslog", "logconfig", "logconfig_json", "logconfig_dict", "syslog_addr")
    settings = [cfg.settings[name] for name in names]
    changed = [setting for setting in settings if setting.get() != setting.default and setting.get() != "-"]
    named = [setting for setting in changed if str(setting.get()) in str(error)]
    return ", ".join(setting.name for setting in named or changed or settings)


def _has_exited(pid: int) -> bool:
    """Whether a child has exited, without reaping it."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False


def _describe(wait_status: int) -> str:
    """How a process exited, as text."""
    code = os.waitstatus_to_exitcode(wait_status)
    if code >= 0:
        return f"exited with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}"
