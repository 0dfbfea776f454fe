"""The plan: applications, servers, traffic, and how often each server is reloaded."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from typing import Any

import yaml

from tests.bench import mix
from tests.bench.mix import Mix

HERE = pathlib.Path(__file__).resolve().parent
PORT = 18511  # nginx's port that the inventories publish


@dataclasses.dataclass(frozen=True)
class Server:
    """A server on the host, and the host name for which nginx proxies requests to it."""

    name: str
    title: str
    unit: str
    host: str

    @property
    def ours(self) -> bool:
        return self.name == "baton"


@dataclasses.dataclass(frozen=True)
class Application:
    """What the servers run. It has the name of its inventory, which is also its `app_name`."""

    name: str
    title: str
    rate: float  # requests/s
    mix: Mix
    json_path: str = "/"  # answers with JSON as soon as the server is ready

    @property
    def inventory(self) -> pathlib.Path:
        return HERE / "inventories" / self.name

    @property
    def authority(self) -> pathlib.Path:
        return self.inventory / "tls/ca.pem"

    @functools.cached_property
    def servers(self) -> tuple[Server, ...]:
        """Baton's server, then the peers of playbooks/vars/peers.yml."""
        domain = f"{self.name}.baton.test"
        peers: list[dict[str, Any]] = yaml.safe_load((HERE / "playbooks/vars/peers.yml").read_text())["bench_peers"]
        return (
            Server("baton", "Baton", f"{self.name}.service", domain),
            *(
                Server(peer["name"], peer["title"], f"{self.name}-{peer['name']}.service", f"{peer['name']}.{domain}")
                for peer in peers
            ),
        )


@dataclasses.dataclass(frozen=True)
class Series:
    """The reloads of an application's servers under the same conditions."""

    name: str
    title: str
    environment: dict[str, str] | None = None  # the application's; None leaves it as its inventory has it
    quiet: bool = False  # whether to measure phases without reloads: Baton's in each turn, those of the others once
    reloads: int = 0  # of every server in each turn, at the plan's interval, to compare latencies
    back_to_back: int = 0  # of Baton's, without pauses, to find lost requests
    bridges: int = 0  # of Baton's
    requests: int = 0  # reload back to back until this number has arrived
    # the aim: Baton's p99 with reloads is at most this multiple of that without, its p99.9 below that of all others
    aim: float | None = None


@dataclasses.dataclass(frozen=True)
class Part:
    """One application: all series, then throughput in rounds."""

    application: Application
    series: tuple[Series, ...]
    rounds: int = 0


@dataclasses.dataclass(frozen=True)
class Plan:
    """The plan of a whole run. Times are in seconds."""

    name: str
    parts: tuple[Part, ...]
    quiet: float = 20.0
    every: float = 10.0  # from the start of a reload to that of the next
    turns: int = 3  # per server
    round_seconds: int = 3


BENCH = Application("bench", "small application", 300.0, mix.BENCH)
LINKS = Application("links", "reference application", 100.0, mix.LINKS, json_path="/readyz")

# the environment of the inventory
SLEEP_1 = Series("sleep-1", "import of 1 s of waiting", quiet=True)
CPU_1 = Series("cpu-1", "import of 1 s of CPU", {"BENCH_IMPORT_CPU": "1"})
SLEEP_8 = Series("sleep-8", "import of 8 s of waiting", {"BENCH_IMPORT_SLEEP": "8"})
SERVICES = Series("services", "reference application on PostgreSQL and Redis", quiet=True, aim=1.1)


def full(reloads: int) -> Plan:
    """About 45 minutes: 10 of Baton's hundred reloads and twenty bridges, 12 of the reference application."""
    replace = dataclasses.replace
    small = (
        replace(SLEEP_1, reloads=2, back_to_back=reloads, bridges=20, requests=100_000),
        replace(CPU_1, reloads=2),
        replace(SLEEP_8, back_to_back=10),
    )
    return Plan("full", (Part(BENCH, small, rounds=5), Part(LINKS, (replace(SERVICES, reloads=2),))))


def quick() -> Plan:
    """Tests the benchmark itself; its figures mean nothing."""
    replace = dataclasses.replace
    small = (replace(SLEEP_1, reloads=1, back_to_back=2, bridges=1), replace(CPU_1, back_to_back=1))
    parts = (Part(BENCH, small, rounds=1), Part(LINKS, (replace(SERVICES, reloads=1),)))
    return Plan("quick", parts, quiet=3.0, turns=1, round_seconds=2)
