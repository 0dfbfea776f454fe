"""Find units whose process was started before their unit files, or the programs and libraries, were changed."""

from __future__ import annotations

import contextlib
import datetime
import os
import pathlib
import re
import shlex
from collections.abc import Sequence
from typing import Any

from . import mapped, systemd

PROPERTIES = (
    *("Id", "ActiveState", "MainPID", "ControlGroup", "NeedDaemonReload", "NoNewPrivileges", "DropInPaths"),
    "ExecMainStartTimestamp",
)


def behind(patterns: Sequence[str], root: str = "/") -> list[dict[str, Any]]:
    """Return the running units of these patterns whose process is older than its unit files, or than what it executes.

    Keys: `unit`; `unread` (systemd hasn't read changed files yet); `unconfined` (the process lacks the unit's sandbox);
    `newer` (drop-ins that were written after the process was started); `replaced` (programs and libraries that its
    processes still execute although an upgrade replaced them).
    """
    found = []
    options = ["--timestamp=us+utc"]
    for unit in systemd.properties_of_all(*patterns, names=PROPERTIES, options=options) if patterns else []:
        pid = unit.get("MainPID", "0")
        if pid == "0":
            continue
        ending = unit.get("ActiveState") == "deactivating"
        about = {
            "unit": unit.get("Id", ""),
            "unread": unit.get("NeedDaemonReload") == "yes",
            "unconfined": unit.get("NoNewPrivileges") == "yes" and _may_gain_privileges(pid, root),
            "newer": _newer(shlex.split(unit.get("DropInPaths", "")), unit.get("ExecMainStartTimestamp", ""), root),
            # one that ends needs no restart
            "replaced": [] if ending else mapped.replaced_in(unit.get("ControlGroup", ""), root),
        }
        if any(about[key] for key in about if key != "unit"):
            found.append(about)
    return found


def _may_gain_privileges(pid: str, root: str) -> bool:
    """Whether a process lacks NoNewPrivileges, which every sandbox sets; False if the process no longer exists."""
    with contextlib.suppress(OSError):
        status = pathlib.Path(root, "proc", pid, "status").read_text(encoding="utf-8", errors="replace")
        return re.search(r"^NoNewPrivs:\s*0$", status, re.MULTILINE) is not None
    return False


def _newer(files: Sequence[str], started: str, root: str) -> list[str]:
    """Return the files that were written after a time in systemd's format."""
    with contextlib.suppress(ValueError):
        moment = datetime.datetime.strptime(started, "%a %Y-%m-%d %H:%M:%S.%f UTC").replace(tzinfo=datetime.UTC)
        # `systemctl set-property` applies its drop-ins immediately
        kept = [file for file in files if "/system.control/" not in file]
        return [file for file in kept if _modified(os.path.join(root, file.lstrip("/"))) > moment.timestamp()]
    return []


def _modified(path: str) -> float:
    with contextlib.suppress(OSError):
        return os.stat(path).st_mtime
    return 0.0
