"""Alembic's environment, with the application's own settings and engine."""

import asyncio
import logging

from alembic import context
from sqlalchemy import Connection, text

from links.database import create_engine
from links.models import Base
from links.settings import Settings

# An arbitrary number, the same for all processes that migrate this database.
ADVISORY_LOCK = 7_265_490_331
LOCK_TIMEOUT = "5s"

settings: Settings = context.config.attributes.get("settings") or Settings()


def migrate(connection: Connection) -> None:
    """Run the migrations on an open connection, under a lock."""
    is_postgresql = connection.dialect.name == "postgresql"
    if is_postgresql:
        # A second process waits here, and then finds nothing to do.
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": ADVISORY_LOCK})
        # A statement that waits for a table's lock blocks all queries behind it: fail soon instead.
        connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
        connection.commit()
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        # On SQLite too, as database.py begins real transactions there.
        transactional_ddl=True,
        # SQLite has no other lock than its transaction, so there one transaction covers all migrations.
        transaction_per_migration=is_postgresql,
    )
    with context.begin_transaction():
        context.run_migrations()


async def migrate_online() -> None:
    """Connect and migrate."""
    engine = create_engine(settings, migrating=True)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(migrate)
    finally:
        await engine.dispose()


def print_sql() -> None:
    """`alembic upgrade head --sql`: print the statements, to run them by hand."""
    context.configure(
        dialect_name="sqlite" if settings.database_url is None else "postgresql",
        target_metadata=Base.metadata,
        literal_binds=True,
    )
    with context.begin_transaction():
        context.run_migrations()


if not logging.getLogger().hasHandlers():
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")

if context.is_offline_mode():
    print_sql()
else:
    asyncio.run(migrate_online())
