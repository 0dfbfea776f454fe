"""The click report: a summary of all links."""

from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

import stamina
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from links import store
from links.database import DATABASE_ERRORS, create_engine, is_temporary
from links.request_id import get_logger
from links.settings import Settings

log = get_logger(__name__)

BATCH = 500
TOP = 10

T = TypeVar("T")


def _is_outage(error: Exception) -> bool:
    return isinstance(error, DATABASE_ERRORS) and is_temporary(error)


# As long as the outage lasts: the task's time limit ends it.
_patiently = stamina.AsyncRetryingCaller(attempts=None, timeout=None).on(_is_outage)


async def click_report(settings: Settings, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Return the report. It reads links in batches, so that neither memory nor transactions grow with their number.

    It calls `progress` after each batch with the number of links done, and the total. During an outage of the database
    it waits.
    """
    engine = create_engine(settings)
    sessions = async_sessionmaker(engine)

    async def read(query: Callable[[AsyncSession], Awaitable[T]]) -> T:
        try:
            async with sessions() as session:
                return await query(session)
        except DATABASE_ERRORS as error:
            log.warning("The report needs the database: %s", error)
            raise

    links = clicks = unused = 0
    by_site: Counter[str] = Counter()
    top: list[dict[str, Any]] = []
    try:
        total = await _patiently(read, store.count)
        last = 0
        while True:
            batch = await _patiently(read, partial(store.oldest, limit=BATCH, after=last))
            if not batch:
                break
            last = batch[-1].id
            links += len(batch)
            clicks += sum(link.clicks for link in batch)
            unused += sum(not link.clicks for link in batch)
            for link in batch:
                by_site[urlsplit(link.url).hostname or ""] += link.clicks
            top += [{"slug": link.slug, "url": link.url, "clicks": link.clicks} for link in batch if link.clicks]
            top = sorted(top, key=lambda one: (-one["clicks"], one["slug"]))[:TOP]
            progress(links, max(total, links))
    finally:
        await engine.dispose()
    log.info("Reported on %d links", links)
    sites = [{"site": site, "clicks": number} for site, number in by_site.most_common(TOP) if number]
    return {"links": links, "clicks": clicks, "unused": unused, "top": top, "sites": sites}
