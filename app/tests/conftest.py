"""A migrated database, and a client of an application that uses it."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from alembic import command
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient
from pydantic import SecretStr

from links import migrate
from links.main import create_app
from links.settings import Settings

CLIENT_ADDRESS = "203.0.113.7"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the settings of whoever runs the tests out of them."""
    for name in list(os.environ):
        if name.startswith("LINKS_") or name in {"DATABASE_URL", "STATE_DIRECTORY", "RELEASE_ID"}:
            monkeypatch.delenv(name)


@pytest.fixture(params=["sqlite", "postgresql"])
async def empty_database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Settings]:
    """Settings of a database that nobody has migrated. On PostgreSQL: a schema of its own, dropped again."""
    if request.param == "sqlite":
        yield Settings(state_directory=tmp_path)
        return
    url = os.environ.get("TEST_DATABASE_URL")
    if not url:
        pytest.skip("TEST_DATABASE_URL is not set")
    schema = f"test_{uuid4().hex}"
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(f"CREATE SCHEMA {schema}")
        separator = "&" if "?" in url else "?"
        yield Settings(database_url=SecretStr(f"{url}{separator}search_path={schema}"))
        await connection.execute(f"DROP SCHEMA {schema} CASCADE")
    finally:
        await connection.close()


async def upgrade(settings: Settings, revision: str = "head") -> None:
    """Migrate. In a thread, because Alembic's env.py has an event loop of its own."""
    await asyncio.to_thread(command.upgrade, migrate.config(settings), revision)


@pytest.fixture
async def settings(empty_database: Settings) -> Settings:
    """Settings of a migrated database."""
    await upgrade(empty_database)
    return empty_database


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[AsyncClient]:
    """Run the application with these settings, and give a client of it."""
    app: FastAPI = create_app(settings)
    # What a handler raises is a failure of the test, not a 500.
    transport = ASGITransport(app, client=(CLIENT_ADDRESS, 50_000))
    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=transport, base_url="https://links.test") as client,
    ):
        yield client


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[AsyncClient]:
    """Give a client of the application on a migrated database."""
    async with running(settings) as client:
        yield client
