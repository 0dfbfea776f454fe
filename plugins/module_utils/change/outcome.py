"""How a change of the whole fleet went: causes from Ansible's results, and what each host ends with, in words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..host import untrusted

UNREACHABLE = "it can't be reached"
INTERRUPTED = "Interrupted by the operator."
# the fix for a failure in a step whose messages come from the application or from Ansible
NEXT = {
    "migration": "The database is as the migration left it. Fix the migration, then deploy again.",
    "rehearsal": "Fix the application or its settings, then run this again; the hosts need no repair.",
    "processes": "Fix the cause, then run this again; playbooks/logs.yml -e process=NAME shows more of its output.",
    "handover": "Fix the cause, then run this again; playbooks/logs.yml shows more of the application's output.",
    "connection": "Repair the host, or exclude it with --limit; then run this again.",
}
# The settings that fix known errors of an application. Every repetition is bounded: on a word of some megabytes, an
# unbounded search would take hours.
ADVICE = (
    (
        re.compile(r"(?<!\S)(\S{1,255}\.so(?:\.\d{1,9}){0,9}): cannot open shared object file"),
        "{} is a library of the distribution: add its package to python_runtime_packages (find it with "
        "`apt-file search {}` on a host), then run site.yml.",
    ),
    (
        re.compile(r'permission denied to create extension \\?"([\w-]{1,99})'),
        "The application's database user may not create the extension {}. Add `extensions: [{}]` to the database "
        "in postgresql_server_databases; site.yml then creates it as the superuser.",
    ),
    (
        re.compile(
            r'extension \\?"([\w-]{1,99})\\?" is not available'
            r"|extension control file .{0,999}/([\w-]{1,99})\.control"
        ),
        "The database server has no extension {}: install its package there (postgresql-<version>-{}, or the "
        "distribution's name for it), and add it to `extensions` in postgresql_server_databases.",
    ),
    (
        re.compile(r"([Cc]annot allocate (?:write\+execute|executable) memory)"),
        "A library compiles code at run time, or uses C callbacks: set "
        "app_service_memory_deny_write_execute: false (docs/operations.md, The sandbox).",
    ),
    (
        re.compile(r"\bsh: \d{1,9}: (?:exec: )?(\S{1,999}): (?:not found|Permission denied)"),
        "Neither the release nor the host has a program {}: correct the command (app_processes, "
        "app_service_migration_command), or add the program to the application's requirements.",
    ),
    (
        re.compile(r"Read-only file system: '(/opt/[^']{1,999})'"),
        "{} is in the release, which is read-only to the application: write below the state folder, or link the "
        "path to it with app_release_state_links.",
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
    return untrusted.printable("\n".join(words)) or "it failed without a message"


def record_failure(outcome: Mapping[str, Any], step: str, failed: Mapping[str, Any]) -> dict[str, Any]:
    """A host's outcome with what went wrong in a step, from the result of the task that failed.

    A failed revert is the host's `revert_error`; any other step makes its `failure`, which keeps its first step and
    gathers the messages.
    """
    if step == "revert":
        return {**outcome, "revert_error": failure(failed)}
    before = outcome.get("failure") or {"step": step, "message": ""}
    message = "\n".join(filter(None, (before["message"], failure(failed))))
    return {**outcome, "failure": {"step": before["step"], "message": message}}


def results(
    hosts: Sequence[str], known: Any, outputs: Mapping[str, str], active: Sequence[str] | None = None
) -> dict[str, dict[str, Any]]:
    """What each host hands on of a change, one dictionary a host; every key is there, and empty where nothing is known.

    `known` is Ansible's hostvars, `outputs` which variable has a part of it: `rehearsal`, `activation`, `processes` (of
    those that a release reaches before `web`), `ends` (of the old ones), `revert`, `traffic` and `finish` are results
    of modules, `outcome` is what `record_failure` has made. A host that isn't
    `active` any more (when that is given) is `lost`.
    """
    found = {}
    for host in hosts:
        # as they are kept: they hold no templates, and a host's variables are dear to ask for
        variables = known.raw_get(host) if hasattr(known, "raw_get") else known[host]
        told = {part: untrusted.mapping(variables.get(name)) for part, name in outputs.items()}
        outcome = told.pop("outcome", {})
        found[host] = told | {
            "failure": untrusted.mapping(outcome.get("failure")),
            "revert_error": outcome.get("revert_error", ""),
            "lost": active is not None and host not in active,
        }
    return found


def failures(results: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """The hosts on which something went wrong, with step and message."""
    found: dict[str, dict[str, str]] = {}
    for host, result in results.items():
        if result["failure"]:
            found[host] = dict(result["failure"])
        elif result["lost"]:
            found[host] = {"step": "connection", "message": UNREACHABLE}
    return found


def batch_sizes(wanted: Sequence[Any] | Any, count: int) -> list[int]:
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


def rehearsed_first(results: Mapping[str, Mapping[str, Any]], size: int) -> list[str]:
    """So many of the first hosts but the very first one, once that one has been rehearsed."""
    hosts = list(results)
    rehearsed = bool(hosts) and "rehearsed" in results[hosts[0]]["rehearsal"]
    return hosts[1:size] if rehearsed and not failures(results) else []


def later_hosts(results: Mapping[str, Mapping[str, Any]], size: int) -> list[str]:
    """The hosts after the first batch, once that one has been activated."""
    hosts = list(results)
    through = all("way" in results[host]["activation"] for host in hosts[:size])
    return hosts[size:] if through and not failures(results) else []


def outdated(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The hosts that don't serve already what they are to: whose rehearsal was due, or is not known of."""
    found = []
    for host, result in results.items():
        # the first batch is rehearsed on its own, the others while that one is activated
        told = [result["rehearsal"], result["activation"]]
        if any(one.get("rehearsed", False) for one in told) or not any("rehearsed" in one for one in told):
            found.append(host)
    return found


