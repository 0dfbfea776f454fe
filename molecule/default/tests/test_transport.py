"""From the edge to the app servers: mutual TLS, and no plain connections."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.support.certificate import Issued, issue
from tests.support.traffic import Background, Load

from .conftest import APP_NAME, APP_SERVERS, FLEET, INVENTORY, NAME, PORT, Edge, other, request_over_tls

OK_RESPONSE = "TLSv1.3 HTTP/1.1 200"
SERVICE = "/etc/ssl/baton-services/postgresql"
SERVER = "/etc/ssl/baton-transport/links-server"


def issue_on(host: Any, common_name: str, usage: x509.ObjectIdentifier) -> tuple[str, str]:
    """Write a certificate of the local authority and its key to a host; return their paths."""
    authority = Issued(*((INVENTORY / "tls" / file).read_text() for file in ("ca.pem", "ca.key")))
    files = "/run/another.pem", "/run/another.key"
    issued = issue(common_name, common_name=common_name, end=1, usage=usage, signer=authority)
    for file, content in zip(files, issued, strict=True):
        host.check_output("printf %s %s > " + file, "%s", content)
    return files


@pytest.mark.hosts("app1", "app2")
def test_app_server_only_accepts_its_edges(host: Any) -> None:
    edge1 = other("edge1")
    assert request_over_tls(host) == OK_RESPONSE
    assert "200" not in request_over_tls(host, ())
    # certificates of the authority for another purpose, and for an edge of another application
    usages = ExtendedKeyUsageOID
    for name, usage in (
        ("links.edges.baton.internal", usages.SERVER_AUTH),
        ("shop.edges.baton.internal", usages.CLIENT_AUTH),
    ):
        assert "200" not in request_over_tls(host, issue_on(edge1, name, usage))
    assert request_over_tls(host, issue_on(edge1, "links.edges.baton.internal", usages.CLIENT_AUTH)) == OK_RESPONSE
    assert "ostname mismatch" in request_over_tls(host, name="data1")


@pytest.fixture
def impostor(host: Any) -> Iterator[None]:
    """An app server whose certificate was signed by the authority for another purpose."""
    files = issue_on(host, "shop.app-servers.baton.internal", ExtendedKeyUsageOID.SERVER_AUTH)
    port = "/etc/nginx/streams-enabled/links.conf"
    changes = [f"s|{SERVER}/{file}.pem|{path}|" for file, path in zip(("fullchain", "privkey"), files, strict=True)]
    host.check_output(f"cp -p {port} /run/links.conf && sed -i '{'; '.join(changes)}' {port} && systemctl reload nginx")
    assert request_over_tls(host) != OK_RESPONSE
    yield
    host.check_output(f"cp -p /run/links.conf {port} && systemctl reload nginx")


@pytest.mark.hosts("app1")
@pytest.mark.usefixtures("impostor")
def test_edge_sends_nothing_to_an_impostor(host: Any, edge: Edge) -> None:
    assert "ostname mismatch" in request_over_tls(host)
    # the other app server responds
    assert {edge("/healthz").status_code for _ in range(8)} == {200}
    error = f'upstream SSL certificate does not match "{APP_NAME}"'
    other("edge1").check_output(f"grep -qF {shlex.quote(error)} /var/log/nginx/error.log")


@pytest.mark.hosts("app1", "app2")
def test_plain_connections_come_only_from_the_host_itself(host: Any, edge: Edge) -> None:
    address = host.ansible.get_variables()["fleet_address"]
    assert edge("/readyz").status_code == 200
    clients = host.check_output("ss -Hnt state established '( sport = :8000 )'").splitlines()
    assert {line.split()[-1].rpartition(":")[0] for line in clients} <= {address}
    # on the host only nginx and root may connect, because the application trusts their headers
    probe = f"bash -c 'exec 3<>/dev/tcp/{address}/8000'"
    assert host.run(f"timeout 60 {probe}").rc == 0
    for user, allowed in (("www-data", True), ("nobody", False)):
        assert (host.run(f"runuser -u {user} -- timeout 60 {probe}").rc == 0) is allowed


@pytest.mark.long
@pytest.mark.hosts("edge1")
def test_skipped_step_is_refused_before_any_change() -> None:
    for playbook, setting, words in (
        (
            "site.yml",
            "disabled",
            "edge1 still sends requests by TLS. Set app_servers_tls: offered and run site.yml first",
        ),
        ("playbooks/configure.yml", "offered", "edge1 sends requests by TLS. Run site.yml, which changes that"),
    ):
        done = FLEET.play(playbook, "-e", json.dumps({"app_servers_tls": setting}))
        assert done.status != 0
        assert words in done.words, done.output
        assert not any(done.changed)


def clients(edge: Edge) -> Background:
    """Requests that check the client address and scheme seen by the application, streams and WebSockets."""
    client = f'"client":"{edge("/api/whoami").json()["client"]}"'
    loads = [
        Load("get", "/api/whoami", share=4, expect=client),
        Load("get", "/api/whoami", share=4, expect='"scheme":"https"'),
        Load("sse", "/api/events?count=5", share=1),
        Load("websocket", "/api/echo", share=1, wait=5),
    ]
    options: dict[str, Any] = {"host": NAME, "ca_file": str(INVENTORY / "tls/ca.pem"), "idle_limit": 0}
    return Background(f"https://127.0.0.1:{PORT}", loads, rate=20, fewest=200, duration=7200, **options)


@pytest.mark.long
@pytest.mark.hosts("edge1")
def test_serving_fleet_changes_to_plain_and_back_to_tls(edge: Edge) -> None:
    ports = []
    with clients(edge) as traffic:
        for setting in ("offered", "disabled", "offered", "required"):
            assert FLEET.succeed("site.yml", "-e", f"app_servers_tls={setting}").status == 0
            again = FLEET.succeed("site.yml", "-e", f"app_servers_tls={setting}")
            assert again.changed == [0] * 4, again.output
            addresses = [other(name).ansible.get_variables()["fleet_address"] for name in APP_SERVERS]
            ports.append(
                [
                    other("edge1").run(f"timeout 5 bash -c 'exec 3<>/dev/tcp/{address}/{port}'").rc == 0
                    for address in addresses
                    for port in (8000, 8443)
                ]
            )
    assert not traffic.summary.failed, traffic.summary
    assert ports == [[True, True] * 2, [True, False] * 2, [True, True] * 2, [False, True] * 2]


@pytest.mark.long
@pytest.mark.hosts("edge1")
def test_renewal_ends_no_connection(edge: Edge) -> None:
    def serials() -> list[str]:
        files = [("edge1", "links-client"), *((name, "links-server") for name in APP_SERVERS)]
        ask = "openssl x509 -noout -serial -in /etc/ssl/baton-transport/{}/fullchain.pem"
        return [other(name).check_output(ask.format(folder)) for name, folder in files]

    before = serials()
    with clients(edge) as traffic:
        for name in ("edge1", *APP_SERVERS):
            other(name).check_output("rm /etc/ssl/baton-transport/*/fullchain.pem")
        FLEET.succeed("site.yml")
    assert not traffic.summary.failed, traffic.summary
    assert not set(before) & set(serials())
    assert FLEET.succeed("site.yml").changed == [0] * 4
