"""What a running process lacks of its unit's files, because it was started before they were as they are now."""

from __future__ import annotations

import contextlib
import datetime
import os
import pathlib
import re
import shlex
from collections.abc import Sequence
from typing import Any

from . import systemd

SHOWN = ("Id", "MainPID", "NeedDaemonReload", "NoNewPrivileges", "DropInPaths", "ExecMainStartTimestamp")


def behind(patterns: Sequence[str], root: str = "/") -> list[dict[str, Any]]:
    """The running units of these patterns of which that is true.

    Keys: `unit`; `unread` (systemd hasn't read its files since they were changed); `unconfined` (the process lacks the
    sandbox that the unit has); `newer` (the drop-ins that were written since the process was started).
    """
    found = []
    for told in systemd.properties_of_all(*patterns, names=SHOWN, options=["--timestamp=us+utc"]) if patterns else []:
        pid = told.get("MainPID", "0")
        if pid == "0":
            continue
        about = {
            "unit": told.get("Id", ""),
            "unread": told.get("NeedDaemonReload") == "yes",
            "unconfined": told.get("NoNewPrivileges") == "yes" and _may_gain_privileges(pid, root),
            "newer": _newer(shlex.split(told.get("DropInPaths", "")), told.get("ExecMainStartTimestamp", ""), root),
        }
        if about["unread"] or about["unconfined"] or about["newer"]:
            found.append(about)
    return found


def _may_gain_privileges(pid: str, root: str) -> bool:
    """Whether a process lacks what every sandbox begins with; False when it is gone."""
    with contextlib.suppress(OSError):
        status = pathlib.Path(root, "proc", pid, "status").read_text(encoding="utf-8", errors="replace")
        return re.search(r"^NoNewPrivs:\s*0$", status, re.MULTILINE) is not None
    return False


def _newer(files: Sequence[str], started: str, root: str) -> list[str]:
    """The files that were written after a moment, as systemd tells it."""
    with contextlib.suppress(ValueError):
        moment = datetime.datetime.strptime(started, "%a %Y-%m-%d %H:%M:%S.%f UTC").replace(tzinfo=datetime.UTC)
        # of `systemctl set-property` nothing waits for a start
        kept = [file for file in files if "/system.control/" not in file]
        return [file for file in kept if _modified(os.path.join(root, file.lstrip("/"))) > moment.timestamp()]
    return []


def _modified(path: str) -> float:
    with contextlib.suppress(OSError):
        return os.stat(path).st_mtime
    return 0.0
