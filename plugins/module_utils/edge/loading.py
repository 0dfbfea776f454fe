"""Whether a file has changed since nginx read its configuration."""

from __future__ import annotations

import os
import pathlib
import time
from collections.abc import Iterator

# its mtime is the time when nginx last read its configuration; roles/nginx_server has the drop-in that writes it
LOADED = pathlib.Path("/run/nginx.loaded")


def unread(*paths: str | pathlib.Path) -> str:
    """Return the first of these files and folders, or of the files in them, that nginx has yet to read; empty if none.

    This includes a missing one: nginx reports it when it is reloaded.
    """
    try:
        loaded = LOADED.stat().st_mtime_ns
    except FileNotFoundError:
        return str(LOADED)  # nginx was started before its drop-in was written
    if loaded > time.time_ns():
        return str(LOADED)  # the clock was set back since, so files that change now would seem older
    for path in paths:
        for found in _below(path):
            try:
                # the change time: the modification time of a moved or copied file may be old
                changed = os.stat(found, follow_symlinks=found == str(path)).st_ctime_ns
            except FileNotFoundError:
                return found
            if changed > loaded:
                return found
    return ""


def _below(path: str | pathlib.Path) -> Iterator[str]:
    yield str(path)
    for folder, folders, files in os.walk(path):
        yield from (os.path.join(folder, name) for name in (*folders, *files))
