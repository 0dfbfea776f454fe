"""What a host's journal records about a deploy."""

from __future__ import annotations

from typing import Any


def rehearsal(host: Any, app: str, release: str) -> tuple[float, float]:
    """When the rehearsal of a release began to boot on a host, and when it finished booting, as Unix times."""
    output = host.check_output(
        f"journalctl --sync; journalctl --unit={app}-rehearsal@{release}.service --output=short-unix --no-pager"
        " | grep -E ' systemd.1.: Start(ing|ed) '"
    )
    began, booted = (float(line.partition(" ")[0]) for line in output.splitlines())
    return began, booted
