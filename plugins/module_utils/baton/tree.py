"""A folder of source files: listed, copied, hashed and packed the same way every time."""

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

from .process import BatonError, CommandError, run

# Never part of an application, whatever a repository says.
NEVER = frozenset({".git", ".hg", ".svn", "__pycache__", ".venv", "node_modules"})
# Not part of one where no git says what is.
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
    """Relative paths of files and symlinks under a folder, sorted."""
    found = []
    for folder, folders, files in os.walk(root):
        here = os.path.relpath(folder, root)
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        folders[:] = sorted(name for name in folders if name not in never and name not in links)
        kept = [name for name in [*files, *links] if name not in never and not name.endswith(".pyc")]
        found += kept if here == "." else [f"{here}/{name}" for name in kept]
    return iter(sorted(found))


def _git(folder: Path, *words: str) -> str:
    # the folder may belong to somebody else than who runs the playbook
    return run(["git", "-c", "safe.directory=*", "-C", folder, *words])


def tracked(folder: Path) -> list[str] | None:
    """Files of a git checkout that aren't ignored; None when the folder isn't in one."""
    try:
        _git(folder, "rev-parse", "--is-inside-work-tree")
        top = Path(_git(folder, "rev-parse", "--show-toplevel").strip())
    except CommandError:
        return None
    if top.resolve() != folder.resolve():
        try:
            _git(top, "check-ignore", "--quiet", str(folder.resolve()))
            return None  # an ignored folder inside a checkout: git knows nothing of what is in it
        except CommandError:
            pass
    listed = _git(folder, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate", "--", ".")
    files = []
    for name in filter(None, listed.split("\0")):
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            # a submodule, or a checkout inside the checkout
            inner = tracked(path)
            files += [f"{name.rstrip('/')}/{rest}" for rest in (inner if inner is not None else walk(path))]
        elif path.is_symlink() or path.is_file():
            files.append(name)
    return sorted(name for name in files if not NEVER.intersection(PurePosixPath(name).parts))


def copy(folder: Path, destination: Path) -> None:
    """Copy what belongs to the application."""
    names = tracked(folder)
    for name in walk(folder, NEVER | NEVER_WITHOUT_GIT) if names is None else names:
        _copy_one(folder / name, destination / name)


def _copy_one(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_symlink():
        target.symlink_to(os.readlink(source))
    elif source.is_file():
        shutil.copyfile(source, target)
        target.chmod(0o755 if source.stat().st_mode & 0o100 else 0o644)


def duplicate(tree: Path, destination: Path) -> None:
    """Copy a tree as it is, for a tool that writes into the folder it works in."""
    shutil.copytree(tree, destination, symlinks=True)


def exclude(tree: Path, patterns: Iterable[str]) -> list[str]:
    """Remove what matches; a pattern with no slash matches a name at any depth, one ending in a slash a folder."""
    patterns = list(patterns)
    removed = []
    for name in list(walk(tree, frozenset())):
        if any(_matches(name, pattern) for pattern in patterns):
            (tree / name).unlink()
            removed.append(name)
    for folder, folders, files in os.walk(tree, topdown=False):
        if (not folders and not files and Path(folder) != tree) or (not os.listdir(folder) and Path(folder) != tree):
            os.rmdir(folder)
    return removed


def _matches(name: str, pattern: str) -> bool:
    pattern = pattern.removeprefix("./").rstrip("/")
    parts = PurePosixPath(name).parts
    if "/" not in pattern:
        return any(fnmatch.fnmatchcase(part, pattern) for part in parts)
    pattern = pattern.removeprefix("/")
    prefixes = ["/".join(parts[: count + 1]) for count in range(len(parts))]
    return any(fnmatch.fnmatchcase(prefix, pattern) for prefix in prefixes)


def inside(path: str, what: str) -> str:
    """A path that stays inside the source, normalised; refused when it doesn't."""
    clean = os.path.normpath(path) if path else "."
    if os.path.isabs(clean) or clean == ".." or clean.startswith("../"):
        raise BatonError(f"{what}: {path!r} leads out of the source.", "Give a path relative to the source's folder.")
    return "" if clean == "." else clean


def check_links(tree: Path, allowed: Iterable[str] = ()) -> None:
    """Refuse symlinks that lead out of the source: on a host they would lead anywhere."""
    root = os.path.realpath(tree)
    known = set(allowed)
    for name in walk(tree):
        path = tree / name
        if path.is_symlink() and name not in known:
            leads = os.path.normpath(os.path.join(root, os.path.dirname(name), os.readlink(path)))
            if os.path.commonpath([root, leads]) != root:
                raise BatonError(
                    f"The source has a symlink that leads out of it: {name} -> {os.readlink(path)}.",
                    "Leave it out with app_release_exclude, or make it with app_release_state_links.",
                )


def digest(tree: Path) -> str:
    """A hash over paths, kinds, modes and bytes."""
    total = hashlib.sha256()
    for name in walk(tree):
        path = tree / name
        if path.is_symlink():
            kind, content = "link", os.readlink(path).encode()
        else:
            kind = "exec" if path.stat().st_mode & stat.S_IXUSR else "file"
            content = path.read_bytes()
        total.update(f"{kind} {len(content)} {name}\0".encode(errors="surrogateescape"))
        total.update(hashlib.sha256(content).digest())
    return total.hexdigest()


def size(tree: Path) -> int:
    """Bytes on a disk of 4 KiB blocks."""
    return sum(4096 * -(-(tree / name).lstat().st_size // 4096) for name in walk(tree))


def pack(destination: Path, folders: dict[str, Path], texts: dict[str, str], mtime: int) -> None:
    """Write a .tar.gz of folders and small texts; the same content and time give the same bytes."""
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
