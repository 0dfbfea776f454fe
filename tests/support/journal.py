"""What a host's journal says of a deploy, for tests."""

from __future__ import annotations

from typing import Any


def rehearsal(host: Any, app: str, release: str) -> tuple[float, float]:
    """When the rehearsal of an application's release began to boot on a host, and when it had booted, as Unix times."""
    told = host.check_output(
        f"journalctl --sync; journalctl --unit={app}-rehearsal@{release}.service --output=short-unix --no-pager"
        " | grep -E ' systemd.1.: Start(ing|ed) '"
    )
    began, booted = (float(line.partition(" ")[0]) for line in told.splitlines())
    return began, booted
