"""ACME certificates on two edges, from a real authority, which may be unreachable or refuse a request."""

from __future__ import annotations

import hashlib
import json
import pathlib
import secrets
import socket
import ssl
import time
from typing import Any

import pytest
import testinfra

from tests.support import curl, nginx
from tests.support.certificate import Issued, issue
from tests.support.playbooks import Playbooks
from tests.support.traffic import Background, Load
from tests.support.wait import PATIENCE

SCENARIO = pathlib.Path(__file__).parents[1]
INVENTORY = SCENARIO / "inventory"
FLEET = Playbooks(INVENTORY)
NAME = "links.baton.test"
ROOT = INVENTORY / "tls/pebble/root.pem"
KEPT = INVENTORY / "tls/acme"
EDGES = {"web1": 18881, "web2": 18882}
ADDRESSES = {"web1": "10.213.88.11", "web2": "10.213.88.12"}
CONFIGURATION = "/etc/acme-certificate/links"
# what is reported while the authority gives none
NOT_RENEWED = f"no new certificate for {NAME}, www.{NAME} from https://10.213.88.31:14000/dir"
STATUS = "/var/lib/acme-certificate/links/status.json"


def host(name: str) -> Any:
    return testinfra.get_host(f"ansible://{name}", ansible_inventory=str(INVENTORY))


def served(edge: str, ca_file: pathlib.Path = ROOT, name: str = NAME) -> bytes:
    """The certificate that an edge presents to a client that trusts `ca_file`."""
    context = ssl.create_default_context(cafile=str(ca_file))
    with (
        socket.create_connection(("127.0.0.1", EDGES[edge]), PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname=name) as tls,
    ):
        found = tls.getpeercert(binary_form=True)
    assert found is not None
    return found


def renew(edge: str) -> bytes:
    """Make an edge obtain a new certificate; return it once the edge presents it."""
    with nginx.reloaded(host(edge)):
        assert run_timer_program(edge, "--force")["trouble"] == ""
    return installed_certificate(edge)


