"""How workers exit: quickly in a stop, whatever the application has forked, and with clients that don't read."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, unix_connect

from conftest import Server, alive, pending, time_slice, wait_for

pytestmark = pytest.mark.versions

SLOW_EXIT = """
import atexit as _atexit, time as _time
def _linger():
    folder = Path(os.environ["NICENESS"])
    end = _time.monotonic() + 20
    while not (folder / "go").exists() and _time.monotonic() < end:
        scratch = folder.parent / str(os.getpid())
        scratch.write_text(str(os.getpriority(os.PRIO_PROCESS, 0)))
        scratch.replace(folder / scratch.name)
        _time.sleep(0.1)
_atexit.register(_linger)
"""


KEPT = """
import gc as _gc
class _Cycle:
    def __init__(self):
        self.itself = self
        self.file = open(os.environ["KEPT"], "a")
        self.file.write(f"frozen: {_gc.get_freeze_count()}, ")
_cycle = _Cycle()
_startup = application
async def application(scope, receive, send):
    if scope["type"] == "http":
        _cycle.file.write("many" if _gc.get_freeze_count() > 10_000 else "few")
    await _startup(scope, receive, send)
"""


def test_worker_freezes_what_it_has_loaded_and_flushes_files_at_its_exit(server: Server) -> None:
    """Also a file that only the collection of a reference cycle would close."""
    kept = server.root / "kept"
    server.environ = {"KEPT": str(kept)}
    server.configure(workers=1)
    server.release("1", after=KEPT)
    server.start()
    assert server.get()["release"] == "1"
    assert kept.read_text() == ""
    assert server.reload().returncode == 0
    wait_for(lambda: kept.read_text() == "frozen: 0, many")


@pytest.mark.parametrize("way", ["stop", "reload", "reload and stop"])
def test_only_replaced_worker_exits_at_low_priority(server: Server, way: str) -> None:
    folder = server.root / "niceness"
    folder.mkdir()
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    server.environ = {"NICENESS": str(folder)}
    server.release("1", after=SLOW_EXIT)
    server.configure(timeout=1, handover_exit_timeout=30)
    server.start()
    before = server.pids()

    def niceness() -> list[int]:
        return [int(path.read_text()) for path in folder.iterdir() if path.name in map(str, before)]

    if way != "stop":
        assert server.reload().returncode == 0
        wait_for(lambda: niceness() == [19, 19])
        wait_for(lambda: {time_slice(pid) for pid in before} <= {0.1, None})
    if way != "reload":
        server.signal(signal.SIGTERM)
        wait_for(lambda: niceness() == [usual, usual])
        assert 0.1 not in {time_slice(pid) for pid in before}
    time.sleep(2)  # twice `timeout`
    (folder / "go").touch()
    wait_for(lambda: not set(before) & set(server.children()))
    assert server.stop() == 0
    assert "TIMEOUT" not in server.log
    assert "killing it" not in server.log


FORKS = {
    "daemon": "multiprocessing.get_context('fork').Process(target=idle, daemon=True).start()",
    "process": "multiprocessing.get_context('fork').Process(target=idle).start()",
    "fork": "if os.fork() == 0:\n        idle()",
    "ignores SIGTERM": "multiprocessing.get_context('fork').Process(target=idle, args=(True,), daemon=True).start()",
}
FORKING = """
import multiprocessing, signal as _signal

def idle(ignore_sigterm=False):
    if ignore_sigterm:
        _signal.signal(_signal.SIGTERM, _signal.SIG_IGN)
    Path(os.environ["FORKED"], str(os.getpid())).touch()
    while True:
        time.sleep(60)

async def forking(scope, query, receive, send):
    {how}
    await answer(send, {{"pid": os.getpid()}})

PATHS["/fork"] = forking
"""


TIDY = """
def tidy():
    def end(*_):
        time.sleep(0.3)
        Path(os.environ["FORKED"], f"{os.getpid()}.tidied").touch()
        os._exit(0)

    _signal.signal(_signal.SIGTERM, end)
    Path(os.environ["FORKED"], str(os.getpid())).touch()
    while True:
        time.sleep(60)
