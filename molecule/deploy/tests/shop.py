"""The fleet of this scenario, the application's source, and traffic during changes."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import json
import os
import pathlib
import shlex
import shutil
from collections.abc import Iterator
from typing import Any

import testinfra

from tests.support.playbooks import PROJECT, Done, Playbooks
from tests.support.traffic import PATIENCE, Background, Load

SCENARIO = pathlib.Path(__file__).parents[1]
APPLICATION = PROJECT / "tests/bench/application"
APP_SERVERS = ["app1", "app2", "app3"]
# edge: the local port on which its port 443 is published
EDGES = {"edge1": 18711, "edge2": 18712}
SITE = "shop.baton.test"
SOURCE = (
    pathlib.Path(os.environ.get("MOLECULE_EPHEMERAL_DIRECTORY", pathlib.Path.home() / ".cache/baton/deploy")) / "source"
)
LONG = "BATON_TEST_LONG" in os.environ
# `wait`: seconds that are subtracted from the latency of slow kinds
MIX = [
    Load("get", share=12),
    Load("post", "/echo", share=6, size=2000),
    Load("get", "/slow?seconds=1", share=1, wait=1.0),
    Load("fresh", share=2, wait=0.3),
    Load("idle", share=2, wait=2.0),
    Load("upload", "/echo", share=1, size=200_000, wait=0.5),
    Load("sse", "/events?count=10", share=1),
    Load("websocket", "/ws", share=1, wait=1.0),
    Load("h2", share=3),
]

# nginx before 1.27.4 closes kept HTTP/1.1 connections at a reload without warning
WITHOUT_REUSE = [
    Load("get", share=12),
    Load("post", "/echo", share=6, size=2000),
    Load("get", "/slow?seconds=1", share=1, wait=1.0),
    Load("upload", "/echo", share=1, size=200_000, wait=0.5),
    Load("sse", "/events?count=10", share=1),
    Load("websocket", "/ws", share=1, wait=1.0),
]

# pages about the environment, and about the worker
GREETING = """
async def greeting() -> str:
    return os.environ["GREETING"]
async def identity() -> dict[str, int | str]:
    await asyncio.sleep(0.05)  # concurrent requests are then answered by several workers
    return {"pid": os.getpid(), "number": NUMBER, "release": os.environ["RELEASE_ID"]}
app.add_api_route("/greeting", greeting)
app.add_api_route("/identity", identity)
"""

# on a tmpfs of the host
GATE = "/run/shop-gate"
# no release boots while this file exists on its host, except in a rehearsal
GATED = f"""
import pathlib
while pathlib.Path("{GATE}").exists() and "rehearsal" not in pathlib.Path("/proc/self/cgroup").read_text():
    time.sleep(0.05)
"""

# enqueues a job that only this and later releases know
ENQUEUE = """
import json, urllib.request
def enqueue() -> dict[str, int]:
    asked = urllib.request.Request(f"{os.environ['QUEUE']}/add", json.dumps({"task": f"task{NUMBER}"}).encode())
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return json.load(answer)
app.add_api_route("/job", enqueue, methods=["POST"])
"""

# requests the worker's identity until each of the given pids has answered
IDENTIFY = """
import concurrent.futures, json, sys, urllib.request
url, wanted = sys.argv[1], set(sys.argv[2:])
def ask(_):
    with urllib.request.urlopen(url, timeout=60) as answer:
        return json.load(answer)
result = {}
with concurrent.futures.ThreadPoolExecutor(8) as pool:
    for _ in range(100):
        for one in pool.map(ask, range(8)):
            result[str(one.pop("pid"))] = one
        if wanted <= result.keys():
            break
print(json.dumps(result))
"""

BREAKAGE = {
    "import": 'raise RuntimeError("no ledger at ledger.example.org")',
    # its health page is fine, other pages aren't
    "answers": """
@app.middleware("http")
async def fail(request, call_next):
    if request.url.path == "/echo":
        await request.body()  # a response before the end of an upload would be a 502 from the edge
        raise RuntimeError("the ledger is empty")
    return await call_next(request)
""",
    # only after the canary
    "answers in the second batch": """
import socket
from fastapi.responses import PlainTextResponse
@app.middleware("http")
async def fail(request, call_next):
    if request.url.path == "/echo" and socket.gethostname().endswith("app2"):
        await request.body()
        return PlainTextResponse("the ledger of app2 is empty", 500)
    return await call_next(request)
