"""Boot a release completely next to the running one, before anything live is touched.

The unit `<app>-rehearsal@<release>.service` is the web service with one worker on a scratch socket: same user,
environment, secrets, sandbox and limits. It tests what an activation would start: the release with the configuration
that is on disk now.
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

from ..app import health_check, layout, masking
from ..host import systemd
from . import activation, background, commands, detached, digests

HEALTH_SECONDS = 15.0  # time limit for a booted application to become healthy
MAX_BUSY_FACTOR = 3  # on a busy host, a boot gets at most this many times its limit
# log messages of the master
KILLED = "was killed by SIGKILL (out of memory?)"
NOT_OUT_OF_MEMORY = f"{KILLED}: no"
LATE = "(handover_boot_timeout)"
# log messages of Alembic's and Django's migrations, and of SQLAlchemy's statements
MIGRATION = r"Running (upgrade|stamp_revision) .*->|Applying \S+\.\.\.|\b(CREATE|ALTER|DROP) TABLE\b"
WAITED = re.compile(r"not ready after \S+ s " + re.escape(LATE) + r" and \d+ s more for the \d+ s that it waited .*")


class RehearsalError(Exception):
    """The release can't boot or isn't healthy. The message says why, and that nothing has changed."""


@dataclasses.dataclass(frozen=True)
class Rehearsal:
    """The rehearsal of one release."""

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
        """Boot the release, check its health on the scratch socket, and stop it. Raises RehearsalError."""
        layout.describe(self.app, self.release)
        clear(self.app)  # left-overs of a killed rehearsal
        # the journal's lines have wall-clock times; a step of that clock must neither shorten nor prolong the boot
        started, began = time.time(), time.monotonic()
        try:
            cause = self._boot(timeout, started, began) or self._check_health(
                health, max(5, timeout - (time.monotonic() - began))
            )
            log = systemd.ending(self.service, started).log if cause else ""
        except BaseException:
            clear(self.app)
            raise
        # after a success there is no need to wait for the stop
        clear(self.app, wait=bool(cause))
        if cause:
            logged = f" It logged last:\n{activation.with_setting_names(log)}" if log else ""
            raise _failure(self.app, self.release, f"{cause}.{logged}")

    def _boot(self, timeout: float, started: float, began: float) -> str:
        """Boot the release. Returns why it doesn't boot; empty if it does."""
        start = self._start(timeout, began)
        if not isinstance(start, subprocess.CompletedProcess):
            return start
        if start.returncode == 0:
            return ""
        ending = systemd.ending(self.service, started)
        late = f"it was not ready after {time.monotonic() - began:.0f} s (app_service_boot_timeout)"
        if LATE in ending.log:
            waited = WAITED.search(ending.log)
            return f"it was {activation.with_setting_names(waited[0])}" if waited else late
        # systemd learns of it too late if the master ends immediately, and never with cgroup v1
        if ending.result == "oom-kill" or (KILLED in ending.log and NOT_OUT_OF_MEMORY not in ending.log):
            return self._out_of_memory()
        if KILLED in ending.log:
            return "it was killed (SIGKILL), but not for lack of memory: something else on the host kills it"
        if ending.result == "timeout":
            return late
        return "it did not boot" if ending.log else f"it could not be started: {start.stderr.strip()}"

    def _start(self, timeout: float, began: float) -> subprocess.CompletedProcess[str] | str:
        """Start the unit and wait for it. Returns systemctl's result, or why it was killed.

        A rehearsal runs at the lowest CPU priority. The time that it waits for a processor doesn't count, up to
        MAX_BUSY_FACTOR times the limit; after 1 s of waiting it gets normal priority.
        """
        remaining, took, waited = timeout / 4, 0.0, 0.0
        while remaining > 0:
            try:
                # if the unit is starting already, this joins the same job
                return systemd.systemctl("start", self.service, timeout=remaining)
            except subprocess.TimeoutExpired:
                waited = self._cpu_wait()
                took = time.monotonic() - began
                if waited >= 1:
                    self._raise_priority()
                remaining = min(timeout + waited, MAX_BUSY_FACTOR * timeout) - took
                # the timeout above is never exact
                remaining = remaining if remaining > timeout / 100 else 0
        # a process that hangs may not handle SIGTERM
        systemd.systemctl("kill", "--signal=KILL", self.service)
        late = f"it was not ready after {timeout:.0f} s (app_service_rehearsal_timeout)"
        more = f" and {took - timeout:.0f} s more for the {waited:.0f} s that it waited for a processor"
        return f"{late}{more}: the host is busy" if waited >= 1 else late

    def _cpu_wait(self) -> float:
        """Return the seconds that its processes waited for a processor; 0 if the kernel doesn't report it."""
        waited = 0.0
        for pid in systemd.processes(self._group(), str(self.app.root)):
            with contextlib.suppress(OSError, ValueError, IndexError):
                # proc(5): nanoseconds with a processor, nanoseconds waiting for one
                waited += int(self.app.path("proc", pid, "schedstat").read_text().split()[1]) / 1e9
        return waited

    def _raise_priority(self) -> None:
        """Give it normal CPU priority: on a host that is never idle, the lowest priority gets almost no CPU time."""
        # `systemctl set-property` would outlast the unit
        for file, share in (("cpu.weight", "100"), ("cpu.shares", "1024")):
            for group in systemd.group_folders(self._group(), str(self.app.root)):
                with contextlib.suppress(OSError):
                    if (group / file).exists():
                        (group / file).write_text(share)
        for pid in systemd.processes(self._group(), str(self.app.root)):
            for thread in self.app.path("proc", pid, "task").glob("*"):
                with contextlib.suppress(OSError):
                    os.setpriority(os.PRIO_PROCESS, int(thread.name), 0)

    def _group(self) -> str:
        return systemd.property_of(self.service, "ControlGroup")

    def _out_of_memory(self) -> str:
        limit = systemd.property_of(self.service, "MemoryMax")
        if not limit.isdigit():
            return "it was killed, as the kernel does when the host runs out of memory"
        return f"it ran out of memory: MemoryMax is {int(limit) >> 20} MiB (app_service_memory_max)"

    def _check_health(self, health: health_check.Health | None, patience: float) -> str:
        """Return why the application isn't healthy; empty if it is, or if it has no health page."""
        if health is None:
            return ""
        why = health_check.wait_healthy(
            dataclasses.replace(health, listen=str(self.listen)), min(patience, HEALTH_SECONDS)
        )
        return f"it booted, but {health.path} {why}" if why else ""


