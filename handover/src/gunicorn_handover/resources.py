"""What this process may use of the machine: processors and memory, by the limits of its control groups too.

A container or a unit with a quota sees all of the machine's processors and memory. Sources: cgroups(7), the kernel's
cgroup-v2 and cgroup-v1 documents, /proc/self/cgroup and mountinfo in proc(5).
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_ESCAPED = re.compile(r"\\([0-7]{3})")


def cores(root: str = "/") -> int:
    """The processors that this process can keep busy: those that it may run on (cpusets, affinity), or as many as its
    CPU quota pays for when that is less. A part of one counts as one."""
    available = len(os.sched_getaffinity(0))
    quotas = [quota for group in _groups(root, "cpu") if (quota := _quota(group)) is not None]
    return max(1, min([available, *(math.ceil(quota) for quota in quotas)]))


def memory_mb(root: str = "/") -> int:
    """The memory that this process may use, in MiB: the machine's, or the limit of its control groups when that is
    less. Raises OSError where there is no /proc."""
    names = ("memory.max", "memory.high", "memory.limit_in_bytes")
    limits = [_number(group / name) for group in _groups(root, "memory") for name in names]
    return min([_machine_memory(root), *(limit for limit in limits if limit is not None)]) // 2**20


def _quota(group: Path) -> float | None:
    """How many processors a group may keep busy; None for all."""
    words = _text(group / "cpu.max").split()
    if not words:
        words = [_text(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
    try:
        quota, period = (int(word) for word in words)
    except ValueError:  # "max", or no such file
        return None
    return quota / period if quota > 0 and period > 0 else None


def _machine_memory(root: str) -> int:
    for line in Path(root, "proc/meminfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo has no MemTotal")


def _groups(root: str, controller: str) -> Iterator[Path]:
    """The folders of the control groups that this process is in, from its own to the topmost that can be seen.

    A limit holds for all below it. Version 2 and version 1 may be mounted side by side; whichever has the controller
    has its files.
    """
    own: dict[str, PurePosixPath] = {}
    for line in _text(Path(root, "proc/self/cgroup")).splitlines():
        _, controllers, group = line.split(":", 2)
        own[controllers] = PurePosixPath(group)
    for line in _text(Path(root, "proc/self/mountinfo")).splitlines():
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        if kind == "cgroup2":
            path = own.get("")
        elif kind == "cgroup" and controller in options.split(" ")[-1].split(","):
            path = next((path for names, path in own.items() if controller in names.split(",")), None)
        else:
            continue
        if path is None:
            continue
        # a container may see its own group alone, as the mount's root, and be told the path that the machine has of it
        mounted, mount_point = (PurePosixPath(_unescaped(field)) for field in fields.split(" ")[3:5])
        inside = path.relative_to(mounted) if path.is_relative_to(mounted) else PurePosixPath()
        top = Path(root, str(mount_point).lstrip("/"))
        folder = top / inside
        while True:
            yield folder
            if folder == top:
                break
            folder = folder.parent


def _unescaped(field: str) -> str:
    return _ESCAPED.sub(lambda found: chr(int(found[1], 8)), field)


def _number(path: Path) -> int | None:
    try:
        return int(_text(path))
    except ValueError:
        return None


def _text(path: Path) -> str:
    """The text of a file; empty when it isn't there or can't be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
