"""The worker's own limits and decisions, one by one, in simulated time."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gunicorn.workers.base
import pytest
import uvloop

from application import application
from gunicorn_handover import forks, metrics, priority, worker
from gunicorn_handover.board import DrainReason, State, describe
from simulation import MASTER, PID, Life, Script, process_restored

pytestmark = pytest.mark.versions

Create = Callable[..., Life]


async def drain(one: Life) -> None:
    await one.ready()
    await one.drain()


@pytest.mark.parametrize(("timeout", "interval"), [(30, 0.5), (1, 0.25), (0, 0.5)])
def test_heartbeats_continue_until_the_exit(life: Create, timeout: int, interval: float) -> None:
    """Four times in `timeout` at least, and twice per second."""
    one = life(timeout=timeout, graceful_timeout=4)

    async def script(one: Life) -> None:
        await one.ready()
        await one.request("/slow?seconds=3000")
        await asyncio.sleep(3)
        await one.drain()

    one.run(script)
    times = sorted(set(one.heartbeats))
    assert {later - earlier for earlier, later in itertools.pairwise(times)} == {interval}
    assert one.clock.now - times[-1] <= 2 * interval


def test_heartbeat_precedes_readiness(life: Create, monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop may be blocked from then on, and `timeout` applies only after a heartbeat."""
    one = life()
    states: list[State] = []
    monkeypatch.setattr(one.worker, "notify", lambda: states.append(one.board.state))
    monkeypatch.setattr(one.worker, "_server", types.SimpleNamespace(), raising=False)
    one.worker._on_ready()
    assert (states, one.board.state) == ([State.BOOTING], State.READY)


def test_worker_accepts_as_soon_as_it_is_admitted(life: Create) -> None:
    one = life()

    async def script(one: Life) -> None:
        await one.until(lambda: one.board.state is State.STANDBY)
        client = await one.connect()
        client.send()
        await asyncio.sleep(60)
        assert one.board.state is State.STANDBY
        assert not one.server.started
        one.board.admit()
        admitted = one.clock.now
        assert (await client.receive())[0] == 200
        assert one.clock.now - admitted <= 0.05
        await one.drain()

    one.run(script)


def _told(one: Life) -> None:
    one.server.should_exit = True


def _drained(one: Life) -> None:
    one.board.request_drain(DrainReason.STOP)


def _adopted_by_older(one: Life) -> None:
    one.parent = MASTER - 1


def _adopted_by_younger(one: Life) -> None:
    one.parent = MASTER + 1


@pytest.mark.parametrize("what", [_told, _drained, _adopted_by_older, _adopted_by_younger])
def test_worker_that_is_not_admitted_exits_when_it_must(life: Create, what: Callable[[Life], None]) -> None:
    one = life()
    times: list[float] = []

    async def script(one: Life) -> None:
        await one.until(lambda: one.board.state is State.STANDBY)
        await asyncio.sleep(10)
        assert one.board.state is State.STANDBY
        what(one)
        times.append(one.clock.now)

    one.run(script)
    assert one.clock.now - times[0] <= 1


@pytest.mark.parametrize("what", [_drained, _adopted_by_older, _adopted_by_younger])
def test_worker_that_gets_no_signal_drains_with_its_next_heartbeat(life: Create, what: Callable[[Life], None]) -> None:
    one = life(graceful_timeout=10)

    async def script(one: Life) -> None:
        await one.ready()
        client = await one.request("/slow?seconds=5")
        await asyncio.sleep(2)
        assert one.board.state is State.READY
        what(one)
        began = one.clock.now
        await one.until(lambda: one.board.state is State.DRAINING)
        assert one.clock.now - began <= 0.7
        assert (await client.receive())[0] == 200

    one.run(script)
    assert one.log.count("has exited; draining") == (what is not _drained)


@pytest.mark.parametrize("required", [False, True])
def test_warmup_fails_boot_only_if_required(life: Create, required: bool) -> None:
    one = life(handover_warmup_paths=["/missing"], handover_warmup_required=required)

    async def script(one: Life) -> None:
        if not required:
            await drain(one)

    if required:
        with pytest.raises(SystemExit) as exited:
            one.run(script)
        assert exited.value.code == worker.BOOT_ERROR
    else:
        one.run(script)
    assert one.board.failure == ("warm-up failed: GET /missing 404 in 0 ms" if required else "")
    assert "GET /missing 404" in one.log


