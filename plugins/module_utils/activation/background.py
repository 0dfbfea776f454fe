"""How an application's background processes (workers of a queue, schedulers, bots) follow those of another release.

Each activation that changes a type starts a new generation of it: the units `<app>-<type>@<generation>-<n>.service`,
each with a symlink of its own to the release that it runs. Two strategies:

`overlap`: the new ones start and are proven; then the old ones are told to stop, and end their running job while the
rollout goes on. `replace`: the old ones have ended before the new ones start, for what must never run twice.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import time
from collections.abc import Sequence
from typing import Any

from ..app import layout
from ..app.layout import ActivationError, Application, ProcessType
from ..host import atomic_file, systemd
from . import boot, digests
from .digests import Way

STOP_MARGIN = 30.0  # seconds beyond a type's own stop_timeout, after which systemd has killed what didn't end
CHECK_SECONDS = 60.0  # that a type's check may take to succeed
POLL_SECONDS = 0.2
MOST_ENDS = 100  # instances whose ends are asked for at once
WORKS = ("active", "reloading", "activating")
SHOWN = ("Id", "ActiveState", "SubState", "NRestarts", "MemoryCurrent", "MainPID", "Result")


@dataclasses.dataclass(frozen=True)
class Instance:
    """One background process, as systemd sees it."""

    unit: str
    state: str  # active, activating (starting, or waiting to be restarted), deactivating, failed
    substate: str
    restarts: int
    memory: int  # bytes; 0 where systemd doesn't say
    release: str | None
    pid: int = 0  # of its main process; 0 where it has none
    result: str = ""  # systemd's word for how it ended; `timeout`: it was killed, as it hadn't ended in time

    @property
    def works(self) -> bool:
        """Whether it runs, or is about to, and hasn't been told to stop."""
        return self.state in WORKS

    @property
    def drains(self) -> bool:
        """Whether it was told to stop, and hasn't ended."""
        return self.state == "deactivating"


def name_of(unit: str) -> str:
    """The name of an instance: `1-2` of `links-worker@1-2.service`."""
    return unit.partition("@")[2].removesuffix(".service")


def instances(app: Application, process: str) -> list[Instance]:
    """The instances of a process type that systemd knows, by generation and number."""
    found = []
    for told in systemd.properties_of_all(f"{app.name}-{process}@*.service", names=SHOWN):
        name = name_of(told.get("Id", ""))
        if not name or told.get("ActiveState") in (None, "inactive"):
            continue
        memory = told.get("MemoryCurrent", "")
        found.append(
            Instance(
                unit=told["Id"],
                state=told["ActiveState"],
                substate=told.get("SubState", ""),
                restarts=int(told.get("NRestarts") or 0),
                memory=int(memory) if memory.isdigit() and int(memory) < 2**63 else 0,
                release=layout.release_at(app.instances / f"{process}-{name}"),
                pid=int(told.get("MainPID") or 0),
                result=told.get("Result", ""),
            )
        )
    return sorted(found, key=lambda one: [int(part) if part.isdigit() else 0 for part in name_of(one.unit).split("-")])


def ends(app: Application, units: Sequence[str], since: float) -> dict[str, dict[str, Any]]:
    """What became of instances of background processes that were told to stop at a time (seconds since the epoch).

    By unit: `state` is draining (it runs its job to the end), drained, killed (it hadn't ended within its
    stop_timeout), failed (it ended with an error) or unknown, `seconds` the time that it took. Units of others are left
    out.
    """
    ours = re.compile(rf"{re.escape(app.name)}-[a-z][a-z0-9_]*@[0-9]+-[0-9]+\.service")
    asked = [unit for unit in units if ours.fullmatch(unit)][:MOST_ENDS]
    if not asked:
        return {}
    told = systemd.properties_of_all(*asked, names=("Id", "ActiveState"))
    states = {one.get("Id"): one.get("ActiveState") for one in told}
    said = systemd.ends(asked, since)
    found = {}
    for unit in asked:
        result, at = said.get(unit, ("", 0.0))
        if states.get(unit) in ("deactivating", "active"):
            found[unit] = {"state": "draining", "seconds": round(max(0.0, time.time() - since), 1)}
        elif not at:
            found[unit] = {"state": "unknown", "seconds": 0.0}
        else:
            state = {"": "drained", "timeout": "killed"}.get(result, "failed")
            found[unit] = {"state": state, "seconds": round(max(0.0, at - since), 1)}
    return found


