"""The deploy lock of an application on one host: one change of the fleet at a time, and a word on who is at it.

The lock is a file with its holder. It expires when its holder shows no sign of life for so long; the steps of a change
extend it. A holder that died on the controller from which one now asks is known to be dead at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

from .activation import Application

POLL = 1.0  # seconds between two looks while waiting


class LockedError(Exception):
    """Somebody else is at it. The message says who, since when, and what to do."""


@dataclasses.dataclass(frozen=True)
class Holder:
    """Who changes the application. Times are in seconds since the epoch, by this host's clock."""

    token: str
    who: str  # user@controller
    reason: str
    controller: str  # the same for all runs of a user on a controller
    since: float
    expires: float

    def words(self) -> str:
        """For people."""
        return f"{self.who} since {clock(self.since)} ({self.reason})"


@dataclasses.dataclass(frozen=True)
class Asker:
    """Who wants the lock, and which runs on the same controller are known to live."""

    token: str
    who: str
    reason: str
    controller: str
    living: Sequence[str]
    living_age: float  # seconds ago that `living` was found out

    def knows_dead(self, holder: Holder, now: float) -> bool:
        """Whether a holder was a run on this controller that has ended."""
        return (
            holder.controller == self.controller
            and holder.token not in self.living
            and holder.since < now - self.living_age
        )


def clock(moment: float) -> str:
    """A time for people, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(moment))


def read(app: Application) -> Holder | None:
    """Who holds the lock; None when nobody does, or its file makes no sense."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return Holder(**json.loads(_path(app).read_text(encoding="utf-8")))
    return None


def take(app: Application, asker: Asker, seconds: float, wait: float = 0) -> Holder | None:
    """Take the lock, or extend one's own; it expires `seconds` from now. Waits up to `wait` seconds for others.

    Returns the holder who was dead or expired and from whom it was taken over, if any. Raises LockedError.
    """
    deadline = time.monotonic() + wait
    while True:
        with _alone(app):
            now, holder = time.time(), read(app)
            own = holder is not None and holder.token == asker.token
            gone = holder is not None and (holder.expires <= now or asker.knows_dead(holder, now))
            if holder is None or own or gone:
                since = holder.since if holder is not None and own else now
                _write(app, Holder(asker.token, asker.who, asker.reason, asker.controller, since, now + seconds))
                return holder if gone and not own else None
        if time.monotonic() >= deadline:
            raise LockedError(
                f"{app.name} is being changed by {holder.words()}. "
                f"Wait for it (-e deploy_lock_wait=600 does), or, if that run is dead, until {clock(holder.expires)}, "
                "or run playbooks/unlock.yml."
            )
        time.sleep(POLL)


def extend(app: Application, token: str, seconds: float = 900) -> None:
    """Show a sign of life: the lock, if it is one's own, expires `seconds` from now at the earliest."""
    with contextlib.suppress(OSError), _alone(app):
        holder = read(app)
        if holder is not None and holder.token == token:
            _write(app, dataclasses.replace(holder, expires=max(holder.expires, time.time() + seconds)))


def release(app: Application, token: str) -> bool:
    """Give one's own lock back; says whether there was one."""
    with _alone(app):
        holder = read(app)
        if holder is None or holder.token != token:
            return False
        _path(app).unlink()
        return True


def remove(app: Application, *, force: bool) -> Holder | None:
    """Remove anybody's lock; returns its holder. Raises LockedError for one that isn't expired, unless forced."""
    with _alone(app):
        holder = read(app)
        if holder is not None and not force and holder.expires > time.time():
            raise LockedError(
                f"{app.name} is being changed by {holder.words()}, and that run may be alive: its lock expires "
                f"{clock(holder.expires)}. When you know that it is dead: -e unlock_force=true"
            )
        _path(app).unlink(missing_ok=True)
        return holder


def as_dict(holder: Holder | None) -> dict[str, Any] | None:
    """For a module's result."""
    return None if holder is None else dataclasses.asdict(holder)


def _path(app: Application) -> Any:
    return app.state / "lock.json"


@contextlib.contextmanager
def _alone(app: Application) -> Iterator[None]:
    app.state.mkdir(parents=True, exist_ok=True)
    with (app.state / "lock.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write(app: Application, holder: Holder) -> None:
    scratch = _path(app).with_suffix(".new")
    scratch.write_text(json.dumps(dataclasses.asdict(holder), indent=1) + "\n", encoding="utf-8")
    os.replace(scratch, _path(app))
