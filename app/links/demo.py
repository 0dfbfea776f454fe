"""Endpoints to examine the path between a client and this worker. See the README, "Demo endpoints"."""

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel

from links.request_id import request_id
from links.settings import Settings

whoami_router = APIRouter(prefix="/api", tags=["demo"])
router = APIRouter(prefix="/api", tags=["demo"])

SHOWN_HEADERS = (
    "cf-connecting-ip",
    "connection",
    "forwarded",
    "host",
    "remote-user",
    "true-client-ip",
    "user-agent",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-forwarded-user",
    "x-real-ip",
    "x-request-id",
    "x-ssl-client-s-dn",
    "x-ssl-client-verify",
    "x_forwarded_user",
)


def _release_of(path: Path) -> str | None:
    """Return <id> of a path …/releases/<id>/…, as deploy tools lay out releases."""
    parts = path.parts
    for position, part in enumerate(parts[:-1]):
        if part == "releases":
            return parts[position + 1]
    return None


# At import: later, `current` may lead to another release than the loaded one.
LOADED_RELEASE = _release_of(Path(__file__).resolve())


class Whoami(BaseModel):
    """A request as the application sees it, and the worker that answers."""

    client: str | None
    scheme: str
    host: str
    method: str
    url: str
    http_version: str
    headers: dict[str, list[str]]
    request_id: str | None
    pid: int
    release: str | None


@whoami_router.get("/whoami")
async def whoami(request: Request) -> Whoami:
    """Show client, scheme and host as the proxy passed them, and which worker answers."""
    settings: Settings = request.app.state.settings
    present = [name for name in SHOWN_HEADERS if name in request.headers]
    return Whoami(
        client=request.client.host if request.client else None,
        scheme=request.url.scheme,
        host=request.url.netloc,
        method=request.method,
        url=str(request.url),
        http_version=request.scope.get("http_version", ""),
        headers={name: request.headers.getlist(name) for name in present},
        request_id=request_id(),
        pid=os.getpid(),
        release=settings.release or LOADED_RELEASE,
    )


class Slept(BaseModel):
    """The answer of /api/slow."""

    slept: float
    pid: int


@router.get("/slow")
async def slow(seconds: Annotated[float, Query(ge=0, le=60)] = 1) -> Slept:
    """Answer after a delay: a request for which a stop or a reload has to wait."""
    await asyncio.sleep(seconds)
    return Slept(slept=seconds, pid=os.getpid())


class Tick(BaseModel):
    """The data of one event."""

    tick: int
    time: datetime
    pid: int


@router.get("/large", response_class=StreamingResponse)
async def large(megabytes: Annotated[int, Query(ge=1, le=1024)] = 1) -> StreamingResponse:
    """Answer with that many MiB of zeros, for clients that read slowly."""

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(megabytes * 16):
            yield bytes(65536)

    return StreamingResponse(chunks(), media_type="application/octet-stream")


@router.get("/events", response_class=EventSourceResponse)
async def events(count: Annotated[int, Query(ge=1, le=3600)] = 60) -> AsyncIterator[ServerSentEvent]:
    """Send `count` server-sent events, one per second, the first immediately."""
    for number in range(1, count + 1):
        if number > 1:
            await asyncio.sleep(1)
        tick = Tick(tick=number, time=datetime.now(UTC), pid=os.getpid())
        yield ServerSentEvent(data=tick, event="tick", id=str(number))


@router.websocket("/echo")
async def echo(websocket: WebSocket) -> None:
    """Send every message back, text as text and bytes as bytes."""
    await websocket.accept()
    try:
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            if message.get("text") is not None:
                await websocket.send_text(message["text"])
            else:
                await websocket.send_bytes(message["bytes"])
    except WebSocketDisconnect:
        return
