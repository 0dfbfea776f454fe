"""Reloads a unit again and again; runs on the benchmark's host, which has only Python. Prints a JSON line a reload.

python3 reloads.py UNIT COUNT EVERY LEAST [SOCKET]

COUNT reloads, and more until LEAST seconds have gone by.
A reload by Baton has ended when `systemctl reload` returns. The others' returns at once: with their SOCKET given, a
reload has ended when every worker of before is gone and a new one answers. The next one begins EVERY seconds after
the beginning of the last, or as soon as that is over.
"""

from __future__ import annotations

import json
import pathlib
import socket
import subprocess
import sys
import time

LONGEST = 90.0  # seconds until a reload counts as one that doesn't end


def main_pid(unit: str) -> int:
    command = ["systemctl", "show", "--property=MainPID", "--value", unit]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def workers(master: int) -> set[int]:
    """The master's children, but for multiprocessing's resource tracker, which outlives every reload."""
    found = set()
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            parent = int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent == master and b"resource_tracker" not in (process / "cmdline").read_bytes():
                found.add(int(process.name))
        except OSError:  # it ended meanwhile
            continue
    return found


def answers(path: str) -> bool:
    """Whether a request is answered well; it waits in the socket's queue until a worker takes it."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(LONGEST)
            connection.connect(path)
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return connection.recv(100).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def reload(unit: str, path: str | None) -> dict[str, object]:
    master = main_pid(unit)
    before = workers(master) if path else set()
    started = time.time()
    done = subprocess.run(["systemctl", "reload", unit], check=False, capture_output=True, text=True)
    error = done.stderr.strip()
    while path and (before & workers(master) or not answers(path)):
        if time.time() - started > LONGEST:
            error = f"not over after {LONGEST:.0f} s"
            break
        time.sleep(0.2)
    seconds = round(time.time() - started, 3)
    return {"at": round(started, 3), "seconds": seconds, "ok": done.returncode == 0 and not error, "error": error}


def main() -> None:
    unit, count, every, least, *path = sys.argv[1:]
    began, done = time.monotonic(), 0
    while done < int(count) or time.monotonic() - began < float(least):
        next_one = time.monotonic() + float(every)
        print(json.dumps(reload(unit, path[0] if path else None)), flush=True)
        done += 1
        time.sleep(max(0.0, next_one - time.monotonic()))


if __name__ == "__main__":
    main()
