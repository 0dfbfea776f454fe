"""The plan: servers, traffic, and how often each server is reloaded with which import."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import yaml

HERE = pathlib.Path(__file__).resolve().parent
INVENTORY = HERE / "inventory"
AUTHORITY = INVENTORY / "tls/ca.pem"
PORT = 18511  # nginx's port that the inventory publishes
DOMAIN = "bench.baton.test"


@dataclasses.dataclass(frozen=True)
class Server:
    """A server on the host, and the host name for which nginx proxies requests to it."""

    name: str
    title: str
    unit: str
    host: str
    package: str = ""

    @property
    def ours(self) -> bool:
        return self.name == "baton"


@dataclasses.dataclass(frozen=True)
class Import:
    """The duration of the application's import, in addition to FastAPI's."""

    name: str
    title: str
    environment: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Series:
    """The reloads of the servers with one kind of import."""

    imported: Import
    reloads: int = 0  # of every server in each turn, at the plan's interval, to compare latencies
    back_to_back: int = 0  # of Baton's, without pauses, to find lost requests
    bridges: int = 0  # of Baton's
    requests: int = 0  # reload back to back until this number has arrived


@dataclasses.dataclass(frozen=True)
class Plan:
    """The plan of a whole run. Times are in seconds."""

    name: str
    series: tuple[Series, ...]
    rate: float = 300.0
    quiet: float = 20.0
    every: float = 10.0  # from the start of a reload to that of the next
    turns: int = 3  # per server
    rounds: int = 5
    round_seconds: int = 3


SLEEP_1 = Import("sleep-1", "1 s of waiting", {"BENCH_IMPORT_SLEEP": "1"})
SLEEP_8 = Import("sleep-8", "8 s of waiting", {"BENCH_IMPORT_SLEEP": "8"})
CPU_1 = Import("cpu-1", "1 s of CPU", {"BENCH_IMPORT_CPU": "1"})


def full(reloads: int) -> Plan:
    """About 30 minutes, 10 of which are Baton's hundred reloads and twenty bridges."""
    series = (
        Series(SLEEP_1, reloads=2, back_to_back=reloads, bridges=20, requests=100_000),
        Series(CPU_1, reloads=2),
        Series(SLEEP_8, back_to_back=10),
    )
    return Plan("full", series)


def quick() -> Plan:
    """Tests the benchmark itself; its figures mean nothing."""
    series = (Series(SLEEP_1, reloads=1, back_to_back=2, bridges=1), Series(CPU_1, back_to_back=1))
    return Plan("quick", series, quiet=3.0, turns=1, rounds=1, round_seconds=2)


def servers() -> tuple[Server, ...]:
    """Baton's server, then the peers of playbooks/vars/peers.yml."""
    peers: list[dict[str, Any]] = yaml.safe_load((HERE / "playbooks/vars/peers.yml").read_text())["bench_peers"]
    return (
        Server("baton", "Baton", "bench.service", DOMAIN),
        *(
            Server(
                peer["name"],
                peer["title"],
                f"bench-{peer['name']}.service",
                f"{peer['name']}.{DOMAIN}",
                peer["package"],
            )
            for peer in peers
        ),
    )
