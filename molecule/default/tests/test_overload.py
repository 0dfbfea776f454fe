"""Overload: more requests than the workers take, and more connections than one client may have."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shlex
import socket
import ssl
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.support import curl, nginx
from tests.support.wait import PATIENCE, until

from .conftest import APP_SERVERS, NAME, PORT, Edge, other, status

pytestmark = pytest.mark.hosts("edge1")

WORKER_REQUESTS, CONNECTIONS = 10, 150  # the inventory's settings
HELD = "/api/events?count=3600"  # responds immediately, and occupies its slot until its client disconnects
LONG = "BATON_TEST_LONG" in os.environ
READERS = 500 if LONG else CONNECTIONS + 30
UPGRADE = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
# requests that resemble a WebSocket handshake
FORGED = [
    ("GET", UPGRADE),
    ("GET", f"{UPGRADE}Sec-WebSocket-Key: none\r\n"),
    ("GET", "Upgrade: websocket\r\n" + KEY),
    ("GET", f"Upgrade: websocket 13 {KEY.split()[1]} upgrade,\r\nConnection: Upgrade\r\n"),
    ("POST", UPGRADE + KEY + "Content-Length: 0\r\n"),
]
# on another host: prints the statuses of the edge's responses, each on a new connection
ASK = """
import http.client, socket, ssl, sys
context = ssl._create_unverified_context()
address, name, *paths = sys.argv[1:]
for path in paths:
    connection = http.client.HTTPConnection(name)
    connection.sock = context.wrap_socket(socket.create_connection((address, 443), 600), server_hostname=name)
    connection.request("GET", path)
    print(connection.getresponse().status)
    connection.close()
"""


# on another host: opens connections as fast as it can; prints how many are open after some time, and the time
OPEN = """
import contextlib, socket, sys, time
address, count, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
began, opened = time.monotonic(), []
for _ in range(count):
    opened.append(socket.socket())
    opened[-1].setblocking(False)
    with contextlib.suppress(BlockingIOError):
        opened[-1].connect((address, 443))
time.sleep(max(0, seconds - (time.monotonic() - began)))
established = 0
for one in opened:
    with contextlib.suppress(OSError):
        one.getpeername()
        established += 1
print(established, time.monotonic() - began)
"""
CONNECTION_RATE, CLIENT_CONNECTIONS = 200, 1000  # the default, twice as many at once; the inventory's setting


class Answer(NamedTuple):
    """The head of a response."""

    status: int
    header: str


def workers(name: str) -> list[int]:
    """The pids of the workers of an app server."""
    return sorted(worker["pid"] for worker in status(name)["workers"])


@pytest.fixture(autouse=True)
def _crowd_has_gone(host: Any) -> Iterator[None]:
    """Waits until nginx has closed the crowd's connections, as the next test's come from the same address."""
    before = nginx.sockets(host)
    yield
    # it keeps some connections to the app servers
    until(lambda: nginx.sockets(host) < before + CONNECTIONS // 3, "connections of the crowd are left")


class Crowd:
    """Clients with a connection each, which send their requests at the same time."""

    def __init__(self, trust: ssl.SSLContext) -> None:
        self._trust = trust
        self._open: list[asyncio.StreamWriter] = []

    async def connect(
        self, count: int, window: int | None = None
    ) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Open `count` connections; `window` limits the bytes that the kernel and each reader buffer."""
        opened = []
        for _ in range(count):
            plain = socket.socket()
            if window:
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
            plain.setblocking(False)
            await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", PORT))
            pair = await asyncio.open_connection(
                sock=plain, ssl=self._trust, server_hostname=NAME, limit=window or 2**16
            )
            opened.append(pair)
            self._open.append(pair[1])
        return opened

    async def ask(
        self,
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        path: str,
        headers: str = "",
        method: str = "GET",
    ) -> Answer:
        """Send a request and wait for the response's head."""
        reader, writer = connection
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: {NAME}\r\n{headers}\r\n".encode())
        head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)).decode()
        return Answer(int(head.split()[1]), head.lower())

    def leave(self) -> None:
        """Close all connections."""
        for writer in self._open:
            writer.transport.abort()


