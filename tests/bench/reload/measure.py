"""Measures traffic at a steady rate, with and without reloads, and throughput."""

from __future__ import annotations

import dataclasses
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

from tests.bench.controller import BenchError
from tests.bench.mix import MIX
from tests.support.traffic import Background, Summary

from .host import Host
from .plan import AUTHORITY, PORT, Plan, Series, Server

CONNECTIONS = 64
WEBSOCKET = "websocket"


@dataclasses.dataclass(frozen=True)
class Phase:
    """A period of traffic to one server, and the reloads during it."""

    server: str
    kind: str  # quiet, reloads, back to back or bridges
    imported: str
    began: float
    traffic: Summary
    reloads: list[dict[str, Any]]

    @property
    def cut_websockets(self) -> int:
        """WebSockets that ended without a close by the client or a 1012 (Service Restart)."""
        return self.traffic.by_kind.get(WEBSOCKET, {}).get("failed", 0)

    @property
    def failed(self) -> int:
        """Failed requests, without WebSockets."""
        return self.traffic.failed_total - self.cut_websockets

    @property
    def failed_reloads(self) -> int:
        return sum(not reload["ok"] for reload in self.reloads)


def phase(plan: Plan, server: Server, kind: str, imported: str, action: Callable[[], list[dict[str, Any]]]) -> Phase:
    """Send traffic while the action runs."""
    began = time.time()
    with Background(
        f"https://127.0.0.1:{PORT}",
        MIX,
        rate=plan.rate,
        fewest=int(plan.rate * 1.5),
        duration=3600,
        settle=1.5,
        warmup=1.0,
        idle_limit=30.0,
        host=server.host,
        ca_file=str(AUTHORITY),
    ) as traffic:
        reloads = action()
    return Phase(server.name, kind, imported, began, traffic.summary, reloads)


def quiet(plan: Plan, server: Server, imported: str) -> Phase:
    def pause() -> list[dict[str, Any]]:
        time.sleep(plan.quiet)
        return []

    return phase(plan, server, "quiet", imported, pause)


def reloads(plan: Plan, host: Host, server: Server, series: Series) -> Phase:
    """Reload at the plan's interval, which is the same for all servers."""
    return phase(
        plan, server, "reloads", series.imported.name, lambda: host.reload(server, series.reloads, every=plan.every)
    )


def back_to_back(plan: Plan, host: Host, server: Server, series: Series) -> Phase:
    """Reload without pauses until the series' number of requests has arrived."""
    least = series.requests / plan.rate
    return phase(
        plan,
        server,
        "back to back",
        series.imported.name,
        lambda: host.reload(server, series.back_to_back, least=least),
    )


def bridges(plan: Plan, host: Host, server: Server, series: Series) -> Phase:
    return phase(plan, server, "bridges", series.imported.name, lambda: host.bridge(series.bridges))


@dataclasses.dataclass(frozen=True)
class Throughput:
    """The maximum requests per second of a server, by round."""

    server: str
    rounds: list[float]

    @property
    def median(self) -> float:
        return round(statistics.median(self.rounds), 1)


def in_turn(servers: tuple[Server, ...], turns: int) -> Iterator[Server]:
    """All servers, repeatedly, so that other load on the machine affects them equally."""
    for number in range(turns):
        # in alternating order, so that no server always follows the same one
        yield from servers if number % 2 == 0 else reversed(servers)


def throughput(plan: Plan, servers: tuple[Server, ...]) -> list[Throughput]:
    """Measure the throughput of all servers, as often as the plan says."""
    found: dict[str, list[float]] = {server.name: [] for server in servers}
    for server in in_turn(servers, plan.rounds):
        found[server.name].append(_most(server, plan.round_seconds))
    return [Throughput(name, rounds) for name, rounds in found.items()]


def _most(server: Server, seconds: int) -> float:
    """One round: each connection sends its next request after the previous answer."""
    command = ["h2load", "--h1", f"--connect-to=127.0.0.1:{PORT}", f"--clients={CONNECTIONS}", "--threads=1"]
    command += ["--warm-up-time=1", f"--duration={seconds}", f"https://{server.host}/"]
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    rate = re.search(r"finished in [\d.]+s, ([\d.]+) req/s", done.stdout)
    answers = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", done.stdout)
    if done.returncode or rate is None or answers is None:
        raise BenchError(f"h2load and {server.title}: {done.stderr.strip() or done.stdout[-500:]}")
    if any(int(number) for number in answers.groups()[1:]):
        raise BenchError(f"h2load and {server.title}: {answers.group(0)}")
    return float(rate.group(1))
