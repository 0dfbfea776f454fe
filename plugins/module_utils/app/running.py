"""The background processes and schedules that run on this host, and the recorded host of `hosts: first`."""

from __future__ import annotations

import fnmatch
import re

from ..host import atomic_file, systemd, untrusted
from . import layout

_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")


def names(app: layout.Application) -> list[str]:
    """Return the background process types and schedules that haven't stopped: running, draining, or with a timer."""
    try:
        processes = [process for process in app.processes if process.name != layout.WEB]
    except layout.ActivationError:
        return []  # the next activation reports the error in the settings
    # a schedule's command may still run after its timer was stopped
    patterns = {
        process.name: {unit.replace("@.", "@*.") for unit in (*process.running, *process.templates)}
        for process in processes
    }
    if not patterns:
        return []
    units = systemd.properties_of_all(*sorted(set().union(*patterns.values())), names=("Id", "ActiveState"))
    alive = [one.get("Id", "") for one in units if one.get("ActiveState") not in (None, "", "inactive", "failed")]
    return [
        name
        for name, own in patterns.items()
        if any(fnmatch.fnmatchcase(unit, pattern) for unit in alive for pattern in own)
    ]


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
