"""Find packages in a lock that are too old, before anything is resolved or fetched.

A quick check of existing locks. It only refuses what is certain to be installed; the build of the artifact finds the
rest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from ..app import floors
from ..host.command import BatonError
from . import lockfile, requirements, source, source_tree
from .server_versions import SUPPORTED
from .targets import Target
from .toolchain import read_toml

# bytes of a lock; larger ones are only checked by the build
_LARGEST = 2**22
_ANY_HOST = [Target(minor, "x86_64", (2, 36)) for minor in range(lockfile.OLDEST_MINOR, lockfile.OLDEST_MINOR + 5)]


def problems(values: Mapping[str, Any], bases: Iterable[str]) -> list[str]:
    """Return a sentence about too old packages in a folder's lock; empty if there are none or it is uncertain.

    `values`: the settings by name.
    """
    given = values.get(floors.SETTING) or []
    allowed = given.split(",") if isinstance(given, str) else [str(name) for name in given]  # as Ansible parses lists
    try:
        name, found = _read(values, list(bases))
    except (BatonError, OSError, ValueError, KeyError, TypeError, AttributeError):
        name, found = "", {}  # the build reports it
    # several versions for different targets: only the newest counts. Too old server packages are replaced
    versions = {
        package: max(several, key=lambda version: floors.order(version) or (0, (), False))
        for package, several in found.items()
        if several and package not in SUPPORTED
    }
    try:
        floors.check(versions, allowed, f"{name} (read on the controller)")
    except BatonError as error:
        return [str(error)]
    return []


def _read(values: Mapping[str, Any], bases: list[str]) -> tuple[str, dict[str, set[str]]]:
    """Return the lock's name, and its versions of each package in FLOORS."""
    origin = source.classify(str(values.get("app_source") or ""), str(values.get("app_version") or ""), bases)
    if origin.kind != "folder" or values.get("app_release_build_command") or values.get("app_release_files"):
        return "", {}
    root = Path(origin.where)
    subdir = source_tree.inside(str(values.get("app_source_subdir") or ""), "app_source_subdir")
    lock = lockfile.find(root, subdir, str(values.get("app_release_lock") or ""))
    if lock is None or lock[1].stat().st_size > _LARGEST or not lock[1].resolve().is_relative_to(root.resolve()):
        return "", {}
    kind, path = lock
    readers = {"uv.lock": _uv, "poetry.lock": _poetry, "requirements.txt": _requirements}
    found: dict[str, set[str]] = {}
    if kind in readers:
        for package, version in readers[kind](path, root / subdir, root):
            if package in floors.FLOORS:
                found.setdefault(package, set()).add(version)
    return str(path.relative_to(root)), found


def _holds(marker: str) -> bool:
    return any(host.holds(marker) for host in _ANY_HOST)


def _requirements(path: Path, project: Path, root: Path) -> Iterator[tuple[str, str]]:
    for pin in requirements.read(path, root=project, within=root).pins:
        if pin.version and _holds(pin.marker):
            yield pin.name, pin.version


def _poetry(path: Path, _project: Path, _root: Path) -> Iterator[tuple[str, str]]:
    for package in read_toml(path, path.name)["package"]:
        markers = package.get("markers", "")
        marker = markers if isinstance(markers, str) else markers.get("main", "")
        if "main" in package.get("groups", ()) and not package["optional"] and _holds(marker):
            yield canonicalize_name(package["name"]), str(package["version"])


def _uv(path: Path, project: Path, _root: Path) -> Iterator[tuple[str, str]]:
    """Yield the project's dependencies in uv.lock, without groups and without extras that nothing requires."""
    packages: list[dict[str, Any]] = read_toml(path, path.name)["package"]
    named: dict[str, list[dict[str, Any]]] = {}
    for package in packages:
        named.setdefault(package["name"], []).append(package)
    waiting = [
        (package, "")
        for package in packages
        for place in ("editable", "virtual", "directory")
        if (path.parent / package.get("source", {}).get(place, "/")).resolve() == project.resolve()
    ]
    seen = set()
    while waiting:
        package, extra = waiting.pop()
        if (id(package), extra) in seen:
            continue
        seen.add((id(package), extra))
        with contextlib.suppress(KeyError):  # a dynamic version isn't in the lock
            yield package["name"], str(package["version"])
        needed = package.get("optional-dependencies", {}).get(extra, []) if extra else package.get("dependencies", [])
        for one in needed:
            if not _holds(one.get("marker", "")):
                continue
            for candidate in named.get(one["name"], []):
                if one.get("version") in (None, candidate.get("version")):
                    waiting += [(candidate, wanted) for wanted in ("", *one.get("extra", []))]
