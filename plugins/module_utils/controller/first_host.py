"""Choose the app server for process types and schedules with `hosts: first`, which must never run on two hosts at once.

It is the first of the group while nothing runs yet. From then on it is the host that runs them, which every app server
records, as long as it is in the group: regardless of the inventory's order and of --limit. The operator can choose
another one (`app_first_host`), which is refused while they run, or may run, on another host.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..app.layout import Application
from . import process_settings, schedule_settings

NONE = "none"  # value of app_first_host: they run on no host


@dataclass(frozen=True)
class Host:
    """What is known of a host."""

    asked: bool = False  # whether this run has read it from the host
    recorded: str = ""  # the first host as of the last successful change
    # settings of its process types and schedules: of those that haven't stopped, and of those that start at boot
    runs: Sequence[str] = field(default_factory=list)
    starts_at_boot: Sequence[str] = field(default_factory=list)


def hosts_of(processes: Any, schedules: Any) -> dict[str, Any]:
    """Return the value of `hosts` by setting, such as `app_processes.beat`, of all process types and schedules.

    The settings may be invalid: those without one have None.
    """
    return {
        f"{setting}.{name}": one.get("hosts", defaults["hosts"]) if isinstance(one, Mapping) else None
        for setting, given, defaults in (
            ("app_processes", processes, process_settings.DEFAULTS),
            ("app_schedules", schedules, schedule_settings.DEFAULTS),
        )
        for name, one in (given.items() if isinstance(given, Mapping) else ())
    }


def on_first_host(processes: Any, schedules: Any) -> list[str]:
    """Return the settings of those with `hosts: first`."""
    return [name for name, hosts in hosts_of(processes, schedules).items() if hosts == "first"]


def choose(servers: Sequence[str], hosts: Mapping[str, Host], names: Sequence[str], wanted: str = "") -> str:
    """Return the first host; empty for none. `names`: see `on_first_host`. `wanted`: the operator's choice."""
    if not names:
        return ""
    if wanted:
        return "" if wanted == NONE else wanted
    running = [server for server in servers if _running(hosts.get(server, Host()), names)]
    recorded = [host for host in _recorded(servers, hosts) if host in servers]
    return next(iter([*running, *recorded, *servers]), "")


def setting_problems(servers: Sequence[str], wanted: str) -> list[str]:
    """Return a sentence if the operator's choice is no app server."""
    if not servers or wanted in ("", NONE, *servers):
        return []
    return [
        f'app_first_host is "{wanted}", which is not a host of app_servers. Name one of {", ".join(servers)}, or '
        f"{NONE} to stop everything with hosts: first."
    ]


def problems(
    application: str,
    servers: Sequence[str],
    hosts: Mapping[str, Host],
    names: Sequence[str],
    declared: Collection[str],
    wanted: str = "",
) -> list[str]:
    """Return why something that must run on one host only could run on two, with the fix.

    `declared`: the settings of all process types and schedules. What runs and isn't among them may have been renamed.
    """
    if wrong := setting_problems(servers, wanted):
        return wrong
    first = choose(servers, hosts, names, wanted)
    if not names or not first:
        return []
    running = {name: _running(host, names) for name, host in hosts.items()}
    known = _recorded(servers, hosts)
    found = []
    for host, about in hosts.items():
        if host == first:
            continue
        there = [*dict.fromkeys((*about.runs, *about.starts_at_boot))]
        # where the first host already runs them, this run stops them on other app servers
        which = [name for name in names if host not in servers or name not in running.get(first, [])]
        theirs = [name for name in which if name in there]
        # what runs on the new first host, too, ran on all
        both = hosts.get(first, Host()).runs
        removed = [name for name in there if host in known and name not in declared and name not in both]
        for those, why in (
            (theirs, f"which must not run on {first} (hosts: first) at the same time"),
            (removed, f"which the settings no longer have: under another name, it may start on {first} (hosts: first)"),
        ):
            they = f"{host} runs {', '.join(those)} (now, or after its next boot), {why}"
            if those and host in servers:
                found.append(
                    f"{they}. Stop it first with playbooks/configure.yml -e app_first_host={NONE}; then run "
                    f"playbooks/configure.yml -e app_first_host={first}."
                )
            elif those:
                found.append(
                    f"{they}, and is no longer in app_servers. Stop it there as root: `{_stop(application, those)}`."
                )
    # this run starts nothing on hosts that it hasn't asked, and running processes have been checked above
    if not hosts.get(first, Host()).asked or any(running.get(server) for server in servers):
        return found
    for host in known or servers:
        if host == first or hosts.get(host, Host()).asked:
            continue
        they = f"{', '.join(names)} (hosts: first) may run on {host}, which this run doesn't check"
        if host in servers:
            found.append(f"{they}. Run this without --limit, or remove {host} from app_servers if it is lost.")
        elif not wanted:
            found.append(
                f"{they}, because it is no longer in the inventory. Make sure that it is off, or stop them there as "
                f"root: `{_stop(application, names)}`. Then run playbooks/configure.yml -e app_first_host={first}."
            )
    return found


def _recorded(servers: Sequence[str], hosts: Mapping[str, Host]) -> list[str]:
    """Return the hosts that the app servers have recorded as first host."""
    return list(dict.fromkeys(name for server in servers if (name := hosts.get(server, Host()).recorded)))


def _running(host: Host, names: Sequence[str]) -> list[str]:
    return [name for name in host.runs if name in names]


def _stop(application: str, names: Sequence[str]) -> str:
    """Return the commands that stop process types and schedules on a host, and keep them from starting at boot.

    `disable` takes no patterns, and the names of the instances on that host are unknown.
    """
    app = Application(application)
    timers, units, links = [], [], []
    for setting, name in (name.split(".", 1) for name in names):
        if setting == "app_schedules":
            timers.append(f"{application}-{name}.timer")
            units.append(f"{application}-{name}.service")
        else:
            units.append(f"'{application}-{name}@*.service'")
            links += [f"{app.started_at_boot}/{application}-{name}@*.service", f"{app.instances}/{name}-*"]
    commands = {"systemctl disable --now": timers, "systemctl stop": units, "rm -f": links}
    return "; ".join(f"{command} {' '.join(words)}" for command, words in commands.items() if words)
