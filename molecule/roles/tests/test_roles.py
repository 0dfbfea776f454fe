"""What each role has set up, on hosts that no playbook has provisioned."""

from __future__ import annotations

import pathlib
import shlex
from collections.abc import Iterator
from typing import Any

import pytest

AUTHORITY = pathlib.Path(__file__).parents[1] / "inventory/tls/ca.pem"
CERTIFICATE = "/etc/ssl/baton/links/fullchain.pem"
# prints the status and the body of a page that one address serves by another name; a refusal is an error
FETCH = """
import http.client, socket, ssl, sys
scheme, address, port = sys.argv[1:]
connection = http.client.HTTPConnection("links.baton.test", timeout=60)
connection.sock = socket.create_connection((address, int(port)), 60)
if scheme == "https":
    context = ssl.create_default_context(cafile="/etc/baton-test/ca.pem")
    connection.sock = context.wrap_socket(connection.sock, server_hostname="links.baton.test")
connection.request("GET", "/")
answer = connection.getresponse()
print(answer.status, answer.read(7).decode())
"""


@pytest.fixture
def upstream(host: Any) -> Iterator[None]:
    """A server at the address that the site and the TLS port forward to."""
    serve = "python3 -m http.server --bind 127.0.0.1 --directory /etc/baton-test/served 8000"
    host.check_output("mkdir -p /etc/baton-test/served && printf served > /etc/baton-test/served/index.html")
    host.check_output(f"printf %s {shlex.quote(AUTHORITY.read_text())} > /etc/baton-test/ca.pem")
    host.check_output(f"systemd-run --quiet --collect --unit upstream-of-test {serve}")
    host.check_output("timeout 60 bash -c 'until exec 3<>/dev/tcp/127.0.0.1/8000; do sleep 0.1; done' 2>&1")
    yield
    host.check_output("systemctl stop upstream-of-test")


def fetch(scheme: str, address: str, port: int) -> str:
    """Return a command that prints the page."""
    return shlex.join(["python3", "-Ic", FETCH, scheme, address, str(port)])


def test_host_has_no_failed_unit(host: Any) -> None:
    assert host.run("systemctl is-system-running --wait").stdout.strip() == "running"


def test_journal_is_limited(host: Any) -> None:
    assert "\nSystemMaxUse=1G\n" in host.check_output("systemd-analyze cat-config systemd/journald.conf")


def test_firewall_drops_what_no_rule_allows(host: Any) -> None:
    rules = host.check_output("nft list table inet baton")
    assert "policy drop" in rules
    assert "80, 443, 8443" in rules
    assert host.service("nftables").is_enabled


def test_sshd_accepts_keys_alone(host: Any) -> None:
    settings = host.check_output("sshd -T").splitlines()
    assert {"passwordauthentication no", "allowtcpforwarding no", "permitrootlogin without-password"} <= set(settings)


def test_uv_is_installed(host: Any) -> None:
    assert host.check_output("/var/lib/baton/bin/uv --version").startswith("uv ")


def test_certificate_has_the_name_and_only_root_reads_its_key(host: Any) -> None:
    host.check_output(f"openssl x509 -noout -checkhost links.baton.test -in {CERTIFICATE} | grep 'does match'")
    key = host.file("/etc/ssl/baton/links/privkey.pem")
    assert (key.user, key.mode & 0o077) == ("root", 0)


@pytest.mark.usefixtures("upstream")
def test_site_serves_over_tls_and_redirects_http(host: Any) -> None:
    assert host.check_output(fetch("https", "127.0.0.1", 443)).strip() == "200 served"
    assert host.check_output(fetch("http", "127.0.0.1", 80)).startswith("308 ")


@pytest.mark.usefixtures("upstream")
def test_tls_port_refuses_a_client_without_certificate(host: Any) -> None:
    done = host.run(fetch("https", host.ansible.get_variables()["fleet_address"], 8443))
    # nginx ends the connection after the handshake
    assert "RemoteDisconnected" in done.stderr


def test_postgresql_has_the_database_and_its_owner(host: Any) -> None:
    login = "PGPASSWORD='for the test database' psql --no-psqlrc -tA -h 127.0.0.1 -U links links"
    assert host.check_output(f"{login} -c 'SELECT current_user'") == "links"
    assert host.run(f"{login.replace('test', 'wrong')} -c 'SELECT 1'").rc != 0


def test_redis_needs_the_password(host: Any) -> None:
    program = "redis-cli -h 127.0.0.1"
    assert host.run(f"{program} PING").stdout.startswith("NOAUTH")
    password = "REDISCLI_AUTH=for-the-test-redis-0123456789"
    assert host.check_output(f"{password} {program} --user links PING") == "PONG"
