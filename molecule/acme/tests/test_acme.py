"""Certificates by ACME on two edges, from a real authority, and what happens when it can't be had."""

from __future__ import annotations

import json
import pathlib
import socket
import ssl
from typing import Any

import pytest
import testinfra

from tests.support import nginx
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
STATUS = "/var/lib/acme-certificate/links/status.json"


def host(name: str) -> Any:
    return testinfra.get_host(f"ansible://{name}", ansible_inventory=str(INVENTORY))


def served(edge: str, ca_file: pathlib.Path = ROOT, name: str = NAME) -> bytes:
    """The certificate that a client gets, who trusts this authority."""
    context = ssl.create_default_context(cafile=str(ca_file))
    with (
        socket.create_connection(("127.0.0.1", EDGES[edge]), PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname=name) as tls,
    ):
        found = tls.getpeercert(binary_form=True)
    assert found is not None
    return found


def renew(edge: str) -> bytes:
    """Have an edge obtain another certificate; that one, once clients get no other."""
    with nginx.reloaded(host(edge)):
        assert keep(edge, "--force")["trouble"] == ""
    return present(edge)


def present(edge: str) -> bytes:
    """The certificate that an edge has, and serves."""
    chain = host(edge).file("/etc/ssl/baton/links/fullchain.pem").content_string
    found = ssl.PEM_cert_to_DER_cert(chain.partition("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----\n")
    assert served(edge) == found
    return found


def ask(client: str, address: str, path: str) -> tuple[int, str]:
    """Status and text of what a host gets over plain HTTP."""
    code = (
        "import http.client,json; c=http.client.HTTPConnection('%s', timeout=600); "
        "c.request('GET', '/.well-known/%s', headers={'Host': '%s'}); a=c.getresponse(); "
        "print(json.dumps([a.status, a.read().decode()]))"
    )
    status, text = json.loads(host(client).check_output(f'python3 -c "{code % (address, path, NAME)}"'))
    return status, text.strip()


def keep(edge: str, *options: str) -> dict[str, Any]:
    """Run what the timer runs; how it went."""
    program = host(edge).check_output("ls /var/lib/acme-certificate/environments/*/venv/bin/python")
    host(edge).run(
        f"{program} -I /usr/local/sbin/acme-certificate /etc/acme-certificate/links/settings.json {' '.join(options)}"
    )
    said: dict[str, Any] = json.loads(host(edge).file(STATUS).content_string)
    return said


def test_one_certificate_serves_on_both_edges() -> None:
    first, second = (served(edge) for edge in EDGES)
    assert first == second
    # one of them alone asked the authority
    lineages = [
        host(edge).check_output("ls -d /var/lib/acme-certificate/links/certbot-*/live/links || true") for edge in EDGES
    ]
    assert [bool(lineage) for lineage in lineages] == [True, False]


def test_keys_and_credentials_are_root_s_alone() -> None:
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


def test_a_challenge_is_answered_whichever_edge_is_asked() -> None:
    folder = "/var/lib/acme-certificate/links/challenges/.well-known/acme-challenge"
    host("web2").check_output(f"mkdir -p {folder} && echo answer > {folder}/token")
    for edge, address in ADDRESSES.items():
        assert ask("ca1", address, "acme-challenge/token") == (200, "answer"), edge
        assert ask("ca1", address, "acme-challenge/another")[0] == 404, edge
    host("web2").check_output(f"rm {folder}/token")


def test_the_certificate_is_handed_to_edges_alone() -> None:
    assert ask("ca1", ADDRESSES["web1"], "acme-certificate")[0] == 403
    status, text = ask("web2", ADDRESSES["web1"], "acme-certificate")
    assert status == 200
    assert "PRIVATE" not in text


def test_the_timer_runs_twice_a_day_in_a_sandbox() -> None:
    timer = host("web1").check_output("systemctl show acme-links.timer -p ActiveState -p RandomizedDelayUSec")
    assert "ActiveState=active" in timer
    assert "RandomizedDelayUSec=12h" in timer
    judged = host("web1").check_output("systemd-analyze security --no-pager acme-links.service").splitlines()[-1]
    assert float(judged.split(":")[1].split()[0]) < 3, judged


def test_an_authority_that_is_down_leaves_the_certificate_and_is_told() -> None:
    before = served("web1")
    # not stopped, as pebble forgets its accounts and its root
    host("web1").check_output("ip route add unreachable 10.213.88.31/32")
    try:
        said = keep("web1", "--force")
        assert "10.213.88.31" in said["trouble"]
        assert served("web1") == before
        done = FLEET.play("playbooks/status.yml")
        assert done.status != 0
        for words in (
            f"no new certificate for {NAME}, www.{NAME} from https://10.213.88.31:14000/dir",
            "is still in use",
        ):
            assert words in done.words
    finally:
        host("web1").check_output("ip route del unreachable 10.213.88.31/32")


@pytest.mark.long
def test_ten_renewals_under_load_lose_nothing() -> None:
    certificates = set()
    loads = [Load("fresh", share=4), Load("get", share=4), Load("post", "/echo", share=1, size=20000)]
    target = f"https://127.0.0.1:{EDGES['web1']}"
    # nginx before 1.27.4 closes connections that clients keep for later when it reloads: none keeps one here
    with Background(target, loads, rate=60, fewest=1000, host=NAME, ca_file=str(ROOT), idle_limit=0) as traffic:
        for _ in range(10):
            certificates.add(renew("web1"))
    assert len(certificates) == 10
    assert traffic.summary.failed == {}, traffic.summary


@pytest.mark.long
def test_a_lost_edge_stops_no_renewal() -> None:
    before = served("web2")
    host("web1").check_output("systemctl stop nginx")
    try:
        # the other one asks as soon as its certificate is due
        assert renew("web2") != before
    finally:
        host("web1").check_output("systemctl start nginx")
    with nginx.reloaded(host("web1")):
        assert keep("web1")["trouble"] == ""
    assert present("web1") == present("web2")
