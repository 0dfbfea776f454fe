"""The plan: fleets, traffic, and repetitions."""

from __future__ import annotations

import dataclasses
import pathlib

HERE = pathlib.Path(__file__).resolve().parent
INVENTORY = HERE / "inventory"
AUTHORITY = INVENTORY / "tls/ca.pem"
PORT = 18611  # the edge's port that the inventory publishes
RATE = 200.0  # requests per second
SETTLE = 2.0  # seconds of traffic before and after


@dataclasses.dataclass(frozen=True)
class Kind:
    """An operation on the fleet while requests arrive."""

    name: str
    title: str
    playbook: str
    host: str  # the host in the requests
    fresh: bool = True  # of new code, not of the previous release


NEW = Kind("deploy", "Baton: deploy", "playbooks/deploy.yml", "bench.baton.test")
BACK = Kind("rollback", "Baton: rollback", "playbooks/rollback.yml", "bench.baton.test", fresh=False)
PLAIN = Kind(
    "plain", "conventional: pip, symlink, restart", "tests/bench/deploy/playbooks/plain.yml", "plain.bench.baton.test"
)
KINDS = (NEW, BACK, PLAIN)


@dataclasses.dataclass(frozen=True)
class Size:
    """A number of app servers, and how often each kind is measured on them, with and without traffic."""

    servers: int
    inventory: pathlib.Path
    rounds: int
    quiet: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """The plan of a whole run."""

    name: str
    sizes: tuple[Size, ...]


TWO, EIGHT = INVENTORY / "two.yml", INVENTORY / "eight.yml"
FULL = Plan("full", (Size(2, TWO, rounds=3, quiet=3), Size(8, EIGHT, rounds=2, quiet=3)))
QUICK = Plan("quick", (Size(2, TWO, rounds=1, quiet=1),))
