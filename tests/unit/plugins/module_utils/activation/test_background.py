"""The processes of one release replace those of another. Systemd is a stand-in; files and links are real."""

from __future__ import annotations

import collections
import fnmatch
import itertools
import json
import os
import pathlib
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.activation import (
    activation,
    background,
    boot,
    digests,
    handover,
    rehearsal,
    snapshot,
)
from ansible_collections.baton.web.plugins.module_utils.app import layout
from ansible_collections.baton.web.plugins.module_utils.host import mapped, systemd

from tests.support.clock import Clock

WORKER = {"count": 2, "strategy": "overlap", "order": "before_web", "settle_seconds": 0, "stop_timeout": 9}
WANTS = "etc/systemd/system/multi-user.target.wants"


class Units:
    """A fake systemd: the state of each unit, and the commands that it received."""

    def __init__(self, app: layout.Application) -> None:
        self.app = app
        self.states: dict[str, str] = {}
        self.runs: dict[str, str | None] = {}  # the release of each unit when it was started
        self.pids: dict[str, int] = collections.defaultdict(itertools.count(101).__next__)
        self.restarts: dict[str, int] = {}
        self.log: list[str] = []
        self.drains = False  # whether a stop never ends
        self.crashes: Callable[[str], bool] = lambda _unit: False  # ends as soon as it is started
        self.refuses: Callable[[str], bool] = lambda _unit: False
        self.reloaded: Callable[[], object] = lambda: None  # systemd reads the unit files

    def systemctl(self, verb: str, *words: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        assert timeout > 0
        done = subprocess.CompletedProcess([verb], 0, "", "")
        units = [word for word in words if not word.startswith("--")]
        if verb == "show":
            asked = next(word.removeprefix("--property=") for word in words if word.startswith("--property="))
            done.stdout = "\n".join(
                "".join(f"{name}={self.properties(unit)[name]}\n" for name in asked.split(","))
                for unit, state in self.states.items()
                if any(fnmatch.fnmatch(unit, one) for one in units) and state != "inactive"
            )
        elif verb == "daemon-reload":
            self.reloaded()
        elif verb == "stop":
            blocking = "--no-block" not in words
            for unit in [name for name in self.states if any(fnmatch.fnmatch(name, one) for one in units)]:
                self.log.append(f"stop {short(unit)}")
                if self.states[unit] != "failed":
                    self.states[unit] = "deactivating" if self.drains and not blocking else "inactive"
        elif verb == "reset-failed":
            self.states |= {unit: "inactive" for unit in units if self.states.get(unit) == "failed"}
        return done

    def properties(self, unit: str) -> dict[str, Any]:
        return {
            "Id": unit,
            "ActiveState": self.states[unit],
            "SubState": "x",
            "NRestarts": self.restarts.get(unit, 0),
            "MemoryCurrent": 2**20,
            "MainPID": self.pids[unit],
            "Result": "success",
            "ControlGroup": f"/{unit}",
        }

    def change(self, verb: str, unit: str, _timeout: float) -> None:
        self.log.append(f"{verb} {short(unit)}")
        if self.refuses(unit):
            raise systemd.UnitError(f"{unit} says no")
        if "-check@" in unit:
            return
        link = self.app.instances / short(unit).replace("@", "-")
        assert link.exists(), "started without a release"
        self.runs[unit] = layout.release_at(link)
        self.states[unit] = "active"
        if self.crashes(unit):
            self.restarts[unit] = 1

    def active(self) -> dict[str, str | None]:
        return {short(unit): self.runs[unit] for unit in self.runs if self.states[unit] == "active"}


def short(unit: str) -> str:
    return unit.removeprefix("links-").removesuffix(".service")


@pytest.fixture
def app(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> layout.Application:
    """A host's root with the releases aaaa, which is current, and bbbb; the web handover always succeeds."""
    application = layout.Application("links", str(tmp_path))
    for release in ("aaaa", "bbbb"):
        folder = application.release(release)
        folder.mkdir(parents=True)
        (folder / "release.json").write_text(json.dumps({"id": release, "python": "3.11.2", "packages": {}}))
    for path in ("etc/links/secrets/TOKEN", "etc/links/environment", "etc/machine-id", "var/lib/baton/links/.keep"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("x")
    application.path(WANTS).mkdir(parents=True)
    layout.set_current(application, "aaaa")
    monkeypatch.setattr(digests, "choose", lambda app, new: "none" if digests.recorded(app) == new else "reload")
    for name in ("_prove", "_end_bridge", "_reload"):
        monkeypatch.setattr(handover.Handover, name, lambda *_: None)
    monkeypatch.setattr(handover.Handover, "unproven", lambda _: "")
    monkeypatch.setattr(layout, "sync_filesystem", lambda _: None)
    monkeypatch.setattr(snapshot, "sync_filesystem", lambda _: None)
    return application


@pytest.fixture
def units(app: layout.Application, monkeypatch: pytest.MonkeyPatch) -> Units:
    fake = Units(app)
    monkeypatch.setattr(systemd, "systemctl", fake.systemctl)
    monkeypatch.setattr(systemd, "change", fake.change)
    monkeypatch.setattr(systemd, "tail", lambda unit, _since: f"the log of {unit}")
    monkeypatch.setattr(systemd, "is_active", lambda unit: unit == app.service)
    return fake


def declare(app: layout.Application, **types: Any) -> None:
    """Write the files that the role writes."""
    settings = {name: {**WORKER, "check": False, **changed} for name, changed in types.items()}
    app.process_settings.write_text(json.dumps(settings))
    for name in settings:
        unit = app.path("etc/systemd/system", f"links-{name}@.service")
        unit.write_text(f"[Service]\nExecStart={settings[name]}")


def activate(app: layout.Application, release: str, **options: Any) -> dict[str, Any]:
    return activation.Activation(app, release, 9, **options).execute()


def enabled(app: layout.Application) -> set[str]:
    return {short(path.name) for path in app.path(WANTS).iterdir()}


def test_first_processes_are_started_and_enabled(app: layout.Application, units: Units) -> None:
    declare(app, worker={})
    changed = activate(app, "aaaa")
    assert units.active() == {"worker@1-1": "aaaa", "worker@1-2": "aaaa"}
    assert enabled(app) == {"worker@1-1", "worker@1-2"}
    assert changed["worker"]["method"] == "start"
    assert changed["worker"]["started"] == ["links-worker@1-1.service", "links-worker@1-2.service"]


def test_second_activation_does_nothing(app: layout.Application, units: Units) -> None:
    declare(app, worker={}, beat={"strategy": "replace", "count": 1})
    activate(app, "aaaa")
    units.log.clear()
    assert activate(app, "aaaa") == {}
    assert units.log == []


def test_new_processes_start_before_old_ones_stop(app: layout.Application, units: Units) -> None:
    declare(app, worker={})
    activate(app, "aaaa")
    units.log.clear()
    units.drains = True
    changed = activate(app, "bbbb")
    assert units.log == ["start worker@2-1", "start worker@2-2", "stop worker@1-1", "stop worker@1-2"]
    assert units.active() == {"worker@2-1": "bbbb", "worker@2-2": "bbbb"}
    assert enabled(app) == {"worker@2-1", "worker@2-2"}
    assert changed["worker"]["stopped"] == ["links-worker@1-1.service", "links-worker@1-2.service"]
    # the old processes still run in their release, so their link must stay
    assert layout.release_at(app.instances / "worker-1-1") == "aaaa"
    units.states = {unit: state for unit, state in units.states.items() if state == "active"}
    units.drains = False
    activate(app, "aaaa")
    assert sorted(path.name for path in app.instances.iterdir()) == ["worker-3-1", "worker-3-2"]


@pytest.mark.parametrize("strategy", ["overlap", "replace"])
def test_started_and_stopped_processes_are_reported(app: layout.Application, units: Units, strategy: str) -> None:
    declare(app, worker={"strategy": strategy, "count": 1})
    activate(app, "aaaa")
    began = time.time()
    changed = activate(app, "bbbb")["worker"]
    old, new = "links-worker@1-1.service", "links-worker@2-1.service"
    assert changed["pids"] == {new: units.pids[new], old: units.pids[old]}
    assert len({*changed["pids"].values()}) == 2
    assert began <= changed["stop_requested"] <= time.time()


def test_end_of_old_processes_is_read_from_systemd(
    app: layout.Application, units: Units, monkeypatch: pytest.MonkeyPatch
) -> None:
    since_stop = 1764072000.0
    named = {state: f"links-worker@1-{number}.service" for number, state in enumerate(("drains", "ended", "lost"), 1)}
    named |= {state: f"links-beat@4-{number}.service" for number, state in enumerate(("killed", "failed"), 1)}
    units.states = {named["drains"]: "deactivating", named["killed"]: "failed"}
    queried = []

    def ends(names: list[str], since: float) -> dict[str, tuple[str, float]]:
        queried.extend(names)
        assert since == since_stop
        return {
            named["ended"]: ("", since_stop + 4.26),
            named["killed"]: ("timeout", since_stop + 30),
            named["failed"]: ("exit-code", since_stop + 1),
        }

    monkeypatch.setattr(systemd, "ends", ends)
    found = background.ends(
        app, [*named.values(), "links.service", "other-worker@1-1.service", "--all", "x\n"], since_stop
    )
    assert queried == [*named.values()]
    assert found.pop(named["drains"])["state"] == "draining"
    assert found == {
        named["ended"]: {"state": "drained", "seconds": 4.3},
        named["lost"]: {"state": "unknown", "seconds": 0.0},
        named["killed"]: {"state": "killed", "seconds": 30.0},
        named["failed"]: {"state": "failed", "seconds": 1.0},
    }
    queried.clear()
    assert background.ends(app, ["sshd.service"], since_stop) == {}
    assert len(background.ends(app, [f"links-worker@1-{number}.service" for number in range(10**4)], since_stop)) == 100


@pytest.mark.parametrize("end", ["none", "ended", "failed", "restarted"])
def test_process_that_ends_after_its_proof_is_found(app: layout.Application, units: Units, end: str) -> None:
    declare(app, worker={}, beat={"count": 1})
    changed = activate(app, "aaaa")
    started = [unit for about in changed.values() for unit in about["started"]]
    assert len(started) == 3
    dead = "links-worker@1-2.service"
    match end:
        case "ended":
            units.states[dead] = "inactive"
            words = f"{dead} ended."
        case "failed":
            units.states[dead] = "failed"
            words = f"{dead} is failed (x)."
        case "restarted":
            units.restarts[dead] = 2
            words = f"{dead} ended and was restarted 2 times."
    expected = "" if end == "none" else f"{words} It logged last:\nthe log of {dead}"
    assert background.down(app, started) == expected
    # a timer, and units of others
    assert background.down(app, ["links-clean.timer", "links.service", "other-worker@1-1.service", "--all"]) == ""


def test_exclusive_process_stops_before_the_next_starts(app: layout.Application, units: Units) -> None:
    declare(app, beat={"strategy": "replace", "count": 1})
    activate(app, "aaaa")
    units.log.clear()
    units.drains = True
    activate(app, "bbbb")
    assert units.log == ["stop beat@1-1", "start beat@2-1"]
    assert units.active() == {"beat@2-1": "bbbb"}


def test_exclusive_process_that_was_asked_to_stop_ends_before_the_next_starts(
    app: layout.Application, units: Units
) -> None:
    """By an operator, or while the type still was one that overlaps."""
    declare(app, beat={"strategy": "replace", "count": 1})
    activate(app, "aaaa")
    units.states["links-beat@1-1.service"] = "deactivating"
    units.log.clear()
    activate(app, "bbbb")
    assert units.log == ["stop beat@1-1", "start beat@2-1"]


@pytest.mark.parametrize("strategy", ["overlap", "replace"])
def test_crashed_host_starts_old_processes_until_new_ones_are_proven(
    app: layout.Application, units: Units, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    declare(app, worker={"strategy": strategy, "check": True})
    activate(app, "aaaa")
    old, seen = enabled(app), []
    stop, change = units.systemctl, units.change

    def systemctl(verb: str, *words: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        if verb == "stop":
            seen.append(("stop", enabled(app)))
        return stop(verb, *words, timeout=timeout)

    def changed(verb: str, unit: str, timeout: float) -> None:
        seen.append((f"{verb} {short(unit)}", enabled(app)))
        change(verb, unit, timeout)

    monkeypatch.setattr(systemd, "systemctl", systemctl)
    monkeypatch.setattr(systemd, "change", changed)
    activate(app, "bbbb")
    starts, checks = ["start worker@2-1", "start worker@2-2"], ["start worker-check@2-1", "start worker-check@2-2"]
    steps = ["stop", *starts, *checks] if strategy == "replace" else [*starts, *checks, "stop"]
    first = steps.index(checks[0])
    seen[first : first + 2] = sorted(seen[first : first + 2])  # they run at the same time
    assert [step for step, _ in seen] == steps
    new = {"worker@2-1", "worker@2-2"}
    assert enabled(app) == new
    for step, at_boot in seen:
        assert at_boot == (new if (step, strategy) == ("stop", "overlap") else old), step


def test_crash_while_units_are_enabled_leaves_as_many(app: layout.Application, monkeypatch: pytest.MonkeyPatch) -> None:
    def swap(*names: str) -> None:
        units = [f"links-worker@{name}.service" for name in names]
        boot.enable_only(app, "links-worker@*.service", units, "links-worker@.service")

    seen = []

    def recording(real: Callable[..., None]) -> Callable[..., None]:
        def recorded(*words: Any, **how: Any) -> None:
            real(*words, **how)
            seen.append(enabled(app))

        return recorded

    for name in ("rename", "unlink", "symlink"):
        monkeypatch.setattr(os, name, recording(getattr(os, name)))
    app.path(WANTS, "links-beat@1-1.service").symlink_to("/etc/systemd/system/links-beat@.service")
    swap("1-1", "1-2")
    seen.clear()
    swap("2-1", "2-2")
    assert seen == [
        {"beat@1-1", "worker@2-1", "worker@1-2"},
        {"beat@1-1", "worker@2-1", "worker@2-2"},
    ]
    assert {os.readlink(app.path(WANTS, f"links-worker@2-{number}.service")) for number in (1, 2)} == {
        "/etc/systemd/system/links-worker@.service"
    }
    swap("2-2", "3-1", "3-2")
    assert enabled(app) == {"beat@1-1", "worker@2-2", "worker@3-1", "worker@3-2"}
    swap()
    assert enabled(app) == {"beat@1-1"}


@pytest.mark.parametrize("strategy", ["overlap", "replace"])
@pytest.mark.parametrize("fault", ["ends at once", "is refused", "1 fails its check", "2 fails its check"])
def test_failed_process_keeps_the_old_ones(
    app: layout.Application, units: Units, strategy: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "CHECK_SECONDS", 0)
    declare(app, worker={"strategy": strategy, "check": fault.endswith("check")})
    activate(app, "aaaa")
    before = units.active()
    if fault == "ends at once":
        units.crashes = lambda unit: units.runs[unit] == "bbbb"
    elif fault == "is refused":
        units.refuses = lambda unit: "@2-2" in unit
    else:
        units.refuses = lambda unit: f"-check@2-{fault[0]}" in unit
    with pytest.raises(layout.ActivationError) as caught:
        activate(app, "bbbb")
    assert "worker" in str(caught.value)
    assert "Release aaaa serves, as before." in str(caught.value)
    assert ("the log of links-worker@2-1.service" in str(caught.value)) == (fault == "ends at once")
    if fault.endswith("check"):
        culprit = f"the check of links-worker@2-{fault[0]}.service (app_processes.worker.check) did not succeed"
        assert culprit in str(caught.value)
    after = units.active()
    assert set(after.values()) == {"aaaa"}
    assert len(after) == 2
    assert (after == before) == (strategy == "overlap")
    assert enabled(app) == set(after)
    assert layout.current(app) == "aaaa"
    # the activation left nothing to do
    assert activate(app, "aaaa") == {} or strategy == "replace"


def test_check_runs_for_each_new_process_as_many_at_a_time_as_there_are_cores(
    app: layout.Application, units: Units, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    declare(app, worker={"count": 6, "check": True})
    start, both, running, most = units.change, threading.Barrier(2), [], []

    def change(verb: str, unit: str, timeout: float) -> None:
        start(verb, unit, timeout)
        if "-check@" in unit:
            running.append(unit)
            both.wait(600)  # raises an error if they ran one after another
            most.append(len(running))
            running.remove(unit)

    monkeypatch.setattr(systemd, "change", change)
    activate(app, "aaaa")
    assert sorted(units.log[6:]) == [f"start worker-check@1-{number}" for number in range(1, 7)]
    assert max(most) == 2
    # a rehearsal starts only one
    monkeypatch.setattr(systemd, "change", start)
    units.log.clear()
    (process,) = [process for process in app.processes if process.name == "worker"]
    background.Background(app, process, "bbbb", 9).rehearse()
    assert units.log == ["start worker@2-1", "start worker-check@2-1", "stop worker@2-1"]


@pytest.mark.parametrize("recovers", [True, False])
def test_check_that_fails_is_repeated_until_the_limit_of_all_has_passed(
    app: layout.Application, units: Units, monkeypatch: pytest.MonkeyPatch, recovers: bool
) -> None:
    monkeypatch.setattr(background, "time", Clock())
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    declare(app, worker={"check": True})
    attempts: collections.Counter[str] = collections.Counter()
    limits: list[float] = []
    start = units.change

    def change(verb: str, unit: str, timeout: float) -> None:
        start(verb, unit, timeout)
        if "-check@" in unit:
            attempts[short(unit)] += 1
            limits.append(timeout)
            if not (recovers and attempts[short(unit)] == 3):
                raise systemd.UnitError("not yet")

    monkeypatch.setattr(systemd, "change", change)
    if recovers:
        activate(app, "aaaa")
        assert attempts == {"worker-check@1-1": 3, "worker-check@1-2": 3}
    else:
        with pytest.raises(layout.ActivationError, match=r"worker@1-1\.service .*not succeed within 60 s.*\nnot yet"):
            activate(app, "aaaa")
        assert attempts["worker-check@1-1"] == 61
    # the second one's turn comes later
    assert limits[:4] == ([60, 59, 58, 58] if recovers else [60, 59, 58, 57])


@pytest.mark.parametrize(
    "modify",
    [
        lambda app: app.path("etc/links/environment").write_text("y"),
        lambda app: app.path("etc/links/secrets/TOKEN").write_text("y"),
        lambda app: app.path("etc/systemd/system/links-worker@.service").write_text("[Service]\nExecStart=y"),
        lambda app: declare(app, worker={"count": 3}),
    ],
)
def test_changed_inputs_start_a_new_generation(
    app: layout.Application, units: Units, modify: Callable[[layout.Application], Any]
) -> None:
    declare(app, worker={})
    activate(app, "aaaa")
    modify(app)
    activate(app, "aaaa")
    assert {unit.partition("-")[0] for unit in units.active()} == {"worker@2"}
    assert activate(app, "aaaa") == {}


def test_processes_with_replaced_libraries_start_a_new_generation(
    app: layout.Application, units: Units, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(app, worker={})
    activate(app, "aaaa")
    outdated = "links-worker@1-2.service"
    monkeypatch.setattr(
        mapped, "replaced_in", lambda group, _root: ["/usr/lib/libssl.so"] if group == f"/{outdated}" else []
    )
    activate(app, "aaaa")
    assert {unit.partition("-")[0] for unit in units.active()} == {"worker@2"}
    assert activate(app, "aaaa") == {}


@pytest.mark.parametrize("state", ["inactive", "failed", "activating"])
def test_dead_process_is_replaced_by_the_next_change(app: layout.Application, units: Units, state: str) -> None:
    declare(app, worker={})
    activate(app, "aaaa")
    units.states["links-worker@1-2.service"] = state
    units.restarts["links-worker@1-2.service"] = 4
    if state == "activating":  # systemd will restart it
        assert activate(app, "aaaa") == {}
        return
    activate(app, "aaaa")
    assert units.active() == {"worker@2-1": "aaaa", "worker@2-2": "aaaa"}


def test_processes_of_an_interrupted_change_are_replaced(app: layout.Application, units: Units) -> None:
    declare(app, worker={})
    activate(app, "aaaa")
    # the host crashed after one new process was started
    (app.instances / "worker-2-1").symlink_to("../releases/bbbb")
    units.change("start", "links-worker@2-1.service", 1)
    activate(app, "bbbb")
    assert units.active() == {"worker@3-1": "bbbb", "worker@3-2": "bbbb"}
    assert enabled(app) == {"worker@3-1", "worker@3-2"}


@pytest.mark.parametrize("declared", [True, False])
def test_process_that_no_longer_runs_here_is_stopped(app: layout.Application, units: Units, declared: bool) -> None:
    declare(app, worker={}, beat={"count": 1})
    activate(app, "aaaa")
    declare(app, worker={}, **({"beat": {"count": 0}} if declared else {}))
    changed = activate(app, "aaaa")
    assert changed["beat"]["method"] == "stop"
    assert units.active().keys() == {"worker@1-1", "worker@1-2"}
    assert enabled(app) == {"worker@1-1", "worker@1-2"}
    assert app.path("etc/systemd/system/links-beat@.service").exists() == declared
    assert activate(app, "aaaa") == {}


@pytest.mark.parametrize("state", ["failed", "inactive"])
def test_process_that_has_ended_does_not_start_at_boot_where_its_type_no_longer_runs(
    app: layout.Application, units: Units, state: str
) -> None:
    declare(app, beat={"count": 1})
    activate(app, "aaaa")
    units.states["links-beat@1-1.service"] = state
    declare(app, beat={"count": 0})
    assert activate(app, "aaaa", transaction="t1")["beat"]["method"] == "stop"
    assert enabled(app) == set()
    assert not list(app.instances.iterdir())
    assert units.states["links-beat@1-1.service"] == "inactive"
    assert activate(app, "aaaa") == {}
    activation.revert(app, "t1", 9)
    assert units.active() == {"beat@1-1": "aaaa"}
    assert enabled(app) == {"beat@1-1"}


def test_killed_process_that_does_not_start_at_boot_is_no_change(app: layout.Application, units: Units) -> None:
    """The status names it until an operator resets it."""
    declare(app, beat={"count": 1})
    activate(app, "aaaa")
    units.drains = True
    declare(app, beat={"count": 0})
    activate(app, "aaaa")
    units.states["links-beat@1-1.service"] = "failed"
    assert activate(app, "aaaa") == {}


def test_failed_new_type_is_removed(app: layout.Application, units: Units) -> None:
    declare(app, worker={})
    activate(app, "aaaa")
    declare(app, worker={}, bot={"count": 1})
    units.crashes = lambda unit: "bot" in unit
    with pytest.raises(layout.ActivationError, match=r"bot@1-1\.service ended and was restarted"):
        activate(app, "aaaa")
    assert units.active().keys() == {"worker@1-1", "worker@1-2"}
    assert not app.path("etc/systemd/system/links-bot@.service").exists()
    assert json.loads(app.process_settings.read_text()).keys() == {"worker"}


@pytest.mark.parametrize("failed", [True, False])
def test_draining_process_of_a_removed_type_keeps_its_unit_settings(
    app: layout.Application, units: Units, failed: bool
) -> None:
    """At a daemon-reload, systemd would otherwise apply its defaults, and kill it after 90 s."""
    declare(app, worker={})
    activate(app, "aaaa")
    units.drains = True
    declare(app, worker={}, bot={"count": 1, "stop_timeout": 7200})
    reloaded = []
    if failed:
        # the type is reverted after its process has taken a job
        units.refuses = lambda unit: "worker@2" in unit
        app.path("etc/systemd/system/links-worker@.service").write_text("[Service]\nExecStart=y")
        app.process_settings.write_text(
            json.dumps(dict(reversed(json.loads(app.process_settings.read_text()).items())))
        )
        units.reloaded = lambda: reloaded.append(unit_of_bot(app))
        with pytest.raises(layout.ActivationError, match=r"worker@2-1\.service says no"):
            activate(app, "aaaa")
        assert reloaded
    else:
        activate(app, "aaaa")
        declare(app, worker={})
        activate(app, "aaaa")
    assert units.states["links-bot@1-1.service"] == "deactivating"
    assert not app.path("etc/systemd/system/links-bot@.service").exists()
    for content in (unit_of_bot(app), *reloaded):
        assert "7200" in content
    # a type that is added and removed again later leaves nothing
    units.states["links-bot@1-1.service"] = "inactive"
    units.drains, units.refuses = False, lambda _unit: False
    declare(app, worker={}, bot={"count": 1})
    activate(app, "aaaa")
    declare(app, worker={})
    activate(app, "aaaa")
    assert unit_of_bot(app) == ""


def unit_of_bot(app: layout.Application) -> str:
    """The unit file that systemd reads."""
    for folder in ("etc", "run"):
        path = app.path(folder, "systemd/system/links-bot@.service")
        if path.exists():
            return path.read_text()
    return ""


def test_part_before_web_leaves_current_and_other_types(app: layout.Application, units: Units) -> None:
    declare(app, worker={}, mailer={"order": "after_web"})
    activate(app, "aaaa")
    units.log.clear()
    changed = activate(app, "bbbb", part="before_web", transaction="t1")
    assert changed.keys() == {"worker"}
    assert layout.current(app) == "aaaa"
    assert set(units.active().values()) == {"aaaa", "bbbb"}
    assert app.record.stat().st_mode & 0o777 == 0o600
    assert layout.served(app) == ["aaaa"]
    assert activate(app, "bbbb", part="before_web", transaction="t1") == {}
    changed = activate(app, "bbbb", part="web", transaction="t1")
    assert changed.keys() == {"mailer"}
    assert layout.current(app) == "bbbb"
    assert set(units.active().values()) == {"bbbb"}
    assert layout.served(app) == ["bbbb", "aaaa"]
    assert activate(app, "bbbb") == {}


@pytest.mark.parametrize("first", [True, False])
def test_part_before_web_keeps_a_copy_of_its_own_configuration(
    app: layout.Application,
    units: Units,  # noqa: ARG001
    first: bool,
) -> None:
    """The rest isn't known to serve yet. Before the first complete activation, nothing is kept."""
    unit, environment = "etc/systemd/system/links-worker@.service", "etc/links/environment"
    declare(app, worker={})
    if not first:
        activate(app, "aaaa")
    declare(app, worker={"stop_timeout": 99})
    app.path(environment).write_text("not tried yet")
    activate(app, "bbbb", part="before_web", transaction="t1")
    assert app.kept.exists() is not first
    if not first:
        assert "99" in (app.kept / unit).read_text()
        assert (app.kept / environment).read_text() == "x"


def test_revert_of_a_transaction_includes_all_types_web_first(
    app: layout.Application, units: Units, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(app, worker={})
    activate(app, "aaaa")
    monkeypatch.setattr(handover.Handover, "_reload", lambda self: units.log.append(f"web {self.wanted.release}"))
    declare(app, worker={"stop_timeout": 99})
    activate(app, "bbbb", part="before_web", transaction="t1")
    units.log.clear()
    activation.revert(app, "t1", 9)
    assert units.active() == {"worker@3-1": "aaaa", "worker@3-2": "aaaa"}
    assert json.loads(app.process_settings.read_text())["worker"]["stop_timeout"] == 9
    activate(app, "bbbb", part="before_web", transaction="t2")
    activate(app, "bbbb", part="web", transaction="t2")
    units.log.clear()
    activation.revert(app, "t2", 9)
    assert units.log[0] == "web aaaa"
    assert set(units.active().values()) == {"aaaa"}
    assert activate(app, "aaaa") == {}


def test_revert_restores_a_removed_type(app: layout.Application, units: Units) -> None:
    declare(app, worker={}, mailer={"order": "after_web"})
    activate(app, "aaaa")
    declare(app, mailer={"order": "after_web"})
    activate(app, "bbbb", part="before_web", transaction="t1")
    activate(app, "bbbb", part="web", transaction="t1")
    assert {unit.partition("@")[0] for unit in units.active()} == {"mailer"}
    activation.revert(app, "t1", 9)
    assert {unit.partition("@")[0] for unit in units.active()} == {"mailer", "worker"}
    assert set(units.active().values()) == {"aaaa"}
    assert app.path("etc/systemd/system/links-worker@.service").exists()


def test_commands_are_recorded_for_each_release(
    app: layout.Application,
    units: Units,  # noqa: ARG001
) -> None:
    declare(app, worker={"command": "exec work"})
    activate(app, "aaaa")
    declare(app, worker={"command": "exec work harder"}, sender={"command": "exec send"})
    schedule(app)
    activate(app, "bbbb", part="before_web", transaction="t1")
    first, second = {"app_processes.worker": "exec work"}, {"app_processes.worker": "exec work harder"}
    second |= {"app_processes.sender": "exec send"}
    # not known to serve yet
    assert layout.recorded_commands(app) == {"aaaa": first}
    activate(app, "bbbb", part="web", transaction="t1")
    assert layout.recorded_commands(app) == {"aaaa": first, "bbbb": second}
    activation.revert(app, "t1", 9)
    assert layout.recorded_commands(app)["aaaa"] == first
    (app.release("bbbb") / "release.json").unlink()
    app.release("bbbb").rmdir()
    declare(app, worker={"command": "exec work", "count": 3})
    activate(app, "aaaa")
    assert layout.recorded_commands(app) == {"aaaa": first}


def test_commands_of_the_current_release_are_recorded_on_all_hosts(
    app: layout.Application,
    units: Units,
) -> None:
    """Also where the web processes don't change, and of types that run only on another host."""
    activate(app, "aaaa")
    declare(app, worker={"command": "exec work"})
    activate(app, "aaaa", part="before_web", transaction="t1")
    activate(app, "aaaa", part="web", transaction="t1")
    assert layout.recorded_commands(app) == {"aaaa": {"app_processes.worker": "exec work"}}
    declare(app, worker={"command": "exec work"}, beat={"command": "exec tick", "count": 0})
    units.log.clear()
    activate(app, "aaaa", part="before_web", transaction="t2")
    activate(app, "aaaa", part="web", transaction="t2")
    assert units.log == []
    assert layout.recorded_commands(app)["aaaa"]["app_processes.beat"] == "exec tick"


def test_renamed_type_is_replaced_before_web(app: layout.Application, units: Units) -> None:
    """Otherwise its old processes take jobs of the new release, whose first web processes enqueue them."""
    declare(app, worker={}, mailer={"order": "after_web"})
    activate(app, "aaaa")
    declare(app, sender={}, letters={"order": "after_web"})
    assert [process.name for process in app.processes] == ["sender", "worker", "web", "letters", "mailer"]
    units.log.clear()
    activate(app, "bbbb", part="before_web", transaction="t1")
    assert units.active() == {"sender@1-1": "bbbb", "sender@1-2": "bbbb", "mailer@1-1": "aaaa", "mailer@1-2": "aaaa"}
    assert units.log == ["start sender@1-1", "start sender@1-2", "stop worker@1-1", "stop worker@1-2"]
    activate(app, "bbbb", part="web", transaction="t1")
    assert set(units.active().values()) == {"bbbb"}
    activation.revert(app, "t1", 9)
    assert {unit.partition("@")[0] for unit in units.active()} == {"worker", "mailer"}
    assert set(units.active().values()) == {"aaaa"}


@pytest.mark.parametrize("kept", ["", "[]", '{"worker": 1}', '{"worker": {"order": ["before_web"]}}'])
def test_removed_type_with_unknown_order_stops_in_any_part(
    app: layout.Application,
    units: Units,  # noqa: ARG001
    kept: str,
) -> None:
    declare(app, worker={})
    activate(app, "aaaa")
    declare(app)
    (app.kept / "etc/links/processes.json").write_text(kept)
    web, worker = app.processes
    assert (web.name, worker.name) == ("web", "worker")
    assert (worker.is_in("before_web"), worker.is_in("web"), web.is_in("before_web")) == (True, True, False)


def test_type_that_a_rollback_removes_stops_after_web(app: layout.Application, units: Units) -> None:
    """The new web processes are activated first, and with them the settings without the type."""
    declare(app, worker={})
    activate(app, "aaaa")
    declare(app, sender={})
    activate(app, "bbbb", part="web", transaction="t1")
    assert units.active() == {"worker@1-1": "aaaa", "worker@1-2": "aaaa"}
    activate(app, "bbbb", part="before_web", transaction="t1")
    assert units.active() == {"sender@1-1": "bbbb", "sender@1-2": "bbbb"}


SINGLETON = {"strategy": "replace", "count": 1}
DEPLOY, ROLLBACK = ("before_web", "web"), ("web", "before_web")


@pytest.fixture
def alone(units: Units, monkeypatch: pytest.MonkeyPatch) -> Units:
    """Asserts at each start of a singleton that all processes of the other one have ended."""
    plain, names = units.change, ("links-beat@", "links-ticker@")
    units.drains = True

    def change(verb: str, unit: str, timeout: float) -> None:
        alive = [one for one, state in units.states.items() if state != "inactive" and one.startswith(names)]
        assert not unit.startswith(names) or not alive, f"{unit} starts while {alive} run"
        plain(verb, unit, timeout)

    monkeypatch.setattr(systemd, "change", change)
    return units


def singletons(units: Units) -> dict[str, str | None]:
    return {unit.partition("@")[0]: release for unit, release in units.active().items() if "worker" not in unit}


@pytest.mark.parametrize("parts", [DEPLOY, ROLLBACK, ("all",)])
@pytest.mark.parametrize("old", ["before_web", "after_web"])
@pytest.mark.parametrize("new", ["before_web", "after_web"])
def test_renamed_singleton_never_runs_twice(
    app: layout.Application, alone: Units, old: str, new: str, parts: tuple[str, ...]
) -> None:
    """Nor while the change is reverted, at whatever point."""
    declare(app, worker={"count": 1}, beat={**SINGLETON, "order": old})
    activate(app, "aaaa")
    for done in range(1, len(parts) + 1):
        declare(app, worker={"count": 1}, ticker={**SINGLETON, "order": new})
        for part in parts[:done]:
            activate(app, "bbbb", part=part, transaction=f"t{done}")
        if done == len(parts):
            assert singletons(alone) == {"ticker": "bbbb"}
            assert not app.path("etc/systemd/system/links-beat@.service").exists()
            assert activate(app, "bbbb") == {}
        activation.revert(app, f"t{done}", 9)
        assert singletons(alone) == {"beat": "aaaa"}
        assert len(enabled(app)) == 2
        assert activate(app, "aaaa") == {}


@pytest.mark.parametrize("order", ["before_web", "after_web"])
def test_singleton_runs_again_if_its_successor_does_not_start(
    app: layout.Application, alone: Units, order: str
) -> None:
    declare(app, worker={"count": 1}, beat={**SINGLETON, "order": order})
    activate(app, "aaaa")
    declare(app, worker={"count": 1}, ticker={**SINGLETON, "order": order})
    alone.crashes = lambda unit: "ticker" in unit
    alone.log.clear()
    with pytest.raises(layout.ActivationError, match=r"(?s)ticker@1-1.*Release aaaa serves, as before"):
        activate(app, "bbbb")
    assert [entry for entry in alone.log if "worker" not in entry] == [
        "stop beat@1-1",
        "start ticker@1-1",
        "stop ticker@1-1",
        "start beat@1-1",
    ]
    assert singletons(alone) == {"beat": "aaaa"}
    assert not app.path("etc/systemd/system/links-ticker@.service").exists()
    assert {unit.partition("@")[0] for unit in enabled(app)} == {"beat", "worker"}
    assert activate(app, "aaaa") == {}


def test_removed_singleton_has_its_own_time_to_stop(
    app: layout.Application, units: Units, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(app, beat={**SINGLETON, "stop_timeout": 70})
    activate(app, "aaaa")
    declare(app)
    real, stops = units.systemctl, []

    def systemctl(verb: str, *words: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        if verb == "stop":
            stops.append((words, timeout))
        return real(verb, *words, timeout=timeout)

    monkeypatch.setattr(systemd, "systemctl", systemctl)
    activate(app, "bbbb")
    assert stops == [(("links-beat@1-1.service",), 70 + layout.STOP_MARGIN)]


def test_revert_of_the_first_release_stops_all(app: layout.Application, units: Units) -> None:
    layout.set_current(app, None)
    declare(app, worker={})
    activate(app, "bbbb", part="before_web", transaction="t1")
    assert units.active()
    activation.revert(app, "t1", 9)
    assert units.active() == {}
    assert enabled(app) == set()
    assert not list(app.instances.iterdir())


def test_restart_starts_a_new_generation_of_all(app: layout.Application, units: Units) -> None:
    declare(app, worker={})
    activate(app, "aaaa")
    activate(app, "aaaa", restart_workers=True)
    assert units.active() == {"worker@2-1": "aaaa", "worker@2-2": "aaaa"}


def test_overlapping_types_are_rehearsed(
    app: layout.Application, units: Units, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(app, worker={}, beat={"strategy": "replace"})
    activate(app, "aaaa")
    monkeypatch.setattr(rehearsal, "needed", lambda *_: False)
    before = units.active()
    units.log.clear()
    assert rehearsal.rehearse(app, "aaaa", 9)["rehearsed"] is False
    assert rehearsal.rehearse(app, "bbbb", 9)["rehearsed"] is True
    assert units.log == ["start worker@2-1", "stop worker@2-1"]
    assert units.active() == before
    units.crashes = lambda unit: units.runs[unit] == "bbbb"
    with pytest.raises(rehearsal.RehearsalError, match=r"worker \(app_processes\): links-worker@\d-1.service ended"):
        rehearsal.rehearse(app, "bbbb", 9)
    assert units.active() == before
    assert activate(app, "aaaa") == {}


def test_rollback_target_takes_no_jobs_in_a_rehearsal(
    app: layout.Application, units: Units, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearsal, "needed", lambda *_: False)
    declare(app, worker={})
    for release in ("aaaa", "bbbb"):
        activate(app, release)
    units.log.clear()
    assert rehearsal.rehearse(app, "aaaa", 9)["rehearsed"] is False
    assert not [entry for entry in units.log if entry.startswith("start")]
    # with new settings, the current release is rehearsed
    declare(app, worker={"count": 3})
    assert rehearsal.rehearse(app, "bbbb", 9)["rehearsed"] is True


@pytest.mark.parametrize("change", ["deploy", "rollback"])
def test_interrupted_change_leaves_types_that_the_next_one_completes(
    app: layout.Application, units: Units, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deploy replaces the workers before the web processes, a rollback after them; aaaa is the wanted release."""
    monkeypatch.setattr(rehearsal, "needed", lambda *_: False)
    declare(app, worker={})
    activate(app, "aaaa")
    assert layout.unfinished(app) == []
    activate(app, "bbbb", part="before_web", transaction="t1")
    if change == "rollback":
        activate(app, "bbbb", part="web", transaction="t1")
        assert layout.unfinished(app) == []
        activate(app, "aaaa", part="web", transaction="t2")
    assert (layout.current(app), set(units.active().values())) == ("aaaa", {"bbbb"})
    assert layout.unfinished(app) == ["worker"]
    # the workers to replace may have jobs that those of aaaa don't know
    units.log.clear()
    assert rehearsal.rehearse(app, "aaaa", 9)["rehearsed"] is False
    assert units.log == []
    activate(app, "aaaa", part="web", transaction="t3")
    activate(app, "aaaa", part="before_web", transaction="t3")
    assert set(units.active().values()) == {"aaaa"}
    assert layout.unfinished(app) == []


@pytest.mark.parametrize("release", ["aaaa", "bbbb"])
def test_deploy_that_was_interrupted_after_it_removed_a_type_is_unfinished(
    app: layout.Application, units: Units, release: str
) -> None:
    declare(app, worker={}, bot={})
    activate(app, "aaaa")
    declare(app, worker={})
    assert layout.unfinished(app) == []
    for part in DEPLOY:
        activate(app, release, part=part, transaction="t1")
        assert layout.unfinished(app) == ([] if part == "web" else ["bot", "worker"][: 1 if release == "aaaa" else 2])
    # a rollback with the settings of that release undoes it
    activate(app, "aaaa")
    declare(app, worker={}, bot={})
    activate(app, "aaaa")
    declare(app, worker={})
    activate(app, release, part="before_web", transaction="t2")
    assert {unit.partition("@")[0] for unit in units.active()} == {"worker"}
    declare(app, worker={}, bot={})
    for part in ROLLBACK:
        activate(app, "aaaa", part=part, transaction="t3")
    assert {(unit.partition("@")[0], release) for unit, release in units.active().items()} == {
        ("worker", "aaaa"),
        ("bot", "aaaa"),
    }
    assert layout.unfinished(app) == []


@pytest.mark.parametrize("earlier", [{}, {"bot": {}}])
def test_rollback_that_was_interrupted_before_it_changed_the_types_is_unfinished(
    app: layout.Application, units: Units, earlier: dict[str, Any]
) -> None:
    """With the settings of the earlier release, which had no type, or another one."""
    declare(app, **earlier)
    activate(app, "aaaa")
    declare(app, worker={})
    for part in DEPLOY:
        activate(app, "bbbb", part=part, transaction="t1")
    assert layout.unfinished(app) == []
    declare(app, **earlier)
    activate(app, "aaaa", part="web", transaction="t2")
    assert set(units.active().values()) == {"bbbb"}
    assert layout.unfinished(app) == [*earlier, "worker"]
    activate(app, "aaaa", part="before_web", transaction="t2")
    assert {unit.partition("@")[0] for unit in units.active()} == set(earlier)
    assert layout.unfinished(app) == []
    assert activate(app, "aaaa") == {}


def test_removed_type_that_has_moved_to_another_host_is_not_unfinished(app: layout.Application, units: Units) -> None:
    declare(app, worker={})
    activate(app, "aaaa")
    declare(app, worker={"count": 0})
    for release in ("bbbb", "aaaa"):
        for part in DEPLOY:
            activate(app, release, part=part, transaction=release)
    declare(app)
    # settings that are written, and not activated yet
    assert layout.unfinished(app) == []
    activate(app, "aaaa", part="before_web", transaction="t1")
    assert layout.unfinished(app) == []
    assert units.active() == {}


def test_type_that_has_moved_to_another_host_is_not_unfinished(app: layout.Application, units: Units) -> None:
    declare(app, worker={})
    activate(app, "aaaa")
    declare(app, worker={"count": 0})
    for release in ("aaaa", "bbbb"):
        for part in ("before_web", "web"):
            activate(app, release, part=part, transaction=release)
    assert units.active() == {}
    assert layout.unfinished(app) == []


@pytest.mark.parametrize(("release", "unfinished"), [("bbbb", []), ("aaaa", ["web", "worker"])])
def test_host_that_crashed_in_a_handover_has_unfinished_types_if_the_release_has_served(
    app: layout.Application, units: Units, release: str, unfinished: list[str]
) -> None:
    declare(app, worker={"order": "after_web"})
    activate(app, "aaaa")
    if release == "aaaa":
        activate(app, "bbbb")
    assert units.active()
    layout.set_current(app, release)
    assert layout.unfinished(app) == unfinished


@pytest.mark.parametrize(
    "text", ["", "[]", '{"Worker": {}}', '{"worker": {"count": 1}}', '{"worker": {"strategy": "none"}}', "\x00"]
)
def test_invalid_settings_are_reported_with_the_fix(app: layout.Application, text: str) -> None:
    app.process_settings.write_text(text)
    with pytest.raises(layout.ActivationError, match=r"processes.json can't be read .* Run playbooks/configure.yml"):
        _ = app.processes


def test_link_of_an_instance_yields_only_a_release_name(app: layout.Application) -> None:
    """The name is looked up among the releases, wherever the link leads."""
    app.instances.mkdir()
    os.symlink("/etc", app.instances / "worker-1-1")
    assert layout.release_at(app.instances / "worker-1-1") == "etc"
    assert [process.name for process in app.processes] == ["web", "worker"]


def schedule(app: layout.Application, **runs: bool) -> None:
    """Write the files that the role writes for scheduled commands."""
    app.schedule_settings.write_text(json.dumps({name: {"runs": value} for name, value in runs.items()}))
    for name in runs:
        for kind in ("timer", "service"):
            app.path("etc/systemd/system", f"links-{name}.{kind}").write_text(f"[{kind}]")


@pytest.fixture
def timers(units: Units, monkeypatch: pytest.MonkeyPatch) -> Units:
    """Also handles timers, which start without a release of their own."""
    plain = units.change

    def change(verb: str, unit: str, timeout: float) -> None:
        if not unit.endswith(".timer"):
            return plain(verb, unit, timeout)
        if verb == "stop":
            units.systemctl("stop", unit)
            return None
        units.log.append(f"{verb} {short(unit)} in {layout.current(units.app)}")
        if units.refuses(unit):
            raise systemd.UnitError(f"{unit} says no")
        units.states[unit] = "active"
        return None

    monkeypatch.setattr(systemd, "change", change)
    monkeypatch.setattr(
        systemd, "is_active", lambda unit: unit == units.app.service or units.states.get(unit) == "active"
    )
    return units


def active_timers(units: Units) -> set[str]:
    return {short(unit) for unit, state in units.states.items() if unit.endswith(".timer") and state == "active"}


def test_timer_starts_once_its_release_is_current(app: layout.Application, timers: Units) -> None:
    layout.set_current(app, None)
    schedule(app, cleanup=True, report=False)
    changed = activate(app, "bbbb")
    assert timers.log == ["start cleanup.timer in bbbb"]
    assert changed.keys() == {"cleanup"}
    assert active_timers(timers) == {"cleanup.timer"}
    assert enabled(app) == {"links-cleanup.timer".removeprefix("links-")}
    timers.log.clear()
    # a command runs in the release that is current at its start, so a new release doesn't restart the timer
    activate(app, "aaaa")
    activate(app, "aaaa", restart_workers=True)
    assert timers.log == []
    app.path("etc/systemd/system/links-cleanup.timer").write_text("[timer]\nOnCalendar=daily")
    activate(app, "aaaa")
    assert timers.log == ["stop cleanup.timer", "start cleanup.timer in aaaa"]


@pytest.mark.parametrize("declared", [True, False])
def test_timer_that_no_longer_runs_here_is_stopped(app: layout.Application, timers: Units, declared: bool) -> None:
    schedule(app, cleanup=True)
    activate(app, "aaaa")
    schedule(app, **({"cleanup": False} if declared else {}))
    assert activate(app, "aaaa")["cleanup"]["method"] == "stop"
    assert active_timers(timers) == set()
    assert enabled(app) == set()
    assert app.path("etc/systemd/system/links-cleanup.service").exists() == declared
    assert activate(app, "aaaa") == {}


def test_suspended_timer_is_not_started(app: layout.Application, timers: Units) -> None:
    schedule(app, cleanup=True)
    activate(app, "aaaa")
    app.suspended("cleanup").parent.mkdir()
    app.suspended("cleanup").touch()
    timers.systemctl("stop", "links-cleanup.timer")
    boot.disable(app, ["links-cleanup.timer"])
    assert "cleanup" not in activate(app, "bbbb")
    assert active_timers(timers) == set()


@pytest.mark.parametrize("suspended", [True, False])
def test_timer_that_must_not_run_is_disabled_although_it_is_stopped(
    app: layout.Application, timers: Units, suspended: bool
) -> None:
    """It would start at the next boot."""
    schedule(app, cleanup=True)
    activate(app, "aaaa")
    timers.systemctl("stop", "links-cleanup.timer")
    app.suspended("cleanup").parent.mkdir()
    app.suspended("cleanup").touch()
    if not suspended:
        schedule(app, cleanup=False)
    assert activate(app, "aaaa")["cleanup"]["method"] == "stop"
    assert enabled(app) == set()
    assert activate(app, "aaaa") == {}


def test_running_timer_that_would_not_start_at_boot_is_enabled(app: layout.Application, timers: Units) -> None:
    schedule(app, cleanup=True)
    activate(app, "aaaa")
    boot.disable(app, ["links-cleanup.timer"])
    assert activate(app, "aaaa")["cleanup"]["method"] == "start"
    assert enabled(app) == {"cleanup.timer"}
    assert active_timers(timers) == {"cleanup.timer"}


@pytest.mark.parametrize("change", ["moved", "removed", "reverted", "changed", "stopped"])
def test_only_a_timer_that_was_stopped_may_have_missed_a_run(
    app: layout.Application, timers: Units, change: str
) -> None:
    """systemd would run the command at once, although another host has run it, or it wasn't due."""
    timer = "links-cleanup.timer"
    schedule(app, cleanup=True)
    activate(app, "aaaa")
    last = app.last_trigger(timer)
    last.parent.mkdir(parents=True)
    last.touch()
    os.utime(last, (9, 9))
    if change in ("moved", "removed", "reverted"):
        schedule(app, **({"cleanup": False} if change != "removed" else {}))
        activate(app, "aaaa", transaction="t1")
    if change == "stopped":
        timers.systemctl("stop", timer)
    if change == "reverted":
        activation.revert(app, "t1", 9)
    else:
        schedule(app, cleanup=True)
        app.path("etc/systemd/system", timer).write_text("[timer]\nOnCalendar=daily")
        activate(app, "aaaa")
    assert active_timers(timers) == {"cleanup.timer"}
    assert enabled(app) == {"cleanup.timer"}
    assert (last.stat().st_mtime == 9) == (change in ("stopped", "reverted"))


def test_systemd_forgets_a_timers_previous_start_before_it_starts_again(app: layout.Application, timers: Units) -> None:
    """It forgets a unit that nothing refers to when it reads the files; otherwise it may run the command at once."""
    schedule(app, cleanup=True)
    activate(app, "aaaa")
    app.path("etc/systemd/system/links-cleanup.timer").write_text("[timer]\nOnCalendar=daily")
    timers.reloaded = lambda: timers.log.append(f"reload with {sorted(enabled(app))}")
    timers.log.clear()
    activate(app, "aaaa")
    assert timers.log == ["stop cleanup.timer", "reload with []", "start cleanup.timer in aaaa"]


def unit_files(app: layout.Application) -> list[str]:
    return sorted(path.name for path in app.path("etc/systemd/system").glob("links-cleanup*"))


def methods(app: layout.Application, release: str, parts: tuple[str, ...]) -> dict[str, str]:
    """Activate a release in parts, in the transaction t1. Return the method by which each change was made."""
    results: dict[str, Any] = {}
    for part in parts:
        results |= activate(app, release, part=part, transaction="t1")
    return {name: one["method"] for name, one in results.items()}


@pytest.mark.parametrize("parts", [DEPLOY, ROLLBACK, ("all",)])
@pytest.mark.parametrize("order", ["before_web", "after_web"])
def test_name_moves_from_process_types_to_schedules(
    app: layout.Application, timers: Units, parts: tuple[str, ...], order: str
) -> None:
    declare(app, cleanup={"count": 1, "order": order})
    activate(app, "aaaa")
    assert unit_files(app) == ["links-cleanup@.service"]
    declare(app)
    schedule(app, cleanup=True)
    assert methods(app, "bbbb", parts) == {"app_processes.cleanup": "stop", "cleanup": "start"}
    assert (timers.active(), active_timers(timers)) == ({}, {"cleanup.timer"})
    assert enabled(app) == {"cleanup.timer"}
    assert not list(app.instances.iterdir())
    assert unit_files(app) == ["links-cleanup.service", "links-cleanup.timer"]
    assert activate(app, "bbbb") == {}
    activation.revert(app, "t1", 9)
    assert (timers.active(), active_timers(timers)) == ({"cleanup@1-1": "aaaa"}, set())
    assert enabled(app) == {"cleanup@1-1"}
    assert unit_files(app) == ["links-cleanup@.service"]
    assert activate(app, "aaaa") == {}


@pytest.mark.parametrize("parts", [DEPLOY, ROLLBACK, ("all",)])
@pytest.mark.parametrize("order", ["before_web", "after_web"])
def test_name_moves_from_schedules_to_process_types(
    app: layout.Application, timers: Units, parts: tuple[str, ...], order: str
) -> None:
    schedule(app, cleanup=True)
    activate(app, "aaaa")
    schedule(app)
    declare(app, cleanup={"count": 1, "order": order})
    assert methods(app, "bbbb", parts) == {"app_schedules.cleanup": "stop", "cleanup": "start"}
    assert (timers.active(), active_timers(timers)) == ({"cleanup@1-1": "bbbb"}, set())
    assert enabled(app) == {"cleanup@1-1"}
    assert layout.release_at(app.instances / "cleanup-1-1") == "bbbb"
    assert unit_files(app) == ["links-cleanup@.service"]
    assert activate(app, "bbbb") == {}
    activation.revert(app, "t1", 9)
    assert (timers.active(), active_timers(timers)) == ({}, {"cleanup.timer"})
    assert enabled(app) == {"cleanup.timer"}
    assert not list(app.instances.iterdir())
    assert unit_files(app) == ["links-cleanup.service", "links-cleanup.timer"]
    assert activate(app, "aaaa") == {}


@pytest.mark.parametrize("refused", ["links-cleanup.timer", "links-cleanup@1-1.service"])
def test_name_stays_with_its_kind_if_the_other_does_not_start(
    app: layout.Application, timers: Units, refused: str
) -> None:
    def as_process() -> None:
        schedule(app)
        declare(app, cleanup={"count": 1})

    def as_schedule() -> None:
        declare(app)
        schedule(app, cleanup=True)

    before, after = (as_process, as_schedule) if refused.endswith(".timer") else (as_schedule, as_process)
    before()
    activate(app, "aaaa")
    after()
    timers.refuses = lambda unit: unit == refused
    with pytest.raises(layout.ActivationError, match=r"(?s) says no.*Release aaaa serves, as before\."):
        activate(app, "bbbb")
    runs = {"cleanup@1-1"} if before is as_process else {"cleanup.timer"}
    assert {*timers.active(), *active_timers(timers)} == runs
    assert enabled(app) == runs
    assert activate(app, "aaaa") == {}


def test_failed_timer_is_reverted(app: layout.Application, timers: Units) -> None:
    schedule(app, cleanup=True)
    activate(app, "aaaa")
    schedule(app, cleanup=True, report=True)
    timers.refuses = lambda unit: unit == "links-report.timer"
    with pytest.raises(layout.ActivationError, match=r"(?s)links-report.timer says no.*Release aaaa serves, as before"):
        activate(app, "bbbb")
    assert active_timers(timers) == {"cleanup.timer"}
    assert not app.path("etc/systemd/system/links-report.timer").exists()
    assert layout.current(app) == "aaaa"


def test_revert_of_a_transaction_restores_its_timers(app: layout.Application, timers: Units) -> None:
    schedule(app, cleanup=True)
    activate(app, "aaaa")
    schedule(app, report=True)
    activate(app, "bbbb", transaction="t1")
    assert active_timers(timers) == {"report.timer"}
    activation.revert(app, "t1", 9)
    assert active_timers(timers) == {"cleanup.timer"}
    assert enabled(app) == {"cleanup.timer"}
    assert app.path("etc/systemd/system/links-cleanup.service").exists()
    assert not app.path("etc/systemd/system/links-report.service").exists()


@pytest.mark.parametrize("part", [None, "before_web"])
def test_background_files_exclude_those_of_web(app: layout.Application, part: str | None) -> None:
    declare(app, worker={})
    web, worker = (
        {
            f"etc/systemd/system/{unit}"
            for process in app.processes
            for unit in process.templates
            if process.name == name
        }
        for name in (layout.WEB, "worker")
    )
    found = snapshot.background_files(app, part)
    assert worker
    assert worker <= found
    assert not web & found
    assert ("etc/links/schedules.json" in found) == (part is None)


@pytest.mark.parametrize(
    ("shown", "memory"), [("1048576", 2**20), ("[not set]", 0), ("", 0), (str(2**64 - 1), 0), (str(2**63), 0)]
)
def test_memory_of_an_instance(
    app: layout.Application, monkeypatch: pytest.MonkeyPatch, shown: str, memory: int
) -> None:
    """If systemd doesn't measure it, it shows a text or the largest number."""
    output = f"Id=links-worker@1-1.service\nActiveState=active\nMemoryCurrent={shown}\n"
    monkeypatch.setattr(systemd, "systemctl", lambda *_, **__: subprocess.CompletedProcess([], 0, output, ""))
    (instance,) = background.instances(app, "worker")
    assert (instance.memory, instance.restarts, instance.pid, instance.running) == (memory, 0, 0, True)


@pytest.mark.parametrize("strategy", ["overlap", "replace"])
def test_stop_is_waited_for_only_by_the_strategy_replace(
    app: layout.Application, units: Units, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    """The timeout is the type's stop timeout with a margin; overlapping processes drain on their own."""
    declare(app, worker={"strategy": strategy, "count": 1})
    activate(app, "aaaa")
    stops: list[tuple[bool, float]] = []
    real = units.systemctl

    def systemctl(verb: str, *words: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        if verb == "stop":
            stops.append(("--no-block" not in words, timeout))
        return real(verb, *words, timeout=timeout)

    monkeypatch.setattr(systemd, "systemctl", systemctl)
    units.log.clear()
    activate(app, "bbbb")
    waits = strategy == "replace"
    assert stops == [(waits, 9 + layout.STOP_MARGIN if waits else 30)]
    order = ["stop worker@1-1", "start worker@2-1"]
    assert units.log == (order if waits else order[::-1])


def test_activation_ends_only_when_the_old_processes_have_their_signal(
    app: layout.Application, units: Units, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`stop --no-block` only queues the stop: systemd may be busy."""
    declare(app, worker={"count": 2})
    activate(app, "aaaa")
    real, queued = units.systemctl, []

    def systemctl(verb: str, *words: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        if "--no-block" in words:
            queued.append(words)
            return subprocess.CompletedProcess([], 0, "", "")
        return real(verb, *words, timeout=timeout)

    def sleep(_seconds: float) -> None:
        real("stop", *queued.pop())

    monkeypatch.setattr(systemd, "systemctl", systemctl)
    monkeypatch.setattr("time.sleep", sleep)
    activate(app, "bbbb")
    assert units.active() == {"worker@2-1": "bbbb", "worker@2-2": "bbbb"}
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr(background, "SIGNAL_SECONDS", 0.0)
    with pytest.raises(
        layout.ActivationError, match=r"systemd didn't stop links-worker@2-1\.service, links-worker@2-2"
    ):
        activate(app, "aaaa")


def test_revert_of_a_change_that_has_not_begun_does_nothing(app: layout.Application, units: Units) -> None:
    declare(app, worker={})
    activate(app, "aaaa")
    units.log.clear()
    (process,) = [process for process in app.processes if process.name == "worker"]
    change = background.Background(app, process, "bbbb", 9)
    assert change.method == "overlap"
    declare(app, worker={"count": 3})
    change.revert()
    assert (units.log, units.active()) == ([], {"worker@1-1": "aaaa", "worker@1-2": "aaaa"})


def test_failed_stop_fails_the_change(app: layout.Application, units: Units, monkeypatch: pytest.MonkeyPatch) -> None:
    declare(app, worker={})
    activate(app, "aaaa")
    real = units.systemctl

    def systemctl(verb: str, *words: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        result = real(verb, *words, timeout=timeout)
        return subprocess.CompletedProcess([verb], 1, "", "no such unit\n") if verb == "stop" else result

    monkeypatch.setattr(systemd, "systemctl", systemctl)
    (process,) = [process for process in app.processes if process.name == "worker"]
    with pytest.raises(systemd.UnitError, match=r"^no such unit$"):
        background.Background(app, process, "bbbb", 9).execute()
