"""Live click counts: a Redis stream that every worker on every host writes and reads.

Each event has an id. A disconnected client reconnects to any worker, and requests the events after the last id that it
received: no event is lost or duplicated.
"""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from itertools import islice
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
# Events that Redis keeps for clients that reconnect, and that a worker keeps in memory.
KEPT = 10_000
RECENT = 1_000
# Events that a client gets before other requests have their turn, and that are read from Redis at once.
BATCH = 100
# Seconds that a read of the stream blocks, between two pings on a quiet connection, and before a reconnect.
BLOCK = 5
PING = 15
PAUSE = 1
EVENT_ID = r"^[0-9]{1,19}-[0-9]{1,19}$"
# WebSocket close code: try again later.
TRY_AGAIN = 1013

Position = tuple[int, int]


@dataclass(frozen=True)
class Click:
    """A click on a link, with its new count. `slug` is None if events were lost: the client reloads the counts."""

    position: Position
    slug: str | None
    clicks: int

    @property
    def id(self) -> str:
        """The id from which a client resumes after this event."""
        return _event_id(self.position)

    @property
    def data(self) -> dict[str, Any]:
        """The message to the client."""
        return {"id": self.id, "slug": self.slug, "clicks": self.clicks}


def _position(event_id: str) -> Position:
    moment, _, number = event_id.partition("-")
    return int(moment), int(number)


def _event_id(position: Position) -> str:
    return "{}-{}".format(*position)


async def _newest(redis: "Redis") -> str:
    """Return the id of the newest event; for an empty stream, one that precedes all others."""
    entries: Any = await redis.xrevrange(STREAM, count=1)
    return str(entries[0][0]) if entries else "0-0"


def _clicks(entries: Any) -> list[Click]:
    return [Click(_position(key), fields["slug"], int(fields["clicks"])) for key, fields in entries]


async def _end(*tasks: "asyncio.Task[None]") -> None:
    """Cancel the tasks and wait until they have ended.

    It cancels repeatedly, as redis-py may swallow a cancellation that arrives when its own wait ends.
    """
    running = set(tasks)
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=0.5)


async def publish(shared: Shared | None, slug: str, clicks: int) -> None:
    """Publish a click to all clients. The count itself is in the database, so a failure here loses no click."""
    if shared is None:
        return

    async def add(redis: "Redis") -> None:
        await redis.xadd(STREAM, {"slug": slug, "clicks": clicks}, maxlen=KEPT, approximate=True)

    await shared.attempt("click not published", add, None)


async def newest_event(shared: Shared | None) -> str | None:
    """Return the id of the newest event, from which a page resumes; None if live clicks are unavailable."""
    return await shared.attempt("newest click not read", _newest, None) if shared else None


@dataclass(frozen=True)
class Extent:
    """Which events Redis has. `oldest` is None in an empty stream; `trimmed` is whether there were older ones."""

    newest: Position
    oldest: Position | None
    trimmed: bool

    def lacks(self, position: Position) -> bool:
        """Return whether events after this position may be gone: trimmed, or lost with Redis' data."""
        return position > self.newest or (self.trimmed and self.oldest is not None and self.oldest > position)


