"""Live click counts across several workers: no event is lost or duplicated."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest
import redis.asyncio
from httpx import AsyncClient
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError

from links import clicks
from links.clicks import STREAM, ClickFeed
from links.settings import Settings
from links.shared import MAX_CONNECTIONS, Shared
from tests.conftest import RedisServer, running, serving


class Workers:
    """Two workers that share a database and a Redis, as on two hosts."""

    def __init__(self, first: str, second: str, client: AsyncClient) -> None:
        self.first = first
        self.second = second
        self.client = client

    async def click(self, worker: str, times: int = 1) -> None:
        """Follow the link /x."""
        for _ in range(times):
            answer = await self.client.get(f"http://{worker}/x")
            assert answer.status_code == 307

    def watch(self, worker: str, after: str | None = None) -> connect:
        """Open a WebSocket."""
        return connect(f"ws://{worker}/api/clicks/live" + (f"?after={after}" if after else ""))


@pytest.fixture
async def workers(with_redis: Settings) -> AsyncIterator[Workers]:
    """Run the workers, with one link."""
    async with AsyncExitStack() as stack:
        first, second = [await stack.enter_async_context(serving(with_redis)) for _ in range(2)]
        client = await stack.enter_async_context(AsyncClient())
        created = await client.post(f"http://{first}/api/links", json={"url": "https://example.com", "slug": "x"})
        assert created.status_code == 201
        yield Workers(first, second, client)


@pytest.fixture(params=[2, 1_000])
def small_batches(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a worker remember this number of events, and send three at once."""
    monkeypatch.setattr(clicks, "RECENT", request.param)
    monkeypatch.setattr(clicks, "BATCH", 3)


@pytest.fixture
async def feed(redis_server: RedisServer) -> AsyncIterator[ClickFeed]:
    """A further worker's view of the stream."""
    shared = Shared(redis_server.url, 30)
    feed = ClickFeed(shared)
    yield feed
    await feed.close()
    await shared.close()


async def receive(connection: ClientConnection, number: int) -> list[dict[str, Any]]:
    """Receive `number` events."""
    async with asyncio.timeout(20):
        return [json.loads(await connection.recv()) for _ in range(number)]


async def test_client_of_one_worker_gets_clicks_of_all(workers: Workers) -> None:
    async with workers.watch(workers.first, "0-0") as watching:
        await workers.click(workers.second, 3)
        await workers.click(workers.first, 2)
        events = await receive(watching, 5)
    assert [(event["slug"], event["clicks"]) for event in events] == [("x", number) for number in range(1, 6)]


async def test_without_position_only_new_clicks_are_sent(workers: Workers) -> None:
    await workers.click(workers.first, 3)
    async with workers.watch(workers.first, "0-0") as all_of_them:
        await receive(all_of_them, 3)
        async with workers.watch(workers.first) as watching:
            # The worker determines the position some time after the connect: click until an event arrives.
            receiving = asyncio.create_task(receive(watching, 1))
            while not receiving.done():
                await workers.click(workers.second)
                await asyncio.wait({receiving}, timeout=0.05)
    assert receiving.result()[0]["clicks"] > 3


@pytest.mark.usefixtures("small_batches")
async def test_reconnecting_client_gets_missed_clicks_once(workers: Workers, with_redis: Settings) -> None:
    """From the worker's memory, and from Redis if the memory doesn't reach back far enough."""
    async with serving(with_redis) as third:
        async with workers.watch(third, "0-0") as watching:
            await workers.click(workers.first, 2)
            last = (await receive(watching, 2))[-1]["id"]
        await workers.click(workers.first, 10)
        async with workers.watch(third, last) as again:
            await workers.click(workers.second, 2)
            events = await receive(again, 12)
    assert [event["clicks"] for event in events] == list(range(3, 15))


@pytest.mark.usefixtures("small_batches")
async def test_client_that_missed_many_clicks_lets_others_take_turns(workers: Workers, feed: ClickFeed) -> None:
    received: list[clicks.Click | None] = []
    turns: list[int] = []

    async def take_turns() -> None:
        while True:
            turns.append(len(received))
            await asyncio.sleep(0)

    await workers.click(workers.first, 10)
    others = asyncio.create_task(take_turns())
    async for click in feed.follow("0-0"):
        received.append(click)
        if len(received) == 10:
            break
    others.cancel()
    assert {3, 6, 9} <= set(turns)


async def test_events_resume_after_last_event_id(workers: Workers) -> None:
    async def read(number: int, headers: dict[str, str]) -> list[tuple[str, int]]:
        seen: list[tuple[str, int]] = []
        async with (
            asyncio.timeout(20),
            workers.client.stream("GET", f"http://{workers.first}/api/clicks/events", headers=headers) as stream,
        ):
            assert stream.headers["content-type"].startswith("text/event-stream")
            async for line in stream.aiter_lines():
                if line.startswith("data:"):
                    event = json.loads(line.removeprefix("data:"))
                    seen.append((event["id"], event["clicks"]))
                if len(seen) == number:
                    break
        return seen

    await workers.click(workers.second, 2)
    first = await read(2, {"Last-Event-ID": "0-0"})
    await workers.click(workers.second, 3)
    assert [count for _, count in await read(3, {"Last-Event-ID": first[-1][0]})] == [3, 4, 5]


