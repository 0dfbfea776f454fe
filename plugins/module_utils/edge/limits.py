"""A site's limits on requests and connections, per client and in total, and the validation of their settings."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

RATE = re.compile(r"([1-9][0-9]{0,6})r/([sm])")
SIZE = re.compile(r"[0-9]{1,9}[kKmMgG]?")
PATH = re.compile(r"/[A-Za-z0-9._~!&'()*+,=:@/-]*")
PATH_OPTIONS = ("rate", "burst", "connections", "body")
_REFUSALS = {"status": "429", "log_level": "info"}
MOST_CONNECTIONS = 65535  # of limit_conn
BROWSER = 6  # connections that a browser opens with HTTP/1.1
CONNECTIONS = 200  # default limit of concurrent requests of one client


def upstream_limits(upstreams: Sequence[str], workers: Mapping[str, int], each: int) -> dict[str, int]:
    """Return the limit of concurrent requests by server; empty for no limit.

    `each`: requests per worker. A server whose number of workers isn't known gets the lowest limit.
    """
    if each <= 0 or not workers:
        return {}
    least = min(workers.values())
    return {upstream: workers.get(upstream, least) * each for upstream in upstreams}


def client_connections(upstreams: Sequence[str], workers: Mapping[str, int], each: int) -> int:
    """Return the limit of concurrent requests of one client, which leaves a quarter of the capacity to others."""
    places = sum(upstream_limits(upstreams, workers, each).values())
    return max(BROWSER, min(CONNECTIONS, places * 3 // 4)) if places else CONNECTIONS


def locations(
    streaming: Sequence[str], limits: Mapping[str, Mapping[str, Any]], uncounted: Sequence[str] = (), health: str = ""
) -> dict[str, dict[str, Any]]:
    """Return nginx's locations: whether one `streams`, the maximum size of a `body`, and the kind of its `upstream`.

    `uncounted`: exact paths whose requests don't count; `health`: that of the health page. nginx uses only one
    location, an exact path or the longest matching prefix, so each inherits from the shorter prefixes.
    """
    sizes = {path: str(given["body"]) for path, given in limits.items() if "body" in given}
    exact = dict.fromkeys(uncounted, "uncounted") | ({health: "health"} if health else {})

    def location(path: str, upstream: str = "") -> dict[str, Any]:
        bodies = [prefix for prefix in sizes if path.startswith(prefix)]
        streams = any(path.startswith(prefix) for prefix in streaming)
        return {
            "streams": streams,
            "body": sizes[max(bodies, key=len)] if bodies else "",
            "upstream": upstream or ("uncounted" if streams else "counted"),
        }

    return {f"= {path}": location(path, upstream) for path, upstream in exact.items()} | {
        path: location(path) for path in dict.fromkeys([*streaming, *sizes, "/"])
    }


def directives(
    site: str,
    rate: str,
    burst: int,
    connections: int,
    limits: Mapping[str, Mapping[str, Any]],
    *,
    websocket_rate: str = "0",
    health_rate: str = "0",
) -> dict[str, Any]:
    """Return directives that limit one client. The site's template declares the zones."""
    requests, at_once = [], []
    if rate != "0":
        requests.append(f"zone={site}.rate{_ahead(burst)}")
    if websocket_rate != "0":
        # after a reload, all WebSockets of a client reconnect at the same time
        requests.append(f"zone={site}.rate.websockets{_ahead(connections or burst)}")
    if health_rate != "0":
        requests.append(f"zone={site}.rate.health{_ahead(burst)}")
    if connections:
        at_once.append(f"{site}.connections {connections}")
    for number, given in enumerate(limits.values(), 1):
        if "rate" in given:
            requests.append(f"zone={site}.rate.{number}{_ahead(given.get('burst', 0))}")
        if "connections" in given:
            at_once.append(f"{site}.connections.{number} {given['connections']}")
    # level info, because the access log has rejected requests anyway
    usual = {f"limit_{kind}_{name}": value for kind in ("req", "conn") for name, value in _REFUSALS.items()}
    return {**usual, "limit_req": requests, "limit_conn": at_once}


def _ahead(burst: int) -> str:
    # nginx refuses burst=0
    return f" burst={burst} nodelay" if burst else ""


