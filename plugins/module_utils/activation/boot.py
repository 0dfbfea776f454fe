"""Enable and disable an application's units at boot, and remove their files.

Manages the symlinks itself, because systemctl can't disable a unit whose file no longer exists.
"""

from __future__ import annotations

import fnmatch
import itertools
import os
from collections.abc import Iterable, Sequence

from ..app.layout import Application
from ..host import atomic_file, systemd
from ..host.command import make_folder


def is_enabled(app: Application, unit: str) -> bool:
    """Whether a unit starts at boot."""
    return (app.started_at_boot / unit).is_symlink()


def enabled(app: Application, pattern: str) -> list[str]:
    """Return the units that match a pattern and start at boot, including those without a unit file."""
    return fnmatch.filter(os.listdir(app.started_at_boot), pattern) if app.started_at_boot.exists() else []


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


def start_timer(app: Application, timer: str, timeout: float, *, catch_up: bool) -> None:
    """Start a timer with its current settings, and enable it. Raises UnitError, OSError.

    `catch_up`: whether runs may have been missed; the timer's own setting decides whether one starts then.
    """
    last = app.last_trigger(timer)
    if not catch_up and last.exists():
        os.utime(last)
    systemd.change("stop", timer, timeout)
    # A timer without `Persistent=` counts from its previous start, and might run the command at once, unless systemd
    # has forgotten that. It does so when nothing refers to the unit.
    disable(app, [timer])
    systemd.systemctl("daemon-reload", timeout=timeout)
    systemd.change("start", timer, timeout)
    enable(app, [timer], timer)


def remove_file(app: Application, name: str) -> None:
    """Remove a unit file. Raises OSError.

    What still runs of it keeps its settings, such as the time to stop: at a daemon-reload, systemd would otherwise
    apply its defaults. A copy remains until the next boot for that.
    """
    path, copy = app.path("etc/systemd/system", name), app.path("run/systemd/system", name)
    units = systemd.properties_of_all(name.replace("@.", "@*."), names=("Id", "ActiveState"))
    if all(one.get("ActiveState") in (None, "inactive", "failed") for one in units):
        copy.unlink(missing_ok=True)
    elif path.exists():
        make_folder(copy.parent)
        atomic_file.write(copy, path.read_bytes(), mode=0o644)
    path.unlink(missing_ok=True)
    atomic_file.sync_folder(path.parent)


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
