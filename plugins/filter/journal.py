"""Ansible filter that turns the results of logs_info into text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.baton.web.plugins.module_utils.app import journal


class FilterModule:
    """Filters by name."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names as used in playbooks."""
        return {"journal_merged": journal.merged}
