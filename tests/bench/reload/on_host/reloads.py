"""Reloads a unit repeatedly; runs on the benchmark's host, which only has Python. Prints a JSON line per reload.

python3 reloads.py UNIT COUNT EVERY LEAST [SOCKET]

At least COUNT reloads, and for at least LEAST seconds.
A reload of Baton ends when `systemctl reload` returns. For the others, it returns immediately: with SOCKET, a reload
ends when all previous workers have ended and a new one answers. A reload starts EVERY seconds after the start of the
previous one, or once that has ended, if this is later.
"""

from __future__ import annotations

import json
import pathlib
import socket
import subprocess
import sys
import time

LONGEST = 90.0  # seconds after which a reload counts as hanging


def main_pid(unit: str) -> int:
    command = ["systemctl", "show", "--property=MainPID", "--value", unit]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def workers(master: int) -> set[int]:
    """The master's children, except multiprocessing's resource tracker, which survives every reload."""
    found = set()
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            parent = int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent == master and b"resource_tracker" not in (process / "cmdline").read_bytes():
                found.add(int(process.name))
        except OSError:  # it has ended
            continue
    return found


def answers(path: str) -> bool:
    """Whether a request succeeds; it waits in the socket's queue until a worker accepts it."""
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
    started, began = time.time(), time.monotonic()
    done = subprocess.run(["systemctl", "reload", unit], check=False, capture_output=True, text=True)
    error = done.stderr.strip()
    while path and (before & workers(master) or not answers(path)):
        if time.monotonic() - began > LONGEST:
            error = f"not finished after {LONGEST:.0f} s"
            break
        time.sleep(0.2)
    seconds = round(time.monotonic() - began, 3)
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
