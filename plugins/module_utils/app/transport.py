"""How requests get from the edges to an application, plain or with TLS, according to the files on one host.

site.yml and the last activation write these files.
"""

from __future__ import annotations

import contextlib
import pathlib
import re
from typing import Any

from .layout import Application

# comment of the firewall's rule for the plain port in playbooks/vars/wiring.yml
PLAIN_RULE = '"application, from the edge"'
_TRUSTED = re.compile(r'^forwarded_allow_ips = "(.*)"$', re.MULTILINE)


def of_host(app: Application) -> dict[str, Any]:
    """Return how the host's site sends requests, which connections it accepts, and whom the application trusts."""
    site = _text(app.path("etc/nginx/sites-enabled", f"{app.name}.conf"))
    # the active configuration: during a change, the one in /etc is newer
    trusted = _TRUSTED.search(_text(app.kept / "etc" / app.name / "gunicorn.conf.py"))
    return {
        "sends": "" if not site else "tls" if re.search(r"^ *proxy_ssl_name ", site, re.MULTILINE) else "plain",
        "takes_tls": app.path("etc/nginx/streams-enabled", f"{app.name}.conf").exists(),
        "takes_plain": PLAIN_RULE in _text(app.path("etc/nftables.d", f"{app.name}.nft")),
        "trusted": trusted[1].split(",") if trusted else [],
    }


def _text(path: pathlib.Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace")
    return ""
