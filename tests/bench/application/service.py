# FastAPI stands in the application's lock, not among the controller's tools.
# mypy: disable-error-code="import-not-found"
"""The application that every benchmarked server runs: small answers, and an import of configurable duration."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse

REVISION = ""  # the benchmark of deploys changes this line


def import_slowly() -> None:
    """Simulates the import of a large application: waiting (files, network) and computing."""
    time.sleep(float(os.environ.get("BENCH_IMPORT_SLEEP", "0")))
    until = time.process_time() + float(os.environ.get("BENCH_IMPORT_CPU", "0"))
    while time.process_time() < until:
        sum(range(1000))


async def healthz() -> dict[str, str]:
    return {"status": "ok"}


async def index() -> dict[str, int | str]:
    return {"pid": os.getpid(), "revision": REVISION}


async def whoami(request: Request) -> dict[str, Any]:
    """The client and all headers, as the application sees them."""
    client = request.client.host if request.client else ""
    headers = {name: request.headers.getlist(name) for name in request.headers}
    return {"client": client, "scheme": request.url.scheme, "headers": headers}


async def echo(request: Request) -> dict[str, int]:
    return {"bytes": len(await request.body())}


async def slow(seconds: float = 0.5) -> dict[str, float]:
    await asyncio.sleep(seconds)
    return {"slept": seconds}


async def events(count: int = 10, interval: float = 0.1) -> StreamingResponse:
    async def stream() -> AsyncIterator[str]:
        for number in range(count):
            yield f"data: {number}\n\n"
            await asyncio.sleep(interval)

    # nginx passes it on immediately
    return StreamingResponse(stream(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


async def talk(websocket: WebSocket) -> None:
    await websocket.accept()
    try:
        while True:
            await websocket.send_text(await websocket.receive_text())
    except WebSocketDisconnect:
        pass


import_slowly()
app = FastAPI()
app.add_api_route("/", index)
app.add_api_route("/healthz", healthz)
app.add_api_route("/whoami", whoami)
app.add_api_route("/admin/{path:path}", whoami)
app.add_api_route("/echo", echo, methods=["POST"])
app.add_api_route("/slow", slow)
# the response has no model
app.add_api_route("/events", events, response_model=None)
app.add_api_websocket_route("/ws", talk)
