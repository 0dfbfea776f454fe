"""Traces, as a collector receives them from a real server and a real worker."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

from links import telemetry
from links.settings import Settings
from tests.conftest import RedisServer
from tests.test_jobs import environment_of, lines, until, worker

APP = Path(__file__).parent.parent
# A server that loads the application and then forks workers. It logs like a Celery worker.
SERVER = """
import logging, os, signal, socket, sys
import uvicorn
from links.logs import JsonFormatter
handler = logging.StreamHandler()
handler.setFormatter(JsonFormatter())
logging.basicConfig(level="INFO", handlers=[handler])
from links.main import app
signal.signal(signal.SIGTERM, signal.SIG_IGN)
listener, workers = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
for _ in range(workers):
    if os.fork() == 0:
        uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False)).run([listener])
        sys.exit()
for _ in range(workers):
    os.wait()
"""
# The server of the hosts, and the application's lines, which it formats, from level INFO on.
GUNICORN = """
import logging, sys
from gunicorn_handover.cli import main
from gunicorn_handover.logs import JsonFormatter
handler = logging.StreamHandler()
handler.setFormatter(JsonFormatter())
logging.basicConfig(level="INFO", handlers=[handler])
sys.argv[1:] = ["--bind", f"fd://{sys.argv[1]}", "--workers", sys.argv[2], "--access-logfile", "-", "links.main:app"]
main()
"""


@dataclass(frozen=True)
class Sent:
    """A span, and the resource attributes of the process that sent it."""

    span: Span
    resource: dict[str, Any]

    @property
    def attributes(self) -> dict[str, Any]:
        """The span's attributes."""
        return values(self.span.attributes)


def values(attributes: Any) -> dict[str, Any]:
    """Convert OTLP attributes to a dictionary."""
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


