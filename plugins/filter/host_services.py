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


def served_certificates(services: Sequence[Mapping[str, Any]], folder: str) -> list[dict[str, Any]]:
    """Return the certificates for status_info that the services must serve. `folder`: that of their certificates."""
    return [
        {
            "path": f"{folder}/{service['certificate']}/fullchain.pem",
            "server": service["name"],
            "unit": service["unit"],
            "port": service["ports"][service["tls"]["scheme"]],
            **{key: value for key, value in service["tls"].items() if key != "scheme"},
        }
        for service in services
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
    found = [
        f"backing_services_tls is {noted['tls']} for {host}, and {tls} for the application. Set it for all hosts."
        for host, noted in _noted(hostvars, hosts)
        if noted["tls"] != tls
    ]
    return found or service_addresses.problems(addresses, _services(hostvars, hosts), tls, ca_file)


def unreachable(
    addresses: Mapping[str, Any],
    hostvars: Mapping[str, Mapping[str, Any]],
    hosts: Sequence[str],
    allowed: Sequence[str],
) -> list[str]:
    """Return sentences about services whose addresses aren't in `allowed`, an application's list of allowed ones."""
    return service_addresses.unreachable(addresses, _services(hostvars, hosts), allowed)


def _noted(hostvars: Mapping[str, Mapping[str, Any]], hosts: Sequence[str]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return what preflight has noted about the services of these hosts, as far as it has asked them."""
    found = [(host, hostvars[host].get("baton_services_noted")) for host in hosts]
    return [(host, noted) for host, noted in found if noted is not None]


def _services(hostvars: Mapping[str, Mapping[str, Any]], hosts: Sequence[str]) -> list[service_addresses.Service]:
    return [
        service_addresses.Service(row["name"], frozenset(str(name).lower() for name in noted["names"]), row["ports"])
        for _, noted in _noted(hostvars, hosts)
        for row in noted["services"]
    ]


class FilterModule:
    """Filters by name."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names as used in playbooks."""
        return {
            "firewall_rules": firewall_rules,
            "needed_ports": needed_ports,
            "served_certificates": served_certificates,
            "service_address_problems": address_problems,
            "unreachable_service_problems": unreachable,
        }
