"""The worker: Uvicorn in a process of Gunicorn's, which tells its master where it is."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from gunicorn.workers.base import Worker
from uvicorn_worker import UvicornWorker

from gunicorn_handover import forks, internals, metrics, priority, warmup
from gunicorn_handover.asgi import ServedApplication
from gunicorn_handover.board import Board, State
from gunicorn_handover.server import DrainingServer

BOOT_ERROR = 3  # Gunicorn's exit code of a worker that could not boot
GATE_TICK = 0.02  # seconds between two looks for the master's word
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
FORKS_END = 2.0  # seconds that what the application forked has after SIGTERM, at most
CANCELLED = 0.25  # of handover_exit_timeout, for what is cancelled to end; the rest is the lifespan's and the forks'
PULSE = 0.5  # seconds between two signs of life, at most


class HandoverWorker(UvicornWorker):
    """Made in the master before the fork; `init_process` and what it calls run in the worker."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.board = Board()
        # The master's notes. They are of no meaning in the worker.
        self.generation = 0
        self.release: str | None = None
        self.since = time.time()
        self.forked_at = time.monotonic()
        self.retired_at: float | None = None
        self.condemned = False
        self.slowed = False
        self.warming_since: tuple[float, float] | None = None  # and how long it had waited for a processor by then
        self.session_nice: int | None = None  # that is still to be set
        self.oom_score: int | None = None

        self.config.http = self.cfg.handover_http
        # max_requests is watched here: a worker that has had its share goes when its successor is ready, not before
        self.config.limit_max_requests = None
        self._max_requests = self.cfg.max_requests and self.max_requests

    def init_signals(self) -> None:
        super().init_signals()
        # the master's words; a handler of no effect, as a program that the application starts would inherit SIG_IGN
        for number in (signal.SIGHUP, signal.SIGUSR2):
            signal.signal(number, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)

    def init_process(self) -> None:
        os.setsid()  # see priority.renice_session
        settle()
        forks.isolate(self.sockets)
        try:
            # Gunicorn's, past UvicornWorker's: some versions of that one set up an event loop in a way that some
            # versions of Uvicorn refuse.
            Worker.init_process(self)
        except BaseException as error:
            if self.board.state >= State.READY:
                raise
            self.board.explain(describe(error))
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
            runner.run(self._serve())
        finally:
            self._close(runner)
        self.log.write_access()
        forks.end(self.pid, min(FORKS_END, self.cfg.handover_exit_timeout / 2))
        # nothing is served from here on: what the interpreter tidies up must not slow those that serve
        if (nice := self.cfg.handover_boot_nice) and not self.board.stops and self.board.dismissed:
            usual = priority.niceness()
            if priority.may_return_to(usual):
                priority.renice(self.pid, nice)
            priority.renice_session(self.pid, nice)
            if self.board.stops:  # said between the two
                priority.renice(self.pid, usual)
                priority.renice_session(self.pid, 0)

    def _close(self, runner: asyncio.Runner) -> None:
        """Ends what still runs in the loop, and the loop: not where a task ignores its cancellation, be it a request of
        the warm-up's. The loop would wait for it, and the process until the master kills it."""
        loop = runner.get_loop()
        if tasks := asyncio.all_tasks(loop):
            for task in tasks:
                if not task.cancelling():  # a second time would cut short what it tidies up
                    task.cancel()
            loop.run_until_complete(asyncio.wait(tasks, timeout=self.cfg.handover_exit_timeout * CANCELLED))
        if deaf := [task for task in tasks if not task.done()]:
            self.log.warning("Worker (pid:%s) ends with %d tasks that ignore their cancellation", self.pid, len(deaf))
        else:
            runner.close()

    async def _serve(self) -> None:
        internals.check_protocol(self.cfg.handover_http)
        self.log.claim()
        self._context = contextvars.copy_context()  # as requests have it, and the lifespan's task has not
        config = self.config
        config.app = self.wsgi
        config.load()
        application = ServedApplication(
            config.loaded_app,
            gate=self._wait_for_admission,
            explain=self.board.explain,
            access_line=self.log.access_line if self.log.logs_access else None,
            urgent_paths=[path.partition("?")[0] for path in self.cfg.handover_urgent_paths],
        )
        config.loaded_app = application
        idle_timeout = self.cfg.handover_idle_timeout
        self._server = DrainingServer(
            config,
            application,
            on_ready=self._on_ready,
            on_drain=self._on_drain,
            pulse=self._pulse,
            pulse_interval=min(PULSE, self.cfg.timeout / 4) if self.cfg.timeout else PULSE,
            graceful_timeout=self.cfg.graceful_timeout,
            idle_timeout=self.cfg.keepalive + 1 if idle_timeout is None else idle_timeout,
            websocket_grace=self.cfg.handover_websocket_grace,
            websocket_spread=self.cfg.handover_websocket_spread,
        )
        asyncio.get_running_loop().add_signal_handler(signal.SIGQUIT, self._server.quit)
        # uvloop takes care only of what is a socket, not of what wraps one
        await self._server.serve(sockets=[listener.sock for listener in self.sockets])
        if not self._server.started:
            sys.exit(BOOT_ERROR)

    async def _wait_for_admission(self, application: Any, state: dict[str, Any]) -> str | None:
        """Holds the lifespan's answer back, and so the first accept, until the worker is warm and the master says go.
        Returns why it must never accept."""
        if self.cfg.handover_warmup_paths:
            self.board.state = State.WARMING
            self.log.claim()
            warm_up = warmup.Warmup.of(self.cfg, self._context, self._must_go)
            failure = await warm_up.report(application, state, self.log)
            if failure and self.cfg.handover_warmup_required and not self._must_go():
                return failure
        self.board.state = State.STANDBY
        while not self.board.admitted and not self._must_go():
            await asyncio.sleep(GATE_TICK)
        return None

    def _must_go(self) -> bool:
        return bool(self._server.should_exit or self.board.dismissed) or os.getppid() != self.ppid

    def _on_ready(self) -> None:
        self.log.claim()
        self._server.private_sockets = self.board.private
        self.board.state = State.READY
        self.log.info("Worker (pid:%s) is ready", self.pid)

    def _on_drain(self) -> None:
        self.board.state = State.DRAINING

    def _pulse(self, requests: int) -> None:
        self.notify()
        if self._max_requests and requests >= self._max_requests and not self.board.worn:
            self.log.info("Worker (pid:%s) has served %d requests and asks for a successor", self.pid, requests)
            self.board.wear_out()
        if self.board.dismissed and not self._server.should_exit:
            # the application has taken SIGTERM over
            self._server.should_exit = True
        if os.getppid() != self.ppid and not self._server.should_exit:
            self.log.warning("Worker (pid:%s) lost its master; draining", self.pid)
            self._server.should_exit = True


