"""The drain's pauses and limits, in simulated time."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import websockets
from support.certificate import issue
from uvicorn.server import HANDLED_SIGNALS

from application import application
from gunicorn_handover.board import DrainReason
from simulation import CLOSE_FRAME, STEP, Life

pytestmark = pytest.mark.versions

Create = Callable[..., Life]
TICK = 0.0625  # seconds between two checks of a drain, on the simulated clock
EXIT = 0.3  # seconds that a worker needs to exit once nothing is left to do, at most


@pytest.mark.parametrize(
    ("settings", "limit"),
    [({"keepalive": 3}, 4), ({"handover_idle_timeout": 2.5}, 2.5), ({"handover_idle_timeout": 0}, 0)],
)
def test_idle_connections_are_closed_after_idle_timeout(life: Create, settings: dict[str, Any], limit: float) -> None:
    one = life(**{"keepalive": 60, **settings}, graceful_timeout=30)

    async def script(one: Life) -> None:
        await one.ready()
        fresh, kept = await one.connect(), await one.connect()
        if "keepalive" not in settings:
            await kept.get()
        await one.until(lambda: len(one.server.server_state.connections) == 2)
        began = await one.drain()
        for client in (fresh, kept):
            assert limit < await client.closed() - began <= limit + 2 * TICK

    one.run(script)


def test_connection_is_idle_from_the_end_of_its_response(life: Create) -> None:
    """One that began before the drain, and so without `Connection: close`."""
    ended: list[float] = []

    async def served(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
            await send({"type": "http.response.body", "body": b"1", "more_body": True})
            await asyncio.sleep(5)
            ended.append(one.clock.now)
            await send({"type": "http.response.body", "body": b"2"})
        else:
            await application(scope, receive, send)

    one = life(served, handover_idle_timeout=2, keepalive=60, graceful_timeout=30)

    async def script(one: Life) -> None:
        await one.ready()
        client = await one.request()
        await one.drain()
        await client.read()
        assert 2 < one.clock.now - ended[0] <= 2 + 2 * TICK

    one.run(script)


def test_time_that_a_process_is_suspended_counts_as_two_checks(life: Create) -> None:
    one = life(handover_idle_timeout=1, graceful_timeout=100)

    async def script(one: Life) -> None:
        await one.ready()
        client = await one.connect()
        await one.until(lambda: one.server.server_state.connections)
        await one.drain()
        closed = asyncio.create_task(client.closed())
        suspended = 0
        while not closed.done():
            one.clock.sleep(2)
            suspended += 1
            await asyncio.sleep(STEP)
        assert 10 <= suspended <= 12

    one.run(script)


@pytest.mark.parametrize("late", [False, True])
def test_drain_ends_at_graceful_timeout_even_if_the_process_is_suspended_then(life: Create, late: bool) -> None:
    one = life(graceful_timeout=10)

    async def script(one: Life) -> None:
        await one.ready()
        client = await one.request("/slow?seconds=3000")
        began = await one.drain()
        if late:
            await asyncio.sleep(9.5)
            one.clock.sleep(1.5)
        status, _ = await client.receive()
        assert status == 500
        assert 10 <= one.clock.now - began - late <= 10.2

    one.run(script)


@pytest.mark.parametrize("leaves", [False, True])
@pytest.mark.parametrize("fits", [False, True])
def test_requests_have_graceful_timeout_even_without_their_clients(life: Create, fits: bool, leaves: bool) -> None:
    ended: list[tuple[float, bool]] = []

    async def request(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await application(scope, receive, send)
        try:
            await asyncio.sleep(9.5 if fits else 12)
        finally:
            task = asyncio.current_task()
            assert task is not None
            ended.append((one.clock.now, bool(task.cancelling())))
        return await application({**scope, "path": "/"}, receive, send)

    one = life(request, graceful_timeout=10)
    times: list[float] = []

    async def script(one: Life) -> None:
        await one.ready()
        client = await one.request()
        times.append(await one.drain())
        if leaves:
            client.close()
        elif fits:
            status, headers = await client.receive()
            assert (status, headers["connection"]) == (200, "close")
            await client.closed()

    one.run(script)
    ((time, cancelled),) = ended
    assert cancelled is not fits
    assert (9.4 if fits else 10) <= time - times[0] <= 10.2
    assert one.clock.now - time <= EXIT


@pytest.mark.parametrize("private", [False, True])
def test_worker_without_connections_exits_at_once(life: Create, private: bool) -> None:
    one = life(graceful_timeout=100)
    times: list[float] = []

    async def script(one: Life) -> None:
        if private:
            one.board.set_private_sockets()
        await one.ready()
        times.append(await one.drain(DrainReason.STOP))

    one.run(script)
    assert one.clock.now - times[0] <= EXIT


def test_quit_ends_everything_at_once(life: Create) -> None:
    one = life(graceful_timeout=100, handover_exit_timeout=100)
    times: list[float] = []

    async def script(one: Life) -> None:
        await one.ready()
        await one.request("/slow?seconds=3000")
        times.append(one.clock.now)
        signal.raise_signal(signal.SIGQUIT)

    one.run(script)
    assert one.clock.now - times[0] <= EXIT
    assert one.server.should_exit
    assert "ignore their cancellation" not in one.log


def test_quit_interrupts_drain(life: Create) -> None:
    one = life(graceful_timeout=100, handover_websocket_grace=50)
    times: list[float] = []

    async def script(one: Life) -> None:
        await one.ready()
        async with one.websocket() as websocket:
            await one.drain()
            await asyncio.sleep(3)
            times.append(one.clock.now)
            one.server.quit()
            assert await close_code(websocket) == 1012

    one.run(script)
    assert one.clock.now - times[0] <= EXIT + TICK


def test_signal_handlers_are_neither_methods_nor_restored(life: Create) -> None:
    """Libraries find a server by the method that handles a signal, and a second signal must not interrupt the exit."""
    one = life()

    async def script(one: Life) -> None:
        await one.ready()
        for number in HANDLED_SIGNALS:
            assert not hasattr(signal.getsignal(number), "__self__")
        await one.drain()

    one.run(script)
    for number in HANDLED_SIGNALS:
        handler = signal.getsignal(number)
        assert callable(handler)
        handler(number, None)


class Arrival:
    """A client that connects and sends a request in one iteration of the event loop."""

    def __init__(self, one: Life) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(one.socket))
        self.socket.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.socket.setblocking(False)

    def answer(self) -> bytes:
        """The beginning of the answer; empty if there is none."""
        with self.socket, contextlib.suppress(OSError):
            return self.socket.recv(12)
        return b""


def at_shutdown(one: Life, act: Callable[[], Awaitable[None]]) -> None:
    """Calls `act` when the server begins to shut down."""
    original = one.server.shutdown

    async def shutdown(sockets: Any = None) -> None:
        await act()
        await original(sockets=sockets)

    one.server.shutdown = shutdown


@pytest.mark.parametrize(
    ("private", "reason"),
    [(False, DrainReason.STOP), (True, DrainReason.STOP), (True, DrainReason.REPLACED)],
    ids=["systemd's socket", "own socket, service stops", "own socket, reload"],
)
@pytest.mark.parametrize("iterations", range(6))
def test_connection_of_the_last_moment_is_answered_or_left_to_others(
    life: Create, iterations: int, private: bool, reason: DrainReason
) -> None:
    """However many iterations of the event loop it was made before the worker stops accepting."""
    one = life()
    arrivals: list[Arrival] = []

    async def arrive() -> None:
        arrivals.append(Arrival(one))
        for _ in range(iterations):
            await asyncio.sleep(0)

    async def script(one: Life) -> None:
        if private:
            one.board.set_private_sockets()
        await one.ready()
        at_shutdown(one, arrive)
        await one.drain(reason)

    one.run(script)
    queued = 0
    with contextlib.suppress(BlockingIOError):
        one.held.accept()[0].close()
        queued = 1
    answered = arrivals[0].answer() == b"HTTP/1.1 200"
    assert answered is not bool(queued)
    if (private and reason is DrainReason.STOP) or iterations > 2:
        assert answered
    elif iterations == 0:
        assert queued


def test_draining_worker_does_not_keep_its_address_in_use(life: Create) -> None:
    one = life()

    async def script(one: Life) -> None:
        await one.ready()
        client = await one.request("/slow?seconds=5")
        await one.drain()
        await asyncio.sleep(STEP)
        one.held.close()
        with pytest.raises(ConnectionRefusedError):
            await one.connect()
        assert (await client.receive())[0] == 200

    one.run(script)


@pytest.mark.parametrize("suspended", [0, 0.5])
def test_worker_accepts_from_private_socket_for_a_second(life: Create, suspended: float) -> None:
    """While connections keep arriving, and no longer if it is suspended during that second."""
    one = life(keepalive=10, graceful_timeout=100)
    answered: list[float] = []

    async def keep_arriving() -> None:
        began = one.clock.now
        while one.clock.now < began + 3:
            if suspended and began + 0.75 <= one.clock.now < began + 1:
                one.clock.sleep(suspended)
            arrival = Arrival(one)
            await asyncio.sleep(0.0005)  # the next one arrives before the queue is checked again
            if arrival.answer():
                answered.append(one.clock.now - began)

    tasks: list[asyncio.Task[None]] = []

    async def arrive() -> None:
        tasks.append(asyncio.create_task(keep_arriving()))
        await asyncio.sleep(0)

    async def script(one: Life) -> None:
        one.board.set_private_sockets()
        await one.ready()
        await one.connect()  # keeps the worker from exiting
        await one.until(lambda: one.server.server_state.connections)
        at_shutdown(one, arrive)
        await one.drain(DrainReason.STOP)
        await tasks[0]

    one.run(script)
    if suspended:
        assert answered[-1] <= 1 + suspended
    else:
        assert 0.9 <= answered[-1] <= 1


@pytest.mark.parametrize("quits", [False, True])
def test_queue_that_stays_full_is_left_after_a_second(life: Create, quits: bool) -> None:
    """A worker stops accepting for a second when the process has no descriptor left."""
    one = life(graceful_timeout=100)
    times: list[float] = []
    arrivals: list[Arrival] = []

    async def script(one: Life) -> None:
        one.board.set_private_sockets()
        await one.ready()
        asyncio.get_running_loop().remove_reader(one.listener)
        arrivals.append(Arrival(one))
        times.append(await one.drain(DrainReason.STOP))
        if quits:
            await asyncio.sleep(0.25)
            one.server.quit()

    one.run(script)
    least = 0.25 if quits else 1
    assert least <= one.clock.now - times[0] <= least + EXIT
    assert arrivals[0].answer() == b""


async def close_code(websocket: Any) -> int | None:
    """Waits until the WebSocket is closed, and returns the server's code."""
    try:
        while True:
            await websocket.recv()
    except websockets.ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd else None


