"""Which hosts' variables are read to determine the host of `hosts: first`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.filter import first_host

SERVERS = ["app1", "app2"]
ONE = {"beat": {"command": "beat", "hosts": "first"}}


class Variables(Mapping[str, Any]):
    """An inventory's variables; records whose are read."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def __getitem__(self, name: str) -> Any:
        self.read.append(name)
        return {
            "ansible_facts": {"app_runs": ["app_processes.beat"] if name == "app2" else [], "app_first_host": "app2"}
        }

    def __iter__(self) -> Iterator[str]:
        return iter(["edge1", *SERVERS, "data1"])

    def __len__(self) -> int:
        return 4


@pytest.mark.parametrize(("processes", "first", "read"), [({}, "", []), (ONE, "app2", SERVERS)])
def test_app_servers_are_read_only_if_a_process_runs_on_one_host(
    processes: dict[str, Any], first: str, read: list[str]
) -> None:
    variables = Variables()
    assert first_host.choose(variables, SERVERS, processes, {}) == first
    assert variables.read == read


def test_preflight_reads_all_hosts_if_a_process_runs_on_one_host() -> None:
    variables = Variables()
    assert first_host.problems(variables, "links", SERVERS, {}, {}) == []
    assert variables.read == []
    assert first_host.problems(variables, "links", SERVERS, ONE, {}) == []
    assert variables.read == ["edge1", *SERVERS, "data1"]


def test_what_starts_at_boot_on_another_host_is_a_problem() -> None:
    facts = {
        "app1": {"app_runs": [], "app_starts_at_boot": ["app_processes.beat"], "app_first_host": "app1"},
        "app2": {"app_runs": [], "app_starts_at_boot": [], "app_first_host": "app1"},
    }
    variables = {name: {"ansible_facts": theirs} for name, theirs in facts.items()}
    assert first_host.problems(variables, "links", SERVERS, ONE, {}) == []
    (problem,) = first_host.problems(variables, "links", SERVERS, ONE, {}, "app2")
    assert problem.startswith("app1 runs app_processes.beat (now, or after its next boot), which must not run on app2 ")
    renamed = {"ticker": ONE["beat"]}
    assert first_host.problems(variables, "links", SERVERS, renamed, {}) == []
    (problem,) = first_host.problems(variables, "links", SERVERS, renamed, {}, "app2")
    assert problem.startswith("app1 runs app_processes.beat (now, or after its next boot), which the settings no long")