def activated(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The hosts that a change has activated a release on, or new workers."""
    return [host for host, result in results.items() if result["activation"].get("changed")]


def changed(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The hosts on which a change has activated anything, be it background processes alone."""
    return [
        host
        for host, result in results.items()
        if result["activation"].get("changed") or result["processes"].get("changed")
    ]


def processes(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What a change did to the background processes of a host, by type: way, units started and stopped, seconds; the
    pids of the `new` processes; of each of the `old` ones pid, state and seconds, as process_ends_info says them.
    """
    told = {}
    ends = untrusted.mapping(result["ends"].get("ends"))
    for name, about in _background(result):
        started, stopped = (untrusted.texts(about.get(key)) for key in ("started", "stopped"))
        pids = untrusted.mapping(about.get("pids"))
        told[name] = {
            "way": untrusted.text(about.get("way")),
            "started": len(started),
            "stopped": len(stopped),
            "seconds": untrusted.number(about.get("seconds")),
            "new": [untrusted.whole_number(pids.get(unit)) for unit in started],
            "old": [
                {
                    "pid": untrusted.whole_number(pids.get(unit)),
                    "state": untrusted.text(untrusted.mapping(ends.get(unit)).get("state")),
                    "seconds": untrusted.number(untrusted.mapping(ends.get(unit)).get("seconds")),
                }
                for unit in stopped
            ],
        }
    return told


def stopped_processes(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The units of background processes that a change has told to stop on a host, and when, by type."""
    return {
        name: {"stopped": units, "told": untrusted.moment(about.get("told"))}
        for name, about in _background(result)
        if (units := untrusted.texts(about.get("stopped")))
    }


def _background(result: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    told = [untrusted.mapping(result[part].get("processes")) for part in ("processes", "activation")]
    return [(untrusted.text(name), untrusted.mapping(one)) for found in told for name, one in found.items()]


def activation_failed(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The hosts whose activation failed, or their rehearsal meanwhile."""
    return [host for host, result in results.items() if result["activation"].get("failed")]


def activation_end(results: Mapping[str, Mapping[str, Any]]) -> float:
    """When the last of them was activated or reverted, by the controller's clock; 0 when none was."""
    steps = [result[step] for result in results.values() for step in ("activation", "revert")]
    return max((untrusted.moment(step["ended"]) for step in steps if "ended" in step), default=0.0)


def revert_failed(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The hosts that could not be put back."""
    return [host for host, result in results.items() if result["revert_error"]]


def hosts(results: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What became of each host, as the receipt and the history tell it.

    `way` is how it was activated, `release` what it ends with, `reverted` whether it was put back, `problem` what
    keeps it from being right (empty when nothing does).
    """
    told = {}
    for host, result in results.items():
        activation, revert = result["activation"], result["revert"]
        problem = str(result["revert_error"])
        if result["lost"] or revert.get("unreachable"):
            problem = f"{UNREACHABLE}, so what it serves is unknown; see playbooks/status.yml when it is back"
        told[host] = {
            "way": activation.get("way", "none") if activation.get("changed") else "none",
            "seconds": untrusted.number(activation.get("seconds")),
            "started": activation.get("started"),
            "previous": activation.get("previous"),
            # who was asked to go back says what it serves now, be it nothing
            "release": (revert if "release" in revert else activation).get("release"),
            "reverted": bool(revert.get("changed")),
            "processes": processes(result),
            "problem": problem,
            **({"failed": True, "msg": problem} if problem else {}),
        }
    return told


def conclusion(
    change: Mapping[str, Any], run: Mapping[str, Any], results: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """How a change ended. Keys: `happened` (whether there is anything to tell), `deploy` (as receipt takes it),
    `hosts`, `entries` (for each host, as finish takes it), `summary` (why it failed; empty when it did not).

    `change` says kind, application, release, version, migrations, began and now (seconds since the epoch).
    """
    found = failures(results)
    told = hosts(results)
    title = f"The {change['kind']} of {change['application']}"
    steps = {one["step"] for one in found.values()}
    why = summary(title, found, told) if found else ""
    if found and change["kind"] == "deploy" and change["migrations"] == "blocking" and not steps & BEFORE_MIGRATION:
        why += (
            f"\nThe blocking migration of {change['release']} may have run. In that case the previous release doesn't "
            "work with the database. Undo the migration, or deploy a release that fits it."
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
            "serves": host["release"],
            **{key: host[key] for key in ("previous", "way", "seconds")},
        }
        for name, host in told.items()
    }
    return {
        "happened": bool(found or changed(results)),
        "deploy": deploy,
        "hosts": told,
        "entries": entries,
        "summary": why,
    }


def traffic(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What the edges' logs said, by edge: from the results of a loop over edges, which every host has or its own."""
    return {
        item["item"]: item
        for result in results.values()
        for item in (result["traffic"].get("results") or [])
        if "item" in item
    }


def failed_after_commit(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Which hosts were activated and don't serve at the change's end, for people; empty when all do."""
    found = {host: result["finish"].get("trouble") for host, result in results.items()}
    lines = [f"{host} was activated but no longer serves: {why}." for host, why in found.items() if why]
    if lines:
        lines.append(
            "The change was already complete, so nothing was reverted. Repair the host, then run this again, or "
            "go back with playbooks/rollback.yml."
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
            f"Serving as before the change: {', '.join(serve)}"
            + (f"; reverted: {', '.join(back)}." if back else "; nothing was activated there.")
        )
    if idle:
        lines.append(f"Without a release, as before the change: {', '.join(idle)}.")
    serving: dict[str, list[str]] = {}
    for host in serve:
        serving.setdefault(str(told[host]["release"]), []).append(host)
    if len(serving) > 1:
        # a change before this one was cut short
        each = "; ".join(f"{', '.join(names)} {release}" for release, names in serving.items())
        lines.append(f"The hosts serve different releases: {each}. Run a deploy or playbooks/rollback.yml to fix that.")
    return untrusted.printable("\n".join(lines))
