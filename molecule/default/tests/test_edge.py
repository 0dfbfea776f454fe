"""The edge from a client's point of view."""

from __future__ import annotations

import json
import socket
import ssl
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.support import nginx
from tests.support.wait import PATIENCE

from .conftest import APP_SERVERS, NAME, PORT, Edge, other

pytestmark = pytest.mark.hosts("edge1")


def test_application_reaches_database_and_redis(edge: Edge) -> None:
    assert edge("/readyz").json() == {"status": "ok", "checks": {"database": "ok", "schema": "ok", "redis": "ok"}}


def test_links_are_stored_in_postgresql(edge: Edge) -> None:
    slug = edge("/api/links", "POST", json={"url": "https://example.org/kept"}).json()["slug"]
    query = f"SELECT url FROM links WHERE slug = '{slug}'"
    data = other("data1")
    assert data.check_output(f'runuser -u postgres -- psql -qtA links -c "{query}"') == "https://example.org/kept"
    assert edge(f"/api/links/{slug}", "DELETE").status_code == 204


@pytest.mark.parametrize(
    "forged",
    [
        {"X-Forwarded-For": "6.6.6.6"},
        {"X-Forwarded-Proto": "http", "X-Forwarded-Host": "evil.example"},
        {"Forwarded": "for=6.6.6.6;proto=http;host=evil.example"},
        {"X-Real-IP": "6.6.6.6"},
    ],
)
def test_client_cannot_forge_forwarded_headers(edge: Edge, forged: dict[str, str]) -> None:
    seen = edge("/api/whoami", headers=forged).json()
    assert seen["client"] not in ("6.6.6.6", "")
    assert seen["scheme"] == "https"
    assert seen["headers"]["x-forwarded-host"][0].startswith(NAME)
    assert "6.6.6.6" not in json.dumps(seen["headers"])
    assert "evil.example" not in json.dumps(seen["headers"])


def test_application_sees_client_address(host: Any, edge: Edge) -> None:
    assert edge("/api/whoami").json()["client"] != host.ansible.get_variables()["fleet_address"]


def test_http_redirects_to_https() -> None:
    answer = httpx.get("http://127.0.0.1:18080/a/b?c=d", headers={"Host": NAME}, timeout=PATIENCE)
    assert answer.status_code == 308
    assert answer.headers["location"] == f"https://{NAME}:{PORT}/a/b?c=d"


def test_http2_is_supported(trust: ssl.SSLContext) -> None:
    with httpx.Client(base_url=f"https://127.0.0.1:{PORT}", verify=trust, http2=True, timeout=PATIENCE) as client:
        answer = client.get("/healthz", headers={"Host": NAME}, extensions={"sni_hostname": NAME})
    assert (answer.status_code, answer.http_version) == (200, "HTTP/2")


def test_unknown_name_gets_no_certificate() -> None:
    # a client that accepts any certificate: one that checks names would refuse it itself
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", PORT), PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname=NAME) as known,
    ):
        assert known.getpeercert(binary_form=True)
    with (
        socket.create_connection(("127.0.0.1", PORT), PATIENCE) as plain,
        pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"),
    ):
        context.wrap_socket(plain, server_hostname="other.example")


def test_unknown_name_gets_no_response_over_http() -> None:
    # the connection is closed or reset
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        httpx.get("http://127.0.0.1:18080/", headers={"Host": "other.example"}, timeout=PATIENCE)


def test_old_tls_is_refused() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", PORT), PATIENCE) as plain,
        # the server's alert: a client without the protocol raises NO_PROTOCOLS_AVAILABLE
        pytest.raises(ssl.SSLError, match="ALERT_PROTOCOL_VERSION"),
    ):
        context.wrap_socket(plain, server_hostname=NAME)


def test_large_body_is_refused(edge: Edge) -> None:
    assert edge("/api/links", "POST", content=b"x" * (10 * 2**20 + 1)).status_code == 413


def test_responses_of_nginx_have_logged_request_id(host: Any, edge: Edge) -> None:
    answers = [
        edge("/api/links", "POST", content=b"x" * (10 * 2**20 + 1)),
        edge("/.baton-maintenance/maintenance.html"),
    ]
    assert [answer.status_code for answer in answers] == [413, 404]
    ids = [answer.headers["x-request-id"] for answer in answers]
    logged = nginx.logged(host, "links", ids)
    assert [logged[one]["status"] for one in ids] == [413, 404]


@pytest.mark.parametrize("name", ["", "maintenance.html", "maintenance.json"])
def test_maintenance_page_is_not_reachable_directly(edge: Edge, name: str) -> None:
    assert edge(f"/.baton-maintenance/{name}").status_code == 404


def test_large_headers_are_refused(edge: Edge) -> None:
    assert edge("/healthz", headers={"X-Long": "x" * 70000}).status_code in (400, 431)


def test_websockets_are_proxied(trust: ssl.SSLContext) -> None:
    plain = socket.create_connection(("127.0.0.1", PORT), PATIENCE)
    with connect(f"wss://{NAME}/api/echo", sock=plain, ssl=trust, server_hostname=NAME) as client:
        client.send("hello")
        assert client.recv(timeout=PATIENCE) == "hello"


def test_reload_loses_no_live_click(edge: Edge, trust: ssl.SSLContext) -> None:
    """Whichever worker counts a click, and whichever worker the client reconnects to."""
    slug = edge("/api/links", "POST", json={"url": "https://example.org/"}).json()["slug"]
    seen = []

    def watch(after: str) -> ClientConnection:
        plain = socket.create_connection(("127.0.0.1", PORT), PATIENCE)
        address = f"wss://{NAME}/api/clicks/live?after={after}"
        return connect(address, sock=plain, ssl=trust, server_hostname=NAME, open_timeout=PATIENCE)

    def click(times: int) -> None:
        assert [edge(f"/{slug}").status_code for _ in range(times)] == [307] * times

    def receive(client: ClientConnection, number: int) -> str:
        while True:
            event = json.loads(client.recv(timeout=PATIENCE))
            if event["slug"] == slug:
                seen.append(event["clicks"])
                number -= 1
            if not number:
                return str(event["id"])

    with watch("0-0") as client:
        click(3)
        last = receive(client, 3)
        for name in APP_SERVERS:
            other(name).check_output("systemctl reload links")
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=PATIENCE)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
    click(2)
    with watch(last) as client:
        receive(client, 2)
    assert seen == [1, 2, 3, 4, 5]


def test_events_are_not_buffered(trust: ssl.SSLContext) -> None:
    with (
        httpx.Client(base_url=f"https://127.0.0.1:{PORT}", verify=trust, timeout=PATIENCE) as client,
        client.stream(
            "GET", "/api/events?count=30", headers={"Host": NAME}, extensions={"sni_hostname": NAME}
        ) as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert "data:" in next(answer.iter_text())


def test_access_log_is_json_without_query(host: Any, edge: Edge) -> None:
    request_id = edge("/healthz?token=hidden").headers["x-request-id"]
    entry = nginx.logged(host, "links", [request_id])[request_id]
    assert (entry["path"], entry["status"], entry["upstream_status"]) == ("/healthz", 200, "200")
    assert "hidden" not in json.dumps(entry)


def test_private_key_is_readable_only_by_root(host: Any) -> None:
    key = host.check_output("readlink -f /etc/ssl/baton/links/privkey.pem")
    assert host.check_output(f"stat -c '%U %a' {key}") == "root 600"
