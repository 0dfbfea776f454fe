"""Replace a scheduled command of one release with that of another: its timer starts once the release is current.

Each run starts in the release that is current at that time and finishes in it, even if another one becomes current.
"""

from __future__ import annotations

from typing import Any

from ..app.layout import Application, ProcessType
from ..host import systemd
from . import background, boot, digests
from .digests import Method


class Schedule:
    """Replacement of one scheduled command."""

    def __init__(
        self, app: Application, process: ProcessType, release: str, timeout: float, *, restart_workers: bool = False
    ) -> None:
        """Choose the method. `timeout`: seconds for the timer's start. `restart_workers`: no process keeps running."""
        del restart_workers
        self.app = app
        self.process = process
        self.timeout = timeout
        self.wanted = digests.scheduled(app, process, release)
        self.begun = False
        self.back = False  # whether it reverts an earlier activation, which may have stopped the timer
        self.method: Method = self._choose()

    @property
    def timer(self) -> str:
        """The timer unit."""
        return self.process.running[0]

    def _runs(self) -> bool:
        """Whether the timer should run on this host: declared for it and not suspended."""
        return bool(self.process.count) and not self.app.suspended(self.process.name).exists()

    def _choose(self) -> Method:
        runs = systemd.is_active(self.timer)
        if not self._runs():
            begins = runs or boot.is_enabled(self.app, self.timer)
            return "stop" if begins or not self.process.declared else "none"
        before = digests.recorded(self.app, self.process.name)
        as_wanted = before is not None and before.reload == self.wanted.reload
        return "none" if runs and as_wanted and boot.is_enabled(self.app, self.timer) else "start"

    def execute(self) -> None:
        """Start, restart or stop the timer as the settings require. Raises UnitError, OSError."""
        if self.method == "none":
            return
        self.begun = True
        # a timer that runs has missed nothing; if it is new here, another host may have run the command
        stopped = boot.is_enabled(self.app, self.timer) and not systemd.is_active(self.timer)
        self._apply(catch_up=stopped or self.back)

    def revert(self) -> None:
        """Restore the timer's previous state. Raises UnitError, OSError."""
        if not self.begun:
            return
        self.process = self.app.as_declared(self.process)
        self._apply(catch_up=True)

    def _apply(self, *, catch_up: bool) -> None:
        if self._runs():
            # a running timer keeps the schedule that it was started with
            boot.start_timer(self.app, self.timer, self.timeout, catch_up=catch_up)
        else:
            systemd.systemctl("stop", self.timer)
            boot.disable(self.app, [self.timer])
        if not self.process.declared:
            background.remove(self.app, self.process)

    def unproven(self) -> str:
        """Return why the timer isn't in the wanted state; empty if it is."""
        return f"{self.timer} doesn't run" if self._runs() and not systemd.is_active(self.timer) else ""

    def refusal(self, _began: float) -> str:
        """Return nothing: a timer reports no reason."""
        return ""

    def result(self) -> dict[str, Any]:
        """Return what was done, for the module's result and the receipt."""
        runs = self._runs()
        return {
            "method": self.method,
            "started": [self.timer] * runs,
            "stopped": [self.timer] * (not runs),
            "seconds": 0.0,
        }
