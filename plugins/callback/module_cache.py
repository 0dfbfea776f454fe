"""Keeps what Ansible would otherwise do anew in every run, and for every task."""

from __future__ import annotations

DOCUMENTATION = r"""
name: module_cache
author: Baton contributors (!UNKNOWN)
type: aggregate
short_description: Keeps packed modules from one run to the next, and loads once what every task needs
description:
  - Ansible packs a module with all that it imports when a run first needs it, which takes 0.3 s of a processor, and
    forgets it at the run's end. Those of Ansible itself and of this project are kept in
    C($XDG_CACHE_HOME/baton/packed), below a digest of all that goes into them.
  - Ansible reads a file of variables anew for each task and host, unless it has read it before for another purpose;
    filters are loaded anew for each, unless they were before.
  - What is kept lies where Ansible looks for it. Where it doesn't look there, or the cache can't be used, it does
    everything itself, as it would without this.
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

# of those of collections nobody knows here when they change
OWN = ("ansible_collections.baton.web.", "ansible.modules.")
PART = "-part"  # what isn't whole yet, in Ansible's words and here
KEPT = 3  # digests: of one controller's checkouts, or before and after an upgrade


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Gives the run what earlier ones have packed, and keeps what this one packs."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "baton.web.module_cache"

    def __init__(self) -> None:
        super().__init__()
        self._kept: pathlib.Path | None = None

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Load what every task needs, and hand over what is packed already."""
        # as Ansible reads it, with one difference: what is read is kept
        for variables in sorted(PROJECT.glob("playbooks/vars/*.yml")):
            playbook._loader.load_from_file(str(variables), cache="all", unsafe=True, trusted_as_template=True)
        with contextlib.suppress(OSError):
            self._kept = kept()
            lend(self._kept, packed())
        # each task runs in a fork of this process, which would load them for itself
        for plugins in (loader.filter_loader, loader.test_loader):
            list(plugins.all())
        # a fork whose collector looks through what was loaded before copies all of it
        os.register_at_fork(after_in_child=gc.freeze)

    def v2_playbook_on_stats(self, _stats: Any) -> None:
        """Keep what is new."""
        with contextlib.suppress(OSError):
            # what was changed meanwhile was packed before or after
            if self._kept is not None and self._kept == kept():
                keep(packed(), self._kept)
                prune(self._kept)


def packed() -> pathlib.Path:
    """Where Ansible has the modules that it packed in this run."""
    return pathlib.Path(constants.DEFAULT_LOCAL_TMP, "ansiballz_cache")


def kept() -> pathlib.Path:
    """Where they are kept for as long as nothing changes that goes into them."""
    hasher = hashlib.sha256(sys.version.encode())
    for path in sources():
        about = path.stat()
        hasher.update(f"{path} {about.st_size} {about.st_mtime_ns} {about.st_ino} ".encode())
    cache: pathlib.Path = toolchain.cache_folder()
    return cache / "packed" / hasher.hexdigest()[:16]


def sources() -> Iterator[pathlib.Path]:
    """The modules and what they import, the project's and Ansible's, and what packs them."""
    for root in (PROJECT / "plugins", pathlib.Path(ansible.__file__).parent):
        for folder in ("modules", "module_utils", "executor", "_internal/_ansiballz"):
            yield from sorted((root / folder).rglob("*.py"))


def lend(source: pathlib.Path, target: pathlib.Path) -> None:
    """Let the run find what is kept; Ansible packs anew what a link doesn't lead to any more."""
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in source.glob("*"):
        if not path.name.endswith(PART):
            (target / path.name).symlink_to(path)


def keep(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copy what was packed and isn't kept yet; none is ever seen half there."""
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in source.glob("*"):
        # beside them are Ansible's locks and unfinished ones
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
    """Remove what hasn't been used for the longest time."""
    os.utime(used)
    for old in sorted(used.parent.iterdir(), key=lambda path: path.stat().st_mtime)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
