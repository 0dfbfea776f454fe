"""The figures as JSON, as a table for the terminal, and as docs/benchmarks-deploy.md."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import json
import pathlib
import statistics
import string
from typing import Any

from tests.bench import mix, tables
from tests.support.traffic import Summary

from .measure import Run
from .plan import BACK, KINDS, NEW, PLAIN, RATE

PAGE = pathlib.Path(__file__).with_name("page.md")
HEADER = (
    *("", "app servers", "s without requests", "controller's CPU s", "s under requests", "of each run"),
    *("requests", "failed", "p50 ms", "p99 ms", "max ms"),
)
SHOWN = 15  # tasks that are listed individually


@dataclasses.dataclass(frozen=True)
class Document:
    """The results of a run, and its environment."""

    plan: str
    began: float
    seconds: int
    command: str
    machine: dict[str, str]
    versions: dict[str, str]
    runs: list[Run]

    def of(self, kind: str, servers: int, *, quiet: bool = False) -> list[Run]:
        """The runs with or without traffic."""
        wanted = (kind, servers, quiet)
        return [run for run in self.runs if (run.kind, run.servers, run.traffic is None) == wanted]

    def median(self, kind: str, servers: int, *, quiet: bool = False) -> float | None:
        """The median duration in seconds; None if it wasn't measured."""
        seconds = [run.seconds for run in self.of(kind, servers, quiet=quiet)]
        return statistics.median(seconds) if seconds else None

    def traffic(self, *kinds: str) -> list[Summary]:
        """The traffic of some kinds, run by run."""
        return [run.traffic for run in self.runs if run.kind in kinds and run.traffic is not None]

    @property
    def sizes(self) -> list[int]:
        return sorted({run.servers for run in self.runs})


def write(document: Document, path: pathlib.Path) -> None:
    path.write_text(json.dumps(dataclasses.asdict(document), indent=1) + "\n")


def read(path: pathlib.Path) -> Document:
    figures = json.loads(path.read_text())
    figures["runs"] = [
        Run(**{"cpu": 0.0, **run, "traffic": Summary(**run["traffic"]) if run["traffic"] else None})
        for run in figures["runs"]
    ]
    return Document(**figures)


def lost(document: Document) -> int:
    """The number of requests that failed during Baton's deploys and rollbacks."""
    return sum(traffic.failed_total for traffic in document.traffic(NEW.name, BACK.name))


def line(run: Run) -> str:
    """One run, for the terminal."""
    traffic = run.traffic
    took = f"{run.kind:8} {run.servers} app servers: {run.seconds:.1f} s"
    if traffic is None:
        return f"{took}, no requests"
    return (
        f"{took}, {traffic.sent:,} requests, "
        f"{traffic.failed_total:,} failed {traffic.failed or ''}, p99 {traffic.p99:.1f} ms, max {traffic.max:.0f} ms"
    )


def rows(document: Document) -> list[tuple[str, ...]]:
    """A row for each kind and size; p50 and p99 are medians of the runs, failures are totals, max is the maximum."""
    found = []
    for servers in document.sizes:
        for kind in KINDS:
            runs = document.of(kind.name, servers)
            traffics = [run.traffic for run in runs if run.traffic is not None]
            if not traffics:
                continue
            latencies = [statistics.median(getattr(traffic, name) for traffic in traffics) for name in ("p50", "p99")]
            found.append(
                (
                    kind.title,
                    str(servers),
                    _seconds(document.median(kind.name, servers, quiet=True)),
                    f"{statistics.median(run.cpu for run in document.of(kind.name, servers, quiet=True) or runs):.1f}",
                    _seconds(document.median(kind.name, servers)),
                    ", ".join(f"{run.seconds:.1f}" for run in runs),
                    f"{sum(traffic.sent for traffic in traffics):,}",
                    f"{sum(traffic.failed_total for traffic in traffics):,}",
                    *map(tables.milliseconds, [*latencies, max(traffic.max for traffic in traffics)]),
                )
            )
    return found


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.1f}"


