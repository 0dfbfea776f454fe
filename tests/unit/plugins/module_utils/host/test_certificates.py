"""The ends of certificates: when they are a problem, and what the operator is told."""

from __future__ import annotations

import pathlib
import time
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.host import certificates

from tests.support.certificate import issue

NOW = 1_800_000_000.0


def certificate(left: float, lifetime: float, **changed: Any) -> dict[str, Any]:
    """A certificate that ends in `left` days."""
    expires = NOW + left * certificates.DAY
    begins = expires - lifetime * certificates.DAY
    return {"path": "/c.pem", "purpose": "of Redis", "begins": begins, "expires": expires, **changed}


@pytest.mark.parametrize(
    ("lifetime", "left", "words"),
    [
        (90, 23, ""),
        (90, 22, "expires in 22 days"),
        (6, 1.6, ""),
        (6, 1.4, "expires in 34 hours"),
        (365, 92, ""),
        (365, 90, "expires in 90 days"),
        (90, 0, "has expired"),
        (90, -1, "has expired"),
    ],
)
def test_certificate_is_a_problem_in_the_last_quarter_of_its_lifetime(lifetime: float, left: float, words: str) -> None:
    expected = f"the certificate of Redis (/c.pem) {words}; run site.yml to renew it." if words else ""
    assert certificates.problem(certificate(left, lifetime), NOW) == expected


def test_certificate_is_no_problem_before_site_yml_would_renew_it() -> None:
    assert certificates.problem(certificate(80, 365, renew_days=30), NOW) == ""
    assert "expires in 29 days" in certificates.problem(certificate(29, 365, renew_days=30), NOW)
    # which only concerns those that site.yml signs
    assert "expires in 80 days" in certificates.problem(certificate(80, 365, renew_days=30, method="provided"), NOW)
    # the last quarter comes first
    assert certificates.problem(certificate(100, 365, renew_days=180), NOW) == ""


@pytest.mark.parametrize(
    ("method", "advice"),
    [
        ("self_signed", "run site.yml to renew it."),
        ("provided", "provide a new one (tls_certificate_certificate_source or tls_certificate_certificate_content, "),
        ("acme", "`journalctl -u 'acme-*'` on the host shows why"),
    ],
)
def test_advice_depends_on_who_renews_the_certificate(method: str, advice: str) -> None:
    assert advice in certificates.problem(certificate(1, 90, method=method), NOW)


def test_validity_is_read_from_the_file(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "c.pem"
    path.write_text(issue("links.example", start=-10, end=80).certificate)
    found = certificates.validity(str(path))
    begins, expires = found["begins"] or 0.0, found["expires"] or 0.0
    assert abs(begins - (time.time() - 10 * certificates.DAY)) < 120
    assert abs(expires - (time.time() + 80 * certificates.DAY)) < 120
    date = time.strftime("%Y-%m-%d", time.gmtime(expires))
    assert (
        certificates.end({"purpose": "of the site", **found}) == f"the certificate of the site is valid until {date}."
    )


def test_unreadable_certificate_is_a_problem(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "broken.pem"
    path.write_text("x")
    found = certificates.validity(str(path))
    assert found == {"begins": None, "expires": None}
    assert "can't be read; `openssl x509 -in " in certificates.problem({**certificate(9, 90), **found}, NOW)
    # nor where the program is missing
    path.write_text(issue("links.example").certificate)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert certificates.validity(str(path)) == found
