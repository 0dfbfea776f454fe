"""An HTTP client on a host of the fleet, for requests that have to come from there."""

from __future__ import annotations

import json
from typing import Any

PROTOCOLS = ("--http1.1", "--http2")


def install(host: Any) -> None:
    """Have curl on the host."""
    host.check_output("command -v curl >/dev/null || apt-get install -qq -y curl >/dev/null 2>&1")


def seen(host: Any, name: str, address: str, path: str, *options: str) -> Any:
    """What the application says that it saw of a GET of `path` at an edge, of which the certificate isn't looked at."""
    words = " ".join(f"'{option}'" for option in options)
    said = host.check_output(
        f"curl -sS --fail --insecure --max-time 600 {words} --resolve {name}:443:{address} 'https://{name}{path}'"
    )
    return json.loads(said)
