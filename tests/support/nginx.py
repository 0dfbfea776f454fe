"""nginx on a host. A client may notice a reload or an answer before it is complete or logged: these functions wait."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Collection, Iterator
from typing import Any

from .wait import until


def workers(host: Any) -> set[int]:
    """The processes that accept connections."""
    return _titled(host, "nginx: worker process")


def settle(host: Any) -> None:
    """Wait until no worker of an earlier configuration is left."""
    until(lambda: not _titled(host, "nginx: worker process is shutting down"), "former workers are left")


@contextlib.contextmanager
def reloaded(host: Any) -> Iterator[None]:
    """Run a block that reloads nginx; return when only new workers accept connections."""
    before = workers(host)
    yield
    # for a moment, old and new workers accept
    until(lambda: (now := workers(host)) and not now & before, "the former workers serve")


def reload(host: Any) -> None:
    """Reload nginx and wait for its new workers."""
    with reloaded(host):
        host.check_output("systemctl reload nginx")


def sockets(host: Any) -> int:
    """How many sockets its workers have open, to clients and to servers."""
    return int(
        host.check_output(
            "for pid in $(pgrep -xf 'nginx: worker process'); do ls -l /proc/$pid/fd; done | grep -c socket:"
        )
    )


def logged(host: Any, app: str, request_ids: Collection[str]) -> dict[str, dict[str, Any]]:
    """The entries of these requests in an edge's access log, by request id. Waits until all are written."""
    pattern = "|".join(request_ids)
    look = f"grep -E {shlex.quote(pattern)} /var/log/nginx/{app}-access.log"

    def found() -> dict[str, dict[str, Any]]:
        lines = [json.loads(line) for line in host.run(look).stdout.splitlines()]
        entries = {line["request_id"]: line for line in lines if line["request_id"] in request_ids}
        return entries if len(entries) == len(set(request_ids)) else {}

    entries: dict[str, dict[str, Any]] = until(found, "an answer isn't logged")
    return entries


def _titled(host: Any, title: str) -> set[int]:
    return {int(pid) for pid in host.run(f"pgrep -xf '{title}'").stdout.split()}
