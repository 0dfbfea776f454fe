"""A run of a playbook, told from all others: on its controller one can see whether it still lives."""

from __future__ import annotations

import contextlib
import getpass
import os
import pathlib
import platform


def who() -> str:
    """User and controller, for people."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run as a number without a name
        user = str(os.getuid())
    return f"{user}@{platform.node()}"


def identity(pid: int) -> str:
    """Which process of which system a run is; empty where that can't be told."""
    with contextlib.suppress(OSError):
        return f"{_system()} {pid} {_stat(pid)[1]}"
    return ""


def ended(process: str) -> bool:
    """Whether a run is known to have ended: `process` is its identity. Nothing is known of another controller's."""
    with contextlib.suppress(OSError, ValueError):
        boot, namespace, pid, started = process.split()
        if f"{boot} {namespace}" != _system():
            return False
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass  # another user's
        state, since = _stat(int(pid))
        return since != started or state in "ZX"
    return False


def _system() -> str:
    """This boot and this namespace of processes: containers of one machine have the boot in common."""
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"


def _stat(pid: int) -> tuple[str, str]:
    """State of a process, and when it started, in ticks since the boot."""
    # its name, in brackets, may hold anything
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return fields[0], fields[19]
