"""What was done to an application on a host: one line of JSON for each change, the newest last."""

from __future__ import annotations

import contextlib
import fcntl
import json
import textwrap
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..app import layout
from ..app.layout import ActivationError, Application, describe, served
from ..host import atomic_file, untrusted
from ..host.command import make_folder
from .table import aligned
from .version import VERSION

MOST = 500  # lines that are kept
MOST_RECEIPTS = 20  # copies that are kept
SIZE = 2**24  # bytes of them
TEXTS = frozenset(
    {
        *("kind", "release", "previous", "serves", "version", "result"),
        *("who", "token", "migrations", "reason", "way", "baton"),
    }
)
LONGEST = 300  # characters of a reason
GOOD = ("deployed", "rolled back", "restarted", "configured")
ROLLED_BACK_FROM = "it was rolled back from"
BEGUN = "begun"  # a change that can't be undone has begun; another line tells how it ended, if anybody was left to


def append(app: Application, entry: Mapping[str, Any]) -> None:
    """Add a line, with Baton's version, and the release's where it lacks; it is on the disk when this returns."""
    line = {**entry, "baton": VERSION}
    if line.get("release") and not line.get("version"):
        line["version"] = version(app, line["release"])
    if line.get("reason"):
        line["reason"] = textwrap.shorten(str(line["reason"]), LONGEST, placeholder=" ...")
    make_folder(app.state)
    with (app.state / "history.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lines = [json.dumps(known) for known in [*read(app), line]][-MOST:]
        # written anew as a whole, so that a loss of power leaves all of it as it was; it tells who changed what
        atomic_file.write(_path(app), "".join(f"{text}\n" for text in lines), mode=0o600)


def keep_receipt(app: Application, name: str, content: str) -> None:
    """Write a copy of a change's receipt, so that a reader sees all of it or none, and remove the oldest ones.

    What was proven of the application can be read on its host without the controller, by root alone: it tells who
    changed what, and which paths failed.
    """
    directory = app.state / "receipts"
    make_folder(directory, 0o700)
    atomic_file.write(directory / f"{name}.json", content, mode=0o600)
    # names begin with the time
    for old in sorted(directory.glob("*.json"))[:-MOST_RECEIPTS]:
        old.unlink()


def read(app: Application) -> list[dict[str, Any]]:
    """All lines, the oldest first; what makes no sense, such as half a line, is left out."""
    entries = []
    with contextlib.suppress(OSError):
        for line in untrusted.read(_path(app), SIZE).decode(errors="replace").splitlines():
            with contextlib.suppress(untrusted.UntrustedError):
                entries.append(_typed(untrusted.parse_object(line)))
    return entries


def _typed(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A line whose fields are what those who read it take them for; one that isn't is left out."""
    kept = {key: one for key, one in entry.items() if key not in TEXTS or isinstance(one, str | None)}
    return kept | {key: untrusted.moment(entry[key]) for key in ("when", "seconds") if key in entry}


def _path(app: Application) -> Any:
    return app.state / "history.jsonl"


def version(app: Application, release: str) -> str:
    """The application's version in a release; empty when it isn't complete."""
    with contextlib.suppress(ActivationError, ValueError):
        return str(describe(app, release).get("version") or "")
    return ""


def failures(entries: Sequence[Mapping[str, Any]]) -> list[float]:
    """When the changes began that failed since the last one that went well, the oldest first."""
    found: list[float] = []
    for entry in entries:
        if entry.get("result") != BEGUN:
            found = [] if _went_well(entry) else [*found, float(entry.get("when") or 0)]
    return found


def told(app: Application, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the module history_info returns besides the history's lines: above all what the host could go back to."""
    current, releases, took_over = layout.current(app), complete(app), served(app)
    found = candidates(app, entries, current)
    fit = [one["release"] for one in found if not one["why_not"]]
    return {
        "current": current,
        "candidates": fit,
        "rollback_to": next(iter(fit), None),
        "rollback_candidates": found,
        "releases": releases,
        "blocking": {release: blocking(entries, current, release, took_over) for release in releases},
        "failures": failures(entries),
    }


def candidates(app: Application, entries: Sequence[Mapping[str, Any]], current: str | None) -> list[dict[str, Any]]:
    """The complete releases besides the current one, the best to go back to first.

    Keys: `release`, `version`, `when` (it last took over well; None when that isn't known), `why_not` (what speaks
    against it; empty for one that a rollback may choose by itself).
    """
    took_over = {entry["release"]: entry.get("when") for entry in entries if _brings(entry) and _went_well(entry)}
    return [
        {"release": release, "version": version(app, release), "when": took_over.get(release), "why_not": why_not}
        for release, why_not in judged(entries, served(app), complete(app), current).items()
    ]


def complete(app: Application) -> list[str]:
    """The releases that are complete on the host."""
    return sorted(path.parent.name for path in app.path("opt", app.name, "releases").glob("[!.]*/release.json"))


def judged(
    entries: Iterable[Mapping[str, Any]], took_over: Iterable[str], there: Iterable[str], current: str | None
) -> dict[str, str]:
    """The releases that are `there`, besides the current one, the best to go back to first: why not, for each.

    Whether a release ever served well decides, never how the last change ended: one that failed was put back, and says
    of its release no more than that it didn't serve then, be it for a setting. Deploys pile up. A rollback takes away
    what it leaves behind, so that the next one goes further back instead of returning.

    A killed controller can't write the history, so the host has a word in it: `took_over` (the last one first) has the
    releases that were activated and not put back, and `previous` of a change that went well is what it replaced.
    """
    took_over = list(took_over)
    pile: list[str] = []
    why: dict[str, str] = {}
    for entry in filter(_brings, entries):
        release, previous = str(entry["release"]), str(entry.get("previous") or "")
        if not _went_well(entry):
            # of one that wasn't there after it, the host's record tells of another time; where a rollback was to go to
            # has served before
            elsewhere = release == previous or entry.get("serves") not in (None, "", release)
            if entry["kind"] == "deploy" and release not in pile and not (elsewhere and release in took_over):
                why.setdefault(release, "its last deploy failed")
            continue
        if previous != release:
            _put_on_top(previous, pile, why, took_over)
        # one that was rolled back from is gone forward to, by its name: what served meanwhile is still below it
        if entry["kind"] == "rollback" and (release in pile or release not in why):
            place = pile.index(release) if release in pile else len(pile)
            left = {*pile[place:], previous} - {""}
            pile = [one for one in pile if one not in left]
            why.update(dict.fromkeys(left, ROLLED_BACK_FROM))
        pile = [*(one for one in pile if one != release), release]
        why.pop(release, None)
    # those that no line names, the oldest first: each above the one that had taken over before it. Of those since the
    # current one's own activation nobody knows where they belong
    since = took_over[: took_over.index(current)] if current in took_over else []
    unplaced = [one for one in since if one not in why and one not in pile]
    for place, release in reversed(list(enumerate(took_over))):
        if release not in why and release not in pile and release not in unplaced:
            below = next((pile.index(one) for one in took_over[place + 1 :] if one in pile), -1)
            pile.insert(below + 1, release)
    if current in pile:
        place = pile.index(current)
        why.update(dict.fromkeys(pile[place + 1 :], "it came after the current one"))
        pile = pile[:place]
    there = list(there)
    found = {release: "" for release in [*reversed(pile), *unplaced] if release in there and release != current}
    for release in there:
        if release != current and release not in found:
            found[release] = why.get(release, "it never served here")
    return found


def _put_on_top(previous: str, pile: list[str], why: dict[str, str], took_over: Sequence[str]) -> None:
    """Let a pile end with the release that a change found there, and replaced, whatever the lines before say.

    Where they say something else, a change between was never told of: a rollback to what is further down, else a
    deploy. A release that never was proven to serve, and one that was put back in vain, stay what they are.
    """
    if previous in pile:
        place = pile.index(previous)
        why.update(dict.fromkeys(pile[place + 1 :], ROLLED_BACK_FROM))
        del pile[place + 1 :]
    elif previous in took_over and why.get(previous, ROLLED_BACK_FROM) == ROLLED_BACK_FROM:
        why.pop(previous, None)
        pile.append(previous)


def _brings(entry: Mapping[str, Any]) -> bool:
    """Whether a change was to bring a release to the host, and came to an end."""
    return entry.get("kind") in ("deploy", "rollback") and bool(entry.get("release")) and entry.get("result") != BEGUN


def _went_well(entry: Mapping[str, Any]) -> bool:
    return entry.get("result") in GOOD


def blocking(
    entries: Sequence[Mapping[str, Any]], current: str | None, wanted: str, took_over: Sequence[str] = ()
) -> list[str]:
    """The releases whose blocking migrations have run since the wanted one last took over well.

    Also of those whose deploy failed: what was put back is the release, not the database. When it took over may be told
    by no line: not before those did that `took_over` (the last one first) has after it.
    """
    if wanted == current:
        return []
    known = {wanted, *(took_over[took_over.index(wanted) :] if wanted in took_over else ())}
    since = [
        index
        for index, entry in enumerate(entries)
        if _brings(entry) and _went_well(entry) and entry["release"] in known
    ]
    after = entries[since[-1] + 1 :] if since else entries
    deploys = [entry for entry in after if entry.get("kind") == "deploy" and entry.get("release")]
    names = [str(entry["release"]) for entry in deploys if entry.get("migrations") == "blocking"]
    return list(dict.fromkeys(name for name in names if name != wanted))


def merged(hosts: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The fleet's changes, the newest first: lines of one change that agree are one, with their hosts."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    hosts = {host: [_typed(entry) for entry in untrusted.objects(entries)] for host, entries in hosts.items()}
    told = [entry for entries in hosts.values() for entry in entries]
    ended = {entry.get("token") for entry in told if entry.get("result") != BEGUN}
    for host, entries in hosts.items():
        for entry in entries:
            if entry.get("result") == BEGUN and entry.get("token") in ended:
                continue
            key = tuple(entry.get(name) for name in ("token", "kind", "release", "result", "reason"))
            row = rows.setdefault(key, {**entry, "hosts": [], "seconds": 0.0, "ways": []})
            row["hosts"].append(host)
            row["seconds"] = max(row["seconds"], float(entry.get("seconds") or 0))
            if entry.get("way") not in (None, "none", *row["ways"]):
                row["ways"].append(entry["way"])
    return sorted(rows.values(), key=lambda row: float(row.get("when") or 0), reverse=True)


def table(hosts: Mapping[str, Sequence[Mapping[str, Any]]], lines: int = 20) -> str:
    """The fleet's last changes, for people."""
    told = merged(hosts)[:lines]
    everywhere = list(hosts)
    if not told:
        return "Nothing has been deployed here yet."
    header = ("WHEN (UTC)", "WHO", "WHAT", "RELEASE", "VERSION", "HOW IT ENDED", "WAY", "TOOK", "BATON", "HOSTS")
    text = aligned([header, *(_cells(row, everywhere) for row in told)])
    failed = next((row for row in told if row.get("reason")), None)
    return untrusted.printable(text if failed is None else f"{text}\n\nThe last failure: {failed['reason']}")


def _cells(row: Mapping[str, Any], everywhere: Sequence[str]) -> tuple[str, ...]:
    return (
        time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(float(row.get("when") or 0))),
        *(str(row.get(name) or "-") for name in ("who", "kind", "release", "version", "result")),
        ", ".join(row["ways"]) or "-",
        f"{row['seconds']:.1f} s",
        str(row.get("baton") or "-"),
        f"all {len(everywhere)}" if row["hosts"] == everywhere and len(everywhere) > 3 else ", ".join(row["hosts"]),
    )


def rollback(hosts: Mapping[str, Mapping[str, Any]], wanted: str, *, force: bool) -> dict[str, str]:
    """The release that the fleet can go back to, and its version if known, or the problem.

    `hosts` is what `told` returned on each. `wanted` names one; empty for the best that all hosts have. `force` crosses
    blocking migrations. Where a change was cut short, the release that some hosts serve already is one, too: all are
    brought to it.
    """
    if wanted:
        lacking = [host for host, found in hosts.items() if wanted not in found["releases"]]
        if lacking:
            return _no(f"The release {wanted} is not complete on {', '.join(lacking)}. {_choice(hosts)}")
        release = wanted
    else:
        first, *others = ([found["current"], *found["candidates"]] for found in hosts.values())
        serving = {found["current"] for found in hosts.values()}
        common = [one for one in first if one and all(one in more for more in others) and serving != {one}]
        if not common:
            return _no(
                "There is no release to go back to: none that came before the current one is complete and has served "
                "well on every host. Deploy the version that you want (playbooks/deploy.yml -e app_version=...), or "
                f"name a release with -e rollback_to=... {_choice(hosts)}"
            )
        release = str(common[0])
    crossed = sorted({name for found in hosts.values() for name in found["blocking"].get(release, [])})
    if crossed and not force:
        return _no(
            f"Going back to {release} crosses the blocking migration of {', '.join(crossed)}: the database isn't "
            "what that release expects any more. Undo the migration first, then: -e rollback_force=true"
        )
    versions = [
        one["version"] for found in hosts.values() for one in found["rollback_candidates"] if one["release"] == release
    ]
    return {"release": release, "version": next(filter(None, versions), ""), "problem": ""}


def _choice(hosts: Mapping[str, Mapping[str, Any]]) -> str:
    """What is complete on every host, with what speaks against it, in words."""
    first, *others = hosts.values()
    words = [
        f"{one['release']} ({', '.join(filter(None, [one['version'], one['why_not']])) or 'it served well'})"
        for one in first["rollback_candidates"]
        if all(one["release"] in found["releases"] for found in others)
    ]
    return f"Besides the current one are on every host: {'; '.join(words) or 'none'}."


def _no(problem: str) -> dict[str, str]:
    return {"release": "", "version": "", "problem": problem}
