"""Activating a release on one host: its process types follow one after another, or all of them go back.

How the processes of a type follow, and how that is proven, is for its strategy: see `handover`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import subprocess
import time
import traceback
from collections.abc import Sequence
from typing import Any, Protocol

from ..app import health_check, layout, masking
from ..app.health_check import Health
from ..app.layout import WEB, ActivationError, Application, ProcessType
from ..host import atomic_file, systemd
from . import background, digests, snapshot
from .background import STOP_MARGIN, Background
from .digests import Way
from .handover import Handover
from .schedule import Schedule


class ProcessChange(Protocol):
    """How the processes of a type follow those of another release, and come back: what a strategy has to know."""

    way: Way  # what is to be done; "none" when nothing is
    wanted: digests.Digests

    def __init__(
        self, app: Application, process: ProcessType, release: str, timeout: float, *, renew: bool
    ) -> None: ...

    def execute(self) -> None:
        """Let the release's processes run, with a proof. Raises ActivationError, UnitError, OSError."""

    def put_back(self) -> None:
        """Let the previous ones run, which are `wanted` by now, whatever has been done. Raises as `execute` does."""

    def unproven(self) -> str:
        """Why they don't prove that they are of the wanted release; empty when they do."""

    def refusal(self, began: float) -> str:
        """The processes' own word for a failure after a moment of the monotonic clock; empty when there is none."""

    def result(self) -> dict[str, Any]:
        """What was done, for people; empty when the activation's own result says it."""


# by the name that the layout has for it
STRATEGIES: dict[str, type[ProcessChange]] = {
    "handover": Handover,
    **dict.fromkeys(layout.STRATEGIES, Background),
    layout.TIMER: Schedule,
}
# what a host does to an activation: a unit that doesn't start, a disk that is full or broken
FAILURES = (systemd.UnitError, OSError, subprocess.SubprocessError)


def take_socket_folder(app: Application) -> None:
    """Make the socket's folder root's on a host where it was the application's, unless its unit still writes there.

    Not before the units that keep their status elsewhere have taken over: the others could no longer be reloaded.
    """
    if f"GUNICORN_HANDOVER_STATUS=/run/{app.name}/".encode() in digests.content(
        app.path("etc/systemd/system", app.service)
    ):
        return
    try:
        folder = os.open(app.socket_folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return  # the application listens elsewhere
    try:
        if os.fstat(folder).st_uid != os.geteuid():
            os.fchown(folder, 0, 0)
            os.fchmod(folder, 0o755)
            for name in ("handover.json", "bridge.json"):
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=folder)
    finally:
        os.close(folder)


