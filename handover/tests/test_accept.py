"""How a worker accepts connections, and leaves them to others that have fewer."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gunicorn_handover import accept
from simulation import STEP, Life

pytestmark = pytest.mark.versions

Create = Callable[..., Life]
OTHERS = (101, 102, 103)  # numbers of other workers
BURST = 16


@pytest.fixture
def others() -> Iterator[Callable[[int], None]]:
    """Sets how many connections each of three other workers has."""

    def have(connections: int) -> None:
        for number in OTHERS:
            worker = accept.Connections(number)
            for connection in range(connections):
                worker.add(connection)
            worker.count(True)

    yield have
    for number in OTHERS:
        accept.forget(number)


async def accepted(one: Life) -> list[int]:
    """Opens connections at once. Returns how many the worker has after each step, until it has all of them."""
    counts: list[int] = []
    with contextlib.ExitStack() as stack:
        for _ in range(BURST):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(str(one.socket))
        while not counts or counts[-1] < BURST:
            await asyncio.sleep(STEP)
            counts.append(len(one.server.server_state.connections))
    return counts


def test_worker_that_is_alone_accepts_a_burst_at_once(life: Create) -> None:
    one = life()

    async def script(one: Life) -> None:
        await one.ready()
        assert await accepted(one) == [BURST]
        await one.drain()

    one.run(script)


@pytest.mark.parametrize(("connections", "at_once"), [(0, 2), (1, 3), (6, 8), (100, BURST)])
def test_worker_leaves_connections_to_those_that_have_fewer(
    life: Create, others: Callable[[int], None], connections: int, at_once: int
) -> None:
    """It accepts one at each step nevertheless: the others may be blocked."""
    one = life()

    async def script(one: Life) -> None:
        await one.ready()
        others(connections)
        assert await accepted(one) == list(range(at_once, BURST + 1))
        await one.drain()

    one.run(script)


def test_only_workers_that_accept_count(life: Create, others: Callable[[int], None]) -> None:
    """Neither one that drains, whatever it still has, nor one that has exited."""
    one = life()
    counted = accept.Connections(1)  # as the worker of the simulation

    async def script(one: Life) -> None:
        await one.ready()
        others(0)
        for _ in range(3):
            await one.connect()
        await one.until(lambda: len(one.server.server_state.connections) == 3)
        for number in OTHERS:
            assert counted.are_ahead()
            accept.forget(number)
        assert not counted.are_ahead()
        await one.drain()
        assert len(one.server.server_state.connections) == 3
        others(0)
        counted.count(True)  # with no connections of its own
        assert not counted.are_ahead()

    one.run(script)


def test_closed_connections_do_not_count(life: Create, others: Callable[[int], None]) -> None:
    one = life()

    async def script(one: Life) -> None:
        await one.ready()
        clients = [await one.connect() for _ in range(BURST)]
        await one.until(lambda: len(one.server.server_state.connections) == BURST)
        for client in clients:
            client.close()
        await one.until(lambda: not one.server.server_state.connections)
        others(0)
        assert await accepted(one) == list(range(2, BURST + 1))
        await one.drain()

    one.run(script)


def test_worker_accepts_again_after_an_error(life: Create, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection waits in the queue, as the errors mean that no descriptor or memory is free."""
    one = life()
    errors = [OSError(errno.EMFILE, os.strerror(errno.EMFILE)), BlockingIOError(), ConnectionAbortedError()]
    real = socket.socket.accept

    def accept_later(listener: socket.socket) -> Any:
        if errors:
            raise errors.pop(0)
        return real(listener)

    async def script(one: Life) -> None:
        await one.ready()
        monkeypatch.setattr(socket.socket, "accept", accept_later)
        client = await one.connect()
        client.send()
        began = one.clock.now
        assert (await client.receive())[0] == 200
        assert accept.RETRY <= one.clock.now - began <= accept.RETRY + 2 * STEP
        await one.drain()

    one.run(script)
    assert one.log.count("No connection can be accepted for 1 s: [Errno 24] Too many open files") == 1


def test_connection_survives_an_application_that_cancels_all_tasks(life: Create) -> None:
    one = life()

    async def script(one: Life) -> None:
        await one.ready()
        client = await one.connect()
        client.send()
        while not one.server._acceptor.has_pending:
            await asyncio.sleep(0)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        assert (await client.receive())[0] == 200
        await one.until(lambda: one.ended or one.server.should_exit)

    one.run(script)
