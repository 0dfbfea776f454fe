"""How a change of the whole fleet went: causes from Ansible's results, and what each host ends with, in words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..host import untrusted

UNREACHABLE = "it can't be reached"
INTERRUPTED = "Interrupted by the operator."
# what to do about a failure in a step whose messages are others' words
NEXT = {
    "migration": "The database is as the migration has left it. Mend the migration, then deploy again.",
    "rehearsal": "Mend the application or its settings, then run this again; the hosts need nothing.",
    "handover": "Mend that, then run this again; playbooks/logs.yml has more of what the application said.",
    "connection": "See to the host, or leave it out with --limit; then run this again.",
}
# what an application's own words mean for its inventory
ADVICE = (
    (
        re.compile(r"(\S+\.so(?:\.\d+)*): cannot open shared object file"),
        "{} is a library of the distribution: name its package in python_runtime_packages (`apt-file search {}` "
        "on a host says which it is), then run site.yml.",
    ),
    (
        re.compile(r'permission denied to create extension \\?"([\w-]+)'),
        "The application's database user may not create the extension {}. Name it in the database's entry of "
        "postgresql_server_databases (`extensions: [{}]`), and site.yml creates it as the superuser.",
    ),
    (
        re.compile(r'extension \\?"([\w-]+)\\?" is not available|extension control file .*/([\w-]+)\.control'),
        "The database server has no extension {}: install its package there (postgresql-<version>-{}, or as the "
        "distribution names it), and name it in `extensions` of postgresql_server_databases.",
    ),
    (
        re.compile(r"([Cc]annot allocate (?:write\+execute|executable) memory)"),
        "A library compiles as it runs, or has C call back into Python: set "
        "app_service_memory_deny_write_execute: false (docs/operations.md, The sandbox).",
    ),
    (
        re.compile(r"Read-only file system: '(/opt/[^']+)'"),
        "{} is the release's, which the application can't write to: have it write below its state folder, or let "
        "app_release_state_links lead there.",
    ),
)
# what differs between two hosts that failed alike
_VARYING = re.compile(
    r"\d{4}-\d\d-\d\d[T ][\d:.,]+Z?|\[\d+\]|\bpid[ :=]*\d+|\bprocess \[?\d+\]?|0x[0-9a-f]{6,}|\b\d+(?:\.\d+)? m?s\b"
)
BEFORE_MIGRATION = {"configuration", "staging"}
RESULTS = {"deploy": "deployed", "rollback": "rolled back", "restart": "restarted", "configure": "configured"}


def failure(result: Mapping[str, Any]) -> str:
    """Why a task failed, from its result: the message of the item that failed, where it was a loop."""
    for item in result.get("results") or []:
        if item.get("failed") or item.get("unreachable"):
            return failure(item)
    words = [str(result[key]).strip() for key in ("msg", "stderr") if result.get(key)]
    return untrusted.printable("\n".join(words)) or "it failed without a word"


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


def batches(wanted: Sequence[Any] | Any, count: int) -> list[int]:
    """The sizes of the batches of so many hosts, in Ansible's sense of `serial`: numbers, or percent of all hosts.

    The last size goes on to the end; a size of 0 is all that are left.
    """
    sizes: list[int] = []
    wishes = list(wanted) if isinstance(wanted, list | tuple) else [wanted]
    while sum(sizes) < count or not sizes:
        wish = str(wishes[min(len(sizes), len(wishes) - 1)])
        size = max(1, int(count * float(wish[:-1]) / 100)) if wish.endswith("%") else int(wish)
        left = count - sum(sizes)
        sizes.append(min(size, left) if size > 0 else left)
    return sizes


def companions(hosts: Sequence[str], known: Mapping[str, Any], first: int) -> list[str]:
    """The hosts that are handed over to with the first one, once that one has been rehearsed."""
    rehearsed = bool(hosts) and "rehearsed" in _registered(known[hosts[0]], "app_service_rehearsed")
    return list(hosts[1:first]) if rehearsed and not _in_trouble(hosts, known) else []


def followers(hosts: Sequence[str], known: Mapping[str, Any], first: int) -> list[str]:
    """The hosts that come after the first batch, once that has been handed over to."""
    through = all("way" in _registered(known[host], "app_service_activated") for host in hosts[:first])
    return list(hosts[first:]) if through and not _in_trouble(hosts, known) else []


def _in_trouble(hosts: Sequence[str], known: Mapping[str, Any]) -> bool:
    return any("baton_trouble" in known[host] for host in hosts)


def outdated(hosts: Sequence[str], known: Mapping[str, Any]) -> list[str]:
    """The hosts that don't serve already what they are to: whose rehearsal was due, or is not known of."""
    found = []
    for host in hosts:
        # the first batch is rehearsed on its own, the others while that one is handed over to
        told = [_registered(known[host], name) for name in ("app_service_rehearsed", "app_service_activated")]
        if any(result.get("rehearsed", False) for result in told) or not any("rehearsed" in result for result in told):
            found.append(host)
    return found


