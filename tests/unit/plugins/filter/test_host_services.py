"""What the roles and modules are given of a host's backing services comes from their rows."""

from __future__ import annotations

from tests.support.playbooks import plugin

services = plugin("filter/host_services")

VALKEY = {"name": "Valkey", "port": 6379, "listener": "valkey-server.service"}


def test_the_firewall_lets_the_clients_in_and_nobody_else() -> None:
    assert services.firewall_rules([VALKEY], ["192.0.2.1"]) == [
        {"port": 6379, "sources": ["192.0.2.1"], "comment": "Valkey, from the application"}
    ]
    assert services.firewall_rules([], ["192.0.2.1"]) == []


def test_the_port_may_be_held_by_the_service_itself() -> None:
    assert services.needed_ports([VALKEY]) == [{"port": 6379, "for": "Valkey", "allowed": ["valkey-server.service"]}]
