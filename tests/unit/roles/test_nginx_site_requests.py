"""Requests to one virtual host of a real nginx."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.support.local_nginx import CLIENT, EDGE, NAME, PEER, Edge, running
from tests.support.wait import PATIENCE

TOKEN, OF_PEER, UNKNOWN = "token-of-this-edge_0123", "token-of-the-peer_01234", "token-of-no-edge_012345"
SCHEMES = pytest.mark.parametrize("scheme", ["http", "https"])


@pytest.fixture
def edge(
    load_role: Callable[[str], Any], tmp_path: pathlib.Path
) -> Callable[..., contextlib.AbstractContextManager[Edge]]:
    """Runs nginx with settings of the role."""
    return lambda **given: running(load_role, tmp_path, **given)


def with_low_limit(text: str) -> str:
    """The site's text with a limit of three challenges of a client."""
    assert text.count("acme:10m rate=20r/s;") == 1
    assert text.count("acme burst=200 nodelay;") == 2
    return text.replace("acme:10m rate=20r/s;", "acme:10m rate=1r/m;").replace("acme burst=200", "acme burst=2")


@pytest.fixture
def acme(
    edge: Callable[..., contextlib.AbstractContextManager[Edge]], tmp_path: pathlib.Path
) -> Callable[..., contextlib.AbstractContextManager[Edge]]:
    """Runs nginx as one of two edges that share an ACME certificate, with a challenge."""
    folder = tmp_path / "acme/challenges/.well-known/acme-challenge"
    folder.mkdir(parents=True)
    for name in (TOKEN, "short"):
        (folder / name).write_text("answer")
    (folder.parent / "secret").write_text("secret")

    @contextlib.contextmanager
    def run(**given: Any) -> Any:
        settings = {"nginx_site_acme_state_directory": str(tmp_path / "acme"), "nginx_site_acme_peers": [PEER]}
        with edge(**{**settings, **given}) as found:
            found.peer.answer = lambda path: (200, "of the peer") if path.endswith(OF_PEER) else (404, "")
            yield found

    return run


@SCHEMES
def test_challenge_is_answered_by_http_and_https(acme: Callable[..., Any], scheme: str) -> None:
    with acme() as edge:
        assert edge.challenge(TOKEN, scheme) == (200, "answer")
        assert edge.peer.paths == []
        assert edge.challenge(OF_PEER, scheme) == (200, "of the peer")
        ((path, headers),) = edge.peer.requests
        assert path == f"/.well-known/acme-challenge/{OF_PEER}"
        # nothing that a client sends
        assert headers == {"host": NAME, "x-baton-acme": "1", "connection": "close"}
        assert edge.challenge(UNKNOWN, scheme)[0] == 404
        assert edge.application.paths == []


def test_challenge_needs_no_client_certificate(acme: Callable[..., Any]) -> None:
    with acme(nginx_site_client_certificates="required", nginx_site_health_path="/readyz") as edge:
        assert edge.ask("/")[0] == 403
        assert edge.challenge(TOKEN) == (200, "answer")
        assert edge.challenge(OF_PEER) == (200, "of the peer")
        for path in (f"/x/../.well-known/acme-challenge/{TOKEN}", f"/.well-known/acme-challenge/{TOKEN}/../../../x"):
            assert edge.ask(path)[0] == 403, path
        assert edge.application.paths == []


