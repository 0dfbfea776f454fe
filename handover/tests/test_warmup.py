"""The warm-up: requests that a worker makes to its own application before it is admitted."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from conftest import Server, wait_for

pytestmark = pytest.mark.versions

# leaves a line for each request that the application gets by its path /warm, and answers with their number
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

# ways in which the path /ill breaks a warm-up
ILL = {
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


def ill(body: str) -> str:
    """A path that is ill in a warm-up alone."""
    return f"""
async def ill(scope, query, receive, send):
    if not any(b"warmup" in value for _, value in scope["headers"]):
        return await answer(send, {{}})
    {body}
PATHS["/ill"] = ill
"""


def lines(server: Server) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]


def test_a_worker_asks_its_application_as_the_proxy_would_before_it_accepts(server: Server) -> None:
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
        # as a client's request finds them
        assert request["state"] == own["state"] == {"pool": "open"}
        assert request["place"] == own["place"]


def test_a_warmup_is_logged_a_line_a_path_and_is_no_traffic(server: Server) -> None:
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

    # the line is written after the response has been
    wait_for(served, what="the access line of the client's request")
    assert served() == ["/"]
    # more than max_requests have been made in the warm-up
    assert server.pids() == [first]
    server.get("/")
    wait_for(lambda: server.pids() not in ([], [first]), what="the successor after two requests of a client's")


@pytest.mark.parametrize("how", ILL)
def test_a_warmup_that_goes_wrong_costs_its_time_and_nothing_else(server: Server, how: str) -> None:
    server.start()
    server.release("2", after=ill(ILL[how]) + RECORDER)
    server.point("2")
    # the good page has the time of the bad one, and a busy machine takes seconds to answer it
    server.configure(handover_warmup_paths=["/ill", "/warm"], handover_warmup_timeout=5, handover_boot_timeout=60)
    assert server.reload().returncode == 0, server.log
    assert len(server.pids()) == 2
    assert server.get("/")["release"] == "2"
    assert [line for line in lines(server) if line["level"] in ("warning", "error") and "arm-up" in line["message"]]
    if how in ("dies", "is killed", "blocks"):
        return  # nothing is left of the worker that could have gone on
    # the others were asked all the same
    assert len(server.get("/warm")) > 1


def test_a_stream_hears_that_its_client_has_left(server: Server, tmp_path: Path) -> None:
    marker = tmp_path / "left"
    body = f"""await send({{'type': 'http.response.start', 'status': 200, 'headers': []}})
    await receive()
    Path({str(marker)!r}).write_text((await receive())["type"])"""
    server.configure(handover_warmup_paths=["/ill"], handover_warmup_timeout=1, workers=1)
    server.release("1", after=ill(body))
    server.start()
    assert marker.read_text() == "http.disconnect"


@pytest.mark.parametrize("how", ["answers 500", "dies", "blocks", "hangs"])
def test_a_warmup_that_is_required_fails_the_reload(server: Server, how: str) -> None:
    server.start()
    before = server.pids()
    server.release("2", after=ill(ILL[how]))
    server.point("2")
    server.configure(handover_warmup_paths=["/ill"], handover_warmup_timeout=1, handover_warmup_required=True)
    done = server.reload()
    assert done.returncode != 0
    assert "warm-up" in done.stderr or how == "dies"
    assert server.pids() == before
    assert server.get("/")["release"] == "1"
    # the way back has no warm-up, and the next good release is warmed
    server.release("3", after=RECORDER)
    server.point("3")
    server.configure(handover_warmup_paths=["/warm"], handover_warmup_required=True)
    assert server.reload().returncode == 0
    assert len(server.get("/warm")) > 1


@pytest.mark.parametrize("lifespan", [True, False])
def test_a_warmup_that_is_required_fails_the_start(server: Server, lifespan: bool) -> None:
    without = "" if lifespan else "async def lifespan(receive, send):\n    raise RuntimeError('what is a lifespan?')\n"
    server.configure(handover_warmup_paths=["/fail"], handover_warmup_required=True)
    server.release("1", after=without)
    server.start(ready=False)
    assert server.process is not None
    assert server.process.wait(20) != 0
    assert "warm-up failed: GET /fail raised RuntimeError: the handler broke" in server.log
    assert not server.notified("READY=1")


def test_an_application_without_a_lifespan_is_warmed(server: Server) -> None:
    server.configure(handover_warmup_paths=["/warm"], workers=1)
    server.release("1", after=RECORDER + "async def lifespan(receive, send):\n    raise RuntimeError('no lifespan')\n")
    server.start()
    assert len(server.get("/warm")) > 1


def test_the_successor_of_a_dead_worker_is_warmed(server: Server) -> None:
    server.configure(handover_warmup_paths=["/warm"], workers=1)
    server.release("1", after=RECORDER)
    server.start()
    (first,) = server.pids()
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: server.pids() not in ([], [first]))
    assert len(server.get("/warm")) > 1


@pytest.mark.parametrize("how", ["hangs", "blocks", "streams", "floods", "can't be cancelled"])
def test_a_stop_ends_a_warmup(server: Server, how: str) -> None:
    server.configure(handover_warmup_paths=["/ill"], handover_warmup_timeout=600, graceful_timeout=600)
    began = "Path(__file__).with_name('began').touch()\n    "
    source = server.release("1", after=ill(began + ILL[how]))
    server.start(ready=False)
    wait_for((source / "began").exists)
    assert server.stop() == 0


def test_one_path_that_hangs_leaves_the_others_their_share(server: Server) -> None:
    server.configure(handover_warmup_paths=["/ill", "/warm"], handover_warmup_timeout=2, workers=1)
    server.release("1", after=RECORDER + ill(ILL["hangs"]))
    server.start()
    assert len(server.get("/warm")) > 1


@pytest.mark.parametrize("bad", ["readyz", "/a b", "https://x/", "", "/a#b", "/é", 7, "/a\nb"])
def test_what_is_no_path_is_refused_by_name(server: Server, bad: object) -> None:
    server.start()
    server.configure(handover_warmup_paths=["/", bad])
    done = server.reload()
    assert done.returncode != 0
    assert "handover_warmup_paths" in done.stderr
    assert "/readyz" in done.stderr
    assert len(server.pids()) == 2
