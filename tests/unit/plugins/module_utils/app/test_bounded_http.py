"""Requests to a page are bounded in time and size, whatever answers."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import pathlib
import socket
import tempfile
import threading
from collections.abc import Iterable, Iterator

import pytest
from ansible_collections.baton.web.plugins.module_utils.app import bounded_http, health_check
from hypothesis import given
from hypothesis import strategies as st

OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
PATIENCE = 60.0  # seconds after which a test fails; no test takes that long


@contextlib.contextmanager
def serve(parts: Iterable[bytes], pause: float = 0.0) -> Iterator[health_check.Health]:
    """A server that sends these parts to its client, one after another, until the client is gone."""
    stop = threading.Event()

    def respond() -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(PATIENCE)
                connection.recv(65536)
                for part in parts:
                    connection.sendall(part)
                    if stop.wait(pause):
                        return

    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        path = str(pathlib.Path(folder, "socket"))
        listener.bind(path)
        listener.listen()
        thread = threading.Thread(target=respond)
        thread.start()
        try:
            yield health_check.Health("/readyz", path, "links", timeout=PATIENCE if pause == 0 else 0.3)
        finally:
            stop.set()
            thread.join()


ENDLESS = {
    "status line": itertools.repeat(b"HTTP"),
    "headers": itertools.chain([OK], itertools.repeat(b"X-Header: it goes on\r\n")),
    "interim answers": itertools.repeat(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "early hints": itertools.repeat(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"),
    "trailers": itertools.chain([OK, b"Transfer-Encoding: chunked\r\n\r\n0\r\n"], itertools.repeat(b"X: y\r\n" * 1000)),
    "a chunk of a negative size": itertools.chain(
        [OK, b"Transfer-Encoding: chunked\r\n\r\n-1\r\n"], itertools.repeat(b"x" * 65536)
    ),
    "a chunk's size": itertools.chain([OK, b"Transfer-Encoding: chunked\r\n\r\n"], itertools.repeat(b"1" * 65536)),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_endless_answer_is_no_answer(what: str) -> None:
    with serve(ENDLESS[what]) as page:
        problem = health_check.check(page)
    assert problem.startswith("does not respond: ")
    assert "timed out" not in problem  # the size limit ended it


TRICKLES = {
    "status line": [bytes([one]) for one in OK],
    "headers": itertools.chain([OK], itertools.repeat(b"x")),
    "body": itertools.chain([OK, b"\r\n"], itertools.repeat(b"x")),
    "body of a length": itertools.chain([OK, b"Content-Length: 1000\r\n\r\n"], itertools.repeat(b"x")),
    "trailers": itertools.chain([OK, b"Transfer-Encoding: chunked\r\n\r\n0\r\n"], itertools.repeat(b"X: y\r\n")),
}


@pytest.mark.parametrize("what", TRICKLES)
def test_trickling_answer_shares_one_timeout(what: str) -> None:
    with serve(TRICKLES[what], pause=0.05) as page:
        assert health_check.check(page) == "does not respond: timed out"


def test_endless_body_is_read_only_as_far_as_shown() -> None:
    with serve(itertools.chain([OK, b"\r\n"], itertools.repeat(b"x" * 65536))) as page:
        assert health_check.check(page) == ""
    failing = b"HTTP/1.1 500 Internal Server Error\r\nTransfer-Encoding: chunked\r\n\r\n"
    with serve(itertools.chain([failing], itertools.repeat(b"10\r\n0123456789abcdef\r\n"))) as page:
        assert health_check.check(page) == f"answers 500: {('0123456789abcdef' * 19)[:300]}"


def test_shown_answer_is_cut_and_free_of_control_characters() -> None:
    with serve([b"HTTP/1.1 500 \x1b[2J\r\n\r\n\x1b]0;title\x07\xff\x00"]) as page:
        assert health_check.check(page) == "answers 500: \\x1b]0;title\\x07\N{REPLACEMENT CHARACTER}\\x00"
    with serve([b"\x1b[2J" * 10000 + b"\r\n\r\n"]) as page:
        problem = health_check.check(page)
        assert problem.startswith("does not respond: ")
        assert len(problem) < 1000
        assert "\x1b" not in problem


@pytest.mark.parametrize("location", ["file:///etc/passwd", "http://169.254.169.254/latest", "/readyz"])
def test_redirect_is_an_answer_and_is_not_followed(location: str) -> None:
    with serve([f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()]) as page:
        assert health_check.check(page) == ""


LINES = st.sampled_from(
    [
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 500 No",
        b"HTTP/1.1 100 Continue",
        b"HTTP/9.9 -1 x",
        b"HTTP/1.1 999999999999999999999 x",
        b"Transfer-Encoding: chunked",
        b"Content-Length: 5",
        b"Content-Length: -5",
        b"Content-Length: 99999999999999999999",
        b"Retry-After: 9999999999999",
        b"Retry-After: Fri, 99 Foo 99999 99:99:99 GMT",
        b"Connection: keep-alive",
        b"-5",
        b"-1",
        b"0",
        b"fffffffffffffffffffffffff",
        b"5;x=y",
        b"",
    ]
) | st.binary(max_size=30)


@given(st.lists(LINES, max_size=12))
def test_any_answer_is_read_or_rejected(lines: list[bytes]) -> None:
    client, server = socket.socketpair()
    with client, server:
        server.sendall(b"\r\n".join([b"HTTP/1.1 429 Too Many Requests", *lines]))
        server.shutdown(socket.SHUT_WR)
        connection = http.client.HTTPConnection("links", timeout=PATIENCE)
        connection.sock = client
        with contextlib.suppress(bounded_http.NoAnswerError):
            answer = bounded_http.get(connection, "/", {}, PATIENCE)
            assert answer.status == 429
            assert len(answer.body) <= bounded_http.SHOWN * 10
            assert 0 <= answer.retry_after <= 86400
