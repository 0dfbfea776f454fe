"""The warm-up: requests that a worker sends to its own application before it is admitted."""

from __future__ import annotations

import asyncio
import contextvars
import json
import os
import signal
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import Server, wait_for
from gunicorn_handover import warmup

pytestmark = pytest.mark.versions

# records each request to the path /warm, and answers with all of them
RECORDER = """
import contextvars
PLACE = contextvars.ContextVar("place", default="server")
SEEN = []

async def warm(scope, query, receive, send):
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    found = {key: scope[key] for key in ("method", "scheme", "path", "client", "state")}
    first = await receive()
    SEEN.append({**found, "query": query, "headers": headers, "body": first["body"].decode(), "place": PLACE.get()})
    await answer(send, SEEN)

PATHS["/warm"] = warm

async def lifespan(receive, send):
    await receive()
    PLACE.set("lifespan")
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})

plain = application
async def application(scope, receive, send):
    if scope["type"] == "lifespan" and "state" in scope:
        scope["state"]["pool"] = "open"
    await plain(scope, receive, send)
"""

# ways in which the path /faulty fails during a warm-up
FAULTS = {
    "answers 500": "await answer(send, {}, 500)",
    "raises": "raise RuntimeError('no database')",
    "exits": "raise SystemExit(1)",
    "dies": "os._exit(1)",
    "is killed": "os.kill(os.getpid(), 9)",
    "says nothing": "return",
    "stops half way": "await send({'type': 'http.response.start', 'status': 200, 'headers': []})",
    "cancels itself": "raise asyncio.CancelledError",
    "hangs": "await asyncio.sleep(3600)",
    "blocks": "time.sleep(3600)",
    "streams": "await events(scope, {'seconds': '3600'}, receive, send)",
    "floods": "\n    ".join(
        [
            "await send({'type': 'http.response.start', 'status': 200, 'headers': []})",
            "while True: await send({'type': 'http.response.body', 'body': b'x', 'more_body': True})",
        ]
    ),
    "can't be cancelled": "\n    ".join(
        [
            "while True:",
            "    try: await asyncio.sleep(3600)",
            "    except asyncio.CancelledError: pass",
        ]
    ),
}


class Application:
    """Records the requests of a warm-up. Each takes so many simulated seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float = 0.0, status: int = 200) -> None:
        self.seconds, self.status, self.now = seconds, status, 1000.0
        self.scopes: list[dict[str, Any]] = []
        self.events: list[str] = []
        clock = types.SimpleNamespace(monotonic=lambda: self.now, perf_counter=lambda: self.now)
        monkeypatch.setattr(warmup, "time", clock)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        self.events.append(f"+{scope['path']}")
        scope["state"]["requests"] = scope["state"].get("requests", 0) + 1
        self.scopes.append(scope)
        for _ in range(9):
            await asyncio.sleep(0)
        self.now += self.seconds
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": b""})
        self.events.append(f"-{scope['path']}")

    def warm_up(self, *paths: str, timeout: float = 60.0, stop: Callable[[], bool] = lambda: False) -> list[str]:
        """The results of a warm-up, as text."""
        self.state = {"pool": "open"}
        context = contextvars.copy_context()
        run = warmup.Warmup(paths, host="links.example", timeout=timeout, context=context, stop=stop)
        return [str(result) for result in asyncio.run(run.run(self, self.state))]


def test_paths_are_requested_in_turn_and_then_two_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    served = Application(monkeypatch)
    results = served.warm_up("/a", "/b")
    assert results == [f"GET {path} 200 in 0 ms, then 0 ms (8 more)" for path in ("/a", "/b")]
    pairs = [*["+/a"] * 2, *["-/a"] * 2, *["+/b"] * 2, *["-/b"] * 2]
    assert served.events == ["+/a", "-/a", "+/b", "-/b", *pairs * 4]


@pytest.mark.parametrize(
    ("seconds", "requests"),
    # the first round is complete however long it takes; a later one starts within a second
    [(1 / 16, [9, 7]), (1 / 8, [5, 3]), (1 / 4, [3, 1]), (1 / 2, [1, 1]), (2, [1, 1])],
)
def test_warmup_of_a_slow_application_is_short(
    monkeypatch: pytest.MonkeyPatch, seconds: float, requests: list[int]
) -> None:
    served = Application(monkeypatch, seconds)
    served.warm_up("/a", "/b")
    assert [served.events.count(f"+{path}") for path in ("/a", "/b")] == requests


@pytest.mark.parametrize(("status", "requests"), [(200, 9), (399, 9), (400, 1), (503, 1)])
def test_path_that_fails_is_not_repeated(monkeypatch: pytest.MonkeyPatch, status: int, requests: int) -> None:
    served = Application(monkeypatch, status=status)
    served.warm_up("/a")
    assert served.events.count("+/a") == requests


def test_warmup_ends_when_the_worker_must_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    for most in (1, 2, 3, 4, 5):
        served = Application(monkeypatch)
        served.warm_up("/a", "/b", stop=lambda served=served, most=most: len(served.scopes) >= most)  # type: ignore[misc]
        assert most <= len(served.scopes) <= most + 1


def test_warmup_request_is_that_of_a_local_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    served = Application(monkeypatch)
    served.warm_up("/a")
    assert served.state == {"pool": "open"}
    assert all(scope["state"] == {"pool": "open", "requests": 1} for scope in served.scopes)
    assert served.scopes[0]["headers"] == [
        (b"host", b"links.example"),
        (b"x-forwarded-for", b"127.0.0.1"),
        (b"x-forwarded-proto", b"https"),
        (b"x-forwarded-host", b"links.example"),
        (b"x-real-ip", b"127.0.0.1"),
        (b"user-agent", warmup.AGENT.encode()),
        (b"accept", b"*/*"),
    ]


def faulty(body: str) -> str:
    """Code of a path that fails only during a warm-up."""
    return f"""
