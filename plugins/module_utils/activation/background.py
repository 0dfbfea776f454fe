"""Replace an application's background processes (queue workers, schedulers, bots) with those of another release.

Each activation that changes a type starts a new generation of it: the units `<app>-<type>@<generation>-<n>.service`,
each with its own symlink to the release that it runs. There are two strategies:

`overlap`: the new ones start and are proven; then the old ones get the signal to stop and finish their running job
while the rollout continues. `replace`: the old ones end before the new ones start, for what must never run twice.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import time
from collections.abc import Sequence
from concurrent import futures
from typing import Any

from ..app import layout
from ..app.layout import CHECK_SECONDS, STOP_MARGIN, ActivationError, Application, ProcessType
from ..host import atomic_file, mapped, systemd
from . import boot, digests
from .digests import Method

POLL_SECONDS = 0.2
SIGNAL_SECONDS = 30.0  # in which systemd sends a signal, also on a busy host
MAX_ENDS = 100  # instances that one call of `ends` looks up
RUNNING_STATES = ("active", "reloading", "activating")
PROPERTIES = ("Id", "ActiveState", "SubState", "NRestarts", "MemoryCurrent", "MainPID", "Result", "ControlGroup")


@dataclasses.dataclass(frozen=True)
class Instance:
    """One background process, as systemd sees it."""

    unit: str
    state: str  # active, activating (starting, or waiting to be restarted), deactivating, failed
    substate: str
    restarts: int
    memory: int  # bytes; 0 if unknown
    release: str | None
    pid: int = 0  # of the main process; 0 if there is none
    result: str = ""  # systemd's Result=; `timeout` means killed after stop_timeout
    group: str = ""  # its control group

    @property
    def running(self) -> bool:
        """Whether it runs or starts, and hasn't been asked to stop."""
        return self.state in RUNNING_STATES

    @property
    def draining(self) -> bool:
        """Whether it was asked to stop and hasn't ended yet."""
        return self.state == "deactivating"


def name_of(unit: str) -> str:
    """Return the instance name of a unit: `1-2` for `links-worker@1-2.service`."""
    return unit.partition("@")[2].removesuffix(".service")


def instances(app: Application, process: str) -> list[Instance]:
    """Return the instances of a process type that systemd has loaded, sorted by generation and number."""
    found = []
    for unit in systemd.properties_of_all(f"{app.name}-{process}@*.service", names=PROPERTIES):
        name = name_of(unit.get("Id", ""))
        if not name or unit.get("ActiveState") in (None, "inactive"):
            continue
        memory = unit.get("MemoryCurrent", "")
        found.append(
            Instance(
                unit=unit["Id"],
                state=unit["ActiveState"],
                substate=unit.get("SubState", ""),
                restarts=int(unit.get("NRestarts") or 0),
                memory=int(memory) if memory.isdigit() and int(memory) < 2**63 else 0,
                release=layout.release_at(app.instances / f"{process}-{name}"),
                pid=int(unit.get("MainPID") or 0),
                result=unit.get("Result", ""),
                group=unit.get("ControlGroup", ""),
            )
        )
    return sorted(found, key=lambda one: [int(part) if part.isdigit() else 0 for part in name_of(one.unit).split("-")])


def ends(app: Application, units: Sequence[str], since: float) -> dict[str, dict[str, Any]]:
    """Return how instances of background processes ended that were asked to stop at `since` (seconds since the epoch).

    By unit: `state` is draining (it finishes its job), drained, killed (it didn't end within its stop_timeout), failed
    (it ended with an error) or unknown; `seconds` is the time since `since`. Skips units of other applications.
    """
    asked = list(_process_types(app, units))[:MAX_ENDS]
    if not asked:
        return {}
    loaded = systemd.properties_of_all(*asked, names=("Id", "ActiveState"))
    states = {one.get("Id"): one.get("ActiveState") for one in loaded}
    ended = systemd.ends(asked, since)
    found = {}
    for unit in asked:
        result, at = ended.get(unit, ("", 0.0))
        if states.get(unit) in ("deactivating", "active"):
            found[unit] = {"state": "draining", "seconds": round(max(0.0, time.time() - since), 1)}
        elif not at:
            found[unit] = {"state": "unknown", "seconds": 0.0}
        else:
            state = {"": "drained", "timeout": "killed"}.get(result, "failed")
            found[unit] = {"state": state, "seconds": round(max(0.0, at - since), 1)}
    return found


