"""How much of a site one client, and all of them together, may take, and what is wrong with settings of it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

RATE = re.compile(r"([1-9][0-9]{0,6})r/([sm])")
SIZE = re.compile(r"[0-9]+[kKmMgG]?")
PATH = re.compile(r"/[A-Za-z0-9._~!&'()*+,=:@/-]*")
OF_A_PATH = ("rate", "burst", "connections", "body")
_REFUSALS = {"status": "429", "log_level": "info"}
BROWSER = 6  # connections that a browser opens by HTTP/1.1, by itself
CONNECTIONS = 200  # that one client may have at once, by itself


def upstream_limits(upstreams: Sequence[str], workers: Mapping[str, int], each: int) -> dict[str, int]:
    """Requests that each server takes at once; empty for no limit. One whose workers aren't known takes the least."""
    if each <= 0 or not workers:
        return {}
    least = min(workers.values())
    return {upstream: workers.get(upstream, least) * each for upstream in upstreams}


def client_connections(upstreams: Sequence[str], workers: Mapping[str, int], each: int) -> int:
    """Requests that one client may have at once: it leaves a quarter of what the servers take to others."""
    places = sum(upstream_limits(upstreams, workers, each).values())
    return max(BROWSER, min(CONNECTIONS, places * 3 // 4)) if places else CONNECTIONS


def locations(streaming: Sequence[str], limits: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Path prefixes, each a location of nginx, with `streams` and the size of a `body`.

    A longer prefix has what the shorter ones have, as only one location answers a request.
    """
    sizes = {path: str(given["body"]) for path, given in limits.items() if "body" in given}
    found = {}
    for path in dict.fromkeys([*streaming, *sizes, "/"]):
        bodies = [prefix for prefix in sizes if path.startswith(prefix)]
        found[path] = {
            "streams": any(path.startswith(prefix) for prefix in streaming),
            "body": sizes[max(bodies, key=len)] if bodies else "",
        }
    return found


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
    """Directives that refuse what is too much of one client. The site's template declares the zones."""
    requests, at_once = [], []
    if rate != "0":
        requests.append(f"zone={site}.rate burst={burst} nodelay")
    if websocket_rate != "0":
        # all that a client may have at once come back together after a reload
        requests.append(f"zone={site}.rate.websockets burst={connections or burst} nodelay")
    if health_rate != "0":
        requests.append(f"zone={site}.rate.health burst={burst} nodelay")
    if connections:
        at_once.append(f"{site}.connections {connections}")
    for number, given in enumerate(limits.values(), 1):
        if "rate" in given:
            ahead = f" burst={given['burst']} nodelay" if given.get("burst") else ""
            requests.append(f"zone={site}.rate.{number}{ahead}")
        if "connections" in given:
            at_once.append(f"{site}.connections.{number} {given['connections']}")
    # who is refused stands in the access log
    usual = {f"limit_{kind}_{name}": value for kind in ("req", "conn") for name, value in _REFUSALS.items()}
    return {**usual, "limit_req": requests, "limit_conn": at_once}


def waits(rate: str, limits: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Seconds after which a client that asked too often may ask once more, by path prefix, the longest first."""
    usual = wait(rate)
    found = {path: max(usual, wait(given["rate"])) for path, given in limits.items() if "rate" in given}
    return dict(sorted({"/": usual, **found}.items(), key=lambda one: -one[1]))


def wait(rate: str) -> int:
    """Seconds after which a client that asked more often than `rate` may ask once more."""
    found = RATE.fullmatch(rate)
    return -(-(60 if found[2] == "m" else 1) // int(found[1])) if found else 1


def addresses(given: Iterable[str]) -> list[str]:
    """Those that are addresses or networks; a name stands for a list that belongs to somebody else."""
    return list(dict.fromkeys(one for one in given if _is_network(one)))


def network(text: str, *, strict: bool = True) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """As the ipaddress module reads it, but for a zone: an interface belongs to one host, and no server takes it.

    Raises ValueError.
    """
    if "%" in text:
        raise ValueError(text)
    return ipaddress.ip_network(text, strict=strict)


def _is_network(text: str) -> bool:
    try:
        network(text, strict=False)
    except ValueError:
        return False
    return True


def wrong(settings: Mapping[str, Any]) -> list[str]:
    """Sentences about settings that can't be, by name without the role's prefix, each with the fix."""
    found = []
    found += [
        f'nginx_site_{name} is "{settings[name]}". Write requests by second or minute, such as 500r/s or 600r/m, or 0 '
        "for no limit."
        for name in ("client_rate", "websocket_rate", "health_rate")
        if not _is_rate(settings[name])
    ]
    if wait(str(settings["health_rate"])) > 1:
        found.append(
            f'nginx_site_health_rate is "{settings["health_rate"]}", less than a monitor and a deploy need. Give at '
            "least 1r/s, or 0 for no limit."
        )
    if settings["client_burst"] < 0:
        found.append(f"nginx_site_client_burst is {settings['client_burst']}. Give a number of requests, 0 or more.")
    if settings["client_connections"] != 0 and settings["client_connections"] < BROWSER:
        found.append(
            f"nginx_site_client_connections is {settings['client_connections']}, but one browser opens {BROWSER}. "
            f"Give at least {BROWSER}, or 0 for no limit."
        )
    if settings["client_send_timeout"] < 1:
        found.append(f"nginx_site_client_send_timeout is {settings['client_send_timeout']}. Give seconds, above 0.")
    if settings["worker_requests"] != 0 and settings["worker_requests"] < 2:
        found.append(
            f"nginx_site_worker_requests is {settings['worker_requests']}: a warm-up or a health check would leave no "
            "room for a client. Give at least 2, or 0 for no limit."
        )
    if bad := [one for one in settings["unlimited_clients"] if not _is_network(str(one))]:
        found.append(
            f"nginx_site_unlimited_clients has {', '.join(map(str, bad))}. Give addresses or networks such as "
            "203.0.113.0/24."
        )
    if bad := [one for one in settings["unlimited_paths"] if not PATH.fullmatch(str(one))]:
        found.append(
            f"nginx_site_unlimited_paths has {', '.join(map(str, bad))}. Give whole paths without a query, such as "
            "/healthz."
        )
    for path, limits in settings["path_limits"].items():
        found += _wrong_of_a_path(str(path), limits)
    return found


def _is_rate(value: Any) -> bool:
    return str(value) == "0" or RATE.fullmatch(str(value)) is not None


def _wrong_of_a_path(path: str, limits: Any) -> list[str]:
    name = f'nginx_site_path_limits["{path}"]'
    if not PATH.fullmatch(path):
        return [f'nginx_site_path_limits has the path "{path}". Give a prefix without a query, such as /login.']
    if not isinstance(limits, Mapping) or not limits or set(limits) - set(OF_A_PATH):
        return [f"{name} needs one or several of {', '.join(OF_A_PATH)}, such as {{rate: 10r/m, burst: 5}}."]
    found = []
    if "rate" in limits and RATE.fullmatch(str(limits["rate"])) is None:
        found.append(f'{name} has the rate "{limits["rate"]}". Write requests by second or minute, such as 10r/m.')
    if "burst" in limits and ("rate" not in limits or not _is_number(limits["burst"], 0)):
        found.append(f'{name} has the burst "{limits["burst"]}". Give a number of requests, beside a rate.')
    if "connections" in limits and not _is_number(limits["connections"], 1):
        found.append(f'{name} has connections "{limits["connections"]}". Give a number, 1 or more.')
    if "body" in limits and not SIZE.fullmatch(str(limits["body"])):
        found.append(f'{name} has the body "{limits["body"]}". Write a size such as 100m, or 0 for no limit.')
    return found


def _is_number(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
