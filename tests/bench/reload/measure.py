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
from tests.support.traffic import Background, Summary

from .host import Host
from .plan import PORT, Application, Part, Plan, Series, Server

CONNECTIONS = 64
WEBSOCKETS = ("websocket", "feed")


@dataclasses.dataclass(frozen=True)
class Phase:
    """A period of traffic to one server, and the reloads during it."""

    server: str
    kind: str  # quiet, reloads, back to back or bridges
    series: str
    began: float
    traffic: Summary
    reloads: list[dict[str, Any]]

    @property
    def cut_websockets(self) -> int:
        """WebSockets that ended without a close by the client or a 1012 (Service Restart)."""
        return sum(self.traffic.by_kind.get(kind, {}).get("failed", 0) for kind in WEBSOCKETS)

    @property
    def failed(self) -> int:
        """Failed requests, without WebSockets."""
        return self.traffic.failed_total - self.cut_websockets

    @property
    def failed_reloads(self) -> int:
        return sum(not reload["ok"] for reload in self.reloads)


@dataclasses.dataclass(frozen=True)
class Conditions:
    """The host, and the application and the series that are being measured on it."""

    plan: Plan
    host: Host
    application: Application
    series: Series

    def _phase(self, server: Server, kind: str, action: Callable[[], list[dict[str, Any]]]) -> Phase:
        """Send traffic while the action runs."""
        began = time.time()
        with Background(
            f"https://127.0.0.1:{PORT}",
            self.application.mix.loads,
            rate=self.application.rate,
            fewest=int(self.application.rate * 1.5),
            duration=3600,
            settle=1.5,
            warmup=1.0,
            idle_limit=30.0,
            host=server.host,
            ca_file=str(self.application.authority),
        ) as traffic:
            reloads = action()
        return Phase(server.name, kind, self.series.name, began, traffic.summary, reloads)

    def quiet(self, server: Server) -> Phase:
        def pause() -> list[dict[str, Any]]:
            time.sleep(self.plan.quiet)
            return []

        return self._phase(server, "quiet", pause)

    def reloads(self, server: Server) -> Phase:
        """Reload at the plan's interval, which is the same for all servers."""
        count, every = self.series.reloads, self.plan.every
        return self._phase(server, "reloads", lambda: self.host.reload(server, count, every=every))

    def back_to_back(self, server: Server) -> Phase:
        """Reload without pauses until the series' number of requests has arrived."""
        count, least = self.series.back_to_back, self.series.requests / self.application.rate
        return self._phase(server, "back to back", lambda: self.host.reload(server, count, least=least))

    def bridges(self, server: Server) -> Phase:
        return self._phase(server, "bridges", lambda: self.host.bridge(self.application, self.series.bridges))

    def measure(self) -> Iterator[Phase]:
        """All phases of the series."""
        servers = self.application.servers
        ours = servers[0]
        for turn, server in in_turn(servers, self.plan.turns):
            if self.series.quiet and (server.ours or turn == 0):
                yield self.quiet(server)
            if self.series.reloads:
                yield self.reloads(server)
        if self.series.back_to_back:
            yield self.back_to_back(ours)
        if self.series.bridges:
            yield self.bridges(ours)


@dataclasses.dataclass(frozen=True)
class Throughput:
    """The maximum requests per second of a server, by round."""

    server: str
    rounds: list[float]

    @property
    def median(self) -> float:
        return round(statistics.median(self.rounds), 1)


def in_turn(servers: tuple[Server, ...], turns: int) -> Iterator[tuple[int, Server]]:
    """The turns of all servers, so that other load on the machine affects them equally."""
    for turn in range(turns):
        # in alternating order, so that no server always follows the same one
        yield from ((turn, server) for server in (servers if turn % 2 == 0 else reversed(servers)))


def throughput(plan: Plan, part: Part) -> list[Throughput]:
    """Measure the throughput of all servers, as often as the plan says."""
    servers = part.application.servers
    found: dict[str, list[float]] = {server.name: [] for server in servers}
    for _, server in in_turn(servers, part.rounds):
        found[server.name].append(_most(server, plan.round_seconds))
    return [Throughput(name, rounds) for name, rounds in found.items() if rounds]


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