def settle() -> None:
    """Lets this process live in the release that the paths lead to now, whatever they lead to later.

    The master's paths go through a symbolic link, so that a fork finds the release of the day. What a worker imports
    or reads beside its code after the link has moved must still be its own release's.
    """
    sys.path[:] = [os.path.realpath(entry) if os.path.isabs(entry) else entry for entry in sys.path]
    for module in list(sys.modules.values()):
        search = getattr(module, "__dict__", {}).get("__path__")
        if isinstance(search, list):
            search[:] = [os.path.realpath(entry) for entry in search]
    for name in ("prefix", "exec_prefix"):
        setattr(sys, name, os.path.realpath(getattr(sys, name)))
    # the program itself is a link out of the release, to the Python that this one stands for
    folder, name = os.path.split(sys.executable)
    sys.executable = os.path.join(os.path.realpath(folder), name)
    # the fork brings the master's view of the disk, which may be that of another release
    sys.path_importer_cache.clear()
    importlib.invalidate_caches()


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """The factory of the setting `handover_loop`. Raises ImportError when uvloop is asked for and missing."""
    if name != "asyncio":
        with contextlib.suppress(ImportError) if name == "auto" else contextlib.nullcontext():
            import uvloop

            return uvloop.new_event_loop
    return asyncio.new_event_loop


def describe(error: BaseException) -> str:
    """An error in one line: why a boot failed, or a step of the master."""
    if isinstance(error, SystemExit):
        return f"the application called sys.exit({error.code!r}) while it started"
    detail = " ".join(str(error).split())
    return f"{type(error).__name__}: {detail}" if detail else type(error).__name__
