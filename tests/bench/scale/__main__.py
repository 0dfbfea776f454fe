"""Measures what a deploy costs the controller as a fleet grows: duration and CPU time (user and system).

    python -m tests.bench.scale [--quick] [--output docs/benchmarks-scale.md]

The app servers have one worker each and share this machine, so the boots of a release are shown separately. A linear
fit predicts larger fleets. The hosts are removed at the end.
"""

from __future__ import annotations

import argparse
import datetime
import json
import pathlib
import signal
import statistics
import string
import sys
import tempfile

from fleet import fleet
from tests.bench import machine, tables
from tests.bench.controller import EVIDENCE, PROJECT, BenchError, booted, playbook
from tests.bench.deploy.measure import CALLBACKS, SOURCE, copy_application

SIZES, QUICK = (2, 8, 24), (2, 4)
PREDICTED = (50, 200)
ROUNDS = 3
SUBNET = "10.213.98"
PAGE = pathlib.Path(__file__).with_name("page.md")
SETTINGS = {
    "fleet_name": "baton-bench-scale",
    "fleet_subnet": f"{SUBNET}.0/24",
    "fleet_suite": "bookworm",
    "ansible_host": "127.0.0.1",
    "ansible_user": "deploy",
    "ansible_ssh_private_key_file": "~/.cache/baton/fleet/id_ed25519",
    "ansible_ssh_common_args": "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR",
    "app_name": "bench",
    "app_source": str(SOURCE),
    "app_module": "service:app",
    "app_service_health_path": "/healthz",
    "app_service_workers": 1,
    "nginx_site_server_names": ["bench.baton.test"],
    # all load comes from one address
    "nginx_site_client_rate": "0",
    "nginx_site_client_connections": 0,
    # one host per batch would measure the number of batches
    "deploy_batches": [1, "100%"],
    "deploy_bake_seconds": 0,
}
KINDS = {"deploy": "a deploy of new code", "nothing": "a deploy of the current release"}
HEADER = ("", "app servers", "s", "of these boots, s", "controller's CPU s", "of each run")


def inventory(servers: int) -> pathlib.Path:
    """A fleet of an edge and this number of app servers."""
    apps = {
        f"app{number}": {"ansible_port": 22700 + number, "fleet_address": f"{SUBNET}.{100 + number}"}
        for number in range(1, servers + 1)
    }
    edge = {"ansible_port": 22700, "fleet_address": f"{SUBNET}.11"}
    groups = {"fleet": {"vars": SETTINGS, "hosts": {"edge1": edge, **apps}}}
    groups |= {"load_balancers": {"hosts": {"edge1": {}}}, "app_servers": {"hosts": {name: {} for name in apps}}}
    path = EVIDENCE / f"scale/{servers}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(groups))
    return path


class Scale:
    """The runs of all sizes: (seconds, boots' share of them, CPU seconds), by kind and number of app servers."""

    def __init__(self) -> None:
        self.runs: dict[tuple[str, int], list[tuple[float, float, float]]] = {}
        self._turn = 0

    def measure(self, servers: int, rounds: int) -> None:
        hosts = inventory(servers)
        fleet.up(str(hosts))
        self._change()
        playbook(hosts, "site.yml")
        for _ in range(rounds):
            self._change()
            for kind in KINDS:
                self.runs.setdefault((kind, servers), []).append(self._run(hosts))
                last = self.runs[kind, servers][-1]
                print(
                    f"{datetime.datetime.now():%H:%M:%S} {kind:8} {servers:3}: "
                    f"{last[0]:.1f} s, of these boots {last[1]:.1f} s, CPU {last[2]:.1f} s",
                    flush=True,
                )

    def _change(self) -> None:
        self._turn += 1
        copy_application(str(self._turn))

    def _run(self, hosts: pathlib.Path) -> tuple[float, float, float]:
        with tempfile.TemporaryDirectory() as scratch:
            file = pathlib.Path(scratch, "seconds.json")
            cpu = playbook(
                hosts, "playbooks/deploy.yml", {}, {"ANSIBLE_CALLBACK_PLUGINS": CALLBACKS, "BENCH_SECONDS": str(file)}
            )
            steps = json.loads(file.read_text())
        boots = sum(step["seconds"] for step in steps if "Activate" in step["task"] or "Rehearse" in step["task"])
        return round(sum(step["seconds"] for step in steps), 2), round(boots, 2), round(cpu, 2)

    def median(self, kind: str, servers: int, which: int) -> float:
        return statistics.median(run[which] for run in self.runs[kind, servers])

    def fitted(self, kind: str, servers: int, which: int) -> float:
        """The value for another number of app servers, by linear regression over the medians."""
        sizes = sorted({size for known, size in self.runs if known == kind})
        slope, start = statistics.linear_regression(sizes, [self.median(kind, size, which) for size in sizes])
        return slope * servers + start

    def rows(self) -> list[tuple[str, ...]]:
        return [
            (
                KINDS[kind],
                str(servers),
                *(f"{self.median(kind, servers, which):.1f}" for which in range(3)),
                ", ".join(f"{run[2]:.1f}" for run in runs),
            )
            for (kind, servers), runs in sorted(self.runs.items())
        ]


def findings(scale: Scale) -> str:
    found = []
    for kind, title in KINDS.items():
        sizes = sorted({size for known, size in scale.runs if known == kind})
        growth = scale.median(kind, sizes[-1], 2) / scale.median(kind, sizes[-2], 2)
        own = scale.median(kind, sizes[-1], 0) - scale.median(kind, sizes[-1], 1)
        found.append(
            f"- {title[0].upper()}{title[1:]}: {sizes[-1]} app servers take {growth:.2f} times the controller's CPU of "
            f"{sizes[-2]}, and {own:.1f} s without the boots. A linear fit predicts "
            + ", ".join(f"{scale.fitted(kind, size, 2):.0f} CPU s for {size}" for size in PREDICTED)
            + "."
        )
    return "\n".join(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="test the benchmark itself: each kind once, on 2 and 4")
    parser.add_argument("--output", type=pathlib.Path, help="the page to write")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    output = options.output or (EVIDENCE / "scale-quick.md" if options.quick else PROJECT / "docs/benchmarks-scale.md")
    sizes, rounds = (QUICK, 1) if options.quick else (SIZES, ROUNDS)
    scale = Scale()
    try:
        with booted(inventory(sizes[-1]), keep=False):
            for size in sizes:
                scale.measure(size, rounds)
    except (BenchError, fleet.FleetError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    described = machine.describe()
    page = string.Template(PAGE.read_text())
    output.write_text(
        page.substitute(
            date=f"{datetime.date.today()}",
            machine=f"{described['cores']} cores ({described['processor']}), {described['memory']}, {described['os']}",
            table=tables.markdown(HEADER, scale.rows()),
            findings=findings(scale),
        )
    )
    print(tables.columns(HEADER, scale.rows()))
    print(findings(scale))
    return 0


if __name__ == "__main__":
    sys.exit(main())
