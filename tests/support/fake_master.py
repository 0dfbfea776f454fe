"""A minimal server that is handed over like Gunicorn: a master, two workers, HUP, a status file.

Run as `fake_master.py ROOT UNIT` with the listening socket as standard input. It prints how each boot or reload ended.
The release that it boots determines its behaviour and faults: src/behaviour.json. It only uses the standard library, so
that it starts in a few milliseconds.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import signal
import socket
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing takes longer than the rest of the start
    from typing import Any, NoReturn

ROOT, UNIT = pathlib.Path(sys.argv[1]), sys.argv[2]
NAME = "links"
LISTENER = socket.socket(fileno=os.dup(0))
SIGNALS = {signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1}


def text(path: pathlib.Path) -> str:
    return path.read_text() if path.is_file() else ""


def current() -> str:
    return os.path.basename(os.readlink(ROOT / "opt" / NAME / "current"))


def behaviour(release: str) -> dict[str, Any]:
    wanted = json.loads(text(ROOT / "opt" / NAME / "releases" / release / "src/behaviour.json") or "{}")
    return {**wanted, **wanted.get(UNIT, {})}


def next_status(statuses: list[int]) -> int:
    """The next one, counted over all workers; after the end the last one again."""
    with (ROOT / "turns").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        turn = len(file.read())
        file.write(".")
    return statuses[min(turn, len(statuses) - 1)]


def work(release: str, wanted: dict[str, Any]) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    events = os.open(ROOT / "events", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    while True:
        connection, _ = LISTENER.accept()
        with connection, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                head += connection.recv(4096) or b"\r\n\r\n"
            path = head.split()[1].decode()
            status = 200
            if path == "/health":
                os.write(events, f"ask {UNIT} {release}\n".encode())
                (ROOT / "head").write_text(head.decode())
                status = next_status(wanted.get("statuses", [200]))
            body = json.dumps({**SEEN, "release": release}).encode()
            connection.sendall(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)


def spawn(release: str, wanted: dict[str, Any]) -> list[int]:
    workers = []
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            work(release, wanted)
        workers.append(pid)
    return workers


def end(workers: list[int]) -> None:
    for pid in workers:
        os.kill(pid, signal.SIGTERM)
    for pid in workers:
        os.waitpid(pid, 0)


def write_status(release: str, workers: list[int], how: str, **more: Any) -> None:
    """Write the master's status, or that of a faulty master."""
    python = ROOT / "usr/bin/python3"
    status: dict[str, Any] = {
        "master": {"pid": os.getpid() + (how == "another master")},
        "workers_wanted": 3 if how == "too few" else 2,
        "workers": [
            {"pid": pid, "state": "booting" if how == "booting" and at else "ready", "release": release}
            for at, pid in enumerate(workers)
        ],
        "fingerprint": {
            "python": {
                "executable": str(python),
                "executable_sha256": hashlib.sha256(python.read_bytes()).hexdigest(),
            },
            "files": {},
        },
        **more,
    }
    if how == "another release":
        status["workers"][-1]["release"] = "0000"
    if how == "dead worker":
        dead = os.fork()
        if dead == 0:
            os._exit(0)
        os.waitpid(dead, 0)
        status["workers"][-1]["pid"] = dead
    path = ROOT / "run/baton" / NAME / ("bridge.json" if "-bridge" in UNIT else "handover.json")
    if how == "silent":
        return
    if how == "none":
        path.unlink(missing_ok=True)
        return
    scratch = path.with_suffix(".new")
    scratch.write_text(json.dumps(status))
    scratch.rename(path)


def say(line: str) -> None:
    print(line, flush=True)


def configured() -> dict[str, str]:
    """The settings that a HUP applies."""
    etc = ROOT / "etc" / NAME
    return {"environment": text(etc / "environment"), "conf": text(etc / "gunicorn.conf.py")}


signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
# applied only by a start: the unit as systemd has loaded it, and secrets
SEEN = {"unit": os.environ["UNIT_TEXT"], "secret": text(ROOT / "etc" / NAME / "secrets/TOKEN"), "by": UNIT}
serving = current()
wanted = behaviour(serving)
if wanted.get("boot") == "fails":
    say("ImportError: no module named missing")
    sys.exit(1)
SEEN.update(configured())
workers = spawn(serving, wanted)
write_status(serving, workers, wanted.get("status", ""))
say("ready")
while True:
    number = signal.sigwait(SIGNALS)
    if number == signal.SIGTERM:
        end(workers)
        sys.exit(0)
    if number == signal.SIGUSR1:
        write_status(serving, workers, "")
        say("written")
        continue
    began = time.monotonic()
    release = current()
    new = behaviour(release)
    if new.get("boot") == "fails":
        reload = {"outcome": "failed", "error": "the worker could not import missing", "began_monotonic": began}
        write_status(serving, workers, "", reload=reload)
        say("the reload failed")
        continue
    serving, wanted = release, new
    SEEN.update(configured())
    old, workers = workers, spawn(serving, wanted)
    end(old)
    write_status(serving, workers, wanted.get("status", ""))
    say("ready")
