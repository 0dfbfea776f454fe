"""Booting a release completely beside what serves, before anything live is touched.

The unit `<app>-rehearsal@<release>.service` is the web service with one worker on a scratch socket: same user,
environment, secrets, sandbox and limits. What it tests is what an activation would bring: the release, and the
configuration as it is on disk now.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import re
import subprocess
import time
from typing import Any

from ..app import health_check, layout
from ..host import systemd
from . import activation, background, detached, digests

PATIENCE = 15.0  # seconds that a booted application has to become well
BUSY = 3  # times its limit that a boot gets at most, where the host is busy
# in the master's words
KILLED = "was killed by SIGKILL (out of memory?)"
NOT_FOR_MEMORY = f"{KILLED}: no"
LATE = "(handover_boot_timeout)"
# what Alembic and Django log of a migration, and SQLAlchemy of its statements
MIGRATION = r"Running (upgrade|stamp_revision) .*->|Applying \S+\.\.\.|\b(CREATE|ALTER|DROP) TABLE\b"
WAITED = re.compile(r"not ready after \S+ s " + re.escape(LATE) + r" and \d+ s more for the \d+ s that it waited .*")


class RehearsalError(Exception):
    """The release can't boot, or isn't well. The message says why, and that nothing has changed."""


@dataclasses.dataclass(frozen=True)
class Rehearsal:
    """The units of one release's rehearsal."""

    app: layout.Application
    release: str

    @property
    def service(self) -> str:
        """The unit that boots the release."""
        return f"{self.app.name}-rehearsal@{self.release}.service"

    @property
    def listen(self) -> pathlib.Path:
        """Its scratch socket."""
        return self.app.path("run", f"{self.app.name}-rehearsal-{self.release}.sock")

    def execute(self, timeout: float, health: health_check.Health | None = None) -> None:
        """Boot the release, ask for the page on the scratch socket, and end it. Raises RehearsalError."""
        layout.describe(self.app, self.release)
        clear(self.app)  # what a killed rehearsal left
        started = time.time()
        try:
            cause = self._boot(timeout, started) or self._ask(health, max(5, timeout - (time.time() - started)))
            log = systemd.ending(self.service, started).log if cause else ""
        except BaseException:
            clear(self.app)
            raise
        # how long a good one takes to end is nobody's business
        clear(self.app, wait=bool(cause))
        if cause:
            said = f" It logged last:\n{activation.in_operator_s_words(log)}" if log else ""
            raise _failed(self.app, self.release, f"{cause}.{said}")

    def _boot(self, timeout: float, started: float) -> str:
        """Why it doesn't boot; empty when it does."""
        start = self._start(timeout, started)
        if not isinstance(start, subprocess.CompletedProcess):
            return start
        if start.returncode == 0:
            return ""
        ending = systemd.ending(self.service, started)
        late = f"it was not ready after {time.time() - started:.0f} s (app_service_boot_timeout)"
        if LATE in ending.log:
            waited = WAITED.search(ending.log)
            return f"it was {activation.in_operator_s_words(waited[0])}" if waited else late
        # systemd hears of it too late where the master ends at once, and nothing at all from cgroup v1
        if ending.result == "oom-kill" or (KILLED in ending.log and NOT_FOR_MEMORY not in ending.log):
            return self._out_of_memory()
        if KILLED in ending.log:
            return "it was killed (SIGKILL), and not by the kernel for want of memory: something on the host ends it"
        if ending.result == "timeout":
            return late
        return "it did not boot" if ending.log else f"it could not be started: {start.stderr.strip()}"

    def _start(self, timeout: float, started: float) -> subprocess.CompletedProcess[str] | str:
        """Start the unit, and wait for it; or why it was given up.

        A rehearsal is the last to get a processor: what it waits for one doesn't count, `BUSY` times the limit at most,
        and when it has waited for a while it is the last no longer.
        """
        patience, took, waited = timeout / 4, 0.0, 0.0
        while patience > 0:
            try:
                # where it is starting already, this waits for the same end
                return systemd.systemctl("start", self.service, timeout=patience)
            except subprocess.TimeoutExpired:
                waited = self._waited()
                took = time.time() - started
                if waited >= 1:
                    self._hurry()
                patience = min(timeout + waited, BUSY * timeout) - took
                # never quite on time
                patience = patience if patience > timeout / 100 else 0
        # what hangs would not hear a gentle word
        systemd.systemctl("kill", "--signal=KILL", self.service)
        late = f"it was not ready after {timeout:.0f} s (app_service_rehearsal_timeout)"
        more = f" and {took - timeout:.0f} s more for the {waited:.0f} s that it waited for a processor"
        return f"{late}{more}: the host is busy" if waited >= 1 else late

    def _waited(self) -> float:
        """Seconds that its processes were ready to run and had no processor; 0 where the kernel doesn't say."""
        waited = 0.0
        for pid in self._processes():
            with contextlib.suppress(OSError, ValueError, IndexError):
                # proc(5): nanoseconds with a processor, nanoseconds waiting for one
                waited += int(self.app.path("proc", pid, "schedstat").read_text().split()[1]) / 1e9
        return waited

    def _hurry(self) -> None:
        """Let it have its share: on a host with no idle moment the nicest process gets next to nothing."""
        # systemd's own way to say so would outlast the unit
        for file, share in (("cpu.weight", "100"), ("cpu.shares", "1024")):
            for group in self._groups():
                with contextlib.suppress(OSError):
                    if (group / file).exists():
                        (group / file).write_text(share)
        for pid in self._processes():
            for thread in self.app.path("proc", pid, "task").glob("*"):
                with contextlib.suppress(OSError):
                    os.setpriority(os.PRIO_PROCESS, int(thread.name), 0)

    def _groups(self) -> list[pathlib.Path]:
        """The folders of its control group: one, or with cgroup v1 one for each controller."""
        group = systemd.properties(self.service, "ControlGroup").get("ControlGroup", "").strip("/")
        mounts = [self.app.path("sys/fs/cgroup"), *self.app.path("sys/fs/cgroup").glob("*/")]
        return [mount / group for mount in mounts if group and (mount / group).is_dir()]

    def _processes(self) -> list[str]:
        with contextlib.suppress(OSError):
            for group in self._groups():
                return (group / "cgroup.procs").read_text().split()  # all of them have the same
        return []

    def _out_of_memory(self) -> str:
        limit = systemd.properties(self.service, "MemoryMax").get("MemoryMax", "")
        if not limit.isdigit():
            return "it was killed, as the kernel does when the host runs out of memory"
        return f"it ran out of memory: MemoryMax is {int(limit) >> 20} MiB (app_service_memory_max)"

    def _ask(self, health: health_check.Health | None, patience: float) -> str:
        """Why the application isn't well; empty when it is, or when there is no page to ask for."""
        if health is None:
            return ""
        why = health_check.wait_healthy(dataclasses.replace(health, listen=str(self.listen)), min(patience, PATIENCE))
        return f"it booted, but {health.path} {why}" if why else ""


