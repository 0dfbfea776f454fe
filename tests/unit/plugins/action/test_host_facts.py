"""Values derived from a host's answer: the offset of its clock, and its address."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import time
import types
from collections.abc import Callable
from typing import Any

import pytest
from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible_collections.baton.web.plugins.module_utils.app import layout, running
from ansible_collections.baton.web.plugins.module_utils.controller import host_answer, module_cache_host
from ansible_collections.baton.web.plugins.modules import host_facts

from tests.support import modules
from tests.support.playbooks import plugin


@dataclasses.dataclass
class Call:
    """When a module ran and read its clock: seconds since the epoch, by the controller's clock."""

    began: float
    read: float
    ended: float


def facts(
    monkeypatch: pytest.MonkeyPatch,
    calls: list[Call],
    *,
    offset: float = 0,
    seconds: float = 0,
    lacks: bool = False,
) -> Any:
    """The action's facts for a module that takes `seconds` and whose clock is off by `offset`. Appends the module's
    calls to `calls`."""

    def execute(*_: Any, **__: Any) -> dict[str, Any]:
        began = time.time()
        time.sleep(seconds / 2)
        read = time.time()
        time.sleep(seconds / 2)
        calls.append(Call(began, read, time.time()))
        if lacks and len(calls) == 1:
            return {module_cache_host.LACKING: True}
        return {"ansible_facts": {"clock": read + offset, "default_ipv4": {"address": "10.0.0.21"}}}

    return answer(monkeypatch, execute)["ansible_facts"]


def answer(monkeypatch: pytest.MonkeyPatch, execute: Callable[..., dict[str, Any]], **variables: Any) -> Any:
    """The action's result with this replacement for the module."""
    monkeypatch.setattr("ansible.plugins.action.ActionBase.run", lambda *_: {})
    monkeypatch.setattr("ansible.plugins.action.ActionBase._execute_module", execute)
    action = plugin("action/host_facts").ActionModule
    running = object.__new__(action)
    running._task = types.SimpleNamespace(delegate_to=None, args={})
    return action.run(running, None, {"inventory_hostname": "app1", **variables})


