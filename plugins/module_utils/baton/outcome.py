"""How a change of the whole fleet went: causes from Ansible's results, and what each host ends with, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

UNREACHABLE = "it can't be reached"


def failure(result: Mapping[str, Any]) -> str:
    """Why a task failed, from its result: the message of the item that failed, where it was a loop."""
    for item in result.get("results") or []:
        if item.get("failed") or item.get("unreachable"):
            return failure(item)
    words = [str(result[key]).strip() for key in ("msg", "stderr") if result.get(key)]
    return "\n".join(words) or "it failed without a word"


def troubles(hosts: Sequence[str], known: Mapping[str, Any], active: Sequence[str]) -> dict[str, dict[str, str]]:
    """The hosts on which something went wrong, with step and message.

    `known` is Ansible's hostvars; a host that isn't `active` any more has become unreachable.
    """
    found: dict[str, dict[str, str]] = {}
    for host in hosts:
        if "baton_trouble" in known[host]:
            found[host] = dict(known[host]["baton_trouble"])
        elif host not in active:
            found[host] = {"step": "connection", "message": UNREACHABLE}
    return found


def switched(hosts: Sequence[str], known: Mapping[str, Any]) -> list[str]:
    """The hosts that a change has handed over."""
    return [host for host in hosts if _registered(known[host], "app_service_activated").get("changed")]


def _registered(variables: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = variables.get(name, {})
    return found


def hosts(names: Sequence[str], known: Mapping[str, Any], active: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What became of each host, as the receipt and the history tell it.

    `way` is how it was handed over, `release` what it ends with, `reverted` whether it was put back, `problem` what
    keeps it from being right (empty when nothing does).
    """
    told = {}
    for host in names:
        variables = known[host]
        activated = _registered(variables, "app_service_activated")
        reverted = _registered(variables, "app_service_reverted")
        stuck = str(variables["baton_stuck"]) if "baton_stuck" in variables else ""
        if host not in active or reverted.get("unreachable"):
            stuck = f"{UNREACHABLE}, so what it serves is unknown; run this again, or deploy, when it is back"
        told[host] = {
            "way": activated.get("way", "none") if activated.get("changed") else "none",
            "seconds": activated.get("seconds", 0.0),
            "began": activated.get("began"),
            "before": activated.get("previous"),
            "release": reverted.get("release") or activated.get("release"),
            "reverted": bool(reverted.get("changed")),
            "problem": stuck,
        }
    return told


def summary(title: str, found: Mapping[str, Mapping[str, str]], told: Mapping[str, Mapping[str, Any]]) -> str:
    """Why a change failed and what each host ends with, for people."""
    by_cause: dict[tuple[str, str], list[str]] = {}
    for host, trouble in found.items():
        by_cause.setdefault((trouble["step"], trouble["message"]), []).append(host)
    lines = [f"{title} failed."]
    for (step, message), names in by_cause.items():
        lines += [f"{', '.join(names)}, {step}: {message}"]
    for host, outcome in told.items():
        if outcome["problem"]:
            lines.append(f"{host}: {outcome['problem']}.")
    well = [host for host in told if not told[host]["problem"]]
    if well:
        back = [host for host in well if told[host]["reverted"]]
        lines.append(
            f"What served before serves on {', '.join(well)}"
            + (f"; put back on {', '.join(back)}." if back else "; nothing had been switched there.")
        )
    return "\n".join(lines)
