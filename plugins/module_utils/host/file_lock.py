"""Wait for a file lock."""

from __future__ import annotations

import contextlib
import fcntl
import time
from typing import IO

PAUSE = 0.2  # seconds between two tries


def taken_within(file: IO[str], seconds: float) -> bool:
    """Lock an open file for this process and its forks. Returns whether that was possible within `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(PAUSE)
