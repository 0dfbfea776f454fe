"""The fleet of this scenario, what is deployed to it, and the traffic meanwhile."""

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
# the port of this machine that an edge's 443 is published on
EDGES = {"edge1": 18711, "edge2": 18712}
SITE = "shop.baton.test"
SOURCE = (
    pathlib.Path(os.environ.get("MOLECULE_EPHEMERAL_DIRECTORY", pathlib.Path.home() / ".cache/baton/deploy")) / "source"
)
LONG = "BATON_TEST_LONG" in os.environ
# the slow kinds' own seconds are taken off their latency (`wait`)
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

# nginx before 1.27.4 ends, at a reload, connections that clients keep for later, without a word in HTTP/1.1
WITHOUT_REUSE = [
    Load("get", share=12),
    Load("post", "/echo", share=6, size=2000),
    Load("get", "/slow?seconds=1", share=1, wait=1.0),
    Load("upload", "/echo", share=1, size=200_000, wait=0.5),
    Load("sse", "/events?count=10", share=1),
    Load("websocket", "/ws", share=1, wait=1.0),
]

# tells of the environment, and of itself
GREETING = """
async def greeting() -> str:
    return os.environ["GREETING"]
async def identity() -> dict[str, int | str]:
    await asyncio.sleep(0.05)  # those that ask at once are answered by several workers
    return {"pid": os.getpid(), "number": NUMBER, "release": os.environ["RELEASE_ID"]}
app.add_api_route("/greeting", greeting)
app.add_api_route("/identity", identity)
"""

# not while it is rehearsed; on a tmpfs of the host
GATE = "/run/shop-gate"
# no release boots while the gate of its host is shut
GATED = f"""
import pathlib
while pathlib.Path("{GATE}").exists() and "rehearsal" not in pathlib.Path("/proc/self/cgroup").read_text():
    time.sleep(0.05)
"""

# hands out a job that no release before this one knows
HANDS_OUT = """
import json, urllib.request
def hand_out() -> dict[str, int]:
    asked = urllib.request.Request(f"{os.environ['QUEUE']}/add", json.dumps({"task": f"task{NUMBER}"}).encode())
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return json.load(answer)
app.add_api_route("/job", hand_out, methods=["POST"])
"""

# asks an application who answers, until each of the processes has
WHO = """
import concurrent.futures, json, sys, urllib.request
url, wanted = sys.argv[1], set(sys.argv[2:])
def ask(_):
    with urllib.request.urlopen(url, timeout=60) as answer:
        return json.load(answer)
told = {}
with concurrent.futures.ThreadPoolExecutor(8) as pool:
    for _ in range(100):
        for one in pool.map(ask, range(8)):
            told[str(one.pop("pid"))] = one
        if wanted <= told.keys():
            break
print(json.dumps(told))
"""

BREAKAGE = {
    "import": 'raise RuntimeError("no ledger at ledger.example.org")',
    # ready by its health page, and no good to those who need the rest of it
    "answers": """
@app.middleware("http")
async def fail(request, call_next):
    if request.url.path == "/echo":
        await request.body()  # an answer before the end of an upload would be a 502 of the edge's
        raise RuntimeError("the ledger is empty")
    return await call_next(request)
""",
    # the canary is well
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
    # well when rehearsed, dead in earnest, on one host
    "second batch": """
import pathlib, socket
if socket.gethostname().endswith("app2") and "rehearsal" not in pathlib.Path("/proc/self/cgroup").read_text():
    raise RuntimeError("app2 has no ledger")
""",
}


