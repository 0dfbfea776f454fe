"""The application's background processes: `jobs.py work` runs jobs of a queue, `jobs.py beat` may run only once.

`jobs.py check` fails until the process of its own instance has requested a job, or reported that it runs.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
import urllib.request
from typing import Any

NUMBER = 0  # of the release; each release knows one task more than the previous one
WHO = f"{socket.gethostname()} {os.environ['PROCESS_INSTANCE']}"
STOP = {signal.SIGTERM, signal.SIGINT}  # blocked, so that nothing is interrupted


def ask(verb: str, **fields: object) -> Any:
    request = urllib.request.Request(f"{os.environ['QUEUE']}/{verb}", json.dumps(fields).encode())
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def told_to_stop(seconds: float = 0.0) -> bool:
    """Wait for a signal to stop, and consume it."""
    return signal.sigtimedwait(STOP, seconds) is not None


def work() -> None:
    """Run jobs until told to stop; finish the running one."""
    known = {f"task{number}" for number in range(1, NUMBER + 1)}
    pause = 0.0
    while not told_to_stop(pause):
        job = ask("take", worker=WHO)
        pause = 0.0 if job else 0.05
        if not job:
            continue
        if job["task"] not in known:
            ask("done", id=job["id"], known=False)
        else:
            # the full duration of the job, even when told to stop
            time.sleep(job["seconds"])
            ask("done", id=job["id"], known=True)


def beat() -> None:
    """Report that it runs until told to stop, then take a moment to exit."""
    ask("beat", who=WHO, **{"is": "began"})
    while not told_to_stop(0.1):
        ask("beat", who=WHO, **{"is": "there", "number": NUMBER})
    time.sleep(0.5)
    ask("beat", who=WHO, **{"is": "ended"})


def check() -> None:
    """Check that the process has requested a job, or reported that it runs."""
    with urllib.request.urlopen(os.environ["QUEUE"], timeout=60) as answer:
        report = json.load(answer)
    if WHO not in (*report["workers"], *report["ticking"]):
        raise SystemExit(f"{WHO} has neither asked for a job nor reported that it runs")


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    print(f"{sys.argv[1]} of version {NUMBER}", flush=True)
    {"work": work, "beat": beat, "check": check}[sys.argv[1]]()
