"""The end of a change as phases/rollout.yml runs it, on hosts that are folders of this machine."""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

import pytest
import yaml
from ansible_collections.baton.web.plugins.module_utils.app import running
from ansible_collections.baton.web.plugins.module_utils.app.layout import Application
from ansible_collections.baton.web.plugins.module_utils.change import deploy_lock, history
from ansible_collections.baton.web.plugins.module_utils.host import systemd

from tests.support.playbooks import PROJECT, Done, Playbooks
from tests.support.program import write_script

RUN = {"token": "a", "who": "ann@laptop", "process": ""}
ACTIVATED = {"changed": True, "method": "reload", "seconds": 1.2, "started": 1764072009.0, "ended": 1764072010.0,
            "previous": "r1", "release": "r2"}  # fmt: skip
UNTOUCHED = {"changed": False, "release": "r1", "previous": "r1"}
PHASE = {"id": "handover", "name": "Activate the first batch", "started": 1764072000.0, "seconds": 9.0}
# how the hosts' results are collected
ROLLOUT = {
    name: value
    for name, value in yaml.safe_load((PROJECT / "playbooks/vars/rollout.yml").read_text()).items()
    if name in ("baton_outputs", "baton_results", "baton_own_result", "baton_failures", "baton_changed")
}
FAILURE = {"step": "handover", "message": "Workers of r2 don't start."}


class Fleet:
    """Two app servers, each with the run's lock and its own application, whose name is the path of a folder."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.apps = [Application(str(folder / name / "shop")) for name in ("app1", "app2")]
        for app in self.apps:
            deploy_lock.take(app, deploy_lock.Run(**RUN), "deploy v2", 900)

    def finish(self, *options: str, **variables: Any) -> Done:
        """Run the tasks; `variables` are the hosts'."""
        hosts = {name: {"app_name": app.name} for name, app in zip(("app1", "app2"), self.apps, strict=True)}
        local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        found = {"app_service_activated": ACTIVATED, "phase": PHASE} | local | variables
        (self.folder / "hosts.yml").write_text(json.dumps({"all": {"hosts": hosts, "vars": found}}))
        folder = PROJECT / "playbooks/tasks/rollout"
        tasks = [{"ansible.builtin.import_tasks": f"{folder}/{file}.yml"} for file in ("read_process_ends", "finish")]
        play_variables: dict[str, Any] = ROLLOUT | {
            "baton_run": RUN,
            "baton_change": {"kind": "restart", "stage": False},
            "baton_release": "r2",
            "baton_load_balancers": [],
            "baton_locked_excluded_hosts": [],
            "baton_first_host": "app1",
            "baton_windows": {"during": {"since": 1764072000, "until": 1764072010}},
            "baton_phases": "{{ [phase] }}",
        }
        play = {"hosts": "all", "gather_facts": False, "tasks": tasks, "vars": play_variables}
        (self.folder / "play.yml").write_text(json.dumps([play]))
        return Playbooks(self.folder / "hosts.yml").play(str(self.folder / "play.yml"), *options)

    @property
    def receipts(self) -> list[list[pathlib.Path]]:
        """The receipts on each host."""
        return [sorted(app.state.glob("receipts/*")) for app in self.apps]

    @property
    def locked(self) -> list[bool]:
        return [deploy_lock.read(app) is not None for app in self.apps]

    @property
    def results(self) -> list[list[str]]:
        return [[entry["result"] for entry in history.read(app)] for app in self.apps]


@pytest.fixture
def fleet(tmp_path: pathlib.Path) -> Fleet:
    return Fleet(tmp_path)


def test_hosts_keep_the_controllers_receipt(fleet: Fleet) -> None:
    done = fleet.finish()
    # nothing runs in these folders: that is reported last, and prevents nothing from being written
    assert done.status != 0
    for name in ("app1", "app2"):
        assert f"{name} was activated, but doesn't serve as it should now: no release has been activated." in done.words
    (kept,) = (fleet.folder / "receipts").glob("*.json")
    assert [[path.name for path in host] for host in fleet.receipts] == [[kept.name]] * 2
    assert {path.read_text() for host in fleet.receipts for path in host} == {kept.read_text()}
    assert f"Receipt: {kept.with_suffix('.html')}" in done.output
    assert fleet.results == [["restarted"]] * 2
    assert fleet.locked == [False, False]


