"""Processes that the application forks in a worker without an exec: `multiprocessing` with the `fork` method, os.fork.

Such a process inherits the worker's listening sockets and signal handlers. With these it would keep the address in use
after the service has stopped, and ignore SIGTERM. Programs that the application starts inherit neither, and are left
alone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from typing import Any

PF_FORKNOEXEC = 0x40  # include/linux/sched.h; the flags are in proc(5), stat
SERVER_MODULES = ("gunicorn.", "gunicorn_handover.", "uvicorn.")
TICK = 0.05  # seconds between two checks


def isolate(listeners: Iterable[Any]) -> None:
    """Makes every process forked from this one close `listeners` (Gunicorn's) and reset its signal handlers."""
    # by inode: Gunicorn duplicates the descriptors that a service manager passes
    identities = {_identity(listener.sock.fileno()) for listener in listeners}

    def detach() -> None:
        # the wakeup descriptor is shared: a signal to the child would reach the parent's event loop
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)  # its handler is that of the parent's event loop
        reset_handlers()
        descriptors = map(int, os.listdir("/proc/self/fd"))
        _blank(descriptor for descriptor in descriptors if _identity(descriptor) in identities)

    os.register_at_fork(after_in_child=detach)


def isolate_connections(descriptors: Callable[[], Iterable[int]]) -> None:
    """Makes every process forked from this one close the connections whose `descriptors` are returned then. One that is
    open in two processes doesn't end when the worker closes it."""
    os.register_at_fork(after_in_child=lambda: _blank(descriptors()))


def reset_handlers() -> None:
    """Removes the server's signal handlers from this process, and restores the application's that they had replaced."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGABRT):
        if is_servers(handler := signal.getsignal(number)):
            signal.signal(number, getattr(handler, "application_handler", signal.SIG_DFL))


def is_servers(handler: Any) -> bool:
    """Whether a signal handler is the server's, not the application's."""
    return str(getattr(handler, "__module__", "")).startswith(SERVER_MODULES)


def terminate(session: int, timeout: float) -> None:
    """Terminates what was forked in `session`, a worker's pid: SIGTERM, and after `timeout` seconds SIGKILL."""
    deadline = time.monotonic() + timeout
    for pid in forked(session):
        _kill(pid, signal.SIGTERM)
    while left := forked(session):
        if time.monotonic() > deadline:
            for pid in left:
                _kill(pid, signal.SIGKILL)
            return
        time.sleep(TICK)


def kill(session: int) -> None:
    """Kills what was forked in `session`, the pid of a worker that has exited."""
    for pid in forked(session):
        _kill(pid, signal.SIGKILL)


def forked(session: int) -> list[int]:
    """The pids of processes in `session` that were forked without an exec, except its leader and zombies."""
    pids = []
    for name in os.listdir("/proc"):
        if not name.isdecimal() or int(name) == session:
            continue
        with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{name}/stat", "rb") as file:
            # state, ppid, pgrp, session, tty, tpgid, flags; the command before them may contain anything
            fields = file.read().rpartition(b")")[2].split()
            if fields[0] not in (b"Z", b"X") and int(fields[3]) == session and int(fields[6]) & PF_FORKNOEXEC:
                pids.append(int(name))
    return pids


def _blank(descriptors: Iterable[int]) -> None:
    """Closes what `descriptors` refer to. The numbers stay in use: socket objects would close files that reuse them."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for descriptor in descriptors:
        with contextlib.suppress(OSError):  # closed by now
            os.dup2(null, descriptor, inheritable=False)
    os.close(null)


def _identity(descriptor: int) -> tuple[int, int] | None:
    try:
        found = os.fstat(descriptor)
    except OSError:  # that of os.listdir() is closed by now
        return None
    return found.st_dev, found.st_ino


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
