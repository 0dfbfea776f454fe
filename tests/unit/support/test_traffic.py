"""The load generator that other tests rely on: a run without a valid result fails its test."""

from __future__ import annotations

import http.server
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

from tests.support.traffic import Background, Generator, Load, TrafficError


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = b"release 1" if self.path == "/" else b"release 2"
        self.send_response(500 if self.path == "/fail" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(201 if self.headers["Content-Type"] == "application/json" else 415)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    """The address of a web server."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()


def test_traffic_of_the_whole_block_is_counted(server: str) -> None:
    with Background(server, [Load("get", expect="release 1")], rate=100, fewest=20) as traffic:
        pass
    assert traffic.summary.failed == {}
    assert traffic.summary.ok == traffic.summary.sent >= 20


def test_traffic_that_ends_before_the_block_is_an_error(server: str) -> None:
    with (
        pytest.raises(TrafficError, match=r"ended by itself after .* give a longer duration"),
        Background(server, [Load("get")], rate=100, fewest=1, duration=0.1) as traffic,
    ):
        os.waitid(os.P_PID, traffic._generator._process.pid, os.WEXITED | os.WNOWAIT)


def test_too_few_requests_are_an_error(server: str) -> None:
    generator = Generator(server, ["get"], rate=10, duration=3600)
    generator.stop()
    with pytest.raises(TrafficError, match=r"sent \d+ requests, and at least 1000000 were due"):
        generator.summary(1_000_000)


def test_block_has_requests_of_all_kinds_before_it_and_answers_after_it(server: str) -> None:
    loads = [Load("get", share=5), Load("fresh", wait=0.1)]
    with Background(server, loads, rate=100, fewest=1) as traffic:
        before = traffic._generator.so_far()
    assert before["rounds"] >= 1
    assert before["answered"] >= 10
    # some of these may have been sent before the block ended
    assert traffic.summary.ok >= before["answered"] + 10
    assert {kind: counts["sent"] > 0 for kind, counts in traffic.summary.by_kind.items()} == {
        "get": True,
        "fresh": True,
    }


def test_killed_generator_is_an_error(server: str) -> None:
    with (
        pytest.raises(TrafficError, match="exit status -9 and no summary"),
        Background(server, [Load("get")], rate=10, fewest=1) as traffic,
    ):
        os.kill(traffic._generator._process.pid, signal.SIGKILL)


def test_generator_that_fails_to_start_is_reported_immediately(server: str) -> None:
    with (
        pytest.raises(TrafficError, match="didn't start"),
        Background(server, [Load("no such kind")], rate=10, fewest=1),
    ):
        pass


def test_exception_of_the_block_takes_precedence(server: str) -> None:
    with pytest.raises(ZeroDivisionError), Background(server, [Load("get")], rate=10, fewest=10**6):
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("path", "cause"), [("/other", "wrong body"), ("/fail", "HTTP 500")], ids=["another body", "an error"]
)
@pytest.mark.parametrize("kind", ["get", "fresh", "idle"])
def test_unexpected_answer_is_a_failure(server: str, kind: str, path: str, cause: str) -> None:
    with Background(server, [Load(kind, path, expect="release 1")], rate=50, fewest=5) as traffic:
        pass
    assert set(traffic.summary.failed) == {cause}
    assert traffic.summary.ok == 0


def test_json_is_sent_as_such(server: str) -> None:
    load = Load("post", json='{"url":"https://example.com/?a=b"}', expect='"https://example.com/?a=b"')
    with Background(server, [load], rate=50, fewest=5) as traffic:
        pass
    assert not traffic.summary.failed


@pytest.fixture
def feed() -> Iterator[str]:
    """The address of a WebSocket server that sends messages, and closes the connections to /cut."""

    def send(connection: ServerConnection) -> None:
        assert connection.request is not None
        try:
            while connection.request.path != "/cut":
                connection.send("a click")
                time.sleep(0.01)
        except ConnectionClosed:
            pass

    with serve(send, "127.0.0.1", 0) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.socket.getsockname()[1]}"
        serving.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("path", "expect", "failed"),
    [("/", "click", set()), ("/", "tick", {"wrong body"}), ("/cut", "click", {"close 1000"})],
    ids=["messages", "other messages", "closed by the server"],
)
def test_feed_receives_until_it_closes(feed: str, path: str, expect: str, failed: set[str]) -> None:
    with Background(feed, [Load("feed", path, wait=0.2, expect=expect)], rate=20, fewest=5) as traffic:
        pass
    assert set(traffic.summary.failed) == failed
    assert not traffic.summary.max  # its duration is no latency


@pytest.mark.parametrize(
    "load",
    [
        Load("post", "/echo?a=b", share=0.5, size=20_000, wait=1.5, expect="20000"),
        Load("h2post", "/links", json='{"url":"https://example.com/?a=b"}'),
    ],
    ids=["size", "JSON"],
)
def test_load_round_trips_through_text(load: Load) -> None:
    assert Load.parse(str(load)) == load