def _failure(app: layout.Application, release: str, cause: str) -> RehearsalError:
    serving = layout.current(app)
    remains = f"Release {serving} still serves" if serving else "Nothing is served here yet"
    return RehearsalError(f"Release {release} failed its rehearsal: {cause}\nNothing has changed. {remains}.")


def rehearse(
    app: layout.Application, release: str, timeout: float, health: health_check.Health | None = None
) -> dict[str, Any]:
    """Rehearse a release, by default the current one, unless it already serves with the configuration on disk.

    Returns `rehearsed` (whether it was booted), `seconds`, `migrates` (a log line about a migration during the boot)
    and `unchecked` (why commands couldn't be looked up; empty if they were). Raises ActivationError and RehearsalError.
    """
    began, started = time.monotonic(), time.time()
    rehearsed, migrates, unchecked = False, "", ""
    with detached.exclusive(app, timeout):
        wanted = release or layout.current(app)
        if wanted is not None:
            changes = _background_changes(app, wanted, timeout)
            if changes or wanted != layout.current(app):
                unchecked = _look_up_commands(app, wanted, timeout)
            if needed(app, wanted):
                trial = Rehearsal(app, wanted)
                trial.execute(timeout, health)
                rehearsed, migrates = True, systemd.first_match(trial.service, started, MIGRATION)
            rehearsed = _rehearse_background(app, wanted, changes) or rehearsed
    seconds = round(time.monotonic() - began, 3)
    return {"rehearsed": rehearsed, "seconds": seconds, "migrates": migrates, "unchecked": unchecked}


def _background_changes(app: layout.Application, release: str, timeout: float) -> list[activation.ProcessChange]:
    """Return the background process types and schedules that an activation would change, except to stop them."""
    changes = [
        activation.STRATEGIES[process.strategy](app, process, release, timeout, restart_workers=False)
        for process in app.processes
        if process.name != layout.WEB and process.count
    ]
    return [change for change in changes if change.method not in ("none", "stop")]


def _look_up_commands(app: layout.Application, release: str, timeout: float) -> str:
    """Look up the commands of process types and schedules. Returns why it can't be done. Raises RehearsalError."""
    try:
        problems = commands.lookup(app, release, timeout)
    except commands.LookupFailedError as error:
        return str(error)
    if problems:
        raise _failure(app, release, problems)
    return ""


def _rehearse_background(app: layout.Application, release: str, changes: list[activation.ProcessChange]) -> bool:
    """Start one process of each type that may overlap with other releases' processes. Returns whether any started."""
    # an older release's process would take jobs of the running ones that it doesn't understand; it was proven before
    if (release != layout.current(app) or layout.with_another_release(app)) and release in layout.served(app):
        return False
    found = [change for change in changes if isinstance(change, background.Background)]
    trials = [change for change in found if change.process.strategy == "overlap"]
    for trial in trials:
        try:
            trial.rehearse()
        except (*activation.FAILURES, layout.ActivationError) as error:
            raise _failure(app, release, f"{trial.process.name} (app_processes): {error}") from None
    return bool(trials)


def reported(app: layout.Application, result: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return a rehearsal's result without secrets, and its warnings."""
    logged = {key: masking.masked(app.name, result[key]) for key in ("migrates", "unchecked") if result[key]}
    result = result | logged
    warnings = [migration_warning(app, result["migrates"])] if result["migrates"] else []
    if result["unchecked"]:
        warnings.append(f"{commands.UNCHECKED}{result['unchecked']}")
    return result, warnings


def migration_warning(app: layout.Application, line: str) -> str:
    """Return the warning about an application that migrates its database when it starts."""
    return (
        f"{app.name} migrates its database as it starts; it logged: {line!r}. Each worker on each host does this, "
        "several at the same time. This time only one process did, because one host was rehearsed before the others. "
        "Use app_service_migration_command, which runs once per deploy, before any process boots."
    )


def needed(app: layout.Application, release: str) -> bool:
    """Whether activating the release would change anything."""
    return digests.choose(app, digests.digests(app, release)) != "none"


def clear(app: layout.Application, *, wait: bool = True) -> None:
    """Stop all rehearsals of the application, of any release; without `wait`, return before they have stopped."""
    units = [f"{app.name}-rehearsal@*.{kind}" for kind in ("service", "socket")]
    systemd.systemctl("stop", *([] if wait else ["--no-block"]), *units, timeout=60)
