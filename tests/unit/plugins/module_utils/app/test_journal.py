"""The journal's entries as they are shown to the operator."""

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
from ansible_collections.baton.web.plugins.module_utils.host import systemd, untrusted

from tests.support.program import write_script

NOON = 1767268800.25  # 2026-01-01 12:00:00.250 UTC


def record(message: object, priority: int = 6, time: float = NOON) -> dict[str, Any]:
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
def test_entry_is_formatted(message: object, priority: int, line: str) -> None:
    entry = journal.entry(record(message, priority))
    assert journal.formatted(entry) == f"2026-01-01 12:00:00.250Z {line}"


def test_hosts_are_merged_by_time_and_the_newest_lines_are_kept() -> None:
    entries = {
        host: [journal.entry(record(f"{host} {second}", time=NOON + second)) for second in seconds]
        for host, seconds in (("app1", (0, 2)), ("application2", (1, 3)))
    }
    lines = journal.merged(entries, 3).splitlines()
    assert [line.split(" info     ")[1] for line in lines] == ["application2 1", "app1 2", "application2 3"]
    assert [line.index("|") for line in lines] == [13, 13, 13]


def test_no_entries_yield_no_output() -> None:
    assert journal.merged({}, 10) == ""


def test_cursor_and_time_are_distinguished() -> None:
    assert "--after-cursor=s=abc" in journal.command(layout.Application("links"), "s=abc")
    assert "--since=10 min ago" in journal.command(layout.Application("links"), "10 min ago")
    assert not [word for word in journal.command(layout.Application("links"), "today") if word.startswith("--grep")]
    assert "--grep=a|b" in journal.command(layout.Application("links"), "today", "a|b")


def test_reading_ends_at_the_present() -> None:
    def until(position: str) -> float:
        (word,) = (one for one in journal.command(layout.Application("links"), position) if "until" in one)
        return float(word.removeprefix("--until=@"))

    before = time.time()
    assert before - 1 < until("s=abc") < time.time() + 1
    assert before - 1 < until("@1") < time.time() + 1
    # journalctl refuses an end before the beginning
    assert until(f"@{before + 100}") > before + 100


def test_control_characters_of_a_requested_path_are_escaped() -> None:
    entry = {
        "time": 0.0,
        "level": "info",
        "message": "",
        "method": "GET",
        "path": "/\x1b]52;c;eA==\x07\r\x9b2J",
        "status": 404,
    }
    assert journal.formatted(entry).endswith(r"GET /\x1b]52;c;eA==\x07\x0d\x9b2J 404")
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
def test_times_are_in_the_operators_time_zone(words: str, ago: float) -> None:
    assert journal.moment(words, NOW) == NOW.timestamp() - ago


@pytest.mark.parametrize(
    "words", ["", "tuesday", "1", "10 min", "1 parsec ago", "25:00", "2026-13-01", "--until=x", "@", "ago", "UTC"]
)
def test_invalid_time_is_refused_and_the_zone_named(words: str) -> None:
    with pytest.raises(journal.JournalError, match="in your own time zone, EST"):
        journal.moment(words, NOW)


def test_start_is_a_moment_or_a_cursor() -> None:
    assert journal.start("s=abc;i=1") == "s=abc;i=1"
    assert re.fullmatch(r"@\d+\.\d{6}", journal.start("1 hour ago"))


