"""Copies of an application's configuration on its host: kept while it serves, and restored when a change fails."""

from __future__ import annotations

import contextlib
import filecmp
import json
import os
import pathlib
import shutil
import stat
from collections.abc import Iterable, Iterator
from typing import Any

from ..app.layout import WEB, Application, current, read_json, served, sync_filesystem
from ..host import atomic_file, untrusted
from ..host.command import make_folder
from . import boot


def configuration(app: Application, root: str) -> dict[str, pathlib.Path]:
    """Return the files below a root that configure the application: path by name relative to the root."""
    settings = (
        *("gunicorn.conf.py", "environment", "services-ca.pem"),
        *("processes.json", "schedules.json", "secrets/*", "migration-secrets/*"),
    )
    # a copy may have process types that are no longer in the host's settings
    processes = (*app.processes, *Application(app.name, root).processes)
    units = dict.fromkeys(unit for process in processes for unit in (*process.running, *process.templates))
    units[app.migration] = None
    patterns = (*(f"etc/{app.name}/{name}" for name in settings), *(f"etc/systemd/system/{unit}" for unit in units))
    found = (path for pattern in patterns for path in pathlib.Path(root).glob(pattern))
    # hidden files are left-overs of a killed writer
    return {str(path.relative_to(root)): path for path in found if path.is_file() and not path.name.startswith(".")}


def background_files(app: Application, part: str | None = None) -> set[str]:
    """Return the names of the files that only background processes and schedules use, or only those of a part."""
    found = {f"etc/{app.name}/processes.json"} | (set() if part else {f"etc/{app.name}/schedules.json"})
    for process in app.processes:
        if process.name != WEB and process.is_in(part or "all"):
            found |= {f"etc/systemd/system/{unit}" for unit in process.templates}
    return found


def migration_files(app: Application, names: Iterable[str]) -> set[str]:
    """Return those of a configuration's files that only the migration uses."""
    unit, secrets = f"etc/systemd/system/{app.migration}", f"etc/{app.name}/migration-secrets/"
    return {name for name in names if name == unit or name.startswith(secrets)}


def keep(app: Application, folder: pathlib.Path, part: str | None = None) -> None:
    """Copy the current configuration to a folder; with `part`, only its processes' files, and the rest from `kept`."""
    files = configuration(app, app.root)
    if part:
        theirs = background_files(app, part)
        files = {
            **{name: path for name, path in configuration(app, str(app.kept)).items() if name not in theirs},
            **{name: path for name, path in files.items() if name in theirs},
        }
    for name, path in files.items():
        _copy(path, folder / name)


def snapshot(app: Application, transaction: str) -> None:
    """Save the active release and configuration, once per transaction, before its first activation on this host."""
    if last(app).get("transaction") == transaction:
        return
    with replaced_folder(app.before) as scratch:
        for name, path in configuration(app, str(app.kept)).items():
            _copy(path, scratch / "kept" / name)
        about = {"transaction": transaction, "release": current(app), "served": served(app)}
        (scratch / "before.json").write_text(json.dumps(about) + "\n", encoding="utf-8")
        sync_filesystem(scratch)


def last(app: Application) -> dict[str, Any]:
    """Return the description of the last snapshot; empty if there is none or it is unreadable."""
    with contextlib.suppress(OSError, untrusted.UntrustedError):
        _complete(app.before)
        return read_json(app.before / "before.json")
    return {}


@contextlib.contextmanager
def replaced_folder(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield an empty folder, which replaces `folder` when the block ends without an error."""
    scratch, old = folder.with_name(f"{folder.name}.new"), _complete(folder)
    for leftover in (scratch, old):
        shutil.rmtree(leftover, ignore_errors=True)
    scratch.mkdir(mode=0o700)
    try:
        yield scratch
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)  # the disk may be full
        raise
    if folder.exists():
        folder.rename(old)
    scratch.rename(folder)
    atomic_file.sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _complete(folder: pathlib.Path) -> pathlib.Path:
    """Undo a replacement that was killed between its two renames. Returns the path of the old folder."""
    old = folder.with_name(f"{folder.name}.old")
    if old.exists() and not folder.exists():
        old.rename(folder)
    return old


def restore(app: Application, kept: pathlib.Path) -> None:
    """Restore a kept configuration; do nothing if there is none."""
    _complete(kept)
    wanted = configuration(app, str(kept))
    if not wanted:
        return
    for name, path in wanted.items():
        # don't write identical files: the disk may be full
        if not _identical(path, app.path(name)):
            _restore_file(path, app.path(name))
    # last: until the old units are restored, a starting unit needs the new files
    found = configuration(app, app.root)
    unwanted = found.keys() - wanted.keys()
    if not migration_files(app, wanted):  # copies made before 0.2.0 lack the migration's files
        unwanted -= migration_files(app, unwanted)
    for name in unwanted:
        if found[name].parent == app.path("etc/systemd/system"):
            boot.remove_file(app, found[name].name)
            continue
        found[name].unlink()
        atomic_file.sync_folder(found[name].parent)


def _identical(one: pathlib.Path, other: pathlib.Path) -> bool:
    """Whether two files have the same content, owner and mode."""
    if not other.exists():
        return False
    about = [(found.st_mode, found.st_uid, found.st_gid) for found in (one.stat(), other.stat())]
    return about[0] == about[1] and filecmp.cmp(one, other, shallow=False)


def _copy(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copy a file with its owner and mode, without a sync: the caller syncs the whole folder."""
    make_folder(target.parent, 0o700)
    about = source.stat()
    with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(source.read_bytes())
        os.fchown(file.fileno(), about.st_uid, about.st_gid)
        os.fchmod(file.fileno(), stat.S_IMODE(about.st_mode))


def _restore_file(source: pathlib.Path, target: pathlib.Path) -> None:
    """Restore a kept file atomically, with its owner and mode."""
    make_folder(target.parent)
    about = source.stat()
    owner, mode = (about.st_uid, about.st_gid), stat.S_IMODE(about.st_mode)
    atomic_file.write(target, source.read_bytes(), mode=mode, owner=owner)
