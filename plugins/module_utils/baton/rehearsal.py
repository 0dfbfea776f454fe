"""Booting a release completely beside what serves, before anything live is touched.

The unit `<app>-rehearsal@<release>.service` is the web service with one worker on a scratch socket: same user,
environment, secrets, sandbox and limits. What it tests is what an activation would bring: the release, and the
configuration as it is on disk now.
"""

from __future__ import annotations

import dataclasses
import pathlib
import subprocess
import time

from . import activation, systemd

PATIENCE = 15.0  # seconds that a booted application has to become well
KILLED = "was killed by SIGKILL (out of memory?)"  # in the master's words; cgroup v1 tells systemd nothing
LATE = "(handover_boot_timeout)"  # likewise: no worker was ready in time


class RehearsalError(Exception):
    """The release can't boot, or isn't well. The message says why, and that nothing has changed."""


@dataclasses.dataclass(frozen=True)
class Rehearsal:
    """The units of one release's rehearsal."""

    app: activation.Application
    release: str

    @property
    def service(self) -> str:
        """The unit that boots the release."""
        return f"{self.app.name}-rehearsal@{self.release}.service"

    @property
    def listen(self) -> pathlib.Path:
        """Its scratch socket."""
        return self.app.path("run", f"{self.app.name}-rehearsal-{self.release}.sock")

    def execute(self, timeout: float, health: activation.Health | None = None) -> None:
        """Boot the release, ask for the page on the scratch socket, and end it. Raises RehearsalError."""
        activation.describe(self.app, self.release)
        clear(self.app)  # what a killed rehearsal left
        started = time.time()
        try:
            cause = self._boot(timeout, started) or self._ask(health, timeout - (time.time() - started))
            log = systemd.ending(self.service, started).log if cause else ""
        except BaseException:
            clear(self.app)
            raise
        # how long a good one takes to end is nobody's business
        clear(self.app, wait=bool(cause))
        if cause:
            raise RehearsalError(self._failure(cause, log))

    def _boot(self, timeout: float, started: float) -> str:
        """Why it doesn't boot; empty when it does."""
        try:
            start = systemd.systemctl("start", self.service, timeout=timeout)
        except subprocess.TimeoutExpired:
            # what hangs would not hear a gentle word
            systemd.systemctl("kill", "--signal=KILL", self.service)
            return f"it was not ready after {timeout:.0f} s (app_service_rehearsal_timeout)"
        if start.returncode == 0:
            return ""
        ending = systemd.ending(self.service, started)
        if ending.result == "oom-kill" or KILLED in ending.log:
            return self._out_of_memory()
        if ending.result == "timeout" or LATE in ending.log:
            return f"it was not ready after {time.time() - started:.0f} s (app_service_boot_timeout)"
        return "it did not boot" if ending.log else f"it could not be started: {start.stderr.strip()}"

    def _out_of_memory(self) -> str:
        limit = systemd.properties(self.service, "MemoryMax").get("MemoryMax", "")
        if not limit.isdigit():
            return "it was killed, as the kernel does when the host runs out of memory"
        return f"it ran out of memory: MemoryMax is {int(limit) >> 20} MiB (app_service_memory_max)"

    def _ask(self, health: activation.Health | None, patience: float) -> str:
        """Why the application isn't well; empty when it is, or when there is no page to ask for."""
        if health is None:
            return ""
        why = activation.wait_well(dataclasses.replace(health, listen=str(self.listen)), min(patience, PATIENCE))
        return f"it booted, but {health.path} {why}" if why else ""

    def _failure(self, cause: str, log: str) -> str:
        serving = activation.current(self.app)
        said = f" It logged last:\n{log}" if log else ""
        remains = f"Release {serving} still serves" if serving else "Nothing is served here yet"
        return f"Release {self.release} failed its rehearsal: {cause}.{said}\nNothing has changed. {remains}."


def needed(app: activation.Application, release: str) -> bool:
    """Whether activating the release would change anything."""
    return activation.choose(app, activation.digests(app, release)) != "none"


def clear(app: activation.Application, *, wait: bool = True) -> None:
    """End every rehearsal of the application, of whatever release; or have systemd do so."""
    units = [f"{app.name}-rehearsal@*.{kind}" for kind in ("service", "socket")]
    systemd.systemctl("stop", *([] if wait else ["--no-block"]), *units, timeout=60)