"""


def descriptors(pid: int) -> list[str]:
    found = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed in the meantime
            found.append(os.readlink(path))
    return sorted(found)


@pytest.mark.parametrize("way", ["stop", "reload", "kill"])
@pytest.mark.parametrize("how", FORKS)
def test_forked_process_ends_with_its_worker(server: Server, how: str, way: str) -> None:
    folder = server.root / "forked"
    folder.mkdir()
    server.environ = {"FORKED": str(folder)}
    server.release("1", after=FORKING.format(how=FORKS[how]))
    server.configure(workers=1, graceful_timeout=8, handover_boot_nice=0)
    server.start()
    worker = server.get("/fork")["pid"]
    (child,) = [int(path.name) for path in wait_for(lambda: list(folder.iterdir()))]
    try:
        listening = f"socket:[{os.fstat(server.listeners[0].fileno()).st_ino}]"
        assert listening in descriptors(worker)
        assert listening not in descriptors(child)
        if way == "stop":
            assert server.stop() == 0
        elif way == "reload":
            assert server.reload().returncode == 0
            wait_for(lambda: worker not in server.children())
        else:
            os.kill(worker, signal.SIGKILL)
        wait_for(lambda: not alive(child))
        assert "killing it" not in server.log
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def test_forked_process_can_tidy_up(server: Server) -> None:
    folder = server.root / "forked"
    folder.mkdir()
    server.environ = {"FORKED": str(folder)}
    how = "multiprocessing.get_context('fork').Process(target=tidy, daemon=True).start()"
    server.release("1", after=FORKING.format(how=how) + TIDY)
    server.configure(workers=1)
    server.start()
    server.get("/fork")
    (child,) = [path.name for path in wait_for(lambda: list(folder.iterdir()))]
    assert server.reload().returncode == 0
    wait_for((folder / f"{child}.tidied").exists)


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_connection_ends_although_a_forked_process_runs_on(server: Server, loop: str) -> None:
    folder = server.root / "forked"
    folder.mkdir()
    server.environ = {"FORKED": str(folder)}
    server.release("1", after=FORKING.format(how=FORKS["process"]))
    server.configure(workers=1, handover_loop=loop)
    server.start()
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(server.socket))
        client.sendall(b"GET /fork HTTP/1.0\r\n\r\n")
        received = b""
        while part := client.recv(4096):
            received += part
    assert b'"pid"' in received


def test_signal_to_forked_process_does_not_reach_worker(server: Server) -> None:
    folder = server.root / "forked"
    folder.mkdir()
    server.environ = {"FORKED": str(folder)}
    server.release("1", after=FORKING.format(how=FORKS["process"]))
    server.configure(workers=1)
    server.start()
    worker = server.get("/fork")["pid"]
    (child,) = [int(path.name) for path in wait_for(lambda: list(folder.iterdir()))]
    os.kill(child, signal.SIGQUIT)
    wait_for(lambda: not alive(child))
    assert server.get()["pid"] == worker
    assert server.pids() == [worker]


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_stop_answers_queued_connections_without_socket_unit(server: Server, kind: str, loop: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = server.root / "own.sock"
    server.listeners[0].close()
    server.listeners = []
    bind = f"127.0.0.1:{port}" if kind == "tcp" else f"unix:{path}"
    server.configure(bind=bind, handover_loop=loop)
    server.start()
    pids = server.pids()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    waiting = []
    for _ in range(50):
        client = socket.socket(socket.AF_INET if kind == "tcp" else socket.AF_UNIX)
        client.settimeout(10)
        client.connect(("127.0.0.1", port) if kind == "tcp" else str(path))
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        waiting.append(client)
    server.signal(signal.SIGTERM)
    wait_for(lambda: all(pending(pid, signal.SIGTERM) for pid in pids), what="the workers' SIGTERM")
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    answers = []
    for client in waiting:
        with client:
            try:
                answers.append(client.recv(100)[:15])
            except OSError as error:
                answers.append(repr(error).encode())
    assert answers == [b"HTTP/1.1 200 OK"] * 50
    assert server.stop() == 0
    assert server.failed_exits == []


def test_worker_inherits_no_descriptor_of_reload(server: Server) -> None:
    server.start()

    def held() -> list[list[str]]:
        return [descriptors(pid) for pid in server.pids()]

    first = held()
    for _ in range(2):
        assert server.reload().returncode == 0
    assert [len(found) for found in held()] == [len(found) for found in first]
    folders = [name for found in held() for name in found if os.path.isdir(name)]
    assert folders == []


STREAMING = """
from sse_starlette.sse import EventSourceResponse

async def sse(scope, query, receive, send):
    async def numbers():
        for number in range(1000):
            yield {"data": str(number)}
            await asyncio.sleep(0.1)
    await EventSourceResponse(numbers())(scope, receive, send)

