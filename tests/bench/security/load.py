"""Runs load generators that others wrote against the edge: wrk at twice the load that it serves, and slowhttptest."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import math
import pathlib
import re
import shlex
import time
from collections.abc import Sequence

from tests.bench.controller import BenchError

from .hosts import NAME, Hosts

HERE = pathlib.Path(__file__).resolve().parent
# by this name, each host that runs a tool finds the edge
NAMED = "grep -q '{name}' /etc/hosts || echo '{address} {name}' >> /etc/hosts"
INSTALL = "apt-get -o DPkg::Lock::Timeout=300 install -qq -y --no-install-recommends {} > /dev/null"
# the crowd stands for many addresses, and has no limits (the inventory's nginx_site_unlimited_clients); the others have
CROWD, ATTACKER, STRANGER = "client1", "client2", "app1"
HEALTH = "/readyz"
PAGE = "/"
OVERLOAD_SECONDS = 30
CAPACITY_SECONDS = 10
RECOVERY_SECONDS = 5
SLOW_SECONDS = 40
SLOW = {
    "1,000 slow headers": "-H -c 1000 -r 200 -i 5 -x 24 -u https://{name}/",
    "1,000 slow bodies": "-B -c 1000 -r 200 -i 5 -x 10 -s 8192 -u https://{name}/api/links",
    "500 slow readers": "-X -c 500 -r 100 -w 512 -y 1024 -n 5 -z 32 -k 1 -u https://{name}/api/large?megabytes=4",
}
# on the edge: the request times of a client's refused requests since then, by who refused them
LOGGED = """
import json, sys
client, since = sys.argv[1], float(sys.argv[2])
times = {"edge": [], "application": []}
with open("/var/log/nginx/links-access.log") as log:
    for line in log:
        entry = json.loads(line)
        if entry["client"] == client and entry["msec"] >= since and entry["status"] == 503:
            times["application" if entry["upstream_status"] == "503" else "edge"].append(entry["request_time"])
json.dump(times, sys.stdout)
"""
WORKERS = (
    "import json; "
    "print(*sorted(worker['pid'] for worker in json.load(open('/run/baton/links/handover.json'))['workers']))"
)


@dataclasses.dataclass(frozen=True)
class Asked:
    """The answers to requests at fixed intervals: how many, how many weren't 200, and the seconds until they came."""

    number: int
    failed: int
    median: float
    p95: float
    slowest: float


@dataclasses.dataclass(frozen=True)
class Overload:
    """More requests than the application serves. Times in seconds, rates per second."""

    capacity: float
    offered: float
    connections: int
    answered: int
    refused: int
    refused_by_application: int  # of these; by the edge's log
    other: int  # statuses other than 200 and 503, and errors
    without_retry_after: int
    refused_slowest: float  # according to the edge's log
    stranger_refused_slowest: float  # according to another client
    health: Asked
    workers_lost: int
    before: Asked
    after: Asked


@dataclasses.dataclass(frozen=True)
class Slow:
    """An attack by slow clients, and the answers that other clients received during it."""

    kind: str
    most_connected: int
    strangers: Asked


def overload(hosts: Hosts) -> Overload:
    """Measure an overload. Raises BenchError."""
    prepare(hosts, CROWD, "wrk")
    hosts.run(CROWD, "cat > /root/wrk.lua", (HERE / "on_host/wrk.lua").read_text())
    places = _places(hosts)
    before = summary(_ask(hosts, ATTACKER, RECOVERY_SECONDS, 0.1, [PAGE]))
    capacity = _wrk(hosts, 32, CAPACITY_SECONDS, 0)["answered"] / CAPACITY_SECONDS
    if not capacity:
        raise BenchError("the edge answers none of wrk's requests with 200")
    # some connections have all places; each of the others asks once a second, as its request is refused immediately
    connections = places + round(2.3 * capacity)
    time.sleep(RECOVERY_SECONDS)
    workers = _workers(hosts)
    since = float(hosts.run("edge1", "date +%s.%N"))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        crowd = pool.submit(_wrk, hosts, connections, OVERLOAD_SECONDS, 1000)
        # until all of its connections are open
        time.sleep(3)
        answers = _ask(hosts, ATTACKER, OVERLOAD_SECONDS - 6, 0.1, [HEALTH, PAGE])
        counted = crowd.result()
    time.sleep(RECOVERY_SECONDS)
    after = summary(_ask(hosts, ATTACKER, RECOVERY_SECONDS, 0.1, [PAGE]))
    log = hosts.run("edge1", shlex.join(["python3", "-c", LOGGED, hosts.address(CROWD), str(since)]))
    refused = json.loads(log)
    return Overload(
        capacity=capacity,
        offered=(counted["answered"] + counted["refused"] + counted["other"]) / counted["seconds"],
        connections=connections,
        answered=int(counted["answered"]),
        refused=int(counted["refused"]),
        refused_by_application=len(refused["application"]),
        other=int(counted["other"] + counted["errors"]),
        without_retry_after=int(counted["without_retry_after"]),
        refused_slowest=max([*refused["edge"], *refused["application"]], default=0.0),
        stranger_refused_slowest=max((answer[1] for answer in answers if answer[2] == 503), default=0.0),
        health=summary([answer for answer in answers if answer[0] == HEALTH]),
        workers_lost=len(workers - _workers(hosts)),
        before=before,
        after=after,
    )


