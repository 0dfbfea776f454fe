"""A run's identity and phases, what Ctrl-C does, and until when a change can be reverted."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
import signal
import time
import types
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.callback import run as callback

from tests.support.clock import SteppingClock
from tests.support.playbooks import PROJECT, Playbooks

INTERRUPTED = "{{ lookup('ansible.builtin.env', 'BATON_INTERRUPTED') is exists }}"


def play(name: str, ready: pathlib.Path, **variables: Any) -> dict[str, Any]:
    """A play that creates a file when it runs, takes 2 s, and prints whether an interrupt was requested."""
    return {
        "name": name,
        "vars": variables,
        "tasks": [
            {"ansible.builtin.shell": {"cmd": f"touch {ready}; sleep 2"}},
            {"ansible.builtin.debug": {"msg": f"{name} {INTERRUPTED}"}},
        ],
    }


@pytest.mark.parametrize(
    ("during", "words", "outputs"),
    [
        ("change", "reverts the activated hosts", ["change True", "end True"]),
        ("end", "Interrupted too late to revert", ["change False", "end False"]),
    ],
)
def test_interrupt_reverts_a_change_until_its_commit_phase(
    tmp_path: pathlib.Path, during: str, words: str, outputs: list[str]
) -> None:
    plays = [
        play("change", tmp_path / "change", baton_defer_interrupt=True),
        play("end", tmp_path / "end", baton_defer_interrupt=True, baton_commit_phase=True),
    ]
    runner, playbook = Playbooks.written(tmp_path, *plays)
    running = runner.start(playbook)
    while not (tmp_path / during).exists():
        assert running.poll() is None
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    done = Playbooks.finish(running)
    assert done.status == 0, done.output
    assert words in done.words
    for output in outputs:
        assert output in done.output


def test_phases_are_the_plays_with_hosts(tmp_path: pathlib.Path) -> None:
    show = {"ansible.builtin.debug": {"msg": "{{ lookup('ansible.builtin.env', 'BATON_PHASES') }}"}}
    wait = {"ansible.builtin.command": {"argv": ["sleep", "0.3"]}}
    runner, playbook = Playbooks.written(
        tmp_path,
        {"name": "Stage", "vars": {"baton_phase": "staging"}, "tasks": [wait]},
        {"name": "Migrate", "hosts": "all:!all", "tasks": [show]},
        {"name": "Rehearse", "tasks": [show]},
    )
    done = runner.play(playbook)
    assert done.status == 0, done.output
    (line,) = (line for line in done.output.splitlines() if line.startswith("[{"))
    staged, rehearsed = json.loads(line)
    assert [staged["name"], rehearsed["name"]] == ["Stage", "Rehearse"]
    assert [staged["id"], rehearsed["id"]] == ["staging", ""]
    assert staged["seconds"] >= 0.3
    assert rehearsed["started"] >= staged["started"] + 0.3


def test_each_playbook_of_one_process_is_a_separate_change(tmp_path: pathlib.Path) -> None:
    token = "{{ (lookup('ansible.builtin.env', 'BATON_RUN') | from_json).token }}"
    phases = "{{ lookup('ansible.builtin.env', 'BATON_PHASES') | from_json | map(attribute='name') | join(',') }}"
    show = {"ansible.builtin.debug": {"msg": f"run {token} {phases} {INTERRUPTED}"}}
    runner, playbook = Playbooks.written(
        tmp_path, play("one", tmp_path / "one", baton_defer_interrupt=True), {"name": "two", "tasks": [show]}
    )
    running = runner.start(playbook, playbook)
    while not (tmp_path / "one").exists():
        assert running.poll() is None
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    done = Playbooks.finish(running)
    assert done.status == 0, done.output
    first, second = re.findall(r"run (\w+) (\S+) (\w+)", done.output)
    assert first[1:] == ("one,two", "True")
    assert second[1:] == ("one,two", "False")
    assert first[0] != second[0]


def test_truncated_extra_variable_ends_the_run_before_any_task(tmp_path: pathlib.Path) -> None:
    mark = tmp_path / "mark"
    touch = {"name": "Touch", "tasks": [{"ansible.builtin.command": {"argv": ["touch", str(mark)]}}]}
    runner, playbook = Playbooks.written(tmp_path, touch)
    done = runner.play(playbook, "-e", "command=echo secret words")
    assert done.status == 5
    assert """-e "command='two words'\"""" in done.words
    assert "secret" not in done.output
    assert not mark.exists()
    assert runner.play(playbook, "-e", "command='echo secret words'").status == 0
    assert mark.exists()


