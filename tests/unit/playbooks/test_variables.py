"""The variables that the playbooks compute for a host, from the inventory and from results of earlier tasks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from tests.support.playbooks import PROJECT

FILES = ("topology", "wiring", "rollout", "interruption")
FLEET: dict[str, list[str]] = {
    "app_servers": ["app1", "app2", "app3"],
    "load_balancers": ["edge1", "edge2"],
    "redis_servers": ["data1"],
}
ALONE = {"app_servers": ["app1"]}
LOADER = DataLoader()
LOADER.set_basedir(str(PROJECT))


def value(name: str, host: str = "app1", groups: dict[str, list[str]] = FLEET, /, **given: Any) -> Any:
    """The value of a variable on a host."""
    variables: dict[str, Any] = {}
    for file in FILES:
        path = str(PROJECT / f"playbooks/vars/{file}.yml")
        variables |= LOADER.load_from_file(path, trusted_as_template=True)
    hosts = list(dict.fromkeys(name for members in groups.values() for name in members))
    facts: dict[str, Any] = {"app_release": "r1"}
    hostvars = {
        member: {"baton_address": f"10.0.0.{number}", "ansible_facts": facts} for number, member in enumerate(hosts, 1)
    }
    for member, more in given.pop("known", {}).items():
        hostvars[member] = hostvars[member] | more
    variables |= {
        "app_name": "links",
        "inventory_hostname": host,
        "groups": {**groups, "all": hosts},
        "group_names": [group for group, members in groups.items() if host in members],
        "hostvars": hostvars,
        "ansible_play_hosts": groups["app_servers"],
        "ansible_play_hosts_all": groups["app_servers"],
        "ansible_play_batch": groups["app_servers"],
        "ansible_check_mode": False,
        "baton_change": {"kind": "deploy", "stage": True, "restart_workers": False},
        **hostvars[host],
        **given,
    }
    return Templar(loader=LOADER, variables=variables).template(trust_as_template("{{ " + name + " }}"))


def test_application_behind_load_balancers_listens_on_the_private_network() -> None:
    assert value("app_service_listen") == "10.0.0.1:8000"
    assert value("app_service_forwarded_allow_ips") == ["10.0.0.4", "10.0.0.5"]
    assert value("nginx_site_upstreams", "edge1") == ["10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000"]
    assert value("app_service_listen", app_port=9000) == "10.0.0.1:9000"


def test_application_on_its_edge_listens_on_a_socket() -> None:
    assert value("app_service_listen", "app1", ALONE) == "/run/links/web.sock"
    assert value("app_service_forwarded_allow_ips", "app1", ALONE) == ["*"]
    assert value("nginx_site_upstreams", "app1", ALONE) == ["unix:/run/links/web.sock"]
    assert value("nginx_site_down", "app1", ALONE) == []


@pytest.mark.parametrize(
    ("host", "groups", "ports"),
    [
        ("edge1", FLEET, [("web", [80, 443], None)]),
        ("app1", FLEET, [("application, from the edge", 8000, ["10.0.0.4", "10.0.0.5"])]),
        ("data1", FLEET, [("Redis, from the application", [6379], ["10.0.0.1", "10.0.0.2", "10.0.0.3"])]),
        ("app1", ALONE, [("web", [80, 443], None)]),
    ],
)
def test_firewall_opens_the_ports_of_the_hosts_groups(
    host: str, groups: dict[str, list[str]], ports: list[Any]
) -> None:
    rules = value("host_firewall_rules", host, groups)
    assert [(rule["comment"], rule.get("port", rule.get("ports")), rule.get("sources")) for rule in rules] == ports


@pytest.mark.parametrize(
    ("settings", "limits", "unlimited"),
    [
        ({}, (200, 2000), []),
        ({"edge_client_connection_rate": 0, "edge_client_connections": 9}, (0, 9), []),
        ({"nginx_site_client_connections": 3000}, (3000, 30000), []),
        ({"nginx_site_client_connections": 0}, (0, 0), []),
        (
            {
                "nginx_site_unlimited_clients": ["192.0.2.1", "203.0.113.5/24"],
                "nginx_site_trusted_proxies": ["198.51.100.0/24", "cloudflare", "claudflare"],
            },
            (200, 2000),
            ["192.0.2.1/32", "203.0.113.0/24", "198.51.100.0/24", "173.245.48.0/20", "2606:4700::/32"],
        ),
        # the other edge, which forwards the challenges that any client asks it for
        ({"tls_certificate_method": "acme"}, (200, 2000), ["10.0.0.5/32"]),
    ],
)
def test_connections_of_an_edges_clients_are_limited(
    settings: dict[str, Any], limits: tuple[int, int], unlimited: list[str]
) -> None:
    (rule,) = value("host_firewall_rules", "edge1", **settings)
    assert (rule["connection_rate"], rule["connections"]) == limits
    assert set(unlimited) <= set(rule["unlimited_sources"])
    assert "claudflare" not in rule["unlimited_sources"]
    assert bool(rule["unlimited_sources"]) is bool(unlimited)


def test_new_app_server_gets_no_request_before_it_serves() -> None:
    new = {"app3": {"ansible_facts": {"app_release": ""}}}
    assert value("baton_new_app_servers", known=new) == ["app3"]
    assert value("nginx_site_down", "edge1", known=new) == ["10.0.0.3:8000"]
    # a host without facts doesn't count as new; if all hosts are new, none is left out
    assert value("baton_new_app_servers", known={"app3": {"ansible_facts": {}}}) == []
    assert value("baton_new_app_servers", known=dict.fromkeys(FLEET["app_servers"], new["app3"])) == []


def test_names_may_lead_to_an_edge_by_both_protocols() -> None:
    facts = {"default_ipv4": {"address": "192.0.2.4"}, "default_ipv6": {"address": "2001:db8::4"}}
    known = {"edge1": {"ansible_host": "e1.example.org", "ansible_facts": facts}}
    found = value("tls_certificate_acme_reached_at", "edge1", known=known, tls_certificate_method="acme")
    assert found == ["e1.example.org", "192.0.2.4", "2001:db8::4"]


def test_units_of_a_host_are_those_of_its_groups() -> None:
    assert value("baton_host_units", "edge1") == ["nginx.service"]
    assert value("baton_host_units", "data1") == ["redis-server@links.service"]
    assert value("baton_host_units", "app1") == []
    assert value("baton_host_units", "app1", ALONE) == ["nginx.service"]


def test_status_watches_the_timers_that_a_host_has() -> None:
    used = {"tls_certificate_method": "acme", "nginx_server_session_tickets": True}
    for host, groups, given, expected in (
        ("edge1", FLEET, used, ["acme-links", "nginx-session-tickets"]),
        ("app1", ALONE, used, ["acme-links", "nginx-session-tickets"]),
        ("app1", FLEET, used, []),
        # nginx takes the edges' TLS
        ("app1", FLEET, {**used, "app_servers_tls": "required"}, ["nginx-session-tickets"]),
        ("edge1", FLEET, {}, []),
    ):
        assert value("baton_host_timed_services", host, groups, **given) == expected
    updates = ["apt-daily.timer", "apt-daily-upgrade.timer"]
    assert value("baton_host_guards", "data1") == ["nftables.service", *updates]
    assert value("baton_host_guards", "data1", host_firewall_enabled=False) == updates
    assert value("baton_host_guards", "data1", host_baseline_security_updates=False) == ["nftables.service"]


def services(tasks: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The arguments of all tasks that start or stop units."""
    for task in tasks:
        yield from services(task.get("block", []))
        if "ansible.builtin.systemd_service" in task:
            yield task["ansible.builtin.systemd_service"]


