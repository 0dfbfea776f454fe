#!/usr/bin/python3 -I
"""Reload nginx, and wait until only worker processes of the new configuration accept connections: ExecReload.

`nginx -s reload` only sends a signal. The master process may refuse what `nginx -t` accepts, because only the master
has the shared memory of the previous configuration, and the test ignores ports that another program holds. It then logs
why, and goes on with the previous configuration.
"""

from __future__ import annotations

import os
import pathlib
import signal
import sys
import time

PID_FILE = pathlib.Path("/run/nginx.pid")
LOG = pathlib.Path("/var/log/nginx/error.log")
PROCESSES = pathlib.Path("/proc")
# less than the callers and systemd wait
SECONDS = 30.0
# of the log's new part: worker processes may write to it as well
MOST = 2**20
# nginx tries five times to listen, and then logs "still could not bind()"
RETRIED = "(98: "
ADVICE = (
    (
        "previously",
        "A running nginx can't change that. Give the zone another name, or run `systemctl restart nginx` in a "
        "maintenance window: it starts with the new configuration.",
    ),
    (
        RETRIED,
        "Another program listens there (`ss -ltnp` shows it). Stop that program, or choose another port. Until then, "
        "don't restart nginx: it wouldn't start.",
    ),
    ("", "Correct the configuration; until then, don't restart nginx."),
)


class ReloadError(Exception):
    """nginx doesn't serve with the new configuration."""


def reload() -> None:
    """Reload nginx. Raises ReloadError."""
    deadline = time.monotonic() + SECONDS
    try:
        master = int(PID_FILE.read_text())
        # none yet if nginx has just been started
        while not (before := accepting(master)) and time.monotonic() < deadline:
            time.sleep(0.02)
        offset = LOG.stat().st_size if LOG.exists() else 0
        os.kill(master, signal.SIGHUP)
    except (OSError, ValueError) as error:
        raise ReloadError(f"nginx doesn't run as {PID_FILE} says: {error}") from error
    while not (now := accepting(master)) or now & before:
        if cause := refusal(master, offset):
            advice = next(words for part, words in ADVICE if part in cause)
            raise ReloadError(f"nginx refuses the new configuration and serves the previous one: {cause}. {advice}")
        if time.monotonic() > deadline:
            raise ReloadError(
                f"nginx's previous worker processes still accept connections {SECONDS:.0f} s after the reload. {LOG} "
                "may show why."
            )
        time.sleep(0.02)


def accepting(master: int) -> set[int]:
    """Return the master's worker processes, except those that are shutting down, which may take hours."""
    found = set()
    for process in PROCESSES.glob("[0-9]*"):
        try:
            # after the name, which may contain anything: state, parent
            parent = int((process / "stat").read_bytes().rpartition(b")")[2].split()[1])
            title = (process / "cmdline").read_bytes() if parent == master else b""
        except OSError:
            continue  # it has ended
        if title.startswith(b"nginx: worker process") and b"shutting down" not in title:
            found.add(int(process.name))
    return found


def refusal(master: int, offset: int) -> str:
    """Return why the master refused the configuration, from its log since `offset`; empty if it didn't, or tries on."""
    try:
        with LOG.open("rb") as log:
            # a smaller file is a new one, after a rotation
            log.seek(offset if os.fstat(log.fileno()).st_size >= offset else 0)
            lines = log.read(MOST).decode(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    causes = [line.partition(": ")[2] for line in lines if f" [emerg] {master}#" in line]
    return "; ".join(dict.fromkeys(causes)) if any(RETRIED not in cause for cause in causes) else ""


def main() -> int:
    """Reload nginx; return the exit status."""
    try:
        reload()
    except ReloadError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
