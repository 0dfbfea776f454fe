"""What the workers of all hosts share in Redis: cache, rate limit, live clicks. All of it can be done without.

While Redis doesn't answer, nothing waits for it: after some failures it is left alone for a while.
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
# Seconds that Redis is left alone after them.
PAUSE = 5
# Seconds of a window of the rate limit.
WINDOW = 60
MAX_CONNECTIONS = 20

T = TypeVar("T")


class Shared:
    """One worker's connections to Redis. None is made before the first command."""

    def __init__(self, url: str, timeout: float) -> None:
        # Here: its import takes longer than all else, and not everybody has a Redis.
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
            # One retry replaces a stale pooled connection without failing the request; more would only delay it.
            retry=Retry(NoBackoff(), 1),
            **common,
        )
        self.redis: Redis = Redis.from_pool(pool)
        # It waits for events in the server, and is bounded by the time that it asks for.
        self.reader: Redis = Redis.from_url(
            url, socket_timeout=None, socket_keepalive=True, retry=Retry(NoBackoff(), 0), **common
        )
        self.errors = (RedisError, OSError, TimeoutError)
        self._timeout = timeout
        self._breaker = CircuitBreaker(FAILURES, PAUSE, self.errors, name="redis")

    async def attempt(self, what: str, command: Callable[["Redis"], Awaitable[T]], otherwise: T) -> T:
        """Do what can be done without, in a short time; `otherwise` is the answer when Redis gives none."""
        if self._breaker.opened:
            return otherwise
        try:
            with self._breaker:
                async with asyncio.timeout(self._timeout):
                    return await command(self.redis)
        except self.errors as error:
            # Not its text, which can hold parts of the address.
            log.warning("Redis: %s: %s", what, type(error).__name__)
            return otherwise

    async def ping(self) -> None:
        """Ask whether it answers. Raise one of `errors` when not; the caller bounds the time."""
        await self.redis.ping()

    async def close(self) -> None:
        """Give the connections back."""
        await self.redis.aclose()
        await self.reader.aclose()


def create_shared(settings: Settings) -> Shared | None:
    """Prepare what REDIS_URL names; None without it."""
    if settings.redis_url is None:
        return None
    return Shared(settings.redis_url.get_secret_value(), settings.redis_timeout)


def _bucket(address: str) -> str:
    """Give whom a limit counts: an IPv4 address, or the network that one IPv6 client has to itself."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else str(parsed)


async def limit_rate(request: Request) -> None:
    """Refuse a client that asks for more than LINKS_RATE_LIMIT a minute, of all workers and hosts together."""
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

    # Without Redis, serving is worth more than limiting.
    if await shared.attempt("rate limit not counted", count, 0) > settings.rate_limit:
        raise HTTPException(
            status.HTTP_429_TOO_MANY_REQUESTS,
            "Too many requests: try again in a minute",
            headers={"Retry-After": str(int(WINDOW - now % WINDOW) + 1)},
        )
