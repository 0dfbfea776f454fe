"""Locks of files, which the kernel releases when their holder ends."""

from __future__ import annotations

import contextlib
import fcntl
import pathlib
import time
from collections.abc import Iterator
from typing import IO

PAUSE = 0.2  # seconds between two tries


@contextlib.contextmanager
def held(path: pathlib.Path) -> Iterator[None]:
    """Hold the lock of a file, which is created if it is missing; waits for other processes. Raises OSError."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


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
