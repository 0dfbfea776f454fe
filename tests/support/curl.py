"""An HTTP client on a host of the fleet, for requests that must come from that host."""

from __future__ import annotations

import json
from typing import Any

PROTOCOLS = ("--http1.1", "--http2")


def install(host: Any) -> None:
    """Install curl on the host if it is missing."""
    host.check_output("command -v curl >/dev/null || apt-get install -qq -y curl >/dev/null 2>&1")


def seen(host: Any, name: str, address: str, path: str, *options: str, port: int = 443) -> Any:
    """The application's report of a GET of `path` through an edge. The certificate isn't verified."""
    words = " ".join(f"'{option}'" for option in options)
    output = host.check_output(
        f"curl -sS --fail --insecure --max-time 600 {words} --resolve {name}:{port}:{address} "
        f"'https://{name}:{port}{path}'"
    )
    return json.loads(output)