def test_status_watches_every_unit_that_a_role_starts() -> None:
    """Also that of a new role: a unit that nobody watches stops silently."""
    started = {
        f"{path.parents[1].name}: {arguments['name']}"
        for path in (PROJECT / "roles").glob("*/tasks/*.yml")
        for arguments in services(LOADER.load_from_file(str(path)) or [])
        if arguments.get("state") == "started"
    }
    assert started == {
        "host_baseline: {{ item }}",  # apt's timers
        # a container has the machine's clock; each change refuses a clock that is wrong
        "host_baseline: {{ host_baseline_time_sync_service }}",
        "host_firewall: nftables",
        "nginx_server: nginx",
        "nginx_server: {{ __nginx_server_tickets_unit }}.timer",
        "postgresql_server: {{ __postgresql_server_unit }}",
        "redis_server: {{ __redis_server_unit }}",
        "tls_certificate: {{ __tls_certificate_acme_unit }}.timer",
    }


@pytest.mark.parametrize(
    ("tls", "ports"),
    [("disabled", {"redis": 6379}), ("offered", {"redis": 6379, "rediss": 6380}), ("required", {"rediss": 6380})],
)
def test_ports_of_a_service_depend_on_tls(tls: str, ports: dict[str, int]) -> None:
    (redis,) = value("baton_host_services", "data1", backing_services_tls=tls)
    assert redis["ports"] == ports
    certificates = value("baton_host_certificates", "data1", backing_services_tls=tls)
    assert certificates == ([] if tls == "disabled" else ["/etc/ssl/baton-services/redis-links"])


