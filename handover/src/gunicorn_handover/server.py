"""Uvicorn's server with a drain that resets no connection on which a request may be on its way.

Uvicorn's own shutdown closes at once every connection without a request: also one that was accepted a moment ago, or
one kept alive whose next request is already under way. Here a server that stops
  1. takes itself off the sockets; other processes accept what comes next,
  2. serves on. Each response that begins now says `Connection: close`, which is the one way to end an HTTP/1.1
     connection without a race,
  3. closes a connection that has had no request for `idle_timeout`,
  4. cancels what still runs after `graceful_timeout`, runs the lifespan shutdown and ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from uvicorn.config import Config
from uvicorn.server import HANDLED_SIGNALS, Server

from gunicorn_handover.asgi import ServedApplication

TICK = 0.05  # seconds between two looks at the connections
SETTLE = 0.1  # seconds in which a connection that was just accepted comes to be known
QUEUE = 1.0  # seconds for what waits to be accepted, at most: new clients may come without end
CLOSING = 0.5  # seconds for the end of connections whose clients don't read, after graceful_timeout


class DrainingServer(Server):
    """A server for one worker. All times are in seconds."""

    def __init__(
        self,
        config: Config,
        application: ServedApplication,
        *,
        on_ready: Callable[[], None],
        on_drain: Callable[[], None],
        pulse: Callable[[int], None],
        pulse_interval: float,
        graceful_timeout: float,
        idle_timeout: float,
        websocket_grace: float,
        websocket_spread: float,
    ) -> None:
        """`pulse` is called with the number of requests served, from the event loop: it stops when the loop hangs."""
        super().__init__(config)
        self._application = application
        self._on_ready = on_ready
        self._on_drain = on_drain
        self._pulse = pulse
        self._pulse_interval = pulse_interval
        self._graceful_timeout = graceful_timeout
        self._idle_timeout = idle_timeout
        self._websocket_grace = websocket_grace
        self._websocket_spread = websocket_spread
        self._pulse_task: asyncio.Task[None] | None = None
        self.private_sockets = False
        """Whether what waits to be accepted is lost unless it is accepted here."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # what Uvicorn puts back in the end: a second word to go, in a stop after a reload, must not cut the exit short
        for number in HANDLED_SIGNALS:
            signal.signal(number, lambda *_: None)
        with super().capture_signals():
            # Libraries look up this server as the owner of the signal handler, and take `should_exit` for the end:
            # sse-starlette then cuts its streams, which have until graceful_timeout. A function has no owner.
            for number in HANDLED_SIGNALS:
                signal.signal(number, lambda sig, frame: self.handle_exit(sig, frame))
            yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Drains. Uvicorn's own would send itself the signal again in the end, and no exit hook would run."""
        self.should_exit = True

    def quit(self) -> None:
        """Ends at once, requests and lifespan shutdown or not."""
        self.should_exit = self.force_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self._pulse_task = asyncio.create_task(self._keep_pulse())
            self._on_ready()

    async def _keep_pulse(self) -> None:
        while True:
            self._pulse(self.server_state.total_requests)
            await asyncio.sleep(self._pulse_interval)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._graceful_timeout
        self._on_drain()
        kept: list[Any] = [connection for connection in self.server_state.connections if was_asked(connection)]
        self._application.drain(lambda scope: any(connection.scope is scope for connection in kept))
        if not self.force_exit:
            await self._drain(deadline)
            await self._end_websockets()
        # What is left goes Uvicorn's way: requests past their time are cancelled, then the lifespan ends.
        # It takes fractions of a second, whatever its annotation says.
        self.config.timeout_graceful_shutdown = max(deadline - loop.time(), TICK)  # type: ignore[assignment]
        # closing a server has closed its socket; Uvicorn would close it once more
        await super().shutdown(sockets=None)
        if self._pulse_task is not None:
            self._pulse_task.cancel()

    async def _drain(self, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        if self.private_sockets:
            await self._empty_queues()
        # asyncio sets a connection up some turns of the loop after it accepted it, and drops it when its server is
        # closed by then: so stop accepting first and close later. uvloop does both at once and ignores this.
        for server in self.servers:
            for listener in server.sockets:
                loop.remove_reader(listener.fileno())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for server in self.servers:
            server.close()

        began = loop.time()
        websockets_end = began + self._websocket_grace
        websockets: asyncio.Task[None] | None = None
        idle: dict[Any, float] = {}
        last = began
        while (now := loop.time()) < deadline and not self.force_exit:
            # a moment in which this process stood still is no idleness of its clients
            passed, last = min(now - last, 2 * TICK), now
            if websockets is None and now >= websockets_end:
                spread = max(0.0, min(self._websocket_spread, deadline - now - CLOSING))
                websockets = asyncio.create_task(self._application.restart_websockets(spread, lambda: self.force_exit))
            connections = list(self.server_state.connections)
            if not connections and now - began >= SETTLE:
                break
            for connection in connections:
                idle[connection] = 0.0 if is_busy(connection) else idle.get(connection, 0.0) + passed
                if idle[connection] > self._idle_timeout:
                    connection.shutdown()
            await asyncio.sleep(TICK)
        if websockets is not None:
            # not to be cancelled: `websockets` takes no cancellation while it closes, and would be waited for
            await asyncio.wait({websockets}, timeout=max(deadline - loop.time(), TICK))

    async def _empty_queues(self) -> None:
        """Accepts what waits: with the sockets' last process it would be reset."""
        loop = asyncio.get_running_loop()
        waiting = select.poll()
        for server in self.servers:
            for listener in server.sockets:
                waiting.register(listener.fileno(), select.POLLIN)
        end = loop.time() + QUEUE
        while waiting.poll(0) and loop.time() < end and not self.force_exit:
            await asyncio.sleep(0.001)

    async def _end_websockets(self) -> None:
        """Ends WebSockets that are left, also those whose clients don't read: what is written to them never leaves."""
        left = {connection for connection in self.server_state.connections if not hasattr(connection, "cycle")}
        if not left:
            return
        for connection in left:
            connection.shutdown()
        loop = asyncio.get_running_loop()
        end = loop.time() + CLOSING
        while left & self.server_state.connections and loop.time() < end:
            await asyncio.sleep(TICK)
        for connection in left & self.server_state.connections:
            connection.transport.abort()
        await asyncio.sleep(0)


def was_asked(connection: Any) -> bool:
    """Whether there has been a request on the connection, and it is no WebSocket."""
    return getattr(connection, "cycle", None) is not None


def is_busy(connection: Any) -> bool:
    """Whether a request runs on the connection, or it is a WebSocket: those are closed by other means."""
    if not hasattr(connection, "cycle"):
        return True
    return connection.cycle is not None and not connection.cycle.response_complete
