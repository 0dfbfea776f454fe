"""Live click counts: a Redis stream, which every worker of every host writes to and reads.

Each event has an id. A client that was cut off, because its worker went or the network did, asks for what came
after the last one that it saw, of whichever worker it reaches: no event is lost, and none comes twice.
"""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Header, HTTPException, Query, Request, WebSocket, WebSocketDisconnect, status
from starlette.responses import Response

from links.request_id import get_logger
from links.shared import Shared

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = get_logger(__name__)
router = APIRouter(prefix="/api/clicks", tags=["clicks"])

STREAM = "links:clicks"
# Events that Redis keeps for those who come back, and that a worker keeps in memory.
KEPT = 10_000
RECENT = 1_000
BATCH = 500
# Seconds between two looks of the reader, between two lines that keep a quiet stream open, and after a failure.
BLOCK = 5
PING = 15
PAUSE = 1
EVENT_ID = r"^[0-9]{1,19}-[0-9]{1,19}$"
# WebSocket: come again later.
TRY_AGAIN = 1013

Position = tuple[int, int]


@dataclass(frozen=True)
class Click:
    """A link was followed, and has so many clicks now. `slug` None: events were lost, so reload the counts."""

    position: Position
    slug: str | None
    clicks: int

    @property
    def id(self) -> str:
        """What a client gives back to go on after this event."""
        return _event_id(self.position)

    @property
    def data(self) -> dict[str, Any]:
        """What a client gets."""
        return {"id": self.id, "slug": self.slug, "clicks": self.clicks}


def _position(event_id: str) -> Position:
    moment, _, number = event_id.partition("-")
    return int(moment), int(number)


def _event_id(position: Position) -> str:
    return "{}-{}".format(*position)


async def _newest(redis: "Redis") -> str:
    """Give the id of the newest event; that of none is before all others."""
    entries: Any = await redis.xrevrange(STREAM, count=1)
    return str(entries[0][0]) if entries else "0-0"


def _clicks(entries: Any) -> list[Click]:
    return [Click(_position(key), fields["slug"], int(fields["clicks"])) for key, fields in entries]


async def _end(*tasks: "asyncio.Task[None]") -> None:
    """Cancel them and wait until they have ended.

    Said more than once, for a client of Redis may swallow a cancellation that comes as its own wait ends.
    """
    running = set(tasks)
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=0.5)


async def publish(shared: Shared | None, slug: str, clicks: int) -> None:
    """Tell everybody who watches. The count itself is in the database: a click counts without this."""
    if shared is None:
        return

    async def add(redis: "Redis") -> None:
        await redis.xadd(STREAM, {"slug": slug, "clicks": clicks}, maxlen=KEPT, approximate=True)

    await shared.attempt("click not published", add, None)


async def newest_event(shared: Shared | None) -> str | None:
    """Give the id of the newest event, after which a page goes on; None while there are no live clicks."""
    return await shared.attempt("newest click not read", _newest, None) if shared else None


