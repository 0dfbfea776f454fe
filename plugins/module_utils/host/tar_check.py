"""What an archive of others may hold: nothing that would be unpacked elsewhere, by its path or through a link.

Debian 12's tarfile has no filter, and those of newer ones refuse links to an application's state.
"""

from __future__ import annotations

import tarfile
from pathlib import PurePosixPath


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
