"""Lines of an edge's access log, as nginx writes them."""

from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Iterable
from typing import Any

CANARY, OTHER = "10.0.0.21:8000", "10.0.0.22:8000"
NOON = 1764072000.0


def line(ended: float = NOON, status: int = 200, wait: float | str = 0.005, **changed: Any) -> str:
    """A log line. `ended`: Unix time; `wait`: seconds; `changed`: further keys of the log."""
    wait = wait if isinstance(wait, str) else f"{wait:.3f}"
    values = {
        "upstream": CANARY,
        "upstream_status": str(status),
        "upstream_header_time": wait,
        "upstream_response_time": wait,
        "path": "/api/links",
        "client": "192.0.2.7",
        "request_time": 0.006,
    } | changed
    # like the template of nginx.conf: numbers unquoted, only what JSON requires is escaped
    return (
        f'{{"time":"{time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(ended))}","msec":{ended:.3f},'
        f'"request_id":"0123456789abcdef0123456789abcdef","client":"{values["client"]}","host":"links.example.org",'
        f'"method":"GET","path":{json.dumps(values["path"], ensure_ascii=False)},"status":{status},"bytes":512,'
        f'"request_time":{values["request_time"]:.3f},"upstream":"{values["upstream"]}",'
        f'"upstream_status":"{values["upstream_status"]}","upstream_connect_time":"0.000",'
        f'"upstream_header_time":"{values["upstream_header_time"]}",'
        f'"upstream_response_time":"{values["upstream_response_time"]}","tls":"TLSv1.3","protocol":"HTTP/1.1",'
        f'"user_agent":{json.dumps(changed.get("user_agent", "Mozilla/5.0"))}}}\n'
    )


def redirect(ended: float = NOON) -> str:
    """The redirect from port 80 to HTTPS."""
    nothing = {"upstream": "", "upstream_status": "", "upstream_header_time": "", "upstream_response_time": ""}
    return line(ended, 308, **nothing)


def write(path: pathlib.Path, lines: Iterable[str]) -> str:
    """Write a log and return its path."""
    path.write_text("".join(lines), encoding="utf-8")
    return str(path)