def _process_types(app: Application, units: Sequence[str]) -> dict[str, str]:
    """Return the process type of each unit. Skips units that aren't instances of this application's types."""
    ours = re.compile(rf"{re.escape(app.name)}-({layout.PROCESS_NAME.pattern})@[0-9]+-[0-9]+\.service")
    return {unit: match[1] for unit in units if (match := ours.fullmatch(unit))}


def not_up(app: Application, process: str, units: Sequence[str], since: float) -> str:
    """Return which of a type's units isn't up, or was restarted, and what it logged last; empty if all are up."""
    found = {one.unit: one for one in instances(app, process)}
    for unit in units:
        one = found.get(unit)
        if one is None:
            why = "ended"
        elif one.restarts:
            why = f"ended and was restarted {one.restarts} times"
        elif one.state != "active":
            why = f"is {one.state} ({one.substate})"
        else:
            continue
        return f"{unit} {why}. It logged last:\n{systemd.tail(unit, since)}"
    return ""


def down(app: Application, units: Sequence[str]) -> str:
    """Return which of the units that a change has started is no longer up, as `not_up` does."""
    types = _process_types(app, units)
    found = (
        not_up(app, process, [unit for unit in types if types[unit] == process], 0)
        for process in dict.fromkeys(types.values())
    )
    return next(filter(None, found), "")


def remove_instances(app: Application, process: ProcessType) -> None:
    """Disable all units of a background process type or schedule, and remove the symlinks of its instances."""
    for pattern in process.running:
        boot.disable(app, boot.enabled(app, pattern))
    # a schedule may have the name of a process type
    if process.strategy != layout.TIMER:
        for link in app.instances.glob(f"{process.name}-*"):
            link.unlink(missing_ok=True)


def remove(app: Application, process: ProcessType) -> None:
    """Remove the unit files and instances of a process type or schedule that is no longer in the settings."""
    for unit in process.templates:
        boot.remove_file(app, unit)
    remove_instances(app, process)


