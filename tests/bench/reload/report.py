"""The figures as JSON, as a table for the terminal, and as docs/benchmarks.md."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import functools
import json
import pathlib
import statistics
import string
from typing import Any

from tests.bench import tables
from tests.bench.mix import Mix
from tests.support.traffic import Summary

from .measure import CONNECTIONS, Phase, Throughput

PAGE = pathlib.Path(__file__).with_name("page.md")
BATON = "baton"
STOCK = "gunicorn-uvicorn"
HEADER = (
    "server",
    "phase",
    "reloads",
    "s each",
    "requests",
    "failed",
    "WebSockets cut",
    "p50",
    "p99",
    "p99.9",
    "max",
    "late",
)


@dataclasses.dataclass(frozen=True)
class Document:
    """The results of a run, and its environment."""

    plan: dict[str, Any]
    began: float
    seconds: int
    command: str
    machine: dict[str, str]
    versions: dict[str, str]
    workers: int
    titles: dict[str, str]
    phases: list[Phase]
    throughput: list[Throughput]

    @functools.cached_property
    def series(self) -> dict[str, dict[str, Any]]:
        """The plan's series by name."""
        return {series["name"]: series for part in self.plan["parts"] for series in part["series"]}

    @functools.cached_property
    def rows(self) -> list[Phase]:
        """The phases by series and server; the turns of one server are merged."""
        names, servers = list(self.series), list(self.titles)
        groups: dict[tuple[int, int, str], list[Phase]] = {}
        for phase in self.phases:
            position = (names.index(phase.series), servers.index(phase.server), phase.kind)
            groups.setdefault(position, []).append(phase)
        # a server's kinds stay in the order of measurement
        return [_merged(groups[position]) for position in sorted(groups, key=lambda position: position[:2])]


def _merged(turns: list[Phase]) -> Phase:
    """Counts and reloads are totals, percentiles are medians of the turns, and maxima those of all turns."""
    each = [phase.traffic for phase in turns]
    failed: collections.Counter[str] = collections.Counter()
    kinds: dict[str, collections.Counter[str]] = {}
    for traffic in each:
        failed.update(traffic.failed)
        for kind, counts in traffic.by_kind.items():
            kinds.setdefault(kind, collections.Counter()).update(counts)
    traffic = Summary(
        sent=sum(traffic.sent for traffic in each),
        ok=sum(traffic.ok for traffic in each),
        failed=dict(failed),
        by_kind={kind: dict(counts) for kind, counts in kinds.items()},
        lag_ms=max(traffic.lag_ms for traffic in each),
        p50=statistics.median(traffic.p50 for traffic in each),
        p99=statistics.median(traffic.p99 for traffic in each),
        p999=statistics.median(traffic.p999 for traffic in each),
        max=max(traffic.max for traffic in each),
    )
    reloads = [reload for phase in turns for reload in phase.reloads]
    return dataclasses.replace(turns[0], traffic=traffic, reloads=reloads)


def write(document: Document, path: pathlib.Path) -> None:
    path.write_text(json.dumps(dataclasses.asdict(document), indent=1) + "\n")


def read(path: pathlib.Path) -> Document:
    figures = json.loads(path.read_text())
    figures["phases"] = [Phase(**{**phase, "traffic": Summary(**phase["traffic"])}) for phase in figures["phases"]]
    figures["throughput"] = [Throughput(**rates) for rates in figures["throughput"]]
    return Document(**figures)


def lost(document: Document) -> int:
    """The number of Baton's requests, WebSockets and reloads that failed."""
    ours = [phase for phase in document.phases if phase.server == BATON]
    return sum(phase.traffic.failed_total + phase.failed_reloads for phase in ours)


def _cells(phase: Phase, title: str) -> tuple[str, ...]:
    traffic = phase.traffic
    seconds = [reload["seconds"] for reload in phase.reloads]
    good = f"{len(seconds)}" + (f" ({phase.failed_reloads} failed)" if phase.failed_reloads else "")
    return (
        title,
        phase.kind,
        good if seconds else "",
        f"{statistics.median(seconds):.1f}" if seconds else "",
        f"{traffic.sent:,}",
        f"{phase.failed:,}",
        f"{phase.cut_websockets:,}",
        *map(tables.milliseconds, (traffic.p50, traffic.p99, traffic.p999, traffic.max, traffic.lag_ms)),
    )


def line(phase: Phase) -> str:
    """One phase, for the terminal."""
    cells = dict(zip(HEADER, _cells(phase, phase.server), strict=True))
    causes = f" {phase.traffic.failed}" if phase.traffic.failed else ""
    shown = ", ".join(f"{name} {value}" for name, value in cells.items() if value and name not in ("server", "phase"))
    return f"{phase.server:16} {phase.kind:8} {phase.series}: {shown}{causes}"


def table(document: Document) -> str:
    """All phases, for the terminal."""
    rows = [(phase.series, *_cells(phase, phase.server)) for phase in document.rows]
    rates = [f"{rates.server:16} {rates.median:8,.0f} requests/s at most" for rates in document.throughput]
    return "\n".join([tables.columns(("series", *HEADER), rows), "", *rates])


