"""The supported versions of the server's packages, and when the application's own versions are used."""

from __future__ import annotations

from collections.abc import Iterable

from packaging.specifiers import SpecifierSet

from ..app.floors import FLOORS
from .requirements import Pin

# The versions of the server's packages that the handover is tested with; the lower bounds come from app/floors. An
# application's own pin is used if it is in the range; otherwise the release's overlay contains Baton's version
# (roles/app_release/files/server-requirements.txt), for the web service only.
SUPPORTED = {
    "gunicorn": f">={FLOORS['gunicorn'].version},<28",
    "uvicorn": f">={FLOORS['uvicorn'].version},<0.55",
    "uvicorn-worker": f">={FLOORS['uvicorn-worker'].version},<0.5",
    "uvloop": ">=0.21,<1",
    "httptools": f">={FLOORS['httptools'].version},<1",
    "websockets": f">={FLOORS['websockets'].version}",
    "h11": f">={FLOORS['h11'].version},<1",
    "click": ">=8",
}


def overlay(server: Iterable[Pin], application: Iterable[Pin]) -> list[Pin]:
    """Return the pins that the overlay contains, from the server's and the application's pins, all for one target."""
    own = {pin.name: pin for pin in application}
    return [pin for pin in server if pin.name not in own or not _is_supported(own[pin.name])]


def _is_supported(pin: Pin) -> bool:
    """Whether the web service uses this pin of an application."""
    return bool(pin.url) or SpecifierSet(SUPPORTED.get(pin.name, "")).contains(pin.version, prereleases=True)