@pytest.fixture(autouse=True)
def known(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A journalctl with units in both fields, and without entries. Returns the folder of its answers."""
    folder = tmp_path / "programs"
    folder.mkdir()
    (folder / "_SYSTEMD_UNIT").write_text("links.service\nlinks-worker@aaaa-1.service\nlinks-worker@a/b.socket\n")
    (folder / "UNIT").write_text("links-worker@bbbb-1.service\nlinks-worker@aaaa-1.service\nlinks-worker.service\n")
    write_script(folder / "journalctl", f'[ "${{1#--field=}}" = "$1" ] || exec cat {folder}/${{1#--field=}}')
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return folder


def test_entries_are_selected_by_unit_as_in_messages() -> None:
    """journalctl's `--unit` sometimes omits the reason why a program can't be executed."""
    asked = " ".join(journal.command(layout.Application("links"), "@1"))
    assert " _SYSTEMD_UNIT=links.service _SYSTEMD_UNIT=links-bridge.service " in asked
    assert " + _UID=0 UNIT=links.service UNIT=links-bridge.service " in asked
    assert "IDENTIFIER" not in asked
    assert "--unit" not in asked


def test_instances_are_read_from_the_journal(tmp_path: pathlib.Path, known: pathlib.Path) -> None:
    app = layout.Application("links", str(tmp_path))
    app.process_settings.parent.mkdir(parents=True)
    app.process_settings.write_text(json.dumps(PROCESSES))
    # the second never wrote an entry itself
    assert {"links-worker@aaaa-1.service", "links-worker@bbbb-1.service"} < units(app, "worker")
    # an empty selection would select the whole journal
    assert "links-beat@*.service" in units(app, "beat")
    # names that anyone can write neither exceed a command line's limit nor displace the kernel's
    (known / "UNIT").write_text("".join(f"links-worker@{number}{'x' * 300}.service\n" for number in range(9000)))
    assert len(units(app, "worker")) == 3
    (known / "UNIT").write_text("".join(f"links-worker@{number}.service\n" for number in range(9000)))
    assert len(units(app, "worker")) == systemd.MOST_UNITS


PROCESSES = {
    name: {"count": 1, "strategy": "overlap", "order": order, "settle_seconds": 5, "stop_timeout": 30, "check": False}
    for name, order in (("worker", "before_web"), ("beat", "after_web"))
}


def units(app: layout.Application, process: str = "") -> set[str]:
    words = journal.command(app, "@1", "", process)
    return {word.partition("=")[2] for word in words if word.startswith("_SYSTEMD_UNIT=")}


def test_process_type_selects_its_units(tmp_path: pathlib.Path) -> None:
    app = layout.Application("links", str(tmp_path))
    app.process_settings.parent.mkdir(parents=True)
    app.process_settings.write_text(json.dumps(PROCESSES))
    worker = {"links-worker@*.service", "links-worker-check@*.service"}
    assert worker <= units(app, "worker")
    assert not [unit for unit in units(app, "worker") if not unit.startswith(("links-worker@", "links-worker-check@"))]
    web = units(app, "web")
    assert {"links.service", "links-bridge.service", "links-rehearsal@*.service"} <= web
    # not those of another application whose name is links-worker
    assert not [unit for unit in units(app) if unit.startswith(("links-*", "links*", "links-worker."))]
    assert web | worker | {"links-beat@*.service"} < units(app)
    with pytest.raises(
        journal.JournalError, match=r"no process type wroker on this host\. Give one of: worker, web, beat"
    ):
        units(app, "wroker")
    app.process_settings.write_text("{")
    with pytest.raises(journal.JournalError, match=r"playbooks/configure\.yml"):
        units(app)


def test_name_that_has_moved_selects_the_units_of_both_kinds(tmp_path: pathlib.Path) -> None:
    """Until the schedule is activated, the host has units of the process type."""
    app = layout.Application("links", str(tmp_path))
    for folder in (app.schedule_settings.parent, app.instances):
        folder.mkdir(parents=True)
    app.schedule_settings.write_text(json.dumps({"cleanup": {"runs": True}}))
    (app.instances / "cleanup-1-1").symlink_to("../releases/aaaa")
    assert {"links-cleanup@*.service", "links-cleanup.service"} <= units(app, "cleanup")


def write_journal(folder: pathlib.Path, *lines: str) -> None:
    (folder / "journal").write_text("\n".join(lines) + "\n")
    write_script(folder / "journalctl", f"exec cat {folder}/journal")


def test_invalid_journal_lines_are_skipped(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = [
        json.dumps(record(message)) for message in ("first of hunter2hunter2", {"message": {"a": 1}}, {"message": 7})
    ]
    bad = ["[" * 20_000, "{", "7", json.dumps({"MESSAGE": "x" * (2**20 + 5)}), json.dumps({"PRIORITY": "abc"})]
    write_journal(tmp_path, good[0], *bad, *good[1:])
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    entries, position = journal.read(
        layout.Application("links"), "@1", 10, mask=lambda text: text.replace("hunter2hunter2", "***")
    )
    assert [entry["message"] for entry in entries] == ["first of ***", "", '{"a": 1}', 7]
    assert position == "s=1"
    assert len(journal.merged({"app1": entries}, 10).splitlines()) == 4