def test_surplus_requests_are_refused_immediately(host: Any, edge: Edge, trust: ssl.SSLContext) -> None:
    before = {name: workers(name) for name in APP_SERVERS}
    places = WORKER_REQUESTS * sum(map(len, before.values()))
    surplus = 20
    assert places + surplus < CONNECTIONS

    async def overload() -> tuple[list[Answer], list[bool], list[Answer], Any]:
        crowd = Crowd(trust)
        try:
            clients = await crowd.connect(places + surplus)
            (checker,) = await crowd.connect(1)
            answers = await asyncio.gather(*(crowd.ask(client, HELD) for client in clients))
            # all slots are taken now, and no request was queued; a deploy reloads in the same way
            held = [
                not reader.at_eof()
                for (reader, _), answer in zip(clients, answers, strict=True)
                if answer.status == 200
            ]
            reload = asyncio.create_task(asyncio.to_thread(other(APP_SERVERS[0]).run, "systemctl reload links"))
            health = [await crowd.ask(checker, "/readyz") for _ in range(5)]
            return answers, held, health, await reload
        finally:
            crowd.leave()

    answers, held, health, reload = asyncio.run(overload())
    assert Counter(answer.status for answer in answers) == {200: places, 503: surplus}
    turned_away = [answer for answer in answers if answer.status == 503]
    assert all("\r\nretry-after: 1\r\n" in answer.header for answer in turned_away)
    assert held == [True] * places
    assert [answer.status for answer in health] == [200] * 5
    assert reload.rc == 0, reload.stderr
    # no worker was killed or replaced
    assert workers(APP_SERVERS[1]) == before[APP_SERVERS[1]]
    # as soon as the crowd's slots are free
    until(lambda: edge("/api/slow?seconds=0").status_code == 200, "there is no free slot")
    ids = [re.findall(r"\r\nx-request-id: (\S+)", answer.header)[0] for answer in turned_away]
    logged = nginx.logged(host, "links", ids).values()
    assert {(line["status"], line["upstream"]) for line in logged} == {(503, "links")}


def test_connection_limit_of_one_client_does_not_affect_others(host: Any, trust: ssl.SSLContext) -> None:
    address = host.ansible.get_variables()["fleet_address"]

    async def crowd_of_one() -> tuple[list[Answer], str]:
        crowd = Crowd(trust)
        try:
            clients = await crowd.connect(CONNECTIONS + 30)
            answers = [await crowd.ask(client, "/api/echo", UPGRADE + KEY) for client in clients]
            ask = f"python3 -c {shlex.quote(ASK)} {address} {NAME} '/api/slow?seconds=0'"
            seen = await asyncio.to_thread(other("data1").check_output, ask)
            return answers, seen
        finally:
            crowd.leave()

    answers, seen = asyncio.run(crowd_of_one())
    assert Counter(answer.status for answer in answers) == {101: CONNECTIONS, 429: 30}
    assert all("\r\nretry-after: 1\r\n" in answer.header for answer in answers if answer.status == 429)
    assert seen == "200"


def test_incomplete_handshake_is_an_ordinary_request(trust: ssl.SSLContext) -> None:
    async def ask() -> list[int]:
        crowd = Crowd(trust)
        try:
            requests = [*FORGED, ("GET", UPGRADE + KEY)]
            clients = await crowd.connect(len(requests))
            return [
                (await crowd.ask(client, "/api/echo", headers, method)).status
                for client, (method, headers) in zip(clients, requests, strict=True)
            ]
        finally:
            crowd.leave()

    # the application has only a WebSocket at this path
    assert asyncio.run(ask()) == [404] * len(FORGED) + [101]


