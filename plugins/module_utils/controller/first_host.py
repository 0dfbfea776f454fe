"""Which app server `hosts: first` stands for, of process types and schedules that must never run on two hosts at once.

It is the first of the group when nothing runs yet. From then on it is the host that runs them, which every app server
notes, for as long as it is in the group: whatever the order of the inventory, or of a run with --limit. Another one is
an operator's to choose (`app_first_host`), and is refused while they run, or may run, elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import process_settings, schedule_settings

NONE = "none"  # of app_first_host: they run nowhere


@dataclass(frozen=True)
class Host:
    """What a host says of itself, where this run has asked it."""

    asked: bool = False
    noted: str = ""  # the host that `hosts: first` stood for when the last change ended well
    runs: Sequence[str] = field(default_factory=list)  # its process types and schedules that have not stopped


def alone(processes: Any, schedules: Any) -> dict[str, str]:
    """The process types and schedules with `hosts: first`, each with its units, without `<app>-`.

    Nothing has checked the settings.
    """
    found = {}
    for given, defaults, units in (
        (processes, process_settings.DEFAULTS, "{0}@*.service"),
        (schedules, schedule_settings.DEFAULTS, "{0}.timer {0}.service"),
    ):
        for name, one in given.items() if isinstance(given, Mapping) else ():
            if isinstance(one, Mapping) and one.get("hosts", defaults["hosts"]) == "first":
                found[str(name)] = units.format(name)
    return found


def chosen(servers: Sequence[str], hosts: Mapping[str, Host], names: Mapping[str, str], wanted: str = "") -> str:
    """The one of the app servers; empty for none. `names` are those of `alone`, `wanted` the operator's choice."""
    if not names:
        return ""
    if wanted:
        return "" if wanted == NONE else wanted
    running = [server for server in servers if _running(hosts.get(server, Host()), names)]
    noted = [host for host in _known(servers, hosts) if host in servers]
    return next(iter([*running, *noted, *servers]), "")


def problems(
    application: str, servers: Sequence[str], hosts: Mapping[str, Host], names: Mapping[str, str], wanted: str = ""
) -> list[str]:
    """Why what must run on one host alone could run on two, a sentence or more for each cause, with the fix."""
    if wanted not in ("", NONE, *servers):
        return [
            f'app_first_host is "{wanted}", which is no host of app_servers. Name one of {", ".join(servers)}, or '
            f"{NONE} to have what runs on one host alone stopped."
        ]
    first = chosen(servers, hosts, names, wanted)
    if not names or not first:
        return []
    running = {name: _running(host, names) for name, host in hosts.items()}
    found = []
    for host in (name for name, theirs in running.items() if set(theirs) - set(running.get(first, []))):
        theirs = [name for name in running[host] if name not in running.get(first, [])]
        which = ", ".join(theirs)
        they = f"{host} runs {which}, which must not run on {first} (hosts: first) at the same time"
        if host in servers:
            found.append(
                f"{they}. Have no host run it first, by playbooks/configure.yml -e app_first_host={NONE}; then run "
                f"playbooks/configure.yml -e app_first_host={first}."
            )
        else:
            found.append(
                f"{they}, and is no longer in app_servers. Stop it there: {_stop(application, names, theirs)}."
            )
    known = _known(servers, hosts)
    # nothing is started where nothing is asked, and what runs on one of them already has been looked at above
    if not hosts.get(first, Host()).asked or any(running.get(server) for server in servers):
        return found
    for host in known or servers:
        if host == first or hosts.get(host, Host()).asked:
            continue
        they = f"{', '.join(names)} (hosts: first) may run on {host}, which this run doesn't ask"
        if host in servers:
            found.append(f"{they}. Run this without --limit; or take {host} out of app_servers when it is lost.")
        elif not wanted:
            stop = _stop(application, names, names)
            found.append(
                f"{they}, as it is no longer in the inventory. Make sure that it is off, or stop them there: {stop}. "
                f"Then say so, by playbooks/configure.yml -e app_first_host={first}."
            )
    return found


def _known(servers: Sequence[str], hosts: Mapping[str, Host]) -> list[str]:
    """The hosts that app servers have noted."""
    return list(dict.fromkeys(noted for server in servers if (noted := hosts.get(server, Host()).noted)))


def _running(host: Host, names: Mapping[str, str]) -> list[str]:
    return [name for name in host.runs if name in names]


def _stop(application: str, names: Mapping[str, str], which: Sequence[str] | Mapping[str, str]) -> str:
    units = " ".join(f"'{application}-{unit}'" for name in which for unit in names[name].split())
    return f"`systemctl disable --now {units}`"
