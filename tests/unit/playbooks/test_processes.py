"""When background processes run in a rollout, and whether they run at all."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from tests.support.playbooks import PROJECT

HOSTS = ["app1", "app2"]
WORKER = {"worker": {"command": "work"}}
BEAT = {"beat": {"command": "beat", "order": "after_web"}}


def templar(**variables: Any) -> Templar:
    """The variables of a rollout, as in a play."""
    loader = DataLoader()
    loader.set_basedir(str(PROJECT))
    rollout = loader.load_from_file(str(PROJECT / "playbooks/vars/rollout.yml"), trusted_as_template=True)
    return Templar(loader=loader, variables={**rollout, "baton_locked_hosts": HOSTS, **variables})


@pytest.mark.parametrize(
    ("found", "processes", "expected"),
    [
        # what runs on each host, and what its inventory wants
        ([False, False], [{}, {}], False),
        ([False, True], [{}, {}], True),
        ([False, False], [{}, WORKER], True),
        ([False, False], [BEAT, BEAT], False),
        # a host that was never set up, and an inventory without the setting
        ([None, False], [None, None], False),
        ([None, False], [WORKER, None], True),
    ],
)
def test_phase_runs_if_any_host_has_or_will_have_such_types(
    found: list[Any], processes: list[Any], expected: bool
) -> None:
    hostvars = {
        name: {"ansible_facts": {} if fact is None else {"app_before_web": fact}}
        | ({} if settings is None else {"app_processes": settings})
        for name, fact, settings in zip(HOSTS, found, processes, strict=True)
    }
    assert templar(hostvars=hostvars).template(trust_as_template("{{ baton_has_before_web }}")) is expected


def test_phase_does_not_run_before_any_host_is_known() -> None:
    assert templar().template(trust_as_template("{{ baton_has_before_web }}")) is False


@pytest.mark.parametrize(
    ("kind", "order"),
    [
        *((kind, ["rehearsal", "processes", "handover"]) for kind in ("deploy", "configure", "restart")),
        # the remaining web processes enqueue jobs that only their own release's background processes know
        ("rollback", ["rehearsal", "handover", "processes"]),
    ],
)
def test_processes_precede_web_except_in_a_rollback(kind: str, order: list[str]) -> None:
    phases: list[str] = []
    for play in yaml.safe_load((PROJECT / "playbooks/phases/rollout.yml").read_text()):
        phase = play.get("vars", {}).get("baton_phase")
        if play.get("ansible.builtin.import_playbook") == "processes.yml":
            due = trust_as_template(play["vars"]["baton_processes_due"])
            phase = "processes" if templar(baton_change={"kind": kind}).template(due) else None
        if phase in order and phase not in phases[-1:]:
            phases.append(phase)
    assert phases == order
