"""What an archive of others may hold: nothing that would be unpacked elsewhere, by its path or through a link, and no
more than there is room for.

Debian 12's tarfile has no filter, and those of newer ones refuse links to an application's state.
"""

from __future__ import annotations

import contextlib
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from . import disk

HEADER_BYTES = 2**20  # of one member: its names, and where it has holes


class TarCheck:
    """Looks at the members of an archive in their order, before any of them is unpacked.

    A symlink itself may lead anywhere; nothing may go through one.
    """

    def __init__(self) -> None:
        self._files: set[PurePosixPath] = set()
        self._links: set[PurePosixPath] = set()

    def why_not(self, member: tarfile.TarInfo) -> str:
        """Why a member may not be unpacked, to be read after the archive's name; empty where it may."""
        if not (member.isfile() or member.isdir() or member.issym() or member.islnk()):
            return f"has {member.name}, which is no file, folder or link"
        path, target = PurePosixPath(member.name), PurePosixPath(member.linkname)
        if self._leads_out(path):
            return f"has a path that leads out of it: {member.name}"
        # to any other file than one that was unpacked from here it would give away that file's content and rights, and
        # to a symlink it would be one under another name
        if member.islnk() and (self._leads_out(target) or target not in self._files):
            return f"has a path that leads out of it: {member.name} -> {member.linkname}"
        if member.issym():
            self._files.discard(path)
            self._links.add(path)
        elif not member.isdir():
            self._files.add(path)
        return ""

    def _leads_out(self, path: PurePosixPath) -> bool:
        # `..` behind a link is not where the path's text says
        return path.is_absolute() or ".." in path.parts or not self._links.isdisjoint((path, *path.parents))


@contextlib.contextmanager
def bounded_tar(path: Path, allowance: disk.Allowance) -> Iterator[tarfile.TarFile]:
    """An archive of others that is read no further than what there is an allowance for. Raises TooLargeError.

    Of a few MiB, compressed, it could make any number of members, each of any size, and their headers stay in memory.
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
        """The next member."""
        known = self.firstmember is not None  # which is read when the archive is opened, and told when it is asked for
        self.fileobj.left = HEADER_BYTES
        member = super().next()
        self.fileobj.left = sys.maxsize
        if member is not None and not known:
            self._allowance.take(member.size)
        return member


class _Source:
    """A file of which only so many bytes are read."""

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
