"""The page at /: the newest links, and a form for a new one. Works without JavaScript.

With JavaScript and Redis, it shows clicks as they happen.
"""

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Request, status
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates
from pydantic import ValidationError
from starlette.responses import Response

from links import store
from links.clicks import newest_event
from links.database import Session
from links.request_id import get_logger
from links.schemas import MAX_URL_LENGTH, NewLink
from links.shared import limit_rate

log = get_logger(__name__)
router = APIRouter(include_in_schema=False)
# Escapes all values in .html templates.
templates = Jinja2Templates(Path(__file__).parent / "templates")

STATIC = Path(__file__).parent / "static"
SHOWN_LINKS = 20
# The labels of the form's fields.
LABELS = {"url": "Address", "slug": "Slug"}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class ReleaseFiles(StaticFiles):
    """Files that browsers revalidate for each page, so that they get those of the new release after a deploy."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """Return the file, or 304 if it hasn't changed."""
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response


static = ReleaseFiles(directory=STATIC)


@router.get("/favicon.ico")
async def icon() -> FileResponse:
    """Return the icon that browsers request for responses that name none, such as the API's."""
    return FileResponse(STATIC / "icon.svg", headers={"Cache-Control": "max-age=86400"})


@router.api_route("/", methods=["GET", "HEAD"], response_class=HTMLResponse)
async def show(request: Request, session: Session, created: str | None = None) -> Response:
    """Show the newest links."""
    return await _page(request, session, created=created)


@router.post("/", response_class=HTMLResponse, dependencies=[Depends(limit_rate)])
async def submit(
    request: Request, session: Session, url: Annotated[str, Form()] = "", slug: Annotated[str, Form()] = ""
) -> Response:
    """Handle the form, and redirect to the page, so that a reload doesn't submit it twice."""
    form = {"url": url, "slug": slug}
    if request.app.state.settings.api_token is not None:
        return await _page(request, session, status.HTTP_403_FORBIDDEN, error="Links can only be created with the API.")
    try:
        new = NewLink.model_validate({"url": url.strip(), "slug": slug.strip() or None})
        link = await store.create(session, str(new.url), new.slug)
    except ValidationError as invalid:
        first = invalid.errors()[0]
        error = f"{LABELS[str(first['loc'][0])]}: {first['msg'].removeprefix('Value error, ')}"
        return await _page(request, session, status.HTTP_422_UNPROCESSABLE_CONTENT, error=error, form=form)
    except store.SlugTakenError:
        error = "This slug is taken: choose another."
        return await _page(request, session, status.HTTP_409_CONFLICT, error=error, form=form)
    log.info("Created link %s", link.slug)
    return RedirectResponse(
        str(request.url_for("show").include_query_params(created=link.slug)), status.HTTP_303_SEE_OTHER
    )


async def _page(
    request: Request,
    session: Session,
    status_code: int = status.HTTP_200_OK,
    *,
    created: str | None = None,
    error: str | None = None,
    form: dict[str, str] | None = None,
) -> Response:
    # Read before the counts, so that clicks in between arrive as events.
    after = await newest_event(request.app.state.shared)
    context = {
        "after": after,
        "links": await store.newest(session, limit=SHOWN_LINKS),
        # Only if the link exists: anybody can set the parameter.
        "created": await store.find(session, created) if created else None,
        "error": error,
        "form": form or {},
        "may_create": request.app.state.settings.api_token is None,
        "max_url_length": MAX_URL_LENGTH,
    }
    return templates.TemplateResponse(request, "index.html", context, status_code, HEADERS)
