"""The handover: replace the web processes of one release with those of another, without a gap.

What changed since the last activation determines the method, never the user:
`start` if nothing serves; `reload` (HUP) for code, settings and gunicorn.conf.py; `bridge` (a second service on the
same socket while the first one restarts) for what a HUP can't apply: Python, the server's packages, the unit, secrets,
and system libraries that an upgrade replaced; `reopen`, the only one with a gap, if the socket's address changed.
"""

from __future__ import annotations

import time
from typing import Any

from ..app import server_status
from ..app.layout import ActivationError, Application, ProcessType
from ..host import systemd
from . import digests
from .digests import Method

PROOF_SECONDS = 15.0  # time limit for the proof that every worker serves the release


class Handover:
    """Replacement of an application's web processes."""

    def __init__(
        self, app: Application, _process: ProcessType, release: str, timeout: float, *, restart_workers: bool = False
    ) -> None:
        """Choose the method. `timeout`: seconds per step. `restart_workers`: even if nothing changed."""
        self.app = app
        self.timeout = timeout
        self.wanted = digests.digests(app, release)
        self.done = False
        self.reopened = False
        self.method: Method = digests.choose(app, self.wanted)
        if restart_workers and self.method == "none":
            self.method = "reload"

    def execute(self) -> None:
        """Replace the processes with the release's. Raises ActivationError, UnitError, OSError."""
        if self.method != "none":
            getattr(self, f"_{self.method}")()
        self.done = True

    def revert(self) -> None:
        """Restore the previous processes, which `wanted` describes by now. Raises as `execute` does."""
        if self.reopened:
            self._reopen()  # the socket has the new address, or none
        elif not systemd.is_active(self.app.service):
            systemd.change("restart", self.app.service, self.timeout)
        elif self.done or self.unproven():
            self._bridge() if self.method == "bridge" else self._reload()
        self._prove(self.app.service)
        self._end_bridge()

    def unproven(self) -> str:
        """Return why the workers aren't proven to serve the wanted release; empty if they are."""
        return self._unproven(self.app.service)

    def _unproven(self, unit: str) -> str:
        master = systemd.main_pid(unit)
        return server_status.unproven(server_status.read(self.app, unit), self.wanted.release, master)

    def refusal(self, began: float) -> str:
        """Return why the master refused a reload that began after `began` (monotonic clock); empty if it didn't."""
        reload = server_status.read(self.app, self.app.service).get("reload") or {}
        return reload["error"] if reload.get("error") and reload.get("began_monotonic", 0) >= began else ""

    def result(self) -> dict[str, Any]:
        """Return nothing: the activation's own result covers the web processes."""
        return {}

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
            self._end_bridge()  # a left-over bridge may serve another release
        systemd.systemctl("reset-failed", self.app.bridge)
        systemd.change("start", self.app.bridge, self.timeout)
        self._prove(self.app.bridge)
        systemd.change("restart", self.app.service, self.timeout)
        self._prove(self.app.service)
        self._end_bridge()

    def _end_bridge(self) -> None:
        """Stop the bridge, including one that a killed handover left, and clear its failed state."""
        if systemd.is_active(self.app.bridge):
            systemd.change("stop", self.app.bridge, self.timeout)
        systemd.systemctl("reset-failed", self.app.bridge)

    def _reopen(self) -> None:
        """Restart the socket at its new address. Two sockets can't share one address, hence the gap."""
        self.reopened = True
        systemd.change("stop", self.app.service, self.timeout)
        systemd.change("restart", self.app.socket, self.timeout)
        self._start()

    def _prove(self, unit: str) -> None:
        deadline = time.monotonic() + min(self.timeout, PROOF_SECONDS)
        while True:
            why = self._unproven(unit)
            if not why:
                return
            if time.monotonic() > deadline:
                raise ActivationError(f"{unit} can't prove that it serves {self.wanted.release}: {why}.")
            time.sleep(0.05)
