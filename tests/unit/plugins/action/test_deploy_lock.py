"""How the action deploy_lock reports a lock that can't be taken."""

from __future__ import annotations

import pathlib
import signal
import types
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.app.layout import Application
from ansible_collections.baton.web.plugins.module_utils.change import deploy_lock

from tests.support.playbooks import Playbooks, plugin

RUN = {"token": "b", "who": "bob@laptop", "process": ""}


def playbooks(
    tmp_path: pathlib.Path, host: str = "", *, guarded: bool = False, **options: object
) -> tuple[Playbooks, str]:
    tasks = [
        {"baton.web.deploy_lock": {"state": "held", "run": RUN, **options}, "register": "lock", "failed_when": False},
        {"ansible.builtin.debug": {"msg": "Message: {{ lock.msg | default('none') }}"}},
    ]
    return Playbooks.written(tmp_path, {"vars": {"baton_defer_interrupt": guarded}, "tasks": tasks}, host=host)


def test_unreachable_host_is_a_failure_that_the_play_survives(tmp_path: pathlib.Path) -> None:
    runner, playbook = playbooks(tmp_path, "ansible_host=127.0.0.1 ansible_port=1", name="shop")
    assert "Message: app1 can't be reached: " in runner.succeed(playbook).words


def test_waiting_for_the_lock_can_be_interrupted(tmp_path: pathlib.Path) -> None:
    app = Application(str(tmp_path / "shop"))
    app.state.mkdir(parents=True)
    # a holder on a host that may say anything
    deploy_lock.take(app, deploy_lock.Run("a", "ann@elsewhere\x1b[2J", ""), "deploy v3", 360_000)
    runner, playbook = playbooks(tmp_path, guarded=True, name=app.name, wait=360_000)
    running = runner.start(playbook)
    assert running.stdout is not None
    for line in running.stdout:
        if "waiting up to 360000 s" in line:
            assert line.endswith("for ann@elsewhere\\x1b[2J (deploy v3)\n")
            break
    running.send_signal(signal.SIGINT)
    # the lock is held for far longer than this test may take
    assert "Message: Interrupted by the operator." in " ".join(running.stdout.read().split())
    assert running.wait() == 0
    holder = deploy_lock.read(app)
    assert holder is not None
    assert holder.token == "a"


class Ended(dict[str, Any]):
    """A holder that has ended, always another one."""


@pytest.mark.parametrize("holder", [5, "x", ["x"], {}, {"token": [], "who": 5}, Ended()])
def test_any_holder_that_a_host_names_ends_the_wait(monkeypatch: pytest.MonkeyPatch, holder: object) -> None:
    lock = plugin("action/deploy_lock")
    calls: list[str] = []

    def execute(_action: Any, _variables: Any, options: dict[str, Any]) -> dict[str, Any]:
        calls.append(options.get("dead", ""))
        assert len(calls) < 100
        found = {"token": str(len(calls)), "process": "any"} if isinstance(holder, Ended) else holder
        return {"failed": True, "msg": "it is held", "holder": found}

    monkeypatch.setattr("ansible.plugins.action.ActionBase.run", lambda *_: {})
    monkeypatch.setattr(lock.action, "execute", execute)
    monkeypatch.setattr(lock.run, "ended", lambda process: process == "any")

    class Here(lock.ActionModule):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            self._task = types.SimpleNamespace(args={"state": "held"})

    assert Here().run(None, {})["msg"] == "it is held"
    assert len(calls) == (11 if isinstance(holder, Ended) else 1)
