"""Minimum versions of packages that applications are served with: older ones are broken or vulnerable.

An application's own old server package doesn't matter: the web processes use the one in the release's overlay.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..host.command import BatonError

_SERVER = "reloads and stops without lost requests are only tested with it and newer versions"


@dataclass(frozen=True)
class Floor:
    """A minimum version, and what is wrong with older ones."""

    version: str
    why: str


FLOORS = {
    "gunicorn": Floor("26.2", _SERVER),
    "h11": Floor("0.16", "older ones accept malformed chunked bodies, which allows request smuggling (CVE-2025-43859)"),
    "httptools": Floor("0.8", _SERVER),
    "python-multipart": Floor(
        "0.0.31", "in older ones a form's header names or negative length can block a worker or fill its memory"
    ),
    "starlette": Floor(
        "1.3.1",
        "older ones ignore the limits of URL-encoded forms, so one request can use up a worker's time and memory "
        "(CVE-2026-54283)",
    ),
    "uvicorn": Floor("0.35", _SERVER),
    "uvicorn-worker": Floor("0.3", _SERVER),
    "websockets": Floor("13", _SERVER),
}
SETTING = "app_release_allow_old_packages"

_VERSION = re.compile(
    r"v?(?:(?P<epoch>\d+)!)?(?P<release>\d+(?:\.\d+)*)(?P<early>[-_.]?(?:alpha|beta|preview|pre|dev|rc|a|b|c)(?![a-z]))?",
    re.IGNORECASE | re.ASCII,
)


def order(version: str) -> tuple[int, tuple[int, ...], bool] | None:
    """Return a sort key for a version: epoch, release, whether it is final (PEP 440); None for an invalid version."""
    found = _VERSION.match(version.strip()[:100])
    if found is None:
        return None
    release = [int(part) for part in found["release"].split(".")]
    while release and release[-1] == 0:
        release.pop()
    return int(found["epoch"] or 0), tuple(release), not found["early"]


def normal(name: str) -> str:
    """Return the normalized name of a package (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def old(packages: Mapping[str, str]) -> dict[str, Floor]:
    """Return the packages that are too old, with their minimums. `packages`: versions by name."""
    found = {}
    for name, floor in FLOORS.items():
        version, oldest = order(packages.get(name, "")), order(floor.version)
        if version is not None and oldest is not None and version < oldest:
            found[name] = floor
    return found


def check(packages: Mapping[str, str], allowed: Iterable[str], where: str) -> dict[str, str]:
    """Raise BatonError for packages that are too old. Returns warnings about `allowed` ones, by package.

    `where`: what has the packages, the subject of the messages.
    """
    names = {normal(name) for name in allowed}
    unknown = sorted(names - FLOORS.keys())
    if unknown:
        raise BatonError(
            f"{SETTING} names {', '.join(unknown)}, which has no minimum version.",
            f"Name some of {', '.join(sorted(FLOORS))}, or remove it.",
        )
    found = old(packages)
    texts = {name: f"{name} {packages[name]}, older than {floor.version}: {floor.why}" for name, floor in found.items()}
    refused = [name for name in found if name not in names]
    if refused:
        wanted = ", ".join(f"{name}>={found[name].version}" for name in refused)
        raise BatonError(
            f"{where} has {'; '.join(texts[name] for name in refused)}.",
            f"Lock {wanted}, or deploy it anyway with {SETTING}: [{', '.join(refused)}].",
        )
    return {text: f"{where} has {text}. It is deployed anyway ({SETTING})." for text in texts.values()}
