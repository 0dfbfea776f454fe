"""The tests' application: plain ASGI, so that it boots quickly. Each release has a copy."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import time
import urllib.parse
from pathlib import Path
from typing import Any

RELEASE = Path(__file__).resolve().parent.parent.name


async def application(scope: Any, receive: Any, send: Any) -> None:
    kind = scope["type"]
    if kind == "lifespan":
        await lifespan(receive, send)
    elif kind == "websocket":
        await websocket(receive, send)
    else:
        query = dict(urllib.parse.parse_qsl(scope["query_string"].decode()))
        if name := query.get("began"):
            Path(__file__).with_name(name).touch()
        await PATHS.get(scope["path"], missing)(scope, query, receive, send)


async def lifespan(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    if marker := os.environ.get("SHUTDOWN_MARKER"):
        Path(marker, str(os.getpid())).touch()
    await asyncio.sleep(float(os.environ.get("SHUTDOWN_SECONDS", "0")))
    if (marker := os.environ.get("SHUTDOWN_MARKER")) and os.environ.get("SHUTDOWN_SECONDS"):
        Path(marker, f"{os.getpid()}.ended").touch()
    if os.environ.get("SHUTDOWN_HANGS"):
        await asyncio.sleep(3600)
    await send({"type": "lifespan.shutdown.complete"})


async def websocket(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            if marker := os.environ.get("DISCONNECT_MARKER"):
                Path(marker).write_text(str(message["code"]))
            return
        await send({"type": "websocket.send", "text": message.get("text", "")})


async def answer(send: Any, document: object, status: int = 200) -> None:
    body = json.dumps(document).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def root(scope: Any, query: Any, receive: Any, send: Any) -> None:
    await answer(send, {"pid": os.getpid(), "release": RELEASE, "greeting": os.environ.get("GREETING")})


async def readiness(scope: Any, query: Any, receive: Any, send: Any) -> None:
    """Answers 503 while the worker drains, as an application's readiness page may."""
    draining = scope["extensions"]["gunicorn_handover"]["draining"]
    await answer(send, {"pid": os.getpid(), "draining": draining}, 503 if draining else 200)


async def missing(scope: Any, query: Any, receive: Any, send: Any) -> None:
    await answer(send, {}, 404)


async def echo(scope: Any, query: Any, receive: Any, send: Any) -> None:
    size = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message["body"])
        more = message["more_body"]
    await answer(send, {"size": size})


async def slow(scope: Any, query: Any, receive: Any, send: Any) -> None:
    await asyncio.sleep(float(query.get("seconds", 0)))
    while "until" in query and not Path(__file__).with_name(query["until"]).exists():
        await asyncio.sleep(0.02)
    await answer(send, {"pid": os.getpid()})


async def block(scope: Any, query: Any, receive: Any, send: Any) -> None:
    time.sleep(float(query["seconds"]))
    await answer(send, {"pid": os.getpid()})


async def events(scope: Any, query: Any, receive: Any, send: Any) -> None:
    headers = [(b"Content-Type", query.get("type", "text/event-stream").encode())]
    if "buffering" in query:
        headers.append((b"X-Accel-Buffering", query["buffering"].encode()))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    end = time.monotonic() + float(query["seconds"])
    while time.monotonic() < end:
        await send({"type": "http.response.body", "body": b"data: tick\n\n", "more_body": True})
        await asyncio.sleep(0.1)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def environment(scope: Any, query: Any, receive: Any, send: Any) -> None:
    await answer(send, dict(os.environ))


async def priority(scope: Any, query: Any, receive: Any, send: Any) -> None:
    threads = [os.getpriority(os.PRIO_PROCESS, int(thread)) for thread in os.listdir("/proc/self/task")]
    await answer(send, {"threads": threads, "oom": int(Path("/proc/self/oom_score_adj").read_text())})


async def fail(scope: Any, query: Any, receive: Any, send: Any) -> None:
    raise RuntimeError("the handler broke")


async def fail_amid(scope: Any, query: Any, receive: Any, send: Any) -> None:
    """Raises in the middle of the response."""
    headers = [(b"content-length", b"20")] if "length" in query else []
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b'"half of ', "more_body": True})
    raise RuntimeError("the handler broke amid its response")


async def fail_after(scope: Any, query: Any, receive: Any, send: Any) -> None:
    """Raises after the response: immediately, like a framework's error page, or later, like a background task."""
    if "stream" in query:
        await events(scope, {"seconds": "0.2"}, receive, send)
    else:
        await answer(send, {}, 500)
    await asyncio.sleep(float(query["seconds"]))
    raise RuntimeError("the handler broke after its response")


async def late(scope: Any, query: Any, receive: Any, send: Any) -> None:
    """Imports a module and reads a file at the first request, not at startup; a release may contain them."""
    late = importlib.import_module("parts.late")
    await answer(send, {"module": late.NAME, "file": Path(__file__).with_name("late.txt").read_text()})


PATHS = {
    "/late": late,
    "/": root,
    "/readiness": readiness,
    "/echo": echo,
    "/slow": slow,
    "/block": block,
    "/events": events,
    "/environment": environment,
    "/priority": priority,
    "/fail": fail,
    "/fail-amid": fail_amid,
    "/fail-after": fail_after,
}
