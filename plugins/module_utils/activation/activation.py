"""Activate a release on one host: replace the processes of each type in order, or revert all of them.

A strategy replaces the processes of one type and proves the result: see `handover`.
"""

from __future__ import annotations

import collections
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
from ..app.layout import STOP_MARGIN, WEB, ActivationError, Application, ProcessType
from ..host import atomic_file, systemd
from . import background, digests, snapshot
from .background import Background
from .digests import Method
from .handover import Handover
from .schedule import Schedule


class ProcessChange(Protocol):
    """Strategy that replaces the processes of one type with those of another release."""

    method: Method  # "none" if nothing has to change
    wanted: digests.Digests

    def __init__(
        self, app: Application, process: ProcessType, release: str, timeout: float, *, restart_workers: bool
    ) -> None: ...

    def execute(self) -> None:
        """Start the release's processes and prove them. Raises ActivationError, UnitError, OSError."""

    def revert(self) -> None:
        """Restore the previous processes, which `wanted` describes by now. Raises the errors of `execute`.

        Works at whatever point `execute` failed.
        """

    def unproven(self) -> str:
        """Return why the processes aren't proven to run the wanted release; empty if they are."""

    def refusal(self, began: float) -> str:
        """Return the failure that the processes reported since `began` (monotonic clock); empty if none."""

    def result(self) -> dict[str, Any]:
        """Return what was done, for the module's result; empty if the activation's own result covers it."""


# by the strategy's name in `layout`
STRATEGIES: dict[str, type[ProcessChange]] = {
    "handover": Handover,
    "overlap": Background,
    "replace": Background,
    layout.TIMER: Schedule,
}
# failures of the host: a unit that doesn't start, a disk that is full or broken
FAILURES = (systemd.UnitError, OSError, subprocess.SubprocessError)


