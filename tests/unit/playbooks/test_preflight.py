"""One run names all mistakes that can be known together: first the controller's, then those of all hosts."""

from __future__ import annotations

import json
import pathlib
import time
from typing import Any

import pytest
import yaml

from tests.support.playbooks import PROJECT, Done, Playbooks
from tests.support.program import write_script

FACTS: dict[str, Any] = {
    "app_prepared": True,
    "app_release": "0123456789abcdef",
    "app_first_host": "",
    "app_foreign_units": [],
    "app_runs": [],
    "architecture": "x86_64",
    "default_ipv4": {"address": "10.0.0.1"},
    "distribution": "Debian",
    "distribution_major_version": "12",
    "distribution_version": "12.9",
    "memtotal_mb": 8192,
    "nameservers": [],
    "processor_vcpus": 2,
    "python": {"version": {"major": 3, "minor": 11, "micro": 2}},
    "service_mgr": "systemd",
}
LOST: dict[str, Any] = {}
SETTINGS: dict[str, Any] = {
    "app_name": "shop",
    "app_module": "main:app",
    "nginx_site_server_names": ["shop.example.org"],
    "ansible_become": False,
}


def preflight(
    folder: pathlib.Path, *hosts: dict[str, Any], playbook: str = "playbooks/phases/preflight.yml", **settings: object
) -> Done:
    """Check the input with hosts app1, app2, ... that have these facts."""
    (folder / "source").mkdir()
    (folder / "source/main.py").write_text("")
    members: dict[str, dict[str, Any]] = {}
    for number, facts in enumerate(hosts, 1):
        own = FACTS | {"clock": "NOW", "default_ipv4": {"address": f"10.0.0.{number}"}} | facts
        answer = folder / f"app{number}.json"
        answer.write_text(json.dumps({"changed": False, "ansible_facts": own}))
        now = f'sed "s/\\"NOW\\"/$(date +%s.%N)/" {answer}'
        python = write_script(folder / f"app{number}", f"cat > /dev/null\n{now}")
        members[f"app{number}"] = {"ansible_connection": "local", "ansible_python_interpreter": str(python)}
        if facts is LOST:
            members[f"app{number}"] = {"ansible_host": "127.0.0.1", "ansible_port": 1}
    given = SETTINGS | {"app_source": str(folder / "source")} | settings
    inventory = folder / "hosts.json"
    inventory.write_text(json.dumps({"app_servers": {"hosts": members}, "all": {"vars": given}}))
    return Playbooks(inventory).play(playbook)


def assert_refused(done: Done, *parts: str) -> None:
    assert done.status != 0
    for words in parts:
        assert words in done.words, done.output


def test_good_input_passes(tmp_path: pathlib.Path) -> None:
    first = {"clock": {"command": "clock", "hosts": "first"}}
    preflight(tmp_path, {}, {}, app_processes=first).check_status()


def test_mistakes_that_the_controller_knows_are_reported_together_before_a_host_is_contacted(
    tmp_path: pathlib.Path,
) -> None:
    given: dict[str, Any] = {"app_name": "My App", "private_address": "fd00::1", "app_servers_tls": "offered"}
    done = preflight(tmp_path, {}, {}, **given, app_service_helth_path="/", app_source="/nowhere", app_module="x:y")
    assert_refused(
        done,
        'app1, app2: app_name is "My App"',
        'app1 has the private_address "fd00::1"',
        'app2 has the private_address "fd00::1"',
        "- app_servers_tls is offered, but the group load_balancers is empty",
        "Did you mean app_service_health_path?",
        "/nowhere",
    )
    assert "Reach every host" not in done.output


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"app_source": None}, "failed: app_source is null"),
        ({"app_source": ["a"]}, 'failed: app_source is ["a"]. Give a text.'),
        ({"app_name": "{{ missing }}"}, "failed: app_name needs missing, which is not defined."),
        ({"nginx_site_server_names": None}, "failed: nginx_site_server_names is null. Give a list"),
        ({"app_servers_tls": "true"}, 'failed: app_servers_tls is "true". Set it to `disabled` or'),
        ({"deploy_batches": ["150%"]}, 'failed: deploy_batches is ["150%"].'),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_one_mistake_is_one_problem(tmp_path: pathlib.Path, given: dict[str, Any], words: str) -> None:
    done = preflight(tmp_path, {}, **given)
    assert_refused(done, words)
    assert "problems. Nothing" not in done.words


