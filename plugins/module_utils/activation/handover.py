"""How the web processes of one release follow those of another: the handover, without a gap.

The strategy is chosen from what changed since the last activation, never by the user:
`start` when nothing serves, `reload` (HUP) for code, settings and gunicorn.conf.py, `bridge` (a second service on the
same socket while the first restarts) for what a HUP can't carry: Python, the server's packages, the unit, secrets, and
system libraries that an upgrade replaced; `reopen`, the only one with a gap, when the socket's own address changed.
"""

from __future__ import annotations

import time
from typing import Any

from ..app import server_status
from ..app.layout import ActivationError, Application, ProcessType
from ..host import systemd
from . import digests
from .digests import Way

PROOF_SECONDS = 15.0  # that the processes have to prove what they serve


class Handover:
    """The change of an application's web processes to a release, and back."""

    def __init__(
        self, app: Application, _process: ProcessType, release: str, timeout: float, *, renew: bool = False
    ) -> None:
        """`timeout`: seconds that one step may take. `renew`: replace every worker although nothing changed."""
        self.app = app
        self.timeout = timeout
        self.wanted = digests.digests(app, release)
        self.done = False
        self.reopened = False
        self.way: Way = digests.choose(app, self.wanted)
        if renew and self.way == "none":
            self.way = "reload"

    def execute(self) -> None:
        """Let the release's processes follow. Raises ActivationError, UnitError, OSError."""
        if self.way != "none":
            getattr(self, f"_{self.way}")()
        self.done = True

    def put_back(self) -> None:
        """Let the previous processes serve, which are `wanted` by now. Raises ActivationError, UnitError, OSError."""
        if self.reopened:
            self._reopen()  # the socket has its new address, or none
        elif not systemd.is_active(self.app.service):
            systemd.change("restart", self.app.service, self.timeout)
        elif self.done or self.unproven():
            self._bridge() if self.way == "bridge" else self._reload()
        self._prove(self.app.service)
        self._end_bridge()

    def unproven(self) -> str:
        """Why the service's processes don't prove that they serve what is wanted; empty when they do."""
        return self._unproven(self.app.service)

    def _unproven(self, unit: str) -> str:
        master = int(systemd.properties(unit, "MainPID").get("MainPID", "0"))
        return server_status.unproven(server_status.read(self.app, unit), self.wanted.release, master)

    def refusal(self, began: float) -> str:
        """Why the master refused the last reload that began after a moment of the monotonic clock; or nothing."""
        told = server_status.read(self.app, self.app.service).get("reload") or {}
        return told["error"] if told.get("error") and told.get("began_monotonic", 0) >= began else ""

    def result(self) -> dict[str, Any]:
        """What was done: nothing that the module's own result doesn't say."""
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

    def _prove(self, unit: str) -> None:
        deadline = time.monotonic() + min(self.timeout, PROOF_SECONDS)
        while True:
            why = self._unproven(unit)
            if not why:
                return
            if time.monotonic() > deadline:
                raise ActivationError(f"{unit} can't prove that it serves {self.wanted.release}: {why}.")
            time.sleep(0.05)
