"""What the workers of all hosts share in Redis: cache, rate limit, live clicks. All of it is optional.

A circuit breaker skips Redis for a while after some failures, so that requests don't wait for it.
"""

import asyncio
import ipaddress
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from circuitbreaker import CircuitBreaker
from fastapi import HTTPException, Request, status

from links.request_id import get_logger
from links.settings import Settings

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = get_logger(__name__)

FAILURES = 3
# Seconds that Redis is skipped after so many failures.
PAUSE = 5
# Seconds of a rate limit window.
WINDOW = 60
MAX_CONNECTIONS = 20

T = TypeVar("T")


class Shared:
    """One worker's connections to Redis. It connects at the first command."""

    def __init__(self, url: str, timeout: float) -> None:
        # Not at the top: the import is slow, and Redis is optional.
        from redis.asyncio import BlockingConnectionPool, Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
        from redis.exceptions import RedisError

        common: Any = {"socket_connect_timeout": timeout, "decode_responses": True, "protocol": 2}
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=MAX_CONNECTIONS,
            timeout=timeout,
            socket_timeout=timeout,
            # One retry replaces a stale pooled connection; more would only delay the request.
            retry=Retry(NoBackoff(), 1),
            **common,
        )
        self.redis: Redis = Redis.from_pool(pool)
        # No socket timeout: its reads block in the server, with a timeout of their own.
        self.reader: Redis = Redis.from_url(
            url, socket_timeout=None, socket_keepalive=True, retry=Retry(NoBackoff(), 0), **common
        )
        self.errors = (RedisError, OSError, TimeoutError)
        self._timeout = timeout
        self._breaker = CircuitBreaker(FAILURES, PAUSE, self.errors, name="redis")

    async def attempt(self, what: str, command: Callable[["Redis"], Awaitable[T]], otherwise: T) -> T:
        """Run an optional command with a short timeout; return `otherwise` if Redis doesn't answer."""
        if self._breaker.opened:
            return otherwise
        try:
            with self._breaker:
                async with asyncio.timeout(self._timeout):
                    return await command(self.redis)
        except self.errors as error:
            # Without the error's text, which can contain parts of the URL.
            log.warning("Redis: %s: %s", what, type(error).__name__)
            return otherwise

    async def ping(self) -> None:
        """Check that Redis answers. Raise one of `errors` if it doesn't; the caller sets the timeout."""
        await self.redis.ping()

    async def close(self) -> None:
        """Close the connections."""
        await self.redis.aclose()
        await self.reader.aclose()


def create_shared(settings: Settings) -> Shared | None:
    """Create the connections to REDIS_URL; return None without it."""
    if settings.redis_url is None:
        return None
    return Shared(settings.redis_url.get_secret_value(), settings.redis_timeout)


def _bucket(address: str) -> str:
    """Return what a limit applies to: an IPv4 address, or the /64 network of an IPv6 client."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else str(parsed)


async def limit_rate(request: Request) -> None:
    """Refuse a client that exceeds LINKS_RATE_LIMIT requests per minute, counted over all workers and hosts."""
    settings: Settings = request.app.state.settings
    shared: Shared | None = request.app.state.shared
    if shared is None or settings.rate_limit is None:
        return
    now = time.time()
    client = _bucket(request.client.host if request.client else "")
    key = f"links:rate:{client}:{int(now // WINDOW)}"

    async def count(redis: "Redis") -> int:
        pipe: Any = redis.pipeline()
        counted, _ = await pipe.incr(key).expire(key, 2 * WINDOW).execute()
        return int(counted)

    # Without Redis, requests are served without a limit.
    if await shared.attempt("rate limit not counted", count, 0) > settings.rate_limit:
        raise HTTPException(
            status.HTTP_429_TOO_MANY_REQUESTS,
            "Too many requests: try again in a minute",
            headers={"Retry-After": str(int(WINDOW - now % WINDOW) + 1)},
        )
