"""What the playbooks for operators run on which hosts: commands, logs, schedules, history, maintenance, locks."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest

from tests.support.playbooks import Done
from tests.support.recorded_fleet import FACTS, RecordedFleet


class Fleet(RecordedFleet):
    """Two app servers, and an edge."""

    def run(self, playbook: str, *options: str, **variables: Any) -> Done:
        """Run a playbook with variables of the command line."""
        return self.play(playbook, *options, "--extra-vars", json.dumps(variables))


@pytest.fixture
def fleet(tmp_path: pathlib.Path) -> Fleet:
    fake = Fleet(tmp_path, {"app_servers": ["app1", "app2"], "load_balancers": ["edge1"]})
    fake.set_result("baton.web.host_facts", {"ansible_facts": FACTS})
    fake.set_result("ansible.builtin.stat", {"stat": {"exists": True}})
    fake.set_result("ansible.legacy.stat", {"stat": {"exists": False}})
    return fake


@pytest.mark.parametrize(
    ("variables", "options", "hosts"),
    [
        ({}, (), ["app1"]),
        ({"exec_hosts": "all"}, (), ["app1", "app2"]),
        ({}, ("--limit", "app2"), ["app2"]),
    ],
)
def test_command_runs_on_the_chosen_hosts(
    fleet: Fleet, variables: dict[str, Any], options: tuple[str, ...], hosts: list[str]
) -> None:
    fleet.set_result("baton.web.exec", {"changed": True, "rc": 0, "output": "5\n", "release": "r1"})
    done = fleet.run("exec.yml", *options, command="echo 5", **variables).check_status()
    assert fleet.steps == [f"{host} exec links" for host in hosts]
    assert fleet.arguments("baton.web.exec") == [{"name": "links", "command": "echo 5", "timeout": 600}] * len(hosts)
    for host in hosts:
        assert f"{host}: exit code 0 in release r1\n" in done.output


def test_failed_command_ends_the_run_before_the_next_host(fleet: Fleet) -> None:
    fleet.set_result("baton.web.exec", {"failed": True, "rc": 3, "msg": "Exit code 3 in release r1."})
    done = fleet.run("exec.yml", command="false", exec_hosts="all", exec_timeout=60)
    assert done.status != 0
    assert fleet.steps == ["app1 exec links"]
    (given,) = fleet.arguments("baton.web.exec")
    assert given["timeout"] == 60


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({}, "Give the command with -e"),
        ({"command": "  "}, "Give the command with -e"),
        ({"command": "x", "exec_hosts": "some"}, "exec_hosts is"),
        ({"command": "x", "exec_timeout": 0}, "exec_timeout is 0"),
    ],
    ids=str,
)
def test_invalid_command_runs_nowhere(fleet: Fleet, variables: dict[str, Any], words: str) -> None:
    done = fleet.run("exec.yml", **variables)
    assert done.status != 0
    assert words in done.words
    assert fleet.steps == []


def test_logs_are_read_on_all_app_servers_and_followed_on_request(fleet: Fleet) -> None:
    fleet.set_result("baton.web.logs_info", {"entries": [], "position": "s=1"})
    done = fleet.run("logs.yml").check_status()
    assert fleet.steps == ["app1 logs_info links", "app2 logs_info links"]
    usual = {"name": "links", "lines": 200, "grep": "", "level": "debug", "process": ""}
    for arguments in fleet.arguments("baton.web.logs_info"):
        # ten minutes ago, by the controller's clock
        assert arguments.pop("since").startswith("@")
        assert arguments == usual
    assert "Nothing was logged." in done.output
    given = {"lines": 5, "grep": "x", "level": "error", "process": "worker", "since": "s=0"}
    fleet.run("logs.yml", "--forks", "2", **given, follow=1).check_status()
    first, followed = fleet.arguments("baton.web.logs_info")[0], fleet.arguments("baton.web.logs_info", since="s=1")
    assert first == {**usual, **given}
    # the action passes on how long one call waits
    assert followed[0].items() >= {**usual, **given, "since": "s=1"}.items()


@pytest.mark.parametrize(
    ("playbook", "variables", "words"),
    [
        (
            "logs",
            {"sinse": "1h"},
            "failed: sinse is not an option of logs.yml. Did you mean since? Correct it in `-e`.",
        ),
        ("logs", {"log_level": "error"}, "failed: log_level is not an option of logs.yml. Did you mean level?"),
        (
            "exec",
            {"command": "true", "timeout": 5},
            "failed: timeout is not an option of exec.yml. Did you mean exec_t",
        ),
        ("schedule", {"schedules": "cleanup"}, "Did you mean schedule?"),
        ("maintenance", {"maintenence": "on"}, "Did you mean maintenance?"),
    ],
)
def test_misspelt_option_is_refused(fleet: Fleet, playbook: str, variables: dict[str, Any], words: str) -> None:
    """Ansible would ignore it."""
    done = fleet.run(f"{playbook}.yml", **variables)
    assert done.status != 0
    assert words in done.words
    assert fleet.steps == []


def test_variable_that_resembles_an_option_but_is_used_is_accepted(tmp_path: pathlib.Path) -> None:
    used = {"app_config_environment": {"LOG_LEVEL": "{{ log_level }}"}, "line": 5}
    fleet = Fleet(tmp_path, {"app_servers": ["app1"]}, **used)
    fleet.set_result("baton.web.logs_info", {"entries": [], "position": "s=1"})
    fleet.run("logs.yml", log_level="info", ticket="OPS-1").check_status()
    # in the inventory, a name without a prefix is the operator's own
    assert fleet.arguments("baton.web.logs_info")[0]["lines"] == 200


@pytest.mark.parametrize(
    ("action", "state", "steps"),
    [
        ("run", "known", ["app1 schedule known", "app2 schedule known", "app1 unit links-cleanup.service"]),
        ("suspend", "suspended", ["app1 schedule suspended", "app2 schedule suspended"]),
        ("resume", "resumed", ["app1 schedule resumed", "app2 schedule resumed"]),
    ],
)
def test_scheduled_command_is_run_where_it_runs_or_is_switched_everywhere(
    fleet: Fleet, action: str, state: str, steps: list[str]
) -> None:
    unit = "links-cleanup.service"
    result = {"runs": False, "unit": unit, "release": "", "timeout": 7200}
    fleet.set_result("baton.web.schedule", result)
    fleet.set_result("baton.web.schedule", {**result, "runs": True, "release": "r1"}, "app1")
    fleet.set_result("baton.web.unit", {"changed": True, "log": "cleaned up", "seconds": 2.0})
    done = fleet.run("schedule.yml", schedule="cleanup", schedule_action=action).check_status()
    assert fleet.steps == steps
    assert fleet.arguments("baton.web.schedule") == [{"name": "links", "schedule": "cleanup", "state": state}] * 2
    for given in fleet.arguments("baton.web.unit"):
        # longer than a run may take
        assert given == {"name": unit, "application": "links", "timeout": 7260}
    assert ("app1: cleanup succeeded in 2.0 s\ncleaned up" in done.output) is (action == "run")


@pytest.mark.parametrize(
    ("release", "runs", "words"),
    [
        ("", True, "app1 has no current release of links, so cleanup can't run there. Deploy one."),
        ("r1", False, "cleanup runs on none of these hosts (hosts: first). Include the host that runs it (--limit)"),
    ],
)
def test_scheduled_command_that_cannot_run_is_refused(fleet: Fleet, release: str, runs: bool, words: str) -> None:
    result = {"runs": False, "unit": "links-cleanup.service", "release": "r1", "timeout": 60}
    fleet.set_result("baton.web.schedule", result)
    fleet.set_result("baton.web.schedule", {**result, "runs": runs, "release": release}, "app1")
    done = fleet.run("schedule.yml", schedule="cleanup", schedule_action="run")
    assert done.status != 0
    assert words in done.words
    assert fleet.steps == ["app1 schedule known", "app2 schedule known"]


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"schedule_action": "run"}, "Use -e schedule=NAME"),
        ({"schedule": "cleanup"}, "Use -e schedule=NAME"),
        ({"schedule": "cleanup", "schedule_action": "start"}, "schedule_action"),
        ({"schedule": "cleanup", "schedule_action": "run", "schedule_timeout": 0}, "schedule_timeout is"),
    ],
    ids=str,
)
def test_invalid_request_for_a_schedule_changes_nothing(fleet: Fleet, variables: dict[str, Any], words: str) -> None:
    done = fleet.run("schedule.yml", **variables)
    assert done.status != 0
    assert words in done.words
    assert fleet.steps == []


@pytest.mark.parametrize("force", [False, True])
def test_lock_of_a_dead_run_is_removed_on_all_app_servers(fleet: Fleet, force: bool) -> None:
    holder = {"description": "ann@laptop since noon (deploy)"}
    fleet.set_result("baton.web.deploy_lock", {"changed": True, "holder": holder}, "app1")
    fleet.set_result("baton.web.deploy_lock", {"changed": False, "holder": None}, "app2")
    done = fleet.run("unlock.yml", **({"unlock_force": True} if force else {})).check_status()
    assert fleet.steps == ["app1 deploy_lock absent", "app2 deploy_lock absent"]
    for given in fleet.arguments("baton.web.deploy_lock"):
        assert given.items() >= {"name": "links", "state": "absent", "force": force}.items()
    assert "app1: removed the lock of ann@laptop since noon (deploy)." in done.words
    assert "app2: there was no lock." in done.words


def test_history_is_read_on_all_app_servers(fleet: Fleet) -> None:
    fleet.set_result("baton.web.history_info", {"entries": []})
    fleet.run("history.yml").check_status()
    assert fleet.steps == ["app1 history_info links", "app2 history_info links"]
    assert fleet.arguments("baton.web.history_info") == [{"name": "links", "lines": 20}] * 2
    fleet.run("history.yml", history_lines=3).check_status()
    assert [given["lines"] for given in fleet.arguments("baton.web.history_info")] == [3, 3]


@pytest.mark.parametrize("state", ["on", "off"])
def test_maintenance_is_switched_only_on_edges(fleet: Fleet, state: str) -> None:
    done = fleet.run("maintenance.yml", maintenance=state).check_status()
    assert {step.split()[0] for step in fleet.steps} == {"edge1"}
    assert f"Maintenance is {state}" in done.words
    assert "(edge1)" in done.words


def test_maintenance_needs_a_state_and_an_edge(fleet: Fleet) -> None:
    for options, variables, words in (
        ((), {}, "The variable maintenance is missing: use -e maintenance=on"),
        ((), {"maintenance": "soon"}, 'maintenance is "soon": use -e maintenance=on'),
        (("--limit", "app1"), {"maintenance": "on"}, "None of these hosts is an edge; the edges are edge1."),
    ):
        done = fleet.run("maintenance.yml", *options, **variables)
        assert done.status != 0
        assert words in done.words
        assert fleet.steps == []
