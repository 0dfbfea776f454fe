"""The background processes and schedules that run on this host, and the recorded host of `hosts: first`."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..host import atomic_file, systemd, untrusted
from . import layout

_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")


def alive(app: layout.Application) -> list[str]:
    """Return the background process types and schedules that haven't stopped: running, draining, or with a timer.

    By setting, such as `app_processes.worker`. From their units: one that is no longer in the settings may still drain.
    """
    if not app.state.exists():
        return []  # perhaps a host without systemd
    units = systemd.properties_of_all(*_patterns(app), names=("Id", "ActiveState"))
    return _settings(
        app, (one.get("Id", "") for one in units if one.get("ActiveState") not in (None, "", "inactive", "failed"))
    )


def started_at_boot(app: layout.Application) -> list[str]:
    """Return the background process types and schedules that start at boot, by setting: also failed or ended ones."""
    return _settings(app, (link.name for pattern in _patterns(app) for link in app.started_at_boot.glob(pattern)))


def _patterns(app: layout.Application) -> tuple[str, str]:
    return f"{app.name}-*.service", f"{app.name}-*.timer"


def _settings(app: layout.Application, units: Iterable[str]) -> list[str]:
    """Return the settings of units.

    Units of another application may be among them, but only with names that Baton refuses for this one.
    """
    ours = re.compile(rf"{re.escape(app.name)}-({layout.PROCESS_NAME.pattern})(@[0-9]+-[0-9]+)?\.(service|timer)")
    known = (ours.fullmatch(unit) for unit in units if unit != app.bridge)
    return sorted({f"{'app_processes' if one[2] else 'app_schedules'}.{one[1]}" for one in known if one})


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
