"""Background processes of one release follow those of another. Systemd is a stand-in; files and links are real."""

from __future__ import annotations

import collections
import fnmatch
import itertools
import json
import os
import pathlib
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.activation import (
    activation,
    background,
    digests,
    handover,
    rehearsal,
    snapshot,
)
from ansible_collections.baton.web.plugins.module_utils.app import layout
from ansible_collections.baton.web.plugins.module_utils.host import systemd

WORKER = {"count": 2, "strategy": "overlap", "order": "before_web", "settle_seconds": 0, "stop_timeout": 9}
WANTS = "etc/systemd/system/multi-user.target.wants"


class Units:
    """Stands for systemd: units by name with their state, and what was asked of it."""

    def __init__(self, app: layout.Application) -> None:
        self.app = app
        self.states: dict[str, str] = {}
        self.runs: dict[str, str | None] = {}  # the release that a unit had when it was started
        self.pids: dict[str, int] = collections.defaultdict(itertools.count(101).__next__)
        self.restarts: dict[str, int] = {}
        self.log: list[str] = []
        self.drains = False  # whether a stop takes for ever
        self.ill: Callable[[str], bool] = lambda _unit: False  # ends as soon as it was started
        self.refuses: Callable[[str], bool] = lambda _unit: False

    def systemctl(self, verb: str, *words: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        assert timeout > 0
        done = subprocess.CompletedProcess([verb], 0, "", "")
        units = [word for word in words if not word.startswith("--")]
        if verb == "show":
            blocks = [
                f"Id={unit}\nActiveState={state}\nSubState=x\nMainPID={self.pids[unit]}\n"
                f"NRestarts={self.restarts.get(unit, 0)}\n"
                f"Result=success\nMemoryCurrent={2**20}\n"
                for unit, state in self.states.items()
                if any(fnmatch.fnmatch(unit, one) for one in units) and state != "inactive"
            ]
            done.stdout = "\n".join(blocks)
        elif verb == "stop":
            blocking = "--no-block" not in words
            for unit in [name for name in self.states if any(fnmatch.fnmatch(name, one) for one in units)]:
                self.log.append(f"stop {short(unit)}")
                self.states[unit] = "deactivating" if self.drains and not blocking else "inactive"
        return done

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
        if self.ill(unit):
            self.restarts[unit] = 1

    def active(self) -> dict[str, str | None]:
        return {short(unit): self.runs[unit] for unit, state in self.states.items() if state == "active"}


def short(unit: str) -> str:
    return unit.removeprefix("links-").removesuffix(".service")


@pytest.fixture
def app(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> layout.Application:
    """A host's tree with the releases aaaa, which is current, and bbbb; the web processes follow whatever is asked."""
    application = layout.Application("links", str(tmp_path))
    for release in ("aaaa", "bbbb"):
        folder = application.release(release)
        folder.mkdir(parents=True)
        (folder / "release.json").write_text(json.dumps({"id": release, "python": "3.11.2", "packages": {}}))
    for path in ("etc/links/secrets/TOKEN", "etc/links/environment", "etc/machine-id", "var/lib/baton/links/.keep"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("x")
    application.path(WANTS).mkdir(parents=True)
    layout.switch_current(application, "aaaa")
    monkeypatch.setattr(digests, "choose", lambda app, new: "none" if digests.recorded(app) == new else "reload")
    for name in ("_prove", "_end_bridge", "_reload"):
        monkeypatch.setattr(handover.Handover, name, lambda *_: None)
    monkeypatch.setattr(handover.Handover, "unproven", lambda _: "")
    monkeypatch.setattr(layout, "sync_filesystem", lambda _: None)
    monkeypatch.setattr(snapshot, "sync_filesystem", lambda _: None)
    return application


@pytest.fixture
def units(app: layout.Application, monkeypatch: pytest.MonkeyPatch) -> Units:
    made = Units(app)
    monkeypatch.setattr(systemd, "systemctl", made.systemctl)
    monkeypatch.setattr(systemd, "change", made.change)
    monkeypatch.setattr(systemd, "tail", lambda unit, _since: f"the log of {unit}")
    monkeypatch.setattr(systemd, "is_active", lambda unit: unit == app.service)
    return made


def declare(app: layout.Application, **types: Any) -> None:
    """Write what the role writes."""
    told = {name: {**WORKER, "check": False, **changed} for name, changed in types.items()}
    app.process_settings.write_text(json.dumps(told))
    for name in told:
        unit = app.path("etc/systemd/system", f"links-{name}@.service")
        unit.write_text(f"[Service]\nExecStart={told[name]}")


def activate(app: layout.Application, release: str, **how: Any) -> dict[str, Any]:
    return activation.Activation(app, release, 9, **how).execute()


def boots(app: layout.Application) -> set[str]:
    return {short(path.name) for path in app.path(WANTS).iterdir()}


def test_the_first_ones_are_started_and_enabled(app: layout.Application, units: Units) -> None:
    declare(app, worker={})
    said = activate(app, "aaaa")
    assert units.active() == {"worker@1-1": "aaaa", "worker@1-2": "aaaa"}
    assert boots(app) == {"worker@1-1", "worker@1-2"}
    assert said["worker"]["way"] == "start"
    assert said["worker"]["started"] == ["links-worker@1-1.service", "links-worker@1-2.service"]


def test_a_second_activation_does_nothing(app: layout.Application, units: Units) -> None:
    declare(app, worker={}, beat={"strategy": "replace", "count": 1})
    activate(app, "aaaa")
    units.log.clear()
    assert activate(app, "aaaa") == {}
    assert units.log == []


def test_new_ones_run_before_old_ones_are_told_to_stop(app: layout.Application, units: Units) -> None:
    declare(app, worker={})
    activate(app, "aaaa")
    units.log.clear()
    units.drains = True
    said = activate(app, "bbbb")
    assert units.log == ["start worker@2-1", "start worker@2-2", "stop worker@1-1", "stop worker@1-2"]
    assert units.active() == {"worker@2-1": "bbbb", "worker@2-2": "bbbb"}
    assert boots(app) == {"worker@2-1", "worker@2-2"}
    assert said["worker"]["stopped"] == ["links-worker@1-1.service", "links-worker@1-2.service"]
    # the old ones still run in their release, so that has to stay
    assert layout.release_at(app.instances / "worker-1-1") == "aaaa"
    units.states = {unit: state for unit, state in units.states.items() if state == "active"}
    units.drains = False
    activate(app, "aaaa")
    assert sorted(path.name for path in app.instances.iterdir()) == ["worker-3-1", "worker-3-2"]


@pytest.mark.parametrize("strategy", ["overlap", "replace"])
def test_the_processes_that_came_and_went_are_told(app: layout.Application, units: Units, strategy: str) -> None:
    declare(app, worker={"strategy": strategy, "count": 1})
    activate(app, "aaaa")
    began = time.time()
    said = activate(app, "bbbb")["worker"]
    old, new = "links-worker@1-1.service", "links-worker@2-1.service"
    assert said["pids"] == {new: units.pids[new], old: units.pids[old]}
    assert len({*said["pids"].values()}) == 2
    assert began <= said["told"] <= time.time()


def test_how_old_processes_ended_is_asked_of_systemd(
    app: layout.Application, units: Units, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = 1764072000.0
    named = {state: f"links-worker@1-{number}.service" for number, state in enumerate(("drains", "ended", "lost"), 1)}
    named |= {state: f"links-beat@4-{number}.service" for number, state in enumerate(("killed", "failed"), 1)}
    units.states = {named["drains"]: "deactivating", named["killed"]: "failed"}
    asked = []

    def ends(names: list[str], since: float) -> dict[str, tuple[str, float]]:
        asked.extend(names)
        assert since == told
        return {
            named["ended"]: ("", told + 4.26),
            named["killed"]: ("timeout", told + 30),
            named["failed"]: ("exit-code", told + 1),
        }

    monkeypatch.setattr(systemd, "ends", ends)
    found = background.ends(app, [*named.values(), "links.service", "other-worker@1-1.service", "--all", "x\n"], told)
    assert asked == [*named.values()]
    assert found.pop(named["drains"])["state"] == "draining"
    assert found == {
        named["ended"]: {"state": "drained", "seconds": 4.3},
        named["lost"]: {"state": "unknown", "seconds": 0.0},
        named["killed"]: {"state": "killed", "seconds": 30.0},
        named["failed"]: {"state": "failed", "seconds": 1.0},
    }
    asked.clear()
    assert background.ends(app, ["sshd.service"], told) == {}
    assert len(background.ends(app, [f"links-worker@1-{number}.service" for number in range(10**4)], told)) == 100


def test_one_that_must_not_run_twice_ends_before_the_next_starts(app: layout.Application, units: Units) -> None:
    declare(app, beat={"strategy": "replace", "count": 1})
    activate(app, "aaaa")
    units.log.clear()
    units.drains = True
    activate(app, "bbbb")
    assert units.log == ["stop beat@1-1", "start beat@2-1"]
    assert units.active() == {"beat@2-1": "bbbb"}


@pytest.mark.parametrize("strategy", ["overlap", "replace"])
@pytest.mark.parametrize("fault", ["ends at once", "is refused", "fails its check"])
def test_one_that_does_not_come_up_leaves_the_old_ones(
    app: layout.Application, units: Units, strategy: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "CHECK_SECONDS", 0)
    declare(app, worker={"strategy": strategy, "check": fault == "fails its check"})
    activate(app, "aaaa")
    before = units.active()
    if fault == "ends at once":
        units.ill = lambda unit: units.runs[unit] == "bbbb"
    elif fault == "is refused":
        units.refuses = lambda unit: "@2-2" in unit
    else:
        units.refuses = lambda unit: "-check@2-1" in unit
    with pytest.raises(layout.ActivationError) as told:
        activate(app, "bbbb")
    assert "worker" in str(told.value)
    assert "Release aaaa serves, as before." in str(told.value)
    assert ("the log of links-worker@2-1.service" in str(told.value)) == (fault == "ends at once")
    after = units.active()
    assert set(after.values()) == {"aaaa"}
    assert len(after) == 2
    assert (after == before) == (strategy == "overlap")
    assert boots(app) == set(after)
    assert layout.current(app) == "aaaa"
    # and nothing is left to be done
    assert activate(app, "aaaa") == {} or strategy == "replace"


@pytest.mark.parametrize(
    "changed",
    [
        lambda app: app.path("etc/links/environment").write_text("y"),
        lambda app: app.path("etc/links/secrets/TOKEN").write_text("y"),
        lambda app: app.path("etc/systemd/system/links-worker@.service").write_text("[Service]\nExecStart=y"),
        lambda app: declare(app, worker={"count": 3}),
    ],
)
def test_what_a_process_holds_starts_new_ones_when_it_changes(
    app: layout.Application, units: Units, changed: Callable[[layout.Application], Any]
) -> None:
    declare(app, worker={})
    activate(app, "aaaa")
    changed(app)
    activate(app, "aaaa")
    assert {unit.partition("-")[0] for unit in units.active()} == {"worker@2"}
    assert activate(app, "aaaa") == {}


@pytest.mark.parametrize("state", ["inactive", "failed", "activating"])
def test_one_that_has_died_is_replaced_by_the_next_change(app: layout.Application, units: Units, state: str) -> None:
    declare(app, worker={})
    activate(app, "aaaa")
    units.states["links-worker@1-2.service"] = state
    units.restarts["links-worker@1-2.service"] = 4
    if state == "activating":  # it waits to be restarted, and may come up
        assert activate(app, "aaaa") == {}
        return
    activate(app, "aaaa")
    assert units.active() == {"worker@2-1": "aaaa", "worker@2-2": "aaaa"}


def test_those_of_a_change_that_was_cut_short_are_replaced(app: layout.Application, units: Units) -> None:
    declare(app, worker={})
    activate(app, "aaaa")
    # the host died after new ones were started
    (app.instances / "worker-2-1").symlink_to("../releases/bbbb")
    units.change("start", "links-worker@2-1.service", 1)
    activate(app, "bbbb")
    assert units.active() == {"worker@3-1": "bbbb", "worker@3-2": "bbbb"}
    assert boots(app) == {"worker@3-1", "worker@3-2"}


@pytest.mark.parametrize("declared", [True, False])
def test_one_that_is_not_to_run_here_any_more_is_stopped(app: layout.Application, units: Units, declared: bool) -> None:
    declare(app, worker={}, beat={"count": 1})
    activate(app, "aaaa")
    declare(app, worker={}, **({"beat": {"count": 0}} if declared else {}))
    said = activate(app, "aaaa")
    assert said["beat"]["way"] == "stop"
    assert units.active().keys() == {"worker@1-1", "worker@1-2"}
    assert boots(app) == {"worker@1-1", "worker@1-2"}
    assert app.path("etc/systemd/system/links-beat@.service").exists() == declared
    assert activate(app, "aaaa") == {}


def test_a_new_type_that_does_not_come_up_is_taken_away(app: layout.Application, units: Units) -> None:
    declare(app, worker={})
    activate(app, "aaaa")
    declare(app, worker={}, bot={"count": 1})
    units.ill = lambda unit: "bot" in unit
    with pytest.raises(layout.ActivationError, match=r"bot@1-1\.service ended and was restarted"):
        activate(app, "aaaa")
    assert units.active().keys() == {"worker@1-1", "worker@1-2"}
    assert not app.path("etc/systemd/system/links-bot@.service").exists()
    assert json.loads(app.process_settings.read_text()).keys() == {"worker"}


def test_the_part_before_the_web_leaves_current_and_the_others(app: layout.Application, units: Units) -> None:
    declare(app, worker={}, mailer={"order": "after_web"})
    activate(app, "aaaa")
    units.log.clear()
    said = activate(app, "bbbb", part="before_web", transaction="t1")
    assert said.keys() == {"worker"}
    assert layout.current(app) == "aaaa"
    assert set(units.active().values()) == {"aaaa", "bbbb"}
    assert activate(app, "bbbb", part="before_web", transaction="t1") == {}
    said = activate(app, "bbbb", part="web", transaction="t1")
    assert said.keys() == {"mailer"}
    assert layout.current(app) == "bbbb"
    assert set(units.active().values()) == {"bbbb"}
    assert layout.served(app) == ["bbbb", "aaaa"]
    assert activate(app, "bbbb") == {}


def test_a_transaction_is_undone_for_all_types_the_web_first(
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


def test_undoing_a_transaction_brings_back_a_type_that_it_took_out(app: layout.Application, units: Units) -> None:
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


def test_undoing_the_first_release_ends_all(app: layout.Application, units: Units) -> None:
    layout.switch_current(app, None)
    declare(app, worker={})
    activate(app, "bbbb", part="before_web", transaction="t1")
    assert units.active()
    activation.revert(app, "t1", 9)
    assert units.active() == {}
    assert boots(app) == set()
    assert not list(app.instances.iterdir())


def test_restart_starts_a_new_generation_of_all(app: layout.Application, units: Units) -> None:
    declare(app, worker={})
    activate(app, "aaaa")
    activate(app, "aaaa", renew=True)
    assert units.active() == {"worker@2-1": "aaaa", "worker@2-2": "aaaa"}


def test_those_that_may_run_side_by_side_are_rehearsed(
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
    units.ill = lambda unit: units.runs[unit] == "bbbb"
    with pytest.raises(rehearsal.RehearsalError, match=r"worker \(app_processes\): links-worker@\d-1.service ended"):
        rehearsal.rehearse(app, "bbbb", 9)
    assert units.active() == before
    assert activate(app, "aaaa") == {}


def test_a_release_to_go_back_to_takes_no_jobs_in_a_rehearsal(
    app: layout.Application, units: Units, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearsal, "needed", lambda *_: False)
    declare(app, worker={})
    for release in ("aaaa", "bbbb"):
        activate(app, release)
    units.log.clear()
    assert rehearsal.rehearse(app, "aaaa", 9)["rehearsed"] is False
    assert not [said for said in units.log if said.startswith("start")]
    # but with other settings the current one has something to prove
    declare(app, worker={"count": 3})
    assert rehearsal.rehearse(app, "bbbb", 9)["rehearsed"] is True


@pytest.mark.parametrize(
    "text", ["", "[]", '{"Worker": {}}', '{"worker": {"count": 1}}', '{"worker": {"strategy": "none"}}', "\x00"]
)
def test_settings_that_can_not_be_read_are_named_with_the_fix(app: layout.Application, text: str) -> None:
    app.process_settings.write_text(text)
    with pytest.raises(layout.ActivationError, match=r"processes.json can't be read .* Run playbooks/configure.yml"):
        _ = app.processes


def test_a_link_of_an_instance_does_not_lead_out_of_the_releases(app: layout.Application) -> None:
    """What is looked up there is a name among the releases, wherever a link leads."""
    app.instances.mkdir()
    os.symlink("/etc", app.instances / "worker-1-1")
    assert layout.release_at(app.instances / "worker-1-1") == "etc"
    assert [process.name for process in app.processes] == ["web", "worker"]


def schedule(app: layout.Application, **runs: bool) -> None:
    """Write what the role writes of scheduled commands."""
    app.schedule_settings.write_text(json.dumps({name: {"runs": here} for name, here in runs.items()}))
    for name in runs:
        for kind in ("timer", "service"):
            app.path("etc/systemd/system", f"links-{name}.{kind}").write_text(f"[{kind}]")


@pytest.fixture
def timers(units: Units, monkeypatch: pytest.MonkeyPatch) -> Units:
    """Timers as well: they start without a release of their own."""
    plain = units.change

    def change(verb: str, unit: str, timeout: float) -> None:
        if not unit.endswith(".timer"):
            return plain(verb, unit, timeout)
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


def ticking(units: Units) -> set[str]:
    return {short(unit) for unit, state in units.states.items() if unit.endswith(".timer") and state == "active"}


def test_a_timer_runs_once_its_release_is_current(app: layout.Application, timers: Units) -> None:
    layout.switch_current(app, None)
    schedule(app, cleanup=True, report=False)
    said = activate(app, "bbbb")
    assert timers.log == ["restart cleanup.timer in bbbb"]
    assert said.keys() == {"cleanup"}
    assert ticking(timers) == {"cleanup.timer"}
    assert boots(app) == {"links-cleanup.timer".removeprefix("links-")}
    timers.log.clear()
    # the command begins in what is current then: a release alone is no reason to start the timer anew
    activate(app, "aaaa")
    activate(app, "aaaa", renew=True)
    assert timers.log == []
    app.path("etc/systemd/system/links-cleanup.timer").write_text("[timer]\nOnCalendar=daily")
    activate(app, "aaaa")
    assert timers.log == ["restart cleanup.timer in aaaa"]


@pytest.mark.parametrize("declared", [True, False])
def test_a_timer_that_is_not_to_run_here_any_more_ends(app: layout.Application, timers: Units, declared: bool) -> None:
    schedule(app, cleanup=True)
    activate(app, "aaaa")
    schedule(app, **({"cleanup": False} if declared else {}))
    assert activate(app, "aaaa")["cleanup"]["way"] == "stop"
    assert ticking(timers) == set()
    assert boots(app) == set()
    assert app.path("etc/systemd/system/links-cleanup.service").exists() == declared
    assert activate(app, "aaaa") == {}


def test_a_suspended_timer_is_left_alone(app: layout.Application, timers: Units) -> None:
    schedule(app, cleanup=True)
    activate(app, "aaaa")
    app.suspended("cleanup").parent.mkdir()
    app.suspended("cleanup").touch()
    timers.systemctl("stop", "links-cleanup.timer")
    assert "cleanup" not in activate(app, "bbbb")
    assert ticking(timers) == set()


def test_a_timer_that_can_not_start_leaves_what_was(app: layout.Application, timers: Units) -> None:
    schedule(app, cleanup=True)
    activate(app, "aaaa")
    schedule(app, cleanup=True, report=True)
    timers.refuses = lambda unit: unit == "links-report.timer"
    with pytest.raises(layout.ActivationError, match=r"(?s)links-report.timer says no.*Release aaaa serves, as before"):
        activate(app, "bbbb")
    assert ticking(timers) == {"cleanup.timer"}
    assert not app.path("etc/systemd/system/links-report.timer").exists()
    assert layout.current(app) == "aaaa"


def test_undoing_a_transaction_takes_its_timers_back(app: layout.Application, timers: Units) -> None:
    schedule(app, cleanup=True)
    activate(app, "aaaa")
    schedule(app, report=True)
    activate(app, "bbbb", transaction="t1")
    assert ticking(timers) == {"report.timer"}
    activation.revert(app, "t1", 9)
    assert ticking(timers) == {"cleanup.timer"}
    assert boots(app) == {"cleanup.timer"}
    assert app.path("etc/systemd/system/links-cleanup.service").exists()
    assert not app.path("etc/systemd/system/links-report.service").exists()


@pytest.mark.parametrize("part", [None, "before_web"])
def test_the_files_of_background_processes_are_theirs_and_never_those_of_the_web_processes(
    app: layout.Application, part: str | None
) -> None:
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
    ("told", "memory"), [("1048576", 2**20), ("[not set]", 0), ("", 0), (str(2**64 - 1), 0), (str(2**63), 0)]
)
def test_memory_of_an_instance_is_what_systemd_counts(
    app: layout.Application, monkeypatch: pytest.MonkeyPatch, told: str, memory: int
) -> None:
    """It says so in words, or by the largest number, where it doesn't."""
    shown = f"Id=links-worker@1-1.service\nActiveState=active\nMemoryCurrent={told}\n"
    monkeypatch.setattr(systemd, "systemctl", lambda *_, **__: subprocess.CompletedProcess([], 0, shown, ""))
    (found,) = background.instances(app, "worker")
    assert (found.memory, found.restarts, found.pid, found.works) == (memory, 0, 0, True)


@pytest.mark.parametrize("strategy", ["overlap", "replace"])
def test_one_must_not_run_twice_and_is_waited_for_others_drain_by_themselves(
    app: layout.Application, units: Units, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    """An end is waited for as long as the type may take, and a margin; who only drains is asked for half a minute."""
    declare(app, worker={"strategy": strategy, "count": 1})
    activate(app, "aaaa")
    asked: list[tuple[bool, float]] = []
    real = units.systemctl

    def systemctl(verb: str, *words: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        if verb == "stop":
            asked.append(("--no-block" not in words, timeout))
        return real(verb, *words, timeout=timeout)

    monkeypatch.setattr(systemd, "systemctl", systemctl)
    units.log.clear()
    activate(app, "bbbb")
    waits = strategy == "replace"
    assert asked == [(waits, 9 + background.STOP_MARGIN if waits else 30)]
    order = ["stop worker@1-1", "start worker@2-1"]
    assert units.log == (order if waits else order[::-1])


def test_type_whose_change_has_not_begun_is_left_alone_on_the_way_back(app: layout.Application, units: Units) -> None:
    declare(app, worker={})
    activate(app, "aaaa")
    units.log.clear()
    (process,) = [one for one in app.processes if one.name == "worker"]
    change = background.Background(app, process, "bbbb", 9)
    assert change.way == "overlap"
    declare(app, worker={"count": 3})
    change.put_back()
    assert (units.log, units.active()) == ([], {"worker@1-1": "aaaa", "worker@1-2": "aaaa"})


def test_stop_that_systemd_refuses_fails_the_change(
    app: layout.Application, units: Units, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(app, worker={})
    activate(app, "aaaa")
    real = units.systemctl

    def systemctl(verb: str, *words: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        done = real(verb, *words, timeout=timeout)
        return subprocess.CompletedProcess([verb], 1, "", "no such unit\n") if verb == "stop" else done

    monkeypatch.setattr(systemd, "systemctl", systemctl)
    (process,) = [one for one in app.processes if one.name == "worker"]
    with pytest.raises(systemd.UnitError, match=r"^no such unit$"):
        background.Background(app, process, "bbbb", 9).execute()
