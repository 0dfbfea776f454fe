"""The whole reference application through deploys and a rollback: its page, live clicks, jobs and metrics."""

from __future__ import annotations

import base64
import bisect
import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import tarfile
import time
from collections.abc import Iterator
from typing import Any

import pytest
import websockets
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support.playbooks import PROJECT
from tests.support.wait import until

from .conftest import APP_SERVERS, FLEET, INVENTORY, NAME, PORT, Edge, other, status

LONG = "BATON_TEST_LONG" in os.environ
DEPLOYS = 20 if LONG else 1
WEBSOCKETS, STREAMS = (2000, 50) if LONG else (100, 10)
CLICK_RATE = 1 if LONG else 2
JOB_RATE = 5 if LONG else 2
FEWEST_JOBS = 3000 if LONG else 50
# one in a hundred takes longer than a deploy waits for
JOB_SECONDS = [0.05, 0.1, 0.2, 0.4, 0.1] * 20 + [8]
# 1,000 clients of a host reconnect; the app servers, the edge and the clients share this machine's processors
SPREAD = 15 if LONG else 5  # seconds; 5 is the default of app_service_websocket_spread
# no backlog of jobs that a rollback's workers wouldn't know
MANY_WORKERS = {
    "worker": {
        "command": "celery -A links.jobs worker --concurrency 4 --without-gossip --without-mingle",
        "count": 2,
        "stop_signal": "QUIT",
        "stop_timeout": 60,
        "database_connections": 4,
    }
}
FOLDER = "/root/live-clients"
EVENT = re.compile(r"\d+-\d+")
ENDS = {"WebSocket 1012", "stream"}  # of the clients' connections
# exits with 1 if no worker has logged a job that it doesn't know since a time (links.consumer)
UNKNOWN = "journalctl --sync; journalctl --no-pager --since=@%s --unit 'links-worker@*' --grep 'Parked task'"
# what the servers have logged, without requests, since a time
LOGGED = """
journalctl --sync; journalctl --no-pager --output=short-precise --since=@%s --unit 'links*.service' --unit nginx \\
  --grep 'worker timeout|kill|exited with|timed out|timeout graceful|exception|failed|reload|stopped' | tail -n 60
tail -n 60 /var/log/nginx/error.log
"""
# each version has a job of its own, which no earlier one knows, and its web processes hand out no other
JOBS = """
for _number in range(1, VERSION + 1):
    @app.task(name=f"links.jobs.version{_number}")
    def version(job: int, seconds: float, number: int = _number) -> None:
        import redis

        time.sleep(seconds)
        with redis.Redis.from_url(settings.redis_url.get_secret_value()) as client:
            client.rpush("test:ran", f"{job} {number}")
"""
ROUTE = """
@app.post("/api/jobs")
async def ask_for_job(request: Request, seconds: float) -> dict[str, int]:
    queue = await reports._queue(request.app)
    job = await request.app.state.shared.redis.incr("test:asked")
    await asyncio.to_thread(queue.send_task, f"links.jobs.version{VERSION}", args=[job, seconds])
    return {"id": job}
"""

pytestmark = pytest.mark.hosts("edge1")


@dataclasses.dataclass
class Source:
    """A copy of the reference application that tests change."""

    folder: pathlib.Path
    version: int = 0

    def change(self) -> None:
        """Add a job that no earlier version knows."""
        self.version += 1
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(PROJECT / "app", self.folder, ignore=shutil.ignore_patterns(".*", "__pycache__"))
        for module, code in (("jobs", JOBS), ("main", ROUTE)):
            with (self.folder / f"links/{module}.py").open("a") as file:
                file.write(code.replace("VERSION", str(self.version)))


def current(name: str) -> str:
    return str(other(name).check_output("basename $(readlink /opt/links/current)"))


def busiest_second(times: list[float]) -> int:
    """The largest number of these times within one second."""
    times = sorted(times)
    return max(bisect.bisect_right(times, begin + 1) - index for index, begin in enumerate(times))


def redis(command: str) -> list[str]:
    password = other("data1").ansible.get_variables()["test_redis_password"]
    program = f"REDISCLI_AUTH={password} redis-cli -s /run/redis-links/redis.sock --user links"
    return list(other("data1").check_output(f"{program} {command}").split("\n"))


def clicks_counted() -> int:
    """The clicks that the counters of all workers of all hosts have."""
    total = 0
    for name in APP_SERVERS:
        variables = other(name).ansible.get_variables()
        ask = f"""
import urllib.request
headers = {{"Authorization": "Bearer {variables["test_metrics_token"]}"}}
request = urllib.request.Request("http://{variables["fleet_address"]}:8000/metrics", headers=headers)
print(urllib.request.urlopen(request, timeout=60).read().decode())
"""
        page = other(name).check_output(shlex.join(["python3", "-c", ask]))
        series = r'^links_requests_total{method="GET",route="/{slug}",status="307"} (\S+)$'
        total += sum(int(float(count)) for count in re.findall(series, page, re.MULTILINE))
    return total