def installed_certificate(edge: str) -> bytes:
    """The certificate file of an edge, which it also presents."""
    chain = host(edge).file("/etc/ssl/baton/links/fullchain.pem").content_string
    found = ssl.PEM_cert_to_DER_cert(chain.partition("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----\n")
    assert served(edge) == found
    return found


def ask(client: str, address: str, path: str) -> tuple[int, str]:
    """Status and text of a host's request over plain HTTP."""
    code = (
        "import http.client,json; c=http.client.HTTPConnection('%s', timeout=600); "
        "c.request('GET', '/.well-known/%s', headers={'Host': '%s'}); a=c.getresponse(); "
        "print(json.dumps([a.status, a.read().decode()]))"
    )
    status, text = json.loads(host(client).check_output(f'python3 -c "{code % (address, path, NAME)}"'))
    return status, text.strip()


def command(edge: str) -> str:
    """The command of the timer's service, as the role's README says."""
    found: str = host(edge).check_output("systemctl cat acme-links.service | sed -n 's/^ExecStart=//p'")
    return found


def certbot(edge: str, *options: str) -> Any:
    """Run certbot on the edge that obtained the certificate, as its program does, but with options of the test's."""
    program = pathlib.PurePath(command(edge).split()[0]).with_name("certbot")
    return host(edge).run(f"REQUESTS_CA_BUNDLE={CONFIGURATION}/roots.pem {program} {' '.join(options)}")


def run_timer_program(edge: str, *options: str) -> dict[str, Any]:
    """Run the timer's program; return the status that it wrote."""
    host(edge).run(f"{command(edge)} {' '.join(options)}")
    return status_of(edge)


def status_of(edge: str) -> dict[str, Any]:
    """What the timer's program recorded."""
    status: dict[str, Any] = json.loads(host(edge).file(STATUS).content_string)
    return status


def start_service(edge: str) -> None:
    """Run the timer's service, which must succeed."""
    host(edge).check_output("systemctl start acme-links.service")
    assert (status_of(edge)["trouble"], status_of(edge)["refused"]) == ("", [])


def forget_information(edge: str) -> None:
    """Let certbot ask the authority when to renew; it does so every six hours."""
    host(edge).check_output(
        "sed -i '/acme_renewal_info/,$d' /var/lib/acme-certificate/links/certbot-*/renewal/links.conf"
    )


def assert_revoked_certificate_is_renewed(edge: str) -> None:
    """Assert that an edge renews the certificate that it obtained, and that the other one copies it."""
    before = served(edge)
    revoked = certbot(edge, f"revoke --config {CONFIGURATION}/certbot.ini --no-delete-after-revoke")
    assert revoked.rc == 0, revoked.stderr
    forget_information(edge)
    for one in (edge, *(EDGES.keys() - {edge})):
        with nginx.reloaded(host(one)):
            start_service(one)
        assert installed_certificate(one) != before
    assert installed_certificate("web1") == installed_certificate("web2")


def test_both_edges_serve_the_same_certificate() -> None:
    first, second = (served(edge) for edge in EDGES)
    assert first == second
    # only one of them requested it from the authority
    look = "find /var/lib/acme-certificate/links -path '*/certbot-*/live/links'"
    lineages = [host(edge).check_output(look) for edge in EDGES]
    assert [bool(lineage) for lineage in lineages] == [True, False]


def test_keys_and_credentials_are_readable_only_by_root() -> None:
    for edge in EDGES:
        readable = "find /etc/acme-certificate /etc/ssl/baton /var/lib/acme-certificate/links -perm /044"
        names = host(edge).check_output(f"{readable} -type f").split()
        assert not [
            name
            for name in names
            if name.endswith((".key", "privkey.pem", ".ini", "settings.json", "private_key.json"))
        ]
        assert host(edge).run("runuser -u www-data -- cat /etc/ssl/baton/links/privkey.pem").rc != 0
    assert (KEPT.stat().st_mode & 0o777) == 0o700
    assert list(KEPT.glob("links/account-*/**/private_key.json"))


def test_authority_refuses_accounts_that_are_not_bound_to_an_external_one() -> None:
    folders = " ".join(f"--{name}-dir /run/unbound" for name in ("config", "work", "logs"))
    server = host("web1").check_output(f"sed -n 's/^server = //p' {CONFIGURATION}/certbot.ini")
    done = certbot("web1", "register", folders, "--server", server, "--agree-tos --register-unsafely-without-email -n")
    assert done.rc != 0
    assert "external account binding" in done.stderr


def test_key_of_the_external_account_is_in_no_log() -> None:
    # in a variable, because the host logs the commands of tests
    key = f"key=$(sed -n 's/^eab-hmac-key = //p' {CONFIGURATION}/certbot.ini)"
    host("web1").check_output(f'{key}; test -n "$key"')
    # in each place that is searched; the host logs the command with it
    canary = f"key=canary-{secrets.token_hex(8)}"
    folders = "/var/log /var/lib/acme-certificate/links/certbot-*/logs"
    host("web1").check_output(
        f'{canary}; for folder in {folders}; do echo "$key" > $folder/canary; done; logger "$key"'
    )
    for folder in folders.split():
        look = f'grep -rqF "$key" {folder}'
        assert host("web1").run(f"{canary}; {look}").rc == 0
        assert host("web1").run(f"{key}; {look}").rc == 1
    look = 'journalctl --sync; journalctl --no-pager -o cat > /run/canary; grep -qF "$key" /run/canary'
    assert host("web1").run(f"{canary}; {look}").rc == 0
    assert host("web1").run(f"{key}; {look}").rc == 1
    host("web1").check_output(f"for folder in {folders}; do rm $folder/canary; done; rm /run/canary")


def test_renewal_follows_the_authoritys_information() -> None:
    """A certificate that is revoked long before its end is renewed by the timer's next run (ARI)."""
    before = served("web1")
    forget_information("web1")
    start_service("web1")
    assert served("web1") == before
    assert_revoked_certificate_is_renewed("web1")


def test_challenge_is_answered_by_every_edge() -> None:
    folder = "/var/lib/acme-certificate/links/challenges/.well-known/acme-challenge"
    token = "token-0123456789-of-web2"
    host("web2").check_output(f"mkdir -p {folder} && echo answer > {folder}/{token}")
    curl.install(host("ca1"))
    for edge, address in ADDRESSES.items():
        assert ask("ca1", address, f"acme-challenge/{token}") == (200, "answer"), edge
        assert ask("ca1", address, "acme-challenge/another-0123456789")[0] == 404, edge
        # as an authority that follows a redirect to HTTPS, such as that of a CDN
        follow = f"curl -sS --fail --insecure --max-time 600 --resolve {NAME}:443:{address}"
        url = f"https://{NAME}/.well-known/acme-challenge/{token}"
        assert host("ca1").check_output(f"{follow} {url}") == "answer", edge
    host("web2").check_output(f"rm {folder}/{token}")


def test_edges_firewall_does_not_limit_other_edges() -> None:
    """Anyone can make an edge ask another one for challenges."""
    for edge, other in (("web1", "web2"), ("web2", "web1")):
        exempt = host(edge).check_output("nft list set inet baton unlimited_tcp80_ip")
        assert ADDRESSES[other] in exempt
        assert ADDRESSES[edge] not in exempt


def test_certificate_is_served_only_to_edges() -> None:
    assert ask("ca1", ADDRESSES["web1"], "acme-certificate")[0] == 403
    status, text = ask("web2", ADDRESSES["web1"], "acme-certificate")
    assert status == 200
    assert "PRIVATE" not in text


# What a compromised edge could offer: self-signed over the shared key, newer than the one in use.
OFFER = """
import json, pathlib, subprocess
from cryptography.fernet import Fernet
settings = json.loads(pathlib.Path("/etc/acme-certificate/links/settings.json").read_text())
key = pathlib.Path("/etc/ssl/baton/links/privkey.pem")
names = "subjectAltName=" + ",".join("DNS:" + name for name in settings["names"])
words = ["openssl", "req", "-x509", "-days", "90", "-subj", "/CN=links", "-addext", names, "-key", str(key)]
chain = subprocess.run(words, check=True, capture_output=True, text=True).stdout
content = json.dumps({"directory": settings["directory"], "chain": chain, "key": key.read_text()})
pathlib.Path(settings["state"], "bundle").write_bytes(Fernet(settings["sharing_key"]).encrypt(content.encode()))
"""


def test_certificates_that_clients_or_nginx_refuse_are_not_used() -> None:
    before, link = served("web2"), host("web2").check_output("readlink /etc/ssl/baton/links")
    python = command("web1").split()[0]
    host("web1").check_output(f"{python} -I - <<'END'{OFFER}END")
    # and what nginx can't load, as if it were the authority's
    lineage = "$(echo /var/lib/acme-certificate/links/certbot-*)/live/links"
    names = f"subjectAltName=DNS:{NAME},DNS:www.{NAME}"
    weak = f"openssl req -x509 -newkey rsa:1024 -nodes -days 90 -subj /CN=weak -addext {names}"
    host("web2").check_output(
        f"mkdir -p {lineage} && cd {lineage} && {weak} -keyout privkey.pem -out fullchain.pem 2>/dev/null"
    )
    try:
        # in the unit's sandbox
        assert host("web2").run("systemctl start acme-links.service").rc != 0
        by_authority, by_edge = sorted(
            json.loads(host("web2").file(STATUS).content_string)["refused"],
            key=lambda words: ADDRESSES["web1"] in words,
        )
        assert by_authority.startswith("the authority's: nginx rejects it: ")
        assert "too small" in by_authority
        assert by_edge.startswith(f"that of {ADDRESSES['web1']}: clients would not trust it: self-signed certificate")
        assert host("web2").check_output("readlink /etc/ssl/baton/links") == link
        host("web2").check_output("nginx -t")
        assert served("web2") == before
        done = FLEET.play("playbooks/status.yml")
        assert done.status != 0
        assert f"web2: a certificate for the site is unusable, {by_edge[:60]}" in done.words
    finally:
        host("web2").check_output(f"rm -r {lineage}")
        run_timer_program("web1")
    host("web2").check_output("systemctl start acme-links.service")
    assert run_timer_program("web2")["refused"] == []
    assert served("web2") == before


def test_timer_runs_in_a_sandbox() -> None:
    timer = host("web1").check_output("systemctl show acme-links.timer -p ActiveState -p RandomizedDelayUSec")
    assert "ActiveState=active" in timer
    assert "RandomizedDelayUSec=12h" in timer
    exposure = host("web1").check_output("systemd-analyze security --no-pager acme-links.service").splitlines()[-1]
    assert float(exposure.split(":")[1].split()[0]) < 3, exposure


def test_renewals_that_stopped_are_reported() -> None:
    FLEET.succeed("playbooks/status.yml")
    status = {**status_of("web2"), "when": time.time() - 3 * 86400}
    host("web1").check_output("systemctl stop acme-links.timer nginx-session-tickets.timer")
    host("web2").check_output(f"cat > {STATUS} <<'END'\n{json.dumps(status)}\nEND")
    try:
        done = FLEET.play("playbooks/status.yml")
        assert done.status != 0
        for timer in ("acme-links.timer", "nginx-session-tickets.timer"):
            assert f"web1: the unit {timer} is inactive" in done.words
        assert "web2: the renewal of the site's certificate last ran at " in done.words
        assert "web1: the renewal" not in done.words
    finally:
        host("web1").check_output("systemctl start acme-links.timer nginx-session-tickets.timer")
        start_service("web2")


def assert_reported_and_kept(before: bytes, words: str) -> None:
    """Assert that web1 still serves its previous certificate, and that status.yml reports the failure."""
    assert served("web1") == before
    done = FLEET.play("playbooks/status.yml")
    assert done.status != 0
    assert words in done.words
    assert "is still in use" in done.words


def test_name_that_leads_elsewhere_is_reported_and_keeps_certificate() -> None:
    before = served("web1")
    # nothing answers on its port 80
    set_address(NAME, "10.213.88.31")
    try:
        status = run_timer_program("web1", "--force")
        assert status["trouble"].startswith(f"{NAME} (")
        assert_reported_and_kept(before, f" ago: {NAME} (")
    finally:
        set_address(NAME)
    start_service("web1")


def set_address(name: str, *addresses: str) -> None:
    """Set the addresses of a name in the authority's DNS; without any, remove them again."""
    content = {"host": name, **({"addresses": addresses} if addresses else {})}
    call = f"http://127.0.0.1:8055/{'add' if addresses else 'clear'}-a"
    code = f"import urllib.request; urllib.request.urlopen({call!r}, {json.dumps(content).encode()!r})"
    host("ca1").check_output(f"python3 - <<'END'\n{code}\nEND")


def test_unreachable_authority_is_reported_and_keeps_certificate() -> None:
    before = served("web1")
    # pebble isn't stopped, as it would lose its accounts and its root
    host("web1").check_output("ip route add unreachable 10.213.88.31/32")
    try:
        status = run_timer_program("web1", "--force")
        assert "10.213.88.31" in status["trouble"]
        assert_reported_and_kept(before, NOT_RENEWED)
    finally:
        host("web1").check_output("ip route del unreachable 10.213.88.31/32")


def test_refused_external_account_is_reported_and_keeps_certificate() -> None:
    """Rate limits, which pebble doesn't have, are in tests/unit/roles/test_acme_refusals.py."""
    before = served("web1")
    accounts, options = "$(echo /var/lib/acme-certificate/links/certbot-*)/accounts", f"{CONFIGURATION}/certbot.ini"
    # an account is bound when it is created
    host("web1").check_output(f"mv {accounts} /run/accounts && sed -i 's/^eab-kid = .*/eab-kid = unknown/' {options}")
    try:
        status = run_timer_program("web1", "--force")
        assert "references a key that is not known" in status["trouble"]
        assert_reported_and_kept(before, NOT_RENEWED)
    finally:
        host("web1").check_output(
            f"rm -rf {accounts} && mv /run/accounts {accounts} && sed -i 's/^eab-kid = .*/eab-kid = baton/' {options}"
        )
    start_service("web1")


@pytest.mark.long
@pytest.mark.parametrize("edge", EDGES)
def test_renewals_under_load_lose_no_request(edge: str) -> None:
    certificates = set()
    loads = [Load("fresh", share=4), Load("get", share=4), Load("post", "/echo", share=1, size=20000)]
    target = f"https://127.0.0.1:{EDGES[edge]}"
    # nginx before 1.27.4 closes idle keep-alive connections when it reloads: no client keeps one here
    with Background(target, loads, rate=60, fewest=1000, host=NAME, ca_file=str(ROOT), idle_limit=0) as traffic:
        for _ in range(10):
            certificates.add(renew(edge))
    assert len(certificates) == 10
    assert traffic.summary.failed == {}, traffic.summary


@pytest.mark.long
def test_reinstalled_edge_gets_the_account_from_the_controller() -> None:
    keys = "cat /var/lib/acme-certificate/links/certbot-*/accounts/*/*/*/private_key.json"
    before = host("web1").check_output(keys)
    host("web1").check_output("rm -rf /var/lib/acme-certificate/links/certbot-*/accounts")
    FLEET.succeed("site.yml")
    assert host("web1").check_output(keys) == before


def install_due_certificate(edge: str) -> bytes:
    """Let an edge serve a certificate that is due, but not urgent, as it would have copied it from the other one."""
    # the edges trust the root of the authority's HTTPS as an issuer, too
    key_of_root = host("ca1").file("/etc/pebble/directory.key").content_string
    root = Issued((ROOT.parent / "directory.pem").read_text(), key_of_root)
    chain, key = issue(NAME, f"www.{NAME}", start=-70, end=28, signer=root)
    folder = f".links-acme-{hashlib.sha256(chain.encode()).hexdigest()[:16]}"
    state = "/var/lib/acme-certificate/links"
    host(edge).check_output(
        f"cd /etc/ssl/baton && mkdir {folder} && cp -p links/privkey.pem links/directory {folder}/ && "
        f"cat > {folder}/privkey.pem <<'END'\n{key}END\ncat > {folder}/fullchain.pem <<'END'\n{chain}END\n"
        f"ln -sfn {folder} links && printf %s {folder} > {state}/loaded && "
        # it has never obtained one
        f"rm -rf {state}/certbot-*/live {state}/certbot-*/archive {state}/certbot-*/renewal"
    )
    nginx.reload(host(edge))
    return served(edge, ROOT.parent / "directory.pem")


@pytest.mark.long
def test_lost_edge_does_not_stop_renewal() -> None:
    before = install_due_certificate("web2")
    host("web1").check_output("systemctl stop nginx")
    try:
        with nginx.reloaded(host("web2")):
            start_service("web2")
        assert installed_certificate("web2") != before
    finally:
        host("web1").check_output("systemctl start nginx")
    with nginx.reloaded(host("web1")):
        start_service("web1")
    assert installed_certificate("web1") == installed_certificate("web2")
    # the edge that took over also renews it, although the other one has precedence again
    assert_revoked_certificate_is_renewed("web2")
