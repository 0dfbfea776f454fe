"""The history of an application on a host: one line of JSON per change, the newest last."""

from __future__ import annotations

import contextlib
import json
import textwrap
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..app import layout
from ..app.layout import ActivationError, Application, describe, served
from ..host import atomic_file, file_lock, untrusted
from ..host.command import make_folder
from .table import aligned
from .version import VERSION

MAX_LINES = 500
MAX_RECEIPTS = 20  # copies on the host
SIZE = 2**24  # bytes of the history that are read
TEXTS = frozenset(
    {
        *("kind", "release", "previous", "serves", "version", "result"),
        *("who", "token", "migrations", "reason", "method", "processes", "baton"),
    }
)
MAX_REASON = 300  # characters
GOOD = ("deployed", "rolled back", "restarted", "configured")
ROLLED_BACK_FROM = "a rollback replaced it"
BEGUN = "begun"  # result of a line written before an irreversible step; a second line follows when the change ends


def append(app: Application, entry: Mapping[str, Any]) -> None:
    """Append a line and sync it to the disk. Adds Baton's version, and the release's version if it is missing."""
    line = {**entry, "baton": VERSION}
    if line.get("release") and not line.get("version"):
        line["version"] = version(app, line["release"])
    if line.get("reason"):
        line["reason"] = textwrap.shorten(str(line["reason"]), MAX_REASON, placeholder=" ...")
    make_folder(app.state)
    with file_lock.held(app.state / "history.lock"):
        lines = [json.dumps(known) for known in [*read(app), line]][-MAX_LINES:]
        # rewritten as a whole, so that a loss of power leaves the old file; mode 0600 because it says who changed what
        atomic_file.write(_path(app), "".join(f"{text}\n" for text in lines), mode=0o600)


def keep_receipt(app: Application, name: str, content: str) -> None:
    """Write a copy of a change's receipt atomically, and remove the oldest copies.

    The copy allows reading the receipt without the controller. Only root may: it says who changed what, and which
    paths failed.
    """
    directory = app.state / "receipts"
    make_folder(directory, 0o700)
    atomic_file.write(directory / f"{name}.json", content, mode=0o600)
    # names begin with the time
    for old in sorted(directory.glob("*.json"))[:-MAX_RECEIPTS]:
        old.unlink()


def read(app: Application) -> list[dict[str, Any]]:
    """Return all entries, the oldest first. Skips invalid lines, such as half a line."""
    entries = []
    with contextlib.suppress(OSError):
        for line in untrusted.read(_path(app), SIZE).decode(errors="replace").splitlines():
            with contextlib.suppress(untrusted.UntrustedError):
                entries.append(_typed(untrusted.parse_object(line)))
    return entries


