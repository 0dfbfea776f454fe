"""Ansible filters about a host's backing services: rows of the table in playbooks/vars/topology.yml."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.baton.web.plugins.module_utils.controller import service_addresses


def firewall_rules(services: Sequence[Mapping[str, Any]], clients: Sequence[str]) -> list[dict[str, Any]]:
    """Return rules for the role host_firewall that let these addresses reach the services."""
    return [
        {
            "ports": list(service["ports"].values()),
            "sources": list(clients),
            "comment": f"{service['name']}, from the application",
        }
        for service in services
    ]


def needed_ports(services: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the ports for preflight_info, each with the unit that may already listen on it."""
    return [
        {"port": port, "for": _with_setting(service, scheme), "allowed": [service["listener"]]}
        for service in services
        for scheme, port in service["ports"].items()
    ]


def _with_setting(service: Mapping[str, Any], scheme: str) -> str:
    """Return a service's name with the setting of this port, if it has one."""
    setting = service["port_settings"].get(scheme)
    return f"{service['name']} ({setting})" if setting else str(service["name"])


def address_problems(
    addresses: Mapping[str, Any],
    hostvars: Mapping[str, Mapping[str, Any]],
    hosts: Sequence[str],
    tls: str,
    ca_file: str,
) -> list[str]:
    """Return sentences about wrong addresses of these hosts' services, as far as they are known.

    `addresses`: the application's settings and secrets. Preflight sets the hosts' variable `baton_services_noted`.
    """
    services = []
    found = []
    for host in hosts:
        noted = hostvars[host].get("baton_services_noted")
        if noted is None:
            continue
        if noted["tls"] != tls:
            found.append(
                f"backing_services_tls is {noted['tls']} for {host}, and {tls} for the application. "
                "Set it for all hosts."
            )
        names = frozenset(str(name).lower() for name in noted["names"])
        services += [service_addresses.Service(row["name"], names, row["ports"]) for row in noted["services"]]
    return found or service_addresses.problems(addresses, services, tls, ca_file)


class FilterModule:
    """Filters by name."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names as used in playbooks."""
        return {
            "firewall_rules": firewall_rules,
            "needed_ports": needed_ports,
            "service_address_problems": address_problems,
        }
