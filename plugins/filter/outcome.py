"""Ansible filters about fleet-wide changes: outcomes, history, rollback, upstreams."""

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
            "rollback": history.rollback,
            "failure": outcome.failure,
            "record_failure": outcome.record_failure,
            "results": outcome.results,
            "failures": outcome.failures,
            "locked_hosts": outcome.locked_hosts,
            "batch_sizes": outcome.batch_sizes,
            "rehearsed_first": outcome.rehearsed_first,
            "later_hosts": outcome.later_hosts,
            "outdated": outcome.outdated,
            "activated": outcome.activated,
            "changed": outcome.changed,
            "activation_failed": outcome.activation_failed,
            "activation_end": outcome.activation_end,
            "revert_failed": outcome.revert_failed,
            "conclusion": outcome.conclusion,
            "started_processes": outcome.started_processes,
            "stopped_processes": outcome.stopped_processes,
            "replaced_on": outcome.replaced_on,
            "traffic": outcome.traffic,
            "failed_after_commit": outcome.failed_after_commit,
            "upstreams": upstream.addresses,
        }
