"""Niceness and OOM score of a worker that boots, so that neither its import slows the requests that others serve nor
its appetite for memory gets one of the others killed. Done by the master, from outside the worker."""

from __future__ import annotations

import contextlib
import os
import re
import resource
from collections.abc import Iterator
from pathlib import Path

CAP_SYS_NICE = 1 << 23  # capabilities(7)
OOM_BIAS = 500  # of 1000: the kernel's first choice, unless something far larger is about


def niceness() -> int:
    """This process's own."""
    return os.getpriority(os.PRIO_PROCESS, 0)


def may_return_to(nice: int) -> bool:
    """Whether a process of ours that was made nicer may be brought back to `nice`: by the unit's LimitNICE=, or by
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
    """Sets the niceness of all threads of `pid`: Linux keeps one for each. Returns whether it was permitted; a process
    that has ended counts as done."""
    permitted = True
    for thread in _threads(pid):
        try:
            os.setpriority(os.PRIO_PROCESS, thread, nice)
        except ProcessLookupError:
            continue
        except PermissionError:
            permitted = False
    return permitted


def renice_session(pid: int, nice: int) -> bool:
    """Sets the niceness of the session that `pid` leads, where sessions are scheduled as groups.

    sched(7): with autogroups, which is the kernel's default outside of cgroups' cpu controller, a process' own
    niceness counts only against others of its session, and so not against nginx. Returns whether there is nothing left
    to do: not while `pid` leads no session of its own yet, and not when the kernel, which takes such a change every
    0.1 s, was asked too often.
    """
    try:
        if os.getsid(pid) != pid:
            return False
        with open(f"/proc/{pid}/autogroup", "w", encoding="ascii") as file:
            file.write(str(nice))
    except BlockingIOError:
        return False
    except OSError:
        pass  # it ended, or there are no such groups
    return True


def _threads(pid: int) -> Iterator[int]:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        yield from map(int, os.listdir(f"/proc/{pid}/task"))


def waited(pid: int) -> float:
    """Seconds that the main thread of `pid` was ready to run and had no processor (proc(5), schedstat); 0 when the
    kernel doesn't say."""
    try:
        with open(f"/proc/{pid}/schedstat", encoding="ascii") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def oom_score(pid: int) -> int | None:
    """The OOM score adjustment of `pid`, -1000 to 1000; None when it can't be read."""
    try:
        with open(f"/proc/{pid}/oom_score_adj", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def set_oom_score(pid: int, score: int) -> None:
    """Sets it, where that is permitted and the process lives."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/oom_score_adj", "w", encoding="ascii") as file:
        file.write(str(max(-1000, min(1000, score))))


def oom_kills() -> int | None:
    """How many processes of this one's control group the kernel has killed for want of memory; None when it doesn't
    say."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            group = path.strip("/")
            for counted, file in (
                (controllers == "", Path("/sys/fs/cgroup", group, "memory.events")),
                (controllers == "memory", Path("/sys/fs/cgroup/memory", group, "memory.oom_control")),
            ):
                if counted and file.exists():
                    found = re.search(r"^oom_kill (\d+)$", file.read_text(encoding="ascii"), re.MULTILINE)
                    return int(found[1]) if found else None
    return None
