"""A page of memory shared by a worker and its master. It is cheaper than a pipe, and outlives the worker."""

from __future__ import annotations

import enum
import mmap
import struct

SIZE = 4096
_STATE, _ADMITTED, _REPLACE, _DRAIN, _PRIVATE, _LENGTH, _HEARTBEAT, _TEXT = 0, 1, 2, 3, 4, 5, 8, 16
_SECONDS = struct.Struct("d")


class State(enum.IntEnum):
    """A worker's states, in order."""

    BOOTING = 0
    """Importing the application or running its lifespan startup."""
    WARMING = 1
    """Started up; sends warm-up requests to its own application."""
    STANDBY = 2
    """Waits for the master's permission to accept connections."""
    READY = 3
    """Accepts connections."""
    DRAINING = 4
    """Accepts no more connections; finishes those that it has."""

    @classmethod
    def _missing_(cls, value: object) -> State:  # noqa: ARG003
        """A native extension can write anything into the page; the master must survive it."""
        return cls.DRAINING


class DrainReason(enum.IntEnum):
    """Why the master tells a worker to drain."""

    NONE = 0
    REPLACED = 1
    """Other workers serve."""
    STOP = 2
    """The service stops. No worker serves, so this one may exit at normal priority."""

    @classmethod
    def _missing_(cls, value: object) -> DrainReason:  # noqa: ARG003
        return cls.REPLACED


class Board:
    """One page, created by the master before the fork. Each field has a single writer, or is only ever set."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, SIZE)

    @property
    def state(self) -> State:
        """The worker's state. Written by the worker."""
        return State(self._page[_STATE])

    @state.setter
    def state(self, state: State) -> None:
        self._page[_STATE] = state

    @property
    def admitted(self) -> bool:
        """Whether the worker may change from STANDBY to READY. Written by the master."""
        return self._page[_ADMITTED] == 1

    def admit(self) -> None:
        """Lets the worker accept connections."""
        self._page[_ADMITTED] = 1

    @property
    def drain_reason(self) -> DrainReason:
        """Why the worker is to drain, even if the signal was lost; NONE while it serves. Written by the master."""
        return DrainReason(self._page[_DRAIN])

    @property
    def service_stops(self) -> bool:
        """Whether the worker is to drain because the service stops."""
        return self.drain_reason is DrainReason.STOP

    def request_drain(self, reason: DrainReason) -> None:
        """Tells the worker to drain and exit."""
        self._page[_DRAIN] = reason

    @property
    def private_sockets(self) -> bool:
        """Whether the listening sockets, with their queued connections, are closed when the service ends. Written by
        the master."""
        return self._page[_PRIVATE] == 1

    def set_private_sockets(self) -> None:
        """Records that no service manager holds the sockets."""
        self._page[_PRIVATE] = 1

    @property
    def to_be_replaced(self) -> bool:
        """Whether the worker is to be replaced once a new one is ready: it has served its `max_requests`, or a failed
        reload left it behind."""
        return self._page[_REPLACE] == 1

    def request_replacement(self) -> None:
        """Asks the master to replace the worker."""
        self._page[_REPLACE] = 1

    @property
    def last_heartbeat(self) -> float:
        """When the worker's event loop last ran, in monotonic seconds. Written by the worker, and by the master for a
        worker that sends no heartbeats."""
        return float(_SECONDS.unpack_from(self._page, _HEARTBEAT)[0])

    @last_heartbeat.setter
    def last_heartbeat(self, moment: float) -> None:
        # in one piece: pack_into first writes zeros, for which the master would kill the worker
        self._page[_HEARTBEAT : _HEARTBEAT + _SECONDS.size] = _SECONDS.pack(moment)

    @property
    def failure(self) -> str:
        """Why the worker failed to boot, in one line; empty if unknown. Written by the worker or the master."""
        length = int.from_bytes(self._page[_LENGTH : _LENGTH + 2], "little")
        return self._page[_TEXT : _TEXT + length].decode(errors="ignore")

    def record_failure(self, failure: str) -> None:
        """Records why the boot failed. Only the first reason is kept: later ones are consequences of it."""
        if self.failure:
            return
        text = " ".join(failure.split()).encode(errors="backslashreplace")[: SIZE - _TEXT]
        self._page[_TEXT : _TEXT + len(text)] = text
        self._page[_LENGTH : _LENGTH + 2] = len(text).to_bytes(2, "little")

    def close(self) -> None:
        """Frees the page."""
        self._page.close()


def describe(error: BaseException) -> str:
    """An error as one line."""
    if isinstance(error, SystemExit):
        return f"the application called sys.exit({error.code!r}) while it started"
    detail = " ".join(str(error).split())
    return f"{type(error).__name__}: {detail}" if detail else type(error).__name__
