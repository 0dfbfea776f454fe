"""The schemas of the API's requests and responses."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AnyHttpUrl, BaseModel, ConfigDict, Field

# First path segments that the application itself uses, or may use in the future.
RESERVED_SLUGS = frozenset({"api", "healthz", "metrics", "readyz", "static"})
MAX_URL_LENGTH = 2048


def _not_reserved(slug: str) -> str:
    if slug.lower() in RESERVED_SLUGS:
        message = "this slug is reserved"
        raise ValueError(message)
    return slug


def _fits(url: AnyHttpUrl) -> AnyHttpUrl:
    # Encoding a host or a path can make it longer.
    if len(str(url)) > MAX_URL_LENGTH:
        message = f"the address has more than {MAX_URL_LENGTH} characters once encoded"
        raise ValueError(message)
    return url


def _utc(moment: datetime) -> datetime:
    # SQLite stores no time zone; the application stores UTC.
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


Moment = Annotated[datetime, AfterValidator(_utc)]
Slug = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$"), AfterValidator(_not_reserved)]
Url = Annotated[AnyHttpUrl, Field(max_length=MAX_URL_LENGTH), AfterValidator(_fits)]


class NewLink(BaseModel):
    """A link to create; without a slug, a random one is generated."""

    model_config = ConfigDict(extra="forbid")

    url: Url
    slug: Slug | None = None


class LinkRead(BaseModel):
    """A link and its clicks."""

    slug: str
    short_url: str
    url: str
    clicks: int
    created_at: Moment
    last_clicked_at: Moment | None


class LinkPage(BaseModel):
    """Some links, newest first; `next` is the `before` of the following page."""

    items: list[LinkRead]
    next: int | None
