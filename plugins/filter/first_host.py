"""Ansible filters about process types and schedules with `hosts: first`, which must run on one host only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ansible_collections.baton.web.plugins.module_utils.controller import first_host
from ansible_collections.baton.web.plugins.module_utils.host import untrusted


def _hosts(hostvars: Any, names: Iterable[str]) -> dict[str, first_host.Host]:
    """Return what is known of these hosts, including those that this run hasn't asked."""
    found = {}
    for name in names:
        # raw: these variables contain no templates, and templating a host's variables is slow
        variables = hostvars.raw_get(name) if hasattr(hostvars, "raw_get") else hostvars[name]
        facts = untrusted.mapping(untrusted.mapping(variables).get("ansible_facts"))
        found[name] = first_host.Host(
            asked="app_runs" in facts,
            recorded=untrusted.text(facts.get("app_first_host")),
            runs=untrusted.texts(facts.get("app_runs")),
            starts_at_boot=untrusted.texts(facts.get("app_starts_at_boot")),
        )
    return found


def choose(hostvars: Any, servers: Sequence[str], processes: Any, schedules: Any, wanted: str | None = None) -> str:
    """Return the app server for `hosts: first`; empty for none."""
    names = first_host.on_first_host(processes, schedules)
    # evaluated for every host: read no variables for the many applications that don't use `hosts: first`
    return first_host.choose(servers, _hosts(hostvars, servers if names else ()), names, wanted or "")


def problems(
    hostvars: Any, application: str, servers: Sequence[str], processes: Any, schedules: Any, wanted: str = ""
) -> list[str]:
    """Return why something that must run on one host only could run on two, with the fix."""
    names = first_host.on_first_host(processes, schedules)
    hosts = _hosts(hostvars, hostvars if names else ())
    return first_host.problems(application, servers, hosts, names, first_host.hosts_of(processes, schedules), wanted)


class FilterModule:
    """Filters by name."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names as used in playbooks."""
        return {
            "first_host": choose,
            "first_host_problems": problems,
            "first_host_setting_problems": first_host.setting_problems,
        }
