"""Malformed requests: those that the edge refuses, and what reaches the application of those that nginx corrects."""

from __future__ import annotations

import json
import re
import socket
import ssl
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.support.wait import PATIENCE

from .conftest import INVENTORY, NAME, PORT, Edge

pytestmark = pytest.mark.hosts("edge1")

HTTP = 18080
Ask = Callable[[bytes], bytes]
# a request whose answer ends the connection
TAIL = b"\r\nConnection: close\r\n\r\n"


@pytest.fixture(params=["HTTPS", "HTTP"])
def ask(request: pytest.FixtureRequest, trust: ssl.SSLContext) -> Ask:
    """Sends bytes on a new connection; returns all that the edge answers."""

    def send(text: bytes) -> bytes:
        plain = socket.create_connection(("127.0.0.1", PORT if request.param == "HTTPS" else HTTP), PATIENCE)
        with trust.wrap_socket(plain, server_hostname=NAME) if request.param == "HTTPS" else plain as connection:
            connection.sendall(text)
            answer = b""
            while block := connection.recv(65536):
                answer += block
        return answer

    return send


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"^HTTP/1\.1 (\d{3}) ", answer, re.MULTILINE)]


@pytest.mark.parametrize(
    "port",
    [":text", ":443text", ":443@other.example", ":443#", ":443:443", ": 443", ":-1", ":+443", ":999999", ":443,other"],
)
def test_host_with_something_else_than_a_port_is_refused(ask: Ask, port: str) -> None:
    assert statuses(ask(f"GET /healthz HTTP/1.1\r\nHost: {NAME}{port}".encode() + TAIL)) == [400]


@pytest.mark.parametrize("port", ["", ":", ":443", f":{PORT}"])
def test_host_with_a_port_is_accepted(ask: Ask, port: str) -> None:
    assert statuses(ask(f"GET /healthz HTTP/1.1\r\nHost: {NAME}{port}".encode() + TAIL)) in ([200], [308])


def test_host_with_text_as_port_is_refused_over_http2() -> None:
    # a context of its own: httpx sets its protocols, and the other tests would get HTTP/2
    own = ssl.create_default_context(cafile=str(INVENTORY / "tls/ca.pem"))
    with httpx.Client(base_url=f"https://127.0.0.1:{PORT}", verify=own, http2=True, timeout=PATIENCE) as client:
        answer = client.get("/healthz", headers={"Host": f"{NAME}:text"}, extensions={"sni_hostname": NAME})
    assert (answer.status_code, answer.http_version) == (400, "HTTP/2")


@pytest.mark.parametrize(
    ("fields", "size", "status"), [(80, 1, 200), (100, 1, 431), (1, 17_000, 400), (9, 8000, 400)], ids=str
)
def test_number_and_size_of_header_fields_are_limited(edge: Edge, fields: int, size: int, status: int) -> None:
    headers = {f"X-Field-{number}": "x" * size for number in range(fields)}
    assert edge("/healthz", headers=headers).status_code == status


# nginx has no setting to refuse these
@pytest.mark.parametrize(
    "text",
    [
        b"GET /api/whoami HTTP/1.1\nHost: %b\nUser-Agent: 1\nConnection: close\n\n",
        b"GET /api/whoami HTTP/1.1\r\nHost: %b\r\nUser-Agent: 1\r\nX_Forwarded_User: 2\r\nX.A: 3"
        b"\r\nConnection: close\r\n\r\n",
        b"\r\nGET /api/whoami HTTP/1.1\r\nHost: %b\r\nUser-Agent:1 \r\nConnection: close\r\n\r\n",
        b"GET /api/whoami HTTP/1.1\r\nHost: %b\r\nUser-Agent: 1\r\nConnection: close"
        b"\r\nTransfer-Encoding: chunked\r\n\r\n1;a=b\r\nx\r\n0\r\nUser-Agent: 4\r\n\r\n",
    ],
    ids=["lines end with LF", "names with other characters", "blank line", "chunk extension and trailer"],
)
def test_application_gets_one_correct_request_for_each_that_nginx_corrects(trust: ssl.SSLContext, text: bytes) -> None:
    answer = b""
    with (
        socket.create_connection(("127.0.0.1", PORT), PATIENCE) as plain,
        trust.wrap_socket(plain, server_hostname=NAME) as connection,
    ):
        connection.sendall(text % NAME.encode())
        while block := connection.recv(65536):
            answer += block
    assert statuses(answer) == [200]
    body = answer.partition(b"\r\n\r\n")[2]
    seen: dict[str, Any] = json.loads(body[body.index(b"{") : body.rindex(b"}") + 1])
    assert seen["headers"]["user-agent"] == ["1"]
    assert "x_forwarded_user" not in seen["headers"]
