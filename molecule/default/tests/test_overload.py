"""More requests than the application serves, and more connections than one client should have."""

from __future__ import annotations

import asyncio
import re
import secrets
import shlex
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
# on another host: the status of an answer of the edge
ASK = """
import http.client, socket, ssl, sys
context = ssl._create_unverified_context()
connection = http.client.HTTPConnection(sys.argv[2])
connection.sock = context.wrap_socket(socket.create_connection((sys.argv[1], 443), 600), server_hostname=sys.argv[2])
connection.request("GET", "/api/slow?seconds=0")
print(connection.getresponse().status)
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

    async def connect(self, count: int) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Open so many connections."""
        opened = []
        for _ in range(count):
            pair = await asyncio.open_connection("127.0.0.1", PORT, ssl=self._trust, server_hostname=NAME)
            opened.append(pair)
            self._open.append(pair[1])
        return opened

    async def ask(
        self, connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], path: str, headers: str = ""
    ) -> Answer:
        """Send a request and wait for the head of the answer."""
        reader, writer = connection
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {NAME}\r\n{headers}\r\n".encode())
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
            # all places are taken now, and nobody has waited for one; a reload is what a deploy does
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
    upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    upgrade += "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    address = host.ansible.get_variables()["fleet_address"]

    async def crowd_of_one() -> tuple[list[Answer], str]:
        crowd = Crowd(trust)
        try:
            clients = await crowd.connect(CONNECTIONS + 30)
            answers = [await crowd.ask(client, "/api/echo", upgrade) for client in clients]
            ask = f"python3 -c {shlex.quote(ASK)} {address} {NAME}"
            seen = await asyncio.to_thread(other("data1").check_output, ask)
            return answers, seen
        finally:
            crowd.leave()

    answers, seen = asyncio.run(crowd_of_one())
    assert Counter(answer.status for answer in answers) == {101: CONNECTIONS, 429: 30}
    assert all("\r\nretry-after: 1\r\n" in answer.header for answer in answers if answer.status == 429)
    assert seen == "200"


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
