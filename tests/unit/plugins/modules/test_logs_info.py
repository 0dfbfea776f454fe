"""The module logs_info: what it reads, how long it waits for entries, and that it masks secrets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.app import journal, masking
from ansible_collections.baton.web.plugins.modules import logs_info

from tests.support import modules
from tests.support.clock import Clock


class Journal:
    """A journal in which an entry appears after some reads."""

    def __init__(self) -> None:
        self.reads: list[tuple[Any, ...]] = []
        self.entry_after = 0

    def read(self, app: Any, position: str, *given: Any) -> tuple[list[dict[str, Any]], str]:
        *options, mask = given
        self.reads.append((app.name, position, *options))
        if len(self.reads) <= self.entry_after:
            return [], f"{position}+"
        return [{"time": 1.0, "level": "info", "message": mask("s3cret is refused")}], "s=end"


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Journal:
    fake = Journal()

    def mask_of(name: str) -> Callable[[str], str]:
        assert name == "links"
        return lambda text: text.replace("s3cret", "***")

    monkeypatch.setattr(journal, "read", fake.read)
    monkeypatch.setattr(masking, "mask_of", mask_of)
    return fake


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock(now=0.0)
    monkeypatch.setattr(logs_info, "time", fake)
    return fake


def ask(**options: Any) -> dict[str, Any]:
    return modules.run(logs_info, name="links", **options)


@pytest.mark.usefixtures("clock")
def test_entries_are_read_as_asked_for_and_masked(log: Journal) -> None:
    found = ask(since="1 h ago", lines=7, grep="x", level="error", process="worker")
    assert found["changed"] is False
    assert [one["message"] for one in found["entries"]] == ["*** is refused"]
    assert found["position"] == "s=end"
    ask()
    assert log.reads == [
        ("links", "1 h ago", 7, "x", "error", "worker"),
        ("links", "10 min ago", 200, "", "debug", ""),
    ]


def test_wait_ends_with_the_first_entry_and_continues_at_the_position(log: Journal, clock: Clock) -> None:
    log.entry_after = 2
    assert ask(wait=60, since="s=a")["position"] == "s=end"
    assert [position for _, position, *_ in log.reads] == ["s=a", "s=a+", "s=a++"]
    assert clock.pauses == [0.3, 0.3]


@pytest.mark.parametrize(("wait", "reads"), [(1, 5), (2, 8)])
def test_wait_without_entries_ends_after_its_time(log: Journal, clock: Clock, wait: int, reads: int) -> None:
    log.entry_after = 10**6
    found = ask(wait=wait, since="s=a")
    assert (found["entries"], found["position"]) == ([], f"s=a{'+' * reads}")
    assert wait < clock.now <= wait + 0.3


@pytest.mark.usefixtures("clock")
def test_unreadable_journal_is_reported(log: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise journal.JournalError("links has no process type mailer on this host.")

    monkeypatch.setattr(journal, "read", fail)
    assert ask(process="mailer")["msg"] == "links has no process type mailer on this host."
    assert log.reads == []