@pytest.mark.parametrize("journal", ["readable", "unreadable"])
def test_receipt_shows_how_old_background_processes_ended(
    fleet: Fleet, journal: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read from each host's journal; an unreadable journal hides nothing else."""
    old, new = (f"{fleet.apps[0].name}-worker@{generation}-1.service" for generation in (1, 2))
    worker = {"method": "overlap", "started": [new], "stopped": [old], "seconds": 5.0}
    worker |= {"stop_requested": 1764072001.0, "pids": {old: 401, new: 517}}
    for name, script in {
        "systemctl": "exit 0",
        "journalctl": f'[ "$1" = --sync ] || cat {tmp_path}/journal',
    }.items():
        write_script(tmp_path / name, script if journal == "readable" else "exit 1")
    entry = {"UNIT": old, "MESSAGE_ID": systemd.STOPPED, "__REALTIME_TIMESTAMP": "1764072005300000"}
    (tmp_path / "journal").write_text(json.dumps(entry))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    done = fleet.finish(app_service_processes={"changed": True, "processes": {"worker": worker}})
    assert "401 -> 517" in done.output
    assert ("1 drained in 4.3 s" in done.words) is (journal == "readable")
    assert done.words.count("1 ended in an unknown state") == (1 if journal == "readable" else 2)
    assert fleet.results == [["restarted"]] * 2


@pytest.mark.parametrize("broken", ["folder", "error"])
def test_unwritable_receipt_hides_no_failure_and_keeps_no_lock(fleet: Fleet, broken: str) -> None:
    (fleet.folder / "file").write_text("")
    faults: dict[str, dict[str, Any]] = {
        "folder": {"deploy_receipts": str(fleet.folder / "file/receipts")},
        # an internal error
        "error": {"phase": PHASE | {"seconds": "no number"}},
    }
    done = fleet.finish(baton_outcome={"failure": FAILURE}, **faults[broken])
    assert done.status != 0
    assert {"folder": "The receipt can't be written to", "error": "failed: [app1]"}[broken] in done.words
    assert "The restart of" in done.words
    assert "app1, app2, handover: Workers of r2 don't start." in done.words
    assert fleet.results == [["failed"]] * 2
    # the hosts can keep a receipt that the controller can't write
    assert [len(host) for host in fleet.receipts] == ([1, 1] if broken == "folder" else [0, 0])
    assert fleet.locked == [False, False]


def test_host_of_exclusive_processes_is_noted_after_a_successful_change(fleet: Fleet) -> None:
    assert fleet.finish("--check", app_service_activated=UNTOUCHED).changed == [1, 1]
    assert [running.recorded_first_host(app) for app in fleet.apps] == ["", ""]
    fleet.finish(baton_outcome={"failure": FAILURE})
    assert [running.recorded_first_host(app) for app in fleet.apps] == ["", ""]
    assert fleet.finish(app_service_activated=UNTOUCHED).changed == [1, 1]
    assert [running.recorded_first_host(app) for app in fleet.apps] == ["app1", "app1"]


def test_nothing_is_written_when_nothing_changed(fleet: Fleet) -> None:
    for app in fleet.apps:
        running.record_first_host(app, "app1")
    done = fleet.finish(app_service_activated=UNTOUCHED)
    assert (done.status, done.changed) == (0, [0, 0]), done.output
    assert fleet.receipts == [[], []]
    assert not (fleet.folder / "receipts").exists()
    assert fleet.locked == [False, False]


def test_check_mode_writes_nothing(fleet: Fleet) -> None:
    done = fleet.finish("--check")
    assert done.status == 0, done.output
    assert fleet.receipts == [[], []]
    assert not (fleet.folder / "receipts").exists()
    assert fleet.results == [[], []]
