"""Uvicorn's server with a drain that never closes a connection on which a request may be in flight.

Uvicorn's own shutdown immediately closes every connection without a running request, even one that was just accepted,
or a keep-alive connection whose next request is in flight. Here a stopping server
  1. stops accepting; other processes accept new connections,
  2. continues to serve. Each new response says `Connection: close`, the only way to end an HTTP/1.1 connection without
     a race,
  3. closes a connection that has had no request for `idle_timeout`,
  4. cancels requests that still run after `graceful_timeout`, runs the lifespan shutdown and exits.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from uvicorn.config import Config
from uvicorn.server import HANDLED_SIGNALS, Server

from gunicorn_handover.accept import Acceptor, Connections
from gunicorn_handover.asgi import ServedApplication

TICK = 0.05  # seconds between two checks of the connections
QUEUE_TIMEOUT = 1.0  # seconds to accept queued connections, at most: new ones may keep arriving
CLOSE_TIMEOUT = 0.5  # seconds to close connections whose clients don't read, after graceful_timeout


class DrainingServer(Server):
    """The server of one worker. All times are in seconds."""

    def __init__(
        self,
        config: Config,
        application: ServedApplication,
        *,
        connections: Connections,
        on_ready: Callable[[], None],
        on_drain: Callable[[], None],
        heartbeat: Callable[[int], None],
        heartbeat_interval: float,
        graceful_timeout: float,
        idle_timeout: float,
        websocket_grace: float,
        websocket_spread: float,
    ) -> None:
        """`heartbeat` is called from the event loop with the number of requests served, so it stops if the
        loop hangs."""
        super().__init__(config)
        self.server_state.connections = connections
        self._connections = connections
        self._application = application
        self._on_ready = on_ready
        self._on_drain = on_drain
        self._heartbeat = heartbeat
        self._heartbeat_interval = heartbeat_interval
        self._graceful_timeout = graceful_timeout
        self._idle_timeout = idle_timeout
        self._websocket_grace = websocket_grace
        self._websocket_spread = websocket_spread
        self._restart_task: asyncio.Task[None] | None = None  # of the WebSockets
        self.private_sockets = False
        """Whether queued connections are lost unless this process accepts them. Set by `on_drain` at the latest."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # Uvicorn restores these at the end: a second SIGTERM, from a stop after a reload, must not interrupt the exit
        for number in HANDLED_SIGNALS:
            signal.signal(number, lambda *_: None)
        with super().capture_signals():
            # Libraries find this server through the bound method that is the signal handler, and watch `should_exit`:
            # sse-starlette then ends its streams, which may run until graceful_timeout. A function isn't bound.
            for number in HANDLED_SIGNALS:
                signal.signal(number, lambda sig, frame: self.handle_exit(sig, frame))
            yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Starts the drain. Uvicorn's own handler would raise the signal again at the end, and skip exit hooks."""
        self.should_exit = True

    def quit(self) -> None:
        """Exits immediately, without finishing requests or the lifespan shutdown."""
        self.should_exit = self.force_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[])
        if self.started:
            self._acceptor = Acceptor(sockets or [], self._create_protocol, self._connections, self.config.ssl)
            self._acceptor.start()
            # tasks are kept, as the loop has only weak references; its end cancels them
            self._heartbeat_task = asyncio.create_task(self._send_heartbeats())
            self._on_ready()

    def _create_protocol(self) -> asyncio.Protocol:
        protocol: Any = self.config.http_protocol_class
        connection: asyncio.Protocol = protocol(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return connection

    def descriptors(self) -> list[int]:
        """The descriptors of all connections."""
        transports = [connection.transport for connection in self._connections]
        open_ = [transport.get_extra_info("socket").fileno() for transport in transports]
        return [*open_, *self._acceptor.descriptors()] if self.started else open_

    async def main_loop(self) -> None:
        while True:
            try:
                return await super().main_loop()
            except asyncio.CancelledError:
                # by the application, which cancels all tasks when it is to stop
                uncancel()
                self.should_exit = True

    async def _send_heartbeats(self) -> None:
        while True:
            self._heartbeat(self.server_state.total_requests)
            await asyncio.sleep(self._heartbeat_interval)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._graceful_timeout
        self._on_drain()
        kept: list[Any] = [connection for connection in self.server_state.connections if had_request(connection)]
        self._application.drain(lambda scope: any(connection.scope is scope for connection in kept))
        if not self.force_exit:
            await self._drain(deadline)
            await self._end_websockets()
        self._acceptor.close()
        self._acceptor.abort()
        # Uvicorn does the rest: it cancels requests past their timeout, then runs the lifespan shutdown.
        # The timeout may be a float, whatever its annotation says.
        self.config.timeout_graceful_shutdown = max(deadline - loop.time(), TICK)  # type: ignore[assignment]
        await super().shutdown(sockets=None)

    async def _drain(self, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        if self.private_sockets:
            await self._accept_queued()
        self._acceptor.close()
        began = loop.time()
        websockets_end = began + self._websocket_grace
        idle: dict[Any, float] = {}
        last = began
        while (now := loop.time()) < deadline and not self.force_exit:
            # time during which this process was suspended doesn't count as the clients' idle time
            passed, last = min(now - last, 2 * TICK), now
            if self._restart_task is None and now >= websockets_end:
                spread = min(self._websocket_spread, deadline - now - CLOSE_TIMEOUT)
                self._restart_task = asyncio.create_task(self._application.restart_websockets(spread))
            connections = list(self.server_state.connections)
            # a TLS client may never complete its handshake
            pending = self._acceptor.has_pending and now - began <= self._idle_timeout
            if not connections and not pending:
                break
            for connection in connections:
                idle[connection] = 0.0 if is_busy(connection) else idle.get(connection, 0.0) + passed
                if idle[connection] > self._idle_timeout:
                    connection.shutdown()
            await pause(TICK)

    async def _accept_queued(self) -> None:
        """Accepts queued connections, which would be reset when the last process closes the sockets."""
        loop = asyncio.get_running_loop()
        end = loop.time() + QUEUE_TIMEOUT
        self._acceptor.is_greedy = True
        while self._acceptor.has_queued() and loop.time() < end and not self.force_exit:
            await pause(0.001)

    async def _end_websockets(self) -> None:
        """Closes the remaining WebSockets, and aborts those whose clients don't read, as their output never drains."""
        left = {connection for connection in self.server_state.connections if not hasattr(connection, "cycle")}
        for connection in left:
            connection.shutdown()
        loop = asyncio.get_running_loop()
        end = loop.time() + CLOSE_TIMEOUT
        while left & self.server_state.connections and loop.time() < end:
            await pause(TICK)
        for connection in left & self.server_state.connections:
            connection.transport.abort()
        await asyncio.sleep(0)


def uncancel() -> None:
    """Ignores the current task's cancellation."""
    task = asyncio.current_task()
    while task is not None and task.uncancel():
        pass


async def pause(seconds: float) -> None:
    """Sleeps, at most for `seconds`: a drain goes on even if the application cancels all tasks."""
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        uncancel()


def had_request(connection: Any) -> bool:
    """Whether the connection has carried an HTTP request, and isn't a WebSocket."""
    return getattr(connection, "cycle", None) is not None


def is_busy(connection: Any) -> bool:
    """Whether a request is running on the connection, or it is a WebSocket, which is closed separately."""
    if not hasattr(connection, "cycle"):
        return True
    return connection.cycle is not None and not connection.cycle.response_complete
