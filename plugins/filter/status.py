"""Ansible filters that turn the status of hosts into text."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from ansible_collections.baton.web.plugins.module_utils.change import status, status_report


def acme_outcome(slurped: str, path: str) -> dict[str, Any]:
    """Return the outcome in the file that ansible.builtin.slurp read at this path; empty without a content."""
    return status.acme_outcome(base64.b64decode(slurped), path) if slurped else {}


class FilterModule:
    """Filters by name."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names as used in playbooks."""
        return {
            "acme_outcome": acme_outcome,
            "status_table": status_report.table,
            "status_problems": status_report.fleet_problems,
        }