PATHS["/sse"] = sse
"""


# the newest sse-starlette inspects the signal handler; the oldest replaces Server.handle_exit
@pytest.mark.parametrize("way", ["stop", "reload", "term worker"])
def test_server_sent_events_run_until_graceful_timeout(server: Server, way: str) -> None:
    server.release("1", after=STREAMING)
    server.configure(graceful_timeout=4, handover_exit_timeout=20)
    server.start()
    before = server.pids()
    connection = server.connect()
    connection.request("GET", "/sse")
    response = connection.getresponse()
    assert response.read(20)
    ended: list[float] = []

    def read() -> None:
        with contextlib.suppress(http.client.HTTPException, OSError):
            response.read()
        ended.append(time.monotonic())

    reader = threading.Thread(target=read)
    began = time.monotonic()
    reader.start()
    if way == "stop":
        assert server.stop(timeout=40) == 0
    elif way == "reload":
        assert server.reload().returncode == 0
    else:
        for pid in before:
            os.kill(pid, signal.SIGTERM)
    reader.join(60)
    assert ended[0] - began > 4
    wait_for(lambda: not set(before) & set(server.children()))
    assert "killing it" not in server.log


ENDLESS = """
from starlette.responses import StreamingResponse

async def asynchronous():
    try:
        while True:
            yield b"x" * 100
            await asyncio.sleep(0.1)
    finally:
        Path(os.environ["ENDED"]).touch()

def synchronous():
    while True:
        yield b"x" * 100
        time.sleep(0.1)

async def endless(scope, query, receive, send):
    await StreamingResponse({generator}())(scope, receive, send)

PATHS["/endless"] = endless
"""


@pytest.mark.parametrize(("generator", "way"), [("asynchronous", "reload"), ("synchronous", "stop")])
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_endless_stream_runs_until_graceful_timeout(server: Server, loop: str, generator: str, way: str) -> None:
    """It doesn't know of the drain, unlike those of sse-starlette."""
    ended = server.root / "ended"
    server.environ = {"ENDED": str(ended)}
    server.release("1", after=ENDLESS.format(generator=generator))
    server.configure(graceful_timeout=3, handover_exit_timeout=60, handover_loop=loop)
    server.start()
    before = server.pids()
    connection = server.connect()
    connection.request("GET", "/endless")
    response = connection.getresponse()
    assert response.read(20)
    server.signal(signal.SIGTERM if way == "stop" else signal.SIGHUP)
    began = time.monotonic()
    # the client can tell that the response is incomplete
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        response.read()
    # it isn't the master that ends it
    assert 2.5 < time.monotonic() - began < 30
    wait_for(lambda: not set(before) & set(server.children()))
    # a thread can't be cancelled
    assert ended.exists() is (generator == "asynchronous")
    if way == "reload":
        assert server.get()["release"] == "1"
        assert server.stop() == 0
    assert "killing it" not in server.log
    assert server.failed_exits == []


FLOOD = """
async def websocket(receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while True:
        await send({"type": "websocket.send", "text": "x" * 65536})
        # if the client keeps up, the send doesn't wait: other tasks would never run
        await asyncio.sleep(0)
"""


@pytest.mark.parametrize("way", ["stop", "reload"])
@pytest.mark.parametrize("implementation", ["websockets", "auto"])
def test_websocket_that_does_not_read_ends_with_graceful_timeout(server: Server, implementation: str, way: str) -> None:
    server.configure_websockets(implementation, graceful_timeout=4, handover_boot_nice=0)
    server.release("1", after=FLOOD)
    server.start()
    before = server.pids()
    with unix_connect(str(server.socket), "ws://localhost/", max_queue=1) as websocket:
        websocket.recv()
        if way == "stop":
            assert server.stop() == 0
        else:
            assert server.reload().returncode == 0
            wait_for(lambda: not set(before) & set(server.children()))
        assert "killing it" not in server.log
        assert server.failed_exits == []


PATIENT = "from gunicorn_handover import server as _server\n_server.CLOSE_TIMEOUT = 60"


def test_websocket_gets_its_output_and_1012_after_graceful_timeout(server: Server) -> None:
    """A client that reads gets all, including the close frame, which is behind buffered output."""
    server.release("1", after=FLOOD + PATIENT)
    server.configure(graceful_timeout=2, handover_websocket_grace=3600, handover_exit_timeout=3600, workers=1)
    server.start()

    def read(websocket: ClientConnection) -> None:
        while True:
            websocket.recv(timeout=60)

    with unix_connect(str(server.socket), "ws://localhost/", max_queue=1) as websocket:
        websocket.recv()
        server.signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed) as closed:
            read(websocket)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012
    # and it isn't waited for any longer
    assert server.process is not None
    assert server.process.wait(60) == 0
    assert server.failed_exits == []
