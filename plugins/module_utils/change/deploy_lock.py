"""The deploy lock of an application on one host: one fleet-wide change at a time, and who makes it.

The lock is a file that names its holder. It expires unless the steps of the change extend it. A run on the holder's
controller sees immediately if the holder is dead (see `controller.run`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import time
from typing import Any

from ..app.layout import Application
from ..host import atomic_file, file_lock, untrusted
from ..host.command import make_folder
from .table import utc

# the fix if a change ended but its lock remains
STALE_LOCK_REMEDY = (
    "The next change from this controller replaces the lock; for changes from other controllers, run "
    "playbooks/unlock.yml here."
)
# module options that describe a Run
RUN_OPTIONS: dict[str, dict[str, Any]] = {
    "token": {"type": "str", "required": True, "no_log": False},
    "who": {"type": "str", "required": True},
    "process": {"type": "str", "default": ""},
}


class LockedError(Exception):
    """Another run holds the lock, or may have held it. The message says who, since when, and what to do."""

    def __init__(self, holder: Holder | None, message: str) -> None:
        self.holder = holder
        super().__init__(message)


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of a playbook that wants the lock."""

    token: str
    who: str  # user@controller
    process: str  # see `controller.run.identity`


@dataclasses.dataclass(frozen=True)
class Holder:
    """Who holds the lock. Times are in seconds since the epoch, by this host's clock."""

    token: str
    who: str
    process: str
    reason: str
    since: float
    expires: float
    seconds: float  # validity of the lock after each extension

    def description(self) -> str:
        """Return who, since when and why, for messages."""
        return f"{self.who} since {utc(self.since)} ({self.reason})"

    def is_dead(self, dead: str, now: float) -> bool:
        """Whether the lock has expired, or its token is that of a run known to be dead."""
        return self.expires <= now or self.token == dead


def read(app: Application) -> Holder | None:
    """Return the holder of the lock; None if there is none or the file is invalid."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        fields: dict[str, Any] = untrusted.parse_object(untrusted.read(_path(app)))
        texts = {key: untrusted.text(fields.pop(key)) for key in ("token", "who", "process", "reason")}
        return Holder(**texts, **{key: untrusted.moment(one) for key, one in fields.items()})  # type: ignore[arg-type]
    return None


def take(app: Application, run: Run, reason: str, seconds: float, dead: str = "") -> Holder | None:
    """Take the lock, or extend it if this run holds it. `dead`: token of a holder that is known to be dead.

    It expires in `seconds`. Returns the dead holder that was replaced, if any. Raises LockedError.
    """
    make_folder(app.state)
    with _exclusive(app):
        now, holder = time.time(), read(app)
        own = holder is not None and holder.token == run.token
        if holder is not None and not own and not holder.is_dead(dead, now):
            raise LockedError(
                holder,
                f"{app.name} is being changed by {holder.description()}. "
                "Wait for that run, for example with -e deploy_lock_wait=600. If it is dead, its lock expires at "
                f"{utc(holder.expires)}; to remove the lock now, run playbooks/unlock.yml -e unlock_force=true.",
            )
        since = holder.since if holder is not None and own else now
        _write(app, Holder(run.token, run.who, run.process, reason, since, now + seconds, seconds))
        return None if own else holder


def extend(app: Application, token: str, *, needed: bool = True) -> None:
    """Extend the lock. Raises LockedError if another run holds it by now, or if it is `needed` and nobody holds it.

    In the latter case another run may have held it in between. An error of the disk is ignored: it is no reason to
    stop the change.
    """
    with contextlib.suppress(OSError), _exclusive(app):
        holder = read(app)
        if holder is not None and holder.token != token:
            raise LockedError(
                holder,
                f"This run has lost its lock: {app.name} is being changed by {holder.description()}. "
                "This run stops here. Wait for the other run, then check its result with playbooks/status.yml.",
            )
        if holder is None and needed:
            raise LockedError(
                None,
                f"This run has lost its lock on {app.name}: it expired or was removed, and another run may have been "
                "here since. This run stops here; check playbooks/history.yml, then run this again.",
            )
        if holder is not None:
            _write(app, dataclasses.replace(holder, expires=max(holder.expires, time.time() + holder.seconds)))


def release(app: Application, token: str) -> bool:
    """Release the lock if this run holds it. Returns whether it did."""
    if not _path(app).exists():
        return False
    with _exclusive(app):
        holder = read(app)
        if holder is None or holder.token != token:
            return False
        _path(app).unlink()
        return True


def remove(app: Application, *, force: bool, dead: str = "") -> Holder | None:
    """Remove the lock, whoever holds it. Returns the holder. Raises LockedError if it may be alive, unless forced."""
    if not _path(app).exists():
        return None
    with _exclusive(app):
        holder = read(app)
        if holder is not None and not force and not holder.is_dead(dead, time.time()):
            raise LockedError(
                holder,
                f"{app.name} is being changed by {holder.description()}, and that run may be alive: its lock expires "
                f"at {utc(holder.expires)}. If you know that it is dead, add -e unlock_force=true.",
            )
        _path(app).unlink(missing_ok=True)
        return holder


def as_dict(holder: Holder | None) -> dict[str, Any] | None:
    """Return a holder for a module's result: its fields and `description`."""
    return None if holder is None else {**dataclasses.asdict(holder), "description": holder.description()}


def _path(app: Application) -> pathlib.Path:
    return app.state / "lock.json"


def _exclusive(app: Application) -> contextlib.AbstractContextManager[None]:
    return file_lock.held(app.state / "lock.lock")


def _write(app: Application, holder: Holder) -> None:
    atomic_file.write(_path(app), json.dumps(dataclasses.asdict(holder), indent=1) + "\n", mode=0o600)
