"""The values that roles and modules get for a host's backing services are derived from their rows."""

from __future__ import annotations

from typing import Any

from tests.support.playbooks import plugin

services = plugin("filter/host_services")

VALKEY = {
    "name": "Valkey",
    "ports": {"redis": 6379, "rediss": 6380},
    "port_settings": {"rediss": "valkey_tls_port"},
    "listener": "valkey-server.service",
}


def test_firewall_admits_only_the_clients() -> None:
    assert services.firewall_rules([VALKEY], ["192.0.2.1"]) == [
        {"ports": [6379, 6380], "sources": ["192.0.2.1"], "comment": "Valkey, from the application"}
    ]
    assert services.firewall_rules([], ["192.0.2.1"]) == []


def test_service_may_already_use_its_ports() -> None:
    assert services.needed_ports([VALKEY]) == [
        {"port": 6379, "for": "Valkey", "allowed": ["valkey-server.service"]},
        {"port": 6380, "for": "Valkey (valkey_tls_port)", "allowed": ["valkey-server.service"]},
    ]


def noted(tls: str) -> dict[str, Any]:
    return {"baton_services_noted": {"services": [VALKEY], "names": ["Data1", "192.0.2.31"], "tls": tls}}


def test_addresses_are_compared_with_what_the_hosts_offer() -> None:
    hosts = {"data1": noted("offered"), "data2": {}}
    wrong = {"REDIS_URL": "redis://data1:6380/0"}
    (message,) = services.address_problems(wrong, hosts, list(hosts), "offered", "/ca.pem")
    assert message.startswith("REDIS_URL: Valkey isn't at redis://")
    right = {"REDIS_URL": "rediss://DATA1:6380/0"}
    assert services.address_problems(right, hosts, list(hosts), "offered", "/ca.pem") == []
    # nothing is known about a host that wasn't asked
    assert services.address_problems(wrong, {"data1": {}}, ["data1"], "offered", "/ca.pem") == []


def test_services_outside_of_the_allowed_addresses_are_reported() -> None:
    hosts = {"data1": noted("disabled"), "data2": {}}
    given = {"REDIS_URL": "redis://data1/0"}
    (message,) = services.unreachable(given, hosts, list(hosts), ["10.0.0.0/8"])
    assert message.startswith("REDIS_URL: data1 isn't in app_service_allowed_addresses")
    assert services.unreachable(given, hosts, list(hosts), ["192.0.2.31"]) == []


def test_all_hosts_have_the_same_tls_setting() -> None:
    (message,) = services.address_problems({}, {"data1": noted("required")}, ["data1"], "disabled", "/ca.pem")
    assert "required for data1, and disabled for the application" in message
