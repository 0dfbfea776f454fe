"""The copies of receipts on a host: what was proven of its application can be read there without the controller."""

from __future__ import annotations

from ..app.layout import Application
from ..host import atomic_file
from ..host.command import make_folder

MOST = 20  # copies that are kept


def keep(app: Application, name: str, content: str) -> None:
    """Write one, so that a reader sees all of it or none, and remove the oldest.

    For root alone: it tells who changed what, and which paths failed.
    """
    directory = app.state / "receipts"
    make_folder(directory, 0o700)
    atomic_file.write(directory / f"{name}.json", content, mode=0o600)
    # names begin with the time
    for old in sorted(directory.glob("*.json"))[:-MOST]:
        old.unlink()
