"""The JSON API, and the redirects of the links."""

from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request, Response, status
from fastapi.responses import RedirectResponse

from links import store
from links.clicks import publish
from links.database import Session
from links.models import Link
from links.request_id import get_logger
from links.schemas import LinkPage, LinkRead, NewLink
from links.shared import limit_rate
from links.tokens import require_token

log = get_logger(__name__)
router = APIRouter(prefix="/api/links", tags=["links"])
redirects = APIRouter(tags=["links"])

SlugPath = Annotated[str, Path(max_length=64)]


def _read(request: Request, link: Link) -> LinkRead:
    return LinkRead(
        slug=link.slug,
        short_url=str(request.url_for("follow_link", slug=link.slug)),
        url=link.url,
        clicks=link.clicks,
        created_at=link.created_at,
        last_clicked_at=link.last_clicked_at,
    )


def _not_found(slug: str) -> HTTPException:
    return HTTPException(status.HTTP_404_NOT_FOUND, f"There is no link {slug!r}")


@router.post("", status_code=status.HTTP_201_CREATED, dependencies=[Depends(require_token), Depends(limit_rate)])
async def create_link(new: NewLink, request: Request, response: Response, session: Session) -> LinkRead:
    """Shorten an address."""
    try:
        link = await store.create(session, str(new.url), new.slug)
    except store.SlugTakenError:
        raise HTTPException(status.HTTP_409_CONFLICT, "This slug is taken: choose another") from None
    log.info("Created link %s", link.slug)
    response.headers["Location"] = str(request.url_for("read_link", slug=link.slug))
    return _read(request, link)


@router.get("")
async def list_links(
    request: Request,
    session: Session,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    before: Annotated[int | None, Query(ge=1, le=2**63 - 1)] = None,
) -> LinkPage:
    """List the links, newest first. `before` takes `next` of the previous page."""
    # One more than requested, to know whether there is another page.
    links = await store.newest(session, limit=limit + 1, before=before)
    items = links[:limit]
    return LinkPage(
        items=[_read(request, link) for link in items],
        next=items[-1].id if len(links) > limit else None,
    )


@router.get("/{slug}")
async def read_link(slug: SlugPath, request: Request, session: Session) -> LinkRead:
    """Return a link: its target address, and how often it was followed."""
    link = await store.find(session, slug)
    if link is None:
        raise _not_found(slug)
    return _read(request, link)


@router.delete("/{slug}", status_code=status.HTTP_204_NO_CONTENT, dependencies=[Depends(require_token)])
async def delete_link(slug: SlugPath, session: Session) -> None:
    """Delete a link."""
    if not await store.remove(session, slug):
        raise _not_found(slug)
    log.info("Deleted link %s", slug)


def _redirect(url: str) -> RedirectResponse:
    # Not cacheable: only requests that reach the server are counted.
    return RedirectResponse(url, status.HTTP_307_TEMPORARY_REDIRECT, headers={"Cache-Control": "no-store"})


@redirects.get("/{slug}", status_code=status.HTTP_307_TEMPORARY_REDIRECT, response_class=RedirectResponse)
async def follow_link(slug: SlugPath, request: Request) -> RedirectResponse:
    """Follow a link, and count the click."""
    async with request.app.state.sessions.begin() as session:
        found = await store.follow(session, slug)
    if found is None:
        raise _not_found(slug)
    url, clicks = found
    # After the commit, so that no event is published for a click that was rolled back.
    await publish(request.app.state.shared, slug, clicks)
    return _redirect(url)


@redirects.head("/{slug}", include_in_schema=False)
async def peek_link(slug: SlugPath, session: Session) -> RedirectResponse:
    """Answer a link checker: the same redirect, without counting a click."""
    link = await store.find(session, slug)
    if link is None:
        raise _not_found(slug)
    return _redirect(link.url)
