"""TLS session resumption at another edge, client certificates, and the client's identity behind an edge's socket."""

from __future__ import annotations

import http.client
import json
import pathlib
import re
import socket
import ssl
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import curl, nginx
from tests.support.wait import PATIENCE

from .test_acme import ADDRESSES, EDGES, INVENTORY, NAME, host

TICKETS = "/var/lib/nginx-session-tickets"
CLIENTS = INVENTORY / "tls/clients"
CLIENT = "198.51.100.7"
FORGED = {
    "X-Forwarded-For": "6.6.6.6",
    "True-Client-IP": "6.6.6.6",
    "CF-Connecting-IP": "6.6.6.6",
    "Remote-User": "mallory",
    "X-Forwarded-User": "mallory",
    "X-SSL-Client-S-DN": "CN=mallory",
    "X-SSL-Client-Cert": "mallory",
}


def handshake(edge: str, version: str, *options: str) -> tuple[bool, str]:
    """Whether an edge resumed a session, and the name of its ticket's key (hexadecimal)."""
    done = subprocess.run(
        [
            *("openssl", "s_client", version, "-ign_eof", *options),
            *("-connect", f"127.0.0.1:{EDGES[edge]}", "-servername", NAME),
        ],
        input=f"GET / HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n",
        text=True,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert "HTTP/1.1 200" in done.stdout, done.stdout + done.stderr
    names = re.findall(r"TLS session ticket:\s+0000 - ((?:[0-9a-f]{2}[ -]){16})", done.stdout)
    return "\nReused, " in done.stdout, re.sub("[ -]", "", names[-1]) if names else ""


def assert_current_key(edge: str) -> None:
    """Assert that an edge issues tickets of its current key."""
    name = host(edge).check_output(f"head -c 16 {TICKETS}/current.key | od -An -v -tx1 | tr -d ' \\n'")
    assert handshake(edge, "-tls1_2")[1] == name


def rotate(edge: str) -> None:
    """Rotate to the next period, as the timer does."""
    state = json.loads(host(edge).check_output(f"cat {TICKETS}/state.json"))
    with nginx.reloaded(host(edge)):
        host(edge).check_output(f"nginx-session-tickets rotate --at {(state['period'] + 2) * state['hours'] * 3600}")
    assert_current_key(edge)


@pytest.fixture
def _present_keys() -> Iterator[None]:
    """Restores the current period on the edges, with the timer's service."""
    for edge in EDGES:
        host(edge).check_output(f"cp -p {TICKETS}/state.json /root/state.json")
        assert_current_key(edge)
    yield
    for edge in EDGES:
        with nginx.reloaded(host(edge)):
            host(edge).check_output(f"mv /root/state.json {TICKETS}/ && rm {TICKETS}/current.key")
            host(edge).check_output("systemctl start nginx-session-tickets.service")
        assert_current_key(edge)


@pytest.mark.usefixtures("_present_keys")
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_session_resumes_at_other_edge_until_two_rotations(version: str, tmp_path: pathlib.Path) -> None:
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    assert handshake("web1", version, "-sess_out", first)[0] is False
    assert handshake("web2", version, "-sess_in", first)[0] is True
    assert handshake("web1", version, "-sess_in", first)[0] is True
    # one edge is ahead of the other
    rotate("web1")
    handshake("web1", version, "-sess_out", second)
    assert handshake("web2", version, "-sess_in", second)[0] is True
    assert handshake("web1", version, "-sess_in", first)[0] is True
    rotate("web2")
    assert handshake("web2", version, "-sess_in", first)[0] is True
    for edge in EDGES:
        rotate(edge)
        assert handshake(edge, version, "-sess_in", first)[0] is False
        assert handshake(edge, version, "-sess_in", second)[0] is True


def test_ticket_keys_belong_to_root_and_unit_is_confined() -> None:
    for edge in EDGES:
        assert host(edge).check_output(f"stat -c '%U %a' {TICKETS}") == "root 700"
        assert "ActiveState=active" in host(edge).check_output("systemctl show nginx-session-tickets.timer")
        exposure = host(edge).check_output("systemd-analyze security --no-pager nginx-session-tickets.service")
        assert float(exposure.splitlines()[-1].split(":")[1].split()[0]) < 3, exposure
        # the secret of all keys never leaves the controller, and the secret of later keys is not logged
        secret = (INVENTORY / "tls/nginx/session-tickets.key").read_text().strip()
        state = host(edge).file(f"{TICKETS}/state.json").content_string
        assert secret not in state
        journal = host(edge).check_output("journalctl --sync; journalctl --no-pager -o cat")
        assert not [hidden for hidden in (secret, json.loads(state)["secret"]) if hidden in journal]


def ask(edge: str, path: str, client: str = "", **headers: str) -> tuple[int, Any]:
    """Status of a request with or without a client certificate and, if 200, the request as the application saw it."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if client:
        context.load_cert_chain(CLIENTS / f"{client}.pem", CLIENTS / f"{client}.key")
    connection = http.client.HTTPConnection(NAME)
    with (
        socket.create_connection(("127.0.0.1", EDGES[edge]), PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname=NAME) as connection.sock,
    ):
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        return answer.status, json.loads(body) if answer.status == 200 else None


@pytest.mark.parametrize("edge", EDGES)
def test_protected_path_needs_client_certificate(edge: str) -> None:
    for path in ("/admin/a", "/%61dmin/a", "/admin/../whoami", "/admin/%2e%2e/whoami", "//admin/a"):
        assert ask(edge, path)[0] == 403, path
    assert ask(edge, "/admin/a", "mallory")[0] == 400
    assert ask(edge, "/whoami", "mallory")[0] == 400
    status, seen = ask(edge, "/admin/a", "alice", **{"X-SSL-Client-S-DN": "CN=mallory"})
    assert status == 200
    assert seen["headers"]["x-ssl-client-verify"] == ["SUCCESS"]
    assert seen["headers"]["x-ssl-client-s-dn"] == ["CN=alice,O=Example"]


@pytest.mark.parametrize("edge", EDGES)
def test_client_certificate_headers_cannot_be_forged(edge: str) -> None:
    status, seen = ask(edge, "/whoami", **{"X-SSL-Client-Verify": "SUCCESS", "X-SSL-Client-S-DN": "CN=mallory"})
    assert status == 200
    assert seen["headers"]["x-ssl-client-verify"] == ["NONE"]
    assert "mallory" not in json.dumps(seen["headers"])


@pytest.mark.parametrize("protocol", curl.PROTOCOLS)
@pytest.mark.parametrize(("edge", "neighbour"), [("web1", "web2"), ("web2", "web1")])
def test_client_cannot_forge_its_identity(edge: str, neighbour: str, protocol: str) -> None:
    curl.install(host(neighbour))
    forged = [f"-H{name}: {value}" for name, value in FORGED.items()]
    seen = curl.seen(host(neighbour), NAME, ADDRESSES[edge], "/whoami", protocol, *forged)
    assert seen["client"] == ADDRESSES[neighbour]
    assert "6.6.6.6" not in json.dumps(seen["headers"])
    assert "mallory" not in json.dumps(seen["headers"])


@pytest.mark.parametrize("protocol", curl.PROTOCOLS)
@pytest.mark.parametrize("edge", EDGES)
def test_trusted_proxy_sets_client_and_user(edge: str, protocol: str) -> None:
    curl.install(host("ca1"))
    forged = [f"-H{name}: {value}" for name, value in FORGED.items() if "Forwarded" not in name]
    trusted = [f"-HX-Forwarded-For: 6.6.6.6, {CLIENT}", "-HX-Forwarded-User: alice"]
    seen = curl.seen(host("ca1"), NAME, ADDRESSES[edge], "/whoami", protocol, *forged, *trusted)
    assert seen["client"] == CLIENT
    assert seen["headers"]["x-forwarded-user"] == ["alice"]
    assert "6.6.6.6" not in json.dumps(seen["headers"])
    assert "mallory" not in json.dumps(seen["headers"])