def _typed(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry whose known fields have the expected types; drops those of another type."""
    # entries of earlier versions have `way` instead of `method`
    entry = {"method" if key == "way" else key: one for key, one in entry.items()}
    kept = {key: one for key, one in entry.items() if key not in TEXTS or isinstance(one, str | None)}
    return kept | {key: untrusted.moment(entry[key]) for key in ("when", "seconds") if key in entry}


def _path(app: Application) -> Any:
    return app.state / "history.jsonl"


def version(app: Application, release: str) -> str:
    """Return the application's version in a release; empty if the release isn't complete."""
    with contextlib.suppress(ActivationError, ValueError):
        return str(describe(app, release).get("version") or "")
    return ""


def failures(entries: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return when the changes since the last successful one began, which all failed; the oldest first."""
    found: list[float] = []
    for entry in entries:
        if entry.get("result") != BEGUN:
            found = [] if _succeeded(entry) else [*found, float(entry.get("when") or 0)]
    return found


def summary(app: Application, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what history_info returns besides the entries, in particular the candidates for a rollback."""
    current, releases, served_here = layout.current(app), complete(app), served(app)
    found = candidates(app, entries, current)
    fit = [one["release"] for one in found if not one["why_not"]]
    unfinished = layout.unfinished(app)
    return {
        "current": current,
        "unfinished": unfinished,
        "candidates": fit,
        "rollback_to": current if unfinished else next(iter(fit), None),
        "rollback_candidates": found,
        "releases": releases,
        # processes of another release may need what its migration has changed
        "blocking": {
            release: blocking(entries, None if unfinished else current, release, served_here) for release in releases
        },
        "commands": command_changes(app, releases),
        "failures": failures(entries),
    }


def command_changes(app: Application, releases: Iterable[str]) -> dict[str, dict[str, list[str]]]:
    """Return how the host's process types and schedules differ from those with which a release served last.

    By release, `added`, `removed` and `changed` (another command) settings. Leaves out releases without a difference,
    and those that a version of Baton activated that didn't record it.
    """
    now, recorded = app.commands, layout.recorded_commands(app)
    found: dict[str, dict[str, list[str]]] = {}
    for release in releases:
        if release in recorded:
            before = recorded[release]
            changes = {
                "added": sorted(now.keys() - before.keys()),
                "removed": sorted(before.keys() - now.keys()),
                "changed": [one for one in now if before.get(one) and now[one] and before[one] != now[one]],
            }
            if any(changes.values()):
                found[release] = changes
    return found


def candidates(app: Application, entries: Sequence[Mapping[str, Any]], current: str | None) -> list[dict[str, Any]]:
    """Return the complete releases except the current one, the best rollback target first.

    Keys: `release`, `version`, `when` (its last successful activation; None if unknown), `why_not` (why a rollback
    doesn't choose it by default; empty if it may).
    """
    activated = {
        entry["release"]: entry.get("when") for entry in entries if _changes_release(entry) and _succeeded(entry)
    }
    return [
        {"release": release, "version": version(app, release), "when": activated.get(release), "why_not": why_not}
        for release, why_not in rank_releases(entries, served(app), complete(app), current).items()
    ]


def complete(app: Application) -> list[str]:
    """Return the ids of the releases that are complete on the host."""
    return sorted(path.parent.name for path in app.path("opt", app.name, "releases").glob("[!.]*/release.json"))


def rank_releases(
    entries: Iterable[Mapping[str, Any]], served_here: Iterable[str], available: Iterable[str], current: str | None
) -> dict[str, str]:
    """Rank the `available` releases except the current one, the best rollback target first: by id, why not.

    A release qualifies if it ever served well, however the last change ended: a failed change was reverted and only
    means that its release didn't serve then, perhaps because of a setting. Each deploy puts its release on top of a
    stack. A rollback removes the releases that it leaves, so that the next one goes further back instead of returning.

    A killed controller can't write the history, so two sources of the host complete it: `served_here` (the latest
    first) has the releases that were activated and not reverted, and `previous` of a successful change is the release
    that it replaced.
    """
    served_here = list(served_here)
    stack: list[str] = []
    why: dict[str, str] = {}
    for entry in filter(_changes_release, entries):
        release, previous = str(entry["release"]), str(entry.get("previous") or "")
        if not _succeeded(entry):
            # if the host served another release afterwards, `served_here` refers to another activation; the target of a
            # rollback has served before
            elsewhere = release == previous or entry.get("serves") not in (None, "", release)
            if entry["kind"] == "deploy" and release not in stack and not (elsewhere and release in served_here):
                why.setdefault(release, "its last deploy failed")
            continue
        if previous != release:
            _reconcile(previous, stack, why, served_here)
        # an explicit rollback to a release that an earlier rollback removed goes forward: nothing is removed
        if entry["kind"] == "rollback" and (release in stack or release not in why):
            place = stack.index(release) if release in stack else len(stack)
            left = {*stack[place:], previous} - {""}
            stack = [one for one in stack if one not in left]
            why.update(dict.fromkeys(left, ROLLED_BACK_FROM))
        stack = [*(one for one in stack if one != release), release]
        why.pop(release, None)
    # releases without an entry, the oldest first: each above the one that was activated before it. Those activated
    # after the current one have no known place
    since = served_here[: served_here.index(current)] if current in served_here else []
    unplaced = [one for one in since if one not in why and one not in stack]
    for place, release in reversed(list(enumerate(served_here))):
        if release not in why and release not in stack and release not in unplaced:
            below = next((stack.index(one) for one in served_here[place + 1 :] if one in stack), -1)
            stack.insert(below + 1, release)
    if current in stack:
        place = stack.index(current)
        why.update(dict.fromkeys(stack[place + 1 :], "it is newer than the current one"))
        stack = stack[:place]
    available = list(available)
    found = {release: "" for release in [*reversed(stack), *unplaced] if release in available and release != current}
    for release in available:
        if release != current and release not in found:
            found[release] = why.get(release, "it never served here")
    return found


def _reconcile(previous: str, stack: list[str], why: dict[str, str], served_here: Sequence[str]) -> None:
    """Make the stack end with the release that a change replaced, even if earlier entries contradict that.

    If they do, a change between them has no entry: a rollback if the release is further down, otherwise a deploy. A
    release that was never proven to serve isn't added.
    """
    if previous in stack:
        place = stack.index(previous)
        why.update(dict.fromkeys(stack[place + 1 :], ROLLED_BACK_FROM))
        del stack[place + 1 :]
    elif previous in served_here and why.get(previous, ROLLED_BACK_FROM) == ROLLED_BACK_FROM:
        why.pop(previous, None)
        stack.append(previous)


def _changes_release(entry: Mapping[str, Any]) -> bool:
    """Whether an entry is the end of a change that activates a release."""
    return entry.get("kind") in ("deploy", "rollback") and bool(entry.get("release")) and entry.get("result") != BEGUN


def _succeeded(entry: Mapping[str, Any]) -> bool:
    return entry.get("result") in GOOD


def blocking(
    entries: Sequence[Mapping[str, Any]], current: str | None, wanted: str, served_here: Sequence[str] = ()
) -> list[str]:
    """Return the releases whose blocking migrations have run since the wanted one was last activated successfully.

    Includes failed deploys: a revert restores the release, not the database. If no entry has the activation of the
    wanted one, it was after the activation of the releases that follow it in `served_here` (the latest first).
    """
    if wanted == current:
        return []
    known = {wanted, *(served_here[served_here.index(wanted) :] if wanted in served_here else ())}
    since = [
        index
        for index, entry in enumerate(entries)
        if _changes_release(entry) and _succeeded(entry) and entry["release"] in known
    ]
    after = entries[since[-1] + 1 :] if since else entries
    deploys = [entry for entry in after if entry.get("kind") == "deploy" and entry.get("release")]
    names = [str(entry["release"]) for entry in deploys if entry.get("migrations") == "blocking"]
    return list(dict.fromkeys(name for name in names if name != wanted))


def merged(hosts: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Return the fleet's changes, the newest first; merges equal entries of one change and lists their hosts."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    hosts = {host: [_typed(entry) for entry in untrusted.objects(entries)] for host, entries in hosts.items()}
    ended = {entry.get("token") for entries in hosts.values() for entry in entries if entry.get("result") != BEGUN}
    for host, entries in hosts.items():
        for entry in entries:
            if entry.get("result") == BEGUN and entry.get("token") in ended:
                continue
            key = tuple(entry.get(name) for name in ("token", "kind", "release", "result", "reason"))
            row = rows.setdefault(key, {**entry, "hosts": [], "seconds": 0.0, "methods": [], "types": []})
            row["hosts"].append(host)
            row["seconds"] = max(row["seconds"], float(entry.get("seconds") or 0))
            if entry.get("method") not in (None, "none", *row["methods"]):
                row["methods"].append(entry["method"])
            types = filter(None, (entry.get("processes") or "").split(", "))
            row["types"] += [one for one in types if one not in row["types"]]
    return sorted(rows.values(), key=lambda row: float(row.get("when") or 0), reverse=True)


def table(hosts: Mapping[str, Sequence[Mapping[str, Any]]], lines: int = 20) -> str:
    """Format the fleet's last changes as a table."""
    rows = merged(hosts)[:lines]
    everywhere = list(hosts)
    if not rows:
        return "Nothing has been deployed here yet."
    header = ("WHEN (UTC)", "WHO", "CHANGE", "RELEASE", "VERSION", "RESULT", "METHOD", "DURATION", "BATON", "HOSTS")
    text = aligned([header, *(_cells(row, everywhere) for row in rows)])
    failed = next((row for row in rows if row.get("reason")), None)
    return untrusted.printable(
        text if failed is None else f"{text}\n\nLast failure: {untrusted.line(failed['reason'])}"
    )


def _cells(row: Mapping[str, Any], everywhere: Sequence[str]) -> tuple[str, ...]:
    return (
        time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(float(row.get("when") or 0))),
        *(str(row.get(name) or "-") for name in ("who", "kind", "release", "version", "result")),
        ", ".join(_methods(row)) or "-",
        f"{row['seconds']:.1f} s",
        str(row.get("baton") or "-"),
        f"all {len(everywhere)}" if row["hosts"] == everywhere and len(everywhere) > 3 else ", ".join(row["hosts"]),
    )


def _methods(row: Mapping[str, Any]) -> list[str]:
    """Return the methods of a change. For a change of settings, names the process types: the others didn't change."""
    if not row["types"] or row.get("kind") == "restart" or row.get("release") != row.get("previous"):
        return list(row["methods"])
    # if the web processes didn't change, the method is that of another type
    of_types = {one.partition(" ")[0] for one in row["types"]}
    return [*(method for method in row["methods"] if method not in of_types), *row["types"]]


def rollback(
    hosts: Mapping[str, Mapping[str, Any]], wanted: str, *, force: bool, configure: bool = False
) -> dict[str, str]:
    """Return the release that the fleet rolls back to, its version if known, a note, and the problem if there is none.

    `hosts`: the result of `summary` on each. `wanted`: a release; empty for the best one that all hosts have. `force`:
    cross blocking migrations, and keep process types that the release didn't have. `configure`: the rollback also
    applies the inventory's settings. After an interrupted change the target may be a release that some hosts already
    serve, or all of them if background processes are left unfinished: it undoes a deploy that ended before the web
    processes changed, and completes a rollback that ended after them.
    """
    hosts = {host: _typed_summary(found) for host, found in hosts.items()}
    if wanted and (lacking := [host for host, found in hosts.items() if wanted not in found["releases"]]):
        return _problem(f"Release {wanted} is not complete on {', '.join(lacking)}. {_available(hosts)}")
    release = wanted or _best_target(hosts)
    if not release:
        return _problem(
            "There is no release to roll back to: no earlier release is complete and has served well on every host. "
            "Deploy the version that you want (playbooks/deploy.yml -e app_version=...), or name a release with "
            f"-e rollback_to=... {_available(hosts)}"
        )
    crossed = sorted({name for found in hosts.values() for name in found["blocking"].get(release, [])})
    if crossed and not force:
        return _problem(
            f"A rollback to {release} crosses the blocking migration of {', '.join(crossed)}: that release no longer "
            "fits the database. Undo the migration first, then add -e rollback_force=true."
        )
    differing = _differing_types(hosts, release, "added", "removed") if not (force or configure) else ""
    if differing:
        return _problem(
            f"Release {release} served with other process types or schedules than the hosts have now: {differing}. A "
            "rollback keeps the hosts' settings. Check out the inventory of that release and add -e "
            "rollback_configure=true, which applies its settings, or keep the present ones with -e rollback_force=true."
        )
    versions = [
        one["version"] for found in hosts.values() for one in found["rollback_candidates"] if one["release"] == release
    ]
    changed = _differing_types(hosts, release, "changed") if not configure else ""
    left = sorted({name for found in hosts.values() if found["current"] == release for name in found["unfinished"]})
    notes = [
        f"It is current already, but an interrupted change left {', '.join(left)} unfinished." if left else "",
        f"It runs with the hosts' settings of now: {changed}." if changed else "",
    ]
    return {
        "release": release,
        "version": next(filter(None, versions), ""),
        "note": " ".join(filter(None, notes)),
        "problem": "",
    }


def _best_target(hosts: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the first host's best candidate, or its current release, that all hosts have; empty if there is none."""
    first, *others = ([found["current"], *found["candidates"]] for found in hosts.values())
    serving = {found["current"] for found in hosts.values()}
    unfinished = any(found["unfinished"] for found in hosts.values())
    common = (one for one in first if one and all(one in more for more in others))
    return next((str(one) for one in common if unfinished or serving != {one}), "")


def _differing_types(hosts: Mapping[str, Mapping[str, Any]], release: str, *kinds: str) -> str:
    """Return which process types and schedules differ from those of a release, with the hosts unless all have them."""
    words = {"added": "was added since", "removed": "was removed since", "changed": "has another command since"}
    found: dict[str, list[str]] = {}
    for host, summary_of in hosts.items():
        for kind in kinds:
            for setting in summary_of["commands"].get(release, {}).get(kind, []):
                found.setdefault(f"{setting} {words[kind]}", []).append(host)
    return "; ".join(
        text if len(on) == len(hosts) else f"{text} ({', '.join(on)})" for text, on in sorted(found.items())
    )


def _typed_summary(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return a host's untrusted result of `summary` with the keys that a rollback reads, in the expected types."""
    blocking_of, commands_of = (untrusted.mapping(found.get(key)) for key in ("blocking", "commands"))
    return {
        "current": untrusted.text(found.get("current")) or None,
        **{key: untrusted.texts(found.get(key)) for key in ("candidates", "releases", "unfinished")},
        "blocking": {release: untrusted.texts(names) for release, names in blocking_of.items()},
        "commands": {
            release: {kind: untrusted.texts(names) for kind, names in untrusted.mapping(changes).items()}
            for release, changes in commands_of.items()
        },
        "rollback_candidates": [
            {key: untrusted.text(one.get(key)) for key in ("release", "version", "why_not")}
            for one in untrusted.objects(found.get("rollback_candidates"))
        ],
    }


def _available(hosts: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a sentence with the releases that are complete on every host, each with its `why_not`."""
    first, *others = hosts.values()
    words = [
        f"{one['release']} ({', '.join(filter(None, [one['version'], one['why_not']])) or 'it served well'})"
        for one in first["rollback_candidates"]
        if all(one["release"] in found["releases"] for found in others)
    ]
    return f"Other complete releases on every host: {'; '.join(words) or 'none'}."


def _problem(problem: str) -> dict[str, str]:
    return {"release": "", "version": "", "note": "", "problem": problem}
