"""Check an untrusted archive for members that would be unpacked outside of its folder, by path or through a link, and
for its size.

Debian 12's tarfile has no filters, and those of newer versions refuse links to an application's state folder.
"""

from __future__ import annotations

import contextlib
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from . import disk

HEADER_BYTES = 2**20  # limit of one member's header: its names and its sparse map


class TarCheck:
    """Checks an archive's members in order, before any of them is unpacked.

    A symlink may point anywhere, but no member's path may lead through one.
    """

    def __init__(self) -> None:
        self._files: set[PurePosixPath] = set()
        self._links: set[PurePosixPath] = set()

    def why_not(self, member: tarfile.TarInfo) -> str:
        """Return why a member must not be unpacked, to follow the archive's name in a message; empty if it may."""
        if not (member.isfile() or member.isdir() or member.issym() or member.islnk()):
            return f"has {member.name}, which is a special file"
        path, target = PurePosixPath(member.name), PurePosixPath(member.linkname)
        if self._leads_out(path):
            return f"has a path that leads out of it: {member.name}"
        # a hard link to a file outside of the archive would expose that file, and one to a symlink is a symlink
        if member.islnk() and (self._leads_out(target) or target not in self._files):
            return f"has a path that leads out of it: {member.name} -> {member.linkname}"
        if member.issym():
            self._files.discard(path)
            self._links.add(path)
        elif not member.isdir():
            self._files.add(path)
        return ""

    def _leads_out(self, path: PurePosixPath) -> bool:
        # `..` after a link leads elsewhere than the path says
        return path.is_absolute() or ".." in path.parts or not self._links.isdisjoint((path, *path.parents))


@contextlib.contextmanager
def bounded_tar(path: Path, allowance: disk.Allowance) -> Iterator[tarfile.TarFile]:
    """Open an untrusted archive, which is read only within the allowance. Raises TooLargeError.

    A few compressed MiB can hold any number of members of any size, and tarfile keeps their headers in memory.
    """
    with path.open("rb") as file, _BoundedTar.open(fileobj=file, allowance=allowance) as packed:  # type: ignore[call-overload]
        yield packed


class _BoundedTar(tarfile.TarFile):
    fileobj: Any  # a _Source
    firstmember: tarfile.TarInfo | None

    def __init__(self, name: Any, mode: Any, fileobj: Any, *, allowance: disk.Allowance, **options: Any) -> None:
        self._allowance = allowance
        super().__init__(name, mode, _Source(fileobj), **options)

    def next(self) -> tarfile.TarInfo | None:
        """Return the next member."""
        known = self.firstmember is not None  # read on opening, and returned by the first call
        self.fileobj.left = HEADER_BYTES
        member = super().next()
        self.fileobj.left = sys.maxsize
        if member is not None and not known:
            self._allowance.take(member.size)
        return member


class _Source:
    """File that is read up to a limit."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.left = file, 0

    def read(self, size: int) -> bytes:
        # a header is read at once, however long it says that it is; one of less than nothing would be all that there is
        if not 0 <= size <= self.left:
            raise disk.TooLargeError(f"has a header of more than {HEADER_BYTES >> 10} KiB")
        self.left -= size
        return self._file.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
