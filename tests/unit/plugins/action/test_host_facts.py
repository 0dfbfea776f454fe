"""What is made of what a host says of itself: how far its clock is from the controller's, and its address."""

from __future__ import annotations

import time
import types
from collections.abc import Callable
from typing import Any

import pytest
from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible_collections.baton.web.plugins.module_utils.controller import module_cache_host

from tests.support.playbooks import plugin


def facts(
    monkeypatch: pytest.MonkeyPatch,
    *,
    offset: float = 0,
    seconds: float = 0,
    address: str = "10.0.0.21",
    lacks: bool = False,
) -> Any:
    """What the action makes of a module that takes some time and answers from a clock that is so far away."""
    calls = iter([lacks, False])

    def execute(*_: Any, **__: Any) -> dict[str, Any]:
        time.sleep(seconds / 2)
        clock = time.time() + offset
        time.sleep(seconds / 2)
        if next(calls):
            return {module_cache_host.LACKING: True}
        return {"ansible_facts": {"clock": clock, "default_ipv4": {"address": address}}}

    return answer(monkeypatch, execute)["ansible_facts"]


def answer(monkeypatch: pytest.MonkeyPatch, execute: Callable[..., dict[str, Any]], **variables: Any) -> Any:
    """What the action returns where the module runs like that."""
    monkeypatch.setattr("ansible.plugins.action.ActionBase.run", lambda *_: {})
    monkeypatch.setattr("ansible.plugins.action.ActionBase._execute_module", execute)
    action = plugin("action/host_facts").ActionModule
    running = object.__new__(action)
    running._task = types.SimpleNamespace(delegate_to=None, args={})
    return action.run(running, None, {"inventory_hostname": "app1", **variables})


@pytest.mark.parametrize(
    ("offset", "seconds", "lacks", "least", "most"),
    [
        (0, 0.4, False, 0, 0),
        (60, 0.2, False, 59.5, 60),
        (-60, 0.2, False, -60, -59.5),
        (0.1, 0.6, False, 0, 0),
        # what the host lacked and was sent then explains nothing
        (-1, 0.4, True, -1, -0.7),
    ],
)
def test_a_clock_is_wrong_by_what_the_call_does_not_explain(
    offset: float, seconds: float, lacks: bool, least: float, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = facts(monkeypatch, offset=offset, seconds=seconds, lacks=lacks)["clock_ahead"]
    assert least <= ahead <= most


@pytest.mark.parametrize(
    ("address", "taken"),
    [("10.0.0.21", {"address": "10.0.0.21"}), ("0.0.0.0/0", {}), ('1.2.3.4"; import os #', {}), ("fd00::1", {})],
)
def test_a_host_gives_an_address_and_nothing_else_to_the_settings_of_others(
    address: str, taken: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert facts(monkeypatch, address=address)["default_ipv4"] == taken


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
        ({"ansible_facts": {"discovered_interpreter_python": "/usr/bin/python3"}}, "it gave no answer", True),
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
