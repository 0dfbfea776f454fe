"""Packages are installed from apt even if unneeded sources are broken.

One playbook runs the action on a fake host for each case; the hosts' apt is a stand-in.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from tests.support.recorded_fleet import FACTS, FACTS_MODULE, RecordedFleet

DEAD = "E: Failed to fetch http://dead.test/InRelease  Could not connect to dead.test:80"
MISSING = {"failed": True, "msg": "No package matching 'jq' is available"}
HELD = {"failed": True, "msg": "'apt-get install jq' failed: ", "stderr": "E: You have held broken packages.\n"}
INSTALLED = {"changed": True}


@dataclasses.dataclass(frozen=True)
class Case:
    """A host: how old its package lists are, in seconds, and what its apt answers to each installation."""

    age: float | None
    answers: list[dict[str, Any]]
    packages: tuple[str, ...] = ("jq",)
    check: bool = False
    delegated: bool = False
    stderr: str = DEAD


CASES = {
    "fresh": Case(60, [INSTALLED]),
    "lacking": Case(60, [MISSING, INSTALLED]),
    "day-old": Case(90000, [INSTALLED]),
    "new": Case(None, [INSTALLED]),
    "unavailable": Case(60, [MISSING]),
    "held": Case(60, [HELD]),
    "checked": Case(None, [MISSING], check=True),
    "delegating": Case(90000, [INSTALLED], delegated=True),
    "refreshed": Case(60, [], packages=(), stderr=""),
}
BUILDER = "builder1"
# the steps of a host, as RecordedFleet lists them
INSTALL, READ = "apt present", "command"


@dataclasses.dataclass(frozen=True)
class Ran:
    """What the action did on the hosts, and its results."""

    steps: list[str]
    results: dict[str, dict[str, Any]]

    def on(self, host: str) -> list[str]:
        """The steps on a host, in order."""
        return [step.removeprefix(f"{host} ") for step in self.steps if step.startswith(f"{host} ")]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("packages")
    fleet = RecordedFleet(folder, {"cases": [*CASES], "builders": [BUILDER]})
    for host, case in CASES.items():
        fleet.set_result(FACTS_MODULE, {"ansible_facts": FACTS | {"package_lists_age": case.age}}, host)
        fleet.set_result("ansible.builtin.apt", case.answers, BUILDER if case.delegated else host)
        lists = {"rc": 0, "stdout": "Hit:1 http://deb.test InRelease", "stderr": case.stderr}
        fleet.set_result("ansible.builtin.command", lists, host)
    fleet.set_result(FACTS_MODULE, {"ansible_facts": FACTS}, BUILDER)
    case_of = "cases[inventory_hostname]"
    install = {
        "baton.web.packages": {"name": f"{{{{ {case_of}.packages }}}}"},
        "check_mode": f"{{{{ {case_of}.check }}}}",
        "delegate_to": f"{{{{ '{BUILDER}' if {case_of}.delegated else omit }}}}",
        "ignore_errors": True,
        "register": "answer",
    }
    # so that the result is recorded
    tell = {"ansible.builtin.ping": {"data": "{{ inventory_hostname }}={{ answer | to_json }}"}}
    playbook = folder / "packages.yml"
    playbook.write_text(json.dumps([{"hosts": "cases", "gather_facts": False, "tasks": [install, tell]}]))
    cases = {host: dataclasses.asdict(case) for host, case in CASES.items()}
    fleet.play(str(playbook), cases=cases).check_status()
    results = dict(given["data"].split("=", 1) for given in fleet.arguments("ansible.builtin.ping"))
    steps = [step for step in fleet.steps if step.split()[1] != "ping"]
    return Ran(steps, {host: json.loads(text) for host, text in results.items()})


@pytest.mark.parametrize(
    ("host", "steps"),
    [
        ("fresh", [INSTALL]),
        ("lacking", [INSTALL, READ, INSTALL]),
        ("day-old", [READ, INSTALL]),
        ("new", [READ, INSTALL]),
    ],
)
def test_package_lists_are_read_only_if_needed(ran: Ran, host: str, steps: list[str]) -> None:
    assert ran.on(host) == steps
    assert ran.results[host]["changed"]
    # so that the next role doesn't read them again
    assert ("ansible_facts" in ran.results[host]) is (READ in steps)


def test_broken_source_that_is_not_needed_is_a_warning(ran: Ran) -> None:
    (warning,) = ran.results["new"]["warnings"]
    assert "Failed to fetch http://dead.test/InRelease" in warning


def test_unavailable_package_names_the_host_and_the_source(ran: Ran) -> None:
    result = ran.results["unavailable"]
    assert result["failed"]
    for word in ("unavailable: ", "jq", "No package matching", "http://dead.test/InRelease", "sources.list.d"):
        assert word in result["msg"]


def test_output_of_a_failed_installation_is_reported(ran: Ran) -> None:
    assert "E: You have held broken packages." in ran.results["held"]["msg"]


def test_check_mode_reads_no_lists(ran: Ran) -> None:
    assert ran.on("checked") == [INSTALL]
    assert ran.results["checked"]["changed"]
    assert not ran.results["checked"]["failed"]


def test_age_of_the_lists_is_not_used_for_a_delegated_task(ran: Ran) -> None:
    assert "ansible_facts" not in ran.results["delegating"]
    assert (ran.on("delegating"), ran.on(BUILDER)) == ([], [INSTALL])


def test_call_without_packages_only_reads_the_lists(ran: Ran) -> None:
    assert ran.on("refreshed") == [READ]
    assert ran.results["refreshed"]["changed"] is False
