"""Ansible filters about what must run on one host alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ansible_collections.baton.web.plugins.module_utils.controller import first_host
from ansible_collections.baton.web.plugins.module_utils.host import untrusted


def _hosts(hostvars: Any, names: Iterable[str]) -> dict[str, first_host.Host]:
    """What these hosts say of themselves, whether or not this run has asked them."""
    found = {}
    for name in names:
        # as they are kept: they hold no templates, and a host's variables are dear to ask for
        variables = hostvars.raw_get(name) if hasattr(hostvars, "raw_get") else hostvars[name]
        facts = untrusted.mapping(untrusted.mapping(variables).get("ansible_facts"))
        asked, noted, runs = "app_runs" in facts, facts.get("app_first_host"), facts.get("app_runs")
        found[name] = first_host.Host(asked, untrusted.text(noted), untrusted.texts(runs))
    return found


def chosen(hostvars: Any, servers: Sequence[str], processes: Any, schedules: Any, wanted: str | None = None) -> str:
    """The app server that `hosts: first` stands for; empty for none."""
    alone = first_host.alone(processes, schedules)
    # each host asks this: most applications have nothing of the kind, and no variables are read for them
    return first_host.chosen(servers, _hosts(hostvars, servers if alone else ()), alone, wanted or "")


def problems(
    hostvars: Any, application: str, servers: Sequence[str], processes: Any, schedules: Any, wanted: str = ""
) -> list[str]:
    """Why what must run on one host alone could run on two, with the fix."""
    alone = first_host.alone(processes, schedules)
    return first_host.problems(application, servers, _hosts(hostvars, hostvars if alone else ()), alone, wanted)


class FilterModule:
    """Filters by name."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names as used in playbooks."""
        return {"first_host": chosen, "first_host_problems": problems}
