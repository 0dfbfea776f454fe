"""The drain: how a worker that was told to exit serves its remaining connections."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import re
import signal
import threading
import time
import urllib.parse
from collections.abc import Callable

import pytest
import websockets
from support.traffic import Background, Load
from websockets.sync.client import unix_connect

from conftest import Server, alive, wait_for

pytestmark = pytest.mark.versions


def _hup(server: Server) -> None:
    server.signal(signal.SIGHUP)


def _term(server: Server) -> None:
    server.signal(signal.SIGTERM)


def _term_workers(server: Server) -> None:
    for pid in server.pids():
        os.kill(pid, signal.SIGTERM)


ENDS = pytest.mark.parametrize("end", [_hup, _term, _term_workers])


def _end(server: Server, end: Callable[[Server], None]) -> None:
    """Makes the workers exit, and waits until none of them accepts connections."""
    pids = server.pids()
    end(server)
    wait_for(lambda: not any(server.accepts(pid) for pid in pids), what="the drain")


@ENDS
@pytest.mark.parametrize("http_parser", ["httptools", "h11"])
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_late_requests_get_connection_close(
    server: Server, end: Callable[[Server], None], http_parser: str, loop: str
) -> None:
    server.configure(handover_http=http_parser, handover_loop=loop, keepalive=60)
    server.start()
    fresh = [server.connect() for _ in range(4)]
    for connection in fresh:
        connection.connect()
    kept = [server.connect() for _ in range(4)]
    assert all(connection.get().getheader("connection") is None for connection in kept)
    before = set(server.pids())
    server.wait_accepted()
    _end(server, end)
    for connection in [*fresh, *kept]:
        response = connection.get()
        assert response.status == 200
        assert response.getheader("connection") == "close"
        assert response.document["pid"] in before  # type: ignore[attr-defined]


@ENDS
@pytest.mark.parametrize("http_parser", ["httptools", "h11"])
def test_draining_flag_is_set_on_kept_connections(
    server: Server, end: Callable[[Server], None], http_parser: str
) -> None:
    """Only on connections that carried a request before the drain."""
    server.configure(handover_http=http_parser, keepalive=60, graceful_timeout=60)
    server.start()
    fresh, kept = server.connect(), server.connect()
    fresh.connect()
    response = kept.get("/readiness")
    assert (response.status, response.document["draining"]) == (200, False)  # type: ignore[attr-defined]
    pid = response.document["pid"]  # type: ignore[attr-defined]
    server.wait_accepted()
    _end(server, end)
    for connection, status, draining in ((kept, 503, True), (fresh, 200, False)):
        response = connection.get("/readiness")
        assert (response.status, response.document["draining"]) == (status, draining)  # type: ignore[attr-defined]
        assert response.getheader("connection") == "close"
        assert draining is False or response.document["pid"] == pid  # type: ignore[attr-defined]


def test_new_connections_see_no_drain(server: Server) -> None:
    """A readiness check sees no handover, however slow the clients are."""
    server.configure(handover_warmup_paths=["/readiness"], handover_warmup_required=True)
    server.start()
    load = Load("get", "/readiness", expect='"draining": false')
    with Background(server.target, [load], rate=40, fewest=100, duration=3600, idle_limit=0) as asking:
        for _ in range(3):
            assert server.reload().returncode == 0
    assert asking.summary.failed == {}, asking.summary


@ENDS
def test_running_request_finishes_during_drain(server: Server, end: Callable[[Server], None]) -> None:
    server.configure(graceful_timeout=60)
    server.start()
    connection = server.connect()
    connection.request("GET", "/slow?until=end&began=slow")
    server.wait_started("slow")
    _end(server, end)
    (server.current / "src/end").touch()
    response = connection.getresponse()
    assert response.status == 200
    assert response.getheader("connection") == "close"
    server.stop()
    assert server.failed_exits == []


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_drain_ends_with_the_last_connection(server: Server, loop: str) -> None:
    """A connection without requests is closed after handover_idle_timeout, long before the others."""
    server.configure(
        graceful_timeout=3600,
        keepalive=3600,
        handover_idle_timeout=1,
        handover_websocket_grace=3600,
        handover_loop=loop,
    )
    server.start()
    fresh, kept = server.connect(), server.connect()
    fresh.connect()
    assert kept.get().status == 200
    server.wait_accepted()
    _end(server, _term)
    for connection in (fresh, kept):
        assert connection.sock is not None
        assert connection.sock.recv(1) == b""
    assert server.process is not None
    assert server.process.wait(60) == 0
    assert server.failed_exits == []


def test_time_that_a_worker_is_suspended_is_not_its_clients_idle_time(server: Server) -> None:
    server.configure(workers=1, keepalive=60, graceful_timeout=60, handover_idle_timeout=4)
    server.start()
    (pid,) = server.pids()
    clients = [server.connect() for _ in range(3)]
    for client in clients:
        client.get()
    _end(server, _term)
    os.kill(pid, signal.SIGSTOP)
    time.sleep(5)  # longer than handover_idle_timeout
    os.kill(pid, signal.SIGCONT)
    for client in clients:
        assert client.get().status == 200


def test_sigquit_ends_running_requests(server: Server) -> None:
    server.configure(graceful_timeout=3600, handover_exit_timeout=3600)
    server.start()
    connection = server.connect()
    connection.request("GET", "/slow?until=never&began=slow")
    server.wait_started("slow")
    assert server.stop(signal.SIGQUIT) == 0
    with contextlib.suppress(http.client.HTTPException, ConnectionError):
        assert connection.getresponse().status == 500


@ENDS
def test_websockets_are_closed_with_1012(server: Server, end: Callable[[Server], None]) -> None:
    marker = server.root / "disconnect"
    server.environ = {"DISCONNECT_MARKER": str(marker)}
    server.configure(graceful_timeout=3600)  # which they don't wait for
    server.start()
    with unix_connect(str(server.socket), "ws://localhost/") as websocket:
        websocket.send("one")
        assert websocket.recv() == "one"
        end(server)
        with pytest.raises(websockets.ConnectionClosed) as closed:
            websocket.recv(timeout=60)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012
    wait_for(marker.exists)
    wait_for(lambda: marker.read_text() == "1012")


def test_websockets_stay_open_for_websocket_grace(server: Server) -> None:
    server.configure(handover_websocket_grace=6)
    server.start()
    with unix_connect(str(server.socket), "ws://localhost/") as websocket:
        _end(server, _hup)
        websocket.send("still here")
        assert websocket.recv() == "still here"
        with pytest.raises(websockets.ConnectionClosed) as closed:
            websocket.recv(timeout=60)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012


def test_websocket_closes_are_spread(server: Server) -> None:
    """Clients that all reconnect at once would overload the new workers."""
    spread, count = 4.0, 40
    server.configure(handover_websocket_spread=spread, workers=1)
    server.start()

    async def closes() -> list[float]:
        times: list[float] = []
        uri = "ws://localhost/"
        async with contextlib.AsyncExitStack() as stack:
            opened = [
                await stack.enter_async_context(websockets.unix_connect(str(server.socket), uri)) for _ in range(count)
            ]

            async def wait(websocket: websockets.ClientConnection) -> None:
                with pytest.raises(websockets.ConnectionClosed) as closed:
                    await websocket.recv()
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == 1012
                times.append(time.monotonic())

            waiting = [asyncio.ensure_future(wait(one)) for one in opened]
            server.signal(signal.SIGHUP)
            await asyncio.gather(*waiting)
        return times

    times = sorted(asyncio.run(closes()))
    # relative to the total time, which the server determines: no quarter has far more closes than its share
    whole = times[-1] - times[0]
    quarters = [sum(int((one - times[0]) / whole * 3.999) == quarter for one in times) for quarter in range(4)]
    assert whole > spread / 2
    assert max(quarters) <= count / 2, quarters


def test_websocket_spread_ends_with_graceful_timeout(server: Server) -> None:
    server.configure(handover_websocket_spread=3600, graceful_timeout=2, workers=1)
    server.start()
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(unix_connect(str(server.socket), "ws://localhost/")) for _ in range(5)]
        assert server.stop() == 0
        for websocket in opened:
            with pytest.raises(websockets.ConnectionClosed) as closed:
                websocket.recv(timeout=5)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012
    assert server.failed_exits == []


def test_busy_websocket_gets_1012_and_no_reset(server: Server) -> None:
    """Closing a socket with unread data would reset the connection, and the close frame would be lost."""
    server.start()

    async def run() -> list[int]:
        codes: list[int] = []
        sent = [0] * 6

        async def flood(number: int) -> None:
            async with websockets.unix_connect(str(server.socket), "ws://localhost/") as websocket:
                try:
                    while True:
                        await websocket.send("x" * 2000)
                        sent[number] += 1
                        await asyncio.sleep(0)
                        with contextlib.suppress(TimeoutError):
                            await asyncio.wait_for(websocket.recv(), 0.001)
                except websockets.ConnectionClosed as closed:
                    codes.append(closed.rcvd.code if closed.rcvd else 1006)

        floods = [asyncio.create_task(flood(number)) for number in range(len(sent))]
        # a later connection would reach the new worker, which closes nothing
        while min(sent) < 20:
            await asyncio.sleep(0.01)
        server.signal(signal.SIGHUP)
        await asyncio.wait(floods, timeout=60)
        return codes

    assert asyncio.run(run()) == [1012] * 6


def test_long_responses_run_until_graceful_timeout(server: Server) -> None:
    server.configure(graceful_timeout=3, timeout=2, handover_exit_timeout=60)
    server.start()
    outcome: dict[str, float | str] = {}
    pids = server.pids()

    def read(name: str, seconds: float) -> None:
        connection = server.connect()
        connection.request("GET", f"/events?seconds={seconds}&began={name}")
        response = connection.getresponse()
        try:
            response.read()
            outcome[name] = "whole"
        except http.client.IncompleteRead:
            outcome[name] = time.monotonic()

    readers = [threading.Thread(target=read, args=args) for args in (("fits", 2.5), ("long", 3600))]
    for reader in readers:
        reader.start()
    server.wait_started("fits")
    server.wait_started("long")
    began = time.monotonic()
    assert server.reload().returncode == 0
    for reader in readers:
        reader.join(60)
    assert outcome["fits"] == "whole"
    assert float(outcome["long"]) - began >= 3
    wait_for(lambda: not set(pids) & set(server.children()))
    # the heartbeat continued, as `timeout` is shorter; nor did the master have to kill the worker
    assert "TIMEOUT" not in server.log
    assert "killing it" not in server.log


def test_hanging_lifespan_shutdown_is_killed(server: Server) -> None:
    server.environ = {"SHUTDOWN_HANGS": "1"}
    server.configure(graceful_timeout=1, handover_exit_timeout=1)
    server.start()
    pids = server.pids()
    assert server.reload().returncode == 0
    wait_for(lambda: not set(pids) & set(server.children()))
    assert server.log.count("has not exited after 2 s; killing it") == len(pids)
    assert server.stop() == 0


UNCANCELLABLE = """
async def uncancellable(scope, query, receive, send):
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            if query["way"] == "answers":
                return await answer(send, {})
            if query["way"] == "tidies up":
                await asyncio.sleep(0.5)
                Path(__file__).with_name("tidied").touch()
                raise

