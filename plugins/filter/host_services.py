"""Ansible filters about a host's backing services: rows of the table in playbooks/vars/topology.yml."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any


def firewall_rules(services: Sequence[Mapping[str, Any]], clients: Sequence[str]) -> list[dict[str, Any]]:
    """Rules as the role host_firewall takes them, which let these addresses reach the services."""
    return [
        {"port": service["port"], "sources": list(clients), "comment": f"{service['name']}, from the application"}
        for service in services
    ]


def needed_ports(services: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The ports as preflight_info takes them, each with the unit that may hold it already."""
    return [{"port": service["port"], "for": service["name"], "allowed": [service["listener"]]} for service in services]


class FilterModule:
    """Filters by name."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names as used in playbooks."""
        return {"firewall_rules": firewall_rules, "needed_ports": needed_ports}
