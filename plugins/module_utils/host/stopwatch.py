"""Where the time went, for those who want it short."""

from __future__ import annotations

import time


class Stopwatch:
    """The seconds of steps, by their names, in the order in which they ended."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def mark(self, name: str) -> None:
        """Say that a step has ended: the next one begins now."""
        now = time.monotonic()
        self.seconds[name] = round(now - self._last, 3)
        self._last = now
