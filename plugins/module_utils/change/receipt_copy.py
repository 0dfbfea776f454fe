"""The copies of receipts on a host: what was proven of its application can be read there without the controller."""

from __future__ import annotations

import os

from ..app.layout import Application
from ..host.command import make_folder, sync_folder

MOST = 20  # copies that are kept


def keep(app: Application, name: str, content: str) -> None:
    """Write one, so that a reader sees all of it or none, and remove the oldest.

    For root alone: it tells who changed what, and which paths failed.
    """
    directory = app.state / "receipts"
    make_folder(directory, 0o700)
    scratch = directory / "new"
    with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(directory / f"{name}.json")
    sync_folder(directory)
    # names begin with the time
    for old in sorted(directory.glob("*.json"))[:-MOST]:
        old.unlink()
