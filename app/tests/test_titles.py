"""The titles of pages: calls to a third party that is slow, broken or malicious."""

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from httpx import AsyncClient, Response

from links import titles
from links.settings import Settings
from links.titles import is_public
from tests.conftest import running

PAGE = b"<html><head><title lang=en>\n A &amp; B </title></head>"


class Site:
    """A third party's server: it sends `answers` one by one, then repeats the last; None makes it hang."""

    def __init__(self) -> None:
        self.answers: list[bytes | None] = []
        self.asked = 0
        self.waiting = asyncio.Event()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        answer = self.answers[min(self.asked, len(self.answers)) - 1]
        if answer is None:
            self.waiting.set()
            await reader.read()
        else:
            writer.write(answer)
        writer.close()


def page(body: bytes, status: str = "200 OK", kind: str = "text/html; charset=utf-8", more: str = "") -> bytes:
    """Return an HTTP response."""
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{more}\r\n"
    )
    return head.encode() + body


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    """Run the server."""
    site = Site()
    server = await asyncio.start_server(site.serve, "127.0.0.1", 0)
    site.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    yield site
    server.close()


Ask = Callable[..., Awaitable[Response]]


@pytest.fixture
async def ask(with_redis: Settings) -> AsyncIterator[Ask]:
    """Yield a function that requests the title of an address from one of the workers."""
    async with AsyncExitStack() as stack:
        clients: dict[int, AsyncClient] = {}

        async def asking(url: str, worker: int = 0, **changed: object) -> Response:
            settings = with_redis.model_copy(
                update={"title_networks": [ipaddress.ip_network("127.0.0.1")], "title_timeout": 0.5, **changed}
            )
            if worker not in clients:
                clients[worker] = await stack.enter_async_context(running(settings))
            created = await clients[worker].post("/api/links", json={"url": url})
            return await clients[worker].get(f"/api/links/{created.json()['slug']}/title")

        yield asking


async def test_title_is_fetched_once_for_all_workers(site: Site, ask: Ask) -> None:
    site.answers = [page(PAGE)]
    assert [(await ask(site.url, worker)).json() for worker in (0, 0, 1)] == [{"title": "A & B"}] * 3
    assert site.asked == 1


@pytest.mark.parametrize(
    "answer",
    [
        page(b"no title"),
        page(b"<title> </title>"),
        page(PAGE, kind="image/png"),
        page(PAGE, "404 Not Found"),
        page(b"x" * 300_000 + PAGE),
    ],
    ids=["none", "empty", "image", "missing", "late"],
)
async def test_page_without_title_returns_null(site: Site, ask: Ask, answer: bytes) -> None:
    site.answers = [answer]
    assert (await ask(site.url)).json() == {"title": None}


async def test_unknown_encoding_is_read_as_utf8(site: Site, ask: Ask) -> None:
    site.answers = [page(PAGE, kind="text/html; charset=nonsense")]
    assert (await ask(site.url)).json() == {"title": "A & B"}


async def test_temporary_failure_is_retried(site: Site, ask: Ask) -> None:
    site.answers = [page(b"", "503 Service Unavailable"), page(PAGE)]
    assert (await ask(site.url, title_timeout=20)).json() == {"title": "A & B"}
    assert site.asked == 2


async def test_breaker_opens_for_hanging_site(site: Site, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """The breaker opens, and other sites aren't affected."""
    monkeypatch.setattr(titles, "PAUSE", 3600)
    site.answers = [None]
    for _ in range(titles.FAILURES):
        answer = await ask(site.url)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
    assert site.asked == titles.FAILURES
    assert "has failed several times" in (await ask(site.url)).text
    assert site.asked == titles.FAILURES
    # another site is still requested
    assert "doesn't answer" in (await ask("http://127.0.0.1:1/")).text


async def test_hanging_site_does_not_affect_other_pages(with_redis: Settings) -> None:
    """More requests for titles than database connections: they hold none while they wait for the site."""
    fetches, asked, released = 2 * with_redis.database_pool_size, 0, asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await reader.readuntil(b"\r\n\r\n")
        asked += 1
        await released.wait()
        writer.write(page(PAGE))
        writer.close()

    settings = with_redis.model_copy(
        update={
            "title_networks": [ipaddress.ip_network("127.0.0.1")],
            "title_timeout": 120,
            "title_concurrency": fetches,
        }
    )
    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server, running(settings) as client:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        slug = (await client.post("/api/links", json={"url": url})).json()["slug"]
        waiting = [asyncio.ensure_future(client.get(f"/api/links/{slug}/title")) for _ in range(fetches)]
        while asked + sum(answer.done() for answer in waiting) < fetches:
            await asyncio.sleep(0.01)
        pages = ["/", "/api/links", f"/{slug}", "/healthz", "/readyz"] * 5
        codes = [(await client.get(path)).status_code for path in pages]
        hanging = [not answer.done() for answer in waiting]
        released.set()
        titles = [(await answer).json() for answer in waiting]
    assert codes == [200, 200, 307, 200, 200] * 5
    assert hanging == [True] * fetches
    assert titles == [{"title": "A & B"}] * fetches


async def test_breaker_closes_when_site_recovers(site: Site, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(titles, "PAUSE", 0.001)
    site.answers = [*[None] * titles.FAILURES, page(PAGE)]
    for _ in range(titles.FAILURES):
        assert (await ask(site.url)).status_code == 503
    assert (await ask(site.url)).json() == {"title": "A & B"}


async def test_concurrent_fetches_are_limited(site: Site, ask: Ask) -> None:
    site.answers = [None]
    first = asyncio.ensure_future(ask(site.url, title_concurrency=1, title_timeout=20))
    await site.waiting.wait()
    second = await ask(site.url)
    assert (second.status_code, first.done()) == (503, False)
    assert "too many" in second.text
    first.cancel()


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.2/",
        "http://localhost.localdomain.invalid@127.0.0.2/",
        "http://2130706434/",
        "http://0x7f000002/",
        "http://127.2/",
        "http://0.0.0.0/",
        "http://10.0.0.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.2]/",
        "http://[64:ff9b::7f00:2]/",
        "http://[fd00::1]/",
    ],
)
async def test_non_public_address_is_refused(ask: Ask, url: str) -> None:
    answer = await ask(url)
    assert (answer.status_code, "isn't public" in answer.text) == (422, True), answer.text


async def test_redirect_to_non_public_address_is_refused(site: Site, ask: Ask) -> None:
    site.answers = [page(b"", "302 Found", more="Location: http://127.0.0.2:22/\r\n")]
    assert (await ask(site.url)).status_code == 422
    # refused addresses don't count as failures of the site
    for _ in range(titles.FAILURES):
        assert (await ask(site.url)).status_code == 422


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1", "64:ff9b::808:808", "::ffff:8.8.8.8"])
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address",
    ["100.64.0.1", "224.0.0.1", "ff02::1", "fe80::1", "2002:7f00:1::", "2001:0:53aa:64c::1", "192.0.2.1", "::"],
)
def test_other_addresses_are_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))
