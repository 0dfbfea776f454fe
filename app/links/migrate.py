"""Migrate the database to this release's schema: `python -m links.migrate [REVISION]`, from any folder.

It does the same as `python -m alembic upgrade head` in the folder of alembic.ini.
"""

import argparse
import logging

from alembic import command
from alembic.config import Config

from links.settings import Settings


def config(settings: Settings) -> Config:
    """Return Alembic's configuration for the database of these settings."""
    alembic = Config()
    alembic.set_main_option("script_location", "links:migrations")
    alembic.attributes["settings"] = settings
    return alembic


def main() -> None:
    """Migrate the database that the environment names."""
    parser = argparse.ArgumentParser(prog="python -m links.migrate", description="Migrate the database")
    parser.add_argument("revision", nargs="?", default="head", help="up to this revision (default: head)")
    revision: str = parser.parse_args().revision
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    command.upgrade(config(Settings()), revision)


if __name__ == "__main__":
    main()