def test_certificates_are_those_that_site_yml_provides() -> None:
    given = {"tls_certificate_method": "provided", "tls_certificate_renew_days": "20", "app_servers_tls": "offered"}
    given["backing_services_tls"] = "required"
    site = {"path": "/etc/ssl/baton/links/fullchain.pem", "purpose": "of the site", "method": "provided"}
    transport = "/etc/ssl/baton-transport/links"
    for host, expected in (
        (
            "edge1",
            [
                {**site, "renew_days": 20},
                {"path": f"{transport}-client/fullchain.pem", "purpose": "for TLS to the app servers"},
            ],
        ),
        ("app1", [{"path": f"{transport}-server/fullchain.pem", "purpose": "for TLS from the edges"}]),
        ("data1", [{"path": "/etc/ssl/baton-services/redis-links/fullchain.pem", "purpose": "of Redis"}]),
    ):
        assert value("baton_certificates", host, **given) == expected
    assert value("baton_certificates", "data1") == value("baton_certificates", "app1") == []
    assert value("baton_certificates", "app1", ALONE) == [{**site, "method": "self_signed", "renew_days": 30}]


def test_hosts_without_an_address_are_listed() -> None:
    known = {name: {"baton_address": "10.0.0.1"} for name in ("app1", "app3", "edge2")}
    assert sorted(value("baton_unresolved_hosts", hostvars=known)) == ["app2", "edge1"]
    # a single host doesn't need an address
    assert value("baton_unresolved_hosts", "app1", ALONE, hostvars={}) == []


def test_certificates_that_servers_must_serve_are_those_of_their_ports() -> None:
    site = {"path": "/etc/ssl/baton/links/fullchain.pem", "port": 8443, "name": "any.example.org"}
    given: dict[str, Any] = {"nginx_site_server_names": ["*.example.org"], "nginx_site_https_port": 8443}
    assert value("baton_served_certificates", "edge1", **given) == [site]
    assert value("baton_served_certificates", "app1", ALONE, **given) == [site]
    assert value("baton_served_certificates", "app1") == []
    path = "/etc/ssl/baton-transport/links-server/fullchain.pem"
    assert value("baton_served_certificates", "app1", app_servers_tls="offered") == [
        {"path": path, "address": "10.0.0.1", "port": 8443}
    ]
    groups = FLEET | {"postgresql_servers": ["data1"]}
    folder, given = "/etc/ssl/baton-services", {"redis_server_tls_port": 7000}
    assert value("baton_served_certificates", "data1", groups, **given) == []
    assert value("baton_served_certificates", "data1", groups, backing_services_tls="offered", **given) == [
        {
            "path": f"{folder}/postgresql/fullchain.pem",
            "server": "PostgreSQL",
            "unit": "postgresql.service",
            "port": 5432,
            "starttls": "postgresql",
        },
        {
            "path": f"{folder}/redis-links/fullchain.pem",
            "server": "Redis",
            "unit": "redis-server@links.service",
            "port": 7000,
        },
    ]


