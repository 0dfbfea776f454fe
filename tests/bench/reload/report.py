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

from tests.bench import mix, tables
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
    imports: dict[str, str]
    phases: list[Phase]
    throughput: list[Throughput]

    @functools.cached_property
    def rows(self) -> list[Phase]:
        """The phases by import and server; the turns of one server are merged."""
        imports, servers = list(self.imports), list(self.titles)
        groups: dict[tuple[int, int, str], list[Phase]] = {}
        for phase in self.phases:
            position = (imports.index(phase.imported), servers.index(phase.server), phase.kind)
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
    return f"{phase.server:16} {phase.kind:8} {phase.imported}: {shown}{causes}"


def table(document: Document) -> str:
    """All phases, for the terminal."""
    rows = [(phase.imported, *_cells(phase, phase.server)) for phase in document.rows]
    rates = [f"{rates.server:16} {rates.median:8,.0f} requests/s at most" for rates in document.throughput]
    return "\n".join([tables.columns(("import", *HEADER), rows), "", *rates])


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
    calm = next((phase for phase in document.rows if (phase.server, phase.kind) == (BATON, "quiet")), None)
    for imported, title in document.imports.items():
        rows = [phase for phase in document.rows if phase.kind == "reloads" and phase.imported == imported]
        others = [phase for phase in rows if phase.server != BATON]
        ours = next((phase for phase in rows if phase.server == BATON), None)
        if ours is None or not others:
            continue
        words = []
        for name, part in (("p99", "99 of 100"), ("p999", "999 of 1,000")):
            best = min(others, key=lambda phase: float(getattr(phase.traffic, name)))
            words.append(
                f"{part} requests took less than {tables.milliseconds(getattr(ours.traffic, name))} ms with a Baton "
                f"reload every {document.plan['every']:g} s; the best other server: "
                f"{tables.milliseconds(getattr(best.traffic, name))} ms ({document.titles[best.server]}, "
                f"{best.traffic.failed_total:,} failed)"
            )
        findings.append(f"- **Delay**, import of {title}: {'; '.join(words)}.")
        if calm is not None:
            findings.append(
                f"  This p99 is {ours.traffic.p99 / calm.traffic.p99:.1f} times that of the quiet phase "
                f"({calm.traffic.p99:.1f} ms)."
            )
    rates = {rates.server: rates for rates in document.throughput}
    if {BATON, STOCK} <= rates.keys():
        ratios = [ours / stock for ours, stock in zip(rates[BATON].rounds, rates[STOCK].rounds, strict=True)]
        findings.append(
            f"- **Throughput**: {statistics.median(ratios):.2f} times that of {document.titles[STOCK]} (median of "
            f"the rounds, compared in pairs; {min(ratios):.2f} to {max(ratios):.2f})."
        )
    return findings


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
            rows.append((document.titles[phase.server], phase.kind, document.imports[phase.imported], causes, kinds))
    if not rows:
        return ""
    grid = tables.markdown(("server", "phase", "import", "causes", "kinds of request"), rows)
    return f"## Causes of failures\n\n{grid}\n\n"


def markdown(document: Document) -> str:
    """The page docs/benchmarks.md."""
    plan, machine = document.plan, document.machine
    series = ""
    for imported, title in document.imports.items():
        rows = [_cells(phase, document.titles[phase.server]) for phase in document.rows if phase.imported == imported]
        heading = f"## Reloads of an application whose import takes {title}"
        series += f"{heading}\n\n{tables.markdown(HEADER, rows)}\n\n"
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
        rate=f"{plan['rate']:.0f}",
        mix=mix.described({kind: counts["sent"] for kind, counts in document.phases[0].traffic.by_kind.items()}),
        every=f"{plan['every']:g}",
        turns=plan["turns"],
        workers=document.workers,
        machine=(
            f"{machine['cores']} cores ({machine['processor']}), {machine['memory']} of memory, {machine['os']}, "
            f"Linux {machine['kernel']}."
        ),
        versions=tables.markdown(("", "version"), document.versions.items()),
        cores=machine["cores"],
        rare=round(plan["rate"] * plan["quiet"] / 1000),
    )
