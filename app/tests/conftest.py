"""Shared fixtures: a migrated database, a Redis, and clients of the application."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
import redis
import uvicorn
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
    """Remove the application's settings from the environment of the tests."""
    others = {"DATABASE_URL", "REDIS_URL", "STATE_DIRECTORY", "RELEASE_ID"}
    for name in list(os.environ):
        if name.startswith(("LINKS_", "OTEL_")) or name in others:
            monkeypatch.delenv(name)


class RedisServer:
    """A Redis on loopback, which a test may stop, freeze and restart."""

    def __init__(self, program: str, folder: Path, port: int) -> None:
        self.program = program
        self.folder = folder
        self.port = port
        self.password = uuid4().hex
        self.url = f"redis://:{self.password}@127.0.0.1:{port}/0"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        configuration = (
            f"port {self.port}\nbind 127.0.0.1\nrequirepass {self.password}\ndir {self.folder}\n"
            'save ""\nappendonly yes\nappendfsync always\nlogfile redis.log\n'
        )
        self.process = subprocess.Popen([self.program, "-"], stdin=subprocess.PIPE, cwd=self.folder)
        assert self.process.stdin is not None
        self.process.stdin.write(configuration.encode())
        self.process.stdin.close()
        with redis.Redis.from_url(self.url) as client:
            while True:
                try:
                    client.ping()
                except redis.exceptions.ConnectionError:
                    assert self.process.poll() is None, (self.folder / "redis.log").read_text()
                    time.sleep(0.01)
                else:
                    return

    def freeze(self) -> None:
        """Stop answering, but keep connections open."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Resume."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Stop the server; its data is on disk."""
        if self.process is not None:
            self.thaw()
            self.process.terminate()
            self.process.wait()
            self.process = None


@pytest.fixture
def redis_server(tmp_path: Path, unused_tcp_port: int) -> Iterator[RedisServer]:
    """Run a Redis."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(program, folder, unused_tcp_port)
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
async def empty_database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Settings]:
    """Settings of a database without migrations. On PostgreSQL: a schema of its own, dropped afterwards."""
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
    """Migrate in a thread, as Alembic's env.py runs an event loop of its own."""
    await asyncio.to_thread(command.upgrade, migrate.config(settings), revision)


@pytest.fixture
async def settings(empty_database: Settings) -> Settings:
    """Settings of a migrated database."""
    await upgrade(empty_database)
    return empty_database


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[AsyncClient]:
    """Run the application with these settings; yield a client of it."""
    app: FastAPI = create_app(settings)
    # An exception in a handler fails the test, instead of becoming a 500.
    transport = ASGITransport(app, client=(CLIENT_ADDRESS, 50_000))
    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=transport, base_url="https://links.test") as client,
    ):
        yield client


@pytest.fixture
async def with_redis(tmp_path: Path, redis_server: RedisServer) -> Settings:
    """Settings of a migrated SQLite file, and of a Redis."""
    settings = Settings(state_directory=tmp_path, redis_url=SecretStr(redis_server.url))
    await upgrade(settings)
    return settings


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[str]:
    """Serve the application on a loopback port, as one worker does; yield host:port."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        create_app(settings), log_config=None, ws="websockets-sansio", forwarded_allow_ips="127.0.0.1"
    )
    server = uvicorn.Server(config)
    # _serve() installs no signal handlers, so that several servers can run in this process.
    task = asyncio.create_task(server._serve([listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    await task


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[AsyncClient]:
    """Yield a client of the application on a migrated database."""
    async with running(settings) as client:
        yield client
