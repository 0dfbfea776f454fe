"""List, copy, hash and pack a folder of source files reproducibly."""

from __future__ import annotations

import fnmatch
import gzip
import hashlib
import io
import os
import shutil
import stat
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from ..host.command import BatonError, CommandError
from .git import git, repository, unreadable

MOST_NAMED = 3  # files in a message
# Never part of an application, even if the repository tracks them.
NEVER = frozenset({".git", ".hg", ".svn", "__pycache__", ".venv", "node_modules"})
# Not part of an application outside of git, which would ignore them.
NEVER_WITHOUT_GIT = frozenset(
    {
        "venv",
        ".tox",
        ".nox",
        ".mypy_cache",
        ".pytest_cache",
        ".ruff_cache",
        ".idea",
        ".vscode",
        ".coverage",
        ".DS_Store",
    }
)


def walk(root: Path, never: frozenset[str] = NEVER) -> Iterator[str]:
    """Return the relative paths of files and symlinks below a folder, sorted."""
    found = []
    for folder, folders, files in os.walk(root):
        here = os.path.relpath(folder, root)
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        folders[:] = sorted(name for name in folders if name not in never and name not in links)
        kept = [name for name in [*files, *links] if name not in never and not name.endswith(".pyc")]
        found += kept if here == "." else [f"{here}/{name}" for name in kept]
    return iter(sorted(found))


def tracked(folder: Path) -> list[str] | None:
    """Return a git checkout's files that aren't ignored; None if the folder isn't in one. Raises BatonError."""
    top = repository(folder)
    if top is None:
        return None
    if top.resolve() != folder.resolve():
        try:
            git("check-ignore", "--quiet", str(folder.resolve()), folder=top)
            return None  # an ignored folder inside a checkout, whose content git doesn't track
        except CommandError:
            pass
    words = ("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate", "--", ".")
    try:
        listed = git(*words, folder=folder)
    except CommandError as error:
        raise unreadable(folder, error) from None
    check_merged(folder)
    files = []
    for name in filter(None, listed.split("\0")):
        path = folder / name
        if _below_link(folder, name):
            continue  # git still lists files of a folder that a link has replaced
        if path.is_dir() and not path.is_symlink():
            # a submodule, or a checkout inside the checkout
            if not (path / ".git").exists():
                raise BatonError(
                    f"The submodule {name.rstrip('/')} of {folder} has not been checked out.",
                    f"Run `git -C {top} submodule update --init --recursive`.",
                )
            files += [f"{name.rstrip('/')}/{rest}" for rest in tracked(path) or []]
        elif path.is_symlink() or path.is_file():
            files.append(name)
    return sorted(name for name in files if not NEVER.intersection(PurePosixPath(name).parts))


def check_merged(folder: Path) -> None:
    """Raise BatonError if git has unresolved merge conflicts in a folder: files contain both sides, or one of them."""
    try:
        listed = git("ls-files", "-z", "--unmerged", "--", ".", folder=folder)
    except CommandError:
        return  # no checkout; `tracked` reports one that can't be read
    if names := list(dict.fromkeys(entry.partition("\t")[2] for entry in listed.split("\0") if entry)):
        raise BatonError(
            f"The source {folder} has unresolved merge conflicts in {_first(names)}.",
            "Resolve them and run `git add` for these files, or deploy a commit with app_version.",
        )


