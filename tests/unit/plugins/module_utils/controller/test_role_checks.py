"""The checks of the roles, evaluated on the controller as far as the settings decide them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.controller import role_checks

from tests.support.playbooks import PROJECT
from tests.support.rendered import LEAST
from tests.unit.roles.conftest import HOST, Role, trusted

ROLES = sorted(path.parts[-3] for path in PROJECT.glob("roles/*/tasks/preflight.yml"))
WITHOUT_FACTS = {name: value for name, value in HOST.items() if name != "ansible_facts"} | {
    "groups": {"all": ["edge1"]}
}
TASKS = """
- name: Check
  ansible.builtin.assert:
    that: __x_objections | length == 0
    fail_msg: "{{ [inventory_hostname ~ ': '] | product(__x_objections) | map('join') }}"
  vars:
    __x_objections: "{{ __x_checks | rejectattr('good') | map(attribute='message') | list }}"
    __x_checks:
      - {good: "{{ x_size > 1 }}", message: "x_size is {{ x_size }}"}
      - {good: "{{ ansible_facts['memory'] > x_size }}", message: "too little memory"}
- name: Read
  ansible.builtin.command: id
  register: __x_login
- name: Check the login
  ansible.builtin.assert: {that: "__x_login.stdout != 'root'", fail_msg: root}
- name: Check more
  ansible.builtin.include_tasks: preflight_{{ x_kind }}.yml
  when: x_kind != ''
"""
KIND = """
- name: Check the name
  ansible.builtin.assert:
    that: ["x_name is match('a')", "__x_login.rc == 0"]
    fail_msg: "{{ role_path }}: {{ x_name }}"
"""


@pytest.fixture
def failing(tmp_path: Any) -> Callable[..., list[str]]:
    """The messages of a role x for a host with these variables."""
    files = {"preflight": TASKS, "preflight_one": KIND}
    (tmp_path / "x/tasks").mkdir(parents=True)
    (tmp_path / "x/defaults").mkdir()
    for name, text in files.items():
        (tmp_path / f"x/tasks/{name}.yml").write_text(text)
    (tmp_path / "x/defaults/main.yml").write_text("x_size: 5\nx_kind: ''\nx_name: a\n")
    (tmp_path / "wired.yml").write_text("x_name: '{{ name }}'\n")
    checks = role_checks.Checks(tmp_path, [tmp_path / "wired.yml"])
    return lambda **given: checks.failing("x", trusted({"inventory_hostname": "app1", **given}), {})


def test_checks_that_need_the_host_are_left_out(failing: Callable[..., list[str]]) -> None:
    assert failing() == []
    assert failing(x_size=1) == ["app1: x_size is 1"]
    # an indirect setting
    assert failing(x_size="{{ size }}", size="{{ 0 }}") == ["app1: x_size is 0"]
    assert failing(x_size="{{ size }}") == []


def test_value_that_depends_on_facts_is_left_out_also_with_a_default(failing: Callable[..., list[str]]) -> None:
    of_facts = "{{ ansible_facts['memory'] | default(0) }}"
    assert failing(x_size=of_facts) == failing(x_size="{{ size }}", size=of_facts) == []


def test_facts_and_results_of_an_earlier_run_are_not_used(failing: Callable[..., list[str]]) -> None:
    assert failing(ansible_facts={"memory": 0}, __x_login={"stdout": "root"}) == []


def test_included_tasks_are_evaluated_with_the_variables_of_the_playbooks(
    failing: Callable[..., list[str]], tmp_path: Any
) -> None:
    assert failing(x_kind="one", name="a") == failing(name="b") == failing(x_kind="one") == []
    assert failing(x_kind="one", name="b") == [f"{tmp_path}/x: b"]


@pytest.mark.parametrize("name", ROLES)
def test_usual_settings_pass_without_facts(name: str) -> None:
    checks = role_checks.Checks(PROJECT / "roles", [])
    given = {name: value for name, value in LEAST.items() if not name.startswith("__")}
    passing = {"app_module": "main:app", "tls_certificate_ca_directory": "/nonexistent"}
    assert checks.failing(name, trusted(WITHOUT_FACTS | given | passing), {}) == []


@pytest.mark.parametrize(
    ("role", "given", "file"),
    [
        ("nginx_site", {"nginx_site_client_max_body_size": "10"}, "preflight"),
        ("nginx_site", {"nginx_site_removed_headers": ["a b"]}, "preflight_identity"),
        ("app_service", {"app_service_health_path": "x"}, "preflight"),
        ("app_service", {"app_processes": {"web": {}}}, "preflight"),
        ("postgresql_server", {"postgresql_server_directives": {"a": 1}}, "preflight"),
        ("tls_certificate", {"tls_certificate_names": []}, "preflight"),
    ],
)
def test_message_is_that_of_the_preflight(role: str, given: dict[str, Any], file: str) -> None:
    settings = {**LEAST, **given}
    found = role_checks.Checks(PROJECT / "roles", []).failing(role, trusted({**WITHOUT_FACTS, **settings}), {})
    assert found == Role(role).refusals(f"tasks/{file}.yml", **settings)
    assert len(found) == 1
