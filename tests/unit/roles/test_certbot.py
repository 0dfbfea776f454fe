"""The options that the role writes for certbot, read by the certbot and the plugins of its locks."""

from __future__ import annotations

import os
import pathlib
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

PROJECT = pathlib.Path(__file__).resolve().parents[3]
LOCKS = "roles/tls_certificate/files"
TOKEN = {"api_token": "a"}
PROVIDERS: dict[str, dict[str, str]] = {
    "": {},
    "rfc2136": {"server": "192.0.2.53", "name": "key.", "secret": "c2VjcmV0"},
    "cloudflare": TOKEN,
    "route53": {},
    # by the plugin for lego's providers
    "hetzner": {"HETZNER_API_KEY": "a"},
}


def test_every_lock_is_read() -> None:
    locks = {path.stem for path in (PROJECT / LOCKS).glob("certbot*.txt")}
    assert locks == {"certbot", *(f"certbot-{plugin}" for plugin in ("rfc2136", "cloudflare", "route53", "multi"))}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_certbot_knows_each_option(load_role: Callable[[str], Any], tmp_path: pathlib.Path, provider: str) -> None:
    role, given = (
        load_role("tls_certificate"),
        {
            "tls_certificate_name": "links",
            "tls_certificate_names": ["links.example.org"],
            "tls_certificate_method": "acme",
            "tls_certificate_acme_email": "a@example.org",
            "tls_certificate_acme_profile": "shortlived",
            "tls_certificate_acme_eab_key_id": "id",
            "tls_certificate_acme_eab_hmac_key": "key",
            "tls_certificate_acme_challenge": "dns-01" if provider else "http-01",
            "tls_certificate_acme_dns_provider": provider,
            "tls_certificate_acme_dns_credentials": PROVIDERS[provider],
            # preflight refuses it for route53
            "tls_certificate_acme_dns_propagation_seconds": 60,
            "__tls_certificate_acme_lineages": str(tmp_path / "lineages"),
            "__tls_certificate_acme_state": str(tmp_path),
            "__tls_certificate_acme_configuration": str(tmp_path),
        },
    )
    for name in ("certbot.ini", "dns.ini"):
        text = role.render(f"etc/acme-certificate/{name}.j2", **given)
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    (tmp_path / "challenges").mkdir()
    assert ("propagation-seconds = 60" in (tmp_path / "certbot.ini").read_text()) is (provider not in ("", "route53"))
    lock = role.value("__tls_certificate_acme_lock", **given)
    venv = subprocess.run(
        [PROJECT / "scripts/package-venv", LOCKS, lock], capture_output=True, text=True, check=True
    ).stdout.strip()
    done = subprocess.run(
        [f"{venv}/bin/certbot", "certificates", "--config", tmp_path / "certbot.ini"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "AWS_DEFAULT_REGION": "us-east-1"},
    )
    assert (done.returncode, done.stderr.count("unrecognized arguments")) == (0, 0), done.stderr
    assert "No certificates found" in done.stdout
