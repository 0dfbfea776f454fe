"""A host that is lost in a step of a change is a failure that can be rescued, unlike Ansible's unreachable hosts."""

from __future__ import annotations

import pathlib
import sys
from typing import Any

import pytest

from tests.support.playbooks import Playbooks
from tests.support.program import write_script

STEPS: dict[str, dict[str, Any]] = {
    "baton.web.files": {"files": []},
    "baton.web.guarded_files": {"name": "firewall"},
    "baton.web.release": {"artifact": {"source": {"path": "/nowhere"}}},
    "baton.web.rehearse": {"name": "shop"},
    "baton.web.activate": {"name": "shop"},
    "baton.web.unit": {"name": "shop-migration@aaaa.service", "application": "shop"},
    "baton.web.drain": {"site": "shop"},
    "baton.web.wait_ready": {"timeout": 1},
    "baton.web.upkeep_info": {},
    "baton.web.edge_log_info": {"edge": "edge1", "log": "/var/log/nginx/shop-access.log"},
}


@pytest.mark.parametrize("step", STEPS)
def test_unreachable_host_is_rescued(step: str, tmp_path: pathlib.Path) -> None:
    rescue = {"ansible.builtin.debug": {"msg": "Noted: {{ ansible_failed_result.msg }}"}}
    tasks = [{"block": [{step: STEPS[step]}], "rescue": [rescue]}]
    runner, playbook = Playbooks.written(tmp_path, {"tasks": tasks}, host="ansible_host=127.0.0.1 ansible_port=1")
    assert "Noted: app1 can't be reached: " in runner.succeed(playbook).words


DELEGATED = {
    "baton.web.deploy_lock": {"name": "shop", "state": "held", "run": {"token": "a", "who": "b"}},
    **{
        name: STEPS[name]
        for name in ("baton.web.drain", "baton.web.unit", "baton.web.upkeep_info", "baton.web.edge_log_info")
    },
}


@pytest.mark.parametrize("step", DELEGATED)
def test_failure_names_the_host_that_the_task_was_delegated_to(step: str, tmp_path: pathlib.Path) -> None:
    task = {step: {**DELEGATED[step], "unknown": 1}, "delegate_to": "{{ item }}", "loop": ["edge1"]}
    runner, playbook = Playbooks.written(tmp_path, {"tasks": [task]})
    here = f"ansible_connection=local ansible_python_interpreter={sys.executable}"
    runner.inventory.write_text(f"app1 {here}\n[edges]\nedge1 {here}\n")
    done = runner.play(playbook, "--limit", "app1")
    assert "failed: [app1 -> edge1] edge1: Unsupported parameters" in done.words


@pytest.mark.parametrize("step", STEPS)
def test_host_whose_sudo_fails_is_rescued(step: str, tmp_path: pathlib.Path) -> None:
    rescue = {"ansible.builtin.debug": {"msg": "Noted: {{ ansible_failed_result.msg }}"}}
    tasks = [{"block": [{step: STEPS[step]}], "rescue": [rescue]}]
    sudo = write_script(tmp_path / "sudo", "echo 'sudo: sorry, you must have a tty to run sudo' >&2; exit 1")
    host = f"ansible_connection=local ansible_become=true ansible_become_exe={sudo} ansible_become_user=nobody"
    runner, playbook = Playbooks.written(tmp_path, {"tasks": tasks}, host=host)
    words = runner.succeed(playbook).words
    _, noted, message = words.partition("Noted: app1 was reached, but can't be managed: ")
    assert noted, words
    assert "you must have a tty" in message
    assert "requiretty" in message


@pytest.mark.parametrize("step", ["baton.web.drain", "baton.web.edge_log_info"])
def test_unreachable_edge_is_a_warning_if_optional(step: str, tmp_path: pathlib.Path) -> None:
    tasks = [
        {step: {**STEPS[step], "optional": True}, "register": "result"},
        {"ansible.builtin.assert": {"that": "result.unreached"}},
    ]
    runner, playbook = Playbooks.written(tmp_path, {"tasks": tasks}, host="ansible_host=127.0.0.1 ansible_port=1")
    words = runner.succeed(playbook).words
    assert "WARNING" in words
    assert "app1 can't be reached: " in words
    assert "The run goes on without it." in words
