"""The worker: Uvicorn in a Gunicorn worker process, which reports its state to the master."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import importlib
import io
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker
from uvicorn.server import HANDLED_SIGNALS
from uvicorn_worker import UvicornWorker

from gunicorn_handover import forks, internals, metrics, priority, warmup
from gunicorn_handover.accept import Connections
from gunicorn_handover.asgi import ServedApplication
from gunicorn_handover.board import Board, State, describe
from gunicorn_handover.server import DrainingServer

BOOT_ERROR = Arbiter.WORKER_BOOT_ERROR
ADMISSION_TICK = 0.02  # seconds between two checks whether the master has admitted the worker
MASTER_SIGNALS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)  # to reload, reopen the logs and upgrade
# blocked from the fork until the worker has its own handlers: it would ignore them, or be killed by them
BLOCKED_IN_FORK = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, *MASTER_SIGNALS)
FORKS_TIMEOUT = 2.0  # seconds from SIGTERM to SIGKILL for processes that the application forked, at most
CANCEL_SHARE = 0.25  # of handover_exit_timeout, for cancelled tasks; the rest is for the lifespan and forked processes
HEARTBEAT = 0.5  # seconds between two heartbeats, at most
MOST_REQUEST_FIELDS = 32768  # Gunicorn's, for limit_request_fields = 0


class HandoverWorker(UvicornWorker):
    """Created in the master before the fork; `init_process` and what it calls run in the worker."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        umask = os.umask(0o077)
        os.umask(umask)
        try:
            super().__init__(*args, **kwargs)
        finally:
            os.umask(umask)  # if Gunicorn can't create the worker's file, it leaves another one
        self.board = Board()
        self._record_heartbeat()
        # Gunicorn's file fails with its file system, and begins with the wall clock's time
        self.tmp.notify = self._record_heartbeat
        self.tmp.last_update = lambda: self.board.last_heartbeat
        # Used only by the master.
        self.generation = 0
        self.release: str | None = None
        self.since = time.time()
        self.forked_at = time.monotonic()
        self.admission_began: float | None = None
        self.admitted_at: float | None = None
        self.retired_at: float | None = None
        self.killed = False
        self.low_priority = False
        # when, and how much processor time the boot had then wanted; whether it wanted most of the time before
        self.boot_demand = time.monotonic(), 0.0
        self.boot_is_busy = True
        self.warming_since: tuple[float, float] | None = None  # and the seconds it had waited for a processor by then
        self.pending_session_nice: int | None = None  # still to be set
        self.oom_score: int | None = None

        self.config.http = self.cfg.handover_http
        # max_requests is checked in _heartbeat instead: the worker is to exit only once its replacement is ready
        self.config.limit_max_requests = None

    def _record_heartbeat(self) -> None:
        self.board.last_heartbeat = time.monotonic()

    def init_signals(self) -> None:
        super().init_signals()
        # signals for the master; an empty handler, as programs that the application starts would inherit SIG_IGN
        for number in (signal.SIGHUP, signal.SIGUSR2):
            signal.signal(number, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED_IN_FORK)

    def init_process(self) -> None:
        os.setsid()  # see priority.renice_session
        pin_release()
        forks.isolate(self.sockets)
        try:
            # Gunicorn's method, not UvicornWorker's: some versions of that set up an event loop in a way that some
            # versions of Uvicorn refuse.
            Worker.init_process(self)
        except BaseException as error:
            if self.board.state >= State.READY:
                raise
            self.board.record_failure(describe(error))
            if not isinstance(error, Exception):
                raise
            self.log.exception("The application could not be started.")
            sys.exit(BOOT_ERROR)

    def load_wsgi(self) -> None:
        if self.cfg.handover_metrics_directory:
            metrics.prepare(self.cfg.handover_metrics_directory, self.log)
        super().load_wsgi()

    def run(self) -> None:
        runner = asyncio.Runner(loop_factory=loop_factory(self.cfg.handover_loop))
        try:
            self._run_to_the_end(runner.get_loop())
        finally:
            self._close(runner)
            # the interpreter restores the default handlers when it exits: a request to reopen the logs would kill it
            signal.pthread_sigmask(signal.SIG_BLOCK, MASTER_SIGNALS)
        self.log.write_access()
        forks.terminate(self.pid, min(FORKS_TIMEOUT, self.cfg.handover_exit_timeout / 2))
        # this worker serves nothing any more: the interpreter's cleanup must not slow those that do
        if (nice := self.cfg.handover_boot_nice) and not self.board.service_stops and self.board.drain_reason:
            usual = priority.niceness()
            if priority.can_renice_to(usual):
                priority.renice(self.pid, nice)
            priority.renice_session(self.pid, nice)
            priority.set_slice(self.pid, priority.LONGEST_SLICE)
            if self.board.service_stops:  # set in the meantime
                priority.renice(self.pid, usual)
                priority.renice_session(self.pid, 0)
                priority.set_slice(self.pid, 0)
        flush_files()
        gc.freeze()  # the interpreter's last collections took most of the time of an exit

    def _run_to_the_end(self, loop: asyncio.AbstractEventLoop) -> None:
        """Runs the server until it has drained, also if the application exits in a task or callback of its own."""
        serving = loop.create_task(self._serve())
        while True:
            try:
                return loop.run_until_complete(serving)
            except (SystemExit, KeyboardInterrupt) as error:
                if serving.done() or self.board.state < State.READY:
                    raise
                self.log.error("Worker (pid:%s) drains, as the application raised %r", self.pid, error)
                self._server.should_exit = True

    def _close(self, runner: asyncio.Runner) -> None:
        """Cancels the remaining tasks and closes the loop. If a task ignores its cancellation (also a warm-up request),
        the loop stays open: closing it would wait for the task until the master kills the process."""
        loop = runner.get_loop()
        if tasks := asyncio.all_tasks(loop):
            for task in tasks:
                if not task.cancelling():  # a second cancellation would interrupt its cleanup
                    task.cancel()
            loop.run_until_complete(asyncio.wait(tasks, timeout=self.cfg.handover_exit_timeout * CANCEL_SHARE))
        if uncancelled := [task for task in tasks if not task.done()]:
            self.log.warning(
                "Worker (pid:%s) exits with %d tasks that ignore their cancellation", self.pid, len(uncancelled)
            )
        else:
            runner.close()

    async def _serve(self) -> None:
        internals.check_protocol(self.cfg.handover_http)
        self.log.restore_loggers()
        self._context = contextvars.copy_context()  # the context of requests; the lifespan's task has another one
        config = self.config
        config.app = self.wsgi
        config.load()
        application = ServedApplication(
            config.loaded_app,
            gate=self._wait_for_admission,
            on_failure=self.board.record_failure,
            access_line=self.log.access_line if self.log.logs_access else None,
            limit_request_fields=self.cfg.limit_request_fields or MOST_REQUEST_FIELDS,
            urgent_paths=[path.partition("?")[0] for path in self.cfg.handover_urgent_paths],
        )
        config.loaded_app = application
        idle_timeout = self.cfg.handover_idle_timeout
        self._server = DrainingServer(
            config,
            application,
            connections=Connections(self.age),
            on_ready=self._on_ready,
            on_drain=self._on_drain,
            heartbeat=self._heartbeat,
            heartbeat_interval=min(HEARTBEAT, self.cfg.timeout / 4) if self.cfg.timeout else HEARTBEAT,
            graceful_timeout=self.cfg.graceful_timeout,
            idle_timeout=self.cfg.keepalive + 1 if idle_timeout is None else idle_timeout,
            websocket_grace=self.cfg.handover_websocket_grace,
            websocket_spread=self.cfg.handover_websocket_spread,
        )
        forks.isolate_connections(self._server.descriptors)
        self._event_loop = asyncio.get_running_loop()
        self._event_loop.add_signal_handler(signal.SIGQUIT, self._server.quit)
        self._wrap_loop_handlers()
        self._guard_loop_stop()
        # uvloop accepts only sockets, not Gunicorn's wrappers
        await self._server.serve(sockets=[listener.sock for listener in self.sockets])
        if not self._server.started:
            sys.exit(BOOT_ERROR)

    async def _wait_for_admission(self, application: Any, state: dict[str, Any]) -> str | None:
        """Delays the lifespan's reply, and so the first accept, until the worker is warmed up and the master admits it.
        Returns why it must not accept at all; None if it may."""
        if self.cfg.handover_warmup_paths:
            self.board.state = State.WARMING
            self.log.restore_loggers()
            warm_up = warmup.Warmup.from_config(self.cfg, self._context, self._must_exit)
            failure = await warm_up.run_and_log(application, state, self.log)
            if failure and self.cfg.handover_warmup_required and not self._must_exit():
                return failure
        # What the worker has loaded stays: full collections, which stop it for tens of milliseconds, leave it out.
        gc.collect()
        gc.freeze()
        self.board.state = State.STANDBY
        while not self.board.admitted and not self._must_exit():
            await asyncio.sleep(ADMISSION_TICK)
        return None

    def _must_exit(self) -> bool:
        return bool(self._server.should_exit or self.board.drain_reason) or os.getppid() != self.ppid

    def _on_ready(self) -> None:
        self.notify()  # from now on `timeout` applies, also to an event loop that is blocked before its next iteration
        self.log.restore_loggers()
        self.board.state = State.READY
        self.log.info("Worker (pid:%s) is ready", self.pid)

    def _on_drain(self) -> None:
        # if only this worker is replaced, the others accept what is queued
        last = self.board.service_stops or os.getppid() != self.ppid
        self._server.private_sockets = self.board.private_sockets and last
        self.board.state = State.DRAINING

    def _wrap_stop_handlers(self) -> None:
        """Starts the drain before the application's own handlers of signals to stop. What these raise, usually
        SystemExit, would end the event loop and all requests."""
        for number in HANDLED_SIGNALS:
            theirs = signal.getsignal(number)
            if theirs is not None and not forks.is_servers(theirs):
                signal.signal(number, self._stop_handler(theirs))

    def _wrap_loop_handlers(self) -> None:
        """Wraps the handlers that the application adds to the event loop in the same way."""
        add = self._event_loop.add_signal_handler

        def add_signal_handler(number: int, callback: Callable[..., Any], *args: Any) -> None:
            if number in HANDLED_SIGNALS:
                add(number, self._stop_handler(lambda *_: callback(*args)), number, None)
            else:
                add(number, callback, *args)

        remove = self._event_loop.remove_signal_handler

        def remove_signal_handler(number: int) -> bool:
            removed = remove(number)
            self._wrap_stop_handlers()  # the loop has restored the signal's default, which ends the process
            return removed

        self._event_loop.add_signal_handler = add_signal_handler  # type: ignore[assignment, method-assign]
        self._event_loop.remove_signal_handler = remove_signal_handler  # type: ignore[assignment, method-assign]

    def _guard_loop_stop(self) -> None:
        """Makes an application that stops the event loop, for example by a signal handler, drain the worker instead."""
        stop, serving = self._event_loop.stop, asyncio.current_task()

        def stop_or_drain() -> None:
            if serving is None or serving.done():
                stop()
            elif not self._server.should_exit:
                self.log.warning("The application has stopped the event loop; worker (pid:%s) drains", self.pid)
                self._server.should_exit = True

        self._event_loop.stop = stop_or_drain  # type: ignore[method-assign]

    def _stop_handler(self, theirs: Any) -> Callable[[int, FrameType | None], None]:
        def handle(number: int, frame: FrameType | None) -> None:
            self._server.handle_exit(number, frame)
            if not callable(theirs):
                return
            try:
                theirs(number, frame)
            except (SystemExit, KeyboardInterrupt):
                pass  # the drain ends in an exit
            except BaseException as error:
                self._event_loop.call_soon_threadsafe(
                    self.log.warning, "The application's signal handler raised %s", describe(error)
                )

        handle.application_handler = theirs  # type: ignore[attr-defined]
        return handle

    def _heartbeat(self, requests: int) -> None:
        self.notify()
        self._wrap_stop_handlers()  # the application may install its own at its startup, or at any later time
        if requests >= self.max_requests and not self.board.to_be_replaced:
            self.log.info("Worker (pid:%s) has served %d requests and asks to be replaced", self.pid, requests)
            self.board.request_replacement()
        if self.board.drain_reason:
            # the application has replaced the SIGTERM handler
            self._server.should_exit = True
        if os.getppid() != self.ppid and not self._server.should_exit:
            self.log.warning("The master of worker (pid:%s) has exited; draining", self.pid)
            self._server.should_exit = True