@pytest.mark.parametrize("grace", [0, 6, 6.01])
def test_websockets_are_closed_after_their_grace(life: Create, grace: float) -> None:
    """An idle one isn't closed before."""
    one = life(handover_websocket_grace=grace, handover_idle_timeout=0.5, graceful_timeout=30)

    async def script(one: Life) -> None:
        await one.ready()
        async with one.websocket() as websocket:
            began = await one.drain()
            assert await close_code(websocket) == 1012
            assert grace <= one.clock.now - began < grace + TICK

    one.run(script)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"handover_websocket_spread": 4}, [0, 1, 2, 3]),
        # it ends half a second before graceful_timeout
        ({"handover_websocket_spread": 3600}, [0, 2.375, 4.75, 7.125]),
        ({"handover_websocket_spread": 3600, "handover_websocket_grace": 5.5}, [5.5, 6.5, 7.5, 8.5]),
        ({"handover_websocket_spread": 3600, "handover_websocket_grace": 9.75}, [9.75] * 4),
    ],
)
def test_spread_ends_before_graceful_timeout(life: Create, settings: dict[str, Any], expected: list[float]) -> None:
    one = life(graceful_timeout=10, **settings)

    async def script(one: Life) -> None:
        await one.ready()
        times: list[float] = []

        async def wait(websocket: Any) -> None:
            assert await close_code(websocket) == 1012
            times.append(one.clock.now)

        async with contextlib.AsyncExitStack() as stack:
            opened = [await stack.enter_async_context(one.websocket()) for _ in expected]
            waiting = [asyncio.create_task(wait(websocket)) for websocket in opened]
            began = await one.drain()
            await asyncio.gather(*waiting)
        for time, due in zip(sorted(times), expected, strict=True):
            assert due - STEP <= time - began <= due + 0.1

    one.run(script)