def test_change_that_excludes_all_app_servers_is_refused(tmp_path: pathlib.Path) -> None:
    """Its later plays would have no hosts, and the run would succeed."""
    preflight(tmp_path, {})
    inventory = json.loads((tmp_path / "hosts.json").read_text())
    inventory["load_balancers"] = {"hosts": {"edge1": {}}}
    (tmp_path / "hosts.json").write_text(json.dumps(inventory))
    runner = Playbooks(tmp_path / "hosts.json")
    done = runner.play("playbooks/deploy.yml", "--limit", "edge1")
    assert_refused(done, "failed: --limit excludes all app servers, so nothing would be changed. Include some of app1.")


def test_checks_of_roles_that_need_no_host_are_made_before_one_is_contacted(tmp_path: pathlib.Path) -> None:
    given: dict[str, Any] = {
        "app_module": "main.app()",
        "app_service_memory_max": "{{ '2GB' if inventory_hostname == 'app2' else '2G' }}",
        "app_service_boot_timeout": "{{ 0 }}",
        "app_processes": {"web": {"command": "x"}, "worker": {"command": "work | log"}},
        "app_schedules": {"cleanup": {"calendar": "daily"}},
        "app_config_environment": {"A-B": "1"},
        "nginx_site_client_max_body_size": "10",
        "nginx_server_directives": {"limit nofile": 1},
        "host_baseline_journal_max_use": "much",
        "host_firewall_ssh_sources": ["10.0.0.5/24"],
        "python_runtime_version": "three",
        "tls_certificate_method": "provided",
        "tls_certificate_certificate_source": "/nowhere/chain.pem",
    }
    done = preflight(tmp_path, LOST, LOST, playbook="playbooks/site.yml", **given)
    assert_refused(
        done,
        '- app1, app2: app_module is "main.app()", which isn\'t an import string.',
        '- app2: app_service_memory_max is "2GB".',
        "- app1, app2: app_service_boot_timeout is 0. Give a number from 1 to 604800.",
        "- app1, app2: app_processes.web: Baton uses the name web itself",
        "- app1, app2: app_processes.worker.command is",
        "- app1, app2: app_schedules.cleanup.command is missing or empty.",
        "- app1, app2: not names of environment variables: A-B.",
        '- app1, app2: shop: nginx_site_client_max_body_size is "10".',
        '- app1, app2: nginx_server_directives has "limit nofile"',
        '- app1, app2: host_baseline_journal_max_use is "much". Give a size such as 1G.',
        "- app1, app2: host_firewall_ssh_sources can't be used: ",
        '- app1, app2: python_runtime_version is "three"',
        "- app1, app2: the certificate or the key of shop isn't on the controller",
    )
    assert "Reach every host" not in done.output
    assert "Task failed" not in done.output


@pytest.mark.parametrize(
    ("playbook", "refused"),
    [
        ("site", ["app_module", "app_processes", "nginx_site_gzip_types"]),
        ("configure", ["app_module", "app_processes"]),
        ("rollback", ["app_processes"]),
    ],
)
def test_checks_of_roles_are_those_of_the_playbook(tmp_path: pathlib.Path, playbook: str, refused: list[str]) -> None:
    """A rollback and a restart must not depend on what they don't use."""
    given: dict[str, Any] = {"app_module": "main.app()", "app_processes": {"web": {}}, "nginx_site_gzip_types": ["a b"]}
    done = preflight(tmp_path, LOST, playbook=f"playbooks/{playbook}.yml", **given)
    assert done.status != 0
    assert "can't be reached" not in done.words
    assert [name for name in given if name in done.words] == refused