def test_maintenance_and_a_clients_limits_do_not_apply_to_challenges(
    acme: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    with acme(nginx_site_client_rate="1r/m", nginx_site_client_burst=0) as edge:
        assert [edge.ask("/")[0], edge.ask("/")[0]] == [200, 429]
        assert edge.challenge(TOKEN) == (200, "answer")
        for name in ("maintenance", "maintenance.html"):
            (tmp_path / "state" / name).touch()
        assert edge.ask("/", client="127.0.0.9")[0] == 503
        assert edge.challenge(TOKEN, client="127.0.0.9") == (200, "answer")


@SCHEMES
def test_only_tokens_are_looked_up_or_forwarded(acme: Callable[..., Any], scheme: str) -> None:
    with acme() as edge:
        for token in ("", "short", "a" * 15, f"{OF_PEER}/", f"{OF_PEER}%0a", f"{OF_PEER}.txt", f"x/{OF_PEER}"):
            assert edge.challenge(token, scheme)[0] == 404, token
        # outside of the folder, a path is like any other
        assert edge.challenge("../secret", scheme)[0] == (308 if scheme == "http" else 200)
        assert edge.peer.paths == []
        assert edge.challenge("a" * 16, scheme)[0] == 404
        assert len(edge.peer.paths) == 1


@SCHEMES
def test_challenges_have_a_limit_by_client_that_other_edges_lack(acme: Callable[..., Any], scheme: str) -> None:
    with acme(change=with_low_limit) as edge:
        assert [edge.challenge(UNKNOWN, scheme)[0] for _ in range(4)] == [404, 404, 404, 429]
        # of which a client can't use up the others'
        assert edge.challenge(TOKEN, scheme, client="127.0.0.9") == (200, "answer")
        assert [edge.challenge(TOKEN, scheme, client=PEER)[0] for _ in range(9)] == [200] * 9
        assert len(edge.peer.paths) == 3


@SCHEMES
def test_edge_that_is_asked_by_another_one_asks_no_further(acme: Callable[..., Any], scheme: str) -> None:
    with acme() as edge:
        assert edge.challenge(OF_PEER, scheme, client=PEER, **{"X-Baton-Acme": "1"})[0] == 404
        assert edge.peer.paths == []


PROXY = {"nginx_site_trusted_proxies": [CLIENT]}


@SCHEMES
@pytest.mark.parametrize(
    ("given", "sent", "client"),
    [
        ({}, {"X-Forwarded-For": "192.0.2.7"}, CLIENT),
        (PROXY, {"X-Forwarded-For": "192.0.2.6, 192.0.2.7"}, "192.0.2.7"),
        (PROXY, {}, CLIENT),
        (PROXY | {"nginx_site_trusted_proxies_header": "X-Client"}, {"X-Client": "192.0.2.7"}, "192.0.2.7"),
        (
            PROXY | {"nginx_site_directives": {"real_ip_recursive": "off"}},
            {"X-Forwarded-For": f"192.0.2.7, {CLIENT}"},
            CLIENT,
        ),
        (PROXY, {"X-Forwarded-For": f"192.0.2.7, {CLIENT}"}, "192.0.2.7"),
    ],
    ids=["no proxy", "a proxy", "a proxy's own", "another header", "the last address", "the last untrusted address"],
)
def test_client_is_the_one_that_a_trusted_proxy_names(
    edge: Callable[..., Any], scheme: str, given: dict[str, Any], sent: dict[str, str], client: str
) -> None:
    with edge(**given) as found:
        assert found.ask("/", scheme, **sent)[0] in (200, 308)
        assert found.clients(1) == [client]


@SCHEMES
def test_challenges_have_a_limit_by_client_of_a_trusted_proxy(acme: Callable[..., Any], scheme: str) -> None:
    with acme(change=with_low_limit, **PROXY) as edge:
        asked = [edge.challenge(UNKNOWN, scheme, **{"X-Forwarded-For": "192.0.2.7"})[0] for _ in range(4)]
        assert asked == [404, 404, 404, 429]
        assert edge.challenge(TOKEN, scheme, **{"X-Forwarded-For": "192.0.2.8"}) == (200, "answer")
        # the proxy can't pass a client off as another edge, which has no limit
        asked = [edge.challenge(UNKNOWN, scheme, **{"X-Forwarded-For": PEER})[0] for _ in range(4)]
        assert asked == [404, 404, 404, 429]


def test_only_other_edges_get_the_certificate(acme: Callable[..., Any], tmp_path: pathlib.Path) -> None:
    (tmp_path / "acme/bundle").write_text("bundle")
    with acme(**PROXY) as edge:
        for client, headers, status in (
            (PEER, {}, 200),
            (PEER, {"X-Forwarded-For": "192.0.2.7"}, 200),
            (CLIENT, {}, 403),
            (CLIENT, {"X-Forwarded-For": PEER}, 403),
            ("127.0.0.9", {"X-Forwarded-For": PEER}, 403),
        ):
            asked = edge.ask("/.well-known/acme-certificate", "http", client=client, **headers)
            assert asked[0] == status, (client, headers)
        assert edge.application.paths == []


@SCHEMES
def test_malformed_request_lines_are_refused(edge: Callable[..., Any], scheme: str) -> None:
    # without this configuration, nginx corrects them or passes them on as they are
    malformed = (
        *("GET  /a HTTP/1.1", "GET /a  HTTP/1.1", "GET /a HTTP/1.1 ", "GET /a HTTP/1.01", "GET /a HTTP/1.10"),
        *("GET /a#b HTTP/1.1", "GET /a?b#c HTTP/1.1", f"GET http://{NAME}/a#b HTTP/1.1"),
    )
    good = (
        *("GET /a HTTP/1.1", "GET /a HTTP/1.0", f"GET http://{NAME}/a HTTP/1.1"),
        *("GET /%C3%A9?a=b&c=%20 HTTP/1.1", "GET /\u00e9?<> HTTP/1.1"),
    )
    rest = f"\r\nHost: {NAME}\r\nConnection: close\r\n\r\n"
    with edge() as found:
        for line in malformed:
            assert found.send(f"{line}{rest}".encode(), scheme) == [400], line
        assert found.application.paths == []
        for line in good:
            assert found.send(f"{line}{rest}".encode(), scheme) == [308 if scheme == "http" else 200], line


def test_requests_of_http2_are_accepted(edge: Callable[..., Any]) -> None:
    with edge() as found, httpx.Client(verify=False, http2=True, timeout=PATIENCE) as client:
        address = f"https://{EDGE}:{found.https_port}/a?b"
        answer = client.get(address, headers={"Host": NAME}, extensions={"sni_hostname": NAME})
    assert (answer.status_code, answer.http_version) == (200, "HTTP/2")


# nginx has no setting to refuse these: before any directive is evaluated, it has dropped what would show them
@pytest.mark.parametrize(
    ("text", "headers"),
    [
        ("GET /a HTTP/1.1\nHost: {name}\nX-A: 1\nConnection: close\n\n", {"x-a": "1"}),
        ("GET /a HTTP/1.1\r\nHost: {name}\r\nX-A: 1\nX-B: 2\r\nConnection: close\r\n\r\n", {"x-a": "1", "x-b": "2"}),
        (
            "POST /a HTTP/1.1\r\nHost: {name}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
            "1;a=b\nx\n0\nX-A: 1\n\n",
            {"content-length": "1"},
        ),
        ("GET /a HTTP/1.1\r\nHost: {name}\r\nX_A: 1\r\nX.A: 2\r\nConnection: close\r\n\r\n", {}),
        ("GET /a HTTP/1.1\r\nHost: {name}\r\nX-A\r\nX_B\r\nConnection: close\r\n\r\n", {"x-a": ""}),
        ("\r\n\r\nGET /a HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n", {}),
        ("GET /a HTTP/1.1\r\nHost: {name}\r\nX-A: 1\x072\r\nConnection: close\r\n\r\n", {"x-a": "1\x072"}),
    ],
    ids=["LF", "LF of a field", "LF in chunks", "other names", "no colon", "blank lines", "control character"],
)
def test_what_nginx_corrects_reaches_the_application_as_one_request(
    edge: Callable[..., Any], text: str, headers: dict[str, str]
) -> None:
    with edge() as found:
        assert found.send(text.format(name=NAME).encode()) == [200]
        ((path, seen),) = found.application.requests
        assert path == "/a"
        framing = ("content-length", "transfer-encoding")
        assert {name: value for name, value in seen.items() if len(name) == 3 or name in framing} == headers


def test_application_answers_challenges_if_the_edge_has_none(edge: Callable[..., Any]) -> None:
    with edge() as found:
        assert found.challenge(TOKEN)[0] == 200
        assert found.application.paths == [f"/.well-known/acme-challenge/{TOKEN}"]


@pytest.mark.parametrize("path", ["/READYZ", "/Feed", "/readyz%0a", "/feed%0a"])
def test_paths_without_limits_are_exact(edge: Callable[..., Any], path: str) -> None:
    given = {
        "nginx_site_health_path": "/readyz",
        "nginx_site_unlimited_paths": ["/feed"],
        "nginx_site_client_rate": "1r/m",
        "nginx_site_health_rate": "0",
        "nginx_site_client_burst": 0,
        "nginx_site_path_limits": {"/": {"rate": "1r/m"}},
    }
    with edge(**given) as found:
        for _ in range(3):
            assert found.ask("/readyz")[0] == 200
            assert found.ask("/feed")[0] == 200
        assert [found.ask(path)[0] for _ in range(3)] == [200, 429, 429]


@pytest.mark.parametrize("path", ["/api/feed", "/api/readyz", "/api/other"])
def test_exact_paths_have_the_settings_of_their_prefix(edge: Callable[..., Any], path: str) -> None:
    given = {
        "nginx_site_health_path": "/api/readyz",
        "nginx_site_unlimited_paths": ["/api/feed", "/other"],
        "nginx_site_streaming_paths": ["/api"],
        "nginx_site_path_limits": {"/api": {"body": "2k"}},
        "nginx_site_client_max_body_size": "1k",
    }
    with edge(**given) as found:
        # streams aren't compressed
        answer = "text " * 1000
        found.application.answer = lambda _: (200, answer)
        compressed = {"Accept-Encoding": "gzip"}
        assert found.ask(path, **compressed) == (200, answer)
        assert found.ask("/other", **compressed)[1] != answer
        assert found.ask(path, body=b"x" * 2048)[0] == 200
        assert found.ask(path, body=b"x" * 2049)[0] == 413
        assert found.ask("/other", body=b"x" * 1025)[0] == 413
