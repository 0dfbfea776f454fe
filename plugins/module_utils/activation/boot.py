"""Enable and disable an application's units at boot.

Manages the symlinks itself, because systemctl can't disable a unit whose file no longer exists.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..app.layout import Application
from ..host import atomic_file


def enable(app: Application, units: Iterable[str], file: str) -> None:
    """Enable units, which are all instances of one unit file. Raises OSError."""
    app.started_at_boot.mkdir(exist_ok=True)
    for unit in units:
        link = app.started_at_boot / unit
        link.unlink(missing_ok=True)
        link.symlink_to(f"/etc/systemd/system/{file}")
    atomic_file.sync_folder(app.started_at_boot)


def disable(app: Application, units: Iterable[str]) -> None:
    """Disable units. Raises OSError."""
    if not app.started_at_boot.exists():
        return
    for unit in units:
        (app.started_at_boot / unit).unlink(missing_ok=True)
    atomic_file.sync_folder(app.started_at_boot)
