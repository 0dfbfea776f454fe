"""Bring the database to this release's schema: `python -m links.migrate [REVISION]`, from any folder.

The same as `python -m alembic upgrade head` where alembic.ini is.
"""

import argparse
import logging
from dataclasses import dataclass

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from links.settings import Settings


@dataclass(frozen=True)
class Revisions:
    """The schema revisions that this release knows."""

    head: str
    older: frozenset[str]


def config(settings: Settings) -> Config:
    """Make Alembic's configuration, for the database of these settings."""
    alembic = Config()
    alembic.set_main_option("script_location", "links:migrations")
    alembic.attributes["settings"] = settings
    return alembic


def known_revisions() -> Revisions:
    """Read the revisions from the migrations that come with the package."""
    scripts = ScriptDirectory("links:migrations")
    head = scripts.get_current_head()
    if head is None:
        message = "The package has no migrations: it was built without links/migrations/versions"
        raise RuntimeError(message)
    return Revisions(head, frozenset(script.revision for script in scripts.walk_revisions()) - {head})


def main() -> None:
    """Migrate the database that the environment names."""
    parser = argparse.ArgumentParser(prog="python -m links.migrate", description="Migrate the database")
    parser.add_argument("revision", nargs="?", default="head", help="up to this revision (default: head)")
    revision: str = parser.parse_args().revision
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    command.upgrade(config(Settings()), revision)


if __name__ == "__main__":
    main()
