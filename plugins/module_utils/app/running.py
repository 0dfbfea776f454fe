"""The background processes and schedules that run on this host, and the recorded host of `hosts: first`."""

from __future__ import annotations

import re

from ..host import atomic_file, systemd, untrusted
from . import layout

_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")


def names(app: layout.Application) -> list[str]:
    """Return the background process types and schedules that haven't stopped: running, draining, or with a timer.

    From their units: one that is no longer in the settings may still drain. Units of another application may be among
    them, but only with names that Baton refuses for this one.
    """
    if not app.state.exists():
        return []  # perhaps a host without systemd
    ours = re.compile(rf"{re.escape(app.name)}-({layout.PROCESS_NAME.pattern})(@[0-9]+-[0-9]+)?\.(service|timer)")
    patterns = (f"{app.name}-*.service", f"{app.name}-*.timer")
    units = systemd.properties_of_all(*patterns, names=("Id", "ActiveState"))
    alive = (one.get("Id", "") for one in units if one.get("ActiveState") not in (None, "", "inactive", "failed"))
    return sorted({found[1] for unit in alive if unit != app.bridge and (found := ours.fullmatch(unit))})


def recorded_first_host(app: layout.Application) -> str:
    """Return the host of `hosts: first` as of the last successful change; empty if none is recorded."""
    try:
        name = untrusted.read(app.first_host, 1000).decode(errors="replace").strip()
    except OSError:
        return ""
    return name if _HOST.fullmatch(name) else ""


def record_first_host(app: layout.Application, name: str) -> None:
    """Record the host of `hosts: first`; an empty name for none. Raises OSError."""
    if name:
        atomic_file.write(app.first_host, f"{name}\n")
    else:
        app.first_host.unlink(missing_ok=True)
