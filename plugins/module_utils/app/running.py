"""Which background processes and schedules of an application run here, and which host runs what only one may."""

from __future__ import annotations

import fnmatch
import re

from ..host import atomic_file, systemd, untrusted
from . import layout

_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")


def names(app: layout.Application) -> list[str]:
    """The process types beside `web` and the schedules that have not stopped: running, draining, or due by a timer."""
    try:
        processes = [process for process in app.processes if process.name != layout.WEB]
    except layout.ActivationError:
        return []  # the next activation reports what is wrong with its settings
    # a schedule's command may run although its timer was stopped
    patterns = {
        process.name: {unit.replace("@.", "@*.") for unit in (*process.running, *process.templates)}
        for process in processes
    }
    if not patterns:
        return []
    told = systemd.properties_of_all(*sorted(set().union(*patterns.values())), names=("Id", "ActiveState"))
    alive = [one.get("Id", "") for one in told if one.get("ActiveState") not in (None, "", "inactive", "failed")]
    return [
        name
        for name, theirs in patterns.items()
        if any(fnmatch.fnmatchcase(unit, pattern) for unit in alive for pattern in theirs)
    ]


def recorded_first_host(app: layout.Application) -> str:
    """The host that `hosts: first` stood for when the last change ended well; empty where nothing is noted."""
    try:
        said = untrusted.read(app.first_host, 1000).decode(errors="replace").strip()
    except OSError:
        return ""
    return said if _HOST.fullmatch(said) else ""


def record_first_host(app: layout.Application, name: str) -> None:
    """Note the host that `hosts: first` stands for; an empty name for none. Raises OSError."""
    if name:
        atomic_file.write(app.first_host, f"{name}\n")
    else:
        app.first_host.unlink(missing_ok=True)
