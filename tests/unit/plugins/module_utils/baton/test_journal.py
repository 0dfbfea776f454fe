"""Logs, as people read them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible.module_utils.baton import journal

NOON = 1767268800.25  # 2026-01-01 12:00:00.250 UTC


def found(message: object, priority: int = 6, time: float = NOON) -> dict[str, Any]:
    text = message if isinstance(message, str | list) else json.dumps(message)
    return {"MESSAGE": text, "PRIORITY": str(priority), "__REALTIME_TIMESTAMP": str(int(time * 1e6)), "__CURSOR": "s=1"}


ACCESS = {
    "time": "2026-01-01T12:00:00.250Z",
    "level": "info",
    "logger": "access",
    "client": "192.0.2.9",
    "method": "GET",
    "path": "/api",
    "status": 200,
    "duration_ms": 3.1,
    "request_id": "4fd1",
}


@pytest.mark.parametrize(
    ("message", "priority", "line"),
    [
        (ACCESS, 6, "info     GET /api 200 3.1 ms [4fd1]"),
        ({"level": "error", "message": "no", "request_id": "4fd1"}, 6, "error    no [4fd1]"),
        ({"level": "error", "message": "no", "exception": "Traceback\n  x"}, 6, "error    no\n    Traceback\n      x"),
        ("2026-01-01T12:00:00.250Z [12] [warning] hm", 6, "warning  hm"),
        ("plain", 3, "error    plain"),
        ("{not json", 6, "info     {not json"),
        ({"level": "notice", "message": "x"}, 4, "warning  x"),
        ([104, 105, 255], 6, "info     hi\ufffd"),
        ("", 6, "info"),
    ],
)
def test_a_line_is_written_for_people(message: object, priority: int, line: str) -> None:
    said = journal.entry(found(message, priority))
    assert journal.written(said) == f"2026-01-01 12:00:00.250Z {line}"


def test_hosts_are_merged_by_time_and_the_newest_lines_are_kept() -> None:
    entries = {
        host: [journal.entry(found(f"{host} {second}", time=NOON + second)) for second in seconds]
        for host, seconds in (("app1", (0, 2)), ("application2", (1, 3)))
    }
    lines = journal.merged(entries, 3).splitlines()
    assert [line.split(" info     ")[1] for line in lines] == ["application2 1", "app1 2", "application2 3"]
    assert [line.index("|") for line in lines] == [13, 13, 13]


def test_nothing_logged_is_nothing_to_show() -> None:
    assert journal.merged({}, 10) == ""


def test_a_cursor_is_told_from_a_time() -> None:
    assert "--after-cursor=s=abc" in journal.command("links", "s=abc")
    assert "--since=10 min ago" in journal.command("links", "10 min ago")
    assert not [word for word in journal.command("links", "today") if word.startswith("--grep")]
    assert "--grep=a|b" in journal.command("links", "today", "a|b")


def test_what_a_client_asked_for_tells_the_terminal_nothing() -> None:
    said = {
        "time": 0.0,
        "level": "info",
        "message": "",
        "method": "GET",
        "path": "/\x1b]52;c;eA==\x07\r\x9b2J",
        "status": 404,
    }
    assert journal.written(said).endswith(r"GET /\x1b]52;c;eA==\x07\x0d\x9b2J 404")
    assert journal.printable("a\tb\r\n\x1b[1;31mc\x1b[0m") == "a\tb\nc"
