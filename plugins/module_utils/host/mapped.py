"""Find the system's files that processes still execute although an upgrade replaced them, such as OpenSSL's library."""

from __future__ import annotations

import contextlib
import pathlib

from . import systemd

# where the distribution and python_runtime install programs and libraries
SYSTEM_FILES = ("/usr/", "/lib", "/var/lib/baton/python/")
MAX_PROCESSES = 256  # of a unit


def replaced(unit: str, root: str = "/") -> list[str]:
    """Return the replaced files that a unit's processes execute; empty if it doesn't run."""
    return replaced_in(systemd.property_of(unit, "ControlGroup"), root)


def replaced_in(group: str, root: str = "/") -> list[str]:
    """Return the replaced files that the processes of a control group execute."""
    pids = systemd.processes(group, root)[:MAX_PROCESSES]
    return sorted({path for pid in pids for path in _replaced_by(pid, root)})


def _replaced_by(pid: str, root: str) -> set[str]:
    # line by line, because a process can map many files with long names; the names may have any bytes
    with (
        contextlib.suppress(OSError),
        pathlib.Path(root, "proc", pid, "maps").open(encoding="utf-8", errors="replace") as maps,
    ):
        lines = (line.rstrip("\n").split(maxsplit=5) for line in maps)
        names = (line[5] for line in lines if len(line) == 6 and "x" in line[1])
        deleted = (name.removesuffix(" (deleted)") for name in names if name.endswith(" (deleted)"))
        # no shared memory, no code that a process generates, no files of a pruned release
        return {path for path in deleted if path.startswith(SYSTEM_FILES)}
    return set()
