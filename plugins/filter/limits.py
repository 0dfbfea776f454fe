"""Ansible filters about a site's limits on requests and connections, per client and in total."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleError
from ansible_collections.baton.web.plugins.filter import settings
from ansible_collections.baton.web.plugins.module_utils.app import workers
from ansible_collections.baton.web.plugins.module_utils.edge import limits

# the settings that determine the number of workers
_WORKER_SETTINGS = ("workers", "workload", "worker_memory_mb", "memory_percent")


def worker_count(facts: Mapping[str, Any], given: Mapping[str, Any]) -> int:
    """Return the number of workers of a host. `given`: settings of app_service without the role's prefix."""
    found: int = workers.count(
        int(facts["processor_vcpus"]),
        int(facts["memtotal_mb"]),
        workload=str(given["workload"]),
        **{name: int(given[name]) for name in _WORKER_SETTINGS if name != "workload"},
    )
    return found


def worker_counts(hosts: Sequence[str], hostvars: Mapping[str, Mapping[str, Any]]) -> list[int]:
    """Return the number of workers of each host; 0 if its facts aren't known."""
    return [_of_host(hostvars[host]) for host in hosts]


def _of_host(variables: Mapping[str, Any]) -> int:
    options = settings.argument_specs()["app_service"]["argument_specs"]["main"]["options"]
    names = {name: f"app_service_{name}" for name in _WORKER_SETTINGS}
    given = {name: variables.get(full, options[full]["default"]) for name, full in names.items()}
    # the application's environment takes precedence, as in gunicorn.conf.py
    with contextlib.suppress(AnsibleError, KeyError, ValueError, TypeError):
        return max(1, int((variables.get("app_config_environment") or {})["WEB_CONCURRENCY"]))
    with contextlib.suppress(KeyError, ValueError, TypeError, ZeroDivisionError):
        # an explicit number needs no facts
        return int(given["workers"]) or worker_count(variables["ansible_facts"], given)
    return 0


def upstream_workers(upstreams: Sequence[str], counts: Sequence[int]) -> dict[str, int]:
    """Return the number of workers of each upstream, without unknown ones."""
    return {upstream: count for upstream, count in zip(upstreams, counts, strict=True) if count}


class FilterModule:
    """Filters by name."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names as used in playbooks and roles."""
        return {
            "client_connections": limits.client_connections,
            "limit_directives": limits.directives,
            "limit_waits": limits.waits,
            "rate_wait": limits.wait,
            "limited_locations": limits.locations,
            "limited_addresses": limits.addresses,
            "upstream_limits": limits.upstream_limits,
            "upstream_workers": upstream_workers,
            "worker_count": worker_count,
            "worker_counts": worker_counts,
            "wrong_limits": limits.wrong,
        }
