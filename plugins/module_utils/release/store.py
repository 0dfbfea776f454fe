"""List, lock, clean up and prune the releases on a host."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..app import layout
from ..host import file_lock, untrusted
from ..host.command import BatonError, make_folder

_IDENTITY = re.compile(r"[0-9a-zA-Z][0-9a-zA-Z._-]*")
STAGING, _REMOVING = ".staging-", ".removing-"
_LOCK_WAIT = 600


@dataclass(frozen=True)
class ReleaseStore:
    """The paths of an application's releases on this host."""

    releases: Path
    current: Path
    state: Path
    uv: Path = Path()  # uv and python are only needed for staging
    python: Path = Path()
    started_at_boot: Path = layout.Application("").started_at_boot

    @property
    def upload(self) -> Path:
        """The folder of uploads; each run has its own subfolder, which is removed when the run ends."""
        return self.state / "upload"


def read_release(folder: Path) -> dict[str, Any] | None:
    """Return the release.json of a complete release; None for anything else."""
    try:
        found = untrusted.parse_object(untrusted.read(folder / "release.json"))
    except (OSError, untrusted.UntrustedError):
        return None
    return found if found.get("id") == folder.name else None


def complete(places: ReleaseStore) -> dict[str, dict[str, Any]]:
    """Return the complete releases by id, the newest first."""
    found = {}
    if places.releases.is_dir():
        for folder in places.releases.iterdir():
            if not folder.name.startswith(".") and not folder.is_symlink():
                release = read_release(folder)
                if release is not None:
                    found[folder.name] = release
    return dict(sorted(found.items(), key=lambda item: str(item[1].get("staged", "")), reverse=True))


def current(places: ReleaseStore) -> str | None:
    """Return the id of the current release."""
    return layout.release_at(places.current)


def in_use(places: ReleaseStore) -> set[str]:
    """Return releases that a process uses: for its program, libraries, working directory or open files.

    A background process or command has its release open: see roles/app_service/files/release-exec. Includes releases
    that background processes use when they restart, which are enabled.
    """
    root = os.path.realpath(places.releases) + "/"
    app = places.releases.parent
    used = set()
    with contextlib.suppress(FileNotFoundError):
        for link in (app / "processes").iterdir():
            unit = f"{app.name}-{link.name.replace('-', '@', 1)}.service"
            if (places.started_at_boot / unit).is_symlink() and (release := layout.release_at(link)):
                used.add(release)
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        paths = []
        links = [process / "exe", process / "cwd", process / "root"]
        with contextlib.suppress(OSError):
            links += (process / "fd").iterdir()
        for link in links:
            with contextlib.suppress(OSError):
                paths.append(os.readlink(link))
        with contextlib.suppress(OSError), (process / "maps").open(errors="surrogateescape") as maps:
            # line by line, because a process can map many files with long names
            paths += {path for line in maps if (path := f"/{line.partition('/')[2]}".rstrip("\n")).startswith(root)}
        for path in paths:
            if path.startswith(root):
                used.add(path[len(root) :].partition("/")[0].removesuffix(" (deleted)"))
    return used


def check_identity(identity: str) -> None:
    """Raise BatonError for an id that isn't safe as a folder's name."""
    if not _IDENTITY.fullmatch(identity):
        raise BatonError(f"{identity!r} is not a valid id of a release.", "Give the id that artifact returned.")


@contextlib.contextmanager
def locked(places: ReleaseStore) -> Iterator[None]:
    """Hold the lock for writing to the releases. Raises BatonError."""
    make_folder(places.state)
    with (places.state / "releases.lock").open("w") as file:
        if not file_lock.taken_within(file, _LOCK_WAIT):
            raise BatonError(
                f"Another run has been staging or pruning releases on this host for over {_LOCK_WAIT // 60} min.",
                f"Find the process that holds {file.name} (fuser), and end it.",
            )
        yield


def sweep(places: ReleaseStore) -> list[str]:
    """Remove left-overs of interrupted runs: hidden folders and incomplete releases. Returns their names.

    Keeps releases that a process uses.
    """
    removed = []
    if places.releases.is_dir():
        for folder in sorted(places.releases.iterdir()):
            if folder.is_symlink() or not folder.is_dir():
                continue
            incomplete = not folder.name.startswith(".") and not (folder / "release.json").exists()
            if folder.name.startswith((STAGING, _REMOVING)):
                shutil.rmtree(folder)
                removed.append(folder.name)
            elif incomplete and folder.name != current(places) and folder.name not in in_use(places):
                remove(places, folder)
                removed.append(folder.name)
    return removed


def remove(places: ReleaseStore, folder: Path) -> None:
    """Remove a release: rename it first, so that it is never visible half removed."""
    hidden = places.releases / f"{_REMOVING}{folder.name}"
    shutil.rmtree(hidden, ignore_errors=True)
    folder.rename(hidden)
    shutil.rmtree(hidden)


def prune(places: ReleaseStore, keep: int, *, dry: bool) -> dict[str, Any]:
    """Remove old releases except the newest `keep`, the current one, and those that a process uses.

    `dry`: only report. Returns the module's result.
    """
    guard = contextlib.nullcontext() if dry else locked(places)
    with guard:
        serving = current(places)
        # releases that have served are kept first: a failed one must not displace the target of a rollback
        before = layout.served_in(places.state / "active.json")
        order = [identity for identity in complete(places) if identity != serving]
        order.sort(key=lambda identity: before.index(identity) if identity in before else len(before))
        used = in_use(places)
        removed = [identity for identity in order[keep:] if identity not in used]
        if not dry:
            sweep(places)
            for identity in removed:
                remove(places, places.releases / identity)
        kept = [identity for identity in order if identity not in removed]
        return {"changed": bool(removed), "removed": removed, "kept": kept, "current": serving}
