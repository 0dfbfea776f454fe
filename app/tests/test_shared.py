"""What is shared in Redis, and how the application works without it."""

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from httpx import AsyncClient
from pydantic import SecretStr, ValidationError

from links.settings import Settings
from links.shared import _bucket
from tests.conftest import RedisServer, running, upgrade

NEW = {"url": "https://example.com"}


async def test_readiness_checks_redis(with_redis: Settings, redis_server: RedisServer) -> None:
    hasty = with_redis.model_copy(update={"ready_timeout": 0.3, "redis_timeout": 10})
    async with running(hasty) as client:
        well = await client.get("/readyz")
        redis_server.freeze()
        silent = await asyncio.wait_for(client.get("/readyz"), 5)
        alive = await client.get("/healthz")
        redis_server.stop()
        away = await client.get("/readyz")
        await asyncio.to_thread(redis_server.start)
        back = await client.get("/readyz")
    assert well.json() == {"status": "ok", "checks": {"database": "ok", "schema": "ok", "redis": "ok"}}
    assert (silent.status_code, silent.json()["checks"]["redis"]) == (503, "no answer within 0.3 s")
    assert alive.status_code == 200
    assert (away.status_code, away.json()["checks"]["redis"]) == (503, "unreachable")
    assert away.json()["checks"]["database"] == "ok"
    assert back.status_code == 200
    assert redis_server.password not in silent.text + away.text


async def test_requests_succeed_without_redis(with_redis: Settings, redis_server: RedisServer) -> None:
    """After some failures a frozen Redis is skipped, so that requests don't wait for it."""
    async with running(with_redis.model_copy(update={"redis_timeout": 0.2, "rate_limit": 1})) as client:
        redis_server.freeze()
        codes = [(await client.post("/api/links", json=NEW)).status_code for _ in range(4)]
        assert codes == [201] * 4
        opened = time.monotonic()
        assert [(await client.post("/api/links", json=NEW)).status_code for _ in range(10)] == [201] * 10
        # If all ten waited, they would take 2 s.
        assert time.monotonic() - opened < 1.5
        assert (await client.get("/")).status_code == 200


async def test_rate_limit_is_shared_by_workers(with_redis: Settings) -> None:
    async with AsyncExitStack() as stack:
        limited = with_redis.model_copy(update={"rate_limit": 4})
        workers: list[AsyncClient] = [await stack.enter_async_context(running(limited)) for _ in range(2)]
        # If a window ends in between, a second count starts: at most 8 of 12 pass.
        answers = [await workers[number % 2].post("/api/links", json=NEW) for number in range(12)]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert 4 <= len(refused) <= 8
        assert all(1 <= int(answer.headers["retry-after"]) <= 61 for answer in refused)
        assert (await workers[0].get("/api/links")).status_code == 200


def test_rate_limit_applies_to_ipv6_network() -> None:
    assert _bucket("2001:db8:1:2:3::4") == _bucket("2001:db8:1:2:ffff::1") != _bucket("2001:db8:1:3::4")
    assert _bucket("203.0.113.7") != _bucket("203.0.113.8")
    assert _bucket("testclient") == "testclient"


async def test_redis_password_is_not_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, unused_tcp_port: int
) -> None:
    url = SecretStr(f"redis://links:s3cret-password@127.0.0.1:{unused_tcp_port}/0")
    settings = Settings(state_directory=tmp_path, redis_url=url, rate_limit=1)
    await upgrade(settings)
    async with running(settings) as client:
        assert (await client.post("/api/links", json=NEW)).status_code == 201
        assert (await client.get("/readyz")).status_code == 503
    assert "ConnectionError" in caplog.text
    assert "s3cret" not in caplog.text


def test_rate_limit_without_redis_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINKS_RATE_LIMIT", "10")
    with pytest.raises(ValidationError, match="LINKS_RATE_LIMIT needs REDIS_URL"):
        Settings()
