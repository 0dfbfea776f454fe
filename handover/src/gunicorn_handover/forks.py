"""What the application forked, without an exec, in a worker: `multiprocessing` by its `fork` method, os.fork.

Such a process has the worker's listening sockets and signal handlers, which are none of its business: with them it
holds the address of a service that has ended, and takes SIGTERM for nothing. Programs that the application starts have
neither, and are left alone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from typing import Any

PF_FORKNOEXEC = 0x40  # include/linux/sched.h; the flags are in proc(5), stat
OURS = ("gunicorn.", "gunicorn_handover.", "uvicorn.")
TICK = 0.05  # seconds between two looks


def isolate(listeners: Iterable[Any]) -> None:
    """Makes every process forked from this one release `listeners` (Gunicorn's) and reset its signal handlers."""
    # by what they are: Gunicorn duplicates the descriptors that a service manager hands over
    identities = {_identity(listener.sock.fileno()) for listener in listeners}

    def let_go() -> None:
        # the event loop's descriptor is shared: a signal to the child would be told to the parent
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)  # an event loop's, which is none here
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGABRT):
            if str(getattr(signal.getsignal(number), "__module__", "")).startswith(OURS):
                signal.signal(number, signal.SIG_DFL)
        # not closed: the number would become another file's, which the socket's object would close in the end
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for descriptor in map(int, os.listdir("/proc/self/fd")):
            with contextlib.suppress(OSError):  # the folder's own has been closed
                if _identity(descriptor) in identities:
                    os.dup2(null, descriptor, inheritable=False)
        os.close(null)

    os.register_at_fork(after_in_child=let_go)


def end(session: int, patience: float) -> None:
    """Ends what was forked in `session`, a worker's pid: SIGTERM, and after `patience` seconds SIGKILL."""
    deadline = time.monotonic() + patience
    for pid in found(session):
        _kill(pid, signal.SIGTERM)
    while left := found(session):
        if time.monotonic() > deadline:
            for pid in left:
                _kill(pid, signal.SIGKILL)
            return
        time.sleep(TICK)


def kill(session: int) -> None:
    """Ends at once what the worker of that pid forked and has left behind."""
    for pid in found(session):
        _kill(pid, signal.SIGKILL)


def found(session: int) -> list[int]:
    """The processes of `session` that were forked and have executed no program, its leader and the dead left out."""
    pids = []
    for name in os.listdir("/proc"):
        if not name.isdecimal() or int(name) == session:
            continue
        with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{name}/stat", "rb") as file:
            # state, parent, group, session, terminal, its group, flags; a program's name may hold anything
            fields = file.read().rpartition(b")")[2].split()
            if fields[0] not in (b"Z", b"X") and int(fields[3]) == session and int(fields[6]) & PF_FORKNOEXEC:
                pids.append(int(name))
    return pids


def _identity(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
