"""Ansible filters that turn the results of status_info into text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.baton.web.plugins.module_utils.change import status


class FilterModule:
    """Filters by name; each takes a mapping of host to its result."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names as used in playbooks."""
        return {"status_table": status.table, "status_problems": status.fleet_problems}
