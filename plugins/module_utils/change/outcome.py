"""The outcome of a fleet-wide change: causes from Ansible's results, and each host's final state, as text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..host import untrusted

UNREACHABLE = "it can't be reached"
MAX_NAME = 128  # characters of a release's id
MAX_MESSAGES = 100  # of one task
INTERRUPTED = "Interrupted by the operator."
# the fix for a failure in steps whose messages come from the application or from Ansible
NEXT = {
    "migration": "The database is as the migration left it. Fix the migration, then deploy again.",
    "rehearsal": "Fix the application or its settings, then run this again; the hosts need no repair.",
    "processes": "Fix the cause, then run this again; playbooks/logs.yml -e process=NAME shows more of its output.",
    "handover": "Fix the cause, then run this again; playbooks/logs.yml shows more of the application's output.",
    "connection": "Repair the host, or exclude it with --limit; then run this again.",
}
# The settings that fix known errors of an application. Every repetition is bounded: in a line of several megabytes, an
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
        "app_service_memory_deny_write_execute: false (docs/operations.md, The application's sandbox).",
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
# what differs in the messages of two hosts that failed for the same reason
_VARYING = re.compile(
    r"\d{4}-\d\d-\d\d[T ][\d:.,]+Z?|\[\d+\]|\bpid[ :=]*\d+|\bprocess \[?\d+\]?|0x[0-9a-f]{6,}|\b\d+(?:\.\d+)? m?s\b"
)
BEFORE_MIGRATION = {"configuration", "staging"}
_LOG_FOLLOWS = ". It logged last:"  # at the end of a message's first line
_EXCEPTION = re.compile(r"\b[A-Za-z_][\w.]*(Error|Exception)(: .*)?\Z")
RESULTS = {"deploy": "deployed", "rollback": "rolled back", "restart": "restarted", "configure": "configured"}


def failure(result: Mapping[str, Any]) -> str:
    """Return why a task failed, from its result; for a loop, the message of the item that failed."""
    items = (item for item in untrusted.objects(result.get("results")) if item.get("failed") or item.get("unreachable"))
    return "\n".join(messages(next(items, result)))


def messages(result: Mapping[str, Any]) -> list[str]:
    """Return why a task failed, from its result; an assertion may have a list of messages."""
    found = result.get("msg")
    if isinstance(found, list) and found:
        return [untrusted.printable(untrusted.text(str(one)).strip()) for one in found[:MAX_MESSAGES]]
    words = [untrusted.text(str(result[key])).strip() for key in ("msg", "stderr") if result.get(key)]
    return [untrusted.printable("\n".join(words)) or "it failed without a message"]


def record_failure(outcome: Mapping[str, Any], step: str, failed: Mapping[str, Any]) -> dict[str, Any]:
    """Return a host's outcome with the failure of a step added, from the result of the failed task.

    A failed revert sets `revert_error`; any other step sets `failure`, which keeps the first step and collects all
    messages.
    """
    if step == "revert":
        return {**outcome, "revert_error": failure(failed)}
    before = outcome.get("failure") or {"step": step, "message": ""}
    message = "\n".join(filter(None, (before["message"], failure(failed))))
    return {**outcome, "failure": {"step": before["step"], "message": message}}


def results(
    hosts: Sequence[str], known: Any, outputs: Mapping[str, str], active: Sequence[str] | None = None
) -> dict[str, dict[str, Any]]:
    """Return each host's results of a change, one dictionary per host; keys without a result are empty.

    `known`: Ansible's hostvars. `outputs`: the variable that has each part: `rehearsal`, `activation`, `processes` (of
    the types before `web`), `ends` (of old processes), `revert`, `traffic` and `finish` are results of modules,
    `outcome` is that of `record_failure`. A host that isn't in `active` any more (if given) is `lost`.
    """
    found = {}
    for host in hosts:
        # raw: these variables contain no templates, and templating a host's variables is slow
        variables = known.raw_get(host) if hasattr(known, "raw_get") else known[host]
        parts = {part: untrusted.mapping(variables.get(name)) for part, name in outputs.items()}
        outcome = parts.pop("outcome", {})
        found[host] = parts | {
            "failure": untrusted.mapping(outcome.get("failure")),
            "revert_error": outcome.get("revert_error", ""),
            "lost": active is not None and host not in active,
        }
    return found


def failures(results: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Return the failed hosts, each with step and message."""
    found: dict[str, dict[str, str]] = {}
    for host, result in results.items():
        if result["failure"]:
            found[host] = dict(result["failure"])
        elif result["lost"]:
            found[host] = {"step": "connection", "message": UNREACHABLE}
    return found


