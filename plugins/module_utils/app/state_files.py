"""Create missing files in an application's state folder. Runs on hosts.

The application owns the folder, so this runs as its user: root would follow the application's links.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pwd
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ..host import atomic_file, untrusted

# seconds for the work as the application's user, who can stop its own processes
LIMIT = 300.0


class StateFilesError(Exception):
    """A file can't be created. The message says which and why."""


@dataclasses.dataclass(frozen=True)
class StateFile:
    """A file that must exist before the application starts."""

    path: str  # below the state folder
    content: bytes
    mode: int = 0o640


def apply(folder: Path, user: str, wanted: Sequence[StateFile], *, dry: bool) -> list[str]:
    """Create the missing files with their folders. Returns their paths. Raises StateFilesError."""
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        if dry:
            return [str(folder / item.path) for item in wanted]
        raise StateFilesError(f"the user {user} doesn't exist") from None
    made: list[str] = _as_user(account, lambda: [path for item in wanted if (path := _put(folder, item, dry))])
    return made


def _put(folder: Path, item: StateFile, dry: bool) -> str:
    """Create a file. Returns its path, also in a dry run; empty if the path already exists."""
    path = folder / item.path
    parts = PurePosixPath(item.path).parts
    if not parts or ".." in parts or PurePosixPath(item.path).is_absolute():
        raise StateFilesError(f"{item.path!r} leads out of {folder}")
    if os.path.lexists(path):
        return ""
    if dry:
        return str(path)
    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.baton")
    scratch.unlink(missing_ok=True)
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(item.content)
        os.fchmod(file.fileno(), item.mode)
        file.flush()
        os.fsync(file.fileno())
    scratch.rename(path)
    atomic_file.sync_folder(path.parent)
    return str(path)


def _as_user(account: pwd.struct_passwd, work: Callable[[], list[str]]) -> list[str]:
    """Do the work in a child process that drops its privileges to the user. Returns its result."""
    if os.geteuid() == account.pw_uid:
        return _with_paths(work)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        result: dict[str, Any] = {"failure": "it ended without a message"}
        try:
            os.setgroups([])
            os.setgid(account.pw_gid)
            os.setuid(account.pw_uid)
            os.umask(0o027)
            result = {"made": _with_paths(work)}
        except (StateFilesError, OSError) as error:
            result = {"failure": str(error)}
        finally:
            with os.fdopen(writing, "w") as pipe:
                pipe.write(json.dumps(result))
            os._exit(0)
    os.close(writing)
    limit = threading.Timer(LIMIT, os.kill, (child, signal.SIGKILL))
    limit.start()
    try:
        with os.fdopen(reading) as pipe:
            outcome = untrusted.parse_object(pipe.read(untrusted.SIZE) or '{"failure": "it ended without a message"}')
        os.waitpid(child, 0)
    finally:
        limit.cancel()
    if "failure" in outcome:
        raise StateFilesError(untrusted.text(outcome["failure"]))
    return untrusted.texts(outcome["made"])


def _with_paths(work: Callable[[], list[str]]) -> list[str]:
    """Do the work; convert OSError to a StateFilesError that names the path."""
    try:
        return work()
    except OSError as error:
        raise StateFilesError(f"{error.filename}: {error.strerror}") from None
