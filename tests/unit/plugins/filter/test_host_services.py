"""What the roles and modules are given of a host's backing services comes from their rows."""

from __future__ import annotations

from typing import Any

from tests.support.playbooks import plugin

services = plugin("filter/host_services")

VALKEY = {"name": "Valkey", "ports": {"redis": 6379, "rediss": 6380}, "listener": "valkey-server.service"}


def test_the_firewall_lets_the_clients_in_and_nobody_else() -> None:
    assert services.firewall_rules([VALKEY], ["192.0.2.1"]) == [
        {"ports": [6379, 6380], "sources": ["192.0.2.1"], "comment": "Valkey, from the application"}
    ]
    assert services.firewall_rules([], ["192.0.2.1"]) == []


def test_the_ports_may_be_held_by_the_service_itself() -> None:
    assert services.needed_ports([VALKEY]) == [
        {"port": port, "for": "Valkey", "allowed": ["valkey-server.service"]} for port in (6379, 6380)
    ]


def noted(tls: str) -> dict[str, Any]:
    return {"baton_services_noted": {"services": [VALKEY], "names": ["Data1", "192.0.2.31"], "tls": tls}}


def test_addresses_are_compared_with_what_the_hosts_offer() -> None:
    hosts = {"data1": noted("offered"), "data2": {}}
    wrong = {"REDIS_URL": "redis://data1:6380/0"}
    (told,) = services.address_problems(wrong, hosts, list(hosts), "offered", "/ca.pem")
    assert told.startswith("REDIS_URL: Valkey isn't at redis://")
    right = {"REDIS_URL": "rediss://DATA1:6380/0"}
    assert services.address_problems(right, hosts, list(hosts), "offered", "/ca.pem") == []
    # of a host that wasn't asked nothing is known
    assert services.address_problems(wrong, {"data1": {}}, ["data1"], "offered", "/ca.pem") == []


def test_all_hosts_have_one_setting() -> None:
    (told,) = services.address_problems({}, {"data1": noted("required")}, ["data1"], "disabled", "/ca.pem")
    assert "required for data1, and disabled for the application" in told
