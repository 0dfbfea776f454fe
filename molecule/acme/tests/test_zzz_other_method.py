"""Another source of the certificate ends the renewals by ACME, also one that runs."""

from __future__ import annotations

import pytest

from tests.support.wait import until

from .test_acme import EDGES, FLEET, INVENTORY, host, served

LOCK = "/var/lib/acme-certificate/links/lock"
ENVIRONMENTS = "/var/lib/acme-certificate/environments"


@pytest.mark.long
def test_other_method_ends_a_running_renewal() -> None:
    for edge in EDGES:
        # environments of the last day may be in creation
        host(edge).check_output(f"touch -d '2 days ago' {ENVIRONMENTS}/*")
    web1 = host("web1")
    # a renewal that doesn't end before site.yml
    web1.check_output(f"systemd-run --unit=hold-renewal flock {LOCK} sleep infinity")
    try:
        until(lambda: web1.run(f"flock --nonblock {LOCK} true").rc != 0, "nothing holds the lock")
        web1.check_output("systemctl start --no-block acme-links.service")
        assert web1.run("systemctl is-active acme-links.service").stdout.strip() == "activating"
        FLEET.succeed("site.yml", tls_certificate_method="self_signed")
        assert web1.run("systemctl is-active acme-links.service").stdout.strip() == "inactive"
    finally:
        web1.check_output("systemctl stop hold-renewal")
    for edge in EDGES:
        assert host(edge).check_output("readlink /etc/ssl/baton/links") == ".links-self-signed"
        assert served(edge, INVENTORY / "tls/ca.pem")
        assert host(edge).check_output(f"ls {ENVIRONMENTS}; ls /etc/systemd/system | grep acme- || true") == ""