def _first(names: list[str]) -> str:
    """The first names of a list for a message, and how many more there are."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"{', '.join(names[:MOST_NAMED])}{more}"


def _below_link(root: Path, name: str) -> bool:
    return any((root / parent).is_symlink() for parent in PurePosixPath(name).parents)


def place(root: Path, name: str, what: str) -> Path:
    """Return the path of a name in a tree, and create its parent folders. Raises BatonError for a link among them.

    `root`: a tree that no other process writes to at the same time.
    """
    here = root
    for part in PurePosixPath(name).parts[:-1]:
        here = here / part
        if here.is_symlink():
            shown = here.relative_to(root)
            raise BatonError(
                f"{what}: {name} is below {shown}, which is a link to {os.readlink(here)}.",
                f"Name the folder itself, or exclude {shown} with app_release_exclude.",
            )
        if here.exists() and not here.is_dir():
            raise BatonError(f"{what}: {name} is below {here.relative_to(root)}, which is a file.", "Correct the path.")
        here.mkdir(exist_ok=True)
    return root / name


def copy(folder: Path, destination: Path) -> None:
    """Copy the application's files."""
    names = tracked(folder)
    destination.mkdir(parents=True, exist_ok=True)
    for name in walk(folder, NEVER | NEVER_WITHOUT_GIT) if names is None else names:
        _copy_one(folder / name, place(destination, name, str(folder)))


def _copy_one(source: Path, target: Path) -> None:
    if source.is_symlink():
        target.symlink_to(os.readlink(source))
    elif source.is_file():
        shutil.copyfile(source, target)
        target.chmod(0o755 if source.stat().st_mode & 0o100 else 0o644)


def duplicate(tree: Path, destination: Path) -> None:
    """Copy a whole tree, for a tool that writes into its working directory."""
    shutil.copytree(tree, destination, symlinks=True, ignore=_ignore_special)


def _ignore_special(folder: str, names: list[str]) -> list[str]:
    """Return the special files: copying a pipe would block forever."""
    modes = {name: os.lstat(os.path.join(folder, name)).st_mode for name in names}
    return [
        name for name, mode in modes.items() if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode))
    ]


def exclude(tree: Path, patterns: Iterable[str]) -> None:
    """Remove files that match a pattern, and empty folders. A pattern without a slash matches at any depth."""
    patterns = list(patterns)
    for name in list(walk(tree, frozenset())):
        if any(_matches(name, pattern) for pattern in patterns):
            (tree / name).unlink()
    for folder, _, _ in os.walk(tree, topdown=False):
        if Path(folder) != tree and not os.listdir(folder):
            os.rmdir(folder)


def _matches(name: str, pattern: str) -> bool:
    pattern = pattern.removeprefix("./").rstrip("/")
    parts = PurePosixPath(name).parts
    if "/" not in pattern:
        return any(fnmatch.fnmatchcase(part, pattern) for part in parts)
    pattern = pattern.removeprefix("/")
    prefixes = ["/".join(parts[: count + 1]) for count in range(len(parts))]
    return any(fnmatch.fnmatchcase(prefix, pattern) for prefix in prefixes)


def inside(path: str, what: str) -> str:
    """Return a normalized path inside the source. Raises BatonError if it leads out of it."""
    clean = os.path.normpath(path) if path else "."
    if os.path.isabs(clean) or clean == ".." or clean.startswith("../"):
        raise BatonError(f"{what}: {path!r} leads out of the source.", "Give a path relative to the source's folder.")
    return "" if clean == "." else clean


def check(tree: Path, replaced: Iterable[str] = (), left_out: Iterable[str] = ()) -> None:
    """Raise BatonError for files that can't be in a release.

    These are links that lead out of the source, whose target on a host would be arbitrary; pipes, sockets and devices;
    and git-lfs pointers. Ignores names in `replaced`, everything below them, and names that match patterns in
    `left_out`. Links are resolved completely, because they may lead through other links.
    """
    root = os.path.realpath(tree)
    known, patterns = [PurePosixPath(name) for name in replaced], list(left_out)
    pointers = []
    for name in walk(tree):
        if any(PurePosixPath(name).is_relative_to(one) for one in known) or any(
            _matches(name, one) for one in patterns
        ):
            continue
        path = tree / name
        if path.is_symlink():
            text = os.readlink(path)
            if os.path.isabs(text) or os.path.commonpath([root, os.path.realpath(path)]) != root:
                raise BatonError(
                    f"The source has a symlink that leads out of it: {name} -> {text}.",
                    "Exclude it with app_release_exclude, or create it with app_release_state_links.",
                )
        elif not path.is_file():
            raise BatonError(f"The source has {name}, which is a special file.", "Exclude it with app_release_exclude.")
        elif path.stat().st_size < 1024 and path.read_bytes().startswith(_LFS_POINTER):
            pointers.append(name)
    if pointers:
        raise BatonError(
            f"The source has git-lfs pointers instead of the files {_first(pointers)}.",
            "Run `git lfs install` and `git lfs pull` in a checkout on the controller, and set app_source to it; "
            "or exclude the files with app_release_exclude.",
        )


