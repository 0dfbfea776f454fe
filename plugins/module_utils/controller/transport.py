"""Change the connection from the edges to the app servers between plain and TLS without losing a request.

Edges use TLS only if every app server accepts it and trusts the address that requests then come from, its own. A port
is closed only after no edge uses it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SETTING = "app_servers_tls"
CHOICES = {"disabled", "offered", "required"}


def static_problems(values: Mapping[str, str], load_balancers: Sequence[str]) -> list[str]:
    """Return messages about invalid values of the setting; `values` are those of all app servers and edges."""
    if set(values.values()) - CHOICES:
        return []  # the check of all settings reports it
    if len(set(values.values())) > 1:
        shown = ", ".join(f"{host} {value}" for host, value in values.items())
        return [f"{SETTING} differs between the hosts ({shown}). Set it for all of them."]
    if not load_balancers and set(values.values()) - {"disabled"}:
        return [
            f"{SETTING} is {next(iter(values.values()))}, but the group load_balancers is empty: each app server is "
            f"its own edge, and requests don't leave it. Remove {SETTING}, or add load balancers."
        ]
    return []


def problems(
    known: Mapping[str, Mapping[str, Any]],
    addresses: Mapping[str, str],
    app_servers: Sequence[str],
    load_balancers: Sequence[str],
    tls: str,
) -> list[str]:
    """Return messages about hosts on which the change from one setting to another would skip a step.

    `known`: the hosts of the run, each with the fact app_transport and its app_release. `addresses`: those at which
    other hosts reach them.
    """
    moving = differing(known, load_balancers, tls)
    closing = [host for host in app_servers if tls == "disabled" and known.get(host, {}).get("takes_tls")]
    if not moving and not closing:
        return []
    if unknown := [host for host in (*app_servers, *load_balancers) if host not in known]:
        return [
            f"{SETTING} changes to {tls} for {', '.join(dict.fromkeys([*moving, *closing]))}, and "
            f"{', '.join(dict.fromkeys(unknown))} is excluded by --limit. Run site.yml for all app servers and edges."
        ]
    if tls == "disabled" and moving:
        return [
            f"{SETTING} is disabled, and {', '.join(moving)} still sends requests by TLS. Set {SETTING}: offered and "
            "run site.yml first, then disable it."
        ]
    unready = [
        host
        for host in app_servers
        if known[host]["release"] and not (known[host]["takes_tls"] and addresses[host] in known[host]["trusted"])
    ]
    if tls == "required" and moving and unready:
        return [
            f"{SETTING} is required, and {', '.join(unready)} doesn't accept requests by TLS yet. Set {SETTING}: "
            "offered and run site.yml first, then require it."
        ]
    return []


def differing(known: Mapping[str, Mapping[str, Any]], load_balancers: Sequence[str], tls: str) -> list[str]:
    """Return the edges that don't send requests as the setting demands; edges without a site send none."""
    wanted = "tls" if tls == "required" else "plain"
    return [edge for edge in load_balancers if known.get(edge, {}).get("sends", "") not in ("", wanted)]


def differing_problems(known: Mapping[str, Mapping[str, Any]], load_balancers: Sequence[str], tls: str) -> list[str]:
    """Return a message about edges that only site.yml would change to the setting."""
    edges = differing(known, load_balancers, tls)
    return edges and [
        f"{SETTING} is {tls}, and {', '.join(edges)} sends requests {'without' if tls == 'required' else 'by'} TLS. "
        "Run site.yml, which changes that, or put the setting back."
    ]


def is_plain_open(known: Mapping[str, Mapping[str, Any]], host: str, load_balancers: Sequence[str]) -> bool:
    """Whether an app server's plain port stays open although TLS is required, until this run has changed the edges.

    If the facts of an edge are missing, the port stays as it is.
    """
    if is_moving(known, load_balancers):
        return True
    return not known.keys() >= set(load_balancers) and bool(known.get(host, {}).get("takes_plain"))


def is_moving(known: Mapping[str, Mapping[str, Any]], load_balancers: Sequence[str]) -> bool:
    """Whether an edge sent plain requests when the run began."""
    return any(known.get(edge, {}).get("sends") == "plain" for edge in load_balancers)
