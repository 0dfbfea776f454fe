"""Ansible filters about the whole fleet: its app servers, and how changes of it go and went."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.baton.web.plugins.module_utils.change import history, outcome
from ansible_collections.baton.web.plugins.module_utils.edge import upstream


class FilterModule:
    """Filters by name."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names as used in playbooks."""
        return {
            "history_table": history.table,
            "rollback": lambda hosts, wanted, force: history.rollback(hosts, wanted, force=force),
            "failure": outcome.failure,
            "troubles": outcome.troubles,
            "switched": outcome.switched,
            "ended": outcome.ended,
            "batches": outcome.batches,
            "companions": outcome.companions,
            "followers": outcome.followers,
            "outdated": outcome.outdated,
            "conclusion": outcome.conclusion,
            "evidence": outcome.evidence,
            "fallen": outcome.fallen,
            "upstreams": upstream.addresses,
        }