@pytest.mark.parametrize(("offset", "seconds"), [(0, 0.4), (0.1, 0.6)])
def test_clock_offset_within_the_calls_duration_is_zero(
    offset: float, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert facts(monkeypatch, [], offset=offset, seconds=seconds)["clock_ahead"] == 0


@pytest.mark.parametrize("lacks", [False, True])
@pytest.mark.parametrize("offset", [3600, -3600])
def test_clock_offset_is_what_the_calls_duration_does_not_explain(
    offset: float, lacks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Call] = []
    before = time.time()
    ahead = facts(monkeypatch, calls, offset=offset, seconds=0.2, lacks=lacks)["clock_ahead"]
    after = time.time()
    # an earlier call, in which the host only reported the missing module, doesn't count
    *others, last = calls
    assert len(others) == lacks
    earliest = others[-1].ended if others else before
    clock = last.read + offset
    if offset > 0:
        assert clock - after <= ahead <= clock - last.ended
    else:
        assert clock - last.began <= ahead <= clock - earliest


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        *(
            ({"default_ipv4": {"address": one}}, "default_ipv4")
            for one in ("0.0.0.0/0", '1.2.3.4"; x', "fd00::1", 1, None)
        ),
        ({"default_ipv4": ["10.0.0.1"]}, "default_ipv4"),
        ({"default_ipv6": {"address": "10.0.0.1"}}, "default_ipv6"),
        ({"architecture": "x86_64/../../../../.ssh"}, "architecture"),
        ({"architecture": "x86_64\n"}, "architecture"),
        ({"clock": "0"}, "clock"),
        ({"clock": float("nan")}, "clock"),
        ({"memtotal_mb": "8192; x"}, "memtotal_mb"),
        ({"processor_vcpus": True}, "processor_vcpus"),
        ({"processor_vcpus": 10**400}, "processor_vcpus"),
        ({"processor_vcpus": 8193}, "processor_vcpus"),
        ({"python": {"version": {"major": 3, "minor": "11/..", "micro": 0}}}, "python"),
        ({"python": "3.11"}, "python"),
        ({"app_transport": []}, "app_transport"),
        ({"app_transport": {"sends": "tls", "takes_tls": "no", "takes_plain": False, "trusted": []}}, "app_transport"),
        ({"app_foreign_units": [["a"]], "app_runs": "a"}, "app_foreign_units, app_runs"),
        ({"app_stop_timeouts": {"beat": "600"}}, "app_stop_timeouts"),
        ({"app_stop_timeouts": [600]}, "app_stop_timeouts"),
        ({"nameservers": None}, "nameservers"),
        ({"package_lists_age": "old"}, "package_lists_age"),
        ({"certificates": {"/c.pem": {"begins": 1, "expires": "never"}}}, "certificates"),
        ({"certificates": ["/c.pem"]}, "certificates"),
    ],
    ids=str,
)
def test_host_with_facts_of_another_type_is_reported(
    changed: dict[str, Any], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = answer(monkeypatch, lambda *_, **__: {"ansible_facts": {"clock": time.time(), **changed}})
    assert f"it returned facts that Baton's program doesn't return ({named})." in result["failure"]
    assert "ansible_facts" not in result
    # nothing is installed on it
    assert result["asked"] is False


def test_all_facts_of_the_module_are_accepted(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "broken.pem"
    path.write_text("x")
    paths = [str(path), str(tmp_path / "missing.pem")]
    facts = modules.run(host_facts, application="links", packages=True, certificates=paths)["ansible_facts"]
    assert host_answer.wrong(facts) == []
    assert facts["certificates"] == {str(path): {"begins": None, "expires": None}}
    # only a host with PostgreSQL has the last one
    assert facts.keys() | {"postgresql_max_connections"} == host_answer.FACTS.keys()


def test_process_types_that_a_change_waits_for_are_a_fact(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a type that an interrupted change has removed from the settings."""
    app = layout.Application("links", str(tmp_path))
    monkeypatch.setattr(layout, "Application", lambda _name: app)
    one = {"count": 1, "strategy": "replace", "order": "before_web", "settle_seconds": 5, "check": False}
    types = {
        "beat": one | {"stop_timeout": 600},
        "ticker": one | {"count": 0, "stop_timeout": 60},
        "worker": one | {"strategy": "overlap", "stop_timeout": 900},
    }
    kept = app.kept / "etc/links/processes.json"
    for path, names in ((kept, types), (app.process_settings, ("ticker", "worker"))):
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({name: types[name] for name in names}))
    app.record.write_text(json.dumps({"processes": {name: {} for name in types}}))
    monkeypatch.setattr(running, "alive", lambda _: [])
    facts = modules.run(host_facts, application="links")["ansible_facts"]
    assert facts["app_stop_timeouts"] == {"beat": 600, "ticker": 60}
    assert facts["app_before_web"] is True
    app.process_settings.write_text("damaged")
    facts = modules.run(host_facts, application="links")["ansible_facts"]
    assert (facts["app_stop_timeouts"], facts["app_before_web"]) == ({}, False)


@pytest.mark.parametrize(
    ("outcome", "words", "asked"),
    [
        (AnsibleConnectionFailure("ssh: connect: Connection refused"), "can't be reached: ssh: connect: ", False),
        # `failed_when` doesn't catch this exception, so the host would leave the play
        (AnsibleError("Missing sudo password"), "was reached, but can't be managed: Missing sudo password. ", False),
        (
            {"failed": True, "module_stdout": "", "module_stderr": "sudo: sorry, you must have a tty to run sudo"},
            "was reached, but can't be managed: sudo: sorry, ",
            True,
        ),
        # Ansible discovered an interpreter and reports it as a fact
        (
            {"failed": True, "msg": "no", "ansible_facts": {"discovered_interpreter_python": "/usr/bin/python3"}},
            "no",
            True,
        ),
        ({"ansible_facts": {"discovered_interpreter_python": "/usr/bin/python3"}}, "it didn't answer", True),
    ],
)
def test_host_without_an_answer_stays_in_the_play_with_a_failure(
    outcome: Any, words: str, asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def execute(*_: Any, **__: Any) -> dict[str, Any]:
        if isinstance(outcome, Exception):
            raise outcome
        return dict(outcome)

    result = answer(monkeypatch, execute)
    assert words in result["failure"]
    assert result["asked"] is asked
    assert not {"failed", "unreachable", "ansible_facts"} & result.keys()
