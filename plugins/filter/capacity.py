"""Ansible filters about the capacity that a change needs on hosts and databases."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.baton.web.plugins.filter import first_host, limits, settings
from ansible_collections.baton.web.plugins.module_utils.controller import (
    capacity,
    process_settings,
    schedule_settings,
)


def problems(
    hostvars: Mapping[str, Mapping[str, Any]],
    app_servers: Sequence[str],
    database_servers: Sequence[str],
    provision: bool = False,
) -> list[str]:
    """Return a sentence for each host with too little capacity, as far as settings and facts are known.

    `provision`: whether this run applies the inventory's settings to the database servers.
    """
    if not app_servers:
        return []
    about = hostvars[app_servers[0]]
    first = first_host.choose(
        hostvars, app_servers, *(about.get(name) for name in ("app_processes", "app_schedules", "app_first_host"))
    )
    servers = [_server(host, hostvars[host], first=host == first) for host in app_servers]
    found = [capacity.memory_problem(server) for server in servers]
    for host in database_servers:
        variables = hostvars[host]
        running = 0 if provision else (variables.get("ansible_facts") or {}).get("postgresql_max_connections")
        limit = _number(variables, "postgresql_server_max_connections", _spec("postgresql_server"))
        if limit is not None:
            application = str(variables.get("app_name", "the application"))
            found.append(capacity.connection_problem(application, servers, host, limit, int(running or 0)))
    return [sentence for sentence in found if sentence]


def _server(host: str, variables: Mapping[str, Any], *, first: bool) -> capacity.Server:
    facts = variables.get("ansible_facts") or {}
    processes, schedules = variables.get("app_processes") or {}, variables.get("app_schedules") or {}
    name = str(variables.get("app_name", ""))
    # the role reports invalid settings; `count: cores` is 0 while the host's facts aren't known
    if process_settings.problems(processes, name):
        processes = {}
    if schedule_settings.problems(schedules, name, processes):
        schedules = {}
    cores = int(facts.get("processor_vcpus") or 0)
    due = schedule_settings.on_host(schedules, first=first)
    memory = int(facts.get("memtotal_mb") or 0)
    # only a percentage is checked: an absolute limit is the operator's choice
    share = str(variables.get("app_service_memory_max", _default("app_service_memory_max", _spec("app_service"))))
    share = share if re.fullmatch(r"[0-9]+(\.[0-9]+)?%", share) else ""
    return capacity.Server(
        name=host,
        workers=limits.worker_counts([host], {host: variables})[0],
        worker_memory_mb=_number(variables, "app_service_worker_memory_mb", _spec("app_service")) or 0,
        memory_mb=memory,
        web_memory_mb=capacity.megabytes(share, memory),
        connections=_number(variables, "app_database_connections", settings.playbook_specs()) or 0,
        processes=process_settings.on_host(processes, first=first, cores=cores),
        schedules=sum(bool(one["runs"]) for one in due.values()),
    )


def _spec(role: str) -> Mapping[str, Any]:
    spec: Mapping[str, Any] = settings.argument_specs()[role]
    return spec


def _number(variables: Mapping[str, Any], name: str, spec: Mapping[str, Any]) -> int | None:
    """Return a setting, or its default, as an int; None if it isn't a whole number, which another check reports."""
    value = variables.get(name, _default(name, spec))
    try:
        return int(value)
    except (TypeError, ValueError):
        return None


def _default(name: str, spec: Mapping[str, Any]) -> Any:
    return spec["argument_specs"]["main"]["options"][name]["default"]


class FilterModule:
    """Filters by name."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names as used in playbooks."""
        return {"capacity_problems": problems}
