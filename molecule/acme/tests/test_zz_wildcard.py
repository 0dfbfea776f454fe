"""A wildcard certificate with DNS-01: certbot writes the record to BIND with RFC 2136, and the authority reads it."""

from __future__ import annotations

import base64
import secrets

import pytest

from .test_acme import FLEET, KEPT, NAME, host, served

KEY = base64.b64encode(secrets.token_bytes(32)).decode()
ZONE = """$TTL 60
@ IN SOA ns hostmaster 1 60 60 60 60
@ IN NS ns
ns IN A 10.213.88.31
"""
BIND = f"""key "certbot." {{ algorithm hmac-sha256; secret "{KEY}"; }};
zone "baton.test" {{ type master; file "/var/lib/bind/baton.test"; update-policy {{ grant certbot. zonesub TXT; }}; }};
"""


@pytest.mark.long
def test_wildcard_certificate_with_rfc2136() -> None:
    ca1 = host("ca1")
    ca1.check_output("apt-get -qq -y --no-install-recommends install bind9 >/dev/null")
    ca1.check_output(f"cat > /etc/bind/named.conf.local <<'END'\n{BIND}\nEND")
    ca1.check_output(f"cat > /var/lib/bind/baton.test <<'END'\n{ZONE}\nEND\nchown -R bind: /var/lib/bind")
    ca1.check_output("systemctl restart named")
    # the authority restarts with this DNS server, and loses the account
    FLEET.succeed("fleet/acme.yml", acme_authority="ca1", acme_dns="10.213.88.31:53")
    for edge in ("web1", "web2"):
        host(edge).check_output("rm -rf /var/lib/acme-certificate/links/certbot-*")
    for account in KEPT.glob("links/account-*"):
        account.rename(account.with_name(f"old-{account.name}"))
    done = FLEET.succeed(
        "site.yml",
        "--diff",
        nginx_site_server_names=[NAME, f"*.{NAME}"],
        tls_certificate_acme_challenge="dns-01",
        tls_certificate_acme_dns_provider="rfc2136",
        tls_certificate_acme_dns_credentials={
            "server": "10.213.88.31",
            "name": "certbot.",
            "secret": KEY,
            "algorithm": "HMAC-SHA256",
        },
        tls_certificate_acme_dns_propagation_seconds=3,
    )
    assert KEY not in done.output
    assert served("web1", name=f"any.{NAME}") == served("web2", name=f"other.{NAME}")
