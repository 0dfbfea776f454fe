"""The demo endpoints, behind a real server, which streams and WebSockets need."""

import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from httpx import AsyncClient
from websockets.asyncio.client import connect

from links.demo import _release_of
from links.settings import Settings
from tests.conftest import CLIENT_ADDRESS, running, serving


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[str]:
    """Serve the application with its demo endpoints on a loopback port; yield host:port."""
    async with serving(Settings(state_directory=tmp_path, demo_endpoints=True)) as address:
        yield address


async def test_whoami_shows_the_request_and_the_worker(settings: Settings) -> None:
    async with running(settings.model_copy(update={"release": "abc123"})) as client:
        answer = await client.get("/api/whoami", headers={"X-Request-ID": "r-1", "Cookie": "session=private"})
    seen = answer.json()
    assert (seen["client"], seen["scheme"], seen["host"]) == (CLIENT_ADDRESS, "https", "links.test")
    assert (seen["request_id"], seen["pid"], seen["release"]) == ("r-1", os.getpid(), "abc123")
    assert "private" not in answer.text


async def test_whoami_shows_forwarded_values(server: str) -> None:
    forwarded = {"X-Forwarded-For": "198.51.100.9", "X-Forwarded-Proto": "https", "Host": "links.example"}
    async with AsyncClient() as client:
        seen = (await client.get(f"http://{server}/api/whoami", headers=forwarded)).json()
    assert (seen["client"], seen["scheme"], seen["host"]) == ("198.51.100.9", "https", "links.example")
    assert seen["headers"]["x-forwarded-for"] == ["198.51.100.9"]


@pytest.mark.parametrize(
    ("path", "release"),
    [
        ("/opt/links/releases/3f2a/src/links/demo.py", "3f2a"),
        ("/opt/links/releases/3f2a", "3f2a"),
        ("/home/me/links/demo.py", None),
        ("/srv/releases", None),
    ],
)
def test_release_is_read_from_path(path: str, release: str | None) -> None:
    assert _release_of(Path(path)) == release


async def test_large_returns_requested_size(server: str) -> None:
    async with AsyncClient() as client:
        answer = await client.get(f"http://{server}/api/large?megabytes=2")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/octet-stream")
        assert answer.content == bytes(2 * 2**20)
        assert (await client.get(f"http://{server}/api/large?megabytes=1025")).status_code == 422


async def test_slow_answers_after_delay(server: str) -> None:
    async with AsyncClient() as client:
        began = time.monotonic()
        answer = await client.get(f"http://{server}/api/slow?seconds=0.3")
        assert answer.json()["slept"] == 0.3
        assert time.monotonic() - began >= 0.3
        assert (await client.get(f"http://{server}/api/slow?seconds=61")).status_code == 422


async def test_events_tick_every_second(server: str) -> None:
    arrived: list[float] = []
    ticks: list[int] = []
    began = time.monotonic()
    async with AsyncClient() as client, client.stream("GET", f"http://{server}/api/events?count=2") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        async for line in stream.aiter_lines():
            if line.startswith("data:"):
                arrived.append(time.monotonic())
                ticks.append(json.loads(line.removeprefix("data:"))["tick"])
    assert ticks == [1, 2]
    assert arrived[1] - began > 0.9  # measured from the start, as the first may arrive late


async def test_echo_returns_text_and_bytes(server: str) -> None:
    async with connect(f"ws://{server}/api/echo") as echo:
        await echo.send("hello")
        assert await echo.recv() == "hello"
        await echo.send(b"\x00\xff")
        assert await echo.recv() == b"\x00\xff"


@pytest.mark.parametrize("path", ["/api/slow", "/api/events", "/api/echo"])
async def test_demo_endpoints_are_off_by_default(client: AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 404
