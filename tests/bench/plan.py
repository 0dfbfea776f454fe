"""What is measured: the servers, the traffic, how often each is reloaded with which import."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import yaml

from tests.support.traffic import Load

HERE = pathlib.Path(__file__).resolve().parent
PROJECT = HERE.parents[1]
DOMAIN = "bench.baton.test"

# Shares of one mix; the slow kinds' own seconds are taken off their latency (`wait`).
MIX = (
    Load("get", share=26),
    Load("post", "/echo", share=10, size=2000),
    Load("get", "/slow?seconds=0.5", share=2, wait=0.5),
    Load("fresh", share=2, wait=0.3),
    Load("idle", share=2, wait=2.0),
    Load("upload", "/echo", share=1, size=50_000, wait=0.5),
    Load("sse", "/events?count=10", share=1),
    Load("websocket", "/ws", share=1, wait=1.0),
    Load("h2", share=4),
    Load("h2post", "/echo", share=1, size=2000),
)


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


@dataclasses.dataclass(frozen=True)
class Plan:
    """A whole run. Times are in seconds."""

    name: str
    series: tuple[Series, ...]
    rate: float = 300.0
    quiet: float = 30.0
    gap: float = 1.0
    rounds: int = 5
    round_seconds: int = 5


SLEEP_1 = Import("sleep-1", "1 s of waiting", {"BENCH_IMPORT_SLEEP": "1"})
SLEEP_8 = Import("sleep-8", "8 s of waiting", {"BENCH_IMPORT_SLEEP": "8"})
CPU_1 = Import("cpu-1", "1 s of CPU", {"BENCH_IMPORT_CPU": "1"})


def full(reloads: int) -> Plan:
    series = (
        Series(SLEEP_1, ours=reloads, peers=10, bridges=20),
        Series(CPU_1, ours=10, peers=5),
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
