"""The check of all settings that every playbook begins with."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping

import pytest
import yaml

from tests.support.playbooks import PROJECT, Done, Playbooks


def check(folder: pathlib.Path, *hosts: Mapping[str, object], before_a_change: bool = True) -> Done:
    """Check the settings of hosts app1, app2, ...; each is given its variables."""
    tasks = [
        {
            "ansible.builtin.import_tasks": str(PROJECT / "playbooks/tasks/settings/check.yml"),
            "vars": {"baton_check_source": before_a_change},
        }
    ]
    runner, playbook = Playbooks.written(
        folder, {"tasks": tasks, "vars_files": [f"{PROJECT}/playbooks/vars/topology.yml"]}
    )
    inventory = folder / "inventory"
    (inventory / "host_vars").mkdir(parents=True)
    names = [f"app{number}" for number, _ in enumerate(hosts, 1)]
    (inventory / "hosts").write_text("\n".join(["[app_servers]", *names, ""]))
    for name, variables in zip(names, hosts, strict=True):
        (inventory / f"host_vars/{name}.json").write_text(json.dumps(variables))
    return dataclasses.replace(runner, inventory=inventory / "hosts").play(playbook)


def test_type_of_a_setting_is_checked_on_every_host(tmp_path: pathlib.Path) -> None:
    both = {"app_servers_tls_port": "https", "app_service_workers": "4"}
    done = check(tmp_path, both, {**both, "app_service_metrics": "false", "app_version": 1.10, "app_module": "a:b\n"})
    assert done.status != 0
    assert "app_servers_tls_port is https and must be a whole number from 1 to 65535." in done.words
    # one failure each; both hosts have it
    assert 'failed: app_service_workers is "4". Give a whole number from 0 to 1024' in done.words
    assert 'app2: app_service_metrics is "false". Give true or false without quotes, such as true;' in done.words
    assert 'app2: app_module is "a:b\\n", which has a line break or another control character.' in done.words
    assert "app2: app_version is 1.1, because YAML doesn't parse it as text without quotes." in done.words


def test_settings_of_their_types_are_accepted(tmp_path: pathlib.Path) -> None:
    check(tmp_path, {"app_service_workers": 4}, {"app_service_metrics": False, "app_version": "1.10"}).check_status()


def test_roles_of_the_preflight_are_checked_before_hosts_are_contacted() -> None:
    """app_account's check is a task beside; the table of services adds their roles."""
    checked = yaml.safe_load((PROJECT / "playbooks/tasks/settings/check.yml").read_text())[0]["vars"]
    named = set(re.findall(r"'(\w+)':", checked["baton_checked_roles"] + checked["baton_provisioned_roles"]))
    table = yaml.safe_load((PROJECT / "playbooks/vars/topology.yml").read_text())["baton_host_service_table"]
    with_preflight = {path.parts[-3] for path in PROJECT.glob("roles/*/tasks/preflight.yml")}
    assert named | {row["role"] for row in table} | {"app_account"} == with_preflight


def test_variable_that_begins_like_a_setting_is_reported_and_accepted(tmp_path: pathlib.Path) -> None:
    done = check(tmp_path, {"app_x": 1}, {"redis_password": "hidden", "app_x": 2}).check_status()
    assert "Baton ignores them: app_x; redis_password (app2) (similar: redis_server_password)." in done.words
    assert "hidden" not in done.words


def test_source_is_looked_up_in_the_inventorys_folder_alone(tmp_path: pathlib.Path) -> None:
    """A folder that by chance is beside the playbooks isn't the application."""
    (tmp_path / "beside_the_playbook").mkdir()
    done = check(tmp_path, {"app_source": "./beside_the_playbook"})
    assert done.status != 0
    assert f"(looked for {tmp_path}/inventory/beside_the_playbook). Correct the path" in done.words


def test_source_is_looked_up_in_the_folders_of_the_setting(tmp_path: pathlib.Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    check(tmp_path, {"app_source": "./elsewhere", "app_release_base_dirs": [str(tmp_path)]}).check_status()


def test_message_of_a_role_names_the_setting_only_in_the_playbooks(tmp_path: pathlib.Path) -> None:
    preflight = {"ansible.builtin.import_role": {"name": "baton.web.tls_certificate", "tasks_from": "preflight"}}
    wired = {"vars_files": [f"{PROJECT}/playbooks/vars/{name}.yml" for name in ("topology", "wiring")]}
    given = {"tls_certificate_names": ["two words"], "tls_certificate_name": "links"}
    runner, playbook = Playbooks.written(tmp_path, {"tasks": [{**preflight, "vars": given}]})
    assert "tls_certificate_names [two words]" in runner.play(playbook).words
    runner, playbook = Playbooks.written(tmp_path, {"tasks": [preflight], **wired})
    done = runner.play(playbook, app_name="links", nginx_site_server_names=["two words"])
    assert "tls_certificate_names (set by nginx_site_server_names) [two words]" in done.words


def test_variable_that_a_template_needs_is_named_with_the_host(tmp_path: pathlib.Path) -> None:
    """Otherwise the default would apply: no TLS, and no process types."""
    template = {"backing_services_tls": "{{ tls_mode }}", "app_service_workers": "{{ cores }}"}
    wrong = {**template, "app_processes": {"worker": {"command": "{{ worker_command }}"}}}
    done = check(tmp_path, {"cores": 2, "tls_mode": "required"}, {"cores": 2, **wrong})
    assert done.status != 0
    assert "app2: app_processes needs worker_command, which is not defined. Define it" in done.words
    assert "app2: backing_services_tls needs tls_mode, which is not defined." in done.words
    assert "app_service_workers" not in done.words
    assert "Error rendering" not in done.output


def test_settings_that_a_run_does_not_use_may_lack_their_secrets(tmp_path: pathlib.Path) -> None:
    given = {"app_name": "links", "app_config_secrets": {"A": "{{ vault_a }}"}}
    check(tmp_path, given, before_a_change=False).check_status()


def test_template_may_use_facts_that_are_not_known_yet(tmp_path: pathlib.Path) -> None:
    given = {"app_service_workers": "{{ ansible_facts['processor_vcpus'] * 2 }}", "app_port": "{{ 8000 + 1 }}"}
    check(tmp_path, given).check_status()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "The inventory lacks app_name, the name of the application. Set it for all hosts"),
        ({"app_name": "../links"}, 'app_name is "../links". It names folders, units and a user:'),
    ],
)
def test_every_playbook_needs_a_usable_name(tmp_path: pathlib.Path, given: dict[str, str], words: str) -> None:
    done = check(tmp_path, given, before_a_change=False)
    assert done.status != 0
    assert words in done.words


@pytest.mark.parametrize("name", sorted(path.stem for path in (PROJECT / "playbooks").glob("*.yml")))
def test_every_playbook_checks_the_settings(name: str) -> None:
    """At its start, or in the phase that all changes begin with."""
    first = yaml.safe_load((PROJECT / f"playbooks/{name}.yml").read_text())[0]
    checks = {"tasks/settings/check.yml", "../tasks/settings/check.yml"}
    if "tasks" in first:
        assert first["tasks"][0]["ansible.builtin.import_tasks"] in checks
    else:
        assert first["ansible.builtin.import_playbook"] == "phases/preflight.yml"