def locked_hosts(variables: Mapping[str, Mapping[str, Any]], hosts: Iterable[str]) -> list[str]:
    """Return the hosts whose deploy lock this run has taken, by the variables of all hosts."""
    return [host for host in hosts if variables[host].get("__baton_first_lock")]


def batch_sizes(wanted: Sequence[Any] | Any, count: int) -> list[int]:
    """Return the sizes of the batches of `count` hosts, as for Ansible's `serial`: numbers, or percentages of `count`.

    The last size is repeated; a size of 0 means all remaining hosts.
    """
    sizes: list[int] = []
    serial = list(wanted) if isinstance(wanted, list | tuple) else [wanted]
    while sum(sizes) < count or not sizes:
        entry = str(serial[min(len(sizes), len(serial) - 1)])
        size = max(1, int(count * float(entry[:-1]) / 100)) if entry.endswith("%") else int(entry)
        left = count - sum(sizes)
        sizes.append(min(size, left) if size > 0 else left)
    return sizes


def rehearsed_first(results: Mapping[str, Mapping[str, Any]], size: int) -> list[str]:
    """Return the first `size` hosts without the very first, once that one has been rehearsed."""
    hosts = list(results)
    rehearsed = bool(hosts) and "rehearsed" in results[hosts[0]]["rehearsal"]
    return hosts[1:size] if rehearsed and not failures(results) else []


def later_hosts(results: Mapping[str, Mapping[str, Any]], size: int) -> list[str]:
    """Return the hosts after the first batch, once that batch has been activated."""
    hosts = list(results)
    done = all("method" in results[host]["activation"] for host in hosts[:size])
    return hosts[size:] if done and not failures(results) else []


