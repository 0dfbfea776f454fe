"""Which servers of a site get requests, and when a drained server has no requests left."""

from __future__ import annotations

import pytest
from ansible_collections.baton.web.plugins.module_utils.edge import upstream
from ansible_collections.baton.web.plugins.module_utils.edge.upstream import Connection

SITE = """\
upstream other {
    server 10.0.0.21:9000 max_fails=0;
}
upstream links {
    zone links 128k;
    least_conn;
    server 10.0.0.21:8000 max_fails=0;
    server 10.0.0.22:8000 max_fails=0 down;
    server [fd00::23]:8000 max_fails=0;
    keepalive 32;
}
server {
}
"""
A, B, C = "10.0.0.21:8000", "10.0.0.22:8000", "[fd00::23]:8000"


def host(server: str) -> str:
    """The address of a server, without its port."""
    return server.rpartition(":")[0]


def test_app_servers_are_named_by_address_and_port() -> None:
    known = {"app1": {"baton_address": "10.0.0.21"}, "app2": {"baton_address": "10.0.0.22"}}
    assert upstream.addresses(["app2", "app1"], known, 8000) == [B, A]
    assert upstream.addresses([], known, 8000) == []


def test_servers_of_one_site_are_read() -> None:
    assert upstream.servers(SITE, "links") == {A: False, B: True, C: False}


def test_named_servers_are_drained_or_restored_and_others_stay() -> None:
    text = upstream.marked(SITE, "links", [host(A)], [])
    assert upstream.servers(text, "links") == {A: True, B: True, C: False}
    restored = upstream.marked(SITE, "links", [host(A)], [host(B), host(C)])
    assert upstream.servers(restored, "links") == {A: True, B: False, C: False}
    assert upstream.servers(text, "other") == upstream.servers(SITE, "other")


def test_marking_twice_changes_nothing() -> None:
    assert upstream.marked(SITE, "links", [host(B)], [host(C)]) == SITE


def test_all_servers_are_restored() -> None:
    assert " down;" not in upstream.marked(SITE, "links", [], [*map(host, (A, B, C))])


@pytest.mark.parametrize(
    ("site", "drained", "words"),
    [
        ("links", [host(A), host(C)], "no server of the site links would remain"),
        (
            "links",
            ["10.0.0.2"],
            "10.0.0.2 can't be drained or enabled: the site links only has the servers",
        ),
        ("nothing", [], "The site nothing has no upstream"),
    ],
)
def test_invalid_drain_is_refused(site: str, drained: list[str], words: str) -> None:
    with pytest.raises(upstream.UpstreamError, match=words.replace("[", r"\[")):
        upstream.marked(SITE, site, drained, [])


def test_names_are_resolved_to_addresses() -> None:
    assert "127.0.0.1:8000" in upstream.peers(["localhost:8000"])
    assert upstream.peers([C]) == {C}


def test_only_connections_of_nginx_are_parsed() -> None:
    listing = (
        '0 0 10.0.0.11:40000  10.0.0.21:8000 users:(("nginx",pid=12,fd=3))\n'
        '0 0 10.0.0.11:443    192.0.2.9:50000 users:(("nginx",pid=12,fd=4),("nginx",pid=11,fd=4))\n'
        '0 0 10.0.0.11:40001  10.0.0.21:8000 users:(("curl",pid=99,fd=3))\n'
    )
    assert list(upstream._parse(listing)) == [Connection(12, A), Connection(12, "192.0.2.9:50000")]


CLIENT = "192.0.2.9:50000"


@pytest.mark.parametrize(
    ("open_", "requests"),
    [
        ([], 0),
        ([Connection(12, CLIENT), Connection(12, A)], 1),  # an answer in progress, by the old configuration
        ([Connection(12, CLIENT), Connection(12, C)], 0),  # a WebSocket to a remaining server
        ([Connection(12, CLIENT)], 1),  # an upload whose server isn't known yet
        ([Connection(13, CLIENT), Connection(13, C), Connection(13, CLIENT)], 0),  # by the new configuration
    ],
)
def test_drained_server_is_idle_when_no_request_can_reach_it(open_: list[Connection], requests: int) -> None:
    assert upstream.busy(open_, {12}, {A, B, C}, {A}) == requests


@pytest.mark.parametrize(
    ("open_", "requests"),
    [
        ([], 0),
        ([Connection(12, CLIENT), Connection(12, A)], 0),  # an answer or a WebSocket, which goes on
        ([Connection(12, CLIENT)], 1),  # an upload that is yet to go to one of them
        ([Connection(12, CLIENT), Connection(12, A), Connection(12, CLIENT)], 1),
        ([Connection(13, CLIENT)], 0),  # the new configuration's
    ],
)
def test_what_a_former_worker_is_still_receiving_is_yet_to_be_passed_on(open_: list[Connection], requests: int) -> None:
    assert upstream.unsent(open_, {12}, {A, B, C}) == requests


def test_all_upstreams_of_a_site_are_marked() -> None:
    limited = SITE.replace("max_fails=0", "max_fails=0 max_conns=250")
    servers = limited[limited.index("upstream links") : limited.index("server {")]
    others = [servers.replace("upstream links", f"upstream links{other}") for other in (".uncounted", ".health")]
    text = limited + "".join(others)
    marked = upstream.marked(text, "links", [host(A)], [host(B)])
    for name in ("links", "links.uncounted", "links.health"):
        assert upstream.servers(marked, name) == {A: True, B: False, C: False}
    assert marked.count("max_conns=250 down;") == 3
