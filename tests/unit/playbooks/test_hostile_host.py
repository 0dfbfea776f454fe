"""Answers of a compromised host: they are no settings, no templates and no terminal control sequences."""

from __future__ import annotations

import json
import pathlib

import pytest

from tests.support.playbooks import PROJECT, Playbooks
from tests.support.program import write_script

TEXT = "{{ 7 * 7 }}\x1b]52;c;eA==\x07"
ESCAPED = r"{{ 7 * 7 }}\x1b]52;c;eA==\x07"


@pytest.fixture(params=["ansible.cfg", "inventories/example/ansible.cfg"])
def environment(request: pytest.FixtureRequest) -> dict[str, str]:
    return {
        "ANSIBLE_CONFIG": str(PROJECT / request.param),
        "ANSIBLE_COLLECTIONS_PATH": str(PROJECT / "collections"),
    }


@pytest.fixture
def compromised(tmp_path: pathlib.Path) -> str:
    """Variables of a host that gives the same answer to every module."""
    facts = {
        "app_source": "/theirs",
        "distribution": TEXT,
        "distribution_version": TEXT,
        "distribution_major_version": TEXT,
        "clock": 0,
    }
    answer = {"changed": False, "msg": TEXT, "warnings": [TEXT], "ansible_facts": {**facts, "ansible_port": 23}}
    python = write_script(tmp_path / "python", f"cat > /dev/null\ncat {tmp_path}/answer")
    (tmp_path / "answer").write_text(json.dumps(answer))
    return f"ansible_connection=local ansible_python_interpreter={python} app_source=ours ansible_port=22"


