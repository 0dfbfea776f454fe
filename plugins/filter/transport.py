"""Ansible filters for the connection from the edges to the app servers, plain or with TLS."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.baton.web.plugins.module_utils.controller import transport


def known(hostvars: Mapping[str, Mapping[str, Any]], hosts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the fact app_transport and the release of each host whose facts were gathered."""
    facts = {host: hostvars[host].get("ansible_facts") or {} for host in hosts}
    return {
        host: {**about["app_transport"], "release": about.get("app_release", "")}
        for host, about in facts.items()
        if "app_transport" in about
    }


def problems(
    hostvars: Mapping[str, Mapping[str, Any]], app_servers: Sequence[str], load_balancers: Sequence[str], tls: str
) -> list[str]:
    """Return messages about a change of app_servers_tls that would skip a step."""
    hosts = known(hostvars, [*app_servers, *load_balancers])
    addresses = {host: hostvars[host].get("baton_address", "") for host in hosts}
    found: list[str] = transport.problems(hosts, addresses, app_servers, load_balancers, tls)
    return found


def setting_problems(
    hostvars: Mapping[str, Mapping[str, Any]], app_servers: Sequence[str], load_balancers: Sequence[str]
) -> list[str]:
    """Return messages about invalid values of app_servers_tls."""
    values = {host: hostvars[host].get("app_servers_tls", "disabled") for host in [*app_servers, *load_balancers]}
    found: list[str] = transport.static_problems(values, load_balancers)
    return found


class FilterModule:
    """Filters by name."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names as used in playbooks."""
        return {
            "differing_transport_problems": transport.differing_problems,
            "is_plain_open": transport.is_plain_open,
            "is_transport_moving": transport.is_moving,
            "known_transport": known,
            "transport_problems": problems,
            "transport_setting_problems": setting_problems,
        }
