"""Measures security figures with independent tools, on both Debian releases: docs/security-figures.md.

    python -m tests.bench.security [--keep] [--output FILE.json]
    python -m tests.bench.security --render FILE.json

Creates a fleet for each release, one after the other, and removes it. Exits with 1 if a figure misses its target.
"""

from __future__ import annotations

import argparse
import datetime
import pathlib
import sys
import time

from fleet import fleet
from tests.bench import machine
from tests.bench.controller import EVIDENCE, PROJECT, BenchError, booted, command_line

from . import measure, report

INVENTORIES = [measure.HERE / f"inventory/{suite}.yml" for suite in ("bookworm", "trixie")]


def run(inventory: pathlib.Path, keep: bool) -> measure.Release:
    print(f"{datetime.datetime.now():%H:%M:%S} {inventory.stem} ...", flush=True)
    with booted(inventory, keep):
        hosts = measure.Hosts(inventory)
        hosts.provision()
        return measure.measure(hosts)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options = command_line(parser, lambda figures: report.markdown(report.read(figures)))
    output = options.output or EVIDENCE / "security.json"
    page = output.with_suffix(".md") if options.output else PROJECT / "docs/security-figures.md"
    began = time.time()
    try:
        releases = [run(inventory, options.keep) for inventory in INVENTORIES]
    except (BenchError, fleet.FleetError) as error:
        print(f"security: {error}", file=sys.stderr)
        return 2
    document = report.Document(
        began=began,
        seconds=round(time.time() - began),
        machine=machine.describe(),
        versions=machine.versions() | {"sslyze": measure.sslyze_version()},
        requests=measure.requests_source(),
        answer_seconds=measure.ANSWER_SECONDS,
        releases=releases,
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    report.write(document, output)
    page.write_text(report.markdown(document))
    print(f"{output} and {page}")
    for message in report.shortfalls(document):
        print(message, file=sys.stderr)
    return 1 if report.shortfalls(document) else 0


if __name__ == "__main__":
    sys.exit(main())