def slow_clients(hosts: Hosts) -> list[Slow]:
    """Measure each attack by slow clients. Raises BenchError."""
    prepare(hosts, ATTACKER, "slowhttptest")
    measured = []
    for kind, options in SLOW.items():
        command = f"ulimit -n 8192; slowhttptest {options.format(name=NAME)} -p 3 -l {SLOW_SECONDS} 2>&1 || true"
        with concurrent.futures.ThreadPoolExecutor() as pool:
            attack = pool.submit(hosts.run, ATTACKER, command)
            # until its connections are open
            time.sleep(8)
            answers = _ask(hosts, STRANGER, SLOW_SECONDS - 12, 0.4, [PAGE, HEALTH])
            output = attack.result()
        measured.append(Slow(kind, most_connected(output), summary(answers)))
        # it closes its connections, and nginx those that are left
        time.sleep(RECOVERY_SECONDS)
    return measured


def most_connected(output: str) -> int:
    """The greatest number of open connections that slowhttptest reported. Raises BenchError if it opened none."""
    found = re.findall(r"connected:\D*(\d+)", re.sub(r"\x1b\[[0-9;]*m", "", output))
    if not any(map(int, found)):
        raise BenchError(f"slowhttptest reports no connections: {output.strip()[-500:]}")
    return max(map(int, found))


def summary(answers: Sequence[tuple[str, float, int, bool]]) -> Asked:
    """Summarize answers, which must exist."""
    times = sorted(answer[1] for answer in answers)
    if not times:
        raise BenchError("there are no answers to summarize")
    return Asked(
        number=len(times),
        failed=sum(answer[2] != 200 for answer in answers),
        median=times[len(times) // 2],
        p95=times[math.ceil(0.95 * len(times)) - 1],
        slowest=times[-1],
    )


def prepare(hosts: Hosts, name: str, packages: str) -> None:
    """Install packages, and let the host find the edge by its name."""
    hosts.run(name, INSTALL.format(packages))
    hosts.run(name, NAMED.format(name=NAME, address=hosts.address("edge1")))


def _places(hosts: Hosts) -> int:
    """How many requests the edge passes on at a time."""
    found = re.search(r"max_conns=(\d+)", hosts.run("edge1", "cat /etc/nginx/sites-enabled/links.conf"))
    if not found:
        raise BenchError("the edge has no limit of concurrent requests")
    return int(found[1])


def _workers(hosts: Hosts) -> set[str]:
    """The processes that serve: the application's and the edge's."""
    found = hosts.run("app1", shlex.join(["python3", "-c", WORKERS])).split()
    return {f"app {pid}" for pid in found} | {
        f"edge {pid}" for pid in hosts.run("edge1", "pgrep -xf 'nginx: worker process'").split()
    }


def _wrk(hosts: Hosts, connections: int, seconds: int, pause: int) -> dict[str, float]:
    command = f"ulimit -n 16384; wrk --threads 2 --connections {connections} --duration {seconds}s --timeout 30s"
    output = hosts.run(CROWD, f"{command} --script /root/wrk.lua https://{NAME}{PAGE} -- {pause}")
    try:
        counted: dict[str, float] = json.loads(output.strip().splitlines()[-1])
    except (ValueError, IndexError):
        raise BenchError(f"wrk's output can't be read: {output.strip()[-500:]}") from None
    return counted


def _ask(
    hosts: Hosts, name: str, seconds: float, interval: float, paths: list[str]
) -> list[tuple[str, float, int, bool]]:
    words = ["python3", "-I", "-", hosts.address("edge1"), NAME, str(seconds), str(interval), *paths]
    output = hosts.run(name, shlex.join(words), (HERE / "on_host/ask.py").read_text())
    return [(path, took, status, retry) for path, took, status, retry in json.loads(output)]
