"""Ansible filters about the addresses of hosts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.baton.web.plugins.module_utils.controller import host_addresses


def address_problems(hostvars: Mapping[str, Mapping[str, Any]], hosts: list[str]) -> list[str]:
    """Return sentences about addresses that aren't the hosts' own. `hosts`: all of the inventory."""
    found: list[str] = host_addresses.problems(hosts, hostvars)
    return found


class FilterModule:
    """Filters by name."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names as used in playbooks."""
        return {"address_problems": address_problems}
