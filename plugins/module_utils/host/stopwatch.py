"""Measure the durations of steps."""

from __future__ import annotations

import time


class Stopwatch:
    """The durations of steps in seconds, by name, in order."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def mark(self, name: str) -> None:
        """End a step; the next one begins now."""
        now = time.monotonic()
        self.seconds[name] = round(now - self._last, 3)
        self._last = now
