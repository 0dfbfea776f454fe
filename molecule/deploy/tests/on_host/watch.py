"""Looks again and again whether some process of an application takes requests, until a file is there.

watch.py APPLICATION FILE      prints how often it looked, and how often nobody did
"""

from __future__ import annotations

import json
import pathlib
import sys
import time

STATUS, END = pathlib.Path("/run/baton", sys.argv[1]), pathlib.Path(sys.argv[2])


def serves(name: str) -> bool:
    """Whether a master has a worker that is ready, and lives."""
    try:
        said = json.loads((STATUS / f"{name}.json").read_text())
    except FileNotFoundError:
        return False
    ready = [worker["pid"] for worker in said["workers"] if worker["state"] == "ready"]
    return any(pathlib.Path(f"/proc/{pid}").exists() for pid in ready)


looks = nobody = 0
while not END.exists():
    # the service once more: it may have become ready, and the bridge have ended, between the first two looks
    nobody += not any(serves(name) for name in ("handover", "bridge", "handover"))
    looks += 1
    time.sleep(0.1)
print(json.dumps({"looks": looks, "nobody": nobody}))