def forget(app: Application, process: str) -> None:
    """Have nothing of a process type started at boot, and none of its instances known."""
    for pattern in (f"{app.name}-{process}@*.service", f"{app.name}-{process}.timer"):
        boot.disable(app, [link.name for link in app.started_at_boot.glob(pattern)])
    for link in app.instances.glob(f"{process}-*"):
        link.unlink(missing_ok=True)


def remove(app: Application, process: ProcessType) -> None:
    """Remove the unit files of a process type that is no longer in the settings, and forget its instances."""
    for unit in process.templates:
        app.path("etc/systemd/system", unit).unlink(missing_ok=True)
    forget(app, process.name)


class Background:
    """The change of one type of background process to a release, and back."""

    def __init__(
        self, app: Application, process: ProcessType, release: str, timeout: float, *, renew: bool = False
    ) -> None:
        """`timeout`: seconds that a start may take. `renew`: start a new generation although nothing changed."""
        self.app = app
        self.process = process
        self.timeout = timeout
        self.wanted = digests.background(app, process, release)
        self.begun = False
        self.started: list[str] = []  # units of the new generation
        self.stopped: list[str] = []
        self.pids: dict[str, int] = {}  # of the units that were started or stopped
        self.told = 0.0  # when the old ones were told to stop
        self.seconds = 0.0
        self.way: Way = self._choose(renew)

    def _choose(self, renew: bool) -> Way:
        found = instances(self.app, self.process.name)
        working = [one for one in found if one.works]
        if not self.process.count:
            return "stop" if working or not self.process.declared else "none"
        if not working:
            return "start"
        generations = {name_of(one.unit).partition("-")[0] for one in working}
        as_wanted = (
            len(working) == self.process.count
            and len(generations) == 1
            and {one.release for one in working} == {self.wanted.release}
            and digests.recorded(self.app, self.process.name) == self.wanted
        )
        if as_wanted and not renew:
            return "none"
        return "overlap" if self.process.strategy == "overlap" else "replace"

    def execute(self) -> None:
        """Let the release's processes follow. Raises ActivationError, UnitError, OSError."""
        if self.way == "none":
            return
        self.begun, began = True, time.monotonic()
        self._follow()
        self.seconds = round(time.monotonic() - began, 3)

    def put_back(self) -> None:
        """Let the previous processes run, which are `wanted` by now. Raises as `execute` does."""
        if not self.begun:
            return
        self.process = self.app.as_declared(self.process)
        found = instances(self.app, self.process.name)
        left = [one.unit for one in found if one.works and one.unit not in self.started]
        if self.stopped or len(left) != self.process.count:
            self._follow()
        else:  # the previous ones still run
            self._stop(self.started, wait=False)
            self._tidy(left)

    def _follow(self) -> None:
        found = [one for one in instances(self.app, self.process.name) if not one.drains]
        old, self.pids = [one.unit for one in found], {one.unit: one.pid for one in found}
        self.started, self.stopped = [], []
        if self.process.strategy == "replace":
            self.stopped, old = old, []
            self.told = time.time()
            self._stop(self.stopped, wait=True)
        if self.process.count:
            self._start(self.process.count)
            boot.enable(self.app, self.started, f"{self.app.name}-{self.process.name}@.service")
            self.pids |= {one.unit: one.pid for one in instances(self.app, self.process.name)}
        if old:
            self.told = time.time()
        self._stop(old, wait=False)
        self.stopped += old
        self._tidy(self.started)
        if not self.process.declared:
            # those that drain know their release without their links, and nothing would ask for them again
            remove(self.app, self.process)

    def rehearse(self) -> None:
        """Start one process of the release, see that it stays up, and stop it. Raises ActivationError, UnitError."""
        try:
            self._start(1)
        finally:
            self._stop(self.started, wait=False)
            self.started = []

    def _start(self, count: int) -> None:
        """Start a new generation, and have it proven. Raises ActivationError, UnitError, OSError."""
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
        """See that the new ones stay up, and that the type's check succeeds. Raises ActivationError, UnitError."""
        end = time.monotonic() + self.process.settle_seconds
        while True:
            self._require_up(since)
            if time.monotonic() >= end:
                break
            time.sleep(POLL_SECONDS)
        if self.process.check:
            self._check(since)

    def _require_up(self, since: float) -> None:
        if why := self._fallen(self.started):
            unit = why.partition(" ")[0]
            raise ActivationError(f"{why}. It logged last:\n{systemd.tail(unit, since)}")

    def _check(self, since: float) -> None:
        """Ask the type's check, until it succeeds: one that has started may need a moment to answer."""
        unit = f"{self.app.name}-{self.process.name}-check@{name_of(self.started[0])}.service"
        end = time.monotonic() + CHECK_SECONDS
        while True:
            try:
                systemd.change("start", unit, max(1.0, end - time.monotonic()))
            except systemd.UnitError as error:
                self._require_up(since)
                if time.monotonic() >= end:
                    raise ActivationError(
                        f"the check of {self.process.name} (app_processes) fails. It logged last:\n{error}"
                    ) from None
                time.sleep(1)
            else:
                self._require_up(since)
                return

    def _fallen(self, units: list[str]) -> str:
        """Which of the units isn't up, or was restarted; empty when all are as they should be."""
        found = {one.unit: one for one in instances(self.app, self.process.name)}
        for unit in units:
            one = found.get(unit)
            if one is None:
                return f"{unit} ended at once"
            if one.restarts:
                return f"{unit} ended and was restarted {one.restarts} times"
            if one.state != "active":
                return f"{unit} is {one.state} ({one.substate})"
        return ""

    def unproven(self) -> str:
        """Why its processes don't prove that they are of the wanted release; empty when they do."""
        working = [one for one in instances(self.app, self.process.name) if one.works]
        if len(working) != self.process.count:
            return f"{len(working)} of {self.process.count} {self.process.name} run"
        stray = {str(one.release) for one in working} - {self.wanted.release}
        return f"{self.process.name} is of {', '.join(sorted(stray))}" if stray else ""

    def refusal(self, _began: float) -> str:
        """Empty: these report no reason beyond their journal."""
        return ""

    def result(self) -> dict[str, Any]:
        """What was done, for people and for the receipt."""
        return {
            "way": self.way,
            "started": self.started,
            "stopped": self.stopped,
            "seconds": self.seconds,
            "pids": {unit: self.pids.get(unit, 0) for unit in (*self.started, *self.stopped)},
            "told": self.told,
        }

    def _stop(self, units: list[str], *, wait: bool) -> None:
        """Have units stopped, now and at boot; without `wait` they drain by themselves. Raises UnitError."""
        if not units:
            return
        boot.disable(self.app, units)
        patience = self.process.stop_timeout + STOP_MARGIN if wait else 30
        done = systemd.systemctl("stop", *([] if wait else ["--no-block"]), *units, timeout=patience)
        if done.returncode:
            raise systemd.UnitError(done.stderr.strip())
        # a failed unit would stay in `systemctl --failed` and in the status
        systemd.systemctl("reset-failed", *units)

    def _tidy(self, kept: list[str]) -> None:
        """Remove the symlinks of instances that have ended, and what a killed activation had enabled."""
        known = [one.unit for one in instances(self.app, self.process.name)]
        alive = {name_of(unit) for unit in (*known, *kept)}
        for link in self._links():
            if link.name.removeprefix(f"{self.process.name}-") not in alive:
                link.unlink(missing_ok=True)
        enabled = self.app.started_at_boot.glob(f"{self.app.name}-{self.process.name}@*.service")
        boot.disable(self.app, [link.name for link in enabled if link.name not in kept])
