"""Measures deploys and rollbacks under traffic, compared with a conventional deploy, on 2 and on 8 app servers.

    python -m tests.bench.deploy [--quick] [--keep] [--output FILE.json]
    python -m tests.bench.deploy --render FILE.json

Writes the figures as JSON and as a page (.md), and prints a table. Exits with 1 if Baton lost a request. The hosts are
removed at the end.
"""

from __future__ import annotations

import argparse
import datetime
import pathlib
import sys
import tempfile
import time

from fleet import fleet
from tests.bench import machine
from tests.bench.controller import EVIDENCE, PROJECT, BenchError, booted, command_line, playbook, run_as_root, wheels

from . import measure, report
from .plan import FULL, KINDS, NEW, PLAIN, QUICK, Plan, Size


def say(text: str) -> None:
    print(f"{datetime.datetime.now():%H:%M:%S} {text}", flush=True)


def prepare(size: Size) -> measure.Fleet:
    """Set up both services on the hosts, each with a release to roll back to."""
    say(f"preparing {size.servers} app servers ...")
    fleet.up(str(size.inventory))
    hosts = measure.Fleet(size)
    hosts.provision()
    playbook(size.inventory, "tests/bench/deploy/playbooks/plain_setup.yml", {"bench_wheels": str(wheels())})
    with tempfile.TemporaryDirectory() as scratch:
        for kind in (NEW, PLAIN):
            hosts.run(kind, pathlib.Path(scratch))
    return hosts


def run(plan: Plan, command: str) -> report.Document:
    """Measure everything in the plan, on existing hosts."""
    began = time.time()
    runs: list[measure.Run] = []
    for size in plan.sizes:
        hosts = prepare(size)
        # in turn, so that other load on the machine affects all of them equally
        for do in [measure.quiet] * size.quiet + [measure.measure] * size.rounds:
            for kind in KINDS:
                runs.append(do(hosts, kind))
                say(report.line(runs[-1]))
    versions = machine.versions() | machine.host_versions(lambda *words: run_as_root(22621, *words))
    return report.Document(
        plan=plan.name,
        began=began,
        seconds=round(time.time() - began),
        command=command,
        machine=machine.describe(),
        versions=versions,
        runs=runs,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="test the benchmark itself: each kind once, on 2 app servers"
    )
    options = command_line(parser, lambda figures: report.markdown(report.read(figures)))
    output = options.output or EVIDENCE / ("deploy-quick.json" if options.quick else "deploy.json")
    page = output.with_suffix(".md") if options.output or options.quick else PROJECT / "docs/benchmarks-deploy.md"
    command = "make bench-deploy" + (" BENCH_OPTIONS=--quick" if options.quick else "")
    plan = QUICK if options.quick else FULL
    try:
        with booted(plan.sizes[0].inventory, options.keep):
            document = run(plan, command)
            # before the hosts are removed, which may fail
            output.parent.mkdir(parents=True, exist_ok=True)
            report.write(document, output)
            page.write_text(report.markdown(document))
    except (BenchError, fleet.FleetError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    print(report.table(document))
    print(f"{output} and {page}")
    return 1 if report.lost(document) else 0


if __name__ == "__main__":
    sys.exit(main())
