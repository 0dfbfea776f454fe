"""The last log lines of a unit, from the journal."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable

import pytest
from ansible_collections.baton.web.plugins.module_utils.host import bounded, command, systemd

from tests.support.program import write_script

ACCESS = {"time": "2026-01-01T12:00:00.250Z", "level": "info", "logger": "access", "path": "/health", "status": 500}
PLAIN = "2026-11-28T06:42:19.123Z [77] [info] 127.0.0.1 GET /readyz HTTP/1.1 503 21B 0.4ms -"


@pytest.fixture
def journal(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    write_script(tmp_path / "journalctl", f'[ "$1" = --sync ] || exec cat {tmp_path}/journal')
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return tmp_path / "journal"


def line(message: object, pid: str = "7", **more: object) -> str:
    return json.dumps({"MESSAGE": message, "_PID": pid, **more}) + "\n"


def test_last_lines_are_the_applications_and_not_of_health_checks(journal: pathlib.Path) -> None:
    fault = json.dumps({"logger": "app", "message": "no", "exception": "Traceback\nValueError: no"})
    lines = [line(fault), *(line(json.dumps(ACCESS)) for _ in range(60)), *(line(PLAIN) for _ in range(60))]
    journal.write_text("".join(lines))
    assert systemd.ending("links.service", 0).log == "no\nTraceback\nValueError: no"
    journal.write_text("\n".join([fault, *[json.dumps(ACCESS), PLAIN] * 50]) + "\n")
    assert systemd.tail("links.service", 0) == "no\nTraceback\nValueError: no"


@pytest.mark.parametrize("ask", [systemd.tail, lambda unit, since: systemd.ending(unit, since).log])
def test_lines_that_journald_has_not_read_yet_are_waited_for(
    ask: Callable[[str, float], str], journal: pathlib.Path
) -> None:
    entry = line("late") if ask is not systemd.tail else "late"
    # like journald: a message enters the journal only when journalctl --sync asks for it
    write_script(
        journal.parent / "journalctl",
        f"if [ \"$1\" = --sync ]; then printf '%s' '{entry.strip()}' > {journal}; else cat {journal}; fi",
    )
    journal.write_text("")
    assert ask("links.service", 0) == "late"


@pytest.mark.parametrize("ask", [systemd.tail, systemd.ending])
def test_systemds_own_messages_about_a_unit_are_included(
    ask: Callable[[str, float], object], journal: pathlib.Path
) -> None:
    """With journalctl's `--unit`, the reason why a program can't be executed is sometimes missing."""
    arguments = journal.parent / "arguments"
    write_script(journal.parent / "journalctl", f'printf "%s\\n" "$@" > {arguments}')
    ask("links.service", 4)
    words = " ".join(arguments.read_text().splitlines())
    assert "_SYSTEMD_UNIT=links.service + _UID=0 UNIT=links.service" in words


def test_sync_that_does_not_end_delays_nothing(journal: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "SYNC_LIMIT", 0.05)
    write_script(journal.parent / "journalctl", '[ "$1" = --sync ] && exec sleep 1000\necho so far')
    assert systemd.tail("links.service", 0) == "so far"


def test_last_lines_of_an_endless_journal_are_shown(journal: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "READING_LIMIT", 1.0)
    write_script(journal.parent / "journalctl", '[ "$1" = --sync ] || exec yes')
    assert set(systemd.tail("links.service", 0).split()) <= {"y"}
    monkeypatch.setattr(bounded, "run", lambda *_, **__: bounded.Done(None, b"so\nfar\n", b"", cut=True))
    assert systemd.tail("links.service", 0) == "so\nfar"


def test_long_line_is_read_within_limits(journal: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "MOST", 1000)
    journal.write_text("x" * 10**6 + "\n" + "y" * 10**6)
    assert systemd.tail("links.service", 0) == "y" * 1000


def test_long_line_is_cut_at_its_end(journal: pathlib.Path) -> None:
    journal.write_text("Running upgrade  -> " + "x" * 10**6)
    expected = f"Running upgrade  -> {'x' * 10**6}"[: command.LONGEST]
    assert systemd.tail("links.service", 0) == expected
    assert systemd.first_match("links.service", 0, "upgrade") == expected
    journal.write_text(line(json.dumps({"message": "m" * 10**5, "exception": "e" * 10**5})))
    assert systemd.ending("links.service", 0).log == f"{'m' * command.LONGEST}\n{'e' * command.LONGEST}"


def test_result_of_a_unit_is_taken_only_from_systemd(journal: pathlib.Path) -> None:
    forged = line("x", UNIT_RESULT="oom-kill")
    journal.write_text(line("Failed", pid="1", UNIT_RESULT="exit-code") + forged + "[" * 20_000 + "\n7\n")
    assert systemd.ending("links.service", 0) == systemd.Ending("exit-code", "x")


def test_end_of_units_is_read_from_systemds_messages(journal: pathlib.Path) -> None:
    def end(unit: str, seconds: float, **more: object) -> str:
        return line("x", pid="1", UNIT=unit, __REALTIME_TIMESTAMP=str(int(seconds * 1e6)), **more)

    stopped = {"MESSAGE_ID": systemd.STOPPED}
    journal.write_text(
        end("a.service", 5, MESSAGE_ID="other")
        + end("a.service", 7.5, MESSAGE_ID=systemd.SUCCEEDED)
        + end("b.service", 30, UNIT_RESULT="timeout", MESSAGE_ID="other")
        + end("b.service", 30.5, **stopped)
        + "{no JSON\n"
        + line("x", pid="1", UNIT="c.service", __REALTIME_TIMESTAMP="soon", **stopped)
        + end("d.service", 2, MESSAGE_ID="other")
    )
    arguments = journal.parent / "arguments"
    program = journal.parent / "journalctl"
    program.write_text(
        program.read_text().replace("exec", f'printf "%s\\n" "$@" > {arguments}; exec', 1).replace("||", "|| {") + "}\n"
    )
    assert systemd.ends(["a.service", "b.service"], 4) == {"a.service": ("", 7.5), "b.service": ("timeout", 30.5)}
    # other processes' messages aren't requested
    assert {"_PID=1", "UNIT=a.service", "UNIT=b.service", "--since=@4.000"} <= set(arguments.read_text().splitlines())


BEGIN, END, FAIL = {"MESSAGE_ID": systemd.STARTING}, {"MESSAGE_ID": systemd.SUCCEEDED}, {"UNIT_RESULT": "signal"}
STOPPED = {"MESSAGE_ID": systemd.STOPPED}


@pytest.mark.parametrize(
    ("messages", "running", "expected"),
    [
        ([], False, ("", 0)),
        ([BEGIN], True, ("", 0)),
        ([END], False, ("success", 1)),
        ([BEGIN, END, BEGIN, FAIL, STOPPED], False, ("signal", 4)),
        ([BEGIN, FAIL, BEGIN], True, ("signal", 2)),
        ([BEGIN, END, BEGIN], False, ("interrupted", 3)),
        ([BEGIN, BEGIN], True, ("interrupted", 1)),
        ([BEGIN, BEGIN, END], False, ("success", 3)),
    ],
)
def test_last_run_is_read_from_systemds_messages(
    journal: pathlib.Path, messages: list[dict[str, str]], running: bool, expected: tuple[str, float]
) -> None:
    journal.write_text(
        "".join(
            line("x", pid="1", UNIT="a.service", __REALTIME_TIMESTAMP=str(number * 10**6), **one)
            for number, one in enumerate(messages, 1)
        )
    )
    assert systemd.last_run("a.service", running=running) == expected


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("a", "a"),
        ([104, 105, 255], "hi\ufffd"),
        (["a", "b"], "a\nb"),
        ([[104, 105], "b", None], "hi\nb"),
        ([300, -1], "300\n-1"),
        (None, ""),
        ({"a": 1}, ""),
        (7, "7"),
    ],
)
def test_any_journal_field_becomes_text(message: object, text: str) -> None:
    assert systemd.journal_text(message) == text
