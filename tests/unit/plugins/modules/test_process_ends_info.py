"""The module process_ends_info: how background processes ended that a change stopped or started."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.modules import process_ends_info

from tests.support import modules
from tests.support.program import write_script

SUCCEEDED = "7ad2d189f7e94e70a38c781354912448"
ASKED = 1_764_072_000.0


def ended(unit: str, after: float, **fields: str) -> str:
    """What systemd logs about a unit that has ended, `after` seconds after it was asked to."""
    entry = {"_PID": "1", "UNIT": unit, "__REALTIME_TIMESTAMP": str(int((ASKED + after) * 1e6)), **fields}
    return json.dumps(entry) + "\n"


@pytest.fixture
def journal(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """The journal of a host on which no instance runs any more."""
    write_script(tmp_path / "systemctl", "exit 0")
    write_script(tmp_path / "journalctl", f'echo "$@" >> {tmp_path}/arguments; [ "$1" = --sync ] || cat {tmp_path}/log')
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    (tmp_path / "log").touch()
    return tmp_path / "log"


def ask(stopped: Any) -> dict[str, Any]:
    result = modules.run(process_ends_info, name="links", stopped=stopped)
    assert result["changed"] is False
    ends: dict[str, Any] = result["ends"]
    return ends


def test_ends_of_all_types_are_returned_by_unit(journal: pathlib.Path) -> None:
    worker, beat = "links-worker@1-1.service", "links-beat@3-1.service"
    journal.write_text(
        ended(worker, 4, MESSAGE_ID=SUCCEEDED) + ended(beat, 30, UNIT_RESULT="timeout", MESSAGE_ID="other")
    )
    stopped = {
        "worker": {"stopped": [worker, "links-worker@1-2.service"], "stop_requested": ASKED},
        "beat": {"stopped": [beat], "stop_requested": ASKED + 10},
    }
    assert ask(stopped) == {
        worker: {"state": "drained", "seconds": 4.0},
        "links-worker@1-2.service": {"state": "unknown", "seconds": 0.0},
        # since its own type was asked to stop
        beat: {"state": "killed", "seconds": 20.0},
    }
    words = (journal.parent / "arguments").read_text()
    assert f"--since=@{ASKED:.3f}" in words
    assert f"--since=@{ASKED + 10:.3f}" in words


def test_started_process_that_has_ended_is_returned_with_its_log(journal: pathlib.Path) -> None:
    journal.write_text("no broker at broker.example.org\n")
    started = ["links-cleanup.timer", "links-worker@2-1.service"]
    result = modules.run(process_ends_info, name="links", stopped={}, started=started)
    assert (result["changed"], result["ends"]) == (False, {})
    assert result["down"] == "links-worker@2-1.service ended. It logged last:\nno broker at broker.example.org"
    assert modules.run(process_ends_info, name="links", stopped={}, started=started[:1])["down"] == ""


@pytest.mark.parametrize(
    "stopped",
    [
        {},
        {"worker": "text"},
        {"worker": {"stopped": "links-worker@1-1.service", "stop_requested": ASKED}},
        {"worker": {"stopped": [7], "stop_requested": "soon"}},
        # of another application
        {"worker": {"stopped": ["shop-worker@1-1.service", "links-worker@*.service"], "stop_requested": ASKED}},
    ],
    ids=str,
)
def test_invalid_input_yields_no_ends(journal: pathlib.Path, stopped: Any) -> None:
    assert ask(stopped) == {}
    assert not (journal.parent / "arguments").exists()