REPORT = {"ansible.builtin.import_tasks": str(PROJECT / "playbooks/tasks/problems/report.yml")}


def check(words: str, **more: object) -> dict[str, Any]:
    return {"ansible.builtin.assert": {"that": False, "quiet": True, "fail_msg": words}, **more}


def deferring(*tasks: dict[str, Any], **more: object) -> dict[str, Any]:
    return {"ignore_errors": True, "vars": {"baton_defer_problems": True}, "tasks": tasks, **more}


def test_problems_of_several_plays_hosts_and_checks_are_reported_together(tmp_path: pathlib.Path) -> None:
    mark = tmp_path / "mark"
    runner, playbook = Playbooks.written(
        tmp_path,
        deferring(
            check("{{ inventory_hostname }}: no clock"),
            check("all: {{ item }}", loop=["no name", "no source"], run_once=True),
            # depends on what app2 hasn't
            {"ansible.builtin.debug": {"msg": "{{ hostvars.app2.missing }}"}},
            {
                "ansible.builtin.fail": {"msg": "app2 is out"},
                "when": "inventory_hostname == 'app2'",
                "ignore_errors": False,
            },
        ),
        deferring({"ansible.builtin.command": "sh -c 'echo {{ inventory_hostname }} >&2; exit 1'"}),
        {"name": "Report", "tasks": [REPORT]},
        {"tasks": [{"ansible.builtin.file": {"path": str(mark), "state": "touch"}}]},
    )
    runner.inventory.write_text(runner.inventory.read_text() + runner.inventory.read_text().replace("app1", "app2"))
    done = runner.play(playbook)
    assert done.status != 0
    assert not mark.exists()
    report = done.output.partition("\nReport\n")[2].splitlines()
    assert report[1:8] == [
        "failed: 5 problems. Nothing has been changed.",
        *("- app1, app2: no clock", "- all: no name", "- all: no source", "- app2 is out"),
        *("- app1: non-zero return code", "  app1"),
    ]
    assert done.output.count("no clock") == 1


def test_problems_are_reported_if_no_host_is_left(tmp_path: pathlib.Path) -> None:
    runner, playbook = Playbooks.written(
        tmp_path, deferring(check("it is out", ignore_errors=False)), {"tasks": [REPORT]}
    )
    done = runner.play(playbook)
    assert done.status != 0
    assert done.output.count("failed: app1: it is out") == 1


def test_report_needs_the_callback_and_passes_without_problems(tmp_path: pathlib.Path) -> None:
    runner, playbook = Playbooks.written(tmp_path, deferring(), {"tasks": [REPORT]})
    runner.play(playbook).check_status()
    without = dataclasses.replace(runner, environment={"ANSIBLE_CALLBACKS_ENABLED": "baton.web.module_cache"}).play(
        playbook
    )
    assert without.status != 0
    assert "Ansible runs without the callback baton.web.run" in without.words


def test_duration_of_a_phase_ignores_corrections_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SteppingClock()
    monkeypatch.setattr(callback, "time", clock)
    monkeypatch.setenv("BATON_PHASES", "")
    plugin = callback.CallbackModule()
    for name in ("Stage", "Rehearse"):
        plugin.v2_playbook_on_play_start(types.SimpleNamespace(get_vars=dict, get_name=lambda name=name: name))
        clock.now += 3
    staged, rehearsed = json.loads(os.environ["BATON_PHASES"])
    assert (staged["name"], staged["seconds"], rehearsed["seconds"]) == ("Stage", 3.0, 0.0)


