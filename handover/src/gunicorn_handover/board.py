"""What a worker tells its master, in memory that the two share: cheaper than a pipe, and it outlives the worker."""

from __future__ import annotations

import enum
import mmap

SIZE = 4096
_STATE, _ADMITTED, _WORN, _DISMISSED, _PRIVATE, _LENGTH, _TEXT = 0, 1, 2, 3, 4, 5, 7


class State(enum.IntEnum):
    """A worker's life, in order."""

    BOOTING = 0
    """Importing the application or running its lifespan startup."""
    WARMING = 1
    """Started up; makes requests to its own application."""
    STANDBY = 2
    """Waits for the master's word before it accepts a connection."""
    READY = 3
    """Accepts connections."""
    DRAINING = 4
    """Accepts none any more; finishes what it has."""


class Dismissal(enum.IntEnum):
    """The master's word to drain and go."""

    NONE = 0
    REPLACED = 1
    """Others serve on."""
    STOP = 2
    """The service stops: no other worker serves on, so this one's exit need not be slowed."""


class Board:
    """One page, made by the master before the fork. Each field has a single writer, or is only ever set."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, SIZE)

    @property
    def state(self) -> State:
        """Where the worker is. Written by the worker."""
        return State(self._page[_STATE])

    @state.setter
    def state(self, state: State) -> None:
        self._page[_STATE] = state

    @property
    def admitted(self) -> bool:
        """Whether the worker may go on from STANDBY to READY. Written by the master."""
        return self._page[_ADMITTED] == 1

    def admit(self) -> None:
        """Lets the worker accept connections."""
        self._page[_ADMITTED] = 1

    @property
    def dismissed(self) -> Dismissal:
        """Whether the worker is to drain and go, whatever became of the signal that says so. Written by the master."""
        return Dismissal(self._page[_DISMISSED])

    @property
    def stops(self) -> bool:
        """Whether that is because the service ends."""
        return self.dismissed is Dismissal.STOP

    def dismiss(self, word: Dismissal) -> None:
        """Tells the worker to drain and go."""
        self._page[_DISMISSED] = word

    @property
    def private(self) -> bool:
        """Whether the sockets end with the service, and with them what waits to be accepted. Written by the master."""
        return self._page[_PRIVATE] == 1

    def own_sockets(self) -> None:
        """Says that no service manager keeps the sockets."""
        self._page[_PRIVATE] = 1

    @property
    def worn(self) -> bool:
        """Whether the worker is to go when it has a successor: it has had its `max_requests` and says so, or the master
        says so of one that a failed reload leaves."""
        return self._page[_WORN] == 1

    def wear_out(self) -> None:
        """Asks the master for a successor."""
        self._page[_WORN] = 1

    @property
    def failure(self) -> str:
        """Why the worker could not boot, in one line; empty when it did not say. Written by the worker."""
        length = int.from_bytes(self._page[_LENGTH:_TEXT], "little")
        return self._page[_TEXT : _TEXT + length].decode(errors="replace")

    def explain(self, failure: str) -> None:
        """Leaves the reason of a failed boot. The first one stays: what follows it is its consequence."""
        if self.failure:
            return
        text = " ".join(failure.split()).encode()[: SIZE - _TEXT]
        self._page[_TEXT : _TEXT + len(text)] = text
        self._page[_LENGTH:_TEXT] = len(text).to_bytes(2, "little")

    def close(self) -> None:
        """Gives the page back."""
        self._page.close()
