"""The title of the page that a link leads to: a call to a third party, which may be slow, broken or malicious.

It has a deadline, a bounded number at a time, retries with jitter, and for each site a circuit breaker: a site that
hangs costs its own titles, and nothing else. Addresses that aren't public are never connected to.
"""

import asyncio
import hashlib
import html
import ipaddress
import re
import socket
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

from circuitbreaker import CircuitBreaker
from fastapi import APIRouter, Depends, HTTPException, Path, Request, status
from pydantic import BaseModel

from links import store
from links.request_id import get_logger
from links.settings import Settings
from links.shared import Shared, limit_rate

if TYPE_CHECKING:
    import httpx
    from redis.asyncio import Redis

log = get_logger(__name__)
router = APIRouter(prefix="/api/links", tags=["links"])

MAX_BYTES = 256 * 1024
MAX_REDIRECTS = 3
ATTEMPTS = 3
FAILURES = 3
# Seconds that a site is left alone after them.
PAUSE = 30
MAX_SITES = 1_000
# Seconds that a title is kept, and that a page without one isn't asked again.
FRESH = 24 * 3600
FRESH_WITHOUT = 300
# An IPv6 address that leads to an IPv4 one, which must be public too.
NAT64 = ipaddress.ip_network("64:ff9b::/96")

_TITLE = re.compile(rb"<title[^>]*>([^<]{0,2000})", re.IGNORECASE)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class TitleUnavailableError(Exception):
    """No answer now: the site fails or hangs, or too many are asked already."""


class ForbiddenAddressError(Exception):
    """The address isn't public."""


def is_public(address: Address, allowed: Iterable[Network] = ()) -> bool:
    """Tell whether a server of ours may connect to it for a stranger."""
    if any(address in network for network in allowed):
        return True
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner, allowed)
        if address.teredo is not None:
            return False
    return address.is_global and not address.is_multicast


def _create_client(settings: Settings) -> "httpx.AsyncClient":
    """Make a client that connects to public addresses alone, whatever a name or a redirect leads to."""
    # Here: only who asks for titles needs them.
    import httpcore
    import httpx

    class PublicBackend(httpcore.AnyIOBackend):
        """Resolves by itself, and connects to the address that it has looked at: no name changes in between."""

        async def connect_tcp(
            self,
            host: str,
            port: int,
            timeout: float | None = None,  # noqa: ASYNC109
            local_address: str | None = None,
            socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
        ) -> httpcore.AsyncNetworkStream:
            try:
                async with asyncio.timeout(timeout):
                    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
            except (OSError, TimeoutError) as error:
                message = f"{host} can't be resolved"
                raise httpcore.ConnectError(message) from error
            addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
            for address in addresses:
                if not is_public(address, settings.title_networks):
                    raise ForbiddenAddressError
            return await super().connect_tcp(str(addresses[0]), port, timeout, local_address, socket_options)

    transport = httpx.AsyncHTTPTransport(trust_env=False)
    # httpx hands the backend of its own to httpcore, and has no option for another.
    transport._pool = httpcore.AsyncConnectionPool(
        ssl_context=httpx.create_ssl_context(trust_env=False),
        max_connections=settings.title_concurrency,
        max_keepalive_connections=0,
        network_backend=PublicBackend(),
    )
    return httpx.AsyncClient(
        transport=transport,
        timeout=settings.title_timeout,
        follow_redirects=True,
        max_redirects=MAX_REDIRECTS,
        trust_env=False,
        headers={"User-Agent": "links", "Accept": "text/html"},
    )


