"""The queries."""

import secrets
from collections.abc import Sequence

from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from links.models import Link

# Without 0/O and 1/l/I, which look alike: 57^7 slugs.
SLUG_ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
SLUG_LENGTH = 7
SLUG_DRAWS = 5


class SlugTakenError(Exception):
    """Another link has this slug."""


async def create(session: AsyncSession, url: str, slug: str | None) -> Link:
    """Store a new link. Raise SlugTakenError if its slug is in use."""
    for _ in range(1 if slug else SLUG_DRAWS):
        link = Link(slug=slug or _draw_slug(), url=url)
        try:
            # The unique constraint decides: a check beforehand would race with other requests.
            async with session.begin_nested():
                session.add(link)
        except IntegrityError:
            continue
        await session.refresh(link)
        return link
    raise SlugTakenError


async def follow(session: AsyncSession, slug: str) -> tuple[str, int] | None:
    """Count a click; return the link's target and its new number of clicks.

    One statement, so that concurrent clicks in several workers are all counted.
    """
    counted = (
        update(Link)
        .where(Link.slug == slug)
        .values(clicks=Link.clicks + 1, last_clicked_at=func.now())
        .returning(Link.url, Link.clicks)
        .execution_options(synchronize_session=False)
    )
    found = (await session.execute(counted)).one_or_none()
    return found and (found.url, found.clicks)


async def find(session: AsyncSession, slug: str) -> Link | None:
    """Return a link without counting a click."""
    return (await session.execute(select(Link).where(Link.slug == slug))).scalar_one_or_none()


async def newest(session: AsyncSession, *, limit: int, before: int | None = None) -> Sequence[Link]:
    """Return links, newest first. Paged by id, not by offset: page 1,000 is as fast as page 1."""
    query = select(Link).order_by(Link.id.desc()).limit(limit)
    if before is not None:
        query = query.where(Link.id < before)
    return (await session.execute(query)).scalars().all()


async def oldest(session: AsyncSession, *, limit: int, after: int = 0) -> Sequence[Link]:
    """Return links, oldest first, for tasks that read all of them."""
    query = select(Link).where(Link.id > after).order_by(Link.id).limit(limit)
    return (await session.execute(query)).scalars().all()


async def count(session: AsyncSession) -> int:
    """Return the number of links."""
    return (await session.execute(select(func.count()).select_from(Link))).scalar_one()


async def remove(session: AsyncSession, slug: str) -> bool:
    """Delete a link. Return False if it doesn't exist."""
    removed = delete(Link).where(Link.slug == slug).returning(Link.id).execution_options(synchronize_session=False)
    return (await session.execute(removed)).scalar_one_or_none() is not None


def _draw_slug() -> str:
    return "".join(secrets.choice(SLUG_ALPHABET) for _ in range(SLUG_LENGTH))