def flush_files() -> None:
    """Flushes all open files: a file in a reference cycle that isn't collected wouldn't be."""
    gc.unfreeze()  # frozen objects aren't listed
    for item in gc.get_objects():
        if issubclass(type(item), io.IOBase):
            with contextlib.suppress(Exception):
                item.flush()


def pin_release() -> None:
    """Resolves this process's import paths, so that it stays in the release that they lead to now.

    The master's paths go through a symbolic link, so that each fork gets the current release. What a worker imports or
    reads after the link has moved must still come from its own release.
    """
    sys.path[:] = [os.path.realpath(entry) if os.path.isabs(entry) else entry for entry in sys.path]
    for module in list(sys.modules.values()):
        search = getattr(module, "__dict__", {}).get("__path__")
        if isinstance(search, list):
            search[:] = [os.path.realpath(entry) for entry in search]
    for name in ("prefix", "exec_prefix"):
        setattr(sys, name, os.path.realpath(getattr(sys, name)))
    # only the folder: the executable itself links out of the release's venv, to the base Python
    folder, name = os.path.split(sys.executable)
    sys.executable = os.path.join(os.path.realpath(folder), name)
    # the caches inherited from the master may describe another release
    sys.path_importer_cache.clear()
    importlib.invalidate_caches()


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """The loop factory for the setting `handover_loop`. Raises ImportError if uvloop is set but not installed."""
    if name != "asyncio":
        with contextlib.suppress(ImportError) if name == "auto" else contextlib.nullcontext():
            import uvloop

            return uvloop.new_event_loop
    return asyncio.new_event_loop
