"""Changes between plain HTTP and TLS to the app servers: no step is skipped, and no port is closed too early."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.playbooks import plugin

transport = plugin("filter/transport").transport
filters = plugin("filter/transport").FilterModule().filters()

APPS, EDGES = ["app1", "app2"], ["edge1", "edge2"]
ADDRESSES = {"app1": "10.0.0.21", "app2": "10.0.0.22", "edge1": "10.0.0.11", "edge2": "10.0.0.12"}


def fleet(sends: str = "plain", takes_tls: bool = False, takes_plain: bool = True) -> dict[str, dict[str, Any]]:
    """The facts of a fleet whose hosts are all set up the same way."""
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


def problems(known: dict[str, dict[str, Any]], tls: str) -> list[str]:
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
def test_skipped_step_is_refused(known: dict[str, dict[str, Any]], settings: list[str]) -> None:
    assert [tls for tls in ("disabled", "offered", "required") if not problems(known, tls)] == settings


def test_message_about_a_skipped_step_names_the_fix() -> None:
    (sentence,) = problems(PLAIN, "required")
    assert (
        "app1, app2 doesn't accept requests by TLS yet. Set app_servers_tls: offered and run site.yml first" in sentence
    )
    (sentence,) = problems(TLS, "disabled")
    assert "edge1, edge2 still sends requests by TLS. Set app_servers_tls: offered" in sentence


def test_app_server_must_trust_the_address_of_its_own_nginx() -> None:
    # the run that offered TLS failed, and its activation was reverted
    known = {**OFFERED, "app2": {**OFFERED["app2"], "trusted": ["10.0.0.11"]}}
    (sentence,) = problems(known, "required")
    assert "required, and app2 doesn't" in sentence
    # a new app server gets no requests yet
    assert problems({**known, "app2": {**known["app2"], "release": ""}}, "required") == []


@pytest.mark.parametrize("excluded", ["app2", "edge2"])
def test_change_needs_all_hosts(excluded: str) -> None:
    for known, tls in ((OFFERED, "required"), (TLS, "offered"), (OFFERED, "disabled")):
        (sentence,) = problems({host: about for host, about in known.items() if host != excluded}, tls)
        assert f"{excluded} is excluded by --limit" in sentence
    # after the change, hosts may be excluded
    for known, tls in ((TLS, "required"), (OFFERED, "offered"), (PLAIN, "disabled")):
        assert problems({host: about for host, about in known.items() if host != excluded}, tls) == []


def plain_open(known: dict[str, dict[str, Any]]) -> bool:
    return bool(transport.is_plain_open(known, "app1", EDGES))


def test_plain_port_is_closed_when_no_edge_uses_it() -> None:
    assert plain_open(OFFERED)
    # until all of them have changed
    assert plain_open({**TLS, "edge2": OFFERED["edge2"]})
    assert not plain_open(TLS)
    assert not plain_open(FRESH)


@pytest.mark.parametrize("before", [True, False])
def test_plain_port_is_unchanged_without_the_facts_of_an_edge(before: bool) -> None:
    known = {**TLS, "app1": {**TLS["app1"], "takes_plain": before}}
    assert plain_open({host: about for host, about in known.items() if host != "edge2"}) is before


def test_run_that_changes_an_edge_closes_the_port() -> None:
    moving = [transport.is_moving(known, EDGES) for known in (OFFERED, {**TLS, "edge2": OFFERED["edge2"]}, TLS, FRESH)]
    assert moving == [True, True, False, False]


def test_edges_that_differ_from_the_setting_are_listed() -> None:
    mixed = {**TLS, "edge2": OFFERED["edge2"]}
    (sentence,) = transport.differing_problems(mixed, EDGES, "required")
    assert sentence.startswith("app_servers_tls is required, and edge2 sends requests without TLS. Run site.yml")
    (sentence,) = transport.differing_problems(mixed, EDGES, "offered")
    assert sentence.startswith("app_servers_tls is offered, and edge1 sends requests by TLS. Run site.yml")
    assert transport.differing_problems(FRESH, EDGES, "required") == []


def test_only_hosts_with_facts_are_included() -> None:
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
def test_invalid_setting_is_reported(values: dict[str, str], load_balancers: list[str], words: str) -> None:
    hostvars = {host: {} if value == "disabled" else {"app_servers_tls": value} for host, value in values.items()}
    apps = [host for host in values if host not in load_balancers]
    sentences = filters["transport_setting_problems"](hostvars, apps, load_balancers)
    assert (words in " ".join(sentences)) if words else sentences == []