def outdated(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the hosts that don't already serve the wanted state: those that were rehearsed, or have no result yet."""
    found = []
    for host, result in results.items():
        # the first batch is rehearsed in its own phase, the others while the first batch is activated
        steps = [result["rehearsal"], result["activation"]]
        if any(step.get("rehearsed", False) for step in steps) or not any("rehearsed" in step for step in steps):
            found.append(host)
    return found


def activated(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the hosts on which a change has activated a release or replaced the workers."""
    return [host for host, result in results.items() if result["activation"].get("changed")]


def changed(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the hosts on which a change has activated anything, including only background processes."""
    return [
        host
        for host, result in results.items()
        if result["activation"].get("changed") or result["processes"].get("changed")
    ]


def processes(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what a change did to a host's background processes, by type.

    Keys: `method`, the numbers of units `started` and `stopped`, `seconds`, the pids of the `new` processes, and of
    each of the `old` ones pid, state and seconds as in process_ends_info.
    """
    found = {}
    ends = untrusted.mapping(result["ends"].get("ends"))
    for name, about in _background(result):
        started, stopped = (untrusted.texts(about.get(key)) for key in ("started", "stopped"))
        pids = untrusted.mapping(about.get("pids"))
        found[name] = {
            "method": untrusted.text(about.get("method")),
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
    return found


def stopped_processes(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the units of background processes that a change asked to stop on a host, and when, by type."""
    return {
        name: {"stopped": units, "stop_requested": untrusted.moment(about.get("stop_requested"))}
        for name, about in _background(result)
        if (units := untrusted.texts(about.get("stopped")))
    }


def started_processes(result: Mapping[str, Any]) -> list[str]:
    """Return the units of background processes that a change started on a host."""
    units = [unit for _, about in _background(result) for unit in untrusted.texts(about.get("started"))]
    # a schedule's is a timer
    return [unit for unit in units if "@" in unit]


def replaced_on(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the hosts on which a change started background processes or asked some to stop."""
    return [host for host, result in results.items() if started_processes(result) or stopped_processes(result)]


def _background(result: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    parts = [untrusted.mapping(result[part].get("processes")) for part in ("processes", "activation")]
    return [(untrusted.text(name), untrusted.mapping(one)) for part in parts for name, one in part.items()]


def activation_failed(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the hosts whose activation, or rehearsal in the same task, failed."""
    return [host for host, result in results.items() if result["activation"].get("failed")]


def activation_end(results: Mapping[str, Mapping[str, Any]]) -> float:
    """Return when the last host was activated or reverted, by the controller's clock; 0 if none was."""
    steps = [result[step] for result in results.values() for step in ("activation", "revert")]
    return max((untrusted.moment(step["ended"]) for step in steps if "ended" in step), default=0.0)


def revert_failed(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the hosts that could not be reverted."""
    return [host for host, result in results.items() if result["revert_error"]]


def hosts(results: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return each host's outcome for the receipt and the history.

    `method` is how it was activated, `release` the one that it serves at the end, `reverted` whether it was reverted,
    `problem` why its state is wrong or unknown (empty if it is fine).
    """
    found = {}
    for host, result in results.items():
        activation, revert = result["activation"], result["revert"]
        problem = str(result["revert_error"])
        if result["lost"] or revert.get("unreachable"):
            problem = f"{UNREACHABLE}, so what it serves is unknown; see playbooks/status.yml when it is back"
        found[host] = {
            "method": (_name(activation.get("method")) or "none") if activation.get("changed") else "none",
            "seconds": untrusted.number(activation.get("seconds")),
            "started": activation.get("started"),
            "previous": _name(activation.get("previous")),
            # a revert reports what the host serves now, possibly nothing
            "release": _name((revert if "release" in revert else activation).get("release")),
            "reverted": bool(revert.get("changed")),
            "processes": processes(result),
            "problem": problem,
            **({"failed": True, "msg": problem} if problem else {}),
        }
    return found


def _name(found: Any) -> str | None:
    """Return a host's name of a release or method, which other hosts may get; None for anything else."""
    return untrusted.text(found, MAX_NAME) or None


def conclusion(
    change: Mapping[str, Any], run: Mapping[str, Any], results: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return how a change ended.

    Keys: `happened` (whether anything was changed or failed), `deploy` (input of `receipt`), `hosts`, `entries` (by
    host, input of `finish`), `serves` (the release of each host that was activated; empty after a failure), `summary`
    (why it failed; empty if it didn't), `unchanged` (what the hosts already served; empty if anything happened).
    `change` has kind, application, release, version, migrations, began and now (seconds since the epoch).
    """
    found = failures(results)
    outcomes = hosts(results)
    title = f"The {change['kind']} of {change['application']}"
    steps = {one["step"] for one in found.values()}
    why = summary(title, found, outcomes) if found else ""
    if found and change["kind"] == "deploy" and change["migrations"] == "blocking" and not steps & BEFORE_MIGRATION:
        why += (
            f"\nThe blocking migration of {change['release']} may have run. In that case the previous release doesn't "
            "work with the database. Undo the migration, or deploy a release that fits it."
        )
    result = RESULTS[change["kind"]]
    if found:
        result = "reverted" if any(host["reverted"] for host in outcomes.values()) else "failed"
    before = [host["previous"] for host in outcomes.values() if host["previous"]]
    deploy = {
        "application": change["application"],
        "kind": change["kind"],
        "result": result,
        "release": change["release"] or next((host["release"] for host in outcomes.values() if host["release"]), ""),
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
            **{key: deploy[key] for key in ("kind", "version", "result")},
            # a restart or a configuration may meet hosts with different releases
            "release": change["release"] or host["release"] or deploy["release"],
            "who": run["who"],
            "token": run["token"],
            "when": change["began"],
            # no migration has run if an earlier step failed
            "migrations": "" if steps & BEFORE_MIGRATION else change["migrations"],
            "reason": _first_cause(found),
            "serves": host["release"],
            **{key: host[key] for key in ("previous", "method", "seconds")},
            "processes": ", ".join(f"{about['method']} {name}" for name, about in sorted(host["processes"].items())),
        }
        for name, host in outcomes.items()
    }
    happened = bool(found or changed(results))
    return {
        "happened": happened,
        "unchanged": "" if happened else _unchanged(change["version"], outcomes),
        "deploy": deploy,
        "hosts": outcomes,
        "entries": entries,
        "serves": {} if found else {host: outcomes[host]["release"] for host in activated(results)},
        "summary": why,
    }


def _causes(found: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return each cause once, with its hosts and the step."""
    by_cause: dict[tuple[str, str], list[str]] = {}
    for host, trouble in found.items():
        by_cause.setdefault((trouble["step"], normalized(host, trouble["message"])), []).append(host)
    return [
        f"{', '.join(names)}, {step}: " + found[names[0]]["message"].removeprefix(f"{names[0]}: ")
        for (step, _), names in by_cause.items()
    ]


def _first_cause(found: Mapping[str, Mapping[str, str]]) -> str:
    """Return the first cause in one line: the last exception of its log instead of the log. Empty without failures."""
    if not found:
        return ""
    first, *log = untrusted.printable(_causes(found)[0]).splitlines()
    if not first.endswith(_LOG_FOLLOWS):
        return first
    exceptions = [match[0] for line in log if (match := _EXCEPTION.search(line))]
    return first.removesuffix(_LOG_FOLLOWS) + (f": {exceptions[-1]}" if exceptions else ".")


def _by_release(hosts: Iterable[str], outcomes: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Group those of these hosts that serve a release by it."""
    serving: dict[str, list[str]] = {}
    for host in hosts:
        if release := outcomes[host]["release"]:
            serving.setdefault(untrusted.line(str(release)), []).append(host)
    return serving


def _unchanged(version: str, outcomes: Mapping[str, Mapping[str, Any]]) -> str:
    shown = f" ({version})" if version else ""
    return "\n".join(
        f"Nothing to hand over: release {release}{shown} already runs on {', '.join(names)}."
        for release, names in _by_release(outcomes, outcomes).items()
    )


def traffic(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the results of the edges' logs, by edge, from the hosts' loops over edges."""
    return {
        item["item"]: item
        for result in results.values()
        for item in untrusted.objects(result["traffic"].get("results"))
        if isinstance(item.get("item"), str)
    }


def failed_after_commit(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a message on the hosts that were activated and don't serve at the end; empty if all serve."""
    found = {host: result["finish"].get("trouble") for host, result in results.items()}
    lines = [f"{host} was activated, but doesn't serve as it should now: {why}." for host, why in found.items() if why]
    if lines:
        lines.append(
            "The change was already complete, so nothing was reverted. Repair the host, then run this again, or "
            "run playbooks/rollback.yml."
        )
    return "\n".join(lines)


def normalized(host: str, message: str) -> str:
    """Return a host's message without what varies, so that hosts that failed for the same reason compare equal."""
    return _VARYING.sub("", re.sub(rf"(?<![\w-]){re.escape(host)}(?![\w-])", "", message))


def advice(message: str) -> list[str]:
    """Return sentences on the settings that fix known errors in a message of an application or a migration."""
    sentences = []
    for pattern, template in ADVICE:
        names = [next(filter(None, found.groups())) for found in pattern.finditer(message)]
        sentences += [template.replace("{}", name) for name in dict.fromkeys(names)]
    return sentences


def summary(title: str, found: Mapping[str, Mapping[str, str]], outcomes: Mapping[str, Mapping[str, Any]]) -> str:
    """Return why a change failed, the fixes, and each host's final state. `found` is the result of `failures`."""
    lines = [f"{title} failed.", *_causes(found)]
    lines += dict.fromkeys(one for trouble in found.values() for one in advice(trouble["message"]))
    # an operator who pressed Ctrl-C needs no advice
    steps = {trouble["step"]: True for trouble in found.values() if trouble["message"] != INTERRUPTED}
    lines += [NEXT[step] for step in steps if step in NEXT]
    for host, outcome in outcomes.items():
        if outcome["problem"]:
            lines.append(f"{host}: {outcome['problem']}.")
    well = [host for host in outcomes if not outcomes[host]["problem"]]
    serve = [host for host in well if outcomes[host]["release"]]
    idle = [host for host in well if not outcomes[host]["release"]]
    if serve:
        reverted = [host for host in serve if outcomes[host]["reverted"]]
        lines.append(
            f"Serving as before the change: {', '.join(serve)}"
            + (f"; reverted: {', '.join(reverted)}." if reverted else "; nothing was activated there.")
        )
    if idle:
        lines.append(f"Without a release, as before the change: {', '.join(idle)}.")
    serving = _by_release(serve, outcomes)
    if len(serving) > 1:
        # an earlier change was interrupted
        each = "; ".join(f"{', '.join(names)} {release}" for release, names in serving.items())
        lines.append(f"The hosts serve different releases: {each}. Run a deploy or playbooks/rollback.yml to fix that.")
    return untrusted.printable("\n".join(lines))
