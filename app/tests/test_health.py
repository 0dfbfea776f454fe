"""The health checks: liveness and readiness."""

import asyncio
import logging
import socket
import sqlite3
import threading
from pathlib import Path

import asyncpg
import pytest
from httpx import ASGITransport, AsyncClient
from pydantic import SecretStr
from starlette.types import Receive, Scope, Send

from links.settings import Settings
from tests.conftest import running, upgrade

PASSWORD = "s3cret-password"  # noqa: S105


def at_port(port: int) -> Settings:
    """Return settings with a PostgreSQL at this port."""
    return Settings(database_url=SecretStr(f"postgres://links:{PASSWORD}@127.0.0.1:{port}/links"), ready_timeout=0.5)


async def execute(settings: Settings, statement: str) -> None:
    """Execute a statement in the database on a connection of its own."""
    if settings.database_url is None:
        with sqlite3.connect(settings.sqlite_path) as file:
            file.execute(statement)
        file.close()
    else:
        connection = await asyncpg.connect(settings.database_url.get_secret_value())
        await connection.execute(statement)
        await connection.close()


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_healthy_application_answers_ok(client: AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert (answer.status_code, answer.json()["status"]) == (200, "ok")
    assert answer.headers["cache-control"] == "no-store"
    assert (await client.head(path)).status_code == 200


@pytest.mark.parametrize(
    ("extension", "status", "state"),
    [({"draining": True}, 503, "draining"), ({"draining": False}, 200, "ok"), ({}, 200, "ok")],
    ids=["draining", "serving", "another version"],
)
async def test_draining_worker_is_alive_but_not_ready(
    settings: Settings, extension: dict[str, bool], status: int, state: str
) -> None:
    """The server sets the flag in each request's scope."""
    async with running(settings) as client:
        application = client._transport.app  # type: ignore[attr-defined]

        async def served(scope: Scope, receive: Receive, send: Send) -> None:
            await application({**scope, "extensions": {"gunicorn_handover": extension}}, receive, send)

        async with AsyncClient(transport=ASGITransport(served), base_url="http://links") as asking:
            ready, alive, page = [await asking.get(path) for path in ("/readyz", "/healthz", "/api/links")]
    assert (ready.status_code, ready.json()["status"]) == (status, state)
    assert ready.headers["cache-control"] == "no-store"
    assert (alive.status_code, page.status_code) == (200, 200)


async def test_unreachable_database_is_alive_but_not_ready(
    unused_tcp_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        async with running(at_port(unused_tcp_port)) as client:
            ready, alive, used = [await client.get(path) for path in ("/readyz", "/healthz", "/api/links")]
    assert ready.status_code == 503
    assert ready.json() == {"status": "unavailable", "checks": {"database": "unreachable", "schema": "unknown"}}
    assert alive.status_code == 200
    assert used.status_code == 503
    assert used.headers["retry-after"] == "5"
    assert "ConnectionRefusedError" in caplog.text
    assert PASSWORD not in caplog.text + ready.text + used.text


async def test_hanging_database_times_out() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        async with running(at_port(silent.getsockname()[1])) as client:
            answer = await asyncio.wait_for(client.get("/readyz"), 60)
    assert answer.status_code == 503
    assert answer.json()["checks"]["database"] == "no answer within 0.5 s"


async def test_unopenable_sqlite_file_is_unreachable(tmp_path: Path) -> None:
    async with running(Settings(state_directory=tmp_path / "missing")) as client:
        ready, page = await client.get("/readyz"), await client.get("/")
    assert (ready.status_code, ready.json()["checks"]["database"]) == (503, "unreachable")
    assert str(tmp_path) not in ready.text
    assert page.status_code == 503
    # aiosqlite ends the threads of failed connections later, and they need this event loop.
    while any("_connection_worker_thread" in thread.name for thread in threading.enumerate()):
        await asyncio.sleep(0.01)


async def test_worker_whose_pool_is_exhausted_is_ready(settings: Settings) -> None:
    busy = settings.model_copy(update={"database_pool_size": 1, "ready_timeout": 1})
    async with running(busy) as client:
        engine = client._transport.app.state.engine  # type: ignore[attr-defined]
        async with engine.connect():
            assert (await client.get("/readyz")).status_code == 200


async def test_startup_creates_no_tables(empty_database: Settings) -> None:
    async with running(empty_database) as client:
        answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["checks"] == {"database": "ok", "schema": "missing: run `python -m links.migrate`"}


async def test_older_schema_is_not_ready_until_migrated(empty_database: Settings) -> None:
    await upgrade(empty_database, "0001")
    async with running(empty_database) as client:
        before = await client.get("/readyz")
        await upgrade(empty_database)
        after = await client.get("/readyz")
    assert before.status_code == 503
    assert before.json()["checks"]["schema"].startswith("outdated")
    assert after.status_code == 200


async def test_newer_schema_is_ready(settings: Settings) -> None:
    await execute(settings, "UPDATE alembic_version SET version_num = '9999'")
    async with running(settings) as client:
        assert (await client.get("/readyz")).status_code == 200


async def test_blocked_statement_times_out(settings: Settings) -> None:
    """A lock held by another client causes a 503 after some seconds, and doesn't block a connection forever."""
    if settings.database_url is None:
        pytest.skip("SQLite has no statement timeout")
    hasty = settings.model_copy(update={"database_statement_timeout": 0.3})
    blocker = await asyncpg.connect(settings.database_url.get_secret_value())
    try:
        async with blocker.transaction():
            await blocker.execute("LOCK TABLE links IN ACCESS EXCLUSIVE MODE")
            async with running(hasty) as client:
                answer = await asyncio.wait_for(client.get("/api/links"), 60)
    finally:
        await blocker.close()
    assert answer.status_code == 503


async def test_lost_connection_is_replaced(settings: Settings) -> None:
    """After a restart of PostgreSQL the next request uses a new connection instead of failing."""
    if settings.database_url is None:
        pytest.skip("SQLite has no server")
    async with running(settings) as client:
        assert (await client.get("/api/links")).status_code == 200
        await execute(
            settings,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'links' AND datname = current_database()",
        )
        assert (await client.get("/api/links")).status_code == 200
