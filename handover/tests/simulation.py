"""One worker in simulated time, in the tests' process. The worker, Uvicorn, the sockets and the clients are real; only
the clocks, the master and the processes that the application has forked are simulated. So a test of pauses and limits
takes milliseconds, and its result doesn't depend on the machine."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import re
import selectors
import signal
import socket
import ssl
import types
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import gunicorn.config
import pytest
import websockets

import gunicorn_handover.settings
from gunicorn_handover import asgi, forks, turns, warmup, worker
from gunicorn_handover.board import DrainReason, State
from gunicorn_handover.logs import HandoverLogger

assert gunicorn_handover.settings
STEP = 1 / 64  # seconds; the simulated clock advances by multiples of it, and is exact
PID = 2**23  # above the largest that Linux gives: no file of /proc is one of this worker's processes'
MASTER = 4000  # its pid
LIMIT = 3600.0  # seconds in which a worker must exit
CLOSE_FRAME = re.compile(rb"\x88.\x03\xf4")  # RFC 6455: of a server, with the code 1012
SPINS = 10_000  # iterations of the event loop in which no time passes, at most

Script = Callable[["Life"], Awaitable[None]]


class Clock:
    """The simulated time, in seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        """Lets at least `seconds` pass."""
        self.now += math.ceil(seconds / STEP) * STEP


class Selector(selectors.DefaultSelector):
    """Lets time pass instead of waiting."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._end = clock.now + LIMIT
        self._spins = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if found or (timeout is not None and timeout <= 0):
            self._spins += 1
            assert self._spins < SPINS, "the event loop is busy, and no time passes"
            return found
        assert timeout is not None, "nothing can happen any more"
        self._spins = 0
        self._clock.sleep(timeout)
        assert self._clock.now < self._end, "the worker doesn't exit"
        return found


class Loop(asyncio.SelectorEventLoop):
    """An event loop on the simulated clock."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(Selector(clock))
        self._simulated = clock
        self.clients: list[Client] = []

    def time(self) -> float:
        return self._simulated.now

    def close(self) -> None:
        """Closes all connections, too, so that no descriptor is left to the garbage collector."""
        if not self.is_closed():
            for client in self.clients:
                client.abort()
            self.run_until_complete(asyncio.sleep(STEP))
        super().close()


class Client:
    """A connection to the worker."""

    def __init__(self, clock: Clock, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clock = clock
        self._reader, self._writer = reader, writer

    async def start_tls(self, context: ssl.SSLContext) -> None:
        await self._writer.start_tls(context, server_hostname="localhost")

    def send(self, path: str = "/", headers: str = "") -> None:
        """Sends a request, with further headers."""
        self._writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode())

    async def receive(self) -> tuple[int, dict[str, str]]:
        """The status and headers of the next response."""
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.splitlines()
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
        await self._reader.readexactly(int(headers["content-length"]))
        return int(first.split()[1]), headers

    async def get(self, path: str = "/", headers: str = "") -> tuple[int, dict[str, str]]:
        """The status and headers of the response to a request."""
        self.send(path, headers)
        return await self.receive()

    async def upgrade(self) -> None:
        """Opens a WebSocket. Nothing reads its messages, unless `read` is called."""
        headers = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        self._writer.write(f"GET / HTTP/1.1\r\nHost: localhost\r\n{headers}{key}\r\n".encode())
        assert b" 101 " in await self._reader.readline()

    async def read(self) -> bytes:
        """Reads until the worker closes the connection or sends a close frame. Returns the end of it."""
        received = b""
        while (part := await self._reader.read(2**16)) and not CLOSE_FRAME.search(received := received[-100:] + part):
            pass
        return received

    def close(self) -> None:
        self._writer.close()

    def abort(self) -> None:
        self._writer.transport.abort()

    async def closed(self) -> float:
        """The time at which the worker closes the connection."""
        with contextlib.suppress(ConnectionError):
            assert await self._reader.read() == b""
        return self._clock.now


class Worker(worker.HandoverWorker):
    """The worker, with a script beside it."""

    life: Life

    def notify(self) -> None:
        self.life.heartbeats.append(self.life.clock.now)

    async def _serve(self) -> None:
        self.life.script = asyncio.create_task(self.life.act())
        await super()._serve()


