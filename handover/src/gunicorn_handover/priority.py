"""Niceness and OOM score of a booting worker, set by the master: the boot must not slow requests that other workers
serve, nor get one of them killed when memory runs out."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import platform
import re
import resource
import struct
from collections.abc import Iterator
from pathlib import Path

NICE_STEP = 1.25  # by which the weight of one niceness differs from that of the next, in the kernel's table
MAX_SHARED_NICE = 15  # a booting worker, at 19, has to weigh clearly less than one that serves
CAP_SYS_NICE = 1 << 23  # capabilities(7)
SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}  # the system call's number, as neither Python nor the C library has it
SCHED_ATTR = struct.Struct("=IIQiIQQQ")  # size, policy, flags, nice, priority, runtime …; see sched_setattr(2)
LONGEST_SLICE = 0.1  # seconds; Linux accepts no more
OOM_BIAS = 500  # of 1000: makes the worker the OOM killer's first choice, unless another process is far larger


def niceness() -> int:
    """The niceness of this process."""
    return os.getpriority(os.PRIO_PROCESS, 0)


def can_renice_to(nice: int) -> bool:
    """Whether this process may lower a process's niceness back to `nice`: by the unit's LimitNICE= (RLIMIT_NICE), or by
    the capability CAP_SYS_NICE."""
    ceiling = resource.getrlimit(resource.RLIMIT_NICE)[0]
    return ceiling == resource.RLIM_INFINITY or 20 - ceiling <= nice or bool(_capabilities() & CAP_SYS_NICE)


def _capabilities() -> int:
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii") as file:
        for line in file:
            if line.startswith("CapEff:"):
                return int(line.split()[1], 16)
    return 0


def renice(pid: int, nice: int) -> bool:
    """Sets the niceness of all threads of `pid`: in Linux it belongs to a thread. Returns whether it was permitted,
    also true for a process that has exited."""
    permitted = True
    for thread in _threads(pid):
        try:
            os.setpriority(os.PRIO_PROCESS, thread, nice)
        except ProcessLookupError:
            continue
        except PermissionError:
            permitted = False
    return permitted


def set_slice(pid: int, seconds: float) -> None:
    """Sets for how long each thread of `pid` runs before another may, in seconds; 0: the kernel's default.

    Without effect before Linux 6.12, and where it isn't permitted. From 6.6 on, a thread runs to the end of its slice
    even at niceness 19: others that wake up, as they do many times for one request, wait for milliseconds each time.
    Those with a shorter slice don't.
    """
    number = SCHED_SETATTR.get(platform.machine())
    if number is None:
        return
    system_call = ctypes.CDLL(None).syscall
    for thread in _threads(pid):
        with contextlib.suppress(OSError):
            policy, nice = os.sched_getscheduler(thread), os.getpriority(os.PRIO_PROCESS, thread)
            if policy in (os.SCHED_OTHER, os.SCHED_BATCH):
                attributes = SCHED_ATTR.pack(SCHED_ATTR.size, policy, 0, nice, 0, round(seconds * 1e9), 0, 0)
                system_call(number, thread, attributes, 0)


def renice_session(pid: int, nice: int) -> bool:
    """Sets the niceness of the session that `pid` leads, where sessions are scheduled as groups.

    With autogroups (sched(7)), the kernel's default outside the cgroup cpu controller, a process's own niceness counts
    only against other processes of its session, so not against nginx. Returns whether it is done: false while `pid`
    doesn't lead a session yet, and when the kernel, which accepts one change per 0.1 s, refuses another.
    """
    try:
        if os.getsid(pid) != pid:
            return False
        with open(f"/proc/{pid}/autogroup", "w", encoding="ascii") as file:
            file.write(str(nice))
    except BlockingIOError:
        return False
    except OSError:
        pass  # the process has exited, or the kernel has no autogroups
    return True


def shared_niceness(sessions: int) -> int:
    """The niceness at which this number of sessions together has the weight of one, as any other service has: at 0, two
    workers would have two thirds of the processor time that they and nginx compete for, and nginx would starve them."""
    return min(round(math.log(max(1, sessions), NICE_STEP)), MAX_SHARED_NICE)


def _threads(pid: int) -> Iterator[int]:
    try:
        yield from map(int, os.listdir(f"/proc/{pid}/task"))
    except (FileNotFoundError, ProcessLookupError):
        return
    except OSError:  # no descriptor is free
        yield pid


def cpu_wait(pid: int) -> float:
    """Seconds that the main thread of `pid` has waited for a processor, ready to run; 0 if unknown."""
    return _schedstat(pid)[1]


def cpu_demand(pid: int) -> float:
    """Seconds that the main thread of `pid` has run, or waited for a processor; 0 if unknown."""
    return sum(_schedstat(pid))


def _schedstat(pid: int) -> tuple[float, float]:
    """Seconds that the main thread of `pid` has run, and that it has waited, ready to run (proc(5))."""
    try:
        with open(f"/proc/{pid}/schedstat", encoding="ascii") as file:
            ran, waited, _ = map(int, file.read().split())
            return ran / 1e9, waited / 1e9
    except (OSError, ValueError):
        return 0.0, 0.0


def oom_score(pid: int) -> int | None:
    """The OOM score adjustment of `pid`, -1000 to 1000; None if it can't be read."""
    try:
        with open(f"/proc/{pid}/oom_score_adj", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def set_oom_score(pid: int, score: int) -> None:
    """Sets the OOM score adjustment of `pid`, if that is permitted and the process exists."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/oom_score_adj", "w", encoding="ascii") as file:
        file.write(str(max(-1000, min(1000, score))))


def oom_kills(root: str = "/") -> int | None:
    """How many processes in this process's control group the OOM killer has killed; None if unknown. `root` is the root
    folder."""
    with contextlib.suppress(OSError):
        for line in Path(root, "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            group = path.strip("/")
            for counted, file in (
                (controllers == "", Path(root, "sys/fs/cgroup", group, "memory.events")),
                (controllers == "memory", Path(root, "sys/fs/cgroup/memory", group, "memory.oom_control")),
            ):
                if counted and file.exists():
                    found = re.search(r"^oom_kill (\d+)$", file.read_text(encoding="ascii"), re.MULTILINE)
                    return int(found[1]) if found else None
    return None