class Collector(ThreadingHTTPServer):
    """Receives spans with OTLP over HTTP; never answers while `hangs` is set."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Export)
        self.hangs = False
        self.asked = threading.Event()
        self.spans: list[Sent] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def of(self, kind: int) -> list[Sent]:
        """Return the spans of a kind."""
        return [one for one in self.spans if one.span.kind == kind]


class Export(BaseHTTPRequestHandler):
    """One request."""

    server: Collector

    def do_POST(self) -> None:
        """Receive a batch of spans."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.set()
        if self.server.hangs:
            self.rfile.read()
            return
        assert self.path == "/v1/traces"
        for of_process in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = values(of_process.resource.attributes)
            self.server.spans += [Sent(span, resource) for scope in of_process.scope_spans for span in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Log nothing."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    """Run a collector."""
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01], daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Return the path of the server's log."""
    return tmp_path / "server.log"


@dataclass
class Server:
    """A server, and a client of it."""

    process: "subprocess.Popen[bytes]"
    client: httpx.Client

    def stop(self) -> None:
        """Terminate the workers, as a server does, and wait for the server."""
        os.killpg(self.process.pid, signal.SIGTERM)
        assert self.process.wait(120) is not None


@contextmanager
def serving(environment: dict[str, str], log: Path, workers: int = 1, server: str = SERVER) -> Iterator[Server]:
    """Run a server with `workers` workers."""
    listener = socket.create_server(("127.0.0.1", 0))
    command = [sys.executable, "-c", server, str(listener.fileno()), str(workers)]
    with log.open("ab") as output, listener:
        process = subprocess.Popen(
            command,
            cwd=APP,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
        host, port = listener.getsockname()
    try:
        with httpx.Client(base_url=f"http://{host}:{port}", timeout=60, headers={"Connection": "close"}) as client:
            yield Server(process, client)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def environment(with_redis: Settings, redis_server: RedisServer, collector: Collector) -> dict[str, str]:
    """Return the environment of processes with a database, a Redis and a collector."""
    return {
        **environment_of(with_redis, redis_server),
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        # So long that a process sends its spans only when it exits.
        "OTEL_BSP_SCHEDULE_DELAY": "3600000",
        "RELEASE_ID": "r42",
    }


def trace_of(one: Sent) -> str:
    """Return the id of a span's trace, as in log lines."""
    return one.span.trace_id.hex()


def test_workers_send_spans_with_their_resource(environment: dict[str, str], collector: Collector, log: Path) -> None:
    pids: set[int] = set()
    with serving(environment, log, workers=2) as server:
        while len(pids) < 2:
            pids.add(server.client.get("/api/whoami").json()["pid"])
        server.stop()
    of_requests = collector.of(Span.SPAN_KIND_SERVER)
    assert {one.resource["process.pid"] for one in of_requests} == pids
    for one in of_requests:
        assert (one.span.name, one.attributes["http.route"]) == ("GET /api/whoami", "/api/whoami")
        assert (one.resource["service.name"], one.resource["service.version"]) == ("links", "r42")
        assert one.resource["host.name"] == socket.gethostname()


def test_otel_service_name_overrides_resource(environment: dict[str, str], collector: Collector, log: Path) -> None:
    with serving({**environment, "OTEL_SERVICE_NAME": "short"}, log) as server:
        server.client.get("/api/whoami")
        server.stop()
    assert [one.resource["service.name"] for one in collector.spans] == ["short"]


def test_spans_and_log_lines_share_trace(
    environment: dict[str, str], settings: Settings, redis_server: RedisServer, collector: Collector, log: Path
) -> None:
    environment |= environment_of(settings, redis_server)
    database = "postgresql" if settings.database_url else "sqlite"
    with serving(environment, log) as server:
        new = {"url": "https://example.com", "slug": "a"}
        headers = {"X-Request-ID": "r-1", "traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}
        assert server.client.post("/api/links", json=new, headers=headers).status_code == 201
        assert server.client.get("/a").status_code == 307
        server.stop()
    created, followed = collector.of(Span.SPAN_KIND_SERVER)
    # a proxy's trace is continued
    assert (trace_of(created), created.span.parent_span_id.hex()) == ("ab" * 16, "cd" * 8)
    assert created.attributes["request_id"] == "r-1"
    written = [line for line in lines(log) if line["message"] == "Created link a"]
    assert [(line["request_id"], line["trace_id"]) for line in written] == [("r-1", "ab" * 16)]
    calls = [one for one in collector.of(Span.SPAN_KIND_CLIENT) if trace_of(one) == trace_of(followed)]
    assert {one.attributes["db.system"] for one in calls} == {database, "redis"}
    # spans don't contain what clients sent
    assert not any("example.com" in str(one.attributes) for one in collector.of(Span.SPAN_KIND_CLIENT))


def test_health_checks_and_warmup_are_not_traced(environment: dict[str, str], collector: Collector, log: Path) -> None:
    """Nor are the database queries of health checks."""
    with serving({**environment, "LINKS_METRICS_TOKEN": "m3trics"}, log) as server:
        for path in ("/healthz", "/readyz", "/metrics"):
            answer = server.client.get(path, headers={"Authorization": "Bearer m3trics"})
            assert answer.status_code == 200
        warm = {"User-Agent": "gunicorn-handover-warmup/1.2"}
        assert server.client.get("/api/links", headers=warm).status_code == 200
        assert server.client.get("/api/links").status_code == 200
        server.stop()
    (asked,) = collector.of(Span.SPAN_KIND_SERVER)
    assert asked.span.name == "GET /api/links"
    assert {trace_of(one) for one in collector.spans} == {trace_of(asked)}


def test_task_continues_trace_of_request(
    environment: dict[str, str], collector: Collector, log: Path, tmp_path: Path
) -> None:
    jobs = tmp_path / "jobs.log"
    with serving(environment, log) as server, worker(environment, jobs) as working:
        asked = server.client.post("/api/reports", headers={"X-Request-ID": "r-7"})
        where = asked.headers["Location"]
        until(lambda: server.client.get(where).json()["state"] == "done", jobs)
        server.stop()
        working.send_signal(signal.SIGTERM)
        until(lambda: working.poll() is not None, jobs)
    (request,) = [one for one in collector.of(Span.SPAN_KIND_SERVER) if one.span.name == "POST /api/reports"]
    (job,) = collector.of(Span.SPAN_KIND_CONSUMER)
    assert (job.span.name, job.span.parent_span_id) == ("process links.jobs.report", request.span.span_id)
    assert (trace_of(job), job.attributes["request_id"]) == (trace_of(request), "r-7")
    assert job.resource["process.pid"] != request.resource["process.pid"]
    # its queries
    assert "sqlite" in {
        one.attributes["db.system"] for one in collector.spans if one.span.parent_span_id == job.span.span_id
    }
    (reported,) = [line for line in lines(jobs) if line["message"].startswith("Reported on")]
    assert (reported["request_id"], reported["trace_id"]) == ("r-7", trace_of(job))
    assert (reported["level"], reported["logger"], reported["pid"]) == (
        "info",
        "links.report",
        job.resource["process.pid"],
    )


@pytest.mark.parametrize("traced", [True, False])
def test_all_lines_of_request_have_its_ids(
    environment: dict[str, str], collector: Collector, log: Path, tmp_path: Path, traced: bool
) -> None:
    """The server's access line, the application's line, and the job's lines and Celery's about it."""
    environment["PYTHONPATH"] = str(APP.parent / "handover" / "src")
    if not traced:
        del environment["OTEL_EXPORTER_OTLP_ENDPOINT"]
    jobs = tmp_path / "jobs.log"
    with serving(environment, log, server=GUNICORN) as server, worker(environment, jobs) as working:
        where = server.client.post("/api/reports", headers={"X-Request-ID": "r-8"}).headers["Location"]
        until(lambda: server.client.get(where).json()["state"] == "done", jobs)
        server.stop()
        working.send_signal(signal.SIGTERM)
        until(lambda: working.poll() is not None, jobs)
    found = [line for line in lines(log) + lines(jobs) if line.get("request_id") == "r-8"]
    assert [line["logger"] for line in found] == ["links.reports", "access", "links.report", "celery.app.trace"]
    traces = {trace_of(one) for one in collector.spans if one.attributes.get("request_id") == "r-8"}
    expected = traces if traced else {None}
    assert (len(expected), {line.get("trace_id") for line in found}) == (1, expected)


def test_calls_to_sites_send_traceparent(environment: dict[str, str], collector: Collector, log: Path) -> None:
    given: list[str | None] = []

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            given.append(self.headers["traceparent"])
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<title>A page</title>")

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as site:
        threading.Thread(target=site.serve_forever, args=[0.01], daemon=True).start()
        with serving({**environment, "LINKS_TITLE_NETWORKS": '["127.0.0.1"]'}, log) as server:
            server.client.post("/api/links", json={"url": f"http://127.0.0.1:{site.server_port}/", "slug": "a"})
            assert server.client.get("/api/links/a/title").json() == {"title": "A page"}
            server.stop()
        site.shutdown()
    (request,) = [one for one in collector.of(Span.SPAN_KIND_SERVER) if "title" in one.span.name]
    (call,) = [one for one in collector.of(Span.SPAN_KIND_CLIENT) if "db.system" not in one.attributes]
    assert (trace_of(call), call.span.parent_span_id) == (trace_of(request), request.span.span_id)
    (traceparent,) = given
    assert str(traceparent).split("-")[1:3] == [trace_of(call), call.span.span_id.hex()]


@pytest.mark.parametrize("fault", ["hangs", pytest.param("is gone", marks=pytest.mark.long)])
def test_requests_succeed_without_collector(
    environment: dict[str, str], collector: Collector, log: Path, tmp_path: Path, fault: str
) -> None:
    """With these timeouts, waiting for a hanging collector or retrying a lost one would outlast the test."""
    environment |= {"OTEL_EXPORTER_OTLP_TIMEOUT": "3600"}
    environment |= {"OTEL_BSP_MAX_QUEUE_SIZE": "16", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "8"}
    if fault == "hangs":
        collector.hangs = True
    else:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{closed.getsockname()[1]}"
    jobs = tmp_path / "jobs.log"
    with serving(environment, log, workers=2) as server, worker(environment, jobs) as working:
        where = server.client.post("/api/reports").headers["Location"]
        until(lambda: server.client.get(where).json()["state"] == "done", jobs)
        # more spans than fit into the queue
        assert {server.client.get("/api/links").status_code for _ in range(40)} == {200}
        if fault == "hangs":
            assert collector.asked.wait(60)
        assert {server.client.get("/api/links").status_code for _ in range(40)} == {200}
        server.stop()
        working.send_signal(signal.SIGTERM)
        until(lambda: working.poll() is not None, jobs)
    assert "Traceback" not in log.read_text()


def imports(environment: dict[str, str], beforehand: str = "") -> "subprocess.CompletedProcess[str]":
    """Run the application's lifespan in a process that prints which optional packages it imported."""
    code = f"""
import asyncio, logging, sys
{beforehand}
from links.main import app
async def run():
    async with app.router.lifespan_context(app):
        pass
asyncio.run(run())
optional = ("opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.instrumentation", "celery")
print(sorted(name for name in sys.modules if name.startswith(optional) and sys.modules[name]))
"""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=APP, env=environment, capture_output=True, text=True, check=True
    )


@pytest.mark.parametrize("endpoint", [None, pytest.param("", marks=pytest.mark.long)])
def test_sdk_is_not_imported_without_collector(environment: dict[str, str], endpoint: str | None) -> None:
    # redis-py imports the SDK by itself where it is installed
    del environment["REDIS_URL"], environment["OTEL_EXPORTER_OTLP_ENDPOINT"]
    if endpoint is not None:
        environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = endpoint
    assert imports(environment).stdout == "[]\n"


def test_missing_packages_are_logged(environment: dict[str, str]) -> None:
    del environment["REDIS_URL"]
    done = imports(environment, 'sys.modules["opentelemetry.exporter"] = None')
    assert "No traces" in done.stderr
    assert "requirements-otel.txt" in done.stderr
    assert done.stdout == "[]\n"


class Endless(SpanProcessor):
    """Blocks in its shutdown until the test allows it to return."""

    def __init__(self) -> None:
        self.waits, self.may_end = threading.Event(), threading.Event()

    def shutdown(self) -> None:
        """Wait for the test."""
        self.waits.set()
        self.may_end.wait(60)


def test_exit_does_not_wait_for_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    sending, provider = Endless(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(sending)
    monkeypatch.setattr(telemetry, "FLUSH", 0.01)
    monkeypatch.setattr(telemetry, "_provider", provider)
    telemetry.stop()
    (still,) = [thread for thread in threading.enumerate() if thread.name == "telemetry-flush"]
    assert (sending.waits.wait(60), still.daemon) == (True, True)
    sending.may_end.set()
    still.join()