@pytest.mark.parametrize(
    ("host", "groups", "spare", "reasons"),
    [
        ("app1", FLEET, True, []),
        ("edge1", FLEET, False, ["an edge, for the clients that are led to it"]),
        ("edge1", FLEET | {"load_balancers": ["edge1"]}, False, ["the only edge"]),
        ("data1", FLEET, False, ["the Redis server"]),
        ("app1", ALONE, False, ["the only app server", "the only edge"]),
        ("app1", FLEET | {"app_servers": ["app1"]}, False, ["the only app server"]),
    ],
)
def test_interruption_by_a_host_without_a_spare_is_reported(
    host: str, groups: dict[str, list[str]], spare: bool, reasons: list[str]
) -> None:
    assert (value("baton_has_spare", host, groups), value("baton_interruptions", host, groups)) == (spare, reasons)
    cost = value("baton_interruption_cost", host, groups, __baton_upkeep={"boot_seconds": 8.2})
    assert bool(cost) is bool(reasons)
    if reasons:
        assert cost == f"  {host} ({', '.join(reasons)}): about 9 s, as its last boot took, and its services' start"


@pytest.mark.parametrize(
    ("upgrades", "outdated", "reboot", "reboots", "upgrade_due", "reboot_due"),
    [
        ([], [], "", True, False, False),
        (["openssl"], [], "", True, True, False),
        ([], ["nginx.service"], "", True, True, False),
        ([], [], "kernel", True, True, True),
        ([], [], "kernel", False, False, True),
        (["openssl"], [], "", False, True, False),
        ([], ["nginx.service"], "", False, True, False),
    ],
)
def test_upgrade_and_reboot_are_due(
    upgrades: list[str], outdated: list[str], reboot: str, reboots: bool, upgrade_due: bool, reboot_due: bool
) -> None:
    upkeep = {"upgrades": upgrades, "outdated": outdated, "reboot_required": reboot}
    found = {"__baton_upkeep": upkeep, "upgrade_reboot": reboots}
    assert value("baton_upgrade_due", **found) is upgrade_due
    assert value("baton_reboot_due", reboot_only_if_required=True, **found) is reboot_due
    # by default all are rebooted
    assert value("baton_reboot_due", **found) is True


DRAIN = {"deploy_drain": True}


@pytest.mark.parametrize(
    ("given", "outdated", "drains", "restores"),
    [
        ({}, True, False, False),
        (DRAIN, True, True, True),
        # a server that doesn't change isn't drained, but restored in case a killed run drained it
        (DRAIN, False, False, True),
        (DRAIN | {"baton_change": {"restart_workers": True}}, False, True, True),
        (DRAIN | {"ansible_check_mode": True}, True, True, True),
        # check mode hasn't added the new servers to the edges
        (DRAIN | {"ansible_check_mode": True, "baton_new_app_servers": ["app3"]}, True, False, False),
        (DRAIN | {"baton_new_app_servers": ["app3"]}, True, True, True),
    ],
)
def test_batch_is_drained_if_its_processes_change(
    given: dict[str, Any], outdated: bool, drains: bool, restores: bool
) -> None:
    results = {"app1": {"rehearsal": {"rehearsed": outdated}, "activation": {}}}
    assert value("baton_drains_batch", baton_batch_results=results, **given) is drains
    assert value("baton_restores_batch", **given) is restores


@pytest.mark.parametrize(
    ("check", "new", "added"), [(False, ["app1"], True), (False, ["app3"], False), (True, ["app1"], False)]
)
def test_new_server_is_added_to_the_edges_once_it_serves(check: bool, new: list[str], added: bool) -> None:
    given = {"ansible_check_mode": check, "baton_new_app_servers": new, "baton_batch": ["app1", "app2"]}
    assert value("baton_adds_batch", **given) is added


@pytest.mark.parametrize(
    ("failures", "end"),
    [
        ([], 10_000.0),
        # the baseline ends before the first of the recent failed changes
        ([9_200.0, 9_500.0], 9_200.0),
        ([9_101.0], 9_101.0),
        ([9_100.0], 10_000.0),
    ],
)
def test_baseline_is_the_minute_before_the_change_or_earlier_failures(failures: list[float], end: float) -> None:
    phases = [
        {"id": "lock", "started": 9_990.0},
        {"id": "handover", "started": 10_000.0},
        {"id": "handover", "started": 10_050.0},
    ]
    given = {
        "__baton_first_lock": {"history": {"failures": failures}},
        "baton_phases": phases,
        "baton_activation_end": 10_030.0,
    }
    windows = value("baton_windows", **given)
    assert (float(windows["before"]["since"]), float(windows["before"]["until"])) == (end - 60, end)
    assert (float(windows["during"]["since"]), float(windows["during"]["until"])) == (10_000.0, 10_030.0)
    assert float(windows["after"]["since"]) == 10_030.0