def test_setting_that_depends_on_facts_is_checked_when_they_are_known(tmp_path: pathlib.Path) -> None:
    """Until then its template may yield any default."""
    given: dict[str, Any] = {
        "mebibytes": "{{ ansible_facts['memtotal_mb'] | default(0) }}",
        "app_service_worker_memory_mb": "{{ mebibytes | int // 32 }}",
        "app_service_workers": "{{ ansible_facts['processor_vcpus'] }}",
    }
    preflight(tmp_path, {}, **given).check_status()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"app_first_host": "app9"}, 'failed: app_first_host is "app9", which is not a host of app_servers. Name one'),
        ({"rollback_to": "v1.2"}, 'failed: rollback_to is "v1.2", which isn\'t the id of a release: 16 digits and'),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_choice_that_the_controller_can_check_is_refused_before_a_host_is_contacted(
    tmp_path: pathlib.Path, given: dict[str, Any], words: str
) -> None:
    done = preflight(tmp_path, LOST, playbook="playbooks/rollback.yml", **given)
    assert_refused(done, words)
    assert "Reach every host" not in done.output


def test_misspelt_group_of_the_app_servers_is_named(tmp_path: pathlib.Path) -> None:
    preflight(tmp_path, LOST)
    inventory = json.loads((tmp_path / "hosts.json").read_text())
    inventory["App_server"] = inventory.pop("app_servers")
    inventory["databases"] = {"hosts": {"db1": {}}}
    (tmp_path / "hosts.json").write_text(json.dumps(inventory))
    done = Playbooks(tmp_path / "hosts.json").play("playbooks/deploy.yml")
    words = (
        "The inventory has no host in the group `app_servers`. Rename its group App_server to app_servers, or add the"
    )
    assert_refused(
        done, words, "groups that Baton ignores, and none in those with similar names: databases instead of p"
    )
    assert "instead of app_servers" not in done.words
    assert "Reach every host" not in done.output
    logs = Playbooks(tmp_path / "hosts.json").play("playbooks/logs.yml")
    assert_refused(logs, "has no host in app_servers. Rename its group App_server to app_servers.")


def test_mistakes_on_all_hosts_are_reported_together(tmp_path: pathlib.Path) -> None:
    # no template, and no line of the list
    unsupported = {"distribution_major_version": "10", "distribution_version": "{{ 7 * 7 }}\n- app9: x"}
    late, bare, small = {"clock": time.time() - 60}, {"app_prepared": False, "app_release": ""}, {"memtotal_mb": 100}
    given: dict[str, Any] = {
        # with facts: otherwise the controller's check refuses them
        "app_service_health_path": "{{ ansible_facts['architecture'] }}",
        "app_config_environment": {"A-B": "{{ ansible_facts['architecture'] }}"},
        "app_release_build": "{{ ansible_facts['distribution'] }}",
        "app_service_workers": 1,
        "app_service_worker_memory_mb": 256,
        "app_processes": {"clock": {"command": "clock", "hosts": "first"}},
    }
    done = preflight(tmp_path, unsupported, late, bare, small, LOST, **given)
    assert done.words.count("Nothing has been changed.") == 1
    assert_refused(
        done,
        "- app1 runs Debian {{ 7 * 7 }} - app9: x, which Baton doesn't support.",
        "- app2 has a clock that is",
        "- app5 (127.0.0.1:1, user of ssh) can't be reached: ",
        "- app3 has not been set up for shop yet.",
        '- app2, app3, app4: app_service_health_path is "x86_64", which isn\'t a path.',
        "- app4: the host has 100 MiB of memory",
        "app4: a change needs up to 512 MiB of memory",
        "- app2, app3, app4: not names of environment variables: A-B.",
        '- app2, app3, app4: app_release_build is "Debian"',
    )
    assert "\n- app9" not in done.output
    # what depends on the hosts that can't be used isn't said
    for words in ("undefined", "Task failed", "may run on", "app1, "):
        assert words not in done.words


