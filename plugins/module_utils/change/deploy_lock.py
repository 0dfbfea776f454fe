"""The deploy lock of an application on one host: one change of the fleet at a time, and a word on who is at it.

The lock is a file with its holder. It expires when its holder shows no sign of life for so long; the steps of a change
extend it. A holder that died on the controller from which one now asks is known to be dead at once (see `run`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any

from ..app.layout import Application
from ..host import untrusted
from ..host.command import make_folder, sync_folder

# what to do where a change has ended and its lock has not
LEFT = "The next change from this controller takes the lock over; for another controller run playbooks/unlock.yml here."
# a Run, as modules take it
RUN_OPTIONS: dict[str, dict[str, Any]] = {
    "token": {"type": "str", "required": True, "no_log": False},
    "who": {"type": "str", "required": True},
    "process": {"type": "str", "default": ""},
}


class LockedError(Exception):
    """Somebody else is at it, or may have been. The message says who, since when, and what to do."""

    def __init__(self, holder: Holder | None, message: str) -> None:
        self.holder = holder
        super().__init__(message)


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of a playbook that wants the lock."""

    token: str
    who: str  # user@controller
    process: str  # `run.identity` of it


@dataclasses.dataclass(frozen=True)
class Holder:
    """Who changes the application. Times are in seconds since the epoch, by this host's clock."""

    token: str
    who: str
    process: str
    reason: str
    since: float
    expires: float
    seconds: float  # that a sign of life is good for

    def words(self) -> str:
        """For people."""
        return f"{self.who} since {clock(self.since)} ({self.reason})"

    def is_dead(self, dead: str, now: float) -> bool:
        """Whether it shows no sign of life, or is the one that is known to be dead by its token."""
        return self.expires <= now or self.token == dead


def clock(moment: float) -> str:
    """A time for people, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(moment))


def read(app: Application) -> Holder | None:
    """Who holds the lock; None when nobody does, or its file makes no sense."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        said: dict[str, Any] = untrusted.parse_object(untrusted.read(_path(app)))
        texts = {key: untrusted.text(said.pop(key)) for key in ("token", "who", "process", "reason")}
        return Holder(**texts, **{key: untrusted.moment(one) for key, one in said.items()})  # type: ignore[arg-type]
    return None


def take(app: Application, run: Run, reason: str, seconds: float, dead: str = "") -> Holder | None:
    """Take the lock, or extend one's own; it expires `seconds` from now. `dead`: token of a holder known to be dead.

    Returns the holder from whom it was taken over because it was dead, if any. Raises LockedError.
    """
    make_folder(app.state)
    with _alone(app):
        now, holder = time.time(), read(app)
        own = holder is not None and holder.token == run.token
        if holder is not None and not own and not holder.is_dead(dead, now):
            raise LockedError(
                holder,
                f"{app.name} is being changed by {holder.words()}. "
                "Wait for it (-e deploy_lock_wait=600 does). If that run is dead, its lock expires "
                f"{clock(holder.expires)}; when you know that it is, playbooks/unlock.yml -e unlock_force=true "
                "removes it now.",
            )
        since = holder.since if holder is not None and own else now
        _write(app, Holder(run.token, run.who, run.process, reason, since, now + seconds, seconds))
        return None if own else holder


def extend(app: Application, token: str, *, needed: bool = True) -> None:
    """Show a sign of life. Raises LockedError when the lock is another's by now, or, where it is `needed`, nobody's:
    then another run may have had it meanwhile, and ended.

    A disk that takes no sign of life is no reason to stop.
    """
    with contextlib.suppress(OSError), _alone(app):
        holder = read(app)
        if holder is not None and holder.token != token:
            raise LockedError(
                holder,
                f"This run has lost its lock: {app.name} is being changed by {holder.words()}. "
                "Nothing more is done here; see what that run ends with (playbooks/status.yml).",
            )
        if holder is None and needed:
            raise LockedError(
                None,
                f"This run has lost its lock on {app.name}: it expired or was removed, and another run may have been "
                "here since. Nothing more is done here; see playbooks/history.yml, then run this again.",
            )
        if holder is not None:
            _write(app, dataclasses.replace(holder, expires=max(holder.expires, time.time() + holder.seconds)))


def release(app: Application, token: str) -> bool:
    """Give one's own lock back; says whether there was one."""
    if not _path(app).exists():
        return False
    with _alone(app):
        holder = read(app)
        if holder is None or holder.token != token:
            return False
        _path(app).unlink()
        return True


def remove(app: Application, *, force: bool, dead: str = "") -> Holder | None:
    """Remove anybody's lock; returns its holder. Raises LockedError for one that may be alive, unless forced."""
    if not _path(app).exists():
        return None
    with _alone(app):
        holder = read(app)
        if holder is not None and not force and not holder.is_dead(dead, time.time()):
            raise LockedError(
                holder,
                f"{app.name} is being changed by {holder.words()}, and that run may be alive: its lock expires "
                f"{clock(holder.expires)}. When you know that it is dead: -e unlock_force=true",
            )
        _path(app).unlink(missing_ok=True)
        return holder


def as_dict(holder: Holder | None) -> dict[str, Any] | None:
    """For a module's result: its fields, and `words`."""
    return None if holder is None else {**dataclasses.asdict(holder), "words": holder.words()}


def _path(app: Application) -> pathlib.Path:
    return app.state / "lock.json"


@contextlib.contextmanager
def _alone(app: Application) -> Iterator[None]:
    with (app.state / "lock.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write(app: Application, holder: Holder) -> None:
    scratch = _path(app).with_suffix(".new")
    with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(json.dumps(dataclasses.asdict(holder), indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(_path(app))
    sync_folder(app.state)
