"""What each role has set up, on hosts that no playbook has provisioned."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

CURL = "curl --silent --show-error --max-time 60 --cacert /etc/ssl/baton/links/ca.pem"


@pytest.fixture
def upstream(host: Any) -> Iterator[None]:
    """A server at the address that the site and the TLS port forward to."""
    unit = "upstream-of-test"
    serve = "python3 -m http.server --bind 127.0.0.1 --directory /etc/baton-test 8000"
    host.check_output("mkdir -p /etc/baton-test && echo served > /etc/baton-test/index.html")
    host.check_output(f"systemd-run --quiet --collect --unit {unit} {serve}")
    host.check_output("timeout 600 sh -c 'until curl -s http://127.0.0.1:8000/ >/dev/null; do sleep 0.1; done'")
    yield
    host.check_output(f"systemctl stop {unit}")


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
    assert {"passwordauthentication no", "allowtcpforwarding no", "permitrootlogin prohibit-password"} <= set(settings)


def test_uv_is_installed(host: Any) -> None:
    assert host.check_output("uv --version").startswith("uv ")


def test_certificate_is_of_the_authority_and_has_the_name(host: Any) -> None:
    certificate = host.file("/etc/ssl/baton/links/fullchain.pem")
    key = host.file("/etc/ssl/baton/links/privkey.pem")
    assert (key.user, key.mode & 0o077) == ("root", 0)
    verify = f"openssl verify -CAfile /etc/ssl/baton/links/ca.pem -verify_hostname links.baton.test {certificate.path}"
    host.check_output(verify)


@pytest.mark.usefixtures("upstream")
def test_site_serves_over_tls_and_redirects_http(host: Any) -> None:
    to_itself = "--resolve links.baton.test:443:127.0.0.1 --resolve links.baton.test:80:127.0.0.1"
    assert host.check_output(f"{CURL} {to_itself} https://links.baton.test/") == "served"
    answer = host.check_output(
        f"{CURL} {to_itself} --output /dev/null --write-out '%{{http_code}}' http://links.baton.test/"
    )
    assert answer == "308"


@pytest.mark.usefixtures("upstream")
def test_tls_port_serves_no_client_without_its_certificate(host: Any) -> None:
    address = host.ansible.get_variables()["fleet_address"]
    to_port = f"--resolve links.baton.test:8443:{address} https://links.baton.test:8443/"
    assert host.run(f"{CURL} {to_port}").stdout == ""


def test_postgresql_has_the_database_and_its_owner(host: Any) -> None:
    login = "PGPASSWORD='for the test database' psql --no-psqlrc -tA -h 127.0.0.1 -U links links"
    assert host.check_output(f"{login} -c 'SELECT current_user'") == "links"
    assert host.run(f"{login.replace('test', 'wrong')} -c 'SELECT 1'").rc != 0


def test_redis_needs_the_password(host: Any) -> None:
    program = "redis-cli -s /run/redis-links/redis.sock"
    assert host.run(f"{program} PING").stdout.startswith("NOAUTH")
    password = "REDISCLI_AUTH=for-the-test-redis-0123456789"
    assert host.check_output(f"{password} {program} --user links PING") == "PONG"
