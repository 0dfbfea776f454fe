"""What the web service runs with: which versions are supported, and when the application's own are used."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from packaging.specifiers import SpecifierSet

from ..app.floors import FLOORS
from .requirements import Pin

# The one place that says which versions of the server's packages the handover is made and tested for.
# The oldest are those of app/floors. An application's own pin is used when it lies inside; else the release's overlay
# carries ours (roles/app_release/files/server-requirements.txt), for the web service alone.
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
    """The packages that the overlay carries on one target, and why."""

    pins: list[Pin]
    reasons: dict[str, str]


def decide(server: Iterable[Pin], application: Iterable[Pin]) -> Overlay:
    """Compare the server's lock with the application's, both for one target."""
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
