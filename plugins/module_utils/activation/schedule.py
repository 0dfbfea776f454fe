"""How a scheduled command of one release follows that of another: its timer runs once the release is current.

The command starts in the release that is current then, and ends in it, even if another one becomes current in between.
"""

from __future__ import annotations

from typing import Any

from ..app.layout import Application, ProcessType
from ..host import systemd
from . import background, boot, digests
from .digests import Way


class Schedule:
    """The change of one scheduled command to a release, and back."""

    def __init__(
        self, app: Application, process: ProcessType, release: str, timeout: float, *, renew: bool = False
    ) -> None:
        """`timeout`: seconds that a start of the timer may take. `renew` changes nothing: nothing of it runs on."""
        del renew
        self.app = app
        self.process = process
        self.timeout = timeout
        self.wanted = digests.scheduled(app, process, release)
        self.begun = False
        self.way: Way = self._choose()

    @property
    def timer(self) -> str:
        """The unit that starts the command."""
        return self.process.running[0]

    def _runs(self) -> bool:
        """Whether the timer is to run: here, and not suspended."""
        return bool(self.process.count) and not self.app.suspended(self.process.name).exists()

    def _choose(self) -> Way:
        runs = systemd.is_active(self.timer)
        if not self._runs():
            return "stop" if runs or not self.process.declared else "none"
        before = digests.recorded(self.app, self.process.name)
        as_wanted = before is not None and before.reload == self.wanted.reload
        return "none" if runs and as_wanted else "start"

    def execute(self) -> None:
        """Let the timer run, or end, as the settings have it. Raises UnitError, OSError."""
        if self.way != "none":
            self.begun = True
            self._follow()

    def put_back(self) -> None:
        """Let the timer be as before. Raises UnitError, OSError."""
        if not self.begun:
            return
        self.process = self.app.as_declared(self.process)
        self._follow()

    def _follow(self) -> None:
        if self._runs():
            # a timer that runs goes on with the times that it was started with
            systemd.change("restart", self.timer, self.timeout)
            boot.enable(self.app, [self.timer], self.timer)
        else:
            systemd.systemctl("stop", self.timer)
            boot.disable(self.app, [self.timer])
        if not self.process.declared:
            background.remove(self.app, self.process)

    def unproven(self) -> str:
        """Why the timer isn't as it should be; empty when it is."""
        return f"{self.timer} doesn't run" if self._runs() and not systemd.is_active(self.timer) else ""

    def refusal(self, _began: float) -> str:
        """Empty: a timer reports no reason."""
        return ""

    def result(self) -> dict[str, Any]:
        """What was done, for people and for the receipt."""
        runs = self._runs()
        return {"way": self.way, "started": [self.timer] * runs, "stopped": [self.timer] * (not runs), "seconds": 0.0}
