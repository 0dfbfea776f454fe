"""Values derived from a host's answer: the offset of its clock, and its address."""

from __future__ import annotations

import dataclasses
import time
import types
from collections.abc import Callable
from typing import Any

import pytest
from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible_collections.baton.web.plugins.module_utils.controller import module_cache_host

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
    address: str = "10.0.0.21",
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
        return {"ansible_facts": {"clock": read + offset, "default_ipv4": {"address": address}}}

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
    ("address", "expected"),
    [("10.0.0.21", {"address": "10.0.0.21"}), ("0.0.0.0/0", {}), ('1.2.3.4"; import os #', {}), ("fd00::1", {})],
)
def test_only_a_valid_ipv4_address_of_a_host_is_used(
    address: str, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert facts(monkeypatch, [], address=address)["default_ipv4"] == expected


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
