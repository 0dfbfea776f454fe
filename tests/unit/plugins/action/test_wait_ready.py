"""The action waits for a host that can't be reached yet, for example after a reboot."""

from __future__ import annotations

import types
from typing import Any

import pytest

from tests.support.playbooks import plugin

LOST = {"failed": True, "lost": True, "msg": "app1 can't be reached"}


@pytest.mark.parametrize(("timeout", "expected"), [(60, {"changed": False, "seconds": 0.1}), (0, LOST)])
def test_host_is_asked_until_it_answers_or_the_timeout_ends(
    timeout: int, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    action = plugin("action/wait_ready")
    answers = [LOST, LOST, {"changed": False, "seconds": 0.1}]
    monkeypatch.setattr("ansible.plugins.action.ActionBase.run", lambda *_: {})
    monkeypatch.setattr(action.action, "execute", lambda *_: answers.pop(0))
    monkeypatch.setattr(action, "POLL", 0.01)

    class Here(action.ActionModule):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            self._task = types.SimpleNamespace(args={"timeout": timeout})

    assert Here().run(None, {}) == expected
