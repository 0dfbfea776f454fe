"""What is measured: the servers, the traffic, how often each is reloaded with which import."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import yaml

HERE = pathlib.Path(__file__).resolve().parent
INVENTORY = HERE / "inventory"
AUTHORITY = INVENTORY / "tls/ca.pem"
PORT = 18511  # of nginx, as the inventory publishes it
DOMAIN = "bench.baton.test"


@dataclasses.dataclass(frozen=True)
class Server:
    """One server on the host, and the name under which nginx passes requests on to it."""

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
    """How long the application takes to be imported, besides FastAPI itself."""

    name: str
    title: str
    environment: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Series:
    """Reloads of every server with one import."""

    imported: Import
    ours: int
    peers: int
    bridges: int = 0
    requests: int = 0  # reload Baton on until so many have arrived


@dataclasses.dataclass(frozen=True)
class Plan:
    """A whole run. Times are in seconds."""

    name: str
    series: tuple[Series, ...]
    rate: float = 300.0
    quiet: float = 20.0
    gap: float = 0.5
    rounds: int = 5
    round_seconds: int = 3


SLEEP_1 = Import("sleep-1", "1 s of waiting", {"BENCH_IMPORT_SLEEP": "1"})
SLEEP_8 = Import("sleep-8", "8 s of waiting", {"BENCH_IMPORT_SLEEP": "8"})
CPU_1 = Import("cpu-1", "1 s of CPU", {"BENCH_IMPORT_CPU": "1"})


def full(reloads: int) -> Plan:
    """Some 25 minutes, of which Baton's hundred reloads and twenty bridges are half."""
    series = (
        Series(SLEEP_1, ours=reloads, peers=5, bridges=20, requests=100_000),
        Series(CPU_1, ours=10, peers=4),
        Series(SLEEP_8, ours=10, peers=2),
    )
    return Plan("full", series)


def quick() -> Plan:
    """Whether the benchmark itself works; its figures are too few to say anything."""
    series = (Series(SLEEP_1, ours=3, peers=1, bridges=1), Series(CPU_1, ours=1, peers=0))
    return Plan("quick", series, quiet=3.0, rounds=1, round_seconds=2)


def servers() -> tuple[Server, ...]:
    """Baton's, then the peers of playbooks/vars/peers.yml."""
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