async def faulty(scope, query, receive, send):
    if not any(b"warmup" in value for _, value in scope["headers"]):
        return await answer(send, {{}})
    {body}
PATHS["/faulty"] = faulty
"""


def lines(server: Server) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]


def test_warmup_requests_look_like_proxied_ones(server: Server) -> None:
    server.configure(handover_warmup_paths=["/warm?a=b%20c", "/"], handover_warmup_host="links.example", workers=1)
    server.release("1", after=RECORDER)
    server.start()
    *before, own = server.get("/warm")
    assert len(before) > 1
    assert own["client"] is None or own["client"][0] != "127.0.0.1"
    agent = before[0]["headers"]["user-agent"]
    assert agent.startswith("gunicorn-handover-warmup/")
    for request in before:
        assert (request["method"], request["scheme"], request["path"]) == ("GET", "https", "/warm")
        assert request["query"] == {"a": "b c"}
        assert request["body"] == ""
        assert request["client"][0] == "127.0.0.1"
        assert request["headers"]["host"] == request["headers"]["x-forwarded-host"] == "links.example"
        assert request["headers"]["x-forwarded-proto"] == "https"
        assert request["headers"]["x-forwarded-for"] == "127.0.0.1"
        # the same as for a client's request
        assert request["state"] == own["state"] == {"pool": "open"}
        assert request["place"] == own["place"]


def test_warmup_is_logged_per_path_and_not_counted(server: Server) -> None:
    server.configure(handover_warmup_paths=["/warm", "/missing"], workers=1, max_requests=2, accesslog="-")
    server.release("1", after=RECORDER)
    server.start()
    (first,) = server.pids()
    server.get("/")
    warm = [line for line in lines(server) if line.get("message", "").startswith("Warm-up: ")]
    assert [(line["level"], line["message"].split(" in ")[0]) for line in warm] == [
        ("info", "Warm-up: GET /warm 200"),
        ("warning", "Warm-up: GET /missing 404"),
    ]
    assert " ms" in warm[0]["message"]

    def served() -> list[str]:
        return [line["path"] for line in lines(server) if line["logger"] == "access"]

    # the line is written after the response
    wait_for(served, what="the access line of the client's request")
    assert served() == ["/"]
    # the warm-up made more requests than max_requests
    assert server.pids() == [first]
    server.get("/")
    wait_for(lambda: server.pids() not in ([], [first]), what="the replacement after two client requests")


@pytest.mark.parametrize("how", FAULTS)
def test_failed_warmup_does_not_fail_reload(server: Server, how: str) -> None:
    server.start()
    server.release("2", after=faulty(FAULTS[how]) + RECORDER)
    server.set_current("2")
    # both paths share the timeout, and a busy machine takes seconds to answer the good one
    server.configure(handover_warmup_paths=["/faulty", "/warm"], handover_warmup_timeout=5, handover_boot_timeout=60)
    assert server.reload().returncode == 0, server.log
    assert len(server.pids()) == 2
    assert server.get("/")["release"] == "2"
    assert [line for line in lines(server) if line["level"] in ("warning", "error") and "arm-up" in line["message"]]
    if how in ("dies", "is killed", "blocks"):
        return  # the worker that would have continued has exited
    # the other path was requested nevertheless
    assert len(server.get("/warm")) > 1


def test_warmup_timeout_disconnects_stream(server: Server, tmp_path: Path) -> None:
    marker = tmp_path / "left"
    body = f"""await send({{'type': 'http.response.start', 'status': 200, 'headers': []}})
    await receive()
    Path({str(marker)!r}).write_text((await receive())["type"])"""
    server.configure(handover_warmup_paths=["/faulty"], handover_warmup_timeout=1, workers=1)
    server.release("1", after=faulty(body))
    server.start()
    assert marker.read_text() == "http.disconnect"


@pytest.mark.parametrize("how", ["answers 500", "dies", "blocks", "hangs"])
def test_required_warmup_fails_reload(server: Server, how: str) -> None:
    server.start()
    before = server.pids()
    server.release("2", after=faulty(FAULTS[how]))
    server.set_current("2")
    server.configure(handover_warmup_paths=["/faulty"], handover_warmup_timeout=1, handover_warmup_required=True)
    done = server.reload()
    assert done.returncode != 0
    assert "warm-up" in done.stderr or how == "dies"
    assert server.pids() == before
    assert server.get("/")["release"] == "1"
    # the restored configuration has no warm-up, and the next good release is warmed up
    server.release("3", after=RECORDER)
    server.set_current("3")
    server.configure(handover_warmup_paths=["/warm"], handover_warmup_required=True)
    assert server.reload().returncode == 0
    assert len(server.get("/warm")) > 1


@pytest.mark.parametrize("lifespan", [True, False])
def test_required_warmup_fails_start(server: Server, lifespan: bool) -> None:
    without = "" if lifespan else "async def lifespan(receive, send):\n    raise RuntimeError('what is a lifespan?')\n"
    server.configure(handover_warmup_paths=["/fail"], handover_warmup_required=True)
    server.release("1", after=without)
    server.start(ready=False)
    assert server.process is not None
    assert server.process.wait(20) != 0
    assert "warm-up failed: GET /fail raised RuntimeError: the handler broke" in server.log
    assert not server.notified("READY=1")


def test_application_without_lifespan_is_warmed_up(server: Server) -> None:
    server.configure(handover_warmup_paths=["/warm"], workers=1)
    server.release("1", after=RECORDER + "async def lifespan(receive, send):\n    raise RuntimeError('no lifespan')\n")
    server.start()
    assert len(server.get("/warm")) > 1


def test_replacement_of_killed_worker_is_warmed_up(server: Server) -> None:
    server.configure(handover_warmup_paths=["/warm"], workers=1)
    server.release("1", after=RECORDER)
    server.start()
    (first,) = server.pids()
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: server.pids() not in ([], [first]))
    assert len(server.get("/warm")) > 1


@pytest.mark.parametrize("how", ["hangs", "blocks", "streams", "floods", "can't be cancelled"])
def test_stop_ends_warmup(server: Server, how: str) -> None:
    server.configure(handover_warmup_paths=["/faulty"], handover_warmup_timeout=600, graceful_timeout=600)
    began = "Path(__file__).with_name('began').touch()\n    "
    source = server.release("1", after=faulty(began + FAULTS[how]))
    server.start(ready=False)
    wait_for((source / "began").exists)
    assert server.stop() == 0


def test_hanging_path_leaves_time_for_others(server: Server) -> None:
    server.configure(handover_warmup_paths=["/faulty", "/warm"], handover_warmup_timeout=2, workers=1)
    server.release("1", after=RECORDER + faulty(FAULTS["hangs"]))
    server.start()
    assert len(server.get("/warm")) > 1


@pytest.mark.parametrize("bad", ["readyz", "/a b", "https://x/", "", "/a#b", "/é", 7, "/a\nb"])
def test_invalid_warmup_path_is_refused(server: Server, bad: object) -> None:
    server.start()
    server.configure(handover_warmup_paths=["/", bad])
    done = server.reload()
    assert done.returncode != 0
    assert "handover_warmup_paths" in done.stderr
    assert "/readyz" in done.stderr
    assert len(server.pids()) == 2
