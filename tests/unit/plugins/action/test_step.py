"""A host that is lost in a step of a change is a failure, which is rescued: Ansible's unreachable hosts are not."""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

import pytest

from tests.support.playbooks import Playbooks

STEPS: dict[str, dict[str, Any]] = {
    "baton_files": {"files": []},
    "baton_release": {},
    "baton_rehearse": {"name": "shop"},
    "baton_activate": {"name": "shop"},
    "baton_unit": {"name": "shop-migration@aaaa.service"},
    "baton_drain": {"site": "shop", "drained": []},
    "baton_edge_log": {"edge": "edge1", "log": "/var/log/nginx/shop-access.log"},
}


@pytest.mark.parametrize("step", STEPS)
def test_a_host_that_is_lost_is_rescued(step: str, tmp_path: pathlib.Path) -> None:
    hosts, playbook = tmp_path / "hosts", tmp_path / "play.yml"
    hosts.write_text(f"app1 ansible_host=127.0.0.1 ansible_port=1 ansible_python_interpreter={sys.executable}\n")
    rescue = {"ansible.builtin.debug": {"msg": "Noted: {{ ansible_failed_result.msg }}"}}
    tasks = [{"block": [{step: STEPS[step]}], "rescue": [rescue]}]
    playbook.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": tasks}]))
    assert "Noted: app1 can't be reached: " in Playbooks(hosts).succeed(str(playbook)).words