class ClickFeed:
    """One worker's view of the stream: a single blocking connection to Redis for any number of clients."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._recent: deque[Click] = deque(maxlen=RECENT)
        # All events after this one are in _recent; None until the reader is connected.
        self._since: Position | None = None
        self._changed = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        # The read of the extent that begins next.
        self._pending: asyncio.Task[Extent] | None = None
        self._reading = asyncio.Lock()

    async def follow(self, after: str | None) -> AsyncIterator[Click | None]:
        """Yield each event after this id (None: from now on), and None every PING seconds without an event.

        Raise one of shared.errors if Redis doesn't answer.
        """
        if self._reader is None:
            # In an empty context: it reads for all clients, even after the first one has disconnected.
            self._reader = asyncio.create_task(self._read(), context=Context())
        async with asyncio.timeout(PING):
            extent = await self._extent()
        position = _position(after) if after else extent.newest
        if extent.lacks(position):
            position = min(position, extent.newest)
            yield Click(position, None, 0)
        while True:
            # Before the events are read: an event that arrives in between then ends the wait below.
            changed = self._changed
            found = self._remembered(position)
            if found is None:
                async with asyncio.timeout(PING):
                    found = _clicks(await self._shared.redis.xrange(STREAM, min=f"({_event_id(position)}", count=BATCH))
            for click in found:
                position = click.position
                yield click
            if found:
                # A client that missed thousands of events must not delay others.
                await asyncio.sleep(0)
            else:
                try:
                    async with asyncio.timeout(PING):
                        await changed.wait()
                except TimeoutError:
                    yield None

    async def close(self) -> None:
        """Stop the reader."""
        if self._reader is not None:
            await _end(self._reader)

    def _remembered(self, position: Position) -> list[Click] | None:
        """Return the next events after this position; None if they must be read from Redis."""
        if self._since is None or position < self._since:
            return None
        return list(islice((click for click in self._recent if click.position > position), BATCH))

    def _announce(self) -> None:
        """Wake all waiting clients."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _extent(self) -> Extent:
        """Return the extent by a read that begins after this call.

        Clients that ask during another read share the next one: after a deploy, thousands of them reconnect at once.
        """
        if self._pending is None:
            self._pending = asyncio.create_task(self._read_extent(), context=Context())
        return await asyncio.shield(self._pending)

    async def _read_extent(self) -> Extent:
        async with self._reading:
            self._pending = None
            redis = self._shared.redis
            newest = _position(await _newest(redis))
            oldest: Any = await redis.xrange(STREAM, count=1)
            if not oldest:
                return Extent(newest, None, trimmed=False)
            about = await redis.xinfo_stream(STREAM)
            return Extent(newest, _position(oldest[0][0]), about["entries-added"] > about["length"])

    async def _read(self) -> None:
        """Read the stream for all clients of this worker; reconnect after a failure."""
        while True:
            try:
                await self._read_on()
            except self._shared.errors as error:
                log.warning("Live clicks are waiting for Redis: %s", type(error).__name__)
            # Until the reader is connected again it misses events; clients read those from Redis.
            self._since = None
            await asyncio.sleep(PAUSE)

    async def _read_on(self) -> None:
        async with asyncio.timeout(BLOCK):
            entries: Any = await self._shared.redis.xrevrange(STREAM, count=RECENT)
        # Clients that reconnect to a new worker then resume from its memory.
        self._recent.clear()
        self._recent.extend(_clicks(reversed(entries)))
        self._since = self._recent[0].position if self._recent else (0, 0)
        position = self._recent[-1].position if self._recent else (0, 0)
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
    """Send each click as it happens: {"id", "slug", "clicks"}. `after` resumes after the event with that id."""
    feed: ClickFeed | None = websocket.app.state.clicks
    await websocket.accept()
    if feed is None:
        await websocket.close(TRY_AGAIN, "Redis is not configured")
        return
    sending = asyncio.create_task(_send(websocket, feed, after))
    receiving = asyncio.create_task(_wait_for_disconnect(websocket))
    try:
        ended, _ = await asyncio.wait({sending, receiving}, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.result()
    finally:
        await _end(sending, receiving)


async def _send(websocket: WebSocket, feed: ClickFeed, after: str | None) -> None:
    shared: Shared = websocket.app.state.shared
    with suppress(WebSocketDisconnect):
        try:
            async for click in feed.follow(after):
                if click is not None:
                    await websocket.send_json(click.data)
        except shared.errors as error:
            log.warning("Disconnecting a client of the live clicks: %s", type(error).__name__)
            await websocket.close(TRY_AGAIN, "Redis doesn't answer")


async def _wait_for_disconnect(websocket: WebSocket) -> None:
    """Wait until the client disconnects; its messages are ignored."""
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass


@router.get("/events")
async def events(
    request: Request, after: AfterQuery = None, last_event_id: Annotated[str | None, Header(pattern=EVENT_ID)] = None
) -> Response:
    """Send each click as a server-sent event. A reconnecting browser sends `Last-Event-ID` by itself."""
    from sse_starlette import EventSourceResponse  # not at the top: only these requests need it

    feed: ClickFeed | None = request.app.state.clicks
    if feed is None:
        raise HTTPException(status.HTTP_503_SERVICE_UNAVAILABLE, "Redis is not configured: set REDIS_URL")
    shared: Shared = request.app.state.shared

    async def stream() -> AsyncIterator[dict[str, str]]:
        try:
            async for click in feed.follow(last_event_id or after):
                if click is not None:
                    yield {"event": "click", "id": click.id, "data": json.dumps(click.data)}
        except shared.errors as error:
            # The end of the stream makes the client reconnect.
            log.warning("Disconnecting a client of the live clicks: %s", type(error).__name__)

    return EventSourceResponse(stream(), ping=PING, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