def test_extra_variable_without_a_value_is_named(tmp_path: pathlib.Path) -> None:
    runner, playbook = Playbooks.written(tmp_path, {"name": "Nothing", "tasks": []})
    done = runner.play(playbook, "-e", "app_version")
    assert done.status == 5
    assert "-e app_version has no value. Write it as -e app_version=VALUE" in done.words


@pytest.mark.parametrize(
    ("options", "environment", "words"),
    [
        (("--tags", "x"), {}, "--tags would leave out checks and steps"),
        (("--skip-tags", "x,untagged"), {}, "--skip-tags would leave out checks and steps"),
        (("--start-at-task", "Remove the deploy lock"), {}, "--start-at-task would leave out checks and steps"),
        ((), {"ANSIBLE_STRATEGY": "free"}, "The strategy free would run tasks before all hosts have been checked"),
        (("--limit", "app1,app9"), {}, "--limit has app9, which matches no host of the inventory."),
        (("--limit", "all:!app9"), {}, "--limit has app9, which matches no host"),
        (("--limit", "app1"), {}, "/hosts has no host in app_servers that --limit app1 includes. Correct --limit."),
        ((), {}, "/hosts has no host in app_servers. Correct the inventory, -i or"),
    ],
)
@pytest.mark.parametrize("imported", [False, True])
def test_run_that_would_leave_out_tasks_or_hosts_ends_before_any_task(
    tmp_path: pathlib.Path, options: tuple[str, ...], environment: dict[str, str], words: str, imported: bool
) -> None:
    """Ansible would report a success: a deploy without hosts, or without its checks."""
    runner, playbook = Playbooks.written(tmp_path, environment=environment)
    unlock = str(PROJECT / "playbooks/unlock.yml")
    pathlib.Path(playbook).write_text(json.dumps([{"ansible.builtin.import_playbook": unlock}]))
    done = runner.play(playbook if imported else unlock, *options)
    assert done.status == 5, done.output
    assert words in done.words
    assert "PLAY RECAP" not in done.output


def test_tags_that_leave_out_nothing_are_accepted(tmp_path: pathlib.Path) -> None:
    """Molecule skips its own."""
    runner, _ = Playbooks.written(tmp_path)
    runner.inventory.write_text("[app_servers]\napp1 app_name='My App'\n")
    done = runner.play("playbooks/unlock.yml", "--skip-tags", "molecule-notest,notest", "--tags", "all,mine")
    assert 'app_name is "My App"' in done.words


def test_baton_has_no_tags() -> None:
    files = [*PROJECT.glob("playbooks/**/*.yml"), *PROJECT.glob("roles/*/*/*.yml"), PROJECT / "site.yml"]
    assert [path for path in files if re.search(r"^\s*(- )?tags:", path.read_text(), re.MULTILINE)] == []


def test_an_operators_own_playbooks_may_have_tags_and_plays_without_hosts(tmp_path: pathlib.Path) -> None:
    show = {"tags": ["mine"], "ansible.builtin.debug": {"msg": "shown"}}
    runner, playbook = Playbooks.written(tmp_path, {"hosts": "no_such_group", "tasks": [show]}, {"tasks": [show]})
    done = runner.play(playbook, "--tags", "mine").check_status()
    assert "shown" in done.output


@pytest.mark.parametrize("content", ["app_servers: {hosts: {app2: \n", None])
def test_inventory_that_cannot_be_read_ends_the_run(tmp_path: pathlib.Path, content: str | None) -> None:
    """Also one of several: the run would change the hosts of the others only."""
    runner, playbook = Playbooks.written(tmp_path, {"tasks": [{"ansible.builtin.debug": {"msg": "task ran"}}]})
    other = tmp_path / "other.yml"
    if content is not None:
        other.write_text(content)
    done = runner.play(playbook, "-i", str(other))
    assert done.status != 0
    assert f"Completely failed to parse inventory source {other}" in done.words
    assert "task ran" not in done.output
