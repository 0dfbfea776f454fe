"""The releases on a host: listed, locked, swept and pruned."""

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
    """Where an application's releases are on this host."""

    releases: Path
    current: Path
    state: Path
    uv: Path = Path()  # these two to stage
    python: Path = Path()

    @property
    def upload(self) -> Path:
        """Where archives are uploaded to, for each run in a folder of its own that goes when the run ends."""
        return self.state / "upload"


def read_release(folder: Path) -> dict[str, Any] | None:
    """The release.json of a complete release; None for anything else."""
    try:
        found = untrusted.parse_object(untrusted.read(folder / "release.json"))
    except (OSError, untrusted.UntrustedError):
        return None
    return found if found.get("id") == folder.name else None


def complete(places: ReleaseStore) -> dict[str, dict[str, Any]]:
    """The complete releases by id, the newest first."""
    found = {}
    if places.releases.is_dir():
        for folder in places.releases.iterdir():
            if not folder.name.startswith(".") and not folder.is_symlink():
                release = read_release(folder)
                if release is not None:
                    found[folder.name] = release
    return dict(sorted(found.items(), key=lambda item: str(item[1].get("staged", "")), reverse=True))


def current(places: ReleaseStore) -> str | None:
    """The id that `current` leads to."""
    return layout.release_at(places.current)


def in_use(places: ReleaseStore) -> set[str]:
    """Releases that a living process runs from: its program, libraries, working directory or open files.

    And those that background processes are to run when they start again.
    """
    root = os.path.realpath(places.releases) + "/"
    used = set()
    with contextlib.suppress(FileNotFoundError):
        instances = (places.releases.parent / "processes").iterdir()
        used = {release for link in instances if (release := layout.release_at(link))}
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
        with contextlib.suppress(OSError):
            paths += re.findall(r"/[^\n]*", (process / "maps").read_text(errors="surrogateescape"))
        for path in paths:
            if path.startswith(root):
                used.add(path[len(root) :].partition("/")[0].removesuffix(" (deleted)"))
    return used


def check_identity(identity: str) -> None:
    """An id becomes a folder's name."""
    if not _IDENTITY.fullmatch(identity):
        raise BatonError(f"{identity!r} can't be the id of a release.", "Give the id that artifact returned.")


@contextlib.contextmanager
def locked(places: ReleaseStore) -> Iterator[None]:
    """One at a time writes to the releases."""
    make_folder(places.state)
    with (places.state / "releases.lock").open("w") as file:
        if not file_lock.taken_within(file, _LOCK_WAIT):
            raise BatonError(
                "Another run stages or prunes releases here for very long.",
                f"See who holds {file.name} (fuser), and end it.",
            )
        yield


def sweep(places: ReleaseStore) -> list[str]:
    """Remove what an interrupted run left: hidden folders, and folders that were never complete.

    A folder that a process lives on stays.
    """
    removed = []
    if places.releases.is_dir():
        for folder in sorted(places.releases.iterdir()):
            if folder.is_symlink() or not folder.is_dir():
                continue
            half_made = not folder.name.startswith(".") and not (folder / "release.json").exists()
            if folder.name.startswith((STAGING, _REMOVING)):
                shutil.rmtree(folder)
                removed.append(folder.name)
            elif half_made and folder.name != current(places) and folder.name not in in_use(places):
                remove(places, folder)
                removed.append(folder.name)
    return removed


def remove(places: ReleaseStore, folder: Path) -> None:
    """Away in one step, so that nobody takes a half-removed release for a release."""
    hidden = places.releases / f"{_REMOVING}{folder.name}"
    shutil.rmtree(hidden, ignore_errors=True)
    folder.rename(hidden)
    shutil.rmtree(hidden)


def prune(places: ReleaseStore, keep: int, *, dry: bool) -> dict[str, Any]:
    """Keep so many old releases beside the current one; never touch one that something lives on."""
    guard = contextlib.nullcontext() if dry else locked(places)
    with guard:
        serving = current(places)
        # beside what serves, the newest so many. Those that could serve go before those that only were to: one that
        # failed must not push out what there is to go back to
        before = layout.served_in(places.state / "active.json")
        order = [identity for identity in complete(places) if identity != serving]
        order.sort(key=lambda identity: before.index(identity) if identity in before else len(before))
        spared = in_use(places)
        doomed = [identity for identity in order[keep:] if identity not in spared]
        if not dry:
            sweep(places)
            for identity in doomed:
                remove(places, places.releases / identity)
        kept = [identity for identity in order if identity not in doomed]
        return {"changed": bool(doomed), "removed": doomed, "kept": kept, "current": serving}