def _failed(app: layout.Application, release: str, cause: str) -> RehearsalError:
    serving = layout.current(app)
    remains = f"Release {serving} still serves" if serving else "Nothing is served here yet"
    return RehearsalError(f"Release {release} failed its rehearsal: {cause}\nNothing has changed. {remains}.")


def rehearse(
    app: layout.Application, release: str, timeout: float, health: health_check.Health | None = None
) -> dict[str, Any]:
    """Rehearse a release, the current one when none is named, unless it serves already as it is.

    Returns `rehearsed`, whether it was booted, `seconds`, and `migrates`, what it logged of a migration as it booted.
    Raises ActivationError and RehearsalError.
    """
    began, started = time.monotonic(), time.time()
    rehearsed, migrates = False, ""
    with detached.exclusive(app, timeout):
        wanted = release or layout.current(app)
        if wanted is not None and needed(app, wanted):
            trial = Rehearsal(app, wanted)
            trial.execute(timeout, health)
            rehearsed, migrates = True, systemd.said(trial.service, started, MIGRATION)
        if wanted is not None:
            rehearsed = _rehearse_background(app, wanted, timeout) or rehearsed
    return {"rehearsed": rehearsed, "seconds": round(time.monotonic() - began, 3), "migrates": migrates}


def _rehearse_background(app: layout.Application, release: str, timeout: float) -> bool:
    """Start one process of each type that may run beside those of another release; whether any was started."""
    # of a release to go back to it would take jobs that this one doesn't know; it has proven itself before
    if release != layout.current(app) and release in layout.served(app):
        return False
    rehearsed = False
    for process in app.processes:
        if process.strategy != "overlap" or not process.count:
            continue
        trial = background.Background(app, process, release, timeout)
        if trial.way == "none":
            continue
        try:
            trial.rehearse()
        except (*activation.FAILURES, layout.ActivationError) as error:
            raise _failed(app, release, f"{process.name} (app_processes): {error}") from None
        rehearsed = True
    return rehearsed


def migration_warning(app: layout.Application, line: str) -> str:
    """What to say of an application that migrates its database when it starts."""
    return (
        f"{app.name} migrates its database as it starts; it logged: {line!r}. Each worker of each host does that, "
        "several at once. One host was rehearsed before the others, so that this time only one process did it. Use "
        "app_service_migration_command, which runs once per deploy, before any process boots."
    )


def needed(app: layout.Application, release: str) -> bool:
    """Whether activating the release would change anything."""
    return digests.choose(app, digests.digests(app, release)) != "none"


def clear(app: layout.Application, *, wait: bool = True) -> None:
    """End every rehearsal of the application, of whatever release; or have systemd do so."""
    units = [f"{app.name}-rehearsal@*.{kind}" for kind in ("service", "socket")]
    systemd.systemctl("stop", *([] if wait else ["--no-block"]), *units, timeout=60)