def _findings(document: Document) -> list[str]:
    """Baton's results in words."""
    during = [phase for phase in document.phases if phase.server == BATON and phase.kind != "quiet"]
    requests = sum(phase.traffic.sent for phase in during)
    failed = sum(phase.failed for phase in during)
    cut = sum(phase.cut_websockets for phase in during)
    handovers = sum(len(phase.reloads) for phase in during)
    findings = [
        f"- **Loss.** Baton's service was replaced {handovers} times while {requests:,} requests arrived: "
        f"{failed} failed, {cut} WebSockets were cut."
    ]
    if not failed and not cut and handovers:
        findings[0] += (
            f" Nothing lost in {handovers} handovers means, with 95 % confidence, that fewer than one handover in "
            f"{handovers // 3} loses anything."
        )
    calm = None
    for name, series in document.series.items():
        rows = {(phase.server, phase.kind): phase for phase in document.rows if phase.series == name}
        # without a quiet phase of its own, a series is compared with the previous series' quiet phase
        calm = rows.get((BATON, "quiet"), calm)
        others = [phase for (server, kind), phase in rows.items() if kind == "reloads" and server != BATON]
        if (BATON, "reloads") in rows and calm is not None and others:
            findings += _delay(document, series, rows[BATON, "reloads"], calm, others)
    rates = {rates.server: rates for rates in document.throughput}
    if {BATON, STOCK} <= rates.keys():
        ratios = [ours / stock for ours, stock in zip(rates[BATON].rounds, rates[STOCK].rounds, strict=True)]
        findings.append(
            f"- **Throughput**: {statistics.median(ratios):.2f} times that of {document.titles[STOCK]} (median of "
            f"the rounds, compared in pairs; {min(ratios):.2f} to {max(ratios):.2f})."
        )
    return findings


def _delay(document: Document, series: dict[str, Any], ours: Phase, calm: Phase, others: list[Phase]) -> list[str]:
    """What reloads cost Baton's requests, compared with those of other servers and with no reloads."""
    best = {name: min(others, key=lambda phase: float(getattr(phase.traffic, name))) for name in ("p99", "p999")}
    words = []
    for name, part in (("p99", "99 of 100"), ("p999", "999 of 1,000")):
        other = best[name]
        words.append(
            f"{part} requests took less than {tables.milliseconds(getattr(ours.traffic, name))} ms with a Baton "
            f"reload every {document.plan['every']:g} s; the best other server: "
            f"{tables.milliseconds(getattr(other.traffic, name))} ms ({document.titles[other.server]}, "
            f"{other.failed:,} requests failed, {other.cut_websockets:,} WebSockets cut)"
        )
    ratio = ours.traffic.p99 / calm.traffic.p99
    found = [
        f"- **Delay**, {series['title']}: {'; '.join(words)}.",
        f"  This p99 is {ratio:.2f} times that of the quiet phase ({tables.milliseconds(calm.traffic.p99)} ms).",
    ]
    if (aim := series["aim"]) is not None:
        reached = {True: "reached", False: "missed"}
        found.append(
            f"  The aims: a p99 of at most {aim:g} times that of the quiet phase: {reached[ratio <= aim]}; a p99.9 "
            f"below that of every other server: {reached[ours.traffic.p999 < best['p999'].traffic.p999]}."
        )
    return found


def _causes(document: Document) -> str:
    rows = []
    for phase in document.rows:
        if phase.traffic.failed:
            causes = ", ".join(f"{cause}: {count:,}" for cause, count in sorted(phase.traffic.failed.items()))
            kinds = ", ".join(
                f"{kind} {counts['failed']:,} of {counts['sent']:,}"
                for kind, counts in phase.traffic.by_kind.items()
                if counts["failed"]
            )
            rows.append(
                (document.titles[phase.server], phase.kind, document.series[phase.series]["title"], causes, kinds)
            )
    if not rows:
        return ""
    grid = tables.markdown(("server", "phase", "series", "causes", "kinds of request"), rows)
    return f"## Causes of failures\n\n{grid}\n\n"


def _mix(document: Document, part: dict[str, Any]) -> str:
    """The traffic to an application, in words."""
    application, names = part["application"], [series["name"] for series in part["series"]]
    sent: collections.Counter[str] = collections.Counter()
    for phase in document.phases:
        if phase.series in names:
            sent.update({kind: counts["sent"] for kind, counts in phase.traffic.by_kind.items()})
    return f"{application['title'].capitalize()}: {Mix((), application['mix']['kinds']).described(sent)}."


def markdown(document: Document) -> str:
    """The page docs/benchmarks.md."""
    plan, machine = document.plan, document.machine
    series = ""
    for name, about in document.series.items():
        rows = [_cells(phase, document.titles[phase.server]) for phase in document.rows if phase.series == name]
        series += f"## Reloads: {about['title']}\n\n{tables.markdown(HEADER, rows)}\n\n"
    rates = [
        (document.titles[rates.server], f"{rates.median:,.0f}", ", ".join(f"{rate:,.0f}" for rate in rates.rounds))
        for rates in document.throughput
    ]
    page = string.Template(PAGE.read_text())
    return page.substitute(
        command=document.command,
        date=f"{datetime.datetime.fromtimestamp(document.began, datetime.UTC):%Y-%m-%d}",
        minutes=f"{document.seconds / 60:.0f}",
        findings="\n".join(_findings(document)),
        series=series.rstrip("\n") + "\n",
        causes=_causes(document),
        connections=CONNECTIONS,
        throughput=tables.markdown(("server", "median requests/s", "rounds"), rates),
        rates=" and ".join(
            f"{part['application']['rate']:.0f} requests/s to the {part['application']['title']}"
            for part in plan["parts"]
        ),
        mixes=" ".join(_mix(document, part) for part in plan["parts"]),
        every=f"{plan['every']:g}",
        turns=plan["turns"],
        workers=document.workers,
        machine=(
            f"{machine['cores']} cores ({machine['processor']}), {machine['memory']} of memory, {machine['os']}, "
            f"Linux {machine['kernel']}."
        ),
        versions=tables.markdown(("", "version"), document.versions.items()),
        cores=machine["cores"],
        rare=" or ".join(f"{part['application']['rate'] * plan['quiet'] / 1000:.0f}" for part in plan["parts"]),
    )
