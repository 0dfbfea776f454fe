"""The API of reports, which a real worker creates."""

import asyncio
from pathlib import Path
from uuid import uuid4

import pytest
from celery.backends.redis import RedisBackend
from httpx import AsyncClient
from pydantic import SecretStr

from links import reports
from links.broker import create_celery
from links.settings import Settings
from tests.conftest import RedisServer, running
from tests.test_jobs import environment_of, worker


async def test_report_is_requested_and_returned(
    with_redis: Settings, redis_server: RedisServer, tmp_path: Path
) -> None:
    async with running(with_redis) as client:
        await client.post("/api/links", json={"url": "https://example.com", "slug": "x"})
        await client.get("/x")
        asked = await client.post("/api/reports", headers={"X-Request-ID": "r-1"})
        assert (asked.status_code, asked.json()["state"]) == (202, "queued")
        where = asked.headers["location"]
        assert (await client.get(where)).json()["state"] == "queued"
        with worker(environment_of(with_redis, redis_server), tmp_path / "log"):
            async with asyncio.timeout(180):
                while (report := (await client.get(where)).json())["state"] in {"queued", "running"}:
                    await asyncio.sleep(0.1)
    assert report["state"] == "done", (tmp_path / "log").read_text()
    assert report["result"]["top"] == [{"slug": "x", "url": "https://example.com/", "clicks": 1}]


# Celery calls a method of redis-py that is deprecated.
@pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")
async def test_report_progress_is_returned(with_redis: Settings) -> None:
    queue = create_celery(with_redis)
    async with running(with_redis) as client:
        where = (await client.post("/api/reports")).headers["location"]
        task = where.rpartition("/")[2]
        queue.backend.store_result(task, {"done": 500, "total": 900}, "PROGRESS")
        running_one = (await client.get(where)).json()
        queue.backend.store_result(task, ValueError("secret of a library"), "FAILURE")
        failed = await client.get(where)
    assert (running_one["state"], running_one["done"], running_one["total"]) == ("running", 500, 900)
    assert failed.json()["state"] == "failed"
    assert "secret" not in failed.text
    queue.close()


async def test_unknown_report_is_not_found(with_redis: Settings) -> None:
    async with running(with_redis) as client:
        assert (await client.get(f"/api/reports/{uuid4()}")).status_code == 404
        assert (await client.get("/api/reports/x")).status_code == 422


async def test_report_needs_the_token(with_redis: Settings) -> None:
    async with running(with_redis.model_copy(update={"api_token": SecretStr("right")})) as client:
        assert (await client.post("/api/reports")).status_code == 401


async def test_reports_are_unavailable_without_queue(client: AsyncClient) -> None:
    assert (await client.post("/api/reports")).status_code == 503


async def test_reports_recover_after_outage_of_queue(with_redis: Settings, redis_server: RedisServer) -> None:
    async with running(with_redis) as client:
        where = (await client.post("/api/reports")).headers["location"]
        await asyncio.to_thread(redis_server.stop)
        answers = [await client.post("/api/reports"), await client.get(where)]
        await asyncio.to_thread(redis_server.start)
        assert (await client.post("/api/reports")).status_code == 202
    assert [answer.status_code for answer in answers] == [503, 503]


async def test_report_is_refused_if_queue_fails_at_the_last_command(
    with_redis: Settings, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands before it have succeeded."""

    async def succeed(*_: object, **__: object) -> None:
        pass

    async with running(with_redis) as client:
        application = client._transport.app  # type: ignore[attr-defined]
        monkeypatch.setattr(application.state.shared.redis, "set", succeed)
        monkeypatch.setattr(RedisBackend, "on_task_call", lambda *_: None)
        # Celery's own error, instead of a timeout that comes before it
        monkeypatch.setattr(reports, "TIMEOUT", 60)
        await asyncio.to_thread(redis_server.stop)
        answer = await client.post("/api/reports")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
