"""Changing between plain HTTP and TLS to the app servers: no step is left out, and no port is closed too early."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.playbooks import plugin

transport = plugin("filter/transport").transport
filters = plugin("filter/transport").FilterModule().filters()

APPS, EDGES = ["app1", "app2"], ["edge1", "edge2"]
ADDRESSES = {"app1": "10.0.0.21", "app2": "10.0.0.22", "edge1": "10.0.0.11", "edge2": "10.0.0.12"}


def fleet(sends: str = "plain", takes_tls: bool = False, takes_plain: bool = True) -> dict[str, dict[str, Any]]:
    """What hosts show that are all set up the same way."""
    trusted = ["10.0.0.11", "10.0.0.12"]
    apps = {
        host: {
            "sends": "",
            "takes_tls": takes_tls,
            "takes_plain": takes_plain,
            "trusted": [*trusted, ADDRESSES[host]] if takes_tls else trusted,
            "release": "a1",
        }
        for host in APPS
    }
    edge = {"sends": sends, "takes_tls": False, "takes_plain": False, "trusted": [], "release": ""}
    return {**apps, **{host: dict(edge) for host in EDGES}}


FRESH = {host: {**about, "sends": "", "release": "", "trusted": []} for host, about in fleet().items()}
PLAIN, OFFERED = fleet(), fleet(takes_tls=True)
TLS = fleet("tls", takes_tls=True, takes_plain=False)


def told(known: dict[str, dict[str, Any]], tls: str) -> list[str]:
    return list(transport.problems(known, ADDRESSES, APPS, EDGES, tls))


@pytest.mark.parametrize(
    ("known", "settings"),
    [
        (FRESH, ["disabled", "offered", "required"]),
        (PLAIN, ["disabled", "offered"]),
        (OFFERED, ["disabled", "offered", "required"]),
        (TLS, ["offered", "required"]),
    ],
    ids=["fresh", "plain", "offered", "TLS"],
)
def test_a_step_at_a_time_is_possible_and_a_skipped_one_is_refused(
    known: dict[str, dict[str, Any]], settings: list[str]
) -> None:
    assert [tls for tls in ("disabled", "offered", "required") if not told(known, tls)] == settings


def test_what_is_skipped_is_told_with_the_fix() -> None:
    (sentence,) = told(PLAIN, "required")
    assert (
        "app1, app2 doesn't accept requests by TLS yet. Set app_servers_tls: offered and run site.yml first" in sentence
    )
    (sentence,) = told(TLS, "disabled")
    assert "edge1, edge2 still sends requests by TLS. Set app_servers_tls: offered" in sentence


def test_an_app_server_that_takes_tls_has_to_trust_where_it_comes_from() -> None:
    # the run that was to offer it failed, and what was activated went back
    known = {**OFFERED, "app2": {**OFFERED["app2"], "trusted": ["10.0.0.11"]}}
    (sentence,) = told(known, "required")
    assert "required, and app2 doesn't" in sentence
    # a new one gets no request yet
    assert told({**known, "app2": {**known["app2"], "release": ""}}, "required") == []


@pytest.mark.parametrize("excluded", ["app2", "edge2"])
def test_a_change_needs_all_hosts(excluded: str) -> None:
    for known, tls in ((OFFERED, "required"), (TLS, "offered"), (OFFERED, "disabled")):
        (sentence,) = told({host: about for host, about in known.items() if host != excluded}, tls)
        assert f"{excluded} is excluded by --limit" in sentence
    # where it has been made, they may be left out
    for known, tls in ((TLS, "required"), (OFFERED, "offered"), (PLAIN, "disabled")):
        assert told({host: about for host, about in known.items() if host != excluded}, tls) == []


def plain_open(known: dict[str, dict[str, Any]]) -> bool:
    return bool(transport.is_plain_open(known, "app1", EDGES))


def test_the_plain_port_is_closed_when_no_edge_sends_to_it() -> None:
    assert plain_open(OFFERED)
    # as long as one of them has not changed
    assert plain_open({**TLS, "edge2": OFFERED["edge2"]})
    assert not plain_open(TLS)
    assert not plain_open(FRESH)


@pytest.mark.parametrize("before", [True, False])
def test_the_plain_port_stays_as_it_is_while_an_edge_is_not_known(before: bool) -> None:
    known = {**TLS, "app1": {**TLS["app1"], "takes_plain": before}}
    assert plain_open({host: about for host, about in known.items() if host != "edge2"}) is before


def test_the_port_is_closed_by_the_run_in_which_an_edge_changes() -> None:
    moving = [transport.is_moving(known, EDGES) for known in (OFFERED, {**TLS, "edge2": OFFERED["edge2"]}, TLS, FRESH)]
    assert moving == [True, True, False, False]


def test_edges_that_do_not_send_as_the_setting_says_are_told() -> None:
    mixed = {**TLS, "edge2": OFFERED["edge2"]}
    assert list(transport.differing(mixed, EDGES, "required")) == ["edge2"]
    assert list(transport.differing(mixed, EDGES, "offered")) == ["edge1"]
    assert list(transport.differing(FRESH, EDGES, "required")) == []


def test_hosts_that_were_asked_are_known() -> None:
    about = {"sends": "", "takes_tls": True, "takes_plain": True, "trusted": []}
    hostvars = {
        "app1": {"ansible_facts": {"app_transport": about, "app_release": "a1"}},
        "app2": {"ansible_facts": {}},
        "edge1": {},
    }
    assert filters["known_transport"](hostvars, list(hostvars)) == {"app1": {**about, "release": "a1"}}


@pytest.mark.parametrize(
    ("values", "load_balancers", "words"),
    [
        ({"app1": "required", "edge1": "required"}, ["edge1"], ""),
        ({"app1": "disabled"}, [], ""),
        (
            {"app1": "required", "edge1": "disabled"},
            ["edge1"],
            "(app1 required, edge1 disabled). Set it for all of them",
        ),
        ({"app1": "offered"}, [], "the group load_balancers is empty"),
    ],
)
def test_a_setting_that_can_not_be_is_told(values: dict[str, str], load_balancers: list[str], words: str) -> None:
    hostvars = {host: {} if value == "disabled" else {"app_servers_tls": value} for host, value in values.items()}
    apps = [host for host in values if host not in load_balancers]
    sentences = filters["transport_setting_problems"](hostvars, apps, load_balancers)
    assert (words in " ".join(sentences)) if words else sentences == []
