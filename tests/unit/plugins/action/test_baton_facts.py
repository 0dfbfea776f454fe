"""What is made of what a host says of itself: how far its clock is from the controller's, and its address."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.support.playbooks import plugin


def action(offset: float, seconds: float, address: str = "10.0.0.21") -> Any:
    """The action, with a module that takes some time and answers from a clock that is so far away."""
    loaded = plugin("action/baton_facts")

    class Action(loaded.ActionModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            pass

        def _execute_module(self, **_: Any) -> dict[str, Any]:
            time.sleep(seconds / 2)
            clock = time.time() + offset
            time.sleep(seconds / 2)
            return {"ansible_facts": {"clock": clock, "default_ipv4": {"address": address}}}

    return Action()


@pytest.mark.parametrize(
    ("offset", "seconds", "least", "most"),
    [(0, 0.4, 0, 0), (60, 0.2, 59.5, 60), (-60, 0.2, -60, -59.5), (0.1, 0.6, 0, 0)],
)
def test_a_clock_is_wrong_by_what_the_call_does_not_explain(
    offset: float, seconds: float, least: float, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ansible.plugins.action.ActionBase.run", lambda *_: {})
    ahead = action(offset, seconds).run(None, {})["ansible_facts"]["clock_ahead"]
    assert least <= ahead <= most


@pytest.mark.parametrize(
    ("address", "taken"),
    [("10.0.0.21", {"address": "10.0.0.21"}), ("0.0.0.0/0", {}), ('1.2.3.4"; import os #', {}), ("fd00::1", {})],
)
def test_a_host_gives_an_address_and_nothing_else_to_the_settings_of_others(
    address: str, taken: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ansible.plugins.action.ActionBase.run", lambda *_: {})
    assert action(0, 0, address).run(None, {})["ansible_facts"]["default_ipv4"] == taken
