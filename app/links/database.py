"""Database connections: PostgreSQL if DATABASE_URL is set, otherwise a SQLite file. Every wait has a timeout."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any

import asyncpg
from fastapi import Depends
from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext import asyncio as sqlalchemy_asyncio
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry
from starlette.requests import HTTPConnection

from links.settings import Settings

SQLITE_BUSY_SECONDS = 5


class DatabaseUnavailableError(Exception):
    """The database can't be reached."""


# Errors that can mean that the database is temporarily unavailable, see is_temporary().
DATABASE_ERRORS = (DatabaseUnavailableError, DBAPIError, PoolTimeoutError, TimeoutError)

# SQLSTATE classes: connection exception, transaction rollback (deadlock), insufficient resources, lock not available,
# operator intervention (also statement_timeout).
_TEMPORARY_SQLSTATES = ("08", "40", "53", "55P03", "57")


def is_temporary(error: Exception) -> bool:
    """Return whether the database is temporarily unavailable; otherwise the statement is wrong."""
    if not isinstance(error, DBAPIError):
        return True
    if isinstance(error, OperationalError | InterfaceError) or error.connection_invalidated:
        return True
    sqlstate: str = getattr(error.orig, "sqlstate", None) or ""
    return sqlstate.startswith(_TEMPORARY_SQLSTATES)


def create_engine(settings: Settings, *, migrating: bool = False) -> AsyncEngine:
    """Create the connection pool; it connects at the first query.

    With `migrating` a statement has no timeout, as migrations may be slow.
    """
    if settings.database_url is None:
        return _sqlite(settings, migrating=migrating)
    return _postgresql(settings, settings.database_url.get_secret_value(), migrating=migrating)


def _postgresql(settings: Settings, url: str, *, migrating: bool) -> AsyncEngine:
    statement_timeout = 0 if migrating else settings.database_statement_timeout

    async def connect() -> Any:
        """Let asyncpg parse the URL: it supports libpq's options (sslmode, several hosts, sockets …)."""
        try:
            return await asyncpg.connect(
                url,
                timeout=settings.database_connect_timeout,
                # The server cancels slow statements; this is for a server that doesn't answer at all.
                command_timeout=statement_timeout + 1 if statement_timeout else None,
                server_settings={
                    "application_name": "links-migrate" if migrating else "links",
                    "statement_timeout": str(int(statement_timeout * 1000)),
                },
            )
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            # Without the error's text, which can contain parts of the URL.
            message = f"PostgreSQL can't be reached: {type(error).__name__}"
            raise DatabaseUnavailableError(message) from error

    # Through its module, where tracing replaces the function.
    return sqlalchemy_asyncio.create_async_engine(
        "postgresql+asyncpg://",
        async_creator=connect,
        pool_size=settings.database_pool_size,
        max_overflow=settings.database_max_overflow,
        pool_timeout=settings.database_pool_timeout,
        # No request fails after a restart of PostgreSQL, and connections don't live forever.
        pool_pre_ping=True,
        pool_recycle=1800,
        # The connection used last first: it has the statements prepared, and few are open while there is little to do.
        pool_use_lifo=True,
        hide_parameters=True,
    )


def _sqlite(settings: Settings, *, migrating: bool) -> AsyncEngine:
    engine = sqlalchemy_asyncio.create_async_engine(
        f"sqlite+aiosqlite:///{settings.sqlite_path}",
        connect_args={"timeout": 60 if migrating else SQLITE_BUSY_SECONDS},
        pool_size=settings.database_pool_size,
        max_overflow=settings.database_max_overflow,
        pool_timeout=settings.database_pool_timeout,
        hide_parameters=True,
    )

    @event.listens_for(engine.sync_engine, "connect")
    def prepare(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        # Python's sqlite3 would begin transactions implicitly, but not for DDL: see begin() below.
        connection.isolation_level = None
        if migrating:
            _use_write_ahead_log(connection)

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if migrating else "BEGIN")

    return engine


def _use_write_ahead_log(connection: DBAPIConnection) -> None:
    """Enable WAL, so that readers and the writer in several workers don't block each other. The file keeps the mode."""
    cursor = connection.cursor()
    # This statement fails instead of waiting if the file is busy: then another process migrates it, and sets the mode.
    with suppress(sqlite3.OperationalError):
        cursor.execute("PRAGMA journal_mode = WAL")
    cursor.close()


class Sessions:
    """Sessions of an engine, in the order in which requests ask for them.

    The pool alone gives a free connection to whoever asks in that moment: under load, requests that wait would be
    overtaken until they time out.
    """

    def __init__(self, engine: AsyncEngine, settings: Settings) -> None:
        self._make = async_sessionmaker(engine, expire_on_commit=False)
        self._turns = asyncio.Semaphore(settings.database_pool_size + settings.database_max_overflow)
        self._timeout = settings.database_pool_timeout

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncSession]:
        """Yield a session, and commit it at the end. Raise TimeoutError if no connection becomes free in time."""
        try:
            async with asyncio.timeout(self._timeout):
                await self._turns.acquire()
        except TimeoutError:
            message = f"no connection was free within {self._timeout:g} s"
            raise TimeoutError(message) from None
        try:
            async with self._make.begin() as session:
                yield session
        finally:
            self._turns.release()


async def _session(connection: HTTPConnection) -> AsyncIterator[AsyncSession]:
    sessions: Sessions = connection.app.state.sessions
    async with sessions.begin() as session:
        yield session


# scope="function": committed before the response is sent, so that a 201 is always true.
Session = Annotated[AsyncSession, Depends(_session, scope="function")]
