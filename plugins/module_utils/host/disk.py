"""Space on a disk, and limits for unpacking: an archive may be far larger unpacked than packed."""

from __future__ import annotations

import os
from pathlib import Path

# disk space that stays free: a full disk breaks more than a deploy
RESERVE_BYTES = 100 * 2**20
# limits of one archive or commit, unpacked: bytes and files
LARGEST, MOST_FILES = 2**33, 2**18


class TooLargeError(ValueError):
    """An archive or commit exceeds a limit. The message states the limit, and follows the name of the archive."""


def existing(path: Path) -> Path:
    """Return the path or its nearest existing parent, which is on the file system where it would be created."""
    while not path.exists():
        path = path.parent
    return path


def room(folder: Path) -> int:
    """Return the bytes that may be written to the disk of a folder; negative if less than the reserve is free."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize - RESERVE_BYTES


class Allowance:
    """Budget for unpacking into a folder, from which each file is taken before it is written."""

    def __init__(self, folder: Path) -> None:
        self._most = max(0, min(LARGEST, room(folder)))
        self._left, self._files = self._most, MOST_FILES

    def take(self, size: int) -> None:
        """Count a file of `size` bytes. Raises TooLargeError."""
        self._left -= max(0, size)  # a damaged archive may declare a negative size
        self._files -= 1
        if self._left < 0:
            raise TooLargeError(f"has more than the {self._most >> 20} MiB that there is room for")
        if self._files < 0:
            raise TooLargeError(f"has more than {MOST_FILES} files")