def switched(hosts: Sequence[str], known: Mapping[str, Any]) -> list[str]:
    """The hosts that a change has handed over."""
    return [host for host in hosts if _registered(known[host], "app_service_activated").get("changed")]


def ended(hosts: Sequence[str], known: Mapping[str, Any]) -> float:
    """When the last of them was handed over, by the controller's clock; at least one has been."""
    return max(
        untrusted.moment(activated["ended"])
        for activated in (_registered(known[host], "app_service_activated") for host in hosts)
        if "ended" in activated
    )


def _registered(variables: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return untrusted.mapping(variables.get(name))


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
        problem = str(variables["baton_stuck"]) if "baton_stuck" in variables else ""
        if host not in active or reverted.get("unreachable"):
            problem = f"{UNREACHABLE}, so what it serves is unknown; see playbooks/status.yml when it is back"
        told[host] = {
            "way": activated.get("way", "none") if activated.get("changed") else "none",
            "seconds": untrusted.number(activated.get("seconds")),
            "started": activated.get("started"),
            "previous": activated.get("previous"),
            # who was asked to go back says what it serves now, be it nothing
            "release": (reverted if "release" in reverted else activated).get("release"),
            "reverted": bool(reverted.get("changed")),
            "problem": problem,
            **({"failed": True, "msg": problem} if problem else {}),
        }
    return told


def conclusion(
    change: Mapping[str, Any],
    run: Mapping[str, Any],
    names: Sequence[str],
    known: Mapping[str, Any],
    active: Sequence[str],
) -> dict[str, Any]:
    """How a change ended. Keys: `happened` (whether there is anything to tell), `deploy` (as receipt takes it),
    `hosts`, `entries` (for each host, as finish takes it), `summary` (why it failed; empty when it did not).

    `change` says kind, application, release, version, migrations, began and now (seconds since the epoch).
    """
    found = troubles(names, known, active)
    told = hosts(names, known, active)
    title = f"The {change['kind']} of {change['application']}"
    steps = {trouble["step"] for trouble in found.values()}
    why = summary(title, found, told) if found else ""
    if found and change["kind"] == "deploy" and change["migrations"] == "blocking" and not steps & BEFORE_MIGRATION:
        why += (
            f"\nThe blocking migration of {change['release']} may have run: the database isn't what the release before "
            "expects then. Undo the migration, or deploy a release that fits it."
        )
    result = RESULTS[change["kind"]]
    if found:
        result = "reverted" if any(host["reverted"] for host in told.values()) else "failed"
    before = [host["previous"] for host in told.values() if host["previous"]]
    deploy = {
        "application": change["application"],
        "kind": change["kind"],
        "result": result,
        "release": change["release"] or next((host["release"] for host in told.values() if host["release"]), ""),
        "previous": before[0] if before else "",
        "version": change["version"],
        "who": run["who"].partition("@")[0],
        "where": run["who"].partition("@")[2],
        "reason": why,
        "started": change["began"],
        "ended": change["now"],
    }
    entries = {
        name: {
            **{key: deploy[key] for key in ("kind", "release", "version", "result")},
            "who": run["who"],
            "token": run["token"],
            "when": change["began"],
            # none has run when a step before it failed
            "migrations": "" if steps & BEFORE_MIGRATION else change["migrations"],
            "reason": why.partition("\n")[2].partition("\n")[0] if found else "",
            **{key: host[key] for key in ("previous", "way", "seconds")},
        }
        for name, host in told.items()
    }
    return {
        "happened": bool(found or switched(names, known)),
        "deploy": deploy,
        "hosts": told,
        "entries": entries,
        "summary": why,
    }


def evidence(names: Sequence[str], known: Mapping[str, Any], register: str) -> dict[str, Any]:
    """What the edges said, by edge: from the results of a loop over edges, which every host has or its own."""
    return {
        item["item"]: item
        for name in names
        for item in (_registered(known[name], register).get("results") or [])
        if "item" in item
    }


def fallen(names: Sequence[str], known: Mapping[str, Any]) -> str:
    """Which hosts were handed over and don't serve at the change's end, for people; empty when all do."""
    troubles = {host: _registered(known[host], "__baton_finished").get("trouble") for host in names}
    lines = [f"{host} took over and doesn't serve any more: {why}." for host, why in troubles.items() if why]
    if lines:
        lines.append(
            "The change had come to its end, so nothing was put back. See to that host, then run this again; "
            "playbooks/rollback.yml goes back."
        )
    return "\n".join(lines)


def alike(host: str, message: str) -> str:
    """What two hosts' messages have in common when they failed for the same reason."""
    return _VARYING.sub("", re.sub(rf"(?<![\w-]){re.escape(host)}(?![\w-])", "", message))


def advice(message: str) -> list[str]:
    """The settings that mend what an application or a migration failed for, each a sentence."""
    told = []
    for pattern, words in ADVICE:
        names = [next(filter(None, found.groups())) for found in pattern.finditer(message)]
        told += [words.replace("{}", name) for name in dict.fromkeys(names)]
    return told


def summary(title: str, found: Mapping[str, Mapping[str, str]], told: Mapping[str, Mapping[str, Any]]) -> str:
    """Why a change failed and what each host ends with, for people."""
    by_cause: dict[tuple[str, str], list[str]] = {}
    for host, trouble in found.items():
        by_cause.setdefault((trouble["step"], alike(host, trouble["message"])), []).append(host)
    lines = [f"{title} failed."]
    for (step, _), names in by_cause.items():
        message = found[names[0]]["message"].removeprefix(f"{names[0]}: ")
        lines += [f"{', '.join(names)}, {step}: {message}"]
    lines += dict.fromkeys(one for trouble in found.values() for one in advice(trouble["message"]))
    # who pressed Ctrl-C knows what to do
    steps = {trouble["step"]: True for trouble in found.values() if trouble["message"] != INTERRUPTED}
    lines += [NEXT[step] for step in steps if step in NEXT]
    for host, outcome in told.items():
        if outcome["problem"]:
            lines.append(f"{host}: {outcome['problem']}.")
    well = [host for host in told if not told[host]["problem"]]
    serve = [host for host in well if told[host]["release"]]
    idle = [host for host in well if not told[host]["release"]]
    if serve:
        back = [host for host in serve if told[host]["reverted"]]
        lines.append(
            f"What served before serves on {', '.join(serve)}"
            + (f"; put back on {', '.join(back)}." if back else "; nothing had been switched there.")
        )
    if idle:
        lines.append(f"Nothing was served on {', '.join(idle)} before, and nothing is now.")
    serving: dict[str, list[str]] = {}
    for host in serve:
        serving.setdefault(str(told[host]["release"]), []).append(host)
    if len(serving) > 1:
        # a change before this one was cut short
        each = "; ".join(f"{', '.join(names)} {release}" for release, names in serving.items())
        lines.append(f"The hosts don't serve the same: {each}. The next deploy or playbooks/rollback.yml mends that.")
    return untrusted.printable("\n".join(lines))