class LivePage:
    """The application's page in Chromium on this machine, with one link and its clicks."""

    def __init__(self, slug: str, trust: ssl.SSLContext, folder: pathlib.Path) -> None:
        self.slug = slug
        subprocess.run([PROJECT / "scripts/apt-install", "chromium", "chromium-driver"], check=True)
        venv = subprocess.check_output([PROJECT / "scripts/package-venv", "app"], text=True).strip()
        # the key that is verified here: Chromium would find the demo's authority only in a database of its user
        with (
            socket.create_connection(("127.0.0.1", PORT)) as plain,
            trust.wrap_socket(plain, server_hostname=NAME) as tls,
        ):
            certificate = x509.load_der_x509_certificate(tls.getpeercert(binary_form=True) or b"")
        key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        trusted = base64.b64encode(hashlib.sha256(key).digest()).decode()
        options = (
            f"--host-resolver-rules=MAP {NAME} 127.0.0.1",
            f"--ignore-certificate-errors-spki-list={trusted}",
            "--no-proxy-server",
        )
        address, log = f"https://{NAME}:{PORT}", str(folder / "chromedriver.log")
        self._process = subprocess.Popen(
            [f"{venv}/bin/python", "-m", "tests.live_page", address, log, slug, *options],
            cwd=PROJECT / "app",
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "live\n"

    def report(self, clicks: int) -> Any:
        """Its report, once it shows this number of clicks."""
        return json.loads(self._process.communicate(f"{clicks}\n")[0])

    def close(self) -> None:
        """End the browser."""
        if self._process.poll() is None:
            self._process.communicate()


@pytest.fixture
def live_page(edge: Edge, trust: ssl.SSLContext, tmp_path: pathlib.Path) -> Iterator[LivePage]:
    slug = edge("/api/links", "POST", json={"url": "https://example.org/"}).json()["slug"]
    with contextlib.closing(LivePage(slug, trust, tmp_path)) as page:
        yield page


@contextlib.contextmanager
def clients(folder: pathlib.Path, slug: str) -> Iterator[concurrent.futures.Future[Any]]:
    """Clients of all kinds, from all streams being open to the last event; then their report."""
    data1 = other("data1")
    specification = {
        "address": other("edge1").ansible.get_variables()["fleet_address"],
        "name": NAME,
        "ca_file": f"{FOLDER}/ca.pem",
        "slug": slug,
        # Not all events that earlier tests have left: clients that still read these would be behind when the workers
        # drain, and a WebSocket whose client doesn't read up to its end is aborted.
        "after": redis("XREVRANGE links:clicks + - COUNT 1")[0] or "0-0",
        "websockets": WEBSOCKETS,
        "streams": STREAMS,
        "click_rate": CLICK_RATE,
        "job_rate": JOB_RATE,
        "job_seconds": JOB_SECONDS,
    }
    archive = folder / "live-clients.tar"
    (folder / "specification.json").write_text(json.dumps(specification))
    with tarfile.open(archive, "w") as tar:
        tar.add(pathlib.Path(__file__).parent / "on_host/live_clients.py", "live_clients.py")
        tar.add(INVENTORY / "tls/ca.pem", "ca.pem")
        tar.add(folder / "specification.json", "specification.json")
        tar.add(pathlib.Path(websockets.__file__).parent, "websockets")
    data1.check_output(f"rm -rf {FOLDER}; mkdir {FOLDER}")
    FLEET.ad_hoc("data1", "unarchive", f"src={archive} dest={FOLDER}", "--become").check_status()
    run = f"ulimit -n 8192; python3 {FOLDER}/live_clients.py {FOLDER}/specification.json {FOLDER}"
    with concurrent.futures.ThreadPoolExecutor() as pool:
        running = pool.submit(data1.run, run)
        try:
            until(lambda: running.done() or data1.file(f"{FOLDER}/open").exists, "not all clients are connected")
            yield pool.submit(lambda: json.loads(running.result().stdout or running.result().stderr))
        finally:
            data1.check_output(f"touch {FOLDER}/end")


@contextlib.contextmanager
def scheduled_run() -> Iterator[None]:
    """A scheduled command that begins before the block and ends after it, in the release that it began in."""
    app1, log = other("app1"), "/var/lib/links/spanning"
    app1.check_output(f"rm -f {log} {log}-end; systemctl start --no-block links-spanning.service")
    try:
        until(lambda: app1.file(log).exists, "the scheduled command doesn't run")
        release = current("app1")
        pid = app1.check_output("systemctl show --property=MainPID --value links-spanning.service")
        folder, *open_files = app1.check_output(f"readlink /proc/{pid}/cwd /proc/{pid}/fd/*").splitlines()
        # otherwise the release could be pruned
        assert (folder, f"/opt/links/releases/{release}" in open_files) == ("/var/lib/links", True)
        yield
    finally:
        app1.check_output(f"touch {log}-end")
    until(lambda: "end" in app1.file(log).content_string, "the scheduled command doesn't end")
    assert current("app1") != release
    assert app1.file(log).content_string == f"begin {release}\nend {release}\n"


def test_changes_lose_no_event_job_or_count(edge: Edge, live_page: LivePage, tmp_path: pathlib.Path) -> None:
    original = current("app1")
    source = Source(tmp_path / "links")
    # the release to return to is kept, too
    options: dict[str, Any] = {
        "app_source": str(source.folder),
        "app_releases_keep": DEPLOYS + 5,
        "deploy_bake_seconds": 0,
    }
    slug = live_page.slug
    redis("DEL test:asked test:ran")
    begin = int(time.time())
    if LONG:
        FLEET.succeed(
            "playbooks/configure.yml",
            deploy_bake_seconds=0,
            app_processes=MANY_WORKERS,
            app_service_websocket_spread=SPREAD,
        )
        options["app_processes"] = MANY_WORKERS
    try:
        source.change()
        FLEET.succeed("playbooks/deploy.yml", **options)
        before = clicks_counted()
        served = []
        with clients(tmp_path, slug) as report, scheduled_run():
            for _ in range(DEPLOYS):
                source.change()
                FLEET.succeed("playbooks/deploy.yml", **options)
                served.append(current("app1"))
            until(lambda: int(redis("GET test:asked")[0]) >= FEWEST_JOBS, "too few jobs")
            if LONG:
                FLEET.succeed("playbooks/rollback.yml", rollback_to=served[-2], **options)
                assert {current(name) for name in APP_SERVERS} == {served[-2]}
            for name in APP_SERVERS:
                status(name)  # the old workers have closed all their WebSockets
            configured = time.time()
            environment = other("app1").ansible.get_variables()["app_config_environment"]
            environment = {**environment, "LINKS_TITLE_TIMEOUT": 4}
            FLEET.succeed("playbooks/configure.yml", app_config_environment=environment, **options)
        summary = report.result()
        counted = clicks_counted() - before
        until(lambda: int(redis("LLEN test:ran")[0]) >= len(summary["jobs"]), "jobs are missing")
        unknown = {name: other(name).run(UNKNOWN, str(begin)).rc for name in APP_SERVERS}
        if summary["closed"].keys() - ENDS:
            for name in (*APP_SERVERS, "edge1"):
                print(name, other(name).run(LOGGED, str(begin)).stdout)
    finally:
        FLEET.succeed("playbooks/rollback.yml", rollback_to=original, rollback_configure=True, deploy_bake_seconds=0)
    assert summary["failures"] == {}
    # each client had each event, once and in order
    assert summary["sequences"] == [WEBSOCKETS + STREAMS], summary
    assert (summary["repeated"], summary["gaps"]) == (0, 0)
    assert summary["events"] >= summary["clicks"] > 0
    # Each worker closes its WebSockets evenly over the time of the setting. Twice as many within one second allow for
    # workers that close theirs at the same moments, and for this machine; without a spread, those of a host, which are
    # half of all, would be closed at once.
    restarts = [at for at in summary["restarts"] if at >= configured]
    assert len(restarts) > WEBSOCKETS / 4, "the change has closed too few"
    assert busiest_second(restarts) <= 2 * WEBSOCKETS / SPREAD
    # the last workers may still be closing theirs, a few at a time
    assert summary["closed"]["WebSocket 1012"] > 0, summary["closed"]
    assert summary["closed"].keys() <= ENDS, summary["closed"]
    assert counted == summary["clicks"]
    assert edge(f"/api/links/{slug}").json()["clicks"] == summary["clicks"]
    # each job ran once, in a release that knows it
    ran = collections.Counter(line.split()[0] for line in redis("LRANGE test:ran 0 -1"))
    assert ran == collections.Counter(map(str, summary["jobs"]))
    assert len(ran) >= FEWEST_JOBS
    assert set(unknown.values()) == {1}, unknown
    # the page has lived through all changes, the last rollback included
    assert edge(f"/{slug}").status_code == 307
    page = live_page.report(summary["clicks"] + 1)
    assert (page["reloaded"], page["console"]) == (False, [])
    codes = [socket["code"] for socket in page["sockets"]]
    assert (codes.pop(), set(codes)) == (None, {1012})
    assert len(codes) >= DEPLOYS + 2
    events = [event["id"] for socket in page["sockets"] for event in socket["clicks"]]
    assert events == [line for line in redis(f"XRANGE links:clicks '({page['after']}' +") if EVENT.fullmatch(line)]
