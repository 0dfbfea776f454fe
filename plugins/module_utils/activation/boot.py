"""Which of an application's units are started at boot.

By symlinks of our own, as systemctl can't disable a unit whose file has gone already.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..app.layout import Application
from ..host import atomic_file


def enable(app: Application, units: Iterable[str], file: str) -> None:
    """Have units started at boot, all of which have one unit file. Raises OSError."""
    app.started_at_boot.mkdir(exist_ok=True)
    for unit in units:
        link = app.started_at_boot / unit
        link.unlink(missing_ok=True)
        link.symlink_to(f"/etc/systemd/system/{file}")
    atomic_file.sync_folder(app.started_at_boot)


def disable(app: Application, units: Iterable[str]) -> None:
    """Have units started at boot no more. Raises OSError."""
    if not app.started_at_boot.exists():
        return
    for unit in units:
        (app.started_at_boot / unit).unlink(missing_ok=True)
    atomic_file.sync_folder(app.started_at_boot)