def test_worker_that_warmed_up_waits_for_admission(life: Create) -> None:
    one = life(handover_warmup_paths=["/"], handover_warmup_required=True)

    async def script(one: Life) -> None:
        await one.until(lambda: one.board.state is State.STANDBY)
        await asyncio.sleep(5)
        assert one.board.state is State.STANDBY
        await drain(one)

    one.run(script)


def test_stop_during_warmup_is_no_failure(life: Create) -> None:
    one = life(handover_warmup_paths=["/slow?seconds=9"], handover_warmup_required=True)

    async def script(one: Life) -> None:
        await one.until(lambda: one.board.state is State.WARMING)
        await asyncio.sleep(1)
        one.board.request_drain(DrainReason.STOP)

    one.run(script)
    assert one.board.failure == ""
    assert one.clock.now < 1009


@pytest.mark.parametrize(("limit", "requests"), [(0, 9), (3, 4), (3, 5), (3, 6)])
def test_replacement_is_requested_once_after_max_requests(
    life: Create, monkeypatch: pytest.MonkeyPatch, limit: int, requests: int
) -> None:
    monkeypatch.setattr(gunicorn.workers.base, "randint", lambda _, most: most)
    one = life(max_requests=limit, max_requests_jitter=2, keepalive=60)

    async def script(one: Life) -> None:
        await one.ready()
        client = await one.connect()
        for _ in range(requests):
            await client.get()
        await asyncio.sleep(3)
        assert one.board.state is State.READY
        await one.drain()

    one.run(script)
    asked = limit > 0 and requests >= 5
    assert one.board.to_be_replaced is asked
    assert one.log.count("asks to be replaced") == asked


def _raise(error: BaseException) -> Callable[..., None]:
    def handle(*_: Any) -> None:
        raise error

    return handle


def _stopped_during_request(*numbers: signal.Signals) -> Script:
    """A script: the worker gets these signals while a request runs, drains, and answers it."""

    async def script(one: Life) -> None:
        await one.ready()
        client = await one.request("/slow?seconds=5")
        await asyncio.sleep(1)
        for number in numbers:
            assert forks.is_servers(signal.getsignal(number))  # or the next line may end this process
            signal.raise_signal(number)
        await one.until(lambda: one.board.state is State.DRAINING)
        assert (await client.receive())[0] == 200

    return script


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize(
    ("handler", "warnings"),
    [
        (lambda *_: None, 0),
        (signal.SIG_IGN, 0),
        (signal.SIG_DFL, 0),
        (_raise(SystemExit(0)), 0),
        (_raise(KeyboardInterrupt()), 0),
        (_raise(ValueError("broken")), 2),
    ],
)
def test_handler_of_the_application_does_not_end_running_requests(
    life: Create, handler: Any, warnings: int, later: bool
) -> None:
    """Whether it installs it at its startup or later."""

    async def served(scope: Any, receive: Any, send: Any) -> None:
        if later is (scope["type"] == "http"):
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, handler)
        await application(scope, receive, send)

    one = life(served, graceful_timeout=10)
    one.run(_stopped_during_request(signal.SIGTERM, signal.SIGINT))
    assert one.log.count("The application's signal handler raised ValueError: broken") == warnings


@pytest.mark.parametrize(
    ("handler", "warnings"), [(_raise(SystemExit(0)), 0), (_raise(ValueError("broken")), 1), (lambda *_: None, 0)]
)
def test_handler_of_the_event_loop_does_not_end_running_requests(life: Create, handler: Any, warnings: int) -> None:
    called: list[tuple[Any, ...]] = []

    def callback(*args: Any) -> None:
        called.append(args)
        handler()

    async def served(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, callback, "stop", 1)
        await application(scope, receive, send)

    one = life(served, graceful_timeout=10)
    one.run(_stopped_during_request(signal.SIGTERM))
    assert called == [("stop", 1)]
    assert one.log.count("The application's signal handler raised ValueError: broken") == warnings