class Activation:
    """One change from what serves to a release, with the way back."""

    def __init__(
        self,
        app: Application,
        release: str,
        timeout: float,
        health: Health | None = None,
        *,
        renew: bool = False,
        transaction: str = "",
        back: bool = False,
        served_before: Sequence[str] | None = None,
        part: str = "all",
    ) -> None:
        """`transaction` names the change of the fleet that this one is a part of: `revert` can undo it by that, with a
        change that leads `back`, to what had been `served_before`.

        `part`: the process types that follow, all or those of that part. `current` moves with the web processes.
        """
        self.app = app
        self.timeout = timeout
        self.health = health
        self.transaction = transaction
        self.back = back
        self.served_before = layout.served(app) if served_before is None else served_before
        self.release = release
        self.before = layout.current(app)
        # by the names of the process types, in the order in which the release reaches them. Those before the web
        # processes know the jobs that the new ones hand out; on the way back no such job may be handed out any more
        processes = [process for process in app.processes if part in ("all", process.part)]
        if back:
            processes.sort(key=lambda process: process.name != WEB)
        self.changes: dict[str, ProcessChange] = {
            process.name: STRATEGIES[process.strategy](app, process, release, timeout, renew=renew)
            for process in processes
        }

    @property
    def way(self) -> Way:
        """How the web processes follow; that of the first type which changes, when they stay as they are."""
        ways = [change.way for _, change in sorted(self.changes.items(), key=lambda item: item[0] != WEB)]
        return next((way for way in ways if way != "none"), "none")

    def execute(self) -> dict[str, dict[str, Any]]:
        """Hand over, or put back what was; returns `results`. Raises ActivationError."""
        if self.way == "none":
            take_socket_folder(self.app)
            return self.results()
        started, began = time.time(), time.monotonic()
        try:
            if self.transaction:
                snapshot.snapshot(self.app, self.transaction)
            if self.release != self.before:
                layout.sync_filesystem(self.app.release(self.release))
            if WEB in self.changes:
                layout.switch_current(self.app, self.release)
            for change in self.changes.values():
                change.execute()
            if WEB in self.changes:
                self._check_health()
                take_socket_folder(self.app)
            if not self.back:
                self._remember()
        # whatever it is: what was begun goes back
        except Exception as error:
            # its secrets go with it, and what failed may have logged them
            cause = masking.masked(self.app.name, self._cause(error, started, began), root=self.app.root)
            raise ActivationError(f"{cause}\n{self._put_back()}") from None
        if self.back:
            # what is left behind is no better for a disk that is full
            try:
                self._remember()
            except FAILURES as error:
                raise ActivationError(
                    f"Release {self.release} serves again, which could not be recorded: {error}. "
                    "Check that disk, then run this again."
                ) from None
        return self.results()

    def results(self) -> dict[str, dict[str, Any]]:
        """What was done to the process types whose changes have more to say than the way of the web processes."""
        return {
            name: result
            for name, change in self.changes.items()
            if change.way != "none" and (result := change.result())
        }

    def _check_health(self) -> None:
        if self.health is None:
            return
        why = health_check.wait_healthy(self.health, min(self.timeout, 15))
        if why:
            raise ActivationError(f"{self.health.path} {why}.")

    def _cause(self, error: Exception, started: float, began: float) -> str:
        said = str(error) or systemd.tail(self.app.service, started)
        if not isinstance(error, (*FAILURES, ActivationError)):
            said = "".join(traceback.format_exception(error)).strip()
        if isinstance(error, OSError):
            said = f"{said}. Check that disk, then run this again."
        for change in self.changes.values():
            if refusal := change.refusal(began):
                said = f"{refusal}. It logged last:\n{said}"
        return f"Release {self.release} could not be activated ({self.way}): {in_operator_s_words(said)}"

    def _put_back(self) -> str:
        """Let what served before serve again; says in a sentence what serves now."""
        app, before = self.app, self.before
        try:
            layout.switch_current(app, before)  # first, as it needs no room on the disk
            if before is not None:
                for change in self.changes.values():
                    change.wanted = dataclasses.replace(change.wanted, release=before)
            snapshot.restore(app, app.kept)
            systemd.systemctl("daemon-reload")
            if before is None:
                _stop_all(app, self.timeout)
                return "This host has no release, as before."
            for change in reversed(self.changes.values()):
                change.put_back()
        except (*FAILURES, ActivationError) as error:
            if before is None:
                return f"This host had no release before, and the started units could not be removed: {error}"
            if any(change.unproven() for change in self.changes.values()):
                return f"Release {before} could not be restored: {error}"
            return f"Release {before} serves, as before, but its settings could not be restored: {error}"
        return f"Release {before} serves, as before."

    def _remember(self) -> None:
        """Note what serves now, and keep its configuration; a full disk fails before either is changed."""
        declared = {process.name for process in self.app.processes if process.declared}
        wanted = {**digests.all_recorded(self.app), **{name: change.wanted for name, change in self.changes.items()}}
        processes = {name: dataclasses.asdict(one) for name, one in wanted.items() if name in declared}
        if WEB not in self.changes:
            self._remember_background(processes)
            return
        known = [self.release, *(release for release in self.served_before if release != self.release)]
        record = {
            "processes": processes,
            "way": self.way,
            "since": time.time(),
            # those that are pruned don't count any more
            "served": [release for release in known if self.app.release(release).exists()],
        }
        text = json.dumps(record, indent=1) + "\n"
        with atomic_file.replacing(self.app.record, text, mode=0o600), snapshot.replaced_folder(self.app.kept) as kept:
            snapshot.keep(self.app, kept)
            layout.sync_filesystem(self.app.record.parent)

    def _remember_background(self, processes: dict[str, Any]) -> None:
        """Note the background processes alone: the rest of the configuration is not known to serve yet."""
        note = {**layout.noted(self.app.record), "processes": processes}
        note.pop("digests", None)  # of a record from before there were process types
        with atomic_file.replacing(self.app.record, json.dumps(note, indent=1) + "\n", mode=0o600):
            if self.app.kept.exists():
                with snapshot.replaced_folder(self.app.kept) as kept:
                    snapshot.keep(self.app, kept, "before_web")
                    layout.sync_filesystem(self.app.record.parent)


def in_operator_s_words(said: str) -> str:
    """What the master said, with the setting that the operator knows."""
    return re.sub(r"\bhandover_(boot_timeout|warmup_\w+)", r"app_service_\1", said)


def revert(app: Application, transaction: str, timeout: float, health: Health | None = None) -> Way:
    """Let what served here before a transaction serve again, configuration and release, by the same gated way.

    Harmless on a host that the transaction has not switched: configuration that was written there and never
    activated goes back too. Returns the way that it took. Raises ActivationError.
    """
    try:
        noted = snapshot.last(app)
        if noted.get("transaction") == transaction:
            release: str | None = noted["release"]
            snapshot.restore(app, app.before / "kept")
        else:
            noted, release = {}, layout.current(app)
            snapshot.restore(app, app.kept)
        systemd.systemctl("daemon-reload")
        if release is None:
            serves = layout.current(app) is not None or any(
                systemd.is_active(unit) for process in app.processes for unit in process.running
            )
            _stop_all(app, timeout)
            return "stop" if serves else "none"
    except FAILURES as error:
        raise ActivationError(
            f"The previous release could not be restored: {error}. Check that disk, then run this again."
        ) from None
    # one that was put back has not served: a rollback may not choose it, nor may it push out those that have
    activation = Activation(app, release, timeout, health, back=True, served_before=noted.get("served"))
    activation.execute()
    return activation.way


def _stop_all(app: Application, timeout: float) -> None:
    """Let nothing be served, as before the first release."""
    units = [unit for process in app.processes for unit in process.running]
    patience = max(timeout, *(process.stop_timeout + STOP_MARGIN for process in app.processes))
    systemd.systemctl("stop", *units, timeout=patience)
    for process in app.processes:
        background.forget(app, process.name)
    layout.switch_current(app, None)
    if app.record.exists():
        app.record.unlink()
        atomic_file.sync_folder(app.record.parent)