def own_socket_folder(app: Application) -> None:
    """Give the socket's folder to root if the application owned it, unless the unit still writes its status there.

    Called only after the units that write their status elsewhere serve; older ones could no longer be reloaded.
    """
    if f"GUNICORN_HANDOVER_STATUS=/run/{app.name}/".encode() in digests.content(
        app.path("etc/systemd/system", app.service)
    ):
        return
    try:
        folder = os.open(app.socket_folder, os.O_DIRECTORY | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        return  # the application listens at another address
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
    """One change on one host from the current release to another, which reverts itself if it fails."""

    def __init__(
        self,
        app: Application,
        release: str,
        timeout: float,
        health: Health | None = None,
        *,
        restart_workers: bool = False,
        transaction: str = "",
        back: bool = False,
        served_before: Sequence[str] | None = None,
        part: str = "all",
    ) -> None:
        """Compare what runs with the release and choose each type's method; `execute` makes the change.

        `timeout`: seconds that one step may take. `restart_workers`: replace every process although nothing changed.
        `transaction`: token of the fleet-wide change; `revert` undoes the change by this token. `back`: this activation
        is such a revert. `served_before`: releases that had served, latest first; by default as recorded.
        `part`: replace all process types, or only those of this part. `current` moves with the web processes.
        """
        self.app = app
        self.timeout = timeout
        self.health = health
        self.transaction = transaction
        self.back = back
        self.served_before = layout.served(app) if served_before is None else served_before
        self.release = release
        self.before = layout.current(app)
        # in activation order: types before `web` understand the jobs that the new web processes enqueue. A revert
        # replaces `web` first, so that nothing enqueues such jobs any more
        processes = [process for process in app.processes if process.is_in(part)]
        if back:
            processes.sort(key=lambda process: process.name != WEB)
        names = collections.Counter(process.name for process in app.processes)
        self.changes: dict[str, ProcessChange] = {}
        for process in processes:
            change = STRATEGIES[process.strategy](app, process, release, timeout, restart_workers=restart_workers)
            if isinstance(change, Schedule):
                change.back = back
            # a process type and a schedule have the same name if that was moved from one to the other
            key = process.name if process.declared or names[process.name] == 1 else process.setting
            self.changes[key] = change

    @property
    def method(self) -> Method:
        """The method of the web processes; if they don't change, that of the first type that does."""
        methods = [change.method for _, change in sorted(self.changes.items(), key=lambda item: item[0] != WEB)]
        return next((method for method in methods if method != "none"), "none")

    def execute(self) -> dict[str, dict[str, Any]]:
        """Replace the processes, or revert and raise ActivationError. Returns `results`."""
        if self.method == "none":
            if WEB in self.changes:
                own_socket_folder(self.app)
                self._record_commands()
            return self.results()
        started, began = time.time(), time.monotonic()
        try:
            if self.transaction:
                snapshot.snapshot(self.app, self.transaction)
            if self.release != self.before:
                layout.sync_filesystem(self.app.release(self.release))
            if WEB in self.changes:
                layout.set_current(self.app, self.release)
            for change in self.changes.values():
                change.execute()
            if WEB in self.changes:
                self._check_health()
                own_socket_folder(self.app)
            if not self.back:
                self._record()
        # any error at all: what was begun has to be reverted
        except Exception as error:
            # mask before the revert restores the previous secrets: the log may contain those of this change
            cause = masking.masked(self.app.name, self._cause(error, started, began), root=self.app.root)
            raise ActivationError(f"{cause}\n{self._revert()}") from None
        if self.back:
            # the previous release serves already: a full disk is no reason to undo that
            try:
                self._record()
            except FAILURES as error:
                raise ActivationError(
                    f"Release {self.release} serves again, but this could not be recorded: {error}. "
                    "Check that disk, then run this again."
                ) from None
        return self.results()

    def results(self) -> dict[str, dict[str, Any]]:
        """Return what was done, by process type, for the types whose strategy reports more than the method."""
        return {
            name: result
            for name, change in self.changes.items()
            if change.method != "none" and (result := change.result())
        }

    def _check_health(self) -> None:
        if self.health is None:
            return
        why = health_check.wait_healthy(self.health, min(self.timeout, 15))
        if why:
            raise ActivationError(f"{self.health.path} {why}.")

    def _cause(self, error: Exception, started: float, began: float) -> str:
        cause = str(error) or systemd.tail(self.app.service, started)
        if not isinstance(error, (*FAILURES, ActivationError)):
            cause = "".join(traceback.format_exception(error)).strip()
        if isinstance(error, OSError):
            cause = f"{cause}. Check that disk, then run this again."
        for change in self.changes.values():
            if refusal := change.refusal(began):
                cause = f"{refusal}. It logged last:\n{cause}"
        return f"Release {self.release} could not be activated ({self.method}): {with_setting_names(cause)}"

    def _revert(self) -> str:
        """Restore the previous release and configuration. Returns a sentence with the release that is active."""
        app, before = self.app, self.before
        try:
            layout.set_current(app, before)  # first: it needs no disk space
            if before is not None:
                for change in self.changes.values():
                    change.wanted = dataclasses.replace(change.wanted, release=before)
            snapshot.restore(app, app.kept)
            systemd.systemctl("daemon-reload")
            if before is None:
                _stop_all(app, self.timeout)
                return "This host has no release, as before."
            for change in reversed(self.changes.values()):
                change.revert()
        except (*FAILURES, ActivationError) as error:
            if before is None:
                return f"This host had no release before, and the started units could not be removed: {error}"
            if any(change.unproven() for change in self.changes.values()):
                return f"Release {before} could not be restored: {error}"
            return f"Release {before} serves, as before, but its settings could not be restored: {error}"
        return f"Release {before} serves, as before."

    def _record(self) -> None:
        """Record the active release and keep a copy of its configuration. On a full disk, neither is changed."""
        # types that the other part of a change will remove stay, so that an interrupted change is known
        names = {one.name for one in self.app.processes if one.declared or one.name not in self.changes}
        wanted = {**digests.all_recorded(self.app), **{name: change.wanted for name, change in self.changes.items()}}
        processes = {name: dataclasses.asdict(one) for name, one in wanted.items() if name in names}
        if WEB not in self.changes:
            self._record_background(processes)
            return
        served = [self.release, *(release for release in self.served_before if release != self.release)]
        # without releases that have been pruned
        served = [release for release in served if self.app.release(release).exists()]
        commands = self._commands()
        record = {
            "processes": processes,
            "method": self.method,
            "since": time.time(),
            "served": served,
            # a rollback to a release compares them
            "commands": {release: commands[release] for release in served if release in commands},
        }
        text = json.dumps(record, indent=1) + "\n"
        with atomic_file.replacing(self.app.record, text, mode=0o600), snapshot.replaced_folder(self.app.kept) as kept:
            snapshot.keep(self.app, kept)
            layout.sync_filesystem(self.app.record.parent)

    def _commands(self) -> dict[str, dict[str, str]]:
        """Return the commands of each release that has served, with those of the current one as declared now."""
        recorded = layout.recorded_commands(self.app)
        return {**recorded, self.release: self.app.commands} if self.release == layout.current(self.app) else recorded

    def _record_commands(self) -> None:
        """Record the current release's commands where its web processes don't change. Raises ActivationError."""
        record, commands = layout.read_json_or_empty(self.app.record), self._commands()
        if not record or commands == record.get("commands"):
            return
        try:
            atomic_file.write(
                self.app.record, json.dumps({**record, "commands": commands}, indent=1) + "\n", mode=0o600
            )
        except OSError as error:
            raise ActivationError(
                f"Nothing had to be changed, but the commands could not be recorded: {error}. "
                "Check that disk, then run this again."
            ) from None

    def _record_background(self, processes: dict[str, Any]) -> None:
        """Record only the background processes: the rest of the configuration isn't known to serve yet."""
        record = {**layout.read_json_or_empty(self.app.record), "processes": processes}
        record.pop("digests", None)  # records of versions without process types have it
        with atomic_file.replacing(self.app.record, json.dumps(record, indent=1) + "\n", mode=0o600):
            if self.app.kept.exists():
                with snapshot.replaced_folder(self.app.kept) as kept:
                    snapshot.keep(self.app, kept, "before_web")
                    layout.sync_filesystem(self.app.record.parent)


def with_setting_names(message: str) -> str:
    """Return a message of the master with the role's names for settings instead of Gunicorn's."""
    return re.sub(r"\bhandover_(boot_timeout|warmup_\w+)", r"app_service_\1", message)


def revert(app: Application, transaction: str, timeout: float, health: Health | None = None) -> Method:
    """Restore the release and configuration that served here before a transaction, by a proven activation.

    On a host where the transaction activated nothing, only restores configuration that was written and never
    activated. Returns the method that was used. Raises ActivationError.
    """
    try:
        before = snapshot.last(app)
        if before.get("transaction") == transaction:
            release: str | None = before["release"]
            snapshot.restore(app, app.before / "kept")
        else:
            before, release = {}, layout.current(app)
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
    # the reverted release is left out of `served`, so that a rollback can't choose it
    activation = Activation(app, release, timeout, health, back=True, served_before=before.get("served"))
    activation.execute()
    return activation.method


def _stop_all(app: Application, timeout: float) -> None:
    """Stop all units and remove `current` and the record, as before the first release."""
    units = [unit for process in app.processes for unit in process.running]
    stop_timeout = max(timeout, *(process.stop_timeout + STOP_MARGIN for process in app.processes))
    systemd.systemctl("stop", *units, timeout=stop_timeout)
    for process in app.processes:
        if process.name != WEB:
            background.remove_instances(app, process)
    layout.set_current(app, None)
    if app.record.exists():
        app.record.unlink()
        atomic_file.sync_folder(app.record.parent)
