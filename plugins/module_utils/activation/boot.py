"""Enable and disable an application's units at boot.

Manages the symlinks itself, because systemctl can't disable a unit whose file no longer exists.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence

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


def enable_only(app: Application, pattern: str, units: Sequence[str], file: str) -> None:
    """Enable units, which are instances of one unit file, and disable all others that match the pattern.

    Renames their symlinks, so that a host that crashes meanwhile starts one unit for each old one. Raises OSError.
    """
    folder = app.started_at_boot
    if not units and not folder.exists():
        return
    folder.mkdir(exist_ok=True)
    links = [folder / unit for unit in units]
    missing = [link for link in links if not os.path.lexists(link)]
    obsolete = sorted(link for link in folder.glob(pattern) if link not in links)
    for old, new in itertools.zip_longest(obsolete, missing):
        if old is None:
            new.symlink_to(f"/etc/systemd/system/{file}")
        elif new is None:
            old.unlink()
        else:
            old.rename(new)
    if obsolete or missing:
        atomic_file.sync_folder(folder)