class Titles:
    """Asks pages for their titles, for one worker."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._places = asyncio.Semaphore(settings.title_concurrency)
        self._breakers: OrderedDict[str, CircuitBreaker] = OrderedDict()
        self._client: httpx.AsyncClient | None = None

    async def fetch(self, url: str) -> str | None:
        """Give the title of a page, None when it has none. Raise TitleUnavailableError, ForbiddenAddressError."""
        breaker = self._breaker(urlsplit(url).netloc)
        if breaker.opened:
            message = "the site has failed several times and is left alone for a while"
            raise TitleUnavailableError(message)
        # Fail at once instead of queueing when all places are taken.
        if self._places.locked():
            message = "too many pages are asked at this moment"
            raise TitleUnavailableError(message)
        async with self._places:
            if self._client is None:
                # In a thread: it imports much, and reads certificates from disk.
                self._client = await asyncio.to_thread(_create_client, self._settings)
            import httpx

            try:
                with breaker:
                    async with asyncio.timeout(self._settings.title_timeout):
                        return await self._ask(self._client, url)
            except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
                log.warning("No title of %s: %s", urlsplit(url).hostname, type(error).__name__)
                message = "the site doesn't answer as it should"
                raise TitleUnavailableError(message) from error

    async def close(self) -> None:
        """Give the connections back."""
        if self._client is not None:
            await self._client.aclose()

    async def _ask(self, client: "httpx.AsyncClient", url: str) -> str | None:
        import httpx
        import stamina

        attempts = stamina.retry_context(
            on=(httpx.TransportError, httpx.HTTPStatusError),
            attempts=ATTEMPTS,
            wait_initial=0.1,
            wait_jitter=0.2,
            wait_max=1,
        )
        async for attempt in attempts:
            with attempt:
                async with client.stream("GET", url) as answer:
                    if answer.is_server_error or answer.status_code == 429:
                        answer.raise_for_status()
                    if not answer.is_success or "html" not in answer.headers.get("content-type", ""):
                        return None
                    return _title(await _first_bytes(answer.aiter_bytes()), answer.encoding)
        return None

    def _breaker(self, site: str) -> CircuitBreaker:
        if site in self._breakers:
            self._breakers.move_to_end(site)
            return self._breakers[site]
        if len(self._breakers) >= MAX_SITES:
            self._breakers.popitem(last=False)
        # What is our own refusal, such as of an address, is no failure of the site.
        return self._breakers.setdefault(
            site,
            CircuitBreaker(FAILURES, PAUSE, lambda kind, _: not issubclass(kind, ForbiddenAddressError), name=site),
        )


async def _first_bytes(body: AsyncIterator[bytes]) -> bytes:
    head = b""
    async for part in body:
        head += part
        if len(head) >= MAX_BYTES or b"</title" in head.lower():
            break
    return head[:MAX_BYTES]


def _title(head: bytes, encoding: str | None) -> str | None:
    found = _TITLE.search(head)
    if found is None:
        return None
    try:
        text = found[1].decode(encoding or "utf-8", "replace")
    except LookupError:
        text = found[1].decode("utf-8", "replace")
    return " ".join(html.unescape(text).split())[:300] or None


class Title(BaseModel):
    """What the page calls itself; null when it has no title."""

    title: str | None


@router.get("/{slug}/title", dependencies=[Depends(limit_rate)])
async def read_title(slug: Annotated[str, Path(max_length=64)], request: Request) -> Title:
    """Ask the page that a link leads to for its title. What was found is shared by all workers, in Redis."""
    async with request.app.state.sessions() as session:
        link = await store.find(session, slug)
    # The session is closed: no connection to the database is held while a stranger answers.
    if link is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, f"There is no link {slug!r}")
    shared: Shared | None = request.app.state.shared
    key = f"links:title:{hashlib.sha256(link.url.encode()).hexdigest()}"

    async def get(redis: "Redis") -> str | None:
        found: Any = await redis.get(key)
        return None if found is None else str(found)

    known = await shared.attempt("cache not read", get, None) if shared else None
    if known is not None:
        return Title(title=known or None)
    titles: Titles = request.app.state.titles
    try:
        title = await titles.fetch(link.url)
    except ForbiddenAddressError:
        raise HTTPException(
            status.HTTP_422_UNPROCESSABLE_CONTENT, "The link leads to an address that isn't public"
        ) from None
    except TitleUnavailableError as error:
        raise HTTPException(
            status.HTTP_503_SERVICE_UNAVAILABLE, f"No title now: {error}", headers={"Retry-After": "30"}
        ) from error

    async def keep(redis: "Redis") -> None:
        await redis.set(key, title or "", ex=FRESH if title else FRESH_WITHOUT)

    if shared:
        await shared.attempt("cache not written", keep, None)
    return Title(title=title)
