"""The receipt of a change: the edges' counts added up, each host's outcome, and the files that keep it."""

from __future__ import annotations

import collections
import contextlib
import itertools
import json
import pathlib
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ..edge import histogram
from ..host import atomic_file, untrusted
from ..host.command import BatonError
from .table import aligned, utc
from .version import VERSION

FORMAT = 1  # version of the document's format
WINDOWS = ("before", "during", "after")
COUNTS = ("requests", "failures", "rescued", "client_closed", "websockets", "by_edge", "surplus", "checks")
ENDED_WELL = ("deployed", "rolled back", "restarted", "configured", "unchanged")
STATUS = "[0-9]{1,3}"
LATENCY = "[0-9]{1,11}"  # name of a bin, in milliseconds
FAR = 7 * 86400.0  # times further from a change's beginning, in seconds, are invalid
MAX_BINS = 1000  # statuses or latencies of a window; access_log writes fewer
MAX_POINTS = 2000  # of an edge's timeline; access_log writes fewer
# state of an old background process, and its text with the longest duration
ENDS = {
    "drained": "drained in {} s",
    "killed": "killed after {} s",
    "failed": "ended with an error after {} s",
    "draining": "still draining after {} s",
    "unknown": "ended in an unknown state",
}
MAX_PROCESSES = 100  # of a type, on a host
GAVE_UP = 0.01  # share of clients that disconnected; a larger one is reported
_STAMP = "%Y%m%dT%H%M%SZ"


