"""handover.json, the master's status. The README documents the schema."""

from __future__ import annotations

import contextlib
import json
import os
import platform
from typing import Any

from gunicorn_handover import __version__

PATH_VARIABLE = "GUNICORN_HANDOVER_STATUS"  # names the file
SCHEMA = 1


class StatusError(RuntimeError):
    """The status can't be read. The message names the file and the fix."""


class StatusFile:
    """The file, which the master writes atomically, and only when its content changes."""

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
        """Removes the file, unless another master has replaced it."""
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
        raise StatusError(f"{path} does not exist. Start the service, or check handover_status_file.") from None
    except OSError as error:
        raise StatusError(f"{path} can't be read: {error.strerror}. Run this as a user who may read it.") from None
    except ValueError as error:
        raise StatusError(f"{path} is not valid JSON: {error}. Restart the service that writes it.") from None
    if not isinstance(status, dict) or status.get("schema") != SCHEMA:
        raise StatusError(f"{path} doesn't have schema {SCHEMA}. Use the gunicorn_handover that the service runs.")
    return status


def versions() -> dict[str, str]:
    """The value of the key `versions`."""
    from gunicorn_handover import internals  # not at the top: the command `status` doesn't need its imports

    found = internals.versions()
    return {
        "python": platform.python_version(),
        "gunicorn": found["gunicorn"],
        "uvicorn": found["uvicorn"],
        "uvicorn_worker": found["uvicorn-worker"],
        "gunicorn_handover": __version__,
    }


def start_ticks(pid: int) -> int | None:
    """The start time of the process in clock ticks since boot (proc(5)); None if it doesn't run. Together with the pid
    it identifies a process uniquely."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    # a zombie has exited
    return None if fields[0] in "ZX" else int(fields[19])


def is_alive(status: dict[str, Any]) -> bool:
    """Whether the master that wrote `status` is still running."""
    master = status["master"]
    return bool(start_ticks(master["pid"]) == master["start_ticks"])


def rss_bytes(pid: int) -> int | None:
    """The resident memory of a process, including shared pages; None if it doesn't run."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def release_id(path: str | None) -> str | None:
    """The `id` in the release file at `path`; None if it can't be read."""
    if not path:
        return None
    try:
        with open(path, encoding="utf-8") as file:
            return str(json.load(file)["id"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
