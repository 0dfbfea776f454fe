"""Shared helpers: the hosts, commands on them, and traffic that counts every request."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import os
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import testinfra

from tests.support.playbooks import PROJECT, Playbooks
from tests.support.traffic import PATIENCE, Generator

SCENARIO = pathlib.Path(__file__).parents[1]
INVENTORY = SCENARIO / "inventory"
FLEET = Playbooks(INVENTORY)
NAME = "handover.baton.test"
# host: the local port on which its port 443 is published
PORTS = {"bookworm": 18411, "trixie": 18412}
# `make test-long` sets it
LONG = os.environ.get("BATON_TEST_LONG", "") != ""
# on the hosts
FOLDER = "/root/handover"
# the phases in which a handover can be held, in order: of a reload, and of a bridge
BY_RELOAD = ["not started", "booting", "booted"]
BY_BRIDGE = ["bridge booting", "bridge serving", "restarting"]

# a mix in which every kind of request is in progress at any time
MIX = (
    "get,path=/,share=10",
    "post,path=/echo,share=5,size=20000,expect=20000",
    "post,path=/echo,share=1,size=3000000,expect=3000000",
    "fresh,path=/,share=4,wait=0.4",
    "idle,path=/,share=3,wait=1.5",
    "upload,path=/echo,share=1,size=400000,wait=1.5,expect=400000",
    "get,path=/slow?seconds=3,share=1,wait=3",
    "sse,path=/events?count=20&interval=0.1,share=1",
    "websocket,path=/ws,share=1,wait=2",
    "h2,path=/,share=4",
    "h2post,path=/echo,share=2,size=20000,expect=20000",
)


def host(name: str) -> Any:
    """A host of the fleet."""
    return testinfra.get_host(f"ansible://{name}", ansible_inventory=str(INVENTORY))


def act(name: str, command: str, **given: object) -> Any:
    """Run a command of on_host/act.py on one host; return its result."""
    words = [shlex.quote(f"{key}={json.dumps(value)}") for key, value in given.items()]
    done = host(name).run(f"python3 {FOLDER}/act.py {command} {' '.join(words)}")
    # the last line of stderr first, as pytest shortens long messages
    assert done.rc == 0, f"{command} on {name}: {done.stderr.strip().rpartition(chr(10))[2]}\n{done.stderr}"
    return json.loads(done.stdout)


def both(command: str, **given: object) -> dict[str, Any]:
    """Run a command of on_host/act.py on both hosts at the same time."""
    return in_parallel(lambda name: act(name, command, **given))


def in_parallel(do: Callable[[str], Any]) -> dict[str, Any]:
    """Call a function for both hosts at the same time."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return dict(zip(PORTS, pool.map(do, PORTS), strict=True))


def crash(name: str) -> None:
    """Power a host off and on; wait until it has booted."""
    command = [sys.executable, str(PROJECT / "fleet/fleet.py"), "crash", str(INVENTORY), name]
    subprocess.run(command, check=True)


class Traffic:
    """Requests to both hosts during a block; afterwards, `summaries` has each host's results."""

    def __init__(self, loads: Sequence[str] = MIX, *, fewest: int, rate: float = 25, idle_limit: float = 1.0) -> None:
        """`fewest`: requests that each host must get at least. `rate`: requests per second to each host.
        `idle_limit`: 0 for a new connection each time."""
        self._fewest = fewest
        self._loads = loads
        self._rate = rate
        self._idle_limit = idle_limit
        self._running: dict[str, Generator] = {}
        self.summaries: dict[str, Mapping[str, Any]] = {}

    def __enter__(self) -> Traffic:
        for name, port in PORTS.items():
            self._running[name] = Generator(
                f"https://127.0.0.1:{port}",
                self._loads,
                host=NAME,
                ca_file=INVENTORY / "tls/ca.pem",
                rate=self._rate,
                duration=7200,
                timeout=PATIENCE,
                idle_limit=self._idle_limit,
            )
        for generator in self._running.values():
            generator.settle()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.end()
        for generator in self._running.values():
            generator.kill()

    def end(self) -> None:
        """Stops after some more responses, and waits for the last ones. Raises TrafficError if the traffic proves
        nothing."""
        for generator in self._running.values():
            generator.settle()
            generator.wait_for(sent=self._fewest)
        for generator in self._running.values():
            generator.stop()
        while self._running:
            name, generator = self._running.popitem()
            self.summaries[name] = dataclasses.asdict(generator.summary(self._fewest, timeout=PATIENCE))

    @property
    def failed(self) -> dict[str, int]:
        """The number of failures by host and cause."""
        found: dict[str, int] = {}
        for name, summary in self.summaries.items():
            for cause, count in summary["failed"].items():
                found[f"{name}: {cause}"] = count
        return found

    @property
    def failures(self) -> list[str]:
        """Descriptions of the first failures."""
        return [f"{name}: {failure}" for name, summary in self.summaries.items() for failure in summary["failures"]]

    def failed_on(self, name: str) -> int:
        """The number of failed requests to one host."""
        return sum(self.summaries[name]["failed"].values())

    @property
    def codes(self) -> dict[str, int]:
        """The number of WebSockets by close code."""
        found: dict[str, int] = {}
        for summary in self.summaries.values():
            for code, count in summary["close_codes"].items():
                found[code] = found.get(code, 0) + count
        return found

    @property
    def sent(self) -> int:
        """The number of requests to both hosts."""
        return sum(int(summary["sent"]) for summary in self.summaries.values())
