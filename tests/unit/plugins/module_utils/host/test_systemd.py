"""What a unit said last, from the journal."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable

import pytest
from ansible_collections.baton.web.plugins.module_utils.host import bounded, command, systemd

ACCESS = {"time": "2026-01-01T12:00:00.250Z", "level": "info", "logger": "access", "path": "/health", "status": 500}
PLAIN = "2026-11-28T06:42:19.123Z [77] [info] 127.0.0.1 GET /readyz HTTP/1.1 503 21B 0.4ms -"


@pytest.fixture
def journal(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    program = tmp_path / "journalctl"
    program.write_text(f'#!/bin/sh\n[ "$1" = --sync ] || exec cat {tmp_path}/said\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return tmp_path / "said"


def line(message: object, pid: str = "7", **more: object) -> str:
    return json.dumps({"MESSAGE": message, "_PID": pid, **more}) + "\n"


def test_the_last_words_are_the_applications_and_not_those_of_probes(journal: pathlib.Path) -> None:
    fault = json.dumps({"logger": "app", "message": "no", "exception": "Traceback\nValueError: no"})
    said = [line(fault), *(line(json.dumps(ACCESS)) for _ in range(60)), *(line(PLAIN) for _ in range(60))]
    journal.write_text("".join(said))
    assert systemd.ending("links.service", 0).log == "no\nTraceback\nValueError: no"
    journal.write_text("\n".join([fault, *[json.dumps(ACCESS), PLAIN] * 50]) + "\n")
    assert systemd.tail("links.service", 0) == "no\nTraceback\nValueError: no"


@pytest.mark.parametrize("ask", [systemd.tail, lambda unit, since: systemd.ending(unit, since).log])
def test_words_that_journald_has_not_read_yet_are_waited_for(
    ask: Callable[[str, float], str], journal: pathlib.Path
) -> None:
    written = line("late") if ask is not systemd.tail else "late"
    # as journald: what is said comes into the journal only when it was asked to take everything in
    (journal.parent / "journalctl").write_text(
        f"#!/bin/sh\nif [ \"$1\" = --sync ]; then printf '%s' '{written.strip()}' > {journal}; else cat {journal}; fi\n"
    )
    journal.write_text("")
    assert ask("links.service", 0) == "late"


@pytest.mark.parametrize("ask", [systemd.tail, systemd.ending])
def test_what_systemd_says_of_a_unit_is_asked_for_too(
    ask: Callable[[str, float], object], journal: pathlib.Path
) -> None:
    """By journalctl's `--unit`, the reason why a program can't be executed is at times left out."""
    asked = journal.parent / "asked"
    (journal.parent / "journalctl").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {asked}\n')
    ask("links.service", 4)
    words = " ".join(asked.read_text().splitlines())
    assert "_SYSTEMD_UNIT=links.service + _UID=0 UNIT=links.service" in words


def test_a_journal_that_never_catches_up_holds_nothing_up(
    journal: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd, "SYNC_LIMIT", 0.05)
    (journal.parent / "journalctl").write_text('#!/bin/sh\n[ "$1" = --sync ] && exec sleep 1000\necho so far\n')
    assert systemd.tail("links.service", 0) == "so far"


def test_of_a_journal_without_end_the_last_lines_are_told(
    journal: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd, "READING_LIMIT", 1.0)
    (journal.parent / "journalctl").write_text('#!/bin/sh\n[ "$1" = --sync ] || exec yes\n')
    assert set(systemd.tail("links.service", 0).split()) <= {"y"}
    monkeypatch.setattr(bounded, "run", lambda *_, **__: bounded.Done(None, b"so\nfar\n", b"", cut=True))
    assert systemd.tail("links.service", 0) == "so\nfar"


def test_a_line_of_any_length_is_read_within_bounds(journal: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "MOST", 1000)
    journal.write_text("x" * 10**6 + "\n" + "y" * 10**6)
    assert systemd.tail("links.service", 0) == "y" * 1000


def test_of_a_line_of_any_length_the_beginning_is_told(journal: pathlib.Path) -> None:
    journal.write_text("Running upgrade  -> " + "x" * 10**6)
    told = f"Running upgrade  -> {'x' * 10**6}"[: command.LONGEST]
    assert systemd.tail("links.service", 0) == told
    assert systemd.first_match("links.service", 0, "upgrade") == told
    journal.write_text(line(json.dumps({"message": "m" * 10**5, "exception": "e" * 10**5})))
    assert systemd.ending("links.service", 0).log == f"{'m' * command.LONGEST}\n{'e' * command.LONGEST}"


def test_how_a_unit_ended_is_systemds_word_alone(journal: pathlib.Path) -> None:
    forged = line("x", UNIT_RESULT="oom-kill")
    journal.write_text(line("Failed", pid="1", UNIT_RESULT="exit-code") + forged + "[" * 20_000 + "\n7\n")
    assert systemd.ending("links.service", 0) == systemd.Ending("exit-code", "x")


def test_when_and_how_units_ended_is_read_of_systemd_s_own_lines(journal: pathlib.Path) -> None:
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
    asked = journal.parent / "asked"
    program = journal.parent / "journalctl"
    program.write_text(
        program.read_text().replace("exec", f'printf "%s\\n" "$@" > {asked}; exec', 1).replace("||", "|| {") + "}\n"
    )
    assert systemd.ends(["a.service", "b.service"], 4) == {"a.service": ("", 7.5), "b.service": ("timeout", 30.5)}
    # what others say isn't asked for
    assert {"_PID=1", "UNIT=a.service", "UNIT=b.service", "--since=@4.000"} <= set(asked.read_text().splitlines())


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
def test_a_field_of_the_journal_is_a_text_whatever_it_is(message: object, text: str) -> None:
    assert systemd.journal_text(message) == text
