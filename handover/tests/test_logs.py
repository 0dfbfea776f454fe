"""The logs: every line can be parsed, whatever logging the application configures."""

from __future__ import annotations

import contextlib
import http
import json
import logging
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import gunicorn.config
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.exceptions import InvalidStatus
from websockets.sync.client import unix_connect

from conftest import Server, wait_for
from gunicorn_handover import logs
from simulation import process_restored

ACCESS = {
    *("time", "level", "logger", "request_id", "client", "method", "path", "status", "duration_ms", "bytes"),
    *("protocol", "user_agent", "pid"),
}

REPLACES_LOGGING = """
import logging.config
logging.config.dictConfig({
    "version": 1,
    "disable_existing_loggers": True,
    "handlers": {"own": {"class": "logging.StreamHandler", "formatter": "json"}},
    "formatters": {"json": {"format": '{"own": "%(name)s"}'}},
    "root": {"handlers": ["own"], "level": "INFO"},
    "loggers": {"uvicorn.access": {"handlers": ["own"], "level": "INFO"}},
})
"""

REFUSES = """
accepting = application
async def application(scope, receive, send):
    if scope.get("path") == "/refused":
        await receive()
        await send({"type": "websocket.close"})
    else:
        await accepting(scope, receive, send)
"""

# the trace is a header of the request
TRACES = """
untraced = application
async def application(scope, receive, send):
    if scope["type"] != "lifespan" and (trace := dict(scope["headers"]).get(b"trace")):
        scope["extensions"]["gunicorn_handover"]["trace_id"] = trace.decode()
    await untraced(scope, receive, send)
"""


# generating the examples may be slow
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.sampled_from(["client", "path", "status", "close_code", "duration_ms", "user_agent"]),
        st.one_of(
            st.text(),
            st.none(),
            st.booleans(),
            st.integers(),
            st.floats(allow_nan=False, allow_infinity=False),
            st.binary(),
            st.sampled_from(http.HTTPStatus),
        ),
    ),
    st.floats(0, 4e9),
)
def test_access_line_is_json_of_its_fields(fields: dict[str, Any], moment: float) -> None:
    formatter = logs.JsonFormatter()
    line = formatter.access(moment, fields)
    assert "\n" not in line
    assert line == formatter.line(logs._access_record(moment, fields))
    plain = {name: str(value) if isinstance(value, bytes) else value for name, value in fields.items()}
    found = json.loads(line)
    assert {name: found[name] for name in fields} == plain


@pytest.mark.parametrize("extra", [{}, {"trace_id": None}, {"trace_id": "4bf92f35"}])
def test_line_contains_trace_id(extra: dict[str, str | None]) -> None:
    line = json.loads(logs.JsonFormatter().format(logging.makeLogRecord({"msg": "hello", **extra})))
    assert {key: value for key, value in line.items() if key == "trace_id"} == {k: v for k, v in extra.items() if v}


def lines(server: Server) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.log.splitlines()]


def access(server: Server, path: str) -> dict[str, Any]:
    def find() -> dict[str, Any] | None:
        return next((line for line in lines(server) if line.get("path") == path), None)

    found: dict[str, Any] = wait_for(find)
    return found


@pytest.mark.parametrize("code", ["", REPLACES_LOGGING])
def test_every_line_is_json(server: Server, code: str) -> None:
    server.configure(forwarded_allow_ips="*")
    server.release("1", code)
    server.start()
    connection = server.connect()
    began = time.monotonic()
    connection.request(
        "GET",
        "/?token=secret",
        headers={
            "X-Request-ID": "abc-1",
            "X-Forwarded-For": "192.0.2.7",
            "User-Agent": 'a "quoted" \\ agent \xe9',
        },
    )
    connection.getresponse().read()
    line = access(server, "/")
    elapsed = time.monotonic() - began
    assert set(line) == ACCESS
    assert line["logger"] == "access"
    assert line["request_id"] == "abc-1"
    assert line["client"] == "192.0.2.7"
    assert (line["method"], line["status"], line["protocol"]) == ("GET", 200, "HTTP/1.1")
    assert line["bytes"] > 0
    assert 0 <= line["duration_ms"] <= elapsed * 1000
    assert line["user_agent"] == 'a "quoted" \\ agent \xe9'
    assert line["pid"] in server.pids()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    assert "secret" not in server.log

    connection.request("GET", "/fail", headers={"X-Request-ID": "x" * 129})
    assert connection.getresponse().status == 500
    line = access(server, "/fail")
    assert line["status"] == 500
    assert re.fullmatch("[0-9a-f]{32}", line["request_id"])
    error = next(entry for entry in lines(server) if "the handler broke" in entry.get("exception", ""))
    assert error["level"] == "error"
    assert error["request_id"] == line["request_id"]
    assert server.log.count('"path": "/fail"') == 1
    assert '"own": "uvicorn.access"' not in server.log
    assert server.reload().returncode == 0
    server.stop()
    assert all(isinstance(entry, dict) for entry in lines(server))


def test_lines_of_request_have_trace_id_that_application_sets(server: Server) -> None:
    server.release("1", after=TRACES)
    server.start()
    connection = server.connect()
    for path, trace in (("/", "t-1"), ("/fail", "t-2"), ("/readiness", None)):
        connection.request("GET", path, headers={"Trace": trace} if trace else {})
        connection.getresponse().read()
        assert access(server, path).get("trace_id") == trace
    with unix_connect(str(server.socket), "ws://localhost/chat", additional_headers={"Trace": "t-3"}):
        pass
    assert access(server, "/chat")["trace_id"] == "t-3"
    # also the server's own line about the exception
    (failed,) = [line for line in lines(server) if "the handler broke" in line.get("exception", "")]
    assert failed["trace_id"] == "t-2"


