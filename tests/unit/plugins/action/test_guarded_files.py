"""A change is confirmed only over a new connection; the message if none can be made."""

from __future__ import annotations

import types
from typing import Any

import pytest
from ansible.errors import AnsibleConnectionFailure

from tests.support.playbooks import plugin

TIMED_OUT = AnsibleConnectionFailure("ssh: connect to host app1 port 22: Connection timed out")


class Fleet:
    """Returns these answers, one for each call; an exception is a connection that fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: Any, check_mode: bool = False) -> None:
        self.calls: list[str] = []
        self.arguments: list[dict[str, Any]] = []
        left = list(answers)
        action = plugin("action/guarded_files")
        monkeypatch.setattr("ansible.plugins.action.ActionBase.run", lambda *_: {})
        monkeypatch.setattr(action, "POLL", 0.0)
        monkeypatch.setattr(action, "GRACE", 0.0 if answers[-1] is TIMED_OUT else 3600.0)

        def reset() -> None:
            self.calls.append("reset")

        def execute(_: Any, module_args: dict[str, Any], **__: Any) -> dict[str, Any]:
            self.calls.append(module_args.get("state", "present"))
            self.arguments.append(module_args)
            answer = left.pop(0) if len(left) > 1 or left[0] is not TIMED_OUT else left[0]
            if isinstance(answer, Exception):
                raise answer
            return dict(answer)

        class Here(action.ActionModule):  # type: ignore[misc,name-defined]
            _execute_module = execute

            def __init__(self) -> None:
                self._connection = types.SimpleNamespace(reset=reset, transport="ssh")
                given = {"name": "firewall", "seconds": 0 if answers[-1] is TIMED_OUT else 60, "advice": "Do this."}
                self._task = types.SimpleNamespace(args=given, check_mode=check_mode, delegate_to=None)

        self.result = Here().run(None, {"inventory_hostname": "app1"})


def test_unchanged_host_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(monkeypatch, {"changed": False})
    assert fleet.calls == ["present"]
    assert fleet.result == {"changed": False}


def test_check_mode_confirms_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Fleet(monkeypatch, {"changed": True}, check_mode=True).calls == ["present"]


def test_change_is_confirmed_over_a_new_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    same = {"outcome": "pending", "why": "the connection is still the one of before"}
    fleet = Fleet(monkeypatch, {"changed": True}, TIMED_OUT, same, {"outcome": "confirmed"})
    assert fleet.calls == ["present", *["reset", "confirmed"] * 3]
    assert fleet.result == {"changed": True}
    assert len({arguments["token"] for arguments in fleet.arguments}) == 1


def test_change_that_blocks_ssh_is_reported_with_host_cause_and_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    undoing = {"outcome": "pending", "why": "what was there before is being put back"}
    fleet = Fleet(monkeypatch, {"changed": True}, TIMED_OUT, TIMED_OUT, undoing, {"outcome": "undone"})
    assert fleet.result == {
        "failed": True,
        "msg": "app1: after the change of the firewall configuration no new connection could be made within 60 s, so "
        "the host has restored the former one. Cause: ssh: connect to host app1 port 22: Connection timed out. "
        "Do this.",
    }


def test_host_that_stays_unreachable_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.monotonic", iter(range(100)).__next__)
    fleet = Fleet(monkeypatch, {"changed": True}, TIMED_OUT)
    assert "and still can't be" in fleet.result["msg"]


def test_host_lost_during_the_change_is_reported_as_reverting(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(monkeypatch, AnsibleConnectionFailure("ssh: Broken pipe"))
    assert fleet.result["lost"]
    assert fleet.result["msg"].startswith("app1 can't be reached: ssh: Broken pipe.")
    assert fleet.result["msg"].endswith("the host reverts it within 60 s. Do this.")


def test_refused_change_is_not_confirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(monkeypatch, {"failed": True, "changed": False, "msg": "line 3: no"})
    assert fleet.calls == ["present"]
    assert fleet.result["msg"] == "app1: the firewall configuration can't be changed: line 3: no"
