"""How long the action deploy_lock waits for a lock, and which holders it takes it from."""

from __future__ import annotations

import types
from typing import Any

import pytest

from tests.support.clock import Clock
from tests.support.playbooks import plugin

HOLDER = {"token": "a", "process": "alive", "who": "ann", "reason": "r"}
HELD = {"failed": True, "msg": "it is held", "holder": HOLDER}
TAKEN = {"changed": True}


class Lock:
    """The action on a host that gives these answers; the last one is repeated."""

    def __init__(self, patch: pytest.MonkeyPatch, *answers: dict[str, Any]) -> None:
        module = plugin("action/deploy_lock")
        self.answers, self.calls, self.told = list(answers), list[dict[str, Any]](), list[str]()
        self.clock = Clock(now=0.0)
        patch.setattr("ansible.plugins.action.ActionBase.run", lambda *_: {"mine": 1})
        patch.setattr(module.action, "execute", self._answer)
        patch.setattr(module.action, "host_of", lambda *_: "app1")
        patch.setattr(module.action, "tell", self.told.append)
        patch.setattr(module.run, "ended", lambda process: process == "ended")
        patch.setattr(module, "time", self.clock)

        class Here(module.ActionModule):  # type: ignore[misc,name-defined]
            def __init__(self, **given: Any) -> None:
                self._task = types.SimpleNamespace(args=given)

        self._action = Here

    def _answer(self, _action: Any, _variables: Any, options: dict[str, Any]) -> dict[str, Any]:
        self.calls.append(dict(options))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def run(self, **given: Any) -> dict[str, Any]:
        result: dict[str, Any] = self._action(**{"state": "held", **given}).run(None, {})
        return result


def test_free_lock_is_taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lock = Lock(monkeypatch, TAKEN)
    assert lock.run(wait=60) == {"mine": 1, **TAKEN}
    assert (len(lock.calls), lock.clock.pauses, lock.told) == (1, [], [])


def test_held_lock_is_not_waited_for_without_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    lock = Lock(monkeypatch, HELD)
    assert lock.run() == {"mine": 1, **HELD}
    assert (len(lock.calls), lock.clock.pauses, lock.told) == (1, [], [])


def test_held_lock_is_waited_for_until_it_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    lock = Lock(monkeypatch, HELD, HELD, TAKEN)
    assert lock.run(wait=60)["changed"]
    assert lock.clock.pauses == [2, 2]
    # once
    assert lock.told == ["  app1: waiting up to 60 s for ann (r)"]


def test_wait_ends_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    lock = Lock(monkeypatch, HELD)
    assert lock.run(wait="5")["msg"] == "it is held"
    assert lock.clock.pauses == [2, 2, 1]
    assert len(lock.calls) == 4


def test_lock_of_an_ended_run_of_this_controller_is_replaced_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    dead = {**HELD, "holder": {**HOLDER, "token": "x", "process": "ended"}}
    lock = Lock(monkeypatch, dead, TAKEN)
    assert lock.run(wait=60)["changed"]
    assert [call.get("dead") for call in lock.calls] == [None, "x"]
    assert lock.clock.pauses == []
    # a host that keeps naming it isn't asked forever
    lock = Lock(monkeypatch, dead)
    assert lock.run()["msg"] == "it is held"
    assert len(lock.calls) == 2


@pytest.mark.parametrize(("state", "calls"), [("held", 0), ("released", 1)])
def test_interrupt_prevents_only_the_taking(monkeypatch: pytest.MonkeyPatch, state: str, calls: int) -> None:
    lock = Lock(monkeypatch, TAKEN)
    monkeypatch.setattr(plugin("action/deploy_lock").action, "interrupted", lambda: True)
    assert bool(lock.run(state=state).get("failed")) is (calls == 0)
    assert len(lock.calls) == calls
