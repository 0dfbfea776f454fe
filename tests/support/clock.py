"""A clock that only `sleep` advances, so that tests of waiting code don't depend on the machine's speed."""

from __future__ import annotations

from collections.abc import Callable


class Clock:
    """Replaces the module `time` in the code under test."""

    def __init__(self, at_pause: Callable[[], object] = lambda: None, now: float = 1_764_072_000.0) -> None:
        """`at_pause` is called in each pause, before the clock advances. `now`: Unix time."""
        self.now = now
        self.pauses: list[float] = []
        self.at_pause = at_pause

    def time(self) -> float:
        """The current time, in seconds."""
        return self.now

    monotonic = time

    def sleep(self, seconds: float) -> None:
        """Advance the clock."""
        self.pauses.append(seconds)
        self.at_pause()
        self.now += seconds


class SteppingClock(Clock):
    """A clock whose wall time jumps by a day back and forth, as corrections by NTP do; `monotonic` only advances."""

    step = 86400.0

    def time(self) -> float:
        """The wall time, which differs by two steps from that of the last call."""
        self.step = -self.step
        return self.now + self.step

    def monotonic(self) -> float:
        """The time since an unspecified moment, in seconds."""
        return self.now