def waits(rate: str, limits: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Return Retry-After in seconds by path prefix, the longest time first."""
    usual = wait(rate)
    found = {path: max(usual, wait(given["rate"])) for path, given in limits.items() if "rate" in given}
    return dict(sorted({"/": usual, **found}.items(), key=lambda one: -one[1]))


def wait(rate: str) -> int:
    """Return Retry-After in seconds for a rate such as 10r/m."""
    found = RATE.fullmatch(rate)
    return -(-(60 if found[2] == "m" else 1) // int(found[1])) if found else 1


def addresses(given: Iterable[str]) -> list[str]:
    """Return the entries that are addresses or networks, without duplicates; names refer to lists of presets."""
    return list(dict.fromkeys(one for one in given if _is_network(one)))


def network(text: str, *, strict: bool = True) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Parse a network. Raises ValueError, also for an IPv6 zone, which only one host knows and no server accepts."""
    if "%" in text:
        raise ValueError(text)
    return ipaddress.ip_network(text, strict=strict)


def within(addresses: Sequence[str], networks: Sequence[str]) -> list[str]:
    """Return the addresses in any of the networks, without regard to IPv6 zones. A text that is no address is in none.

    `ansible.utils.in_any_network` takes 0.3 s of processor time for that. Raises ValueError for a wrong network.
    """
    parsed = [network(str(one), strict=False) for one in networks]
    return [text for text in addresses if any(_contains(one, text) for one in parsed)]


def _contains(one: ipaddress.IPv4Network | ipaddress.IPv6Network, text: str) -> bool:
    try:
        return ipaddress.ip_address(str(text).partition("%")[0]) in one
    except ValueError:
        return False


def _is_network(text: str) -> bool:
    try:
        network(text, strict=False)
    except ValueError:
        return False
    return True


def wrong(settings: Mapping[str, Any]) -> list[str]:
    """Return a sentence with the fix for each invalid setting. `settings`: by name without the role's prefix.

    Only those whose limits `controller/settings.py` can't express.
    """
    # the default of the health page's rate is the site's
    own_health_rate = settings["health_rate"] != settings["client_rate"]
    rates = ("client_rate", "websocket_rate", "health_rate") if own_health_rate else ("client_rate", "websocket_rate")
    found = [
        f'nginx_site_{name} is "{settings[name]}". Write requests by second or minute, such as 500r/s or 600r/m, or 0 '
        "for no limit."
        for name in rates
        if not _is_rate(settings[name])
    ]
    if settings["health_path"] and wait(str(settings["health_rate"])) > 1:
        given = "health_rate" if own_health_rate else "client_rate"
        found.append(
            f'nginx_site_{given} is "{settings[given]}", too low for the health page, which a monitor and a deploy '
            "request. Set nginx_site_health_rate to at least 1r/s, or to 0 for no limit."
        )
    if 0 < settings["client_connections"] < BROWSER:
        found.append(
            f"nginx_site_client_connections is {settings['client_connections']}, but one browser opens {BROWSER}. "
            f"Give at least {BROWSER}, or 0 for no limit."
        )
    if settings["worker_requests"] == 1:
        found.append(
            f"nginx_site_worker_requests is {settings['worker_requests']}, so a warm-up or a health check would block "
            "all clients. Give at least 2, or 0 for no limit."
        )
    if bad := [one for one in settings["unlimited_clients"] if not _is_network(str(one))]:
        found.append(
            f"nginx_site_unlimited_clients has {', '.join(map(str, bad))}. Give addresses or networks such as "
            "203.0.113.0/24."
        )
    if bad := [one for one in settings["unlimited_paths"] if not PATH.fullmatch(str(one))]:
        found.append(
            f"nginx_site_unlimited_paths has {', '.join(map(str, bad))}. Give complete paths without a query, such as "
            "/healthz."
        )
    for path, limits in settings["path_limits"].items():
        found += _wrong_path_limits(str(path), limits)
    return found


def _is_rate(value: Any) -> bool:
    return str(value) == "0" or RATE.fullmatch(str(value)) is not None


def _wrong_path_limits(path: str, limits: Any) -> list[str]:
    name = f'nginx_site_path_limits["{path}"]'
    if not PATH.fullmatch(path):
        return [f'nginx_site_path_limits has the path "{path}". Give a prefix without a query, such as /login.']
    if not isinstance(limits, Mapping) or not limits or set(limits) - set(PATH_OPTIONS):
        return [f"{name} needs one or more of {', '.join(PATH_OPTIONS)}, such as {{rate: 10r/m, burst: 5}}."]
    found = []
    if "rate" in limits and RATE.fullmatch(str(limits["rate"])) is None:
        found.append(f'{name} has the rate "{limits["rate"]}". Write requests by second or minute, such as 10r/m.')
    if "burst" in limits and ("rate" not in limits or not _is_number(limits["burst"], 0)):
        found.append(f'{name} has the burst "{limits["burst"]}". Give a number of requests together with a rate.')
    if "connections" in limits and not _is_number(limits["connections"], 1, MOST_CONNECTIONS):
        found.append(f'{name} has connections "{limits["connections"]}". Give a number from 1 to {MOST_CONNECTIONS}.')
    if "body" in limits and not SIZE.fullmatch(str(limits["body"])):
        found.append(f'{name} has the body "{limits["body"]}". Write a size such as 100m, or 0 for no limit.')
    return found


def _is_number(value: Any, least: int, most: int = 2**31 - 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
