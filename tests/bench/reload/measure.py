"""The measuring itself: traffic at a steady rate, quiet or while a server is reloaded, and throughput."""

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
    """Traffic to one server for a while, and what happened to the server meanwhile."""

    server: str
    kind: str  # quiet, reloads, back to back or bridges
    imported: str
    began: float
    traffic: Summary
    reloads: list[dict[str, Any]]

    @property
    def cut_websockets(self) -> int:
        """WebSockets that ended otherwise than by the client's wish or by 1012, Service Restart."""
        return self.traffic.by_kind.get(WEBSOCKET, {}).get("failed", 0)

    @property
    def failed(self) -> int:
        """Requests that failed, WebSockets apart."""
        return self.traffic.failed_total - self.cut_websockets

    @property
    def failed_reloads(self) -> int:
        return sum(not reload["ok"] for reload in self.reloads)


def phase(plan: Plan, server: Server, kind: str, imported: str, happening: Callable[[], list[dict[str, Any]]]) -> Phase:
    """Send traffic while something happens."""
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
        reloads = happening()
    return Phase(server.name, kind, imported, began, traffic.summary, reloads)


def quiet(plan: Plan, server: Server, imported: str) -> Phase:
    def nothing() -> list[dict[str, Any]]:
        time.sleep(plan.quiet)
        return []

    return phase(plan, server, "quiet", imported, nothing)


def reloads(plan: Plan, host: Host, server: Server, series: Series) -> Phase:
    """At the plan's pace, which is the same for all servers."""
    return phase(
        plan, server, "reloads", series.imported.name, lambda: host.reload(server, series.reloads, every=plan.every)
    )


def back_to_back(plan: Plan, host: Host, server: Server, series: Series) -> Phase:
    """Each as soon as the last one is over, until the requests of the series have arrived."""
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
    """Requests a second that a server answers at most, round by round."""

    server: str
    rounds: list[float]

    @property
    def median(self) -> float:
        return round(statistics.median(self.rounds), 1)


def in_turn(servers: tuple[Server, ...], turns: int) -> Iterator[Server]:
    """Every server so often: what else the machine does hits all of them alike."""
    for number in range(turns):
        # the other way round each time, so that none always follows the same neighbour
        yield from servers if number % 2 == 0 else reversed(servers)


def throughput(plan: Plan, servers: tuple[Server, ...]) -> list[Throughput]:
    """As often as the plan says."""
    found: dict[str, list[float]] = {server.name: [] for server in servers}
    for server in in_turn(servers, plan.rounds):
        found[server.name].append(_most(server, plan.round_seconds))
    return [Throughput(name, rounds) for name, rounds in found.items()]


def _most(server: Server, seconds: int) -> float:
    """One round: connections that each send the next request when they have the answer to the last."""
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