def test_host_answers_replace_no_setting_and_are_not_templated(
    tmp_path: pathlib.Path, environment: dict[str, str], compromised: str
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
    runner, playbook = Playbooks.written(tmp_path, {"tasks": tasks}, host=compromised, environment=environment)
    done = runner.play(playbook)
    assert "ours:22" in done.output.splitlines()
    assert f"failed: [app1] {ESCAPED} {ESCAPED} {ESCAPED}" in done.output
    assert "49" not in done.output
    assert not {"\x1b", "\x07"} & set(done.output)


@pytest.mark.parametrize(
    "wrong", [{"ansible_facts": 5}, {"ansible_facts": ["clock"]}, {"stderr": 5}, {"stdout": ["x"]}]
)
def test_answer_of_another_type_is_a_failure_with_its_cause(
    tmp_path: pathlib.Path, environment: dict[str, str], wrong: dict[str, object]
) -> None:
    (tmp_path / "answer").write_text(json.dumps({"changed": False, **wrong}))
    python = write_script(tmp_path / "python", f"cat > /dev/null\ncat {tmp_path}/answer")
    host = f"ansible_connection=local ansible_python_interpreter={python}"
    tasks = [
        {"baton.web.host_facts": {}, "register": "found"},
        {"ansible.builtin.debug": {"msg": "asked: {{ found.failure }}"}},
        *({module: options, "ignore_errors": True} for module, options in DIRECT.items()),
    ]
    runner, playbook = Playbooks.written(tmp_path, {"tasks": tasks}, host=host, environment=environment)
    done = runner.play(playbook)
    assert "asked: app1 returned what Baton's program doesn't return" in done.output
    assert done.output.count("app1 returned what Baton's program doesn't return") == 1 + len(DIRECT), done.output


# modules that actions run each in their own way
DIRECT: dict[str, dict[str, object]] = {
    "baton.web.unit": {"name": "x.service", "application": "x"},
    "baton.web.activate": {"name": "x", "state": "reverted"},
    "baton.web.logs_info": {"name": "x"},
    "baton.web.guarded_files": {"name": "x", "files": []},
    "baton.web.finish": {"name": "x", "run": {}},
    "baton.web.packages": {"name": ["x"]},
}


def test_result_that_is_too_large_is_not_read(tmp_path: pathlib.Path, environment: dict[str, str]) -> None:
    python = write_script(tmp_path / "python", 'cat > /dev/null\nprintf \'{"x": "\'\nhead -c 17000000 /dev/zero')
    host = f"ansible_connection=local ansible_python_interpreter={python}"
    tasks = [{"baton.web.unit": {"name": "x.service", "application": "x"}}]
    runner, playbook = Playbooks.written(tmp_path, {"tasks": tasks}, host=host, environment=environment)
    assert "failed: [app1] app1 returned 16.2 MiB for baton.web.unit, more than 16 MiB." in runner.play(playbook).words


def test_preflight_treats_host_facts_as_text(
    tmp_path: pathlib.Path, environment: dict[str, str], compromised: str
) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours/main.py").write_text("")
    runner, _ = Playbooks.written(tmp_path, host=compromised, environment=environment)
    names = {"app_name": "shop", "app_module": "main:app", "nginx_site_server_names": ["shop.example.org"]}
    runner.inventory.write_text(f"[app_servers]\n{runner.inventory.read_text()}".replace("=ours", "=./ours"))
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars/all.json").write_text(json.dumps(names))
    done = runner.play("playbooks/phases/preflight.yml")
    assert f"failed: app1 runs {ESCAPED} {ESCAPED}, which Baton doesn't support." in done.words
    assert "49" not in done.output
    assert not {"\x1b", "\x07"} & set(done.output)


def test_injected_facts_are_refused(tmp_path: pathlib.Path) -> None:
    tasks = [{"ansible.builtin.import_tasks": str(PROJECT / "playbooks/tasks/settings/check.yml")}]
    runner, playbook = Playbooks.written(tmp_path, {"tasks": tasks}, environment={"ANSIBLE_INJECT_FACT_VARS": "true"})
    assert (
        "Put `inject_facts_as_vars = False` into the section [defaults] of your ansible.cfg"
        in runner.play(playbook).words
    )


@pytest.mark.parametrize("playbook", ["phases/preflight.yml", "tasks/addresses/resolve.yml"])
def test_host_that_claims_the_address_of_another_is_refused(tmp_path: pathlib.Path, playbook: str) -> None:
    tasks = {"tasks": [{"ansible.builtin.import_tasks": f"{PROJECT}/playbooks/{playbook}"}]}
    runner, written = Playbooks.written(tmp_path, tasks)
    facts = {
        "clock": "NOW",
        "distribution": "Debian",
        "distribution_version": "12",
        "distribution_major_version": "12",
    }
    hosts: dict[str, dict[str, str]] = {"app1": {}, "app2": {}, "app3": {"private_address": "10.0.0.3"}}
    for host, variables in hosts.items():
        address = {"address": "10.0.0.9" if host == "app3" else "10.0.0.1"}
        answer = {"changed": False, "ansible_facts": {**facts, "app_prepared": True, "default_ipv4": address}}
        (tmp_path / f"{host}.json").write_text(json.dumps(answer))
        now = f'sed "s/\\"NOW\\"/$(date +%s.%N)/" {tmp_path}/{host}.json'
        python = write_script(tmp_path / host, f"cat > /dev/null\n{now}")
        variables |= {"ansible_connection": "local", "ansible_python_interpreter": str(python)}
    names = {"app_name": "shop", "app_module": "main:app", "nginx_site_server_names": ["shop.example.org"]}
    (tmp_path / "source").mkdir()
    (tmp_path / "source/main.py").write_text("")
    settings = names | {"app_source": str(tmp_path / "source"), "ansible_become": False}
    runner.inventory.write_text(json.dumps({"app_servers": {"hosts": hosts}, "all": {"vars": settings}}))
    done = runner.play(f"playbooks/{playbook}" if "phases" in playbook else written)
    assert done.status != 0
    for words in ("app1 and app2 have the same address 10.0.0.1", "Set private_address for each of these hosts"):
        assert words in done.words
    assert "app3" not in done.output.partition("PLAY RECAP")[0].partition("same address")[2]