class Background:
    """Replacement of the processes of one background process type."""

    def __init__(
        self, app: Application, process: ProcessType, release: str, timeout: float, *, restart_workers: bool = False
    ) -> None:
        """Choose the method. `timeout`: seconds per start. `restart_workers`: even if nothing changed."""
        self.app = app
        self.process = process
        self.timeout = timeout
        self.wanted = digests.background(app, process, release)
        self.begun = False
        self.started: list[str] = []  # units of the new generation
        self.stopped: list[str] = []
        self.pids: dict[str, int] = {}  # of the units that were started or stopped
        self.stop_requested = 0.0  # when the old ones were asked to stop, in seconds since the epoch
        self.seconds = 0.0
        self.method: Method = self._choose(restart_workers)

    def _choose(self, restart_workers: bool) -> Method:
        found = instances(self.app, self.process.name)
        working = [one for one in found if one.running]
        if not self.process.count:
            # one that has failed or ended would start at the next boot
            left = working or boot.enabled(self.app, self.process.running[0])
            return "stop" if left or not self.process.declared else "none"
        if not working:
            return "start"
        generations = {name_of(one.unit).partition("-")[0] for one in working}
        as_wanted = (
            len(working) == self.process.count
            and len(generations) == 1
            and {one.release for one in working} == {self.wanted.release}
            and digests.recorded(self.app, self.process.name) == self.wanted
            and not any(mapped.replaced_in(one.group, str(self.app.root)) for one in working)
        )
        if as_wanted and not restart_workers:
            return "none"
        return "overlap" if self.process.strategy == "overlap" else "replace"

    def execute(self) -> None:
        """Replace the processes with the release's. Raises ActivationError, UnitError, OSError."""
        if self.method == "none":
            return
        self.begun, began = True, time.monotonic()
        self._replace()
        self.seconds = round(time.monotonic() - began, 3)

    def revert(self) -> None:
        """Restore the previous processes, which `wanted` describes by now. Raises as `execute` does."""
        if not self.begun:
            return
        self.process = self.app.as_declared(self.process)
        found = instances(self.app, self.process.name)
        left = [one.unit for one in found if one.running and one.unit not in self.started]
        if self.stopped or len(left) != self.process.count:
            self._replace()
        else:  # the previous ones are still running
            self._start_at_boot(left)
            self._stop(self.started, wait=self.process.strategy == "replace")
            self._clean_up(left)

    def _replace(self) -> None:
        known = instances(self.app, self.process.name)
        found = [one for one in known if not one.draining]
        old, self.pids = [one.unit for one in found], {one.unit: one.pid for one in found}
        self.started, self.stopped = [], []
        if self.process.strategy == "replace":
            self.stopped, old = old, []
            self.stop_requested = time.time()
            # also those that were asked to stop before
            self._stop([one.unit for one in known], wait=True)
        if self.process.count:
            self._start(self.process.count)
            self.pids |= {one.unit: one.pid for one in instances(self.app, self.process.name)}
        # not earlier: until the new ones are proven, a host that crashes must start the old ones again
        self._start_at_boot(self.started)
        if old:
            self.stop_requested = time.time()
            # even if this fails: systemd may stop them later
            self.stopped += old
            self._stop(old, wait=False)
            self._await_signal(old)
        self._clean_up(self.started)
        if not self.process.declared:
            # draining processes no longer need their symlinks, and no later activation would remove the type
            remove(self.app, self.process)

    def rehearse(self) -> None:
        """Start one process of the release, prove it, and stop it. Raises ActivationError, UnitError."""
        try:
            self._start(1)
        finally:
            self._stop(self.started, wait=False)
            self.started = []

    def _start(self, count: int) -> None:
        """Start a new generation and prove it. Raises ActivationError, UnitError, OSError."""
        generation, since = self._next_generation(), time.time()
        self.app.instances.mkdir(mode=0o755, exist_ok=True)
        names = [f"{generation}-{number}" for number in range(1, count + 1)]
        for name in names:
            os.symlink(f"../releases/{self.wanted.release}", self.app.instances / f"{self.process.name}-{name}")
        atomic_file.sync_folder(self.app.instances)
        self.started = [f"{self.app.name}-{self.process.name}@{name}.service" for name in names]
        for unit in self.started:
            systemd.change("start", unit, self.timeout)
        self._prove(since)

    def _next_generation(self) -> int:
        known = [one.unit for one in instances(self.app, self.process.name)]
        names = [name_of(unit) for unit in known]
        names += [path.name.removeprefix(f"{self.process.name}-") for path in self._links()]
        return max((int(number) for name in names if (number := name.partition("-")[0]).isdigit()), default=0) + 1

    def _links(self) -> list[pathlib.Path]:
        return list(self.app.instances.glob(f"{self.process.name}-*"))

    def _prove(self, since: float) -> None:
        """Check that the new ones stay up and that the type's check succeeds. Raises ActivationError, UnitError."""
        end = time.monotonic() + self.process.settle_seconds
        while True:
            self._require_up(since)
            if time.monotonic() >= end:
                break
            time.sleep(POLL_SECONDS)
        if self.process.check:
            self._check_all(since)

    def _require_up(self, since: float) -> None:
        if why := not_up(self.app, self.process.name, self.started, since):
            raise ActivationError(why)

    def _check_all(self, since: float) -> None:
        """Run the type's check for each new process: as many at a time as there are cores, in one time limit."""
        end = time.monotonic() + CHECK_SECONDS
        with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            # a failure cancels those that haven't begun
            list(pool.map(lambda unit: self._check(unit, since, end), self.started))
        self._require_up(since)

    def _check(self, unit: str, since: float, end: float) -> None:
        """Run the check of a process until it succeeds: one that has just started may not respond yet."""
        check = f"{self.app.name}-{self.process.name}-check@{name_of(unit)}.service"
        while True:
            try:
                return systemd.change("start", check, max(1.0, end - time.monotonic()))
            except systemd.UnitError as error:
                self._require_up(since)
                if time.monotonic() >= end:
                    raise ActivationError(
                        f"the check of {unit} ({self.process.setting}.check) did not succeed within {CHECK_SECONDS} s, "
                        f"the limit for all new processes of the type. It logged last:\n{error}"
                    ) from None
                time.sleep(1)

    def unproven(self) -> str:
        """Return why its processes aren't proven to run the wanted release; empty if they are."""
        running = [one for one in instances(self.app, self.process.name) if one.running]
        if len(running) != self.process.count:
            return f"{len(running)} of {self.process.count} {self.process.name} processes run"
        stray = {str(one.release) for one in running} - {self.wanted.release}
        return f"{self.process.name} runs release {', '.join(sorted(stray))}" if stray else ""

    def refusal(self, _began: float) -> str:
        """Return nothing: background processes report a failure only in the journal."""
        return ""

    def result(self) -> dict[str, Any]:
        """Return what was done, for the module's result and the receipt."""
        return {
            "method": self.method,
            "started": self.started,
            "stopped": self.stopped,
            "seconds": self.seconds,
            "pids": {unit: self.pids.get(unit, 0) for unit in (*self.started, *self.stopped)},
            "stop_requested": self.stop_requested,
        }

    def _stop(self, units: list[str], *, wait: bool) -> None:
        """Stop units; without `wait`, let them drain in the background. Raises UnitError."""
        if not units:
            return
        timeout = self.process.stop_timeout + STOP_MARGIN if wait else 30
        done = systemd.systemctl("stop", *([] if wait else ["--no-block"]), *units, timeout=timeout)
        if done.returncode:
            raise systemd.UnitError(done.stderr.strip())
        # otherwise a failed unit would stay in `systemctl --failed` and in the status
        systemd.systemctl("reset-failed", *units)

    def _await_signal(self, units: list[str]) -> None:
        """Wait until systemd has sent the signal: `stop --no-block` returns earlier, and they would still take jobs,
        perhaps of the new web processes. Raises UnitError.
        """
        end = time.monotonic() + SIGNAL_SECONDS
        while running := [
            one.unit for one in instances(self.app, self.process.name) if one.running and one.unit in units
        ]:
            if time.monotonic() >= end:
                raise systemd.UnitError(f"systemd didn't stop {', '.join(running)} within {SIGNAL_SECONDS:.0f} s")
            time.sleep(POLL_SECONDS)

    def _start_at_boot(self, units: list[str]) -> None:
        """Enable these units of the type at boot instead of those that are enabled. Raises OSError."""
        prefix = f"{self.app.name}-{self.process.name}"
        boot.enable_only(self.app, f"{prefix}@*.service", units, f"{prefix}@.service")

    def _clean_up(self, kept: list[str]) -> None:
        """Remove the symlinks of instances that have ended."""
        known = [one.unit for one in instances(self.app, self.process.name)]
        alive = {name_of(unit) for unit in (*known, *kept)}
        for link in self._links():
            if link.name.removeprefix(f"{self.process.name}-") not in alive:
                link.unlink(missing_ok=True)