def _typical(runs: list[Run]) -> Run:
    return sorted(runs, key=lambda run: run.seconds)[(len(runs) - 1) // 2]


def steps(run: Run, *by: str) -> list[tuple[str, ...]]:
    """Seconds of a run by play, or by play and task, the longest first; the rest is Ansible's start and end."""
    sums: collections.Counter[tuple[str, ...]] = collections.Counter()
    for step in run.steps:
        sums[tuple(step[name] for name in by)] += step["seconds"]
    outside = run.seconds - sum(step["seconds"] for step in run.steps)
    found = [*sums.most_common(), (("Ansible's start and end", *[""] * (len(by) - 1)), outside)]
    return [(*names, f"{seconds:.1f}") for names, seconds in found]


def table(document: Document) -> str:
    """The tables for the terminal."""
    text = tables.columns(HEADER, rows(document))
    for kind in KINDS:
        for servers in document.sizes:
            runs = document.of(kind.name, servers)
            if runs:
                header = (f"{kind.title}, {servers} app servers: phase", "seconds")
                text += "\n\n" + tables.columns(header, steps(_typical(runs), "play"))
    return text


def _findings(document: Document) -> str:
    findings = []
    smallest, *larger = document.sizes
    for kind, aim in ((NEW, "limit: 20 s, target: 10 s"), (BACK, "limit: 10 s")):
        took, alone = document.median(kind.name, smallest), document.median(kind.name, smallest, quiet=True)
        if took and alone:
            findings.append(
                f"- **{kind.title}** to {smallest} app servers: {alone:.1f} s, {took:.1f} s under requests ({aim})."
            )
        for servers in larger:
            grown, quiet = document.median(kind.name, servers), document.median(kind.name, servers, quiet=True)
            if took and alone and grown and quiet:
                findings.append(
                    f"  To {servers}: {quiet:.1f} s, {grown:.1f} s under requests; {quiet / alone:.1f} and "
                    f"{grown / took:.1f} times as long (limit: 2.5)."
                )
    for servers in document.sizes:
        ours, conventional = document.median(NEW.name, servers), document.median(PLAIN.name, servers)
        ours_alone, conventional_alone = (document.median(kind.name, servers, quiet=True) for kind in (NEW, PLAIN))
        if ours and conventional and ours_alone and conventional_alone:
            runs = document.of(PLAIN.name, servers)
            failed = sum(run.traffic.failed_total for run in runs if run.traffic)
            findings.append(
                f"- **Conventional**, {servers} app servers: {conventional_alone:.1f} s, {conventional:.1f} s under "
                f"requests ({failed:,} failed in {len(runs)} deploy{'s' * (len(runs) > 1)}). Baton took "
                f"{ours_alone / conventional_alone:.2f} and {ours / conventional:.2f} times as long."
            )
    sent = sum(traffic.sent for traffic in document.traffic(NEW.name, BACK.name))
    findings.append(f"- **Loss**: {lost(document):,} of the {sent:,} requests failed that arrived during Baton's runs.")
    return "\n".join(findings)


def markdown(document: Document) -> str:
    """The page docs/benchmarks-deploy.md."""
    parts = []
    for kind in KINDS:
        for servers in document.sizes:
            if runs := document.of(kind.name, servers):
                typical = _typical(runs)
                parts += [
                    f"### {kind.title}, {servers} app servers",
                    tables.markdown(("phase", "seconds"), steps(typical, "play")),
                    tables.markdown(
                        ("task", "phase", "seconds"),
                        [(task, play, seconds) for play, task, seconds in steps(typical, "play", "task")[:SHOWN]],
                    ),
                ]
    sent: collections.Counter[str] = collections.Counter()
    for traffic in document.traffic(*(kind.name for kind in KINDS)):
        sent.update({name: counts["sent"] for name, counts in traffic.by_kind.items()})
    machine: dict[str, Any] = document.machine
    return string.Template(PAGE.read_text()).substitute(
        command=document.command,
        date=f"{datetime.datetime.fromtimestamp(document.began, datetime.UTC):%Y-%m-%d}",
        minutes=f"{document.seconds / 60:.0f}",
        findings=_findings(document),
        table=tables.markdown(HEADER, rows(document)),
        steps="\n\n".join(parts),
        rate=f"{RATE:.0f}",
        mix=mix.BENCH.described(dict(sent)),
        machine=(
            f"{machine['cores']} cores ({machine['processor']}), {machine['memory']} of memory, {machine['os']}, "
            f"Linux {machine['kernel']}."
        ),
        versions=tables.markdown(("", "version"), document.versions.items()),
        cores=machine["cores"],
    )
