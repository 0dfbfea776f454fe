"""The check of all settings that every playbook begins with."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping

from tests.support.playbooks import PROJECT, Done, Playbooks


def check(folder: pathlib.Path, *hosts: Mapping[str, object]) -> Done:
    """Check the settings of hosts app1, app2, ...; each is given its variables."""
    tasks = [
        {
            "ansible.builtin.import_tasks": str(PROJECT / "playbooks/tasks/settings/check.yml"),
            "vars": {"baton_check_source": True},
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
