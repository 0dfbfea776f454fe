"""Write files atomically and durably, so that a loss of power leaves the old or the new file."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Iterator

SUFFIX = ".baton"
STALE_SECONDS = 3600.0  # age at which a temporary folder is a left-over of a killed writer


@contextlib.contextmanager
def replacing(
    path: pathlib.Path, content: str | bytes, *, mode: int | None = None, owner: tuple[int, int] | None = None
) -> Iterator[pathlib.Path]:
    """Write a copy, which replaces the file when the block ends without an error. Raises OSError.

    Yields the copy. It has the file's name, which some validators need, in a hidden folder that only the owner can
    read: so the content is never readable by others, and programs that read the whole folder don't see it. Several
    processes may write the same file at once. `mode`: by default as the umask allows.
    """
    sweep(path.parent, path.name)
    folder = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name[:200]}.", suffix=SUFFIX, dir=path.parent))
    try:
        copy = folder / path.name
        with open(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else 0o600), "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            if owner is not None:
                os.fchown(file.fileno(), *owner)
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        yield copy
        copy.replace(path)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write(
    path: pathlib.Path, content: str | bytes, *, mode: int | None = None, owner: tuple[int, int] | None = None
) -> None:
    """Write a file atomically; options as in `replacing`. Raises OSError."""
    with replacing(path, content, mode=mode, owner=owner):
        pass


def sweep(folder: pathlib.Path, name: str = "", age: float = STALE_SECONDS) -> None:
    """Remove temporary folders older than `age` seconds of killed writers of a file, by default of any file."""
    for left in folder.glob(f".*{SUFFIX}"):
        if not left.name.startswith(f".{name}") or left.is_symlink():
            continue
        with contextlib.suppress(OSError):
            if time.time() - left.lstat().st_mtime >= age:
                shutil.rmtree(left)


def sync_folder(folder: pathlib.Path) -> None:
    """Sync a folder's entries to the disk. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
