"""Check an untrusted archive for members that would be unpacked outside of its folder, by path or through a link.

Debian 12's tarfile has no filters, and those of newer versions refuse links to an application's state folder.
"""

from __future__ import annotations

import tarfile
from pathlib import PurePosixPath


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