def test_worker_exits_once_no_websocket_is_left_to_close(life: Create) -> None:
    one = life(graceful_timeout=100, handover_websocket_spread=3600)
    times: list[float] = []

    async def script(one: Life) -> None:
        await one.ready()
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(4):
                await stack.enter_async_context(one.websocket())
            await one.drain()
            await asyncio.sleep(3)
        times.append(one.clock.now)

    one.run(script)
    assert one.clock.now - times[0] <= EXIT
    assert "ignore their cancellation" not in one.log


async def flood(scope: Any, receive: Any, send: Any) -> None:
    """Sends more than the connection takes."""
    if scope["type"] != "websocket":
        return await application(scope, receive, send)
    await receive()
    await send({"type": "websocket.accept"})
    while True:
        await send({"type": "websocket.send", "text": "x" * 65536})


@pytest.mark.parametrize("quits", [False, True])
@pytest.mark.parametrize("grace", [0, 3600])
def test_websocket_that_does_not_read_is_aborted_half_a_second_after_graceful_timeout(
    life: Create, grace: float, quits: bool
) -> None:
    one = life(flood, graceful_timeout=10, handover_websocket_grace=grace, handover_exit_timeout=60)
    times: list[float] = []

    async def script(one: Life) -> None:
        await one.ready()
        client = await one.connect()
        await client.upgrade()
        await asyncio.sleep(1)
        times.append(await one.drain())
        if quits:
            await asyncio.sleep(2)
            one.server.quit()

    one.run(script)
    took = one.clock.now - times[0]
    due = 2 if quits else 10
    assert due + 0.5 <= took <= due + 0.5 + EXIT + TICK, took
    assert "ignore their cancellation" not in one.log
    assert not one.server.server_state.connections


