"""Ansible filters about the whole fleet: its app servers, and how changes of it go and went."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import ansible.module_utils

# the `module_utils` setting of ansible.cfg holds for modules alone
ansible.module_utils.__path__.append(str(pathlib.Path(__file__).parents[1] / "module_utils"))

from ansible.module_utils.baton import history, outcome, upstream  # noqa: E402


class FilterModule:
    """Filters by name."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names as used in playbooks."""
        return {
            "baton_history_table": history.table,
            "baton_rollback": lambda hosts, wanted, force: history.rollback(hosts, wanted, force=force),
            "baton_failure": outcome.failure,
            "baton_troubles": outcome.troubles,
            "baton_switched": outcome.switched,
            "baton_ended": outcome.ended,
            "baton_batches": outcome.batches,
            "baton_companions": outcome.companions,
            "baton_followers": outcome.followers,
            "baton_outdated": outcome.outdated,
            "baton_conclusion": outcome.conclusion,
            "baton_evidence": outcome.evidence,
            "baton_fallen": outcome.fallen,
            "baton_upstreams": upstream.addresses,
        }
