"""How long a host's certificates are valid, and what to do before they end.

A certificate is a mapping with `path`, `purpose` (in messages), the keys of `validity`, and optionally `method` (who
renews it, as in tls_certificate_method) and, for self_signed, `renew_days` (the remaining days below which site.yml
renews it; 0 if that is before the warning).
"""

from __future__ import annotations

import ssl
import subprocess
import time
from collections.abc import Mapping
from typing import Any

DAY = 86400  # seconds
# share of a certificate's lifetime: with less left it should have been renewed
EXPIRY_WARNING = 1 / 4
RENEWAL = {
    "self_signed": "run site.yml to renew it",
    "provided": (
        "provide a new one (tls_certificate_certificate_source or tls_certificate_certificate_content, with its key) "
        "and run site.yml"
    ),
    "acme": (
        "the host should have renewed it: `journalctl -u 'acme-*'` on the host shows why it did not, and site.yml "
        "requests it again"
    ),
}


def validity(path: str) -> dict[str, float | None]:
    """Return when a PEM certificate begins and expires, in seconds since the epoch; None if it can't be read."""
    command = ["openssl", "x509", "-noout", "-startdate", "-enddate", "-in", path]
    try:
        done = subprocess.run(command, check=True, text=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return {"begins": None, "expires": None}
    begins, expires = (ssl.cert_time_to_seconds(line.partition("=")[2]) for line in done.stdout.splitlines())
    return {"begins": begins, "expires": expires}


def problem(certificate: Mapping[str, Any], now: float) -> str:
    """Return what is wrong with a certificate, and the fix: a sentence without the host. Empty if nothing is."""
    which = f"the certificate {certificate['purpose']} ({certificate['path']})"
    begins, expires = certificate["begins"], certificate["expires"]
    if begins is None or expires is None:
        return f"{which} can't be read; `openssl x509 -in {certificate['path']}` on the host shows why."
    least = (expires - begins) * EXPIRY_WARNING
    method = certificate.get("method", "self_signed")
    if method == "self_signed" and (renew_days := certificate.get("renew_days")):
        # before that, site.yml wouldn't renew it
        least = min(least, renew_days * DAY)
    left = expires - now
    if left >= least:
        return ""
    ends = f"expires in {days(left)}" if left > 0 else "has expired"
    return f"{which} {ends}; {RENEWAL[method]}."


def end(certificate: Mapping[str, Any]) -> str:
    """Return until when a certificate is valid: a sentence without the host. Its end must be known."""
    date = time.strftime("%Y-%m-%d", time.gmtime(certificate["expires"]))
    return f"the certificate {certificate['purpose']} is valid until {date}."


def days(seconds: float) -> str:
    """Format a duration in days, or in hours below two days, for short-lived certificates."""
    return f"{seconds / DAY:.0f} days" if seconds >= 2 * DAY else f"{max(seconds, 0) / 3600:.0f} hours"
