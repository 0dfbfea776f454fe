"""What each role has set up, on hosts that no playbook has provisioned."""

from __future__ import annotations

import json
import pathlib
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import testinfra

from tests.support import curl, nginx

ON_HOST = pathlib.Path(__file__).parent / "on_host"
INVENTORY = pathlib.Path(__file__).parents[1] / "inventory"
AUTHORITY = INVENTORY / "tls/ca.pem"
PEERS = {"bookworm1": "trixie1", "trixie1": "bookworm1"}
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


OWN_PROXY, STRANGER, CLOUDFLARE = "198.51.100.1", "198.51.100.2", "173.245.48.9"
CLIENT = "198.51.100.7"
# what a client or a proxy sends, whoever it is
CLAIMS = {
    "X-Forwarded-For": f"6.6.6.6, {CLIENT}",
    "CF-Connecting-IP": CLIENT,
    "X-Real-IP": "6.6.6.6",
    "True-Client-IP": "6.6.6.6",
    "X-Forwarded-User": "alice",
    "Remote-User": "alice",
}
REDIS = "REDISCLI_AUTH=for-the-test-redis-0123456789 redis-cli -h 127.0.0.1 --user links"
UNITS = ("nginx.service", "postgresql@*-main.service", "redis-server@links.service")


@pytest.fixture
def upstream(host: Any) -> Iterator[None]:
    """A server at the address that the sites and the TLS port forward to."""
    host.check_output("mkdir -p /etc/baton-test")
    host.check_output(f"printf %s {shlex.quote(AUTHORITY.read_text())} > /etc/baton-test/ca.pem")
    serve = on_host("upstream.py")
    host.check_output(f"systemd-run --quiet --collect --unit upstream-of-test {serve}")
    host.check_output("timeout 60 bash -c 'until exec 3<>/dev/tcp/127.0.0.1/8000; do sleep 0.1; done' 2>&1")
    yield
    host.check_output("systemctl stop upstream-of-test")


@pytest.fixture
def sources(host: Any) -> Iterator[None]:
    """Addresses from which the host can connect to itself: a trusted proxy, a stranger, and one of Cloudflare's."""
    addresses = (OWN_PROXY, STRANGER, CLOUDFLARE)
    host.check_output("; ".join(f"ip address replace {address}/32 dev lo" for address in addresses))
    yield
    host.check_output("; ".join(f"ip address del {address}/32 dev lo" for address in addresses))


def on_host(name: str, *words: str) -> str:
    """Return a command that runs one of the programs in on_host/."""
    return shlex.join(["python3", "-Ic", (ON_HOST / name).read_text(), *words])


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


def test_firewall_restores_its_table_with_the_addresses_of_recent_clients(host: Any) -> None:
    """As after a change that cut off SSH."""
    own = host.ansible.get_variables()
    peer = testinfra.get_host(f"ansible://{PEERS[own['inventory_hostname']]}", ansible_inventory=str(INVENTORY))
    connect = f"import socket; socket.create_connection(('{own['fleet_address']}', 443), 60)"
    peer.check_output(f"python3 -c {shlex.quote(connect)}")
    listed = "nft list table inet baton"
    before = host.check_output(listed)
    assert f"{peer.ansible.get_variables()['fleet_address']} " in before
    former = "{ echo table inet baton; echo delete table inet baton; " + listed + "; }"
    host.check_output(f"{former} > /run/former.nft && nft -f /run/former.nft && rm /run/former.nft")
    after = host.check_output(listed)
    rules = [[line for line in text.splitlines() if "dport" in line] for text in (before, after)]
    assert rules[0] == rules[1]
    for limit in ("limit rate over 500/second", "ct count over 900"):
        assert any(limit in line for line in rules[1]), limit
    peer.check_output(f"python3 -c {shlex.quote(connect)}")


def test_sshd_accepts_keys_alone(host: Any) -> None:
    settings = host.check_output("sshd -T").splitlines()
    assert {"passwordauthentication no", "allowtcpforwarding no", "permitrootlogin without-password"} <= set(settings)
    # the host's own configuration may be stricter
    own = "/etc/ssh/sshd_config.d/50-own.conf"
    host.check_output(f"echo PermitRootLogin no > {own}")
    try:
        assert "permitrootlogin no" in host.check_output("sshd -T").splitlines()
    finally:
        host.check_output(f"rm {own}")


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


@pytest.fixture
def extra(host: Any) -> Iterator[str]:
    """Path of a further file of nginx's configuration, which is removed afterwards."""
    path = "/etc/nginx/conf.d/of-test.conf"
    yield path
    host.check_output(f"rm -f {path} && systemctl reload nginx")


