"""handover.json: what the master says of itself. The README documents the schema."""

from __future__ import annotations

import contextlib
import json
import os
import platform
from typing import Any

from gunicorn_handover import __version__

SCHEMA = 1


class StatusError(RuntimeError):
    """The status can't be had. The message names the file and the fix."""


class StatusFile:
    """Written by the master, atomically, and only when something in it changed."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._last: dict[str, Any] | None = None

    def write(self, status: dict[str, Any]) -> None:
        """Replaces the file. Raises OSError."""
        if self._path is None or status == self._last:
            return
        temporary = f"{self._path}.{os.getpid()}.new"
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                json.dump(status, file, indent=1)
                file.write("\n")
            os.replace(temporary, self._path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        self._last = status

    def remove(self) -> None:
        """Takes the file away, unless another master has replaced it."""
        if self._path is None:
            return
        with contextlib.suppress(OSError, StatusError):
            if read(self._path)["master"]["pid"] == os.getpid():
                os.unlink(self._path)


def read(path: str) -> dict[str, Any]:
    """The status in the file at `path`. Raises StatusError."""
    try:
        with open(path, encoding="utf-8") as file:
            status = json.load(file)
    except FileNotFoundError:
        raise StatusError(f"{path} does not exist. Is the service running, with its status file there?") from None
    except OSError as error:
        raise StatusError(f"{path} can't be read: {error.strerror}. Run this as a user who may read it.") from None
    except ValueError as error:
        raise StatusError(f"{path} is no JSON: {error}. Restart the service that writes it.") from None
    if not isinstance(status, dict) or status.get("schema") != SCHEMA:
        raise StatusError(f"{path} is not of schema {SCHEMA}. Use the gunicorn_handover that the service runs with.")
    return status


def versions() -> dict[str, str]:
    """For the key `versions`."""
    from gunicorn_handover import internals  # whoever only reads the file needs none of what this imports

    found = internals.versions()
    return {
        "python": platform.python_version(),
        "gunicorn": found["gunicorn"],
        "uvicorn": found["uvicorn"],
        "uvicorn_worker": found["uvicorn-worker"],
        "gunicorn_handover": __version__,
    }


def start_ticks(pid: int) -> int | None:
    """When the process began, in clock ticks since boot (proc(5)); None when there is none. With the pid it names a
    process beyond doubt."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    # a zombie has ended
    return None if fields[0] in "ZX" else int(fields[19])


def is_alive(status: dict[str, Any]) -> bool:
    """Whether the master that wrote `status` still runs."""
    master = status["master"]
    return bool(start_ticks(master["pid"]) == master["start_ticks"])


def rss_bytes(pid: int) -> int | None:
    """The resident memory of a process, shared pages included; None when there is none."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def release_id(path: str | None) -> str | None:
    """The `id` in the release file at `path`; None when there is none to be read."""
    if not path:
        return None
    try:
        with open(path, encoding="utf-8") as file:
            return str(json.load(file)["id"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