def test_application_that_stops_the_event_loop_drains_the_worker(life: Create) -> None:
    async def served(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            asyncio.get_running_loop().stop()
        await application(scope, receive, send)

    async def script(one: Life) -> None:
        await one.ready()
        client = await one.request("/slow?seconds=5")
        await one.until(lambda: one.board.state is State.DRAINING)
        assert (await client.receive())[0] == 200

    one = life(served, graceful_timeout=10)
    one.run(script)
    assert one.log.count("The application has stopped the event loop; worker ") == 1


def test_removing_a_handler_of_the_event_loop_does_not_restore_the_default(life: Create) -> None:
    """The default would end the worker and its requests."""

    async def served(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGTERM, lambda: None)
            assert loop.remove_signal_handler(signal.SIGTERM)
            assert forks.is_servers(signal.getsignal(signal.SIGTERM))
            assert not loop.remove_signal_handler(signal.SIGTERM)
        await application(scope, receive, send)

    life(served, graceful_timeout=10).run(_stopped_during_request(signal.SIGTERM))


def test_forked_process_gets_the_application_s_handlers_back(life: Create) -> None:
    one = life()
    with process_restored():
        for number, handler in ((signal.SIGTERM, _raise(SystemExit(0))), (signal.SIGINT, signal.SIG_IGN)):
            signal.signal(number, handler)
            one.worker._wrap_stop_handlers()
            one.worker._wrap_stop_handlers()
            assert signal.getsignal(number) is not handler
            forks.reset_handlers()
            assert signal.getsignal(number) is handler


class Stubborn:
    """An application whose request ignores its cancellation."""

    def __init__(self) -> None:
        self.cancellations: list[float] = []
        self.life: Life

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await application(scope, receive, send)
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                if self.life.ended:
                    raise
                self.cancellations.append(self.life.clock.now)


@pytest.mark.parametrize("exit_timeout", [5, 12])
def test_task_that_ignores_its_cancellation_has_a_quarter_of_exit_timeout(life: Create, exit_timeout: int) -> None:
    served = Stubborn()
    one = served.life = life(served, graceful_timeout=1, handover_exit_timeout=exit_timeout)

    async def script(one: Life) -> None:
        await one.ready()
        await one.request()
        await one.drain()

    one.run(script)
    (cancelled,) = served.cancellations
    assert exit_timeout / 4 <= one.clock.now - cancelled <= exit_timeout / 4 + 0.1
    assert one.log.count("exits with 1 tasks that ignore their cancellation") == 1


def test_background_task_is_cancelled_once_and_may_tidy_up(life: Create) -> None:
    ended: list[str] = []
    tasks: list[asyncio.Task[None]] = []

    async def background() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            await asyncio.sleep(1)
            ended.append("background task")
            raise

    async def served(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await application(scope, receive, send)
        tasks.append(asyncio.create_task(background()))
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            await asyncio.sleep(0.5)
            ended.append("request")
            raise

    one = life(served, graceful_timeout=1, handover_exit_timeout=5)
    times: list[float] = []

    async def script(one: Life) -> None:
        await one.ready()
        client = await one.connect()
        client.send()
        await one.until(lambda: tasks)
        times.append(await one.drain())

    one.run(script)
    assert ended == ["request", "background task"]
    assert one.clock.now - times[0] < 2.5
    assert "ignore their cancellation" not in one.log


@pytest.mark.parametrize(("exit_timeout", "limit"), [(5, 2), (3, 1.5), (1, 0.5)])
def test_forked_process_that_ignores_sigterm_is_killed_in_time(life: Create, exit_timeout: int, limit: float) -> None:
    one = life(handover_exit_timeout=exit_timeout)
    one.forked = [5001, 5002]
    one.run(drain)
    assert [sent[1:] for sent in one.signals] == [
        (pid, number) for number in (signal.SIGTERM, signal.SIGKILL) for pid in (5001, 5002)
    ]
    assert limit <= one.signals[-1][0] - one.signals[0][0] <= limit + 0.1


@pytest.mark.parametrize(
    ("nice", "reason", "permitted", "stopped", "expected"),
    [
        (19, DrainReason.REPLACED, True, False, [("process", 19), ("session", 19)]),
        # a stop must be able to restore the priority
        (19, DrainReason.REPLACED, False, False, [("session", 19)]),
        (19, DrainReason.REPLACED, True, True, [("process", 19), ("session", 19), ("process", 3), ("session", 0)]),
        (0, DrainReason.REPLACED, True, False, []),
        (19, DrainReason.STOP, True, False, []),
        (19, DrainReason.NONE, True, False, []),
    ],
)
def test_only_replaced_worker_exits_at_low_priority(
    life: Create,
    monkeypatch: pytest.MonkeyPatch,
    nice: int,
    reason: DrainReason,
    permitted: bool,
    stopped: bool,
    expected: list[tuple[str, int]],
) -> None:
    one = life(handover_boot_nice=nice)
    seen: list[tuple[str, int]] = []

    def renice(what: str) -> Callable[[int, int], None]:
        def record(pid: int, to: int) -> None:
            assert pid == PID
            seen.append((what, to))
            if stopped and what == "session":
                one.board.request_drain(DrainReason.STOP)

        return record

    monkeypatch.setattr(priority, "niceness", lambda: 3)
    monkeypatch.setattr(priority, "can_renice_to", lambda nice: nice == 3 and permitted)
    monkeypatch.setattr(priority, "renice", renice("process"))
    monkeypatch.setattr(priority, "renice_session", renice("session"))

    async def script(one: Life) -> None:
        await one.ready()
        await one.drain(reason)

    one.run(script)
    assert seen == expected


@pytest.mark.parametrize("state", [State.BOOTING, State.WARMING, State.STANDBY, State.READY, State.DRAINING])
@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt(), SystemExit(7)])
def test_error_is_a_failed_boot_only_until_the_worker_is_ready(
    life: Create, monkeypatch: pytest.MonkeyPatch, error: BaseException, state: State
) -> None:
    one = life()
    for module, name in ((os, "setsid"), (worker, "pin_release"), (forks, "isolate")):
        monkeypatch.setattr(module, name, lambda *_: None)

    def fail(_: Any) -> None:
        one.board.state = state
        raise error

    monkeypatch.setattr(gunicorn.workers.base.Worker, "init_process", fail)
    with pytest.raises(BaseException) as raised:  # noqa: PT011
        one.worker.init_process()
    is_boot = state < State.READY
    assert one.board.failure == (describe(error) if is_boot else "")
    if is_boot and isinstance(error, Exception):
        assert isinstance(raised.value, SystemExit)
        assert raised.value.code == worker.BOOT_ERROR
        assert "The application could not be started." in one.log
    else:
        assert raised.value is error