class ClickFeed:
    """One worker's view of the stream: one connection that waits in Redis, however many clients watch."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._recent: deque[Click] = deque(maxlen=RECENT)
        # All events after this one are in _recent; none is known before the reader has begun.
        self._since: Position | None = None
        self._changed = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None

    async def follow(self, after: str | None) -> AsyncIterator[Click | None]:
        """Give each event after this one (None: from now on), and None now and then when there is none.

        Raise one of shared.errors while Redis can't say what came before.
        """
        if self._reader is None:
            # In no request's context: it reads for all clients, also when the first one has gone.
            self._reader = asyncio.create_task(self._read(), context=Context())
        async with asyncio.timeout(PING):
            newest = _position(await _newest(self._shared.redis))
            position = _position(after) if after else newest
            gone = position > newest or await self._has_gone(position)
        if gone:
            # The events were trimmed, or Redis lost its data and its ids start over.
            position = min(position, newest)
            yield Click(position, None, 0)
        while True:
            # Taken before the events are read: one that arrives in between ends the wait below.
            changed = self._changed
            found = self._remembered(position)
            if found is None:
                async with asyncio.timeout(PING):
                    found = _clicks(await self._shared.redis.xrange(STREAM, min=f"({_event_id(position)}", count=BATCH))
            for click in found:
                position = click.position
                yield click
            if not found:
                try:
                    async with asyncio.timeout(PING):
                        await changed.wait()
                except TimeoutError:
                    yield None

    async def close(self) -> None:
        """End the reader."""
        if self._reader is not None:
            await _end(self._reader)

    def _remembered(self, position: Position) -> list[Click] | None:
        """Give the events after this position; None when Redis has to be asked for them."""
        if self._since is None or position < self._since:
            return None
        return [click for click in self._recent if click.position > position]

    def _announce(self) -> None:
        """Wake all who wait."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _has_gone(self, position: Position) -> bool:
        """Whether events after this position may have made room for newer ones already."""
        oldest: Any = await self._shared.redis.xrange(STREAM, count=1)
        if not oldest or _position(oldest[0][0]) <= position:
            return False
        about = await self._shared.redis.xinfo_stream(STREAM)
        return bool(about["entries-added"] > about["length"])

    async def _read(self) -> None:
        """Read the stream for all clients of this worker, and reconnect after a failure."""
        while True:
            try:
                await self._read_on()
            except self._shared.errors as error:
                log.warning("Live clicks wait for Redis: %s", type(error).__name__)
            # Events are missed until the reader is connected again; clients then fetch them from Redis.
            self._since = None
            await asyncio.sleep(PAUSE)

    async def _read_on(self) -> None:
        async with asyncio.timeout(BLOCK):
            position = _position(await _newest(self._shared.redis))
        self._recent.clear()
        self._since = position
        self._announce()
        while True:
            async with asyncio.timeout(2 * BLOCK):
                found: Any = await self._shared.reader.xread({STREAM: _event_id(position)}, BATCH, BLOCK * 1000)
            if not found:
                continue
            for click in _clicks(found[0][1]):
                if len(self._recent) == RECENT:
                    self._since = self._recent[0].position
                self._recent.append(click)
                position = click.position
            self._announce()


AfterQuery = Annotated[str | None, Query(pattern=EVENT_ID)]


@router.websocket("/live")
async def live(websocket: WebSocket, after: AfterQuery = None) -> None:
    """Send each click as it happens: {"id", "slug", "clicks"}. `after` goes on after the event of that id."""
    feed: ClickFeed | None = websocket.app.state.clicks
    await websocket.accept()
    if feed is None:
        await websocket.close(TRY_AGAIN, "There is no Redis")
        return
    sending = asyncio.create_task(_send(websocket, feed, after))
    hearing = asyncio.create_task(_hear(websocket))
    try:
        ended, _ = await asyncio.wait({sending, hearing}, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.result()
    finally:
        await _end(sending, hearing)


async def _send(websocket: WebSocket, feed: ClickFeed, after: str | None) -> None:
    shared: Shared = websocket.app.state.shared
    with suppress(WebSocketDisconnect):
        try:
            async for click in feed.follow(after):
                if click is not None:
                    await websocket.send_json(click.data)
        except shared.errors as error:
            log.warning("A client's live clicks end: %s", type(error).__name__)
            await websocket.close(TRY_AGAIN, "Redis doesn't answer")


async def _hear(websocket: WebSocket) -> None:
    """Notice that the client has gone; what it says is of no interest."""
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass


@router.get("/events")
async def events(
    request: Request, after: AfterQuery = None, last_event_id: Annotated[str | None, Header(pattern=EVENT_ID)] = None
) -> Response:
    """Send each click as a server-sent event; a browser that comes back says by itself where it was."""
    from sse_starlette import EventSourceResponse  # only who asks for events needs it

    feed: ClickFeed | None = request.app.state.clicks
    if feed is None:
        raise HTTPException(status.HTTP_503_SERVICE_UNAVAILABLE, "There is no Redis: set REDIS_URL")
    shared: Shared = request.app.state.shared

    async def stream() -> AsyncIterator[dict[str, str]]:
        try:
            async for click in feed.follow(last_event_id or after):
                if click is not None:
                    yield {"event": "click", "id": click.id, "data": json.dumps(click.data)}
        except shared.errors as error:
            # The end of a stream has the client come again.
            log.warning("A client's live clicks end: %s", type(error).__name__)

    return EventSourceResponse(stream(), ping=PING, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
