"""Cache packed modules between runs, and load what every task needs only once."""

from __future__ import annotations

DOCUMENTATION = r"""
name: module_cache
author: Baton contributors (!UNKNOWN)
type: aggregate
short_description: Caches packed modules between runs, and loads once what every task needs
description:
  - Ansible packs a module with everything that it imports when a run first needs it, which takes 0.3 s of processor
    time, and discards it at the end of the run. This callback keeps the packed modules of Ansible and of this
    collection in C($XDG_CACHE_HOME/baton/packed), below a digest of their input.
  - Ansible reads variable files and loads filters again for each task and host, unless they were loaded before it
    forks. This callback loads them first.
  - Cached files are placed where Ansible looks for them. If that fails, Ansible works as without this callback.
"""

import contextlib
import gc
import hashlib
import os
import pathlib
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import ansible
from ansible import constants
from ansible.plugins import loader
from ansible.plugins.callback import CallbackBase

PROJECT = pathlib.Path(__file__).parents[2]

from ansible_collections.baton.web.plugins.module_utils.artifact import toolchain

# modules of other collections aren't cached, because `sources` doesn't include their files
OWN = ("ansible_collections.baton.web.", "ansible.modules.")
PART = "-part"  # suffix of incomplete files, Ansible's and this callback's
KEPT = 3  # number of digests, for several checkouts, or before and after an upgrade


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Provides the modules that earlier runs packed, and caches those of this run."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "baton.web.module_cache"

    def __init__(self) -> None:
        super().__init__()
        self._cache: pathlib.Path | None = None

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Load what every task needs, and provide the cached modules."""
        # as Ansible reads them, but cached; a checkout's playbooks have other paths than below the collection's link
        for root in (PROJECT, PROJECT.resolve()):
            for variables in sorted(root.glob("playbooks/vars/*.yml")):
                playbook._loader.load_from_file(str(variables), cache="all", unsafe=True, trusted_as_template=True)
        with contextlib.suppress(OSError):
            self._cache = cache_folder()
            link_cached(self._cache, packed())
        # otherwise the fork of each task would load them
        for plugins in (loader.filter_loader, loader.test_loader):
            list(plugins.all())
        # those of a collection only load when one of them is asked for, but then all of them
        loader.filter_loader.get("baton.web.failures")
        # otherwise the garbage collector of each fork would touch, and so copy, all memory
        os.register_at_fork(after_in_child=gc.freeze)

    def v2_playbook_on_stats(self, _stats: Any) -> None:
        """Cache new modules."""
        with contextlib.suppress(OSError):
            # not if sources changed during the run: then it is unknown which version was packed
            if self._cache is not None and self._cache == cache_folder():
                store(packed(), self._cache)
                prune(self._cache)


def packed() -> pathlib.Path:
    """Return Ansible's folder of modules that were packed in this run."""
    return pathlib.Path(constants.DEFAULT_LOCAL_TMP, "ansiballz_cache")


def cache_folder() -> pathlib.Path:
    """Return the cache folder for the current sources."""
    hasher = hashlib.sha256(sys.version.encode())
    for path in sources():
        about = path.stat()
        hasher.update(f"{path} {about.st_size} {about.st_mtime_ns} {about.st_ino} ".encode())
    root: pathlib.Path = toolchain.cache_folder()
    return root / "packed" / hasher.hexdigest()[:16]


def sources() -> Iterator[pathlib.Path]:
    """Yield the files of modules, of their imports, and of the code that packs them: the project's and Ansible's."""
    for root in (PROJECT / "plugins", pathlib.Path(ansible.__file__).parent):
        for folder in ("modules", "module_utils", "executor", "_internal/_ansiballz"):
            yield from sorted((root / folder).rglob("*.py"))


def link_cached(source: pathlib.Path, target: pathlib.Path) -> None:
    """Link cached modules into Ansible's folder. Ansible packs a module again if its link is dangling."""
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in source.glob("*"):
        if not path.name.endswith(PART):
            (target / path.name).symlink_to(path)


def store(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copy packed modules that aren't cached yet, atomically."""
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in source.glob("*"):
        # the folder also has Ansible's locks and incomplete files
        if path.name.startswith(OWN) and path.suffix != ".lock" and not path.name.endswith(PART):
            place = target / path.name
            if not place.exists():
                scratch = place.with_name(f"{place.name}.{os.getpid()}{PART}")
                with scratch.open("wb") as file:
                    file.write(path.read_bytes())
                    file.flush()
                    os.fsync(file.fileno())
                scratch.rename(place)


def prune(used: pathlib.Path) -> None:
    """Remove the least recently used digests."""
    os.utime(used)
    for old in sorted(used.parent.iterdir(), key=lambda path: path.stat().st_mtime)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
