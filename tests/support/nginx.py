"""nginx on a host, for tests: a reload takes effect, and an answer is logged, after a client could know of it."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Collection, Iterator
from typing import Any

from .wait import until


def workers(host: Any) -> set[int]:
    """The processes that take connections."""
    return _titled(host, "nginx: worker process")


def settle(host: Any) -> None:
    """Waits until no worker of a former configuration is left."""
    until(lambda: not _titled(host, "nginx: worker process is shutting down"), "former workers are left")


@contextlib.contextmanager
def reloaded(host: Any) -> Iterator[None]:
    """What has nginx reload, in the block; goes on when none but new workers take connections."""
    before = workers(host)
    yield
    # for a moment both do
    until(lambda: (now := workers(host)) and not now & before, "the former workers serve")


def reload(host: Any) -> None:
    """Have it reload."""
    with reloaded(host):
        host.check_output("systemctl reload nginx")


def sockets(host: Any) -> int:
    """How many its workers have open, of clients and of servers."""
    return int(
        host.check_output(
            "for pid in $(pgrep -xf 'nginx: worker process'); do ls -l /proc/$pid/fd; done | grep -c socket:"
        )
    )


def logged(host: Any, app: str, request_ids: Collection[str]) -> dict[str, dict[str, Any]]:
    """The lines of an edge's access log on these requests, which it writes when it has answered, by their ids."""
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
