"""Checks repeatedly, until a file exists, whether an application has a worker that accepts requests.

watch.py APPLICATION FILE      prints the number of checks, and of checks that found none
"""

from __future__ import annotations

import json
import pathlib
import sys
import time

STATUS, END = pathlib.Path("/run/baton", sys.argv[1]), pathlib.Path(sys.argv[2])


def serves(name: str) -> bool:
    """Whether a master has a worker that is ready and running."""
    try:
        status = json.loads((STATUS / f"{name}.json").read_text())
    except FileNotFoundError:
        return False
    ready = [worker["pid"] for worker in status["workers"] if worker["state"] == "ready"]
    return any(pathlib.Path(f"/proc/{pid}").exists() for pid in ready)


checks = gaps = 0
while not END.exists():
    # the service twice: it may have become ready, and the bridge have stopped, between the first two checks
    gaps += not any(serves(name) for name in ("handover", "bridge", "handover"))
    checks += 1
    time.sleep(0.1)
print(json.dumps({"checks": checks, "gaps": gaps}))
