"""Files that appear whole or not at all, also through a loss of power: the only writer of what must not be cut."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator


@contextlib.contextmanager
def replacing(
    path: pathlib.Path,
    content: str | bytes,
    *,
    mode: int | None = None,
    owner: tuple[int, int] | None = None,
    concurrent: bool = False,
) -> Iterator[pathlib.Path]:
    """Write the content beside the file; it takes the file's place when the block ends, unless that raises.

    Yields the copy, which has the file's name: some programs that check a file go by it. The copy is in a folder for
    its owner alone, so that the content is at no time readable for more than it is to be, and hidden, as programs read
    whole folders. `mode`: as the umask says when there is none. `concurrent`: others may write the same file at the
    same moment. Raises OSError.
    """
    folder = path.with_name(f".{path.name}.{os.getpid()}.baton" if concurrent else f".{path.name}.baton")
    if not concurrent:
        shutil.rmtree(folder, ignore_errors=True)  # what a killed writer left
    folder.mkdir(mode=0o700)
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
    path: pathlib.Path,
    content: str | bytes,
    *,
    mode: int | None = None,
    owner: tuple[int, int] | None = None,
    concurrent: bool = False,
) -> None:
    """Write a file so that a reader sees the old or the new, as `replacing` does. Raises OSError."""
    with replacing(path, content, mode=mode, owner=owner, concurrent=concurrent):
        pass


def sync_folder(folder: pathlib.Path) -> None:
    """Have the names in a folder on the disk. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
