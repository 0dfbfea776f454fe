"""The supported versions of the server's packages, and when the application's own versions are used."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Overlay:
    """The packages that the overlay contains on one target, and the reason for each package."""

    pins: list[Pin]
    reasons: dict[str, str]


def decide(server: Iterable[Pin], application: Iterable[Pin]) -> Overlay:
    """Return the overlay for the server's and the application's pins, both for one target."""
    own = {pin.name: pin for pin in application}
    pins, reasons = [], {}
    for pin in server:
        theirs = own.get(pin.name)
        if theirs is None:
            pins.append(pin)
            reasons[pin.name] = f"{pin.version}: the application has none"
        elif theirs.url:
            reasons[pin.name] = f"the application's own, from {theirs.url}"
        elif SpecifierSet(SUPPORTED.get(pin.name, "")).contains(theirs.version, prereleases=True):
            reasons[pin.name] = f"the application's own {theirs.version}"
        else:
            pins.append(pin)
            reasons[pin.name] = f"{pin.version} instead of {theirs.version}, which is not {SUPPORTED.get(pin.name, '')}"
    return Overlay(pins, reasons)