def test_websocket_is_aborted_even_if_the_process_is_suspended_at_that_time(life: Create) -> None:
    one = life(flood, graceful_timeout=10)
    times: list[float] = []

    async def script(one: Life) -> None:
        await one.ready()
        client = await one.connect()
        await client.upgrade()
        times.append(await one.drain())
        await one.until(lambda: one.clock.now >= times[0] + 10.25)
        one.clock.sleep(1)

    one.run(script)
    assert one.clock.now - times[0] <= 11.25 + EXIT + TICK


def test_websocket_that_reads_late_gets_1012_after_graceful_timeout(life: Create) -> None:
    """Its output and the close frame behind it; the worker exits then, and doesn't wait for the whole half second."""
    one = life(flood, graceful_timeout=10, handover_websocket_grace=3600)
    times: list[float] = []

    async def script(one: Life) -> None:
        await one.ready()
        client = await one.connect()
        await client.upgrade()
        began = await one.drain()
        await one.until(lambda: one.clock.now >= began + 10.25)
        assert CLOSE_FRAME.search(await client.read())
        client.close()
        times.append(began)

    one.run(script)
    assert one.clock.now - times[0] < 10.5


def test_only_kept_connections_see_the_drain(life: Create) -> None:
    """Even if two connections send the same request in the same moment."""
    seen: list[bool] = []

    async def observed(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            seen.append(scope["extensions"]["gunicorn_handover"]["draining"])
        await application(scope, receive, send)

    one = life(observed, keepalive=60)

    async def script(one: Life) -> None:
        await one.ready()
        fresh, kept = await one.connect(), await one.connect()
        await kept.get()
        await one.until(lambda: len(one.server.server_state.connections) == 2)
        await one.drain()
        fresh.send()
        kept.send()
        for client in (fresh, kept):
            status, headers = await client.receive()
            assert (status, headers["connection"]) == (200, "close")

    one.run(script)
    assert seen == [False, False, True]


def test_tls_handshake_in_progress_is_completed(life: Create, tmp_path: Path) -> None:
    """Uvicorn gets to know such a connection only afterwards."""
    issued = issue("localhost")
    files = {"certfile": issued.certificate, "keyfile": issued.key}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    one = life(**{name: str(tmp_path / name) for name in files})
    context = ssl.create_default_context(cadata=issued.certificate)

    async def script(one: Life) -> None:
        await one.ready()
        client = await one.connect()
        await asyncio.sleep(STEP)  # until it is accepted
        await one.drain()
        await asyncio.sleep(0.14)
        await client.start_tls(context)
        status, headers = await client.get()
        assert (status, headers["connection"]) == (200, "close")

    one.run(script)
