"""Measures security figures with independent tools, on both Debian releases: docs/security-figures.md.

    python -m tests.bench.security [--keep] [--output FILE.json]
    python -m tests.bench.security [--keep] --only PART [PART...] [--release bookworm]
    python -m tests.bench.security --render FILE.json

Creates a fleet for each release, one after the other, and removes it. Exits with 1 if a figure misses its target. With
--only or --release, it measures some parts, or one release, prints the figures, and replaces those in the file of the
last run; the page is written once all parts of both releases are in it.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import pathlib
import sys
import time

from fleet import fleet
from tests.bench import machine
from tests.bench.controller import EVIDENCE, PROJECT, BenchError, booted, command_line

from . import measure, report
from .hosts import Hosts

INVENTORIES = {suite: measure.HERE / f"inventory/{suite}.yml" for suite in ("bookworm", "trixie")}


def run(inventory: pathlib.Path, keep: bool, parts: list[str]) -> measure.Release:
    print(f"{datetime.datetime.now():%H:%M:%S} {inventory.stem} ...", flush=True)
    with booted(inventory, keep):
        hosts = Hosts(inventory)
        hosts.provision()
        return measure.measure(hosts, parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=measure.PARTS, default=[], help="parts to measure; default: all")
    parser.add_argument("--release", choices=INVENTORIES, help="the only release to measure")
    options = command_line(parser, lambda figures: report.markdown(report.read(figures)))
    output = options.output or EVIDENCE / "security.json"
    page = output.with_suffix(".md") if options.output else PROJECT / "docs/security-figures.md"
    partial = bool(options.only or options.release)
    try:
        earlier = report.read(output) if partial and output.exists() else None
    except (ValueError, KeyError, TypeError) as error:
        print(f"security: {output} is not of this version ({error}). Remove it.", file=sys.stderr)
        return 2
    began = time.time()
    try:
        releases = [
            run(inventory, options.keep, options.only or list(measure.PARTS))
            for suite, inventory in INVENTORIES.items()
            if options.release in (None, suite)
        ]
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
    shortfalls = report.shortfalls(document)
    if partial:
        print(json.dumps([dataclasses.asdict(release) for release in releases], indent=1))
    if earlier:
        document = report.merged(earlier, document)
    output.parent.mkdir(parents=True, exist_ok=True)
    report.write(document, output)
    print(output)
    if report.is_complete(document, len(INVENTORIES)):
        page.write_text(report.markdown(document))
        print(page)
    for message in shortfalls:
        print(message, file=sys.stderr)
    return 1 if shortfalls else 0


if __name__ == "__main__":
    sys.exit(main())