def without_links_out(tree: Path) -> None:
    """Remove links that lead out of a tree, for a program that would follow them."""
    root = os.path.realpath(tree)
    for name in walk(tree):
        path = tree / name
        if path.is_symlink() and os.path.commonpath([root, os.path.realpath(path)]) != root:
            path.unlink()


_LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\n"


def digest(tree: Path) -> str:
    """Return a hash of all paths, types, executable bits and contents."""
    total = hashlib.sha256()
    for name in walk(tree):
        path = tree / name
        if path.is_symlink():
            text = os.fsencode(os.readlink(path))
            kind, length, content = "link", len(text), hashlib.sha256(text).digest()
        else:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                kind, length = "exec" if status.st_mode & stat.S_IXUSR else "file", status.st_size
                content = hashlib.file_digest(file, "sha256").digest()  # not read at once: it may be very large
        total.update(f"{kind} {length} {name}\0".encode(errors="surrogateescape"))
        total.update(content)
    return total.hexdigest()


def size(tree: Path) -> int:
    """Return the bytes that a tree takes on a disk with blocks of 4 KiB."""
    return sum(4096 * -(-(tree / name).lstat().st_size // 4096) for name in walk(tree))


def pack(destination: Path, folders: dict[str, Path], texts: dict[str, str], mtime: int) -> None:
    """Write a .tar.gz of folders and small texts. The same content and time give the same bytes."""
    part = destination.with_name(f".{destination.name}.{os.getpid()}")
    with (
        part.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=3, mtime=mtime) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name, text in sorted(texts.items()):
            _add_bytes(archive, name, text.encode(), mtime)
        for top, folder in sorted(folders.items()):
            _add_folder(archive, top, mtime)
            made: set[str] = set()
            for name in walk(folder):
                for parent in reversed(PurePosixPath(name).parents):
                    if str(parent) != "." and str(parent) not in made:
                        made.add(str(parent))
                        _add_folder(archive, f"{top}/{parent}", mtime)
                _add_file(archive, f"{top}/{name}", folder / name, mtime)
    part.replace(destination)


def _entry(name: str, mode: int, mtime: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.mode, entry.mtime, entry.uname, entry.gname = mode, mtime, "root", "root"
    return entry


def _add_folder(archive: tarfile.TarFile, name: str, mtime: int) -> None:
    entry = _entry(name, 0o755, mtime)
    entry.type = tarfile.DIRTYPE
    archive.addfile(entry)


def _add_bytes(archive: tarfile.TarFile, name: str, content: bytes, mtime: int) -> None:
    entry = _entry(name, 0o644, mtime)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def _add_file(archive: tarfile.TarFile, name: str, path: Path, mtime: int) -> None:
    if path.is_symlink():
        entry = _entry(name, 0o777, mtime)
        entry.type, entry.linkname = tarfile.SYMTYPE, os.readlink(path)
        archive.addfile(entry)
        return
    status = path.stat()
    entry = _entry(name, 0o755 if status.st_mode & stat.S_IXUSR else 0o644, mtime)
    entry.size = status.st_size
    with path.open("rb") as content:
        archive.addfile(entry, content)
