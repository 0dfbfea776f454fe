"""The identity of a playbook run, by which its controller can check whether it is still alive."""

from __future__ import annotations

import contextlib
import getpass
import os
import pathlib
import platform


def who() -> str:
    """Return user and controller, for messages."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run as a uid without a name
        user = str(os.getuid())
    return f"{user}@{platform.node()}"


def identity(pid: int) -> str:
    """Return the identity of a process: boot, pid namespace, pid and start time; empty if it can't be determined."""
    with contextlib.suppress(OSError):
        return f"{_system()} {pid} {_stat(pid)[1]}"
    return ""


def ended(process: str) -> bool:
    """Whether the run with this identity is known to have ended; False for runs of other controllers."""
    with contextlib.suppress(OSError, ValueError, OverflowError):
        boot, namespace, pid, started = process.split()
        if f"{boot} {namespace}" != _system():
            return False
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass  # another user's process
        state, since = _stat(int(pid))
        return since != started or state in "ZX"
    return False


def _system() -> str:
    """Return boot id and pid namespace; containers of one machine share the boot id."""
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"


def _stat(pid: int) -> tuple[str, str]:
    """Return a process's state, and its start in clock ticks since boot (proc(5))."""
    # the name, in parentheses, may contain any characters
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return fields[0], fields[19]