def receipt() -> Any:
    """The newest receipt, as every app server keeps it, too; people find the same in its page."""
    newest = max((SCENARIO / "inventory/receipts").glob("*.json"))
    text = newest.read_text()
    for name in APP_SERVERS:
        assert host(name).file(f"/var/lib/baton/shop/receipts/{newest.name}").content_string == text, name
    told = json.loads(text)
    page = newest.with_suffix(".html").read_text()
    assert "<svg" in page
    for name in APP_SERVERS:
        assert name in page
    assert told["deploy"]["release"] in page
    return told


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
        """Write another version, good unless something is given that breaks it. Returns its number.

        `jobs` is what its background processes do first.
        """
        self.number += 1
        text = (APPLICATION / "service.py").read_text()
        (SOURCE / "service.py").write_text(
            f"{text}{GREETING}{HANDS_OUT}{GATED}\nNUMBER = {self.number}\n{BREAKAGE.get(breakage, '')}\n"
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
        """A deploy that has to end well."""
        return self.succeed("playbooks/deploy.yml", **variables)

    def address(self, name: str) -> str:
        """Where the edges reach a host."""
        return str(host(name).ansible.get_variables()["fleet_address"])

    def current(self, name: str) -> str:
        """The release that a host points to."""
        return str(host(name).check_output("basename $(readlink /opt/shop/current)"))

    def status(self, name: str) -> Any:
        """What the application's master says of itself."""
        return json.loads(host(name).check_output("cat /run/baton/shop/handover.json"))

    def workers(self) -> dict[str, set[int]]:
        """The processes that serve, by host; those that only finish what they have are left out."""
        return {
            name: {worker["pid"] for worker in self.status(name)["workers"] if worker["state"] == "ready"}
            for name in APP_SERVERS
        }

    def masters(self) -> dict[str, int]:
        """The process of the service, by host."""
        return {name: int(self.status(name)["master"]["pid"]) for name in APP_SERVERS}

    def greetings(self) -> set[str]:
        """What the application has as GREETING in its environment, on all hosts."""
        ask = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())"
        url = "http://$(hostname -I | cut -d' ' -f1):8000/greeting"
        return {json.loads(host(name).check_output(f"python3 -c '{ask}' {url}")) for name in APP_SERVERS}

    def releases(self) -> dict[str, str]:
        """What each host serves, which every one of its workers has to agree with."""
        served = {}
        for name in APP_SERVERS:
            told = host(name).check_output(
                "basename $(readlink /opt/shop/current); systemctl is-active shop.service shop-bridge.service; "
                "cat /run/baton/shop/handover.json"
            )
            current, *units, status = told.split("\n", 3)
            assert units == ["active", "inactive"], f"{name}: {units}"
            said = json.loads(status)
            workers = [worker for worker in said["workers"] if worker["state"] != "draining"]
            assert len(workers) == said["workers_wanted"], name
            assert {(worker["state"], worker["release"]) for worker in workers} == {("ready", current)}, name
            # and each of them says so itself
            pids = [str(worker["pid"]) for worker in workers]
            url = f"http://{self.address(name)}:8000/identity"
            answers = json.loads(host(name).check_output(shlex.join(["python3", "-c", WHO, url, *pids])))
            assert set(answers) == set(pids), name
            assert {answer["release"] for answer in answers.values()} == {current}, name
            assert len({answer["number"] for answer in answers.values()}) == 1, name
            served[name] = current
        return served

    def release(self) -> str:
        """The one release that the whole fleet serves."""
        (release,) = set(self.releases().values())
        return release

    @contextlib.contextmanager
    def traffic(
        self, loads: list[Load] | None = None, rate: float = 30, idle_limit: float = 1.0, fewest: int = 100
    ) -> Iterator[Traffic]:
        """Requests to both edges, from entering to leaving. `idle_limit`: 0 for a new connection each time; `fewest`:
        requests that each edge must have been sent."""
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

    @contextlib.contextmanager
    def watched(self) -> Iterator[dict[str, dict[str, int]]]:
        """On each app server, the number of checks for a worker that accepts requests, and of those that found none."""
        end = "/run/shop-watched"
        found: dict[str, dict[str, int]] = {}
        script = (SCENARIO / "tests/on_host/watch.py").read_text()
        look = "rm -f %s; python3 -c %s shop %s"
        with concurrent.futures.ThreadPoolExecutor() as pool:
            watching = {name: pool.submit(host(name).check_output, look, end, script, end) for name in APP_SERVERS}
            try:
                yield found
            finally:
                for name in APP_SERVERS:
                    host(name).check_output(f"touch {end}")
            found |= {name: json.loads(looking.result()) for name, looking in watching.items()}

    @contextlib.contextmanager
    def shut(self, name: str) -> Iterator[None]:
        """No new worker of a host boots before the end of the block."""
        host(name).check_output(f"touch {GATE}")
        try:
            yield
        finally:
            host(name).check_output(f"rm {GATE}")

    def boots(self, name: str, release: str) -> bool:
        """Whether a host boots another release than this one."""
        booting = [worker for worker in self.status(name)["workers"] if worker["state"] == "booting"]
        return any(worker["release"] != release for worker in booting)

    def answered(self, since: dict[str, int]) -> list[dict[str, Any]]:
        """What the edges have logged behind these lines."""
        log = "/var/log/nginx/shop-access.log"
        text = "".join(host(name).check_output(f"tail -n +{line + 1} {log}") + "\n" for name, line in since.items())
        return [json.loads(line) for line in text.splitlines() if line]

    def logged(self) -> dict[str, int]:
        """How many lines the edges have logged."""
        return {name: int(host(name).check_output("wc -l < /var/log/nginx/shop-access.log")) for name in EDGES}


class Traffic:
    """The fate of all requests, once the block has ended."""

    def __init__(self) -> None:
        self.sent = 0
        self.failed: collections.Counter[str] = collections.Counter()
        self.failures: list[str] = []
