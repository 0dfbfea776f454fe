"""Handing an application over to a release on one host: what is to be done, how, and the proof.

The way is chosen from what changed since the last activation, never by the user:
`start` when nothing serves, `reload` (HUP) for code, settings and gunicorn.conf.py, and `bridge` (a second service on
the same socket while the first restarts) for what a HUP can't carry: Python, the server's packages, unit, secrets, and
system libraries that an upgrade replaced.
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

from ..app.health_check import Health, wait_healthy
from ..app.layout import ActivationError, Application, current, served, switch_current, sync_filesystem
from ..app.server_status import read, unproven
from ..host import systemd
from .digests import Way, _content, choose, digests
from .snapshot import _replaced, _snapshot, keep, restore, snapshot

# what a host does to a handover: a unit that doesn't start, a disk that is full or broken
FAILURES = (systemd.UnitError, OSError, subprocess.SubprocessError)


def take_socket_folder(app: Application) -> None:
    """Make the socket's folder root's on a host where it was the application's, unless its unit still writes there.

    Not before the units that keep their status elsewhere have taken over: the others could no longer be reloaded.
    """
    if f"GUNICORN_HANDOVER_STATUS=/run/{app.name}/".encode() in _content(app.path("etc/systemd/system", app.service)):
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
    ) -> None:
        """`transaction` names the change of the fleet that this one is a part of: `revert` can undo it by that, with a
        change that leads `back`, to what had been `served_before`.
        """
        self.app = app
        self.timeout = timeout
        self.health = health
        self.transaction = transaction
        self.back = back
        self.served_before = served(app) if served_before is None else served_before
        self.wanted = digests(app, release)
        self.before = current(app)
        self.switched = False
        self.reopened = False
        self.way = choose(app, self.wanted)
        if renew and self.way == "none":
            self.way = "reload"

    def execute(self) -> None:
        """Hand over, or put back what was. Raises ActivationError."""
        if self.way == "none":
            take_socket_folder(self.app)
            return
        started, began = time.time(), time.monotonic()
        try:
            if self.transaction:
                snapshot(self.app, self.transaction)
            if self.wanted.release != self.before:
                sync_filesystem(self.app.release(self.wanted.release))
            switch_current(self.app, self.wanted.release)
            getattr(self, f"_{self.way}")()
            self.switched = True
            self._check_health()
            take_socket_folder(self.app)
            if not self.back:
                self._remember()
        # whatever it is: what was begun goes back
        except Exception as error:
            raise ActivationError(f"{self._cause(error, started, began)}\n{self._put_back()}") from None
        if self.back:
            # what is left behind is no better for a disk that is full
            try:
                self._remember()
            except FAILURES as error:
                raise ActivationError(
                    f"Release {self.wanted.release} serves again, which could not be noted: {error}. "
                    "See to that disk and run this again."
                ) from None

    def _start(self) -> None:
        systemd.systemctl("reset-failed", self.app.service, self.app.bridge)
        systemd.change("start", self.app.socket, self.timeout)
        systemd.change("start", self.app.service, self.timeout)
        self._prove(self.app.service)
        self._end_bridge()

    def _reload(self) -> None:
        systemd.change("reload", self.app.service, self.timeout)
        self._prove(self.app.service)
        self._end_bridge()

    def _bridge(self) -> None:
        if systemd.is_active(self.app.service):
            self._end_bridge()  # it may serve another release than this one
        systemd.systemctl("reset-failed", self.app.bridge)
        systemd.change("start", self.app.bridge, self.timeout)
        self._prove(self.app.bridge)
        systemd.change("restart", self.app.service, self.timeout)
        self._prove(self.app.service)
        self._end_bridge()

    def _end_bridge(self) -> None:
        """Stop the bridge, also one that a killed handover left; one that died is no failure any more."""
        if systemd.is_active(self.app.bridge):
            systemd.change("stop", self.app.bridge, self.timeout)
        systemd.systemctl("reset-failed", self.app.bridge)

    def _reopen(self) -> None:
        """The socket itself changes: its address can't be had twice, so this one way has a gap."""
        self.reopened = True
        systemd.change("stop", self.app.service, self.timeout)
        systemd.change("restart", self.app.socket, self.timeout)
        self._start()

    def _unproven(self, unit: str) -> str:
        master = int(systemd.properties(unit, "MainPID").get("MainPID", "0"))
        return unproven(read(self.app, unit), self.wanted.release, master)

    def _prove(self, unit: str) -> None:
        deadline = time.monotonic() + min(self.timeout, 15)
        while True:
            why = self._unproven(unit)
            if not why:
                return
            if time.monotonic() > deadline:
                raise ActivationError(f"{unit} can't prove that it serves {self.wanted.release}: {why}.")
            time.sleep(0.05)

    def _check_health(self) -> None:
        if self.health is None:
            return
        why = wait_healthy(self.health, min(self.timeout, 15))
        if why:
            raise ActivationError(f"{self.health.path} {why}.")

    def _cause(self, error: Exception, started: float, began: float) -> str:
        said = str(error) or systemd.tail(self.app.service, started)
        if not isinstance(error, (*FAILURES, ActivationError)):
            said = "".join(traceback.format_exception(error)).strip()
        if isinstance(error, OSError):
            said = f"{said}. See to that disk and run this again."
        refused = read(self.app, self.app.service).get("reload") or {}
        # the master's own word for it, unless it is of an earlier reload
        if refused.get("error") and refused.get("began_monotonic", 0) >= began:
            said = f"{refused['error']}. It logged last:\n{said}"
        said = in_operator_s_words(said)
        return f"Release {self.wanted.release} could not take over ({self.way}): {said}"

    def _put_back(self) -> str:
        """Let what served before serve again; says in a sentence what serves now."""
        app, before = self.app, self.before
        try:
            switch_current(app, before)  # first, as it needs no room on the disk
            restore(app, app.kept)
            systemd.systemctl("daemon-reload")
            if before is None:
                _stop_all(app, self.timeout)
                return "Nothing was served here before, and nothing is now."
            self.wanted = dataclasses.replace(self.wanted, release=before)
            if self.reopened:
                self._reopen()  # the socket has its new address, or none
            elif not systemd.is_active(app.service):
                systemd.change("restart", app.service, self.timeout)
            elif self.switched or self._unproven(app.service):
                self._bridge() if self.way == "bridge" else self._reload()
            self._prove(app.service)
            self._end_bridge()
        except (*FAILURES, ActivationError) as error:
            if before is None:
                return f"Nothing was served here before, and what was begun could not be taken away: {error}"
            if self._unproven(app.service):
                return f"Release {before} could not be put back: {error}"
            return f"Release {before} serves, as before, but its settings could not be put back: {error}"
        return f"Release {before} serves, as before."

    def _remember(self) -> None:
        """Note what serves now, and keep its configuration; a full disk fails before either is changed."""
        known = [self.wanted.release, *(release for release in self.served_before if release != self.wanted.release)]
        text = json.dumps(
            {
                "digests": dataclasses.asdict(self.wanted),
                "way": self.way,
                "since": time.time(),
                # those that are pruned don't count any more
                "served": [release for release in known if self.app.release(release).exists()],
            },
            indent=1,
        )
        scratch = self.app.record.with_suffix(".new")
        with _replaced(self.app.kept) as kept:
            keep(self.app, kept)
            scratch.touch(mode=0o600)
            scratch.write_text(text + "\n", encoding="utf-8")
            sync_filesystem(self.app.record.parent)
        scratch.rename(self.app.record)