def test_first_batch_is_computed_and_later_ones_are_those_of_the_play() -> None:
    sizes = {"baton_batch_sizes": [1, 2]}
    assert value("baton_due_batch", baton_is_first_batch=True, **sizes) == ["app1"]
    assert value("baton_due_batch", ansible_play_batch=["app2", "app3"], **sizes) == ["app2", "app3"]


def test_locked_hosts_are_listed_with_excluded_ones_separately() -> None:
    locked: dict[str, Any] = {
        "app2": {"__baton_first_lock": {"changed": True}},
        "app3": {"__baton_first_lock": {"changed": True}},
    }
    excluded = {"results": [{"item": "app1"}, {"item": "app4", "msg": "it is down"}]}
    locked["app2"]["__baton_excluded_locks"] = excluded
    assert value("baton_locked_hosts", known=locked) == ["app2", "app3"]
    assert value("baton_locked_excluded_hosts", known=locked) == ["app1"]
    assert (value("baton_locked_hosts"), value("baton_locked_excluded_hosts")) == ([], [])


CONCLUSION = {"happened": True, "entries": {"app1": "entry"}, "serves": {"app1": "r2"}, "summary": ""}


def finish_arguments(**given: Any) -> dict[str, Any]:
    """The arguments of the module finish."""
    tasks = LOADER.load_from_file(str(PROJECT / "playbooks/tasks/rollout/finish.yml"), trusted_as_template=True)
    (arguments,) = [task["baton.web.finish"] for task in tasks if "baton.web.finish" in task]
    known: dict[str, Any] = {
        "omit": "omitted",
        "baton_first_host": "app1",
        "baton_conclusion": CONCLUSION,
        "__baton_receipt": {},
        "baton_run": {},
    }
    return {
        name: value(str(arguments[name]).strip()[2:-2].strip(), **(known | given))
        for name in ("serves", "keep", "entry", "first_host")
    }


def test_finish_records_and_prunes_according_to_the_outcome() -> None:
    complete = {"serves": "r2", "keep": 5, "entry": "entry", "first_host": "app1"}
    assert finish_arguments() == complete
    assert finish_arguments(app_releases_keep=3)["keep"] == 3
    unknown = {"serves": "omitted", "first_host": "omitted"}
    # after a failure, hosts may serve different releases
    failure = CONCLUSION | {"serves": {}, "summary": "The deploy of shop failed."}
    assert finish_arguments(baton_conclusion=failure) == complete | unknown
    # the previous release isn't current after a failed revert
    failed = finish_arguments(baton_conclusion=failure, baton_outcome={"revert_error": "it doesn't start"})
    assert failed == complete | unknown | {"keep": "omitted"}
    assert finish_arguments(baton_change={"stage": False}) == complete | {"keep": "omitted"}
    assert finish_arguments(ansible_check_mode=True) == complete | {"serves": "omitted"}
    assert finish_arguments(baton_conclusion=CONCLUSION | {"serves": {}})["serves"] == "omitted"
    assert finish_arguments(baton_conclusion=CONCLUSION | {"happened": False})["entry"] == "omitted"


@pytest.mark.parametrize(
    ("passed", "least", "most"),
    [
        (0.0, 1.0, 10.0),
        (3.0, 1.0, 7.0),
        # the batch was watched at the first edge
        (3600.0, 1.0, 1.0),
        # the controller's clock was set back
        (-3600.0, 10.0, 10.0),
    ],
)
def test_bake_lasts_for_the_rest_of_its_time(passed: float, least: float, most: float) -> None:
    (task,) = LOADER.load_from_file(str(PROJECT / "playbooks/tasks/rollout/bake.yml"), trusted_as_template=True)
    expression = task["baton.web.edge_log_info"]["bake_seconds"].strip("{} ")
    assert least <= value(expression, baton_bake_seconds=10, baton_bake_start=time.time() - passed) <= most