def compose(
    deploy: Mapping[str, Any],
    edges: Mapping[str, Mapping[str, Any]],
    hosts: Mapping[str, Mapping[str, Any]],
    phases: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return the receipt. `edges`: results of edge_log_info, including failed ones; `hosts`: see `outcome.hosts`."""
    started = float(deploy["started"])
    read = {name: _edge(edge, started) for name, edge in edges.items() if "windows" in edge}
    ended = float(deploy.get("ended") or started + float(deploy.get("seconds") or 0))
    document: dict[str, Any] = {
        "format": FORMAT,
        "deploy": {
            "application": str(deploy["application"]),
            **{key: str(deploy.get(key) or "") for key in ("kind", "release", "previous", "version")},
            **{key: str(deploy.get(key) or "") for key in ("who", "where", "reason")},
            "result": str(deploy["result"]),
            "baton": VERSION,
            "started": started,
            "seconds": round(ended - started, 1),
        },
        "windows": _windows([edge["windows"] for edge in read.values()]),
        "timeline": _timeline([edge["timeline"] for edge in read.values() if edge.get("timeline")]),
        "hosts": {name: _host(name, host) for name, host in hosts.items()},
        "phases": _phases(phases, started, ended),
        "edges": {
            name: {"read": name in read, "why": "" if name in read else _why(name, edges[name])} for name in edges
        },
    }
    document["headline"] = headline(document)
    document["notes"] = _notes(document, read)
    return document


def _edge(result: Mapping[str, Any], started: float) -> dict[str, Any]:
    """Return an edge's untrusted result with every key in the expected type.

    `started`: when the change began; times further than FAR from it are replaced.
    """
    timeline = untrusted.mapping(result.get("timeline"))
    points = untrusted.mapping(timeline.get("points")).items()
    windows = untrusted.mapping(result["windows"])
    near = ((second, untrusted.mapping(one)) for second, one in points if _is_second(second, started))
    return {
        "windows": {name: _counts(untrusted.mapping(windows[name]), started) for name in WINDOWS if name in windows},
        "skipped_lines": untrusted.whole_number(result.get("skipped_lines")),
        "timeline": {
            "step": min(max(1, untrusted.whole_number(timeline.get("step"))), int(FAR)),
            "points": {second: _counts(one, started) for second, one in itertools.islice(near, MAX_POINTS)},
        }
        if timeline
        else {},
    }


def _is_second(name: str, started: float) -> bool:
    # at most ten ASCII digits, which is enough for this century
    return re.fullmatch("[0-9]{1,10}", name) is not None and abs(int(name) - started) <= FAR


def _counts(counts: Mapping[str, Any], started: float) -> dict[str, Any]:
    """Return the untrusted counts of a window, or of a point of a timeline, in the expected types."""
    statuses, bins = (
        itertools.islice(untrusted.mapping(counts.get(key)).items(), MAX_BINS) for key in ("statuses", "histogram")
    )
    times = {key: untrusted.moment(counts.get(key)) for key in ("since", "until")}
    numbers = {key: max(0, untrusted.whole_number(counts.get(key))) for key in COUNTS}
    return {
        **{key: moment if abs(moment - started) <= FAR else started for key, moment in times.items()},
        **numbers,
        "requests": max(numbers["requests"], numbers["failures"]),  # of which the failures are a share
        "complete": bool(counts.get("complete", True)),
        "statuses": {name: untrusted.whole_number(count) for name, count in statuses if re.fullmatch(STATUS, name)},
        "histogram": {name: untrusted.whole_number(count) for name, count in bins if re.fullmatch(LATENCY, name)},
        "max_ms": None if counts.get("max_ms") is None else untrusted.number(counts["max_ms"]),
        "failing": [
            {
                "status": untrusted.whole_number(one.get("status")),
                "path": untrusted.text(one.get("path")),
                "count": untrusted.whole_number(one.get("count")),
            }
            for one in untrusted.objects(counts.get("failing"))
        ],
    }


def _why(name: str, failed: Mapping[str, Any]) -> str:
    """Return why a host's result is a failure."""
    message = _first_line(failed.get("msg")).removeprefix(f"{name}: ")
    return message or ("unreachable" if failed.get("unreachable") else "no answer")


def _first_line(text: Any) -> str:
    return str(text or "").strip().partition("\n")[0]


def _windows(edges: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Return each window, added up over all edges."""
    names = dict.fromkeys(name for edge in edges for name in edge)
    return {name: _window([edge[name] for edge in edges if name in edge]) for name in names}


def _window(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    statuses: collections.Counter[str] = collections.Counter()
    failing: collections.Counter[tuple[int, str]] = collections.Counter()
    for part in parts:
        statuses.update(part.get("statuses", {}))
        for one in part.get("failing", []):
            failing[one["status"], one["path"]] += one["count"]
    return {
        "since": min(part["since"] for part in parts),
        "until": max(part["until"] for part in parts),
        **{name: sum(part.get(name, 0) for part in parts) for name in COUNTS},
        "statuses": dict(sorted(statuses.items())),
        "failing": [
            {"status": status, "path": path, "count": count} for (status, path), count in failing.most_common(5)
        ],
        **_latencies(parts),
    }


def _latencies(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    merged = histogram.merge(part.get("histogram", {}) for part in parts)
    return {
        **histogram.summary(
            merged, max((part["max_ms"] for part in parts if part.get("max_ms") is not None), default=None)
        ),
        "histogram": {str(name): count for name, count in merged.items()},
    }


def _timeline(edges: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the points of all edges, added up, with the longest of their steps."""
    step = max((int(edge["step"]) for edge in edges), default=1)
    points: dict[int, list[Mapping[str, Any]]] = {}
    for edge in edges:
        for second, point in edge["points"].items():
            points.setdefault(int(second) // step * step, []).append(point)
    merged = {}
    for second, parts in sorted(points.items()):
        latencies = _latencies(parts)
        latencies.pop("histogram")
        merged[str(second)] = {key: sum(part[key] for part in parts) for key in ("requests", "failures")} | latencies
    return {"step": step, "points": merged}


def _host(name: str, host: Mapping[str, Any]) -> dict[str, Any]:
    failed = bool(host.get("failed") or host.get("unreachable"))
    return {
        "method": str(host.get("method") or ""),
        "seconds": round(untrusted.number(host.get("seconds")), 1),
        "previous": str(host.get("previous") or ""),
        "release": str(host.get("release") or ""),
        "reverted": bool(host.get("reverted")),
        "started": untrusted.moment(host.get("started")) or None,
        "processes": {
            untrusted.text(name): {
                "method": untrusted.text(one.get("method")),
                **{key: untrusted.whole_number(one.get(key)) for key in ("started", "stopped")},
                "seconds": round(untrusted.number(one.get("seconds")), 1),
                "new": [untrusted.whole_number(pid) for pid in _limited(one.get("new"))],
                "old": [_old(about) for about in _limited(one.get("old")) if isinstance(about, Mapping)],
            }
            for name, one in untrusted.mapping(host.get("processes")).items()
            if isinstance(one, Mapping)
        },
        "error": _why(name, host) if failed else "",
    }


def _limited(found: Any) -> list[Any]:
    return found[:MAX_PROCESSES] if isinstance(found, list) else []


def _old(process: Mapping[str, Any]) -> dict[str, Any]:
    """Return a background process of the previous release, in the expected types."""
    state = untrusted.text(process.get("state"))
    return {
        "pid": untrusted.whole_number(process.get("pid")),
        "state": state if state in ENDS else "unknown",
        "seconds": round(untrusted.number(process.get("seconds")), 1),
    }


def _phases(phases: Sequence[Mapping[str, Any]], started: float, ended: float) -> list[dict[str, Any]]:
    """Return the phases with their beginnings, by default the end of the previous one. The last one still runs."""
    listed: list[dict[str, Any]] = []
    at = started
    for phase in phases:
        begun, seconds = float(phase.get("started") or at), float(phase["seconds"])
        listed.append({"name": str(phase["name"]), "started": begun, "seconds": round(seconds, 1)})
        at = begun + seconds
    if listed and not listed[-1]["seconds"]:
        listed[-1]["seconds"] = round(max(0.0, ended - listed[-1]["started"]), 1)
    return listed


def headline(document: Mapping[str, Any]) -> str:
    """Return a sentence on the requests during the change, as far as they reached an edge."""
    during = document["windows"].get("during")
    if during is None:
        return "No edge's log could be read, so it is unknown whether requests failed during the change."
    requests, failures = during["requests"], during["failures"]
    if not requests:
        return "No request ended during the change, so it proves nothing about requests."
    before = document["windows"].get("before")
    if before and not before["requests"]:
        before = None
    gave_up = _gave_up(during, before)
    if not failures:
        return f"None of the {_requests(requests)} that the edges logged during the change failed{gave_up}."
    # an edge's answer may contradict itself
    most = next(iter(during["failing"]), {"status": "unknown", "path": "unknown paths"})
    known = f"; before, {_share(before['failures'], before['requests'])}" if before else ""
    return (
        f"{failures:,} of the {_requests(requests)} that the edges logged during the change failed "
        f"({_share(failures, requests)}{known}), most often {most['status']} on {most['path']}{gave_up}."
    )


def _gave_up(during: Mapping[str, Any], before: Mapping[str, Any] | None) -> str:
    """Return a clause on clients that disconnected without an answer, if many more did than before the change.

    The log doesn't count these as failures, but for the clients they are.
    """
    share = during["client_closed"] / during["requests"]
    usual = before["client_closed"] / before["requests"] if before else 0.0
    if share <= GAVE_UP or share <= 2 * usual:
        return ""
    return f", but {during['client_closed']:,} clients ({share:.1%}".replace("%", " %") + ") gave up waiting"


def _requests(count: int) -> str:
    return f"{count:,} request{'s' * (count != 1)}"


def _share(part: int, whole: int) -> str:
    return f"{part / whole * 100:.2f} %"


def _notes(document: Mapping[str, Any], read: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return sentences that qualify the figures."""
    notes = []
    if document["deploy"]["reason"]:
        notes.append(document["deploy"]["reason"])
    for name, edge in document["edges"].items():
        if not edge["read"]:
            notes.append(f"The log of {name} could not be read ({edge['why'].rstrip('.')}): its requests are missing.")
    for name, edge in read.items():
        short = [window for window, found in edge["windows"].items() if not found.get("complete", True)]
        if short:
            notes.append(f"The logs of {name} don't reach back to the beginning of: {', '.join(short)}.")
        if edge.get("skipped_lines"):
            notes.append(f"{edge['skipped_lines']:,} lines in the log of {name} could not be parsed.")
    during = document["windows"].get("during", {})
    for key, words in (
        ("rescued", "Answered by another server after the first one had failed"),
        ("client_closed", "Ended because the client disconnected (499), not counted as failures"),
        ("surplus", "Rejected (503) because the servers had reached their limit of concurrent requests, not counted"),
        ("websockets", "WebSockets that ended, without a latency"),
        ("checks", "The deploy's own active checks, not counted"),
    ):
        if during.get(key):
            notes.append(f"{words}: {_requests(during[key])} during the change.")
    return notes


def title(document: Mapping[str, Any]) -> str:
    """Return one line: the change, its result, when and by whom."""
    deploy = document["deploy"]
    what = " ".join(filter(None, (deploy["application"], deploy["version"])))
    release = f" ({deploy['release']})" if deploy["release"] else ""
    how = f"{what}{release}: {deploy['result']} in {deploy['seconds']} s, {utc(deploy['started'])}"
    return f"{how} {by(deploy)}".rstrip()


def by(deploy: Mapping[str, Any]) -> str:
    """Return who made the change, on which controller, and with which version of Baton."""
    words = (("by", deploy["who"]), ("on", deploy["where"]), ("with Baton", deploy.get("baton")))
    return " ".join(f"{word} {what}" for word, what in words if what)


def duration(milliseconds: float | None) -> str:
    """Format a latency."""
    if milliseconds is None:
        return "-"
    if milliseconds < 1:
        return "< 1 ms"
    return f"{milliseconds:.0f} ms" if milliseconds < 10_000 else f"{milliseconds / 1000:.1f} s"


def outcome(host: Mapping[str, Any]) -> str:
    """Return a host's outcome as text."""
    if host["error"]:
        return f"failed{', reverted' if host['reverted'] else ''}: {host['error']}"
    if host["reverted"]:
        return f"reverted to {host['release'] or 'nothing'}"
    if not host["release"]:
        return "not reached"
    if host["method"] in ("", "none") or host["previous"] == host["release"]:
        return f"serves {host['release']}{', unchanged' if host['method'] in ('', 'none') else ', processes replaced'}"
    return f"{host['previous'] or 'nothing'} -> {host['release']}"


def ended(process: Mapping[str, Any]) -> str:
    """Return how a type's old background processes ended: `2 drained in 4.1 s, 1 killed after 30.0 s`."""
    parts = []
    for state, words in ENDS.items():
        if times := [one["seconds"] for one in process["old"] if one["state"] == state]:
            parts.append(f"{len(times)} {words.format(f'{max(times):.1f}')}")
    return ", ".join(parts) or "-"


def pids(process: Mapping[str, Any]) -> str:
    """Return the pids of a type's old and new background processes: `401 402 -> 517 518`."""
    lists = ([one["pid"] for one in process["old"]], process["new"])
    return " -> ".join(" ".join(map(str, filter(None, found))) or "-" for found in lists)


def text(document: Mapping[str, Any]) -> str:
    """Format the receipt for a terminal."""
    lines = [title(document), untrusted.line(document["headline"])]
    if document["windows"]:
        rows: list[tuple[str, ...]] = [("", "SECONDS", "REQUESTS", "FAILED", "P50", "P99", "MAX")]
        rows += [
            (
                name,
                f"{window['until'] - window['since']:.0f}",
                f"{window['requests']:,}",
                f"{window['failures']:,}",
                *(duration(window[key]) for key in ("p50_ms", "p99_ms", "max_ms")),
            )
            for name, window in document["windows"].items()
        ]
        lines += ["", aligned(rows, left=1)]
    if document["hosts"]:
        rows = [("HOST", "OUTCOME", "METHOD", "SECONDS")]
        rows += [
            (name, outcome(host), host["method"] or "-", f"{host['seconds']:.1f}" if host["seconds"] else "-")
            for name, host in document["hosts"].items()
        ]
        lines += ["", aligned(rows, left=3)]
    if any(host["processes"] for host in document["hosts"].values()):
        rows = [("HOST", "PROCESSES", "METHOD", "PIDS", "OLD PROCESSES", "STARTED", "STOPPED", "SECONDS")]
        rows += [
            (
                *(host, name, one["method"], pids(one), ended(one)),
                *(str(one["started"]), str(one["stopped"]), f"{one['seconds']:.1f}"),
            )
            for host, about in document["hosts"].items()
            for name, one in about["processes"].items()
        ]
        lines += ["", aligned(rows, left=5)]
    if document["phases"]:
        lines += ["", "Phases: " + ", ".join(f"{phase['name']} {phase['seconds']} s" for phase in document["phases"])]
    # the failure of the run, which follows, has the reason
    lines += [f"Note: {untrusted.line(note)}" for note in document["notes"] if note != document["deploy"]["reason"]]
    return untrusted.printable("\n".join(lines))


def name_of(document: Mapping[str, Any]) -> str:
    """Return the name of a receipt's files without the suffix; names sort by time."""
    deploy = document["deploy"]
    moment = time.strftime(_STAMP, time.gmtime(deploy["started"]))
    return f"{moment}-{_plain(deploy['application'])}-{_plain(deploy['release'] or deploy['kind'] or deploy['result'])}"


def _plain(word: str) -> str:
    """Return a word that is safe in a file name and has no dash, which separates the parts of the name."""
    return re.sub(r"[^A-Za-z0-9._]", "_", word)


def paths(document: Mapping[str, Any], directory: pathlib.Path) -> dict[str, pathlib.Path]:
    """Return the paths of a receipt's files, by kind."""
    return {kind: directory / f"{name_of(document)}.{kind}" for kind in ("json", "html")}


def as_json(document: Mapping[str, Any]) -> str:
    """Return the receipt as the content of its file."""
    return json.dumps(document, indent=1) + "\n"


def keep(document: Mapping[str, Any], page: str, directory: pathlib.Path, count: int) -> list[pathlib.Path]:
    """Write the receipt and its page, and remove the application's oldest ones beyond `count`.

    Returns the removed files. Raises BatonError.
    """
    files = paths(document, directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        atomic_file.write(files["json"], as_json(document))
        atomic_file.write(files["html"], page)
        present = list(directory.iterdir())
    except OSError as error:
        raise BatonError(
            f"The receipt can't be written to {directory} ({error.strerror}).",
            "This doesn't affect the change itself. Make the directory writable.",
        ) from None
    of_application = re.compile(rf"\d{{8}}T\d{{6}}Z-{re.escape(_plain(document['deploy']['application']))}-[^-]+")
    names = sorted({path.stem for path in present if of_application.fullmatch(path.stem)})
    removed = []
    for old in names[: max(0, len(names) - count)]:
        for kind in files:
            path = directory / f"{old}.{kind}"
            with contextlib.suppress(OSError):
                path.unlink()
                removed.append(path)
    return removed