LOGS = """
import logging as _logging
_logging.getLogger("mine").setLevel("DEBUG")
quiet = application
async def application(scope, receive, send):
    if scope["type"] == "http":
        for name in ("mine", "library"):
            for level in ("debug", "info", "warning"):
                getattr(_logging.getLogger(name), level)("A message")
    await quiet(scope, receive, send)
"""


@pytest.mark.parametrize(
    ("loglevel", "mine"),
    [("debug", ["debug", "info", "warning"]), ("info", ["info", "warning"]), ("warning", ["warning"]), ("error", [])],
)
def test_application_without_handlers_decides_what_it_logs(server: Server, loglevel: str, mine: list[str]) -> None:
    """Its loggers' levels apply, and `loglevel`."""
    server.release("1", after=LOGS)
    server.configure(loglevel=loglevel, workers=1)
    server.start()
    server.connect().get("/?logs")
    server.stop()
    found = [(line["logger"], line["level"]) for line in lines(server) if line.get("message") == "A message"]
    assert sorted(found) == sorted(
        [("mine", level) for level in mine] + [("library", "warning")] * (loglevel != "error")
    )


def test_failed_boot_is_logged_as_json(server: Server) -> None:
    server.start()
    server.release("bad", "def broken(:")
    server.set_current("bad")
    server.reload()
    server.configure("raise ValueError('bad')")
    server.reload()
    assert any("SyntaxError" in line.get("exception", "") for line in lines(server))
    assert any("ValueError: bad" in line["message"] for line in lines(server) if "message" in line)


def test_websockets_and_disconnects_are_logged(server: Server) -> None:
    server.start()
    with unix_connect(str(server.socket), "ws://localhost/chat") as websocket:
        websocket.send("x")
        websocket.recv()
    line = access(server, "/chat")
    assert (line["protocol"], line["status"], line["close_code"]) == ("websocket", 101, 1000)
    connection = server.connect()
    connection.putrequest("POST", "/echo?began=echo")
    connection.putheader("Content-Length", "100")
    connection.endheaders(b"only this")
    server.wait_started("echo")
    connection.close()
    assert access(server, "/echo")["status"] == 499


@pytest.mark.versions
@pytest.mark.parametrize("implementation", ["websockets", "auto"])
@pytest.mark.parametrize("code", ["", REPLACES_LOGGING])
def test_lines_of_websockets_lack_their_query(server: Server, implementation: str, code: str) -> None:
    server.configure_websockets(implementation)
    server.release("1", code, after=REFUSES)
    server.start()
    for path in ("/chat", "/refused"):
        with contextlib.suppress(InvalidStatus), unix_connect(str(server.socket), f"ws://localhost{path}?token=secret"):
            pass
    # the line of each request when it ends, and Uvicorn's when it begins
    wait_for(lambda: all(f'"path": "{path}"' in server.log for path in ("/chat", "/refused")))
    assert all(f'WebSocket {path}\\"' in server.log for path in ("/chat", "/refused"))
    assert "secret" not in server.log


def test_text_format_escapes_control_characters(server: Server) -> None:
    server.configure(handover_log_format="text")
    server.start()
    connection = server.connect()
    connection.request("GET", "/%0Aforged%1b[31m")
    connection.getresponse().read()
    line = wait_for(lambda: next((line for line in server.log.splitlines() if "forged" in line), None))
    assert "GET /\\nforged\\x1b[31m HTTP/1.1 404" in line


def test_access_log_can_be_disabled_or_a_file(server: Server) -> None:
    path = server.root / "access.log"
    server.configure(accesslog=str(path))
    server.start()
    server.get("/")
    assert json.loads(wait_for(path.read_text))["path"] == "/"
    server.configure(accesslog=None)
    assert server.reload().returncode == 0
    server.get("/echo")
    assert server.stop() == 0  # a worker writes its pending lines before it exits
    assert "/echo" not in path.read_text() + server.log


def test_simultaneous_requests_have_one_line_each(server: Server) -> None:
    server.configure(keepalive=60)
    server.start()
    names = [f"together-{number}" for number in range(60)]
    connections = [server.connect() for _ in names]
    for connection in connections:
        connection.get()
    workers = server.pids()
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    for name, connection in zip(names, connections, strict=True):
        connection.request("GET", "/", headers={"X-Request-ID": name})
    assert server.process is not None
    server.process.send_signal(signal.SIGTERM)
    for pid in workers:
        os.kill(pid, signal.SIGCONT)
    for connection in connections:
        assert connection.getresponse().status == 200
        connection.close()
    assert server.stop() == 0
    found = [line["request_id"] for line in lines(server) if line["logger"] == "access"]
    assert sorted(name for name in found if name.startswith("together")) == sorted(names)


def test_log_file_that_cannot_be_reopened_stays_open(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    cfg = gunicorn.config.Config()
    cfg.set("errorlog", str(folder / "error.log"))
    with process_restored():
        logger = logs.HandoverLogger(cfg)
        folder.rename(tmp_path / "old")
        logger.reopen_files()
        logger.error("still here")
        text = (tmp_path / "old/error.log").read_text()
        assert "The log files can't be reopened: " in text
        assert "still here" in text
        folder.mkdir()
        logger.reopen_files()
        logger.error("elsewhere")
        assert "elsewhere" in (folder / "error.log").read_text()
