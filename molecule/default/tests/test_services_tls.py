"""Connections to PostgreSQL and Redis: only encrypted ones, verified with the fleet's authority."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest

from tests.support.certificate import Issued, issue

from .conftest import APP_SERVERS, FLEET, INVENTORY, Edge, other

CA = "/etc/links/services-ca.pem"
# on an app server, with the application's own libraries: prints the server's answer, or the exception
CONNECT = """
import asyncio, sys
async def main(kind, url):
    if kind == "postgresql":
        import asyncpg
        connection = await asyncpg.connect(url, timeout=10)
        query = "SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        return await connection.fetchval(query)
    from redis.asyncio import Redis
    return await Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5).ping()
try:
    print(asyncio.run(main(*sys.argv[1:])))
except Exception as error:
    while error is not None:
        print(type(error).__name__, error)
        error = error.__cause__
"""

pytestmark = pytest.mark.hosts("data1")


@pytest.fixture
def connect(host: Any) -> Any:
    """Returns a function that connects from an app server to this host and returns the result."""
    variables = host.ansible.get_variables()
    passwords = {"postgresql": variables["test_database_password"], "redis": variables["test_redis_password"]}

    def connect(kind: str, rest: str, source: str = "app1", scheme: str = "", to: str = "") -> str:
        server = to or variables["fleet_address"]
        url = f"{scheme or kind}://links:{passwords[kind]}@{server}{rest}"
        words = ["/opt/links/current/venv/bin/python", "-Ic", CONNECT, kind, url]
        return str(other(source).check_output(shlex.join(words)))

    return connect


def test_plain_connection_is_refused(connect: Any) -> None:
    assert "no encryption" in connect("postgresql", ":5432/links?sslmode=disable")
    # the port is closed, and the firewall drops packets to it
    assert connect("redis", ":6379/0") not in ("True", "")


@pytest.mark.parametrize("source", APP_SERVERS)
def test_server_certificate_verifies_with_fleet_authority(connect: Any, source: str) -> None:
    verified = f"sslmode=verify-full&sslrootcert={CA}"
    assert connect("postgresql", f":5432/links?{verified}", source) in ("TLSv1.2", "TLSv1.3")
    assert connect("redis", f":6380/0?ssl_ca_certs={CA}", source, scheme="rediss") == "True"


def test_other_authority_or_host_name_is_refused(connect: Any) -> None:
    app1 = other("app1")
    another = "/tmp/another-authority.pem"
    app1.check_output(f"openssl req -x509 -newkey rsa:2048 -nodes -keyout /dev/null -subj /CN=another -out {another}")
    # a name that resolves to the host, but is not in its certificate
    address = app1.check_output("python3 -c 'import socket; print(socket.gethostbyname(\"data1\"))'")
    app1.check_output(f"grep -q another-name /etc/hosts || echo {address} another-name >> /etc/hosts")
    for ca, to, words in ((another, "", "certificate verify failed"), (CA, "another-name", "ostname mismatch")):
        assert words in connect("postgresql", f":5432/links?sslmode=verify-full&sslrootcert={ca}", to=to)
        assert words in connect("redis", f":6380/0?ssl_ca_certs={ca}", scheme="rediss", to=to)


@pytest.mark.parametrize("service", ["-starttls postgres -connect data1:5432", "-connect data1:6380"])
def test_old_tls_protocol_is_refused(service: str) -> None:
    old = f"openssl s_client -tls1_1 -cipher DEFAULT@SECLEVEL=0 {service} < /dev/null"
    assert "alert protocol version" in other("app1").run(old).stderr


def test_application_uses_only_tls_connections(host: Any, edge: Edge) -> None:
    assert edge("/readyz").json()["checks"] == {"database": "ok", "schema": "ok", "redis": "ok"}
    query = "SELECT DISTINCT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE datname = 'links'"
    assert host.check_output(f"runuser -u postgres -- psql -XqtA -c {shlex.quote(query)}") == "t"
    # from the web and from Celery
    clients = host.check_output("ss -Hnt state established '( sport = :6380 )'").splitlines()
    assert len(clients) > 2
    assert host.check_output("ss -Hnt state established '( sport = :6379 )'") == ""


def test_urls_without_tls_are_refused() -> None:
    secrets = {
        "REDIS_URL": "redis://links:hidden@data1:6379/0",
        "DATABASE_URL": "postgresql://links:hidden@data1/links",
    }
    done = FLEET.play("playbooks/configure.yml", "-e", json.dumps({"app_config_secrets": secrets}))
    assert done.status != 0
    for words in (
        "REDIS_URL: Redis isn't at redis://…:6379 with backing_services_tls: required. Give rediss://…:6380.",
        "DATABASE_URL: TLS is required, but the address doesn't say whether to verify PostgreSQL.",
        "sslrootcert={{ services_ca_file }}",
    ):
        assert words in done.words
    assert "hidden" not in done.output
    assert not any(done.changed)


@pytest.mark.long
def test_renewed_certificate_is_served_without_restart(host: Any, edge: Edge) -> None:
    def served() -> list[str]:
        asked = ("-starttls postgres -connect 127.0.0.1:5432", "-connect 127.0.0.1:6380")
        ask = "openssl s_client {} < /dev/null 2> /dev/null | openssl x509 -noout -serial"
        return [host.check_output(ask.format(one)) for one in asked]

    def running() -> str:
        units = "postgresql@17-main.service redis-server@links.service"
        return str(host.check_output(f"systemctl show --property MainPID --value {units}"))

    before, processes = served(), running()
    host.check_output("rm /etc/ssl/baton-services/*/fullchain.pem")
    # every change warns of one that ends soon; the services haven't loaded it
    path = "/etc/ssl/baton-services/postgresql/fullchain.pem"
    authority = Issued(*((INVENTORY / "tls" / file).read_text() for file in ("ca.pem", "ca.key")))
    soon = issue("data1", start=-345, end=20.2, signer=authority)
    host.check_output(f"printf %s %s > {path}", "%s", soon.certificate)
    warning = f"data1: the certificate of PostgreSQL ({path}) expires in 20 days; run site.yml to renew it."
    assert warning in FLEET.succeed("playbooks/restart.yml").words
    status = FLEET.play("playbooks/status.yml").words
    assert warning in status
    assert f"data1: PostgreSQL doesn't serve the certificate {path}: it still has another one" in status
    done = FLEET.succeed("site.yml")
    assert warning not in done.words
    assert "data1: the certificate of PostgreSQL is valid until " in done.words
    assert not set(served()) & set(before)
    assert running() == processes
    assert edge("/readyz").status_code == 200
    assert FLEET.succeed("site.yml").changed == [0] * 4
