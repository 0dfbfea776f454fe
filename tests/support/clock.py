"""A clock that moves when somebody sleeps: code that waits is as quick, and as exact, on a machine of any speed."""

from __future__ import annotations

from collections.abc import Callable


class Clock:
    """Stands for the module `time` in the code that is tested."""

    def __init__(self, at_pause: Callable[[], object] = lambda: None, now: float = 1_764_072_000.0) -> None:
        """`at_pause` is called in each pause, before its time is over."""
        self.now = now
        self.pauses: list[float] = []
        self.at_pause = at_pause

    def time(self) -> float:
        """Seconds."""
        return self.now

    monotonic = time

    def sleep(self, seconds: float) -> None:
        """Let so many seconds go by."""
        self.pauses.append(seconds)
        self.at_pause()
        self.now += seconds