def test_signals_for_the_master_do_nothing_to_a_worker(life: Create) -> None:
    one = life()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, worker.BLOCKED_IN_FORK)
    try:
        one.worker.init_signals()
        assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & set(worker.BLOCKED_IN_FORK)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    for number in (signal.SIGHUP, signal.SIGUSR2):
        handler = signal.getsignal(number)
        assert callable(handler), "programs inherit an ignored signal"
        handler(number, None)


@pytest.mark.parametrize("directory", ["", "metrics"])
def test_metrics_are_prepared_before_the_application_is_loaded(
    life: Create, monkeypatch: pytest.MonkeyPatch, directory: str
) -> None:
    events: list[str] = []
    monkeypatch.setattr(metrics, "prepare", lambda name, _: events.append(f"prepare {name}"))
    one = life(handover_metrics_directory=directory or None)
    one.worker.app = types.SimpleNamespace(wsgi=lambda: events.append("load"))
    one.worker.load_wsgi()
    assert events == ([f"prepare {directory}"] if directory else []) + ["load"]


@pytest.mark.parametrize("accesslog", [None, "-"])
def test_access_log_is_written_before_the_exit(
    life: Create, capsys: pytest.CaptureFixture[str], accesslog: str | None
) -> None:
    one = life(accesslog=accesslog)

    async def script(one: Life) -> None:
        await one.ready()
        await (await one.connect()).get("/readiness")
        await one.drain()

    one.run(script)
    assert capsys.readouterr().out.count('"path": "/readiness"') == (accesslog is not None)


