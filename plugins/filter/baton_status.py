"""Ansible filters that turn the results of baton_status into words for people."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible.module_utils.baton import status


class FilterModule:
    """Filters by name; each takes a mapping of host to its result."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names as used in playbooks."""
        return {"baton_status_table": status.table, "baton_status_problems": status.fleet_problems}
