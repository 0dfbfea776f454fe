"""Ansible filters about the limits of a site: what one client, and all of them together, may take."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleError
from ansible_collections.baton.web.plugins.filter import settings
from ansible_collections.baton.web.plugins.module_utils.app import workers
from ansible_collections.baton.web.plugins.module_utils.edge import limits

# the settings that say how many there are
_WORKER_SETTINGS = ("workers", "workload", "worker_memory_mb", "memory_percent")


def worker_count(facts: Mapping[str, Any], given: Mapping[str, Any]) -> int:
    """The workers of a host with these facts; `given` are the settings of app_service, without that prefix."""
    found: int = workers.count(
        int(facts["processor_vcpus"]),
        int(facts["memtotal_mb"]),
        workload=str(given["workload"]),
        **{name: int(given[name]) for name in _WORKER_SETTINGS if name != "workload"},
    )
    return found


def worker_counts(hosts: Sequence[str], hostvars: Mapping[str, Mapping[str, Any]]) -> list[int]:
    """The workers of each of these hosts; 0 where the host isn't known."""
    return [_of_host(hostvars[host]) for host in hosts]


def _of_host(variables: Mapping[str, Any]) -> int:
    options = settings.argument_specs()["app_service"]["argument_specs"]["main"]["options"]
    names = {name: f"app_service_{name}" for name in _WORKER_SETTINGS}
    given = {name: variables.get(full, options[full]["default"]) for name, full in names.items()}
    # what the application's environment says comes first, as in gunicorn.conf.py
    with contextlib.suppress(AnsibleError, KeyError, ValueError, TypeError):
        return max(1, int((variables.get("app_config_environment") or {})["WEB_CONCURRENCY"]))
    with contextlib.suppress(KeyError, ValueError, TypeError, ZeroDivisionError):
        # a number is known before the host is
        return int(given["workers"]) or worker_count(variables["ansible_facts"], given)
    return 0


def upstream_workers(upstreams: Sequence[str], counts: Sequence[int]) -> dict[str, int]:
    """The workers behind each upstream, of those that are known."""
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