""",
    # its rehearsal succeeds, but its boot fails on one host
    "second batch": """
import pathlib, socket
if socket.gethostname().endswith("app2") and "rehearsal" not in pathlib.Path("/proc/self/cgroup").read_text():
    raise RuntimeError("app2 has no ledger")
""",
}


def receipt() -> Any:
    """The newest receipt. Asserts that every app server has a copy, and that its page has the same content."""
    newest = max((SCENARIO / "inventory/receipts").glob("*.json"))
    text = newest.read_text()
    for name in APP_SERVERS:
        assert host(name).file(f"/var/lib/baton/shop/receipts/{newest.name}").content_string == text, name
    result = json.loads(text)
    page = newest.with_suffix(".html").read_text()
    assert "<svg" in page
    for name in APP_SERVERS:
        assert name in page
    assert result["deploy"]["release"] in page
    return result


def host(name: str) -> Any:
    """A host of the fleet."""
    return testinfra.get_host(f"ansible://{name}", ansible_inventory=str(SCENARIO / "inventory"))


class Source:
    """The application's source: the benchmark's application, in numbered versions."""

    def __init__(self) -> None:
        shutil.rmtree(SOURCE, ignore_errors=True)
        SOURCE.mkdir(parents=True)
        self.number = 0

    def change(self, breakage: str = "", migration: str = "", requirement: str = "", jobs: str = "") -> int:
        """Write another version, a good one unless an argument breaks it. Return its number.

        `jobs` is code that its background processes run first.
        """
        self.number += 1
        text = (APPLICATION / "service.py").read_text()
        (SOURCE / "service.py").write_text(
            f"{text}{GREETING}{ENQUEUE}{GATED}\nNUMBER = {self.number}\n{BREAKAGE.get(breakage, '')}\n"
        )
        text = (SCENARIO / "tests/application/jobs.py").read_text()
        (SOURCE / "jobs.py").write_text(text.replace("NUMBER = 0", f"{jobs}\nNUMBER = {self.number}"))
        (SOURCE / "migrate.py").write_text(f"{migration or 'print(1)'}\n")
        lock = (APPLICATION / "requirements.txt").read_text()
        (SOURCE / "requirements.txt").write_text(f"{lock}\n{requirement}\n")
        return self.number


class Fleet(Playbooks):
    """The app servers behind their edges."""

    def __init__(self) -> None:
        super().__init__(SCENARIO / "inventory", {"DEPLOY_SOURCE": str(SOURCE)})

    def deploy(self, **variables: object) -> Done:
        """A deploy that must succeed."""
        return self.succeed("playbooks/deploy.yml", **variables)

    def address(self, name: str) -> str:
        """The address at which the edges reach a host."""
        return str(host(name).ansible.get_variables()["fleet_address"])

    def current(self, name: str) -> str:
        """A host's current release."""
        return str(host(name).check_output("basename $(readlink /opt/shop/current)"))

    def status(self, name: str) -> Any:
        """The status of the application's master."""
        return json.loads(host(name).check_output("cat /run/baton/shop/handover.json"))

    def workers(self) -> dict[str, set[int]]:
        """The pids of the serving workers by host, without draining ones."""
        return {
            name: {worker["pid"] for worker in self.status(name)["workers"] if worker["state"] == "ready"}
            for name in APP_SERVERS
        }

    def masters(self) -> dict[str, int]:
        """The masters' pids by host."""
        return {name: int(self.status(name)["master"]["pid"]) for name in APP_SERVERS}

    def greetings(self) -> set[str]:
        """The values of GREETING in the application's environment on all hosts."""
        ask = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())"
        url = "http://$(hostname -I | cut -d' ' -f1):8000/greeting"
        return {json.loads(host(name).check_output(f"python3 -c '{ask}' {url}")) for name in APP_SERVERS}

    def releases(self) -> dict[str, str]:
        """The release that each host serves. Asserts that all of its workers serve it."""
        served = {}
        for name in APP_SERVERS:
            result = host(name).check_output(
                "basename $(readlink /opt/shop/current); systemctl is-active shop.service shop-bridge.service; "
                "cat /run/baton/shop/handover.json"
            )
            current, *units, status = result.split("\n", 3)
            assert units == ["active", "inactive"], f"{name}: {units}"
            status_document = json.loads(status)
            workers = [worker for worker in status_document["workers"] if worker["state"] != "draining"]
            assert len(workers) == status_document["workers_wanted"], name
            assert {(worker["state"], worker["release"]) for worker in workers} == {("ready", current)}, name
            # each worker confirms it
            pids = [str(worker["pid"]) for worker in workers]
            url = f"http://{self.address(name)}:8000/identity"
            answers = json.loads(host(name).check_output(shlex.join(["python3", "-c", IDENTIFY, url, *pids])))
            assert set(answers) == set(pids), name
            assert {answer["release"] for answer in answers.values()} == {current}, name
            assert len({answer["number"] for answer in answers.values()}) == 1, name
            served[name] = current
        return served

    def release(self) -> str:
        """The release that the whole fleet serves."""
        (release,) = set(self.releases().values())
        return release

    @contextlib.contextmanager
    def traffic(
        self, loads: list[Load] | None = None, rate: float = 30, idle_limit: float = 1.0, fewest: int = 100
    ) -> Iterator[Traffic]:
        """Requests to both edges during a block. `idle_limit`: 0 for a new connection each time; `fewest`: requests
        that each edge must get at least."""
        authority = str(SCENARIO / "inventory/tls/ca.pem")
        traffic = Traffic()
        with contextlib.ExitStack() as stack:
            running = [
                stack.enter_context(
                    Background(
                        f"https://127.0.0.1:{port}",
                        loads or MIX,
                        rate=rate,
                        fewest=fewest,
                        timeout=PATIENCE,
                        host=SITE,
                        ca_file=authority,
                        idle_limit=idle_limit,
                    )
                )
                for port in EDGES.values()
            ]
            yield traffic
        for generator in running:
            traffic.sent += generator.summary.sent
            traffic.failed.update(generator.summary.failed)
            traffic.failures += generator.summary.failures

    def watched(self) -> contextlib.AbstractContextManager[dict[str, dict[str, int]]]:
        """During a block, checks on each app server for a worker that accepts requests: their number, and the gaps."""
        return self._watched("watch.py", "shop")

    def units_watched(self, pattern: str) -> contextlib.AbstractContextManager[dict[str, dict[str, int]]]:
        """During a block, counts the active units on each app server: the number of checks, and the fewest units."""
        return self._watched("watch_units.py", pattern)

    @contextlib.contextmanager
    def _watched(self, script_name: str, what: str) -> Iterator[dict[str, dict[str, int]]]:
        end = "/run/shop-watched"
        found: dict[str, dict[str, int]] = {}
        script = (SCENARIO / "tests/on_host" / script_name).read_text()
        look = "rm -f %s; python3 -c %s %s %s"
        with concurrent.futures.ThreadPoolExecutor() as pool:
            watching = {
                name: pool.submit(host(name).check_output, look, end, script, what, end) for name in APP_SERVERS
            }
            try:
                yield found
            finally:
                for name in APP_SERVERS:
                    host(name).check_output(f"touch {end}")
            found |= {name: json.loads(looking.result()) for name, looking in watching.items()}

    @contextlib.contextmanager
    def boots_held(self, name: str) -> Iterator[None]:
        """Prevents new workers of a host from booting during a block."""
        host(name).check_output(f"touch {GATE}")
        try:
            yield
        finally:
            host(name).check_output(f"rm {GATE}")

    def boots(self, name: str, release: str) -> bool:
        """Whether a host is booting another release than this one."""
        booting = [worker for worker in self.status(name)["workers"] if worker["state"] == "booting"]
        return any(worker["release"] != release for worker in booting)

    def answered(self, since: dict[str, int]) -> list[dict[str, Any]]:
        """The edges' log entries after these line numbers."""
        log = "/var/log/nginx/shop-access.log"
        text = "".join(host(name).check_output(f"tail -n +{line + 1} {log}") + "\n" for name, line in since.items())
        return [json.loads(line) for line in text.splitlines() if line]

    def logged(self) -> dict[str, int]:
        """The number of lines in each edge's log."""
        return {name: int(host(name).check_output("wc -l < /var/log/nginx/shop-access.log")) for name in EDGES}


class Traffic:
    """The results of all requests, once the block has ended."""

    def __init__(self) -> None:
        self.sent = 0
        self.failed: collections.Counter[str] = collections.Counter()
        self.failures: list[str] = []