def test_clients_that_do_not_read_do_not_affect_others(host: Any, edge: Edge, trust: ssl.SSLContext) -> None:
    address = host.ansible.get_variables()["fleet_address"]
    # log lines of responses that were read completely: 4 MiB or more, as HTTP/1.1 adds the sizes of chunks
    whole = '"path":"/api/large","status":200,"bytes":4(19[4-9]|[2-9][0-9]{2})[0-9]{3},'
    count = f"grep -cE {shlex.quote(whole)} /var/log/nginx/links-access.log || test $? = 1"
    at_first = int(host.check_output(count))
    # proves that such a line is found
    edge("/api/large?megabytes=4")
    until(lambda: int(host.check_output(count)) == at_first + 1, "no complete response is logged")
    before = host.check_output(count)

    async def patient(crowd: Crowd, client: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> Answer:
        # a reader's slot is free again once the edge has the complete response, which takes time on a busy machine
        while (answer := await crowd.ask(client, "/api/large?megabytes=4")).status == 503:
            await client[0].readuntil(b"</html>\r\n")
        return answer

    async def readers() -> tuple[list[Answer], str, str]:
        crowd = Crowd(trust)
        try:
            # one after another, as nginx closes a connection that sends no request
            answers = [await patient(crowd, *await crowd.connect(1, window=4096)) for _ in range(READERS)]
            paths = " ".join(["/readyz", "'/api/slow?seconds=0'"] * 25)
            ask = f"python3 -c {shlex.quote(ASK)} {address} {NAME} {paths}"
            seen = await asyncio.to_thread(other("app1").check_output, ask)
            return answers, seen, await asyncio.to_thread(host.check_output, count)
        finally:
            crowd.leave()

    answers, seen, after = asyncio.run(readers())
    statuses = [answer.status for answer in answers]
    # later ones succeed once the first have been disconnected for not reading
    assert statuses[:CONNECTIONS] == [200] * CONNECTIONS
    assert set(statuses[CONNECTIONS:]) <= {200, 429}
    assert after == before
    assert seen.split() == ["200"] * 50


def test_rate_limit_applies_to_ipv6_network(host: Any) -> None:
    # data1 is a trusted proxy, so it names the clients; random ones in each run; 0a is the byte of a newline
    site = f"2001:db8:{secrets.randbelow(0xFFFF):x}"
    same = [f"{site}:a::1", f"{site}:a::2", f"{site}:a:a0a::3", f"{site}:a:ffff:ffff:ffff:ffff"]
    others = [f"{site}:a0a::1", f"{site}:b::1", "198.51.100.10", "198.51.100.11"]
    address = host.ansible.get_variables()["fleet_address"]
    ask = f"curl -sSk -o /dev/null -w '%{{http_code}}:%header{{retry-after}} ' --resolve {NAME}:443:{address} https://{NAME}/api/limited"
    curl.install(other("data1"))
    output = other("data1").check_output("; ".join(f"{ask} -H 'X-Forwarded-For: {one}'" for one in [*same, *others]))
    # one per minute, with a burst of two
    assert output.split() == ["404:", "404:", "404:", "429:60", *["404:"] * len(others)]


def test_firewall_drops_connections_above_the_limits_of_one_address(host: Any) -> None:
    address = host.ansible.get_variables()["fleet_address"]

    def opened(name: str, count: int, seconds: float) -> tuple[int, float]:
        """How many connections a host has opened after these seconds, and how long it really took."""
        run = f"ulimit -n 4096; python3 -Ic {shlex.quote(OPEN)} {address} {count} {seconds}"
        established, took = other(name).check_output(run).split()
        return int(established), float(took)

    # the kernel sends a dropped SYN again after 1, 3 and 7 s
    count, seconds = opened("app1", 1000, 0.9)
    assert 0 < count <= CONNECTION_RATE * (2 + seconds) + 1
    count, seconds = opened("app1", 1500, 8)
    assert CLIENT_CONNECTIONS - 100 <= count <= CLIENT_CONNECTIONS < CONNECTION_RATE * (2 + seconds)
    # other addresses have limits of their own; data1 is a trusted proxy, and has none
    until(lambda: opened("app2", 50, 0.9)[0] == 50, "app2 can't connect")
    until(lambda: opened("data1", 1000, 0.9)[0] == 1000, "data1 is limited")
    until(lambda: opened("app1", 50, 0.9)[0] == 50, "app1 still can't connect")
