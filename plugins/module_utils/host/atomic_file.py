"""Files that appear whole or not at all, also through a loss of power: the only writer of what must not be cut."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Iterator

SUFFIX = ".baton"
LEFT = 3600.0  # seconds after which nobody writes any more what lies beside a file


@contextlib.contextmanager
def replacing(
    path: pathlib.Path, content: str | bytes, *, mode: int | None = None, owner: tuple[int, int] | None = None
) -> Iterator[pathlib.Path]:
    """Write the content beside the file; it takes the file's place when the block ends, unless that raises.

    Yields the copy, which has the file's name: some programs that check a file go by it. The copy is in a folder for
    its owner alone, so that the content is at no time readable for more than it is to be, and hidden, as programs read
    whole folders. Several may write one file at the same moment. `mode`: as the umask says when there is none. Raises
    OSError.
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
    """Write a file so that a reader sees the old or the new, as `replacing` does. Raises OSError."""
    with replacing(path, content, mode=mode, owner=owner):
        pass


def sweep(folder: pathlib.Path, name: str = "", age: float = LEFT) -> None:
    """Remove what writers of a file, or of any in the folder, left there when they were killed `age` seconds ago."""
    for left in folder.glob(f".*{SUFFIX}"):
        if not left.name.startswith(f".{name}") or left.is_symlink():
            continue
        with contextlib.suppress(OSError):
            if time.time() - left.lstat().st_mtime >= age:
                shutil.rmtree(left)


def sync_folder(folder: pathlib.Path) -> None:
    """Have the names in a folder on the disk. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
