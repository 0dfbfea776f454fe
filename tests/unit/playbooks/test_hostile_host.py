"""A host that was taken over says what it likes: it is no setting, no template, and nothing that a terminal obeys."""

from __future__ import annotations

import json
import pathlib

import pytest

from tests.support.playbooks import PROJECT, Playbooks

SAID = "{{ 7 * 7 }}\x1b]52;c;eA==\x07"
SPELLED = r"{{ 7 * 7 }}\x1b]52;c;eA==\x07"


@pytest.fixture(params=["ansible.cfg", "inventories/example/ansible.cfg"])
def environment(request: pytest.FixtureRequest) -> dict[str, str]:
    return {
        "ANSIBLE_CONFIG": str(PROJECT / request.param),
        "ANSIBLE_COLLECTIONS_PATH": str(PROJECT / "collections"),
    }


@pytest.fixture
def taken_over(tmp_path: pathlib.Path) -> str:
    """The variables of a host that has one answer to every module."""
    facts = {
        "app_source": "/theirs",
        "distribution": SAID,
        "distribution_version": SAID,
        "distribution_major_version": SAID,
        "clock": 0,
    }
    answer = {"changed": False, "msg": SAID, "warnings": [SAID], "ansible_facts": {**facts, "ansible_port": 23}}
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\ncat > /dev/null\ncat {tmp_path}/answer\n")
    python.chmod(0o755)
    (tmp_path / "answer").write_text(json.dumps(answer))
    return f"ansible_connection=local ansible_python_interpreter={python} app_source=ours ansible_port=22"


def test_a_host_replaces_no_setting_and_nothing_that_it_says_is_a_template(
    tmp_path: pathlib.Path, environment: dict[str, str], taken_over: str
) -> None:
    name = "{{ ansible_facts.distribution }}"
    tasks = [
        {"baton.web.host_facts": {}},
        {"ansible.builtin.command": "true", "register": "said"},
        {"ansible.builtin.set_fact": {"noted": f"{name} {{{{ said.msg }}}}", "listed": ["{{ said.msg }}"]}},
        {"ansible.builtin.debug": {"msg": "{{ app_source }}:{{ ansible_port }}"}},
        {"ansible.builtin.debug": {"msg": "{{ [noted, hostvars.app1.noted, listed | first, said | to_json] | join }}"}},
        {"ansible.builtin.assert": {"that": "said.msg == ''", "fail_msg": f"{name} {{{{ noted }}}}"}},
    ]
    runner, playbook = Playbooks.written(tmp_path, {"tasks": tasks}, host=taken_over, environment=environment)
    done = runner.play(playbook)
    assert "ours:22" in done.output.splitlines()
    assert f"failed: [app1] {SPELLED} {SPELLED} {SPELLED}" in done.output
    assert "49" not in done.output
    assert not {"\x1b", "\x07"} & set(done.output)


def test_preflight_takes_what_a_host_is_for_a_text(
    tmp_path: pathlib.Path, environment: dict[str, str], taken_over: str
) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours/main.py").write_text("")
    runner, _ = Playbooks.written(tmp_path, host=taken_over, environment=environment)
    names = {"app_name": "shop", "app_module": "main:app", "nginx_site_server_names": ["shop.example.org"]}
    runner.inventory.write_text(f"[app_servers]\n{runner.inventory.read_text()}".replace("=ours", "=./ours"))
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars/all.json").write_text(json.dumps(names))
    done = runner.play("playbooks/phases/preflight.yml", baton_provision=True)
    assert f"failed: [app1] app1 runs {SPELLED} {SPELLED}, which Baton doesn't support." in done.words
    assert "49" not in done.output
    assert not {"\x1b", "\x07"} & set(done.output)


def test_a_configuration_by_which_hosts_replace_settings_is_refused(tmp_path: pathlib.Path) -> None:
    tasks = [{"ansible.builtin.import_tasks": str(PROJECT / "playbooks/tasks/settings/check.yml")}]
    runner, playbook = Playbooks.written(tmp_path, {"tasks": tasks}, environment={"ANSIBLE_INJECT_FACT_VARS": "true"})
    assert (
        "Put `inject_facts_as_vars = False` into the section [defaults] of your ansible.cfg"
        in runner.play(playbook).words
    )
