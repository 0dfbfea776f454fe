"""Logs, as people read them."""

from __future__ import annotations

import datetime
import json
import pathlib
import re
import time
import zoneinfo
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.app import journal, layout
from ansible_collections.baton.web.plugins.module_utils.host import untrusted

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
    assert journal.formatted(said) == f"2026-01-01 12:00:00.250Z {line}"


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
    assert "--after-cursor=s=abc" in journal.command(layout.Application("links"), "s=abc")
    assert "--since=10 min ago" in journal.command(layout.Application("links"), "10 min ago")
    assert not [word for word in journal.command(layout.Application("links"), "today") if word.startswith("--grep")]
    assert "--grep=a|b" in journal.command(layout.Application("links"), "today", "a|b")


def test_what_is_said_while_the_journal_is_read_is_not_waited_for() -> None:
    def until(position: str) -> float:
        (word,) = (one for one in journal.command(layout.Application("links"), position) if "until" in one)
        return float(word.removeprefix("--until=@"))

    before = time.time()
    assert before - 1 < until("s=abc") < time.time() + 1
    assert before - 1 < until("@1") < time.time() + 1
    # journalctl refuses an end that is before the beginning
    assert until(f"@{before + 100}") > before + 100


def test_what_a_client_asked_for_tells_the_terminal_nothing() -> None:
    said = {
        "time": 0.0,
        "level": "info",
        "message": "",
        "method": "GET",
        "path": "/\x1b]52;c;eA==\x07\r\x9b2J",
        "status": 404,
    }
    assert journal.formatted(said).endswith(r"GET /\x1b]52;c;eA==\x07\x0d\x9b2J 404")
    assert untrusted.printable("a\tb\r\n\x1b[1;31mc\x1b[0m") == "a\tb\nc"


NOW = datetime.datetime(2026, 1, 31, 12, 0, 30, tzinfo=zoneinfo.ZoneInfo("America/New_York"))  # 17:00:30 UTC


@pytest.mark.parametrize(
    ("words", "ago"),
    [
        ("now", 0),
        ("10 min ago", 600),
        ("1 hour ago", 3600),
        ("1h 30min ago", 5400),
        ("-2 days", 2 * 86400),
        ("1.5 hours ago", 5400),
        ("12:00", 30),
        ("12:00:10", 20),
        ("today", 12 * 3600 + 30),
        ("yesterday", 36 * 3600 + 30),
        ("2026-01-31 11:00", 3630),
        ("2026-01-31T11:00:00", 3630),
        ("2026-01-31", 12 * 3600 + 30),
        ("2026-01-31 17:00 UTC", 30),
        ("2026-01-31T17:00Z", 30),
        ("2026-01-31 18:00 +01:00", 30),
        ("2026-01-31 18:00+0100", 30),
        (f"@{NOW.timestamp() - 5}", 5),
    ],
)
def test_a_time_is_the_operators(words: str, ago: float) -> None:
    assert journal.moment(words, NOW) == NOW.timestamp() - ago


@pytest.mark.parametrize(
    "words", ["", "tuesday", "1", "10 min", "1 parsec ago", "25:00", "2026-13-01", "--until=x", "@", "ago", "UTC"]
)
def test_what_is_no_time_is_refused_with_the_zone(words: str) -> None:
    with pytest.raises(journal.JournalError, match="in your own time zone, EST"):
        journal.moment(words, NOW)


def test_each_host_is_given_a_moment_or_its_own_position() -> None:
    assert journal.start("s=abc;i=1") == "s=abc;i=1"
    assert re.fullmatch(r"@\d+\.\d{6}", journal.start("1 hour ago"))


def test_a_line_is_of_the_unit_that_wrote_it() -> None:
    asked = journal.command(layout.Application("links"), "@1")
    assert "--unit=links.service" in asked
    assert "--unit=links-migration@*.service" in asked
    assert not [word for word in asked if "IDENTIFIER" in word]


PROCESSES = {
    name: {"count": 1, "strategy": "overlap", "order": order, "settle_seconds": 5, "stop_timeout": 30, "check": False}
    for name, order in (("worker", "before_web"), ("beat", "after_web"))
}


def units(app: layout.Application, process: str = "") -> set[str]:
    return {word.partition("=")[2] for word in journal.command(app, "@1", "", process) if word.startswith("--unit")}


def test_one_process_type_s_lines_are_those_of_its_units(tmp_path: pathlib.Path) -> None:
    app = layout.Application("links", str(tmp_path))
    app.process_settings.parent.mkdir(parents=True)
    app.process_settings.write_text(json.dumps(PROCESSES))
    worker = {"links-worker@*.service", "links-worker-check@*.service"}
    assert units(app, "worker") == worker
    web = units(app, "web")
    assert {"links.service", "links-bridge.service", "links-rehearsal@*.service"} <= web
    # not those of an application that is called links-worker
    assert not [unit for unit in units(app) if unit.startswith(("links-*", "links*", "links-worker."))]
    assert web | worker | {"links-beat@*.service"} < units(app)
    with pytest.raises(
        journal.JournalError, match=r"no process type wroker on this host\. Give one of: worker, web, beat"
    ):
        units(app, "wroker")
    app.process_settings.write_text("{")
    with pytest.raises(journal.JournalError, match=r"playbooks/configure\.yml"):
        units(app)


def journalctl(folder: pathlib.Path, *lines: str) -> None:
    (folder / "said").write_text("\n".join(lines) + "\n")
    (folder / "journalctl").write_text(f"#!/bin/sh\nexec cat {folder}/said\n")
    (folder / "journalctl").chmod(0o755)


def test_the_journal_is_read_past_lines_that_make_no_sense(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = [
        json.dumps(found(message)) for message in ("first of hunter2hunter2", {"message": {"a": 1}}, {"message": 7})
    ]
    bad = ["[" * 20_000, "{", "7", json.dumps({"MESSAGE": "x" * (2**20 + 5)}), json.dumps({"PRIORITY": "abc"})]
    journalctl(tmp_path, good[0], *bad, *good[1:])
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    entries, position = journal.read(
        layout.Application("links"), "@1", 10, mask=lambda text: text.replace("hunter2hunter2", "***")
    )
    assert [entry["message"] for entry in entries] == ["first of ***", "", '{"a": 1}', 7]
    assert position == "s=1"
    assert len(journal.merged({"app1": entries}, 10).splitlines()) == 4
