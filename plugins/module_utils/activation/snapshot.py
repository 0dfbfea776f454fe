"""Copies of an application's configuration on its host: kept when it serves, and put back when a change fails."""

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

from ..app.layout import WEB, Application, current, read_note, served, sync_filesystem
from ..host import atomic_file, untrusted
from ..host.command import make_folder


def configuration(app: Application, root: str) -> dict[str, pathlib.Path]:
    """The files, below a root, that decide how the service runs: name from the root to path."""
    settings = (
        *("gunicorn.conf.py", "environment", "services-ca.pem"),
        *("processes.json", "schedules.json", "secrets/*", "migration-secrets/*"),
    )
    # a copy may have types that the host's settings have no more
    processes = (*app.processes, *Application(app.name, root).processes)
    units = dict.fromkeys(unit for process in processes for unit in (*process.running, *process.templates))
    units[app.migration] = None
    patterns = (*(f"etc/{app.name}/{name}" for name in settings), *(f"etc/systemd/system/{unit}" for unit in units))
    found = (path for pattern in patterns for path in pathlib.Path(root).glob(pattern))
    # hidden is what a killed writer left
    return {str(path.relative_to(root)): path for path in found if path.is_file() and not path.name.startswith(".")}


def background_files(app: Application, part: str | None = None) -> set[str]:
    """The names of the files that are of background processes and scheduled commands alone, or of those of a part."""
    found = {f"etc/{app.name}/processes.json"} | (set() if part else {f"etc/{app.name}/schedules.json"})
    for process in app.processes:
        if process.name != WEB and part in (None, process.part):
            found |= {f"etc/systemd/system/{unit}" for unit in process.templates}
    return found


def migration_files(app: Application, names: Iterable[str]) -> set[str]:
    """Those of a configuration's files that are of the migration alone: no process that serves has them."""
    unit, secrets = f"etc/systemd/system/{app.migration}", f"etc/{app.name}/migration-secrets/"
    return {name for name in names if name == unit or name.startswith(secrets)}


def keep(app: Application, folder: pathlib.Path, part: str | None = None) -> None:
    """Keep a copy of the configuration as it is now; or of a part's background processes alone, the rest as kept."""
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
    """Keep what serves now, once a transaction: its first change here calls this before it changes anything."""
    if last(app).get("transaction") == transaction:
        return
    with replaced_folder(app.before) as scratch:
        for name, path in configuration(app, str(app.kept)).items():
            _copy(path, scratch / "kept" / name)
        about = {"transaction": transaction, "release": current(app), "served": served(app)}
        (scratch / "before.json").write_text(json.dumps(about) + "\n", encoding="utf-8")
        sync_filesystem(scratch)


def last(app: Application) -> dict[str, Any]:
    """What `snapshot` noted last; empty when there is none or it is unreadable."""
    with contextlib.suppress(OSError, untrusted.UntrustedError):
        _complete(app.before)
        return read_note(app.before / "before.json")
    return {}


@contextlib.contextmanager
def replaced_folder(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """A fresh folder that takes the place of another one when it is complete."""
    scratch, old = folder.with_name(f"{folder.name}.new"), _complete(folder)
    for leftover in (scratch, old):
        shutil.rmtree(leftover, ignore_errors=True)
    scratch.mkdir(mode=0o700)
    try:
        yield scratch
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)  # a full disk needs the room
        raise
    if folder.exists():
        folder.rename(old)
    scratch.rename(folder)
    atomic_file.sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _complete(folder: pathlib.Path) -> pathlib.Path:
    """Undo a replacement that ended between its two renames; returns where the old folder is meanwhile."""
    old = folder.with_name(f"{folder.name}.old")
    if old.exists() and not folder.exists():
        old.rename(folder)
    return old


def restore(app: Application, kept: pathlib.Path) -> None:
    """Put a kept configuration back, when there is one."""
    _complete(kept)
    wanted = configuration(app, str(kept))
    if not wanted:
        return
    for name, path in wanted.items():
        # what is as it was needs no room on a disk that may be full
        if not _alike(path, app.path(name)):
            _put_back(path, app.path(name))
    # last: until its units are back, what starts looks for the new files
    found = configuration(app, app.root)
    unwanted = found.keys() - wanted.keys()
    if not migration_files(app, wanted):  # a copy of before 0.2.0 has nothing of the migration
        unwanted -= migration_files(app, unwanted)
    for name in unwanted:
        found[name].unlink()
        atomic_file.sync_folder(found[name].parent)


def _alike(one: pathlib.Path, other: pathlib.Path) -> bool:
    """Whether two files have the same content, owner and mode."""
    if not other.exists():
        return False
    about = [(found.st_mode, found.st_uid, found.st_gid) for found in (one.stat(), other.stat())]
    return about[0] == about[1] and filecmp.cmp(one, other, shallow=False)


def _copy(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copy a file with its owner and mode into a folder that isn't in its place yet, and is synced as a whole."""
    make_folder(target.parent, 0o700)
    about = source.stat()
    with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(source.read_bytes())
        os.fchown(file.fileno(), about.st_uid, about.st_gid)
        os.fchmod(file.fileno(), stat.S_IMODE(about.st_mode))


def _put_back(source: pathlib.Path, target: pathlib.Path) -> None:
    """Put a kept file in its place, with its owner and mode, in one step."""
    make_folder(target.parent)
    about = source.stat()
    owner, mode = (about.st_uid, about.st_gid), stat.S_IMODE(about.st_mode)
    atomic_file.write(target, source.read_bytes(), mode=mode, owner=owner)
