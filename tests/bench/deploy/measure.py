"""Measures playbooks with and without traffic, and the duration of each task."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil
import tempfile
import time
from typing import Any

from tests.bench import mix
from tests.bench.controller import EVIDENCE, HERE, BenchError, await_answers, playbook
from tests.support.traffic import Background, Summary

from .plan import AUTHORITY, NEW, PORT, RATE, SETTLE, Kind, Size

SOURCE = EVIDENCE / "source"
CALLBACKS = str(pathlib.Path(__file__).with_name("callback"))


def copy_application(revision: str) -> None:
    """Copy the application to SOURCE, with this revision. Raises BenchError."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    shutil.copytree(HERE / "application", SOURCE, ignore=shutil.ignore_patterns("__pycache__"))
    code = SOURCE / "service.py"
    text = code.read_text()
    changed = text.replace('REVISION = ""', f'REVISION = "{revision}"')
    if changed == text:
        raise BenchError(f"{code} has no line REVISION to change")
    code.write_text(changed)


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a playbook: its duration, CPU time, and the traffic during it; None if there was none."""

    kind: str
    servers: int
    seconds: float
    cpu: float  # user and system time on the controller, in seconds
    steps: list[dict[str, Any]]  # play, task, seconds
    traffic: Summary | None


class Fleet:
    """Hosts of one size, and the revisions that each service has had there."""

    _revisions = 0

    def __init__(self, size: Size) -> None:
        self.size = size
        self._served: dict[str, list[str]] = {}

    def change(self) -> str:
        """Copy the application with a new revision."""
        Fleet._revisions += 1
        revision = f"{int(time.time())}-{Fleet._revisions}"
        copy_application(revision)
        return revision

    def provision(self) -> None:
        """Set up bare hosts with a first release."""
        revision = self.change()
        playbook(self.size.inventory, "site.yml", {"app_source": str(SOURCE)})
        self._served[NEW.host] = [revision]

    def run(self, kind: Kind, scratch: pathlib.Path) -> tuple[float, float]:
        """Run a kind's playbook, and check that every worker serves the expected revision. Returns its duration and its
        CPU time on the controller, in seconds.
        """
        served = self._served.setdefault(kind.host, [])
        revision = self.change() if kind.fresh else served[-2]
        variables = {"app_source": str(SOURCE), "bench_scratch": str(scratch), "bench_turn": revision}
        environment = {"ANSIBLE_CALLBACK_PLUGINS": CALLBACKS, "BENCH_SECONDS": str(scratch / "seconds.json")}
        began = time.monotonic()
        cpu = playbook(self.size.inventory, kind.playbook, variables if kind.fresh else {}, environment)
        seconds = time.monotonic() - began
        served.append(revision)
        await_answers(PORT, kind.host, AUTHORITY, revision)
        return seconds, cpu


def measure(fleet: Fleet, kind: Kind) -> Run:
    """Run a kind's playbook under traffic."""
    background = Background(
        f"https://127.0.0.1:{PORT}",
        mix.BENCH.loads,
        rate=RATE,
        fewest=int(RATE * SETTLE),
        duration=3600,
        settle=SETTLE,
        host=kind.host,
        ca_file=str(AUTHORITY),
    )
    with background as traffic:
        run = quiet(fleet, kind)
    return dataclasses.replace(run, traffic=traffic.summary)


def quiet(fleet: Fleet, kind: Kind) -> Run:
    """Run a kind's playbook without traffic."""
    with tempfile.TemporaryDirectory() as scratch:
        seconds, cpu = fleet.run(kind, pathlib.Path(scratch))
        steps = json.loads(pathlib.Path(scratch, "seconds.json").read_text())
    return Run(kind.name, fleet.size.servers, round(seconds, 2), round(cpu, 2), steps, None)
