"""The conditions of the playbooks: the roles that each host gets, and the hosts that a failure or interrupt stops."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from tests.support.playbooks import PROJECT

FLEET = {
    "app_servers": ["app1", "app2"],
    "load_balancers": ["edge1"],
    "postgresql_servers": ["data1"],
    "redis_servers": ["data1"],
}
LOADER = DataLoader()
LOADER.set_basedir(str(PROJECT))


def load(file: str) -> Any:
    return LOADER.load_from_file(str(PROJECT / "playbooks" / file), trusted_as_template=True)


def templar(host: str, groups: dict[str, list[str]], **given: Any) -> Templar:
    """The variables of a host, as a play has them."""
    facts = {
        "inventory_hostname": host,
        "app_name": "links",
        "groups": {**groups, "all": sorted({name for members in groups.values() for name in members})},
        "group_names": [name for name, members in groups.items() if host in members],
        "hostvars": {},
        "baton_address": "10.0.0.1",
        "ansible_check_mode": False,
        "ansible_facts": {"app_transport": {"takes_tls": False}},
    }
    return Templar(loader=LOADER, variables={**load("vars/topology.yml"), **facts, **given})


def due(tasks: list[dict[str, Any]], variables: Templar) -> Iterator[dict[str, Any]]:
    """The tasks that run on a host, in order."""
    for task in tasks:
        conditions = task.get("when", [])
        listed = conditions if isinstance(conditions, list) else [conditions]
        if all(variables.evaluate_conditional(trust_as_template(str(condition))) for condition in listed):
            yield from due(task["block"], variables) if "block" in task else [task]


def roles(host: str, groups: dict[str, list[str]], **given: Any) -> list[str]:
    """The roles that provision a host, in order."""
    variables = templar(host, groups, baton_interrupted=False, **given)
    (play,) = load("phases/provision.yml")
    found = []
    for task in due(play["tasks"], variables):
        if "baton.web.host_facts" in task:
            continue
        include = task.get("ansible.builtin.include_role")
        # once for each row of the host's services
        for row in variables.template(task["loop"]) if "loop" in task else [None]:
            name = templar(host, groups, baton_service=row).template(include["name"]) if include else task["name"]
            found.append(f"{name.removeprefix('baton.web.')} {(include or {}).get('tasks_from', '')}".rstrip())
    return found


EVERYWHERE = ["host_baseline", "host_firewall", "host_sshd"]
SERVER, EDGE = ["python_runtime", "app_account"], ["nginx_server", "tls_certificate", "nginx_site"]


@pytest.mark.parametrize(
    ("host", "groups", "expected"),
    [
        ("app1", FLEET, [*EVERYWHERE, *SERVER]),
        ("edge1", FLEET, [*EVERYWHERE, *EDGE]),
        ("data1", FLEET, [*EVERYWHERE, "postgresql_server", "redis_server"]),
        # without load balancers an app server is its own edge
        ("app1", {"app_servers": ["app1"]}, [*EVERYWHERE, *SERVER, *EDGE]),
    ],
)
def test_host_is_provisioned_with_the_roles_of_its_groups(
    host: str, groups: dict[str, list[str]], expected: list[str]
) -> None:
    assert roles(host, groups) == expected


def test_certificates_are_provided_before_the_services_that_need_them() -> None:
    given = {"tls_certificate_method": "acme", "backing_services_tls": "required"}
    certificates = "Provide the certificates of the backing services"
    assert roles("data1", FLEET, **given) == [*EVERYWHERE, certificates, "postgresql_server", "redis_server"]
    # obtained after the site, which answers the authority's challenge
    assert roles("edge1", FLEET, **given) == [*EVERYWHERE, *EDGE, "tls_certificate obtain"]
    assert roles("app1", FLEET, **given) == [*EVERYWHERE, *SERVER]


def test_tls_to_the_app_servers_is_set_up_before_the_site_uses_it() -> None:
    certificates = "Provide the certificates for TLS from the edges to the app servers"
    facts: dict[str, Any] = {"app_transport": {"sends": "", "takes_tls": True, "takes_plain": False, "trusted": []}}
    edge: dict[str, Any] = {"app_transport": {"sends": "tls", "takes_tls": False, "takes_plain": False, "trusted": []}}
    given = {"hostvars": {"edge1": {"ansible_facts": edge}, "app1": {"ansible_facts": facts}}}
    required: dict[str, Any] = {"app_servers_tls": "required", **given}
    port = [*EVERYWHERE, *SERVER, "nginx_server", certificates, "nginx_tls_port"]
    assert roles("app1", FLEET, ansible_facts=facts, **required) == port
    assert roles("edge1", FLEET, ansible_facts=edge, **required) == [*EVERYWHERE, *EDGE[:2], certificates, EDGE[2]]
    # the plain port is closed last, in the run that moves the edges
    edge["app_transport"]["sends"] = "plain"
    assert roles("app1", FLEET, ansible_facts=facts, **required) == [*port, "Close the app servers' plain port"]
    # a port that is no longer wanted is removed
    assert roles("app1", FLEET, ansible_facts=facts, **given) == [*EVERYWHERE, *SERVER, "nginx_tls_port"]


@pytest.mark.parametrize(
    ("tls", "firewall", "task"),
    [
        ("offered", False, "Warn of users of the host that can forge the client's address"),
        ("required", False, "Verify that the plain port can be closed"),
        ("offered", True, ""),
        # the application doesn't trust its own host's address
        ("disabled", False, ""),
    ],
)
def test_open_plain_port_of_an_app_server_is_reported(tls: str, firewall: bool, task: str) -> None:
    play, _ = load("phases/preflight_hosts.yml")
    about_the_port = [one for one in play["tasks"] if "baton_app_port" in str(one) and "preflight_info" not in str(one)]
    given = {"app_servers_tls": tls, "host_firewall_enabled": firewall}
    for host, expected in (("app1", task), ("edge1", "")):
        variables = templar(host, FLEET, **given)
        found = [
            one["name"]
            for one in due(about_the_port, variables)
            # an assertion that holds reports nothing
            if "ansible.builtin.debug" in one
            or not variables.evaluate_conditional(trust_as_template(one["ansible.builtin.assert"]["that"]))
        ]
        assert found == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("host", "groups", "given", "ports"),
    [
        ("app1", {"app_servers": ["app1"]}, {}, {80: "nginx", 443: "nginx"}),
        ("edge1", FLEET, {"nginx_site_https_port": 8443}, {80: "nginx", 443: "nginx", 8443: "nginx"}),
        ("edge1", FLEET, {"nginx_server_http_port": 81}, {80: "nginx", 81: "nginx", 443: "nginx"}),
        ("app1", FLEET, {"app_servers_tls": "offered"}, {8000: "links.socket", 8443: "nginx"}),
        ("data1", FLEET, {"redis_server_port": 7000}, {5432: "postgresql@*", 7000: "redis-server@links"}),
    ],
)
def test_preflight_refuses_ports_that_others_use(
    host: str, groups: dict[str, list[str]], given: dict[str, Any], ports: dict[int, str]
) -> None:
    play, _ = load("phases/preflight_hosts.yml")
    (task,) = [one for one in play["tasks"] if "baton.web.preflight_info" in one]
    found = templar(host, groups, **task["vars"], **given).template(task["baton.web.preflight_info"]["ports"])
    assert {int(one["port"]): one["allowed"][0].removesuffix(".service") for one in found} == ports
    # each with the setting that changes it, if there is one
    assert all("_port" in one["for"] for one in found if int(one["port"]) != 5432)


@pytest.mark.parametrize(
    ("host", "given", "warned"),
    [
        ("edge1", {}, []),
        ("edge1", {"nginx_site_https_port": 8443, "nginx_server_https_port": "8443"}, []),
        ("edge1", {"nginx_site_https_port": 8443}, ["nginx_server_https_port"]),
        ("edge1", {"nginx_server_http_port": 81}, ["nginx_server_http_port"]),
        ("app1", {"nginx_site_https_port": 8443}, []),
    ],
)
def test_port_without_catch_all_is_reported(host: str, given: dict[str, Any], warned: list[str]) -> None:
    play, _ = load("phases/preflight_hosts.yml")
    (task,) = [one for one in play["tasks"] if "baton_port" in str(one.get("loop_control"))]
    found = []
    for port in templar(host, FLEET, **given).template(task["loop"]):
        variables = templar(host, FLEET, **given, baton_port=port)
        if list(due([task], variables)):
            found.append(port["setting"])
            message = variables.template(task["ansible.builtin.debug"]["msg"])
            assert message.startswith(f"{host}: ")
            assert f"set {port['setting']}: {port['site']}." in message
    assert found == warned


def test_interrupt_stops_the_provisioning_between_two_roles() -> None:
    (play,) = load("phases/provision.yml")
    found = [task["name"] for task in due(play["tasks"], templar("app1", FLEET, baton_interrupted=True))]
    stop = "Stop after an interrupt by the operator"
    assert [before for before, name in itertools.pairwise(found) if name == stop] == [
        "Set up the backing services",
        "Create the account",
    ]


def plays(file: str) -> list[dict[str, Any]]:
    """The plays of a playbook, without imports."""
    return [play for play in yaml.safe_load((PROJECT / "playbooks" / file).read_text()) if "hosts" in play]


@pytest.mark.parametrize(
    "file",
    [
        *("exec.yml", "maintenance.yml", "reboot.yml", "schedule.yml", "upgrade_system.yml"),
        *(f"phases/{name}.yml" for name in ("artifact", "lock", "preflight", "preflight_hosts", "provision")),
    ],
)
def test_first_failure_ends_the_run_for_all_hosts(file: str) -> None:
    assert [
        play["name"]
        for play in plays(file)
        # these collect all failures, and the next play ends the run (test_preflight.py)
        if play.get("any_errors_fatal") is not True and "baton_defer_problems" not in play.get("vars", {})
    ] == []


@pytest.mark.parametrize("file", ["phases/rollout.yml", "phases/processes.yml"])
def test_failure_of_the_rollout_is_left_to_its_rescue(file: str) -> None:
    """The rescue records it, and all hosts are reverted; Ansible would exclude the failed host from that."""
    assert [play["name"] for play in plays(file) if "any_errors_fatal" in play] == []


def test_hosts_are_changed_one_after_another() -> None:
    for file, number in (("reboot.yml", 2), ("upgrade_system.yml", 2), ("exec.yml", 1)):
        assert [play.get("serial") for play in plays(file) if "serial" in play] == [1] * number, file


def test_interrupt_is_deferred_in_plays_that_change_hosts() -> None:
    """The callback baton.web.run handles Ctrl-C in these plays; otherwise a partial change would remain."""
    pipeline = [f"phases/{name}.yml" for name in ("lock", "provision", "rollout", "processes")]
    assert [
        play["name"]
        for file in pipeline
        for play in plays(file)
        if play["vars"].get("baton_defer_interrupt") is not True
    ] == []
    late = [play["name"] for file in pipeline for play in plays(file) if play["vars"].get("baton_commit_phase")]
    assert late == ["Finish", "Finish", "Revert every host", "Finish", "Finish"]
    upkeep = [
        play["name"]
        for file in ("reboot.yml", "upgrade_system.yml")
        for play in plays(file)
        if (play.get("vars") or {}).get("baton_defer_interrupt") is True
    ]
    assert upkeep == [
        *(
            "Lock the app servers",
            "Reboot the app servers, one after another",
            "Reboot the other hosts, one after another",
        ),
        *("Lock the app servers", "Upgrade the app servers, one after another"),
        "Upgrade the other hosts, one after another",
    ]


def test_plays_on_hosts_run_as_root_and_gather_no_facts() -> None:
    """Roles get their facts from host_facts; checks on the controller need no root."""
    files = sorted([*(PROJECT / "playbooks").glob("*.yml"), *(PROJECT / "playbooks/phases").glob("*.yml")])
    found = [play for path in files for play in plays(str(path.relative_to(PROJECT / "playbooks")))]
    assert len(found) > 30
    assert [play["name"] for play in found if play.get("gather_facts") is not False] == []
    assert [play["name"] for play in found if play.get("become") is not True] == [
        "Build the artifact",
        "Check the controller and the inventory",
        "Validate the input of the roles that run the application",
        "Validate settings and release",
        "Report the problems of all hosts",
        "Report the problems of all hosts",
    ]


def test_order_of_the_phases_of_site() -> None:
    steps = yaml.safe_load((PROJECT / "playbooks/site.yml").read_text())
    assert [step["ansible.builtin.import_playbook"].removeprefix("phases/") for step in steps] == [
        *("preflight.yml", "preflight_hosts.yml", "artifact.yml", "lock.yml", "provision.yml", "rollout.yml")
    ]
    changes = [step["vars"]["baton_change"] for step in steps if "baton_change" in step.get("vars", {})]
    change = {"kind": "deploy", "configure": True, "stage": True, "restart_workers": False, "provision": True}
    assert changes == [change] * 2


@pytest.mark.parametrize(
    ("playbook", "expected"),
    [
        ("deploy", {"configure": False, "stage": True, "restart_workers": False}),
        ("configure", {"configure": True, "stage": False, "restart_workers": False}),
        ("restart", {"configure": False, "stage": False, "restart_workers": True}),
        # selected while the lock is held
        (
            "rollback",
            {
                "configure": "{{ rollback_configure | default(false) | bool }}",
                "stage": False,
                "restart_workers": False,
                "release": "{{ baton_rollback.release | default('') }}",
            },
        ),
    ],
)
def test_playbook_declares_its_change(playbook: str, expected: dict[str, Any]) -> None:
    first, *_, last = yaml.safe_load((PROJECT / f"playbooks/{playbook}.yml").read_text())
    assert first["ansible.builtin.import_playbook"] == "phases/preflight.yml"
    # the others don't use the inventory's release and settings
    validates = {"restart": False, "rollback": expected["configure"]}.get(playbook, True)
    assert first.get("vars", {}).get("baton_validate_inputs", True) == validates
    assert last["vars"]["baton_change"] == {"kind": playbook, **expected}


@pytest.mark.parametrize("state", ["on", "off"])
def test_maintenance_is_switched_on_the_edges(state: str) -> None:
    (play,) = load("maintenance.yml")
    for host, expected in (("edge1", True), ("app1", False)):
        variables = templar(host, FLEET, maintenance=state, app_name="links")
        include = [task for task in due(play["tasks"], variables) if "ansible.builtin.include_role" in task]
        assert bool(include) is expected
        for task in include:
            assert variables.template(task["vars"]["nginx_site_maintenance"]) is (state == "on")
    tasks = LOADER.load_from_file(str(PROJECT / "roles/nginx_site/tasks/maintenance.yml"), trusted_as_template=True)
    found = [task["name"] for task in due(tasks, templar("edge1", FLEET, nginx_site_maintenance=state == "on"))]
    assert found[2:] == [f"Maintenance | Switch maintenance {state}"]


def test_scheduled_command_runs_only_on_its_host() -> None:
    (play,) = load("schedule.yml")

    def units(action: str, runs: bool) -> int:
        result = {"runs": runs, "release": "r1", "timeout": 60}
        known = {"schedule": "cleanup", "schedule_action": action, "__baton_schedule": result}
        found = due(play["tasks"], templar("app1", FLEET, __baton_schedule_run={}, **known))
        return sum("baton.web.unit" in task for task in found)

    assert units("run", True) == 1
    assert [units("run", False), units("suspend", True), units("resume", True)] == [0, 0, 0]


@pytest.mark.parametrize(
    ("host", "status", "compared"),
    [
        ("app1", {"problems": [], "application": {"release": "r1"}}, ["app_config", "app_service"]),
        # not configured yet
        ("app1", {"problems": [], "application": {"release": ""}}, []),
        ("edge1", {"problems": [], "application": {}}, ["nginx_site"]),
        # unreachable
        ("edge1", {"unreachable": True}, []),
    ],
)
def test_status_compares_a_host_with_the_inventory(host: str, status: dict[str, Any], compared: list[str]) -> None:
    (play,) = load("status.yml")
    given = {"__baton_status": status, "__baton_facts": {}, "baton_unresolved_hosts": [], "baton_problems": []}
    tasks = [task for task in play["tasks"] if task["name"].startswith("Compare")]
    includes = [task["ansible.builtin.include_role"] for task in due(tasks, templar(host, FLEET, **given))]
    assert [include["name"].removeprefix("baton.web.") for include in includes] == compared
    assert {include["tasks_from"] for include in includes} <= {"compare"}


@pytest.mark.parametrize(
    ("host", "is_due", "spare", "steps"),
    [
        ("app1", True, True, ["Drain the host", "Change the host", "Restore the host"]),
        # no other host would serve
        ("app1", True, False, ["Change the host"]),
        ("app1", False, True, []),
        ("edge1", True, None, ["Change the host"]),
        ("edge1", False, None, []),
    ],
)
def test_host_that_is_due_is_drained_if_others_can_serve(
    host: str, is_due: bool, spare: bool | None, steps: list[str]
) -> None:
    has_spare = load("vars/interruption.yml")["baton_has_spare"] if spare is None else spare
    variables = templar(host, FLEET, baton_due=is_due, baton_has_spare=has_spare)
    found = [task["name"] for task in due(load("tasks/hosts/change.yml"), variables)]
    assert found == ["Stop if a host was lost", *steps]


def test_hosts_are_rebooted_and_upgraded_the_same_way() -> None:
    for file, tasks in (("reboot.yml", "reboot.yml"), ("upgrade_system.yml", "upgrade.yml")):
        for play in (play for play in plays(file) if play.get("serial") == 1):
            assert [task["ansible.builtin.import_tasks"] for task in play["tasks"]] == ["tasks/hosts/change.yml"]
            assert play["vars"]["baton_host_tasks"] == f"tasks/hosts/{tasks}"
