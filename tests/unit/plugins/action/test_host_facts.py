"""What is made of what a host says of itself: how far its clock is from the controller's, and its address."""

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
    """When a module ran, and when it looked at the clock (seconds since the epoch, by the controller's clock)."""

    began: float
    looked: float
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
    """What the action makes of a module that takes some time and answers from a clock that is so far away. Leaves the
    module's runs in `calls`."""

    def execute(*_: Any, **__: Any) -> dict[str, Any]:
        began = time.time()
        time.sleep(seconds / 2)
        looked = time.time()
        time.sleep(seconds / 2)
        calls.append(Call(began, looked, time.time()))
        if lacks and len(calls) == 1:
            return {module_cache_host.LACKING: True}
        return {"ansible_facts": {"clock": looked + offset, "default_ipv4": {"address": address}}}

    return answer(monkeypatch, execute)["ansible_facts"]


def answer(monkeypatch: pytest.MonkeyPatch, execute: Callable[..., dict[str, Any]], **variables: Any) -> Any:
    """What the action returns where the module runs like that."""
    monkeypatch.setattr("ansible.plugins.action.ActionBase.run", lambda *_: {})
    monkeypatch.setattr("ansible.plugins.action.ActionBase._execute_module", execute)
    action = plugin("action/host_facts").ActionModule
    running = object.__new__(action)
    running._task = types.SimpleNamespace(delegate_to=None, args={})
    return action.run(running, None, {"inventory_hostname": "app1", **variables})


@pytest.mark.parametrize(("offset", "seconds"), [(0, 0.4), (0.1, 0.6)])
def test_a_clock_is_right_when_the_call_explains_the_difference(
    offset: float, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert facts(monkeypatch, [], offset=offset, seconds=seconds)["clock_ahead"] == 0


@pytest.mark.parametrize("lacks", [False, True])
@pytest.mark.parametrize("offset", [3600, -3600])
def test_a_clock_is_wrong_by_what_the_call_does_not_explain(
    offset: float, lacks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Call] = []
    before = time.time()
    ahead = facts(monkeypatch, calls, offset=offset, seconds=0.2, lacks=lacks)["clock_ahead"]
    after = time.time()
    # what the host lacked and was sent before the last call explains nothing
    *others, last = calls
    assert len(others) == lacks
    earliest = others[-1].ended if others else before
    clock = last.looked + offset
    if offset > 0:
        assert clock - after <= ahead <= clock - last.ended
    else:
        assert clock - last.began <= ahead <= clock - earliest


@pytest.mark.parametrize(
    ("address", "taken"),
    [("10.0.0.21", {"address": "10.0.0.21"}), ("0.0.0.0/0", {}), ('1.2.3.4"; import os #', {}), ("fd00::1", {})],
)
def test_a_host_gives_an_address_and_nothing_else_to_the_settings_of_others(
    address: str, taken: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert facts(monkeypatch, [], address=address)["default_ipv4"] == taken


@pytest.mark.parametrize(
    ("outcome", "words", "asked"),
    [
        (AnsibleConnectionFailure("ssh: connect: Connection refused"), "can't be reached: ssh: connect: ", False),
        # raised past `failed_when`, and so the host would leave the play while the others go on
        (AnsibleError("Missing sudo password"), "was reached, but can't be managed: Missing sudo password. ", False),
        (
            {"failed": True, "module_stdout": "", "module_stderr": "sudo: sorry, you must have a tty to run sudo"},
            "was reached, but can't be managed: sudo: sorry, ",
            True,
        ),
        # Ansible has found an interpreter, and says so among facts
        (
            {"failed": True, "msg": "no", "ansible_facts": {"discovered_interpreter_python": "/usr/bin/python3"}},
            "no",
            True,
        ),
        ({"ansible_facts": {"discovered_interpreter_python": "/usr/bin/python3"}}, "it didn't answer", True),
    ],
)
def test_a_host_without_an_answer_stays_in_the_play_and_says_why(
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