@pytest.mark.usefixtures("upstream")
@pytest.mark.parametrize(
    ("before", "after", "error", "fix"),
    [
        (
            "limit_req_zone $binary_remote_addr zone=one:1m rate=1r/s;",
            "limit_req_zone $remote_addr zone=one:1m rate=1r/s;",
            'uses the "$remote_addr" key while previously it used the "$binary_remote_addr" key',
            ("Give the zone another name", "limit_req_zone $remote_addr zone=other:1m rate=1r/s;"),
        ),
        # the upstream server's
        (
            "",
            "server { listen 127.0.0.1:8000; }",
            "bind() to 127.0.0.1:8000 failed (98: Address already in use)",
            ("choose another port", "server { listen 127.0.0.1:8998; }"),
        ),
    ],
    ids=["key of a zone", "port in use"],
)
def test_refused_reload_fails_and_changes_nothing(
    host: Any, extra: str, before: str, after: str, error: str, fix: tuple[str, str]
) -> None:
    """`nginx -t` accepts both: only the running nginx refuses them."""
    host.check_output(f"echo '{before}' > {extra} && systemctl reload nginx")
    loaded, workers = host.check_output("stat -c %y /run/nginx.loaded"), nginx.workers(host)
    host.check_output(f"echo '{after}' > {extra} && nginx -t")
    began = host.check_output("date +%s")
    assert host.run("systemctl reload nginx").rc != 0
    log = host.check_output(f"journalctl --unit nginx --since @{began} --output cat --no-pager")
    assert error in log
    assert fix[0] in log
    assert host.check_output("stat -c %y /run/nginx.loaded") == loaded
    assert nginx.workers(host) == workers
    assert host.check_output(fetch("https", "127.0.0.1", 443)).strip() == "200 served"
    host.check_output(f"echo '{fix[1]}' > {extra} && systemctl reload nginx")
    # it ends when the previous worker processes no longer accept connections
    assert nginx.workers(host)
    assert not nginx.workers(host) & workers
    assert host.check_output("stat -c %y /run/nginx.loaded") > loaded


def test_concurrent_reloads_succeed(host: Any) -> None:
    workers = nginx.workers(host)
    reload = 'systemctl reload nginx & pids="$pids $!"'
    host.check_output(f"for i in 1 2 3 4; do {reload}; done; for pid in $pids; do wait $pid || exit; done")
    assert not nginx.workers(host) & workers


@pytest.mark.usefixtures("upstream")
def test_tls_port_refuses_a_client_without_certificate(host: Any) -> None:
    done = host.run(fetch("https", host.ansible.get_variables()["fleet_address"], 8443))
    # nginx ends the connection after the handshake
    assert "RemoteDisconnected" in done.stderr


@pytest.mark.usefixtures("upstream")
def test_slow_clients_are_disconnected(host: Any) -> None:
    # by the time limits of headers and bodies, long before another client's answer
    assert host.check_output(on_host("slow_clients.py")).split() == ["body", "headers"]


@pytest.mark.usefixtures("upstream", "sources")
@pytest.mark.parametrize("protocol", curl.PROTOCOLS)
@pytest.mark.parametrize(
    ("site", "port", "source", "client", "passed"),
    [
        ("links", 443, OWN_PROXY, CLIENT, {"x-forwarded-user": ["alice"]}),
        ("links", 443, CLOUDFLARE, CLOUDFLARE, {}),
        ("links", 443, STRANGER, STRANGER, {}),
        ("cdn", 9444, CLOUDFLARE, CLIENT, {"cf-connecting-ip": [CLIENT]}),
        ("cdn", 9444, OWN_PROXY, OWN_PROXY, {}),
        ("cdn", 9444, STRANGER, STRANGER, {}),
    ],
)
def test_only_declared_proxy_names_the_client(
    host: Any, protocol: str, site: str, port: int, source: str, client: str, passed: dict[str, list[str]]
) -> None:
    curl.install(host)
    address = host.ansible.get_variables()["fleet_address"]
    options = [protocol, "--interface", source, *(f"-H{name}: {value}" for name, value in CLAIMS.items())]
    seen = curl.seen(host, f"{site}.baton.test", address, "/headers", *options, port=port)
    assert (seen["x-forwarded-for"], seen["x-real-ip"]) == ([client], [client])
    identity = {name.lower() for name in CLAIMS} - {"x-forwarded-for", "x-real-ip"}
    assert {name: value for name, value in seen.items() if name in identity} == passed
    assert "6.6.6.6" not in json.dumps(seen)


