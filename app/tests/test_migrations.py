"""The migrations, and their compatibility with the previous release."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from links import migrate
from links.database import create_engine
from links.migrations import REVISIONS
from links.settings import Settings
from tests.conftest import upgrade

APP = Path(__file__).parent.parent


async def tables(settings: Settings) -> set[str]:
    """Return the names of all tables."""
    engine = create_engine(settings)
    async with engine.connect() as connection:
        names = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
    await engine.dispose()
    return set(names)


def test_revisions_match_migration_files() -> None:
    scripts = ScriptDirectory.from_config(migrate.config(Settings()))
    assert tuple(script.revision for script in scripts.walk_revisions())[::-1] == REVISIONS


async def test_upgrade_downgrade_and_upgrade_again(empty_database: Settings) -> None:
    await upgrade(empty_database)
    assert await tables(empty_database) == {"links", "alembic_version"}
    await asyncio.to_thread(command.downgrade, migrate.config(empty_database), "base")
    assert await tables(empty_database) == {"alembic_version"}
    await upgrade(empty_database)
    assert await tables(empty_database) == {"links", "alembic_version"}


async def test_migrations_match_models(settings: Settings) -> None:
    await asyncio.to_thread(command.check, migrate.config(settings))


async def test_previous_release_can_still_write(settings: Settings) -> None:
    """Code of revision 0001, which doesn't know last_clicked_at, works while 0002 is rolled out."""
    engine = create_engine(settings)
    async with engine.begin() as connection:
        await connection.execute(text("INSERT INTO links (slug, url) VALUES ('old', 'https://example.com')"))
        assert await connection.scalar(text("SELECT clicks FROM links WHERE slug = 'old'")) == 0
    await engine.dispose()


async def test_concurrent_migrations_run_once(empty_database: Settings) -> None:
    """In processes of their own, as Alembic's context is global to a process."""
    environment = {name: value for name, value in os.environ.items() if name != "TEST_DATABASE_URL"}
    if empty_database.database_url is None:
        environment["LINKS_STATE_DIRECTORY"] = str(empty_database.state_directory)
    else:
        environment["DATABASE_URL"] = empty_database.database_url.get_secret_value()
    runs = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "links.migrate", cwd=APP, env=environment, stderr=asyncio.subprocess.PIPE
        )
        for _ in range(3)
    ]
    outputs = [(await run.communicate())[1].decode() for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], "\n".join(outputs)
    assert sum("Create links" in output for output in outputs) == 1


@pytest.mark.parametrize("arguments", [["links.migrate"], ["alembic", "upgrade", "head"]], ids=" ".join)
def test_both_commands_migrate(tmp_path: Path, arguments: list[str]) -> None:
    environment = {**os.environ, "STATE_DIRECTORY": str(tmp_path)}
    subprocess.run([sys.executable, "-m", *arguments], cwd=APP, env=environment, check=True, capture_output=True)
    assert asyncio.run(tables(Settings(state_directory=tmp_path))) == {"links", "alembic_version"}