def test_release_is_pinned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    release, current = tmp_path / "releases/1", tmp_path / "current"
    (release / "venv/bin").mkdir(parents=True)
    (tmp_path / "python").touch()
    (release / "venv/bin/python").symlink_to(tmp_path / "python")
    current.symlink_to(release)
    search, namespace = [f"{current}/src/package"], object()
    faked = types.SimpleNamespace(
        path=[f"{current}/src", "", "relative"],
        modules={
            "package": types.SimpleNamespace(__path__=search),
            "namespace": types.SimpleNamespace(__path__=namespace),
            "plain": types.SimpleNamespace(),
            "none": None,
        },
        prefix=f"{current}/venv",
        exec_prefix=f"{current}/venv",
        executable=f"{current}/venv/bin/python",
        path_importer_cache={f"{current}/src": None},
    )
    monkeypatch.setattr(worker, "sys", faked)
    worker.pin_release()
    assert faked.path == [f"{release}/src", "", "relative"]
    assert search == [f"{release}/src/package"]
    assert faked.modules["namespace"].__path__ is namespace
    assert faked.prefix == faked.exec_prefix == f"{release}/venv"
    assert faked.executable == f"{release}/venv/bin/python"
    assert faked.path_importer_cache == {}


@pytest.mark.parametrize("setting", ["/readiness", "/readiness?probe=1"])
def test_urgent_path_does_not_wait_for_its_turn(life: Create, setting: str) -> None:
    """Requests that take long occupy the event loop, and others wait for their turn."""
    answered: list[str] = []

    async def served(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            one.clock.sleep(1)
            answered.append(scope["path"])
        await application(scope, receive, send)

    one = life(served, handover_urgent_paths=[setting], keepalive=100)

    async def script(one: Life) -> None:
        await one.ready()
        clients = [await one.connect() for _ in range(9)]
        for client in clients[:-1]:
            client.send()
        clients[-1].send("/readiness?probe=2")
        for client in clients:
            await client.receive()
        await one.drain()

    one.run(script)
    assert answered.index("/readiness") < 3
    assert len(answered) == 9


@pytest.mark.parametrize("http_parser", ["httptools", "h11"])
@pytest.mark.parametrize(("limit", "most"), [(3, 3), (100, 100), (0, 1000)])
def test_request_with_more_header_fields_than_allowed_is_answered_431(
    life: Create, http_parser: str, limit: int, most: int
) -> None:
    reached: list[str] = []

    async def served(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["type"])
        await application(scope, receive, send)

    one = life(served, handover_http=http_parser, limit_request_fields=limit, accesslog=None, keepalive=100)

    async def script(one: Life) -> None:
        await one.ready()
        client = await one.connect()
        # the Host header counts
        assert (await client.get(headers="X-A: 1\r\n" * (most - 1)))[0] == 200
        if limit:
            status, headers = await client.get(headers="X-A: 1\r\n" * most)
            assert (status, headers["content-type"]) == (431, "text/plain; charset=utf-8")
        # the connection stays open
        assert (await client.get())[0] == 200
        await one.drain()

    one.run(script)
    assert reached.count("http") == 2
    assert one.log.count("limit_request_fields is exceeded") == bool(limit)


HANDSHAKE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


def test_websocket_with_more_header_fields_than_allowed_is_answered_431(life: Create) -> None:
    one = life(limit_request_fields=20)

    async def script(one: Life) -> None:
        await one.ready()
        async with one.websocket() as websocket:
            await websocket.send("text")
            assert await websocket.recv() == "text"
        client = await one.connect()
        assert (await client.get(headers=HANDSHAKE + "X-A: 1\r\n" * 20))[0] == 431
        await one.drain()

    one.run(script)
    assert one.log.count("limit_request_fields is exceeded") == 1


def test_event_loop_is_the_one_that_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, auto, fast = (bytes(name, "ascii").decode() for name in ("asyncio", "auto", "uvloop"))  # as from a file
    assert worker.loop_factory(plain) is asyncio.new_event_loop
    assert worker.loop_factory(auto) is worker.loop_factory(fast) is uvloop.new_event_loop
    monkeypatch.setitem(sys.modules, "uvloop", None)  # as if it weren't installed
    assert worker.loop_factory(plain) is worker.loop_factory(auto) is asyncio.new_event_loop
    with pytest.raises(ImportError):
        worker.loop_factory(fast)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError("no\n  database"), "RuntimeError: no database"),
        (MemoryError(), "MemoryError"),
        (SystemExit("a\nb"), "the application called sys.exit('a\\nb') while it started"),
    ],
)
def test_error_is_described_in_one_line(error: BaseException, line: str) -> None:
    assert describe(error) == line