def test_each_setting_of_a_role_is_a_problem_of_its_own(tmp_path: pathlib.Path) -> None:
    given: dict[str, Any] = {
        # with facts: otherwise the controller's check refuses them
        "app_service_boot_timeout": "{{ ansible_facts['memtotal_mb'] * 0 }}",
        "app_service_memory_max": "{{ ansible_facts['processor_vcpus'] * 256 }}",
        "app_service_allowed_addresses": ["10.0.0.0/24"],
        "app_config_environment": {"REDIS_URL": "redis://192.0.2.7/0"},
    }
    done = preflight(tmp_path, {"nameservers": ["192.0.2.53"]}, {}, **given)
    assert_refused(
        done,
        "4 problems. Nothing has been changed.",
        "- app1, app2: app_service_boot_timeout is 0. Give a number from 1 to 604800.",
        '- app1, app2: app_service_memory_max is "512".',
        "- app1: the host asks 192.0.2.53 for DNS, which isn't in app_service_allowed_addresses",
        "- app1: REDIS_URL: 192.0.2.7 isn't in app_service_allowed_addresses",
    )


@pytest.mark.parametrize("playbook", ["deploy", "site", "rollback", "restart"])
def test_list_of_problems_ends_the_run(tmp_path: pathlib.Path, playbook: str) -> None:
    """Ansible begins the other plays, in which no host is left."""
    done = preflight(tmp_path, LOST, {"memtotal_mb": 100}, playbook=f"playbooks/{playbook}.yml")
    assert done.status != 0
    _, _, after = done.output.partition("problems. Nothing has been changed.")
    assert "app1 (127.0.0.1:1" in after
    lines = [line.strip() for line in after.splitlines() if line.strip() and not line.startswith("- ")]
    assert lines[1] == "PLAY RECAP", done.output


def test_only_host_that_cannot_be_reached_is_reported(tmp_path: pathlib.Path) -> None:
    done = preflight(tmp_path, LOST)
    assert done.status != 0
    assert done.output.count("failed: app1 (127.0.0.1:1, user of ssh) can't be reached: ") == 1


def plays(playbook: pathlib.Path) -> list[dict[str, Any]]:
    """The plays of a playbook and of those that it imports, in order."""
    found: list[dict[str, Any]] = []
    for play in yaml.safe_load(playbook.read_text()):
        name = play.get("ansible.builtin.import_playbook")
        found += plays((playbook.parent / name).resolve()) if name else [play]
    return found


@pytest.mark.parametrize("name", ["site", "deploy", "configure", "restart", "rollback"])
def test_deferred_problems_are_reported_before_anything_is_changed(name: str) -> None:
    """Without the report, the run would go on in spite of them."""
    deferred = 0
    reports = ["Report the problems of all hosts"] * (2 if name == "site" else 1)
    for play in plays(PROJECT / f"playbooks/{name}.yml"):
        defers = (play.get("vars") or {}).get("baton_defer_problems", False)
        assert play.get("ignore_errors", False) is defers, play["name"]
        if defers:
            deferred += 1
        elif play["name"] == reports[0]:
            (report,) = play["tasks"]
            assert report["ansible.builtin.import_tasks"] == "../tasks/problems/report.yml"
            reports.pop(0)
            if not reports:
                break
        else:
            raise AssertionError(play["name"])
    assert deferred == (5 if name == "site" else 4)


def test_checks_have_no_rescue() -> None:
    """Ansible doesn't run it for a failure that is ignored to find more problems."""
    files = [*PROJECT.glob("roles/*/tasks/preflight*.yml"), *PROJECT.glob("playbooks/phases/preflight*.yml")]
    assert len(files) > 20
    assert [path.name for path in files if "rescue:" in path.read_text()] == []