PATHS["/uncancellable"] = uncancellable
"""


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("way", ["continues", "answers", "tidies up"])
def test_uncancellable_request_does_not_delay_exit(server: Server, way: str, loop: str) -> None:
    marker = server.root / "shutdown"
    marker.mkdir()
    server.environ = {"SHUTDOWN_MARKER": str(marker)}
    folder = server.release("1", after=UNCANCELLABLE)
    server.configure(workers=1, graceful_timeout=1, handover_exit_timeout=16, handover_loop=loop)
    server.start()
    (worker,) = server.pids()
    connection = server.connect()
    connection.request("GET", f"/uncancellable?{urllib.parse.urlencode({'way': way, 'began': 'asked'})}")
    server.wait_started("asked")
    assert server.reload().returncode == 0
    wait_for(lambda: not alive(worker))
    assert "killing it" not in server.log
    assert [path.name for path in marker.iterdir()] == [str(worker)]  # the lifespan shutdown ran
    assert (folder / "tidied").exists() == (way == "tidies up")
    assert ("ignore their cancellation" in server.log) == (way == "continues")
    assert server.stop() == 0


def test_stop_runs_lifespan_shutdown(server: Server) -> None:
    marker = server.root / "shutdown"
    marker.mkdir()
    server.environ = {"SHUTDOWN_MARKER": str(marker)}
    server.start()
    pids = server.pids()
    assert server.stop() == 0
    assert sorted(int(path.name) for path in marker.iterdir()) == sorted(pids)
    assert "STOPPING=1" in server.messages
    assert server.log.count("exited with code 0") == len(pids)


def test_lifespan_shutdown_gets_exit_timeout(server: Server) -> None:
    marker = server.root / "shutdown"
    marker.mkdir()
    # longer than graceful_timeout, and well within the sum of both timeouts
    server.environ = {"SHUTDOWN_MARKER": str(marker), "SHUTDOWN_SECONDS": "2.5"}
    server.configure(graceful_timeout=1, handover_exit_timeout=20)
    server.start()
    pids = server.pids()
    assert server.stop(timeout=60) == 0
    assert sorted(path.name for path in marker.glob("*.ended")) == sorted(f"{pid}.ended" for pid in pids)


def test_stop_with_systemd_sockets_loses_no_request(server: Server) -> None:
    """Two services on one socket, as in a bridge."""
    server.start()
    other = Server.__new__(Server)
    other.__dict__.update(server.__dict__)
    other.process = None
    other.status_file = server.root / "bridge.json"
    loads = [Load("get", share=4), Load("post", "/echo", share=2, size=5000, expect="5000"), Load("fresh", wait=0.3)]
    with Background(server.target, loads, rate=200, fewest=300) as traffic:
        server.messages.clear()
        other.start()
        assert server.stop() == 0
        assert server.get()["pid"] in other.pids()
        server.messages.clear()
        server.start()
        assert other.stop() == 0
    assert traffic.summary.failed == {}, traffic.summary.failures


@pytest.mark.parametrize("workers", [1, 2])
def test_max_requests_loses_no_request(server: Server, workers: int) -> None:
    server.configure(workers=workers, max_requests=80, max_requests_jitter=20)
    server.start()
    first = server.pids()
    loads = [Load("get", share=3, expect='"release": "1"'), Load("fresh", wait=0.2)]
    with Background(server.target, loads, rate=200, fewest=240) as traffic:
        wait_for(lambda: server.log.count("asks to be replaced") >= 3)
    assert traffic.summary.failed == {}, traffic.summary.failures
    served = [int(number) for number in re.findall(r"has served (\d+) requests and asks to be replaced", server.log)]
    assert min(served) >= 80
    wait_for(lambda: len(server.pids()) == workers and not set(first) & set(server.pids()))


def test_worker_past_max_requests_serves_while_code_is_broken(server: Server) -> None:
    server.configure(workers=1, max_requests=20)
    server.start()
    pid = server.pids()[0]
    server.release("bad", "raise RuntimeError('bad')")
    server.set_current("bad")
    with Background(server.target, [Load("get")], rate=50, fewest=50) as traffic:
        wait_for(lambda: server.log.count("failed to boot: RuntimeError: bad") >= 2)
    assert traffic.summary.failed == {}, traffic.summary.failures
    assert server.pids() == [pid]


def test_ttou_drains_workers(server: Server) -> None:
    server.configure(keepalive=60)
    server.start()
    connections = [server.connect() for _ in range(6)]
    for connection in connections:
        connection.connect()
    server.wait_accepted()
    server.signal(signal.SIGTTIN)
    wait_for(lambda: len(server.pids()) == 3)
    server.signal(signal.SIGTTOU)
    wait_for(lambda: len(server.pids()) == 2)
    server.signal(signal.SIGTTOU)
    wait_for(lambda: len(server.pids()) == 1)
    assert all(connection.get().status == 200 for connection in connections)


def test_workers_drain_when_master_is_killed(server: Server) -> None:
    server.start()
    pids = server.pids()
    connection = server.connect()
    connection.request("GET", "/slow?until=end&began=slow")
    server.wait_started("slow")
    server.signal(signal.SIGKILL)
    wait_for(lambda: not any(server.accepts(pid) for pid in pids), what="the drain")
    (server.current / "src/end").touch()
    assert connection.getresponse().status == 200
    wait_for(lambda: not any(map(alive, pids)))
    # a connection made in the meantime waits in the socket's queue
    waiting = server.connect()
    waiting.connect()
    server.start()
    assert waiting.get().status == 200


def test_hanging_worker_is_replaced(server: Server) -> None:
    server.configure(timeout=1, workers=1)
    server.start()
    pid = server.pids()[0]
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        server.get("/block?seconds=30")
    wait_for(lambda: server.pids() and server.pids() != [pid])


@pytest.mark.parametrize("http_parser", ["httptools", "h11"])
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_request_received_while_loop_is_blocked_is_answered(server: Server, http_parser: str, loop: str) -> None:
    """The keep-alive timeout has expired by then, with a request unread in the socket: the loop must read it first."""
    server.configure(handover_http=http_parser, handover_loop=loop, workers=1, keepalive=2)
    server.start()
    kept, blocking = server.connect(), server.connect()
    kept.get()
    blocking.request("GET", "/block?seconds=4&began=block")
    server.wait_started("block")
    kept.request("GET", "/")
    response = kept.getresponse()
    assert response.status == 200
    assert response.getheader("connection") is None


def test_idle_connection_is_closed_after_keepalive(server: Server) -> None:
    server.configure(keepalive=1)
    server.start()
    kept = server.connect()
    began = time.monotonic()
    kept.get()
    assert kept.sock is not None
    assert kept.sock.recv(1) == b""
    assert time.monotonic() - began > 0.9
