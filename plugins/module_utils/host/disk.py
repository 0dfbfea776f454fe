"""How much may be written to a disk, as what is unpacked on it may be far larger than it was sent."""

from __future__ import annotations

import os
from pathlib import Path

# what stays free on a disk that we write to: a full one breaks more than a deploy
RESERVE_BYTES = 100 * 2**20
# bytes and files that one archive or commit may unpack to
LARGEST, MOST_FILES = 2**33, 2**18


class TooLargeError(ValueError):
    """Something would take more than it may. The message says how much that is, to be read after its name."""


def room(folder: Path) -> int:
    """Bytes that may be written to the disk of a folder; negative where less than the reserve is free."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize - RESERVE_BYTES


class Allowance:
    """What may be unpacked into a folder, to be taken file by file before the first is written."""

    def __init__(self, folder: Path) -> None:
        self._most = max(0, min(LARGEST, room(folder)))
        self._left, self._files = self._most, MOST_FILES

    def take(self, size: int) -> None:
        """Count a file of so many bytes. Raises TooLargeError."""
        self._left -= max(0, size)  # of a damaged archive it may be less
        self._files -= 1
        if self._left < 0:
            raise TooLargeError(f"has more than the {self._most >> 20} MiB that there is room for")
        if self._files < 0:
            raise TooLargeError(f"has more than {MOST_FILES} files")
