"""What a deploy proves of itself: the edges' answers added up, what became of each host, and where it is kept."""

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
from .table import aligned
from .version import VERSION

FORMAT = 1  # of the document
COUNTS = ("requests", "failures", "rescued", "client_closed", "websockets", "by_edge", "surplus", "checks")
ENDED_WELL = ("deployed", "rolled back", "restarted", "configured", "unchanged")
LATENCY = "[0-9]{1,11}"  # milliseconds, as a bin is named
FAR = 7 * 86400.0  # seconds from a change's beginning beyond which no request has to do with it
MOST_POINTS = 2000  # of an edge's timeline; access_log has fewer
# what became of an old background process, and what it is told as, with the longest time that it took
ENDS = {
    "drained": "drained in {} s",
    "killed": "killed after {} s",
    "failed": "ended with an error after {} s",
    "draining": "still draining after {} s",
    "unknown": "whose end is not known",
}
MOST_PROCESSES = 100  # of a type, on a host
GAVE_UP = 0.01  # share of clients that went away; more is worth a word
_STAMP = "%Y%m%dT%H%M%SZ"


def compose(
    deploy: Mapping[str, Any],
    edges: Mapping[str, Mapping[str, Any]],
    hosts: Mapping[str, Mapping[str, Any]],
    phases: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """The receipt. `edges` are results of edge_log_info, failed ones too; `hosts` may be results of activate."""
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


def _edge(said: Mapping[str, Any], started: float) -> dict[str, Any]:
    """An edge's result as the receipt takes it: each key of the type that is added up, whatever the host says.

    `started`: when the change began; a time far from that is none.
    """
    timeline = untrusted.mapping(said.get("timeline"))
    points = untrusted.mapping(timeline.get("points")).items()
    near = ((second, untrusted.mapping(one)) for second, one in points if _is_second(second, started))
    return {
        "windows": {
            name: _counts(untrusted.mapping(one), started) for name, one in untrusted.mapping(said["windows"]).items()
        },
        "skipped_lines": untrusted.whole_number(said.get("skipped_lines")),
        "timeline": {
            "step": min(max(1, untrusted.whole_number(timeline.get("step"))), int(FAR)),
            "points": {second: _counts(one, started) for second, one in itertools.islice(near, MOST_POINTS)},
        }
        if timeline
        else {},
    }


def _is_second(name: str, started: float) -> bool:
    # ten digits: those of this century, and none of other scripts
    return re.fullmatch("[0-9]{1,10}", name) is not None and abs(int(name) - started) <= FAR


def _counts(said: Mapping[str, Any], started: float) -> dict[str, Any]:
    """A window, or a point of a timeline."""
    statuses, bins = (untrusted.mapping(said.get(key)).items() for key in ("statuses", "histogram"))
    times = {key: untrusted.moment(said.get(key)) for key in ("since", "until")}
    return {
        **{key: moment if abs(moment - started) <= FAR else started for key, moment in times.items()},
        **{key: untrusted.whole_number(said.get(key)) for key in COUNTS},
        "complete": bool(said.get("complete", True)),
        "statuses": {str(status): untrusted.whole_number(count) for status, count in statuses},
        "histogram": {name: untrusted.whole_number(count) for name, count in bins if re.fullmatch(LATENCY, name)},
        "max_ms": None if said.get("max_ms") is None else untrusted.number(said["max_ms"]),
        "failing": [
            {
                "status": untrusted.whole_number(one.get("status")),
                "path": untrusted.text(one.get("path")),
                "count": untrusted.whole_number(one.get("count")),
            }
            for one in untrusted.objects(said.get("failing"))
        ],
    }


def _why(name: str, failed: Mapping[str, Any]) -> str:
    """Why a host's result is a failure."""
    said = _first_line(failed.get("msg")).removeprefix(f"{name}: ")
    return said or ("unreachable" if failed.get("unreachable") else "no answer")


def _first_line(text: Any) -> str:
    return str(text or "").strip().partition("\n")[0]


def _windows(edges: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Each window of all edges together."""
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
    """All edges' points; where their steps differ, the longest is everyone's."""
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
        "way": str(host.get("way") or ""),
        "seconds": round(untrusted.number(host.get("seconds")), 1),
        "previous": str(host.get("previous") or ""),
        "release": str(host.get("release") or ""),
        "reverted": bool(host.get("reverted")),
        "started": untrusted.moment(host.get("started")) or None,
        "processes": {
            untrusted.text(name): {
                "way": untrusted.text(one.get("way")),
                **{key: untrusted.whole_number(one.get(key)) for key in ("started", "stopped")},
                "seconds": round(untrusted.number(one.get("seconds")), 1),
                "new": [untrusted.whole_number(pid) for pid in _some(one.get("new"))],
                "old": [_old(about) for about in _some(one.get("old")) if isinstance(about, Mapping)],
            }
            for name, one in untrusted.mapping(host.get("processes")).items()
            if isinstance(one, Mapping)
        },
        "error": _why(name, host) if failed else "",
    }


def _some(found: Any) -> list[Any]:
    return found[:MOST_PROCESSES] if isinstance(found, list) else []


def _old(said: Mapping[str, Any]) -> dict[str, Any]:
    """A background process of the previous release."""
    state = untrusted.text(said.get("state"))
    return {
        "pid": untrusted.whole_number(said.get("pid")),
        "state": state if state in ENDS else "unknown",
        "seconds": round(untrusted.number(said.get("seconds")), 1),
    }


def _phases(phases: Sequence[Mapping[str, Any]], started: float, ended: float) -> list[dict[str, Any]]:
    """Phases with their beginnings; one that doesn't say begins when the one before has ended. The last still runs."""
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
    """What became of the requests that ended meanwhile, in a sentence. What never reached an edge is in no log."""
    during = document["windows"].get("during")
    if during is None:
        return "No edge's log could be read, so what became of requests meanwhile is not known."
    requests, failures = during["requests"], during["failures"]
    if not requests:
        return "No request ended meanwhile, so nothing is proven about them."
    before = document["windows"].get("before")
    if before and not before["requests"]:
        before = None
    left = _left(during, before)
    if not failures:
        return f"None of the {_requests(requests)} that the edges logged meanwhile failed{left}."
    most = during["failing"][0]
    known = f"; before, {_share(before['failures'], before['requests'])}" if before else ""
    return (
        f"{failures:,} of the {_requests(requests)} that the edges logged meanwhile failed "
        f"({_share(failures, requests)}{known}), most often {most['status']} on {most['path']}{left}."
    )


def _left(during: Mapping[str, Any], before: Mapping[str, Any] | None) -> str:
    """That many more clients than before went away without an answer: no failure in the log, but one for them."""
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
    """What a reader must know to believe the figures, each a sentence."""
    notes = []
    if document["deploy"]["reason"]:
        notes.append(document["deploy"]["reason"])
    for name, edge in document["edges"].items():
        if not edge["read"]:
            notes.append(f"The log of {name} could not be read ({edge['why'].rstrip('.')}); its requests are missing.")
    for name, edge in read.items():
        short = [window for window, found in edge["windows"].items() if not found.get("complete", True)]
        if short:
            notes.append(f"The logs of {name} don't reach back to the beginning of: {', '.join(short)}.")
        if edge.get("skipped_lines"):
            notes.append(f"{edge['skipped_lines']:,} lines in the log of {name} could not be understood.")
    during = document["windows"].get("during", {})
    for key, words in (
        ("rescued", "were answered by a second server after a first one had failed"),
        ("client_closed", "ended because the client went away (499), which is no failure of the server's"),
        ("surplus", "more were turned away (503) as the servers had all the requests that they take at once"),
        ("websockets", "were WebSockets that ended; these have no latency"),
        ("checks", "more were the deploy's own active checks, and are not counted"),
    ):
        if during.get(key):
            notes.append(f"Meanwhile {during[key]:,} {words}.")
    return notes


def title(document: Mapping[str, Any]) -> str:
    """What it was, how it ended, when and by whom, in a line."""
    deploy = document["deploy"]
    what = " ".join(filter(None, (deploy["application"], deploy["version"])))
    release = f" ({deploy['release']})" if deploy["release"] else ""
    how = f"{what}{release}: {deploy['result']} in {deploy['seconds']} s, {utc(deploy['started'])}"
    return f"{how} {by(deploy)}".rstrip()


def by(deploy: Mapping[str, Any]) -> str:
    """Who did it, where, and with which version of Baton."""
    words = (("by", deploy["who"]), ("on", deploy["where"]), ("with Baton", deploy.get("baton")))
    return " ".join(f"{word} {what}" for word, what in words if what)


def utc(moment: float) -> str:
    """A time for people."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(moment))


def duration(milliseconds: float | None) -> str:
    """A latency for people."""
    if milliseconds is None:
        return "-"
    if milliseconds < 1:
        return "< 1 ms"
    return f"{milliseconds:.0f} ms" if milliseconds < 10_000 else f"{milliseconds / 1000:.1f} s"


def outcome(host: Mapping[str, Any]) -> str:
    """What became of a host."""
    if host["error"]:
        return f"failed{', reverted' if host['reverted'] else ''}: {host['error']}"
    if host["reverted"]:
        return f"reverted to {host['release'] or 'nothing'}"
    if not host["release"]:
        return "not reached"
    if host["way"] in ("", "none") or host["previous"] == host["release"]:
        return f"serves {host['release']}{', as before' if host['way'] in ('', 'none') else ', anew'}"
    return f"{host['previous'] or 'nothing'} -> {host['release']}"


def ended(process: Mapping[str, Any]) -> str:
    """What became of the old ones of a background process type: `2 drained in 4.1 s, 1 killed after 30.0 s`."""
    said = []
    for state, words in ENDS.items():
        if times := [one["seconds"] for one in process["old"] if one["state"] == state]:
            said.append(f"{len(times)} {words.format(f'{max(times):.1f}')}")
    return ", ".join(said) or "-"


def pids(process: Mapping[str, Any]) -> str:
    """The pids of the old and of the new ones of a background process type: `401 402 -> 517 518`."""
    lists = ([one["pid"] for one in process["old"]], process["new"])
    return " -> ".join(" ".join(map(str, filter(None, found))) or "-" for found in lists)


def text(document: Mapping[str, Any]) -> str:
    """The receipt for a terminal."""
    lines = [title(document), document["headline"]]
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
        rows = [("HOST", "OUTCOME", "BY", "SECONDS")]
        rows += [
            (name, outcome(host), host["way"] or "-", f"{host['seconds']:.1f}" if host["seconds"] else "-")
            for name, host in document["hosts"].items()
        ]
        lines += ["", aligned(rows, left=3)]
    if any(host["processes"] for host in document["hosts"].values()):
        rows = [("HOST", "PROCESSES", "BY", "PIDS", "THE OLD ONES", "STARTED", "STOPPED", "SECONDS")]
        rows += [
            (
                *(host, name, one["way"], pids(one), ended(one)),
                *(str(one["started"]), str(one["stopped"]), f"{one['seconds']:.1f}"),
            )
            for host, about in document["hosts"].items()
            for name, one in about["processes"].items()
        ]
        lines += ["", aligned(rows, left=5)]
    if document["phases"]:
        lines += ["", "Phases: " + ", ".join(f"{phase['name']} {phase['seconds']} s" for phase in document["phases"])]
    lines += [f"Note: {note}" for note in document["notes"]]
    return untrusted.printable("\n".join(lines))


def name_of(document: Mapping[str, Any]) -> str:
    """What a receipt's files are called, without their endings; in order of time."""
    deploy = document["deploy"]
    moment = time.strftime(_STAMP, time.gmtime(deploy["started"]))
    return f"{moment}-{_plain(deploy['application'])}-{_plain(deploy['release'] or deploy['kind'] or deploy['result'])}"


def _plain(word: str) -> str:
    """A word that is safe in a file's name, and has no dash at which the name is taken apart."""
    return re.sub(r"[^A-Za-z0-9._]", "_", word)


def paths(document: Mapping[str, Any], directory: pathlib.Path) -> dict[str, pathlib.Path]:
    """Where a receipt is kept, by kind."""
    return {kind: directory / f"{name_of(document)}.{kind}" for kind in ("json", "html")}


def as_json(document: Mapping[str, Any]) -> str:
    """The receipt as its file holds it."""
    return json.dumps(document, indent=1) + "\n"


def keep(document: Mapping[str, Any], page: str, directory: pathlib.Path, count: int) -> list[pathlib.Path]:
    """Write the receipt and its page, and remove the application's oldest ones. Returns those that were removed."""
    files = paths(document, directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        atomic_file.write(files["json"], as_json(document))
        atomic_file.write(files["html"], page)
        there = list(directory.iterdir())
    except OSError as error:
        raise BatonError(
            f"The receipt can't be written to {directory} ({error.strerror}).",
            "The deploy itself is not affected; make the directory writable.",
        ) from None
    of_application = re.compile(rf"\d{{8}}T\d{{6}}Z-{re.escape(_plain(document['deploy']['application']))}-[^-]+")
    names = sorted({path.stem for path in there if of_application.fullmatch(path.stem)})
    removed = []
    for old in names[: max(0, len(names) - count)]:
        for kind in files:
            path = directory / f"{old}.{kind}"
            with contextlib.suppress(OSError):
                path.unlink()
                removed.append(path)
    return removed
