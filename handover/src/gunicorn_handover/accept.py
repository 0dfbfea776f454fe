"""Accepts a worker's connections, about as many as each other worker of its master.

An event loop accepts all queued connections at once. The first worker that wakes up would get most of a burst, or of
the connections that a proxy keeps open, and serve them on one processor while other workers are idle.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import select
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any

SLOTS = 256
PAUSE = 0.001  # seconds that a worker which is ahead leaves a connection to the others
LEAD = 1  # connections above the mean that a worker may have without being ahead
RETRY = 1.0  # seconds without accepting after an error, for example if no descriptor is free

_LOG = logging.getLogger("uvicorn.error")
# The connections of each worker that accepts, plus one; 0 for others. Mapped before the workers are forked, so that all
# of a master's share it.
_counts = memoryview(mmap.mmap(-1, 4 * SLOTS)).cast("I")


class Connections(set[Any]):
    """The connections of one worker, whose number the other workers see while it accepts."""

    def __init__(self, worker: int) -> None:
        """`worker` is the worker's number. Numbers that differ by a multiple of SLOTS share a place, which only makes
        the distribution less even."""
        super().__init__()
        self._slot = worker % SLOTS
        self._counted = False
        self._expected: set[Any] = set()

    def add(self, connection: Any) -> None:
        super().add(connection)
        self.expect_no_more(connection)

    def discard(self, connection: Any) -> None:
        super().discard(connection)
        self._publish()

    def expect(self, connection: Any) -> None:
        """Counts a connection that is being set up, and will be added."""
        self._expected.add(connection)
        self._publish()

    def expect_no_more(self, connection: Any) -> None:
        """The connection has been added, or its set-up has failed."""
        self._expected.discard(connection)
        self._publish()

    def count(self, counted: bool) -> None:
        """Sets whether this worker accepts."""
        self._counted = counted
        self._publish()

    def are_ahead(self) -> bool:
        """Whether this worker has clearly more connections than the mean of those that accept."""
        counts = _counts.tolist()
        return (counts[self._slot] - LEAD) * (SLOTS - counts.count(0)) > sum(counts)

    def _publish(self) -> None:
        _counts[self._slot] = len(self) + len(self._expected) + 1 if self._counted else 0


def forget(worker: int) -> None:
    """Clears the count of a worker that has exited."""
    _counts[worker % SLOTS] = 0


class Acceptor:
    """Accepts connections on listening sockets."""

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        create_protocol: Callable[[], asyncio.Protocol],
        connections: Connections,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listeners = list(listeners)
        self._create_protocol = create_protocol
        self._connections = connections
        self._tls = tls
        self._timers: dict[socket.socket, asyncio.TimerHandle] = {}
        self._pending: set[_SetUp] = set()
        self.is_greedy = False
        """Whether this worker accepts without regard for the others."""

    def descriptors(self) -> list[int]:
        """The descriptors of connections that aren't set up yet."""
        return [set_up.connection.fileno() for set_up in self._pending]

    @property
    def has_pending(self) -> bool:
        """Whether a connection has been accepted which isn't set up yet."""
        return bool(self._pending)

    def has_queued(self) -> bool:
        """Whether a connection can be accepted."""
        waiting = select.poll()
        for listener in self._listeners:
            waiting.register(listener, select.POLLIN)
        return bool(waiting.poll(0))

    def start(self) -> None:
        """Starts to accept."""
        for listener in self._listeners:
            listener.setblocking(False)
            self._loop.add_reader(listener, self._on_readable, listener)
        self._connections.count(True)

    def close(self) -> None:
        """Stops, and closes the listening sockets."""
        self._connections.count(False)
        for timer in self._timers.values():
            timer.cancel()
        while self._listeners:
            listener = self._listeners.pop()
            self._loop.remove_reader(listener)
            listener.close()

    def abort(self) -> None:
        """Closes connections that aren't set up yet: those of TLS clients that don't send what they must."""
        for set_up in self._pending:
            set_up.abort()

    def _on_readable(self, listener: socket.socket) -> None:
        if not self.is_greedy and self._connections.are_ahead():
            self._pause(listener, PAUSE)
        else:
            self._accept(listener)

    def _pause(self, listener: socket.socket, seconds: float) -> None:
        self._loop.remove_reader(listener)
        self._timers[listener] = self._loop.call_later(seconds, self._resume, listener)

    def _resume(self, listener: socket.socket) -> None:
        self._loop.add_reader(listener, self._on_readable, listener)
        # even if it is still ahead: the others may be blocked
        self._accept(listener)

    def _accept(self, listener: socket.socket) -> None:
        """Accepts one connection, if there is one."""
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            _LOG.error("No connection can be accepted for %g s: %s", RETRY, error)
            self._pause(listener, RETRY)
            return
        connection.setblocking(False)
        protocol = self._create_protocol()
        self._connections.expect(protocol)
        set_up = _SetUp(self._set_up(connection, protocol), loop=self._loop)
        set_up.connection = connection
        self._pending.add(set_up)
        set_up.add_done_callback(self._pending.discard)

    async def _set_up(self, connection: socket.socket, protocol: asyncio.Protocol) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: protocol, connection, ssl=self._tls)
        except OSError:
            pass  # the client has left, or its TLS handshake has failed
        finally:
            self._connections.expect_no_more(protocol)


class _SetUp(asyncio.Task[None]):
    """The set-up of an accepted connection. Applications that cancel all tasks don't end it."""

    connection: socket.socket

    def cancel(self, msg: Any = None) -> bool:  # noqa: ARG002
        return False

    def abort(self) -> None:
        super().cancel()