class Life:
    """A worker's life: from its start until its process would exit."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch, application: Any, **settings: Any) -> None:
        self.clock = Clock()
        self.parent = MASTER
        self.ended = False
        self.heartbeats: list[float] = []
        self.forked: list[int] = []  # processes that the application has forked; they ignore SIGTERM
        self.signals: list[tuple[float, int, int]] = []  # that these got: time, pid and number
        self.log_file = root / "log"
        self.socket = root / "sock"
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.socket))
        self.listener.listen(512)
        self.listener.setblocking(False)
        self.held = self.listener.dup()  # as by the service manager
        self._loop: Loop | None = None
        self.act: Callable[[], Coroutine[Any, Any, None]]
        self.script: asyncio.Task[None] | None = None
        self._patch(patch)
        cfg = gunicorn.config.Config()
        # the test's process must not get another priority
        defaults = {"errorlog": str(self.log_file), "handover_boot_nice": 0, "graceful_timeout": 10, "keepalive": 2}
        for name, value in {**defaults, **settings}.items():
            cfg.set(name, value)
        sockets = [types.SimpleNamespace(sock=self.listener)]
        self.worker = Worker(1, MASTER, sockets, None, cfg.timeout, cfg, HandoverLogger(cfg))
        self.worker.pid = PID
        self.worker.wsgi = application
        self.worker.config.callback_notify = None  # Uvicorn's heartbeat, by the machine's clock
        self.worker.life = self
        self.board = self.worker.board

    def _patch(self, patch: pytest.MonkeyPatch) -> None:
        clock = types.SimpleNamespace(
            monotonic=self.clock.time, perf_counter=self.clock.time, time=self.clock.time, sleep=self.clock.sleep
        )
        for module in (asgi, forks, turns, warmup, worker):
            patch.setattr(module, "time", clock)
        patch.setattr(worker, "loop_factory", lambda _: self._create_loop)
        patch.setattr(os, "getppid", lambda: int(str(self.parent)))  # another object each time
        patch.setattr(forks, "forked", lambda session: list(self.forked) if session == PID else [])
        patch.setattr(forks, "_kill", self._kill)

    def _kill(self, pid: int, number: int) -> None:
        self.signals.append((self.clock.now, pid, number))
        if number == signal.SIGKILL:
            self.forked.remove(pid)

    def _create_loop(self) -> Loop:
        self._loop = Loop(self.clock)
        return self._loop

    def run(self, script: Script) -> None:
        """Runs the worker and, in the same event loop, the script, which must tell it to exit. Returns when the process
        would exit."""

        async def act() -> None:
            try:
                await script(self)
            except BaseException:
                self.worker._server.quit()
                raise

        self.act = act
        try:
            self.worker.run()
        finally:
            self.ended = True
            if self.script is not None and self.script.done():
                self.script.result()
        assert self.script is not None
        assert self.script.done(), "the worker exits before the script ends"

    def close(self) -> None:
        self.listener.close()
        self.held.close()
        self.worker.tmp.close()
        if self._loop is not None and not self._loop.is_closed():
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.wait(tasks, timeout=1))
            self._loop.close()

    @property
    def server(self) -> Any:
        return self.worker._server

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    async def until(self, condition: Callable[[], Any]) -> None:
        """Waits until the condition is true."""
        while not condition():
            await asyncio.sleep(STEP)

    async def ready(self) -> None:
        """Admits the worker, and waits until it accepts connections."""
        self.board.admit()
        await self.until(lambda: self.board.state is State.READY)

    async def drain(self, reason: DrainReason = DrainReason.REPLACED) -> float:
        """Tells the worker to exit as the master does, and waits until it drains. Returns the time."""
        self.board.request_drain(reason)
        signal.raise_signal(signal.SIGTERM)
        await self.until(lambda: self.board.state is State.DRAINING)
        return self.clock.now

    def websocket(self) -> contextlib.AbstractAsyncContextManager[Any]:
        """Opens a WebSocket, as a context manager."""
        return websockets.unix_connect(str(self.socket), "ws://localhost/")

    async def request(self, path: str = "/") -> Client:
        """Sends a request on a new connection, and waits until the application handles it."""
        client = await self.connect()
        client.send(path)
        await self.until(lambda: self.server.server_state.tasks)
        return client

    async def connect(self) -> Client:
        reader, writer = await asyncio.open_unix_connection(str(self.socket))
        client = Client(self.clock, reader, writer)
        assert self._loop is not None
        self._loop.clients.append(client)  # nothing else keeps it open
        return client


@contextlib.contextmanager
def process_restored() -> Iterator[None]:
    """Restores what a worker changes in its process: signal handlers and loggers."""
    handlers = {number: signal.getsignal(number) for number in worker.HandoverWorker.SIGNALS}
    logs = [logging.getLogger(f"{server}.{kind}") for server in ("gunicorn", "uvicorn") for kind in ("error", "access")]
    states = [(list(log.handlers), log.level, log.propagate, log.disabled) for log in logs]
    last = logging.lastResort
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for log, state in zip(logs, states, strict=True):
            for added in set(log.handlers) - set(state[0]):
                added.close()
            log.handlers, level, log.propagate, log.disabled = state
            log.setLevel(level)
        logging.lastResort = last