async def test_client_reloads_counts_if_events_were_trimmed(workers: Workers, redis_server: RedisServer) -> None:
    await workers.click(workers.first, 5)
    async with redis.asyncio.Redis.from_url(redis_server.url, decode_responses=True) as server:
        first: Any = await server.xrange(STREAM, count=1)
        await server.xtrim(STREAM, maxlen=2, approximate=False)
    async with workers.watch(workers.second, first[0][0]) as watching:
        events = await receive(watching, 3)
    assert [(event["slug"], event["clicks"]) for event in events] == [(None, 0), ("x", 4), ("x", 5)]


async def test_client_reloads_counts_if_redis_lost_its_data(workers: Workers, redis_server: RedisServer) -> None:
    await workers.click(workers.first)
    async with workers.watch(workers.first, "0-0") as watching:
        last = (await receive(watching, 1))[0]["id"]
    async with redis.asyncio.Redis.from_url(redis_server.url) as server:
        await server.flushall()
    async with workers.watch(workers.first, last) as watching:
        event = (await receive(watching, 1))[0]
    assert (event["id"], event["slug"]) == ("0-0", None)


async def test_clients_that_reconnect_at_once_share_reads(
    workers: Workers, redis_server: RedisServer, feed: ClickFeed
) -> None:
    """More clients than the pool has connections; some of them leave before they are answered."""
    await workers.click(workers.first, 2)
    async with redis.asyncio.Redis.from_url(redis_server.url, decode_responses=True) as server:
        entries: Any = await server.xrange(STREAM, count=1)

        async def next_click() -> int:
            click = await anext(feed.follow(entries[0][0]))
            assert click is not None
            return click.clicks

        assert await next_click() == 2
        await server.config_resetstat()
        clients = [asyncio.create_task(next_click()) for _ in range(20 * MAX_CONNECTIONS)]
        await asyncio.sleep(0)
        for client in clients[::2]:
            client.cancel()
        assert set(await asyncio.gather(*clients[1::2])) == {2}
        statistics: Any = await server.info("commandstats")
    # one read that has begun, and the next one
    assert {command: statistics[f"cmdstat_{command}"]["calls"] <= 2 for command in ("xrange", "xrevrange")} == {
        "xrange": True,
        "xrevrange": True,
    }


async def test_restart_of_redis_closes_no_connection(
    workers: Workers, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with workers.watch(workers.first, "0-0") as watching:
        await workers.click(workers.second)
        await receive(watching, 1)
        await asyncio.to_thread(redis_server.stop)
        await workers.click(workers.second)
        await asyncio.to_thread(redis_server.start)
        receiving = asyncio.create_task(receive(watching, 1))
        # Clicks during the outage are counted, but not published.
        while not receiving.done():
            await workers.click(workers.second)
            await asyncio.wait({receiving}, timeout=0.1)
    assert receiving.result()[0]["clicks"] >= 3
    # the reader, which reads for all clients, belongs to no request
    waited = [record for record in caplog.records if record.message.startswith("Live clicks are waiting")]
    assert {vars(record)["request_id"] for record in waited} == {None}


async def test_live_clicks_are_unavailable_without_redis(settings: Settings) -> None:
    async with serving(settings) as worker:
        with pytest.raises(ConnectionClosedError) as closed:
            async with connect(f"ws://{worker}/api/clicks/live") as watching:
                await watching.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == clicks.TRY_AGAIN
        async with AsyncClient() as client:
            assert (await client.get(f"http://{worker}/api/clicks/events")).status_code == 503


@pytest.mark.parametrize("after", ["x", "1", "-1-0", "1-0 ", "99999999999999999999-0"])
async def test_invalid_position_is_refused(client: AsyncClient, after: str) -> None:
    assert (await client.get("/api/clicks/events", params={"after": after})).status_code == 422


async def test_page_resumes_after_its_counts(with_redis: Settings) -> None:
    async with running(with_redis) as client:
        await client.post("/api/links", json={"url": "https://example.com", "slug": "x"})
        empty = (await client.get("/")).text
        await client.get("/x")
        page = await client.get("/")
        script = await client.get("/static/live.js")
    assert 'src="https://links.test/static/live.js" data-after="0-0"' in empty
    assert 'data-after="0-0"' not in page.text
    assert '<td class="count" data-slug="x">1</td>' in page.text
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert (script.status_code, script.headers["content-type"].split(";")[0]) == (200, "text/javascript")


async def test_swallowed_cancellation_is_repeated() -> None:
    """redis-py swallows one if an answer arrives at the same time."""

    async def swallow() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
        await asyncio.sleep(3600)

    task = asyncio.create_task(swallow())
    await asyncio.sleep(0)
    async with asyncio.timeout(20):
        await clicks._end(task)
    assert task.cancelled()
