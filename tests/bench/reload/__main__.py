"""Measures Baton's handover, compared with other servers, on one systemd host.

    python -m tests.bench.reload [--quick] [--output FILE.json] [--reloads N]
    python -m tests.bench.reload --render FILE.json

Writes the figures as JSON and as a page (.md), and prints a table. Exits with 1 if Baton lost a request or a reload
failed. The host is removed at the end.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import pathlib
import subprocess
import sys
import time
from typing import Any

from fleet.fleet import FleetError
from tests.bench import machine
from tests.bench.controller import EVIDENCE, PROJECT, BenchError, booted, command_line

from . import measure, report
from .host import Host
from .plan import BENCH, Application, Plan, full, quick


def say(text: str) -> None:
    print(f"{datetime.datetime.now():%H:%M:%S} {text}", flush=True)


def run(plan: Plan, command: str) -> report.Document:
    """Measure everything in the plan, on an existing host."""
    began = time.time()
    host = Host()
    phases: list[measure.Phase] = []
    rates: list[measure.Throughput] = []
    for part in plan.parts:
        say(f"setting up the {part.application.title} ...")
        host.provision(part.application)
    versions = machine.versions() | machine.h2load() | host.versions()
    workers = host.workers()
    for part in plan.parts:
        for series in part.series:
            say(f"{series.title} ...")
            if series.environment is not None:
                host.switch(part.application, series.environment)
            for phase in measure.Conditions(plan, host, part.application, series).measure():
                phases.append(phase)
                say(report.line(phase))
                if phase.server == report.BATON and (phase.traffic.failed_total or phase.failed_reloads):
                    say(f"evidence from the host: {keep_evidence(host, part.application, phase)}")
        if part.rounds:
            say("throughput ...")
            rates += measure.throughput(plan, part)
    return report.Document(
        plan=dataclasses.asdict(plan),
        began=began,
        seconds=round(time.time() - began),
        command=command,
        machine=machine.describe(),
        versions=versions,
        workers=workers,
        titles={server.name: server.title for server in BENCH.servers},
        phases=phases,
        throughput=rates,
    )


def keep_evidence(host: Host, application: Application, phase: measure.Phase) -> pathlib.Path:
    """Write a phase in which something failed to a file, with the host's logs. Returns its path in the project."""
    EVIDENCE.mkdir(parents=True, exist_ok=True)
    path = EVIDENCE / f"{phase.kind}-{phase.series}.txt"
    logs = host.evidence(application, phase.began)
    path.write_text(json.dumps(dataclasses.asdict(phase), indent=1) + "\n" + logs)
    return path.relative_to(PROJECT)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="test the benchmark itself: few reloads, meaningless figures"
    )
    parser.add_argument(
        "--reloads", type=int, default=int(os.environ.get("BENCH_RELOADS") or 100), help="number of Baton's reloads"
    )
    options = command_line(parser, lambda figures: report.markdown(report.read(figures)))
    plan = quick() if options.quick else full(options.reloads)
    output = options.output or EVIDENCE / ("reload-quick.json" if options.quick else "reload.json")
    page = output.with_suffix(".md") if options.output or options.quick else PROJECT / "docs/benchmarks.md"
    subprocess.run([str(PROJECT / "scripts/apt-install"), "nghttp2-client"], check=True)
    words: list[Any] = ["make bench-reload"]
    if options.quick:
        words.append("BENCH_OPTIONS=--quick")
    elif options.reloads != 100:
        words.append(f"BENCH_RELOADS={options.reloads}")
    say("creating the host ...")
    try:
        with booted(BENCH.inventory, options.keep):
            document = run(plan, " ".join(words))
            # before the host is removed, which may fail
            output.parent.mkdir(parents=True, exist_ok=True)
            report.write(document, output)
            page.write_text(report.markdown(document))
    except (BenchError, FleetError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    print(report.table(document))
    print(f"{output} and {page}")
    return 1 if report.lost(document) else 0


if __name__ == "__main__":
    sys.exit(main())
