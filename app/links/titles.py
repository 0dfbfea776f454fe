"""The title of the page that a link leads to: a call to a third party, which may be slow, broken or malicious.

It has a timeout, a limit on concurrent calls, retries with jitter, and a circuit breaker for each site: a site that
hangs affects only its own titles. It never connects to addresses that aren't public.
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
# Seconds that a site is skipped after so many failures.
PAUSE = 30
MAX_SITES = 1_000
# Seconds that a title is cached, and that the absence of one is.
FRESH = 24 * 3600
FRESH_WITHOUT = 300
# IPv6 addresses that embed an IPv4 address, which must be public, too.
NAT64 = ipaddress.ip_network("64:ff9b::/96")

_TITLE = re.compile(rb"<title[^>]*>([^<]{0,2000})", re.IGNORECASE)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class TitleUnavailableError(Exception):
    """No title now: the site fails or hangs, or too many requests are in progress."""


class ForbiddenAddressError(Exception):
    """The address isn't public."""


def is_public(address: Address, allowed: Iterable[Network] = ()) -> bool:
    """Return whether the server may connect to this address on behalf of any client."""
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
    """Create a client that connects only to public addresses, whatever a name resolves to or a redirect names."""
    # Not at the top: only requests for titles need them.
    import httpcore
    import httpx

    class PublicBackend(httpcore.AnyIOBackend):
        """Resolves the name itself and connects to the checked address, so that DNS can't change in between."""

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
    # httpx has no option to set httpcore's network backend.
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
    """Fetches the titles of pages, for one worker."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._slots = asyncio.Semaphore(settings.title_concurrency)
        self._breakers: OrderedDict[str, CircuitBreaker] = OrderedDict()
        self._client: httpx.AsyncClient | None = None

    async def fetch(self, url: str) -> str | None:
        """Return the title of a page; None if it has none. Raise TitleUnavailableError or ForbiddenAddressError."""
        breaker = self._breaker(urlsplit(url).netloc)
        if breaker.opened:
            message = "the site has failed several times; try again later"
            raise TitleUnavailableError(message)
        # Fail immediately instead of queueing.
        if self._slots.locked():
            message = "too many titles are being fetched"
            raise TitleUnavailableError(message)
        async with self._slots:
            if self._client is None:
                # In a thread, as it imports large packages and reads certificates.
                self._client = await asyncio.to_thread(_create_client, self._settings)
            import httpx

            try:
                with breaker:
                    async with asyncio.timeout(self._settings.title_timeout):
                        return await self._ask(self._client, url)
            except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
                log.warning("No title of %s: %s", urlsplit(url).hostname, type(error).__name__)
                message = "the site doesn't answer correctly"
                raise TitleUnavailableError(message) from error

    async def close(self) -> None:
        """Close the connections."""
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
        # A refused address is not a failure of the site.
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
    """The page's title; null if it has none."""

    title: str | None


@router.get("/{slug}/title", dependencies=[Depends(limit_rate)])
async def read_title(slug: Annotated[str, Path(max_length=64)], request: Request) -> Title:
    """Return the title of the page that a link leads to. All workers share the results in Redis."""
    async with request.app.state.sessions.begin() as session:
        link = await store.find(session, slug)
    # The session is closed here, so that no database connection is held during the call.
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