def in_operator_s_words(said: str) -> str:
    """What the master said, with the setting that the operator knows."""
    return re.sub(r"\bhandover_(boot_timeout|warmup_\w+)", r"app_service_\1", said)


def revert(app: Application, transaction: str, timeout: float, health: Health | None = None) -> Way:
    """Let what served here before a transaction serve again, configuration and release, by the same gated way.

    Harmless on a host that the transaction has not switched: configuration that was written there and never
    activated goes back too. Returns the way that it took. Raises ActivationError.
    """
    try:
        noted = _snapshot(app)
        if noted.get("transaction") == transaction:
            release: str | None = noted["release"]
            restore(app, app.before / "kept")
        else:
            noted, release = {}, current(app)
            restore(app, app.kept)
        systemd.systemctl("daemon-reload")
        if release is None:
            serves = current(app) is not None or systemd.is_active(app.service)
            _stop_all(app, timeout)
            return "stop" if serves else "none"
    except FAILURES as error:
        raise ActivationError(
            f"What served before could not be put back: {error}. See to that disk and run this again."
        ) from None
    # one that was put back has not served: a rollback may not choose it, nor may it push out those that have
    activation = Activation(app, release, timeout, health, back=True, served_before=noted.get("served"))
    activation.execute()
    return activation.way


def _stop_all(app: Application, timeout: float) -> None:
    """Let nothing be served, as before the first release."""
    systemd.systemctl("stop", app.socket, app.service, app.bridge, timeout=timeout)
    switch_current(app, None)
    app.record.unlink(missing_ok=True)
