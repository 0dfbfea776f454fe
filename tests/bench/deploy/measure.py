"""The measuring itself: traffic at a steady rate, or none, while a playbook runs, and where its time goes."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil
import tempfile
import time
from typing import Any

from tests.bench.controller import EVIDENCE, HERE, BenchError, await_answers, playbook
from tests.bench.mix import MIX
from tests.support.traffic import Background, Summary

from .plan import AUTHORITY, NEW, PORT, RATE, SETTLE, Kind, Size

SOURCE = EVIDENCE / "source"
CALLBACKS = str(pathlib.Path(__file__).with_name("callback"))


def copy_application(revision: str) -> None:
    """Make SOURCE the application, with this revision. Raises BenchError."""
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
    """One playbook's run, what it took, and what clients saw of it; None where there were none."""

    kind: str
    servers: int
    seconds: float
    cpu: float  # seconds of the controller's processors, user and system
    steps: list[dict[str, Any]]  # play, task, seconds
    traffic: Summary | None


class Fleet:
    """Hosts of one size, and the revision of the code that each service has there."""

    _revisions = 0

    def __init__(self, size: Size) -> None:
        self.size = size
        self._served: dict[str, list[str]] = {}

    def change(self) -> str:
        """A copy of the application with a revision that no host has."""
        Fleet._revisions += 1
        revision = f"{int(time.time())}-{Fleet._revisions}"
        copy_application(revision)
        return revision

    def provision(self) -> None:
        """From bare hosts to a first release."""
        revision = self.change()
        playbook(self.size.inventory, "site.yml", {"app_source": str(SOURCE)})
        self._served[NEW.host] = [revision]

    def run(self, kind: Kind, scratch: pathlib.Path) -> tuple[float, float]:
        """Run a kind's playbook, and see that every worker serves what it should. Returns how long it took, and what
        it took of the controller's processors; both in seconds.
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
    """Send traffic while a kind's playbook runs."""
    background = Background(
        f"https://127.0.0.1:{PORT}",
        MIX,
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
    """Run a kind's playbook alone."""
    with tempfile.TemporaryDirectory() as scratch:
        seconds, cpu = fleet.run(kind, pathlib.Path(scratch))
        steps = json.loads(pathlib.Path(scratch, "seconds.json").read_text())
    return Run(kind.name, fleet.size.servers, round(seconds, 2), round(cpu, 2), steps, None)
