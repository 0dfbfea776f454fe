"""The directives of limits, and their validation."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.edge import limits

GOOD: dict[str, Any] = {
    "client_rate": "500r/s",
    "client_connections": 200,
    "websocket_rate": "20r/s",
    "health_rate": "60r/m",
    "health_path": "/readyz",
    "worker_requests": 50,
    "unlimited_clients": ["192.0.2.0/24", "2001:db8::1"],
    "unlimited_paths": ["/healthz"],
    "path_limits": {
        "/login": {"rate": "10r/m", "burst": 0, "connections": 1},
        "/upload": {"body": "1g"},
        "/": {"body": 0},
    },
}


def test_valid_limits_are_accepted() -> None:
    assert limits.wrong(GOOD) == []
    off = {"client_rate": "0", "client_connections": 0, "worker_requests": 0, "path_limits": {}}
    assert limits.wrong({**GOOD, **off, "websocket_rate": "0", "health_rate": "0"}) == []


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("client_rate", "many", '"many". Write requests by second or minute'),
        ("client_rate", "500", "such as 500r/s"),
        ("client_rate", "0r/s", "such as 500r/s"),
        ("client_rate", "-1r/s", "such as 500r/s"),
        ("client_rate", "5r/s\n", "such as 500r/s"),
        ("websocket_rate", "20", "such as 500r/s"),
        ("health_rate", "often", "such as 500r/s"),
        ("health_rate", "59r/m", "too low for the health page"),
        ("client_connections", 5, "but one browser opens 6"),
        ("worker_requests", 1, "at least 2, or 0"),
        ("unlimited_clients", ["office"], "has office. Give addresses or networks"),
        ("unlimited_clients", ["192.0.2.0/33"], "has 192.0.2.0/33"),
        ("unlimited_paths", ["healthz"], "has healthz. Give complete paths"),
        ("unlimited_paths", ["/a;b"], "has /a;b"),
        ("path_limits", {"login": {"rate": "1r/s"}}, 'the path "login"'),
        ("path_limits", {'/a"b': {"rate": "1r/s"}}, "Give a prefix"),
        ("path_limits", {"/a": {}}, 'nginx_site_path_limits["/a"] needs one or more of rate'),
        ("path_limits", {"/a": "1r/s"}, "needs one or more of rate"),
        ("path_limits", {"/a": {"speed": 1}}, "needs one or more of rate"),
        ("path_limits", {"/a": {"rate": 10}}, 'has the rate "10"'),
        ("path_limits", {"/a": {"rate": "1r/s", "burst": -1}}, 'has the burst "-1"'),
        ("path_limits", {"/a": {"burst": 1}}, "together with a rate"),
        ("path_limits", {"/a": {"connections": 0}}, 'has connections "0"'),
        ("path_limits", {"/a": {"connections": True}}, 'has connections "True"'),
        ("path_limits", {"/a": {"connections": 65536}}, "Give a number from 1 to 65535."),
        ("path_limits", {"/a": {"body": "9999999999g"}}, 'has the body "9999999999g"'),
        ("path_limits", {"/a": {"body": "large"}}, 'has the body "large"'),
    ],
)
def test_invalid_limit_is_reported_with_the_setting_and_the_fix(setting: str, value: Any, words: str) -> None:
    (message,) = limits.wrong({**GOOD, setting: value})
    assert f"nginx_site_{setting}" in message
    assert words in message


def test_low_rate_of_a_site_is_reported_only_with_a_health_page() -> None:
    """By default, the health page has the rate of the site."""
    slow = {**GOOD, "client_rate": "30r/m", "health_rate": "30r/m"}
    assert limits.wrong({**slow, "health_path": ""}) == []
    (message,) = limits.wrong(slow)
    assert message.startswith('nginx_site_client_rate is "30r/m", too low for the health page')
    assert "Set nginx_site_health_rate to at least 1r/s" in message
    assert limits.wrong({**slow, "health_rate": "1r/s"}) == []


def test_limit_of_a_server_follows_from_its_workers() -> None:
    assert limits.upstream_limits(["a", "b", "c"], {"a": 5, "b": 3}, 50) == {"a": 250, "b": 150, "c": 150}
    assert limits.upstream_limits(["a"], {"a": 5}, 0) == {}
    assert limits.upstream_limits(["a"], {}, 50) == {}


@pytest.mark.parametrize("workers", [1, 2, 3, 5, 17])
@pytest.mark.parametrize("each", [8, 10, 64, 1000])
@pytest.mark.parametrize("servers", [1, 2])
def test_one_client_cannot_use_all_places(workers: int, each: int, servers: int) -> None:
    upstreams = [f"10.0.0.{number}:8000" for number in range(servers)]
    counts = dict.fromkeys(upstreams, workers)
    places = sum(limits.upstream_limits(upstreams, counts, each).values())
    one = limits.client_connections(upstreams, counts, each)
    assert limits.BROWSER <= one <= limits.CONNECTIONS
    assert places - one >= places / 4
    assert limits.wrong({**GOOD, "client_connections": one}) == []


@pytest.mark.parametrize(("workers", "each"), [({}, 64), ({"a": 3}, 0)])
def test_client_connections_default_without_a_server_limit(workers: dict[str, int], each: int) -> None:
    assert limits.client_connections(["a"], workers, each) == limits.CONNECTIONS


def test_handshakes_and_the_health_page_have_separate_rates() -> None:
    found = limits.directives("a", "500r/s", 9, 7, {}, websocket_rate="2r/s", health_rate="5r/s")
    # the burst allows as many WebSockets as a client may reopen at once
    assert found["limit_req"] == [
        "zone=a.rate burst=9 nodelay",
        "zone=a.rate.websockets burst=7 nodelay",
        "zone=a.rate.health burst=9 nodelay",
    ]
    without = limits.directives("a", "0", 9, 0, {}, websocket_rate="2r/s")
    assert without["limit_req"] == ["zone=a.rate.websockets burst=9 nodelay"]
    no_burst = limits.directives("a", "9r/s", 0, 0, {"/b": {"rate": "1r/s"}}, websocket_rate="2r/s", health_rate="5r/s")
    assert no_burst["limit_req"] == ["zone=a.rate", "zone=a.rate.websockets", "zone=a.rate.health", "zone=a.rate.1"]


def test_longest_prefix_inherits_from_the_shorter_ones() -> None:
    found = limits.locations(["/up/events"], {"/up": {"body": "1g"}, "/login": {"rate": "1r/s"}})
    assert found == {
        "/up/events": {"streams": True, "body": "1g", "upstream": "uncounted"},
        "/up": {"streams": False, "body": "1g", "upstream": "counted"},
        "/": {"streams": False, "body": "", "upstream": "counted"},
    }
    assert limits.locations(["/"], {})["/"]["streams"]
    sizes = limits.locations([], {"/": {"body": "1m"}, "/up": {"body": "1g"}, "/up/large": {"body": 0}})
    assert {path: location["body"] for path, location in sizes.items()} == {"/": "1m", "/up": "1g", "/up/large": "0"}


def test_exact_path_inherits_from_the_prefixes() -> None:
    found = limits.locations(["/up/events"], {"/up": {"body": "1g"}}, ["/up/events/all", "/feed", "/readyz"], "/readyz")
    assert {path: location for path, location in found.items() if path.startswith("= ")} == {
        "= /up/events/all": {"streams": True, "body": "1g", "upstream": "uncounted"},
        "= /feed": {"streams": False, "body": "", "upstream": "uncounted"},
        # its own limit applies also if it is among the unlimited paths
        "= /readyz": {"streams": False, "body": "", "upstream": "health"},
    }
    assert limits.locations(["/"], {"/": {"body": "1m"}}, [], "/readyz")["= /readyz"] == {
        "streams": True,
        "body": "1m",
        "upstream": "health",
    }


@pytest.mark.parametrize(("rate", "seconds"), [("0", 1), ("500r/s", 1), ("10r/m", 6), ("7r/m", 9), ("1r/m", 60)])
def test_retry_after_is_the_interval_of_the_rate(rate: str, seconds: int) -> None:
    assert limits.waits(rate, {}) == {"/": seconds}


def test_retry_after_of_a_path_is_at_least_the_sites() -> None:
    rates = {"/search": "30r/m", "/login": "1r/m", "/": "20r/m"}
    given = {"/upload": {"body": "1g"}, **{path: {"rate": rate} for path, rate in rates.items()}}
    assert list(limits.waits("500r/s", given).items()) == [("/login", 60), ("/", 3), ("/search", 2)]
    assert limits.waits("10r/m", given)["/search"] == 6


def test_preset_names_are_no_addresses() -> None:
    assert limits.addresses(["192.0.2.1", "cloudflare", "2001:db8::/32", "192.0.2.1"]) == ["192.0.2.1", "2001:db8::/32"]


@pytest.mark.parametrize(
    ("networks", "expected"),
    [
        ([], []),
        (["10.0.0.0/8"], ["10.0.0.1"]),
        (["10.0.0.7/8", "fe80::/10"], ["10.0.0.1", "fe80::1%eth0"]),
        (["10.0.0.1", "192.168.0.0/16"], ["10.0.0.1"]),
        (["::/0"], ["fe80::1%eth0", "fd00::1"]),
    ],
    ids=str,
)
def test_addresses_within_networks(networks: list[str], expected: list[str]) -> None:
    addresses = ["10.0.0.1", "fe80::1%eth0", "fd00::1", "11.0.0.1", "no address", ""]
    assert limits.within(addresses, networks) == expected


@pytest.mark.parametrize(
    ("workers", "each", "connections"),
    # three quarters, within the limits of a browser and of the default
    [(3, 10, 45), (1, 9, 13), (1, 4, 6), (1, 1, 6), (17, 8, 200), (1, 134, 200), (1, 133, 199)],
)
def test_one_client_may_use_three_quarters_of_all_places(workers: int, each: int, connections: int) -> None:
    assert limits.client_connections(["a", "b"], {"a": workers, "b": workers}, each) == connections