@pytest.mark.usefixtures("upstream", "sources")
def test_only_declared_proxy_names_the_client_by_proxy_protocol(host: Any) -> None:
    address = host.ansible.get_variables()["fleet_address"]

    def client(source: str, target: str, named: str) -> list[str]:
        command = on_host("through_proxy.py", source, target, "9443", "proxied.baton.test", named)
        output = host.check_output(command).strip()
        seen = {} if output == "closed" else json.loads(output)
        assert seen.get("x-forwarded-for") == seen.get("x-real-ip")
        return list(seen.get("x-forwarded-for", []))

    assert client(address, address, CLIENT) == [CLIENT]
    assert client(STRANGER, address, CLIENT) == [STRANGER]
    # without the protocol, only the host itself gets an answer
    assert client(address, address, "") == []
    assert client(STRANGER, address, "") == []
    assert client("127.0.0.1", "127.0.0.1", "") == ["127.0.0.1"]


@pytest.mark.usefixtures("upstream", "sources")
@pytest.mark.parametrize("protocol", curl.PROTOCOLS)
def test_curl_reaches_site_by_proxy_protocol(host: Any, protocol: str) -> None:
    curl.install(host)
    address = host.ansible.get_variables()["fleet_address"]
    options = [protocol, "--haproxy-protocol", *(f"-H{name}: {value}" for name, value in CLAIMS.items())]
    seen = curl.seen(host, "proxied.baton.test", address, "/headers", *options, port=9443)
    assert (seen["x-forwarded-for"], seen["x-real-ip"]) == ([address], [address])
    assert not {"cf-connecting-ip", "true-client-ip", "x-forwarded-user", "remote-user"} & seen.keys()


@pytest.mark.parametrize(("unit", "threshold"), [(UNITS[0], 40), (UNITS[1], 50), (UNITS[2], 50)])
def test_server_is_confined(host: Any, unit: str, threshold: int) -> None:
    (name,) = running(host, unit)
    # the threshold is ten times the exposure level
    host.check_output(f"systemd-analyze security --no-pager --threshold={threshold} {name}")


def test_systemd_verifies_all_units(host: Any) -> None:
    # files and drop-ins of the roles; templates are verified as instances
    found = host.check_output("cd /etc/systemd/system && grep -rl 'Ansible managed' .").split()
    names = {part.removesuffix(".d") for path in found for part in path.split("/")[1:2]}
    assert {"nginx.service", "nftables.service", "postgresql@.service", "redis-server@links.service"} <= names
    units = [name for name in names if "@." not in name] + [name for unit in UNITS for name in running(host, unit)]
    # an unknown directive in a unit shows that the test finds what systemd reports
    canary = "/run/canary/nginx.service"
    host.check_output(f"mkdir -p /run/canary && (systemctl cat nginx.service; echo 'Canary=1') > {canary}")
    spoiled = host.run(f"systemd-analyze verify --man=no {canary}")
    host.check_output("rm -r /run/canary")
    assert "Canary" in spoiled.stderr
    done = host.run(f"systemd-analyze verify --man=no {' '.join(units)}")
    assert (done.rc, done.stdout, done.stderr) == (0, "", "")


def running(host: Any, pattern: str) -> list[str]:
    """The names of the loaded units that match."""
    listed = host.check_output(f"systemctl list-units --plain --no-legend '{pattern}' | cut -d' ' -f1")
    return list(listed.split())


def test_postgresql_has_the_database_and_its_owner(host: Any) -> None:
    login = "PGPASSWORD='for the test database' psql --no-psqlrc -tA -h 127.0.0.1 -U links links"
    assert host.check_output(f"{login} -c 'SELECT current_user'") == "links"
    assert host.run(f"{login.replace('test', 'wrong')} -c 'SELECT 1'").rc != 0


def test_redis_needs_the_password(host: Any) -> None:
    program = "redis-cli -h 127.0.0.1"
    assert host.run(f"{program} PING").stdout.startswith("NOAUTH")
    assert host.run(f"{program} AUTH default ''").stdout.startswith("WRONGPASS")
    assert host.check_output(f"{REDIS} PING") == "PONG"


def test_restart_of_redis_loses_nothing(host: Any) -> None:
    """Redis replays transactions as its user `default`, which is off."""
    commands = "printf 'MULTI\\nSET baton-one 1\\nSET baton-two 2\\nEXEC\\nSET baton-three 3\\n'"
    host.check_output(f"{commands} | {REDIS}")
    host.check_output("systemctl restart redis-server@links.service")
    assert host.check_output(f"{REDIS} MGET baton-one baton-two baton-three").split() == ["1", "2", "3"]
    host.check_output(f"{REDIS} DEL baton-one baton-two baton-three")
