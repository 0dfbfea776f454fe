"""More requests than the application serves, and more connections than one client should have."""

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

WORKER_REQUESTS, CONNECTIONS = 10, 150  # as the inventory says
HELD = "/api/events?count=3600"  # answers at once, and takes its place as long as its client stays
LONG = "BATON_TEST_LONG" in os.environ
READERS = 500 if LONG else CONNECTIONS + 30
UPGRADE = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
# requests that look like the handshake of a WebSocket
FORGED = [
    ("GET", UPGRADE),
    ("GET", f"{UPGRADE}Sec-WebSocket-Key: none\r\n"),
    ("GET", "Upgrade: websocket\r\n" + KEY),
    ("GET", f"Upgrade: websocket 13 {KEY.split()[1]} upgrade,\r\nConnection: Upgrade\r\n"),
    ("POST", UPGRADE + KEY + "Content-Length: 0\r\n"),
]
# on another host: the statuses of answers of the edge, each on a connection of its own
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


class Answer(NamedTuple):
    """What a client got."""

    status: int
    header: str


def workers(name: str) -> list[int]:
    """The pids of the workers of an app server."""
    return sorted(worker["pid"] for worker in status(name)["workers"])


@pytest.fixture(autouse=True)
def _crowd_has_gone(host: Any) -> Iterator[None]:
    """Ends when nginx has let the crowd's connections go: the next test's come from the same address."""
    before = nginx.sockets(host)
    yield
    # with some that it keeps to the app servers
    until(lambda: nginx.sockets(host) < before + CONNECTIONS // 3, "connections of the crowd are left")


class Crowd:
    """Clients that each have a connection, and send their requests together."""

    def __init__(self, trust: ssl.SSLContext) -> None:
        self._trust = trust
        self._open: list[asyncio.StreamWriter] = []

    async def connect(
        self, count: int, window: int | None = None
    ) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Open so many connections; `window` are the bytes that the kernel and each reader take ahead."""
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
        """Send a request and wait for the head of the answer."""
        reader, writer = connection
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: {NAME}\r\n{headers}\r\n".encode())
        head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)).decode()
        return Answer(int(head.split()[1]), head.lower())

    def leave(self) -> None:
        """Close all connections."""
        for writer in self._open:
            writer.transport.abort()


def test_what_is_more_than_the_workers_take_is_turned_away_at_once(
    host: Any, edge: Edge, trust: ssl.SSLContext
) -> None:
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
            # all places are taken now, and no request was queued; a deploy reloads in the same way
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
    # nobody died of it, and all is as before
    assert workers(APP_SERVERS[1]) == before[APP_SERVERS[1]]
    # as soon as the crowd's places are free
    until(lambda: edge("/api/slow?seconds=0").status_code == 200, "there is no place")
    ids = [re.findall(r"\r\nx-request-id: (\S+)", answer.header)[0] for answer in turned_away]
    logged = nginx.logged(host, "links", ids).values()
    assert {(line["status"], line["upstream"]) for line in logged} == {(503, "links")}


def test_one_client_s_connections_leave_room_for_strangers(host: Any, trust: ssl.SSLContext) -> None:
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


def test_what_only_looks_like_a_handshake_is_an_ordinary_request(trust: ssl.SSLContext) -> None:
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

    # the application has a WebSocket there and no page
    assert asyncio.run(ask()) == [404] * len(FORGED) + [101]


def test_clients_that_do_not_read_leave_room_for_strangers(host: Any, trust: ssl.SSLContext) -> None:
    address = host.ansible.get_variables()["fleet_address"]
    # lines of answers that were read whole
    whole = f'"path":"/api/large","status":200,"bytes":{4 * 2**20}'
    count = f"grep -cF {shlex.quote(whole)} /var/log/nginx/links-access.log || true"
    before = host.check_output(count)

    async def patient(crowd: Crowd, client: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> Answer:
        # the place of a reader is free again when the edge has all of the answer; on a busy machine that isn't at once
        while (answer := await crowd.ask(client, "/api/large?megabytes=4")).status == 503:
            await client[0].readuntil(b"</html>\r\n")
        return answer

    async def readers() -> tuple[list[Answer], str, str]:
        crowd = Crowd(trust)
        try:
            # one after another, as nginx ends a connection that sends no request
            answers = [await patient(crowd, *await crowd.connect(1, window=4096)) for _ in range(READERS)]
            paths = " ".join(["/readyz", "'/api/slow?seconds=0'"] * 25)
            ask = f"python3 -c {shlex.quote(ASK)} {address} {NAME} {paths}"
            seen = await asyncio.to_thread(other("app1").check_output, ask)
            return answers, seen, await asyncio.to_thread(host.check_output, count)
        finally:
            crowd.leave()

    answers, seen, after = asyncio.run(readers())
    statuses = [answer.status for answer in answers]
    # those that come when the first have been cut off, as they didn't read for long, find a place
    assert statuses[:CONNECTIONS] == [200] * CONNECTIONS
    assert set(statuses[CONNECTIONS:]) <= {200, 429}
    assert after == before
    assert seen.split() == ["200"] * 50


def test_a_client_is_limited_by_its_network_and_not_by_what_addresses_it_takes_there(host: Any) -> None:
    # data1 is a trusted proxy, so it says who the clients are; others each time, 0a is the byte of a line's end
    site = f"2001:db8:{secrets.randbelow(0xFFFF):x}"
    same = [f"{site}:a::1", f"{site}:a::2", f"{site}:a:a0a::3", f"{site}:a:ffff:ffff:ffff:ffff"]
    others = [f"{site}:a0a::1", f"{site}:b::1", "198.51.100.10", "198.51.100.11"]
    address = host.ansible.get_variables()["fleet_address"]
    ask = f"curl -sSk -o /dev/null -w '%{{http_code}}:%header{{retry-after}} ' --resolve {NAME}:443:{address} https://{NAME}/api/limited"
    curl.install(other("data1"))
    said = other("data1").check_output("; ".join(f"{ask} -H 'X-Forwarded-For: {one}'" for one in [*same, *others]))
    # one a minute, and two ahead
    assert said.split() == ["404:", "404:", "404:", "429:60", *["404:"] * len(others)]
