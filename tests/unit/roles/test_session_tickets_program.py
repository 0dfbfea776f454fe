"""The actions of the session tickets program: what they print, change, and when nginx is reloaded."""

from __future__ import annotations

import io
import json
import os
import pathlib
import sys
from typing import Any

import pytest

from tests.support.program import write_script
from tests.unit.roles.test_session_tickets import HOUR, NOON, SECRET, tickets


class Edge:
    """An edge's folders and its systemctl."""

    def __init__(self, root: pathlib.Path) -> None:
        self.folder, self.loaded, self.root = root / "tickets", root / "nginx.loaded", root
        write_script(root / "systemctl", f'echo "$@" >> {root}/calls; exit 3')
        write_script(root / "journalctl", '[ "$1" = --sync ] || echo "nginx: the cause in $5"')

    def run(self, *words: str, given: str = "") -> int:
        """Run the program with these arguments and this standard input."""
        sys.argv, sys.stdin = ["session-tickets", *words], io.TextIOWrapper(io.BytesIO(given.encode()))
        status: int = tickets.main()
        return status

    def state(self) -> Any:
        return tickets.State.read((self.folder / "state.json").read_text())

    @property
    def calls(self) -> list[str]:
        path = self.root / "calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def edge(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Edge:
    fake = Edge(tmp_path)
    monkeypatch.setattr(tickets, "FOLDER", fake.folder)
    monkeypatch.setattr(tickets, "LOADED", fake.loaded)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for name in ("argv", "stdin"):
        monkeypatch.setattr(sys, name, getattr(sys, name))
    return fake


def test_state_is_installed_once(edge: Edge, capsys: pytest.CaptureFixture[str]) -> None:
    state = tickets.begin(SECRET, 12, NOON).text()
    assert (edge.run("install", "--dry-run", given=state), edge.folder.exists()) == (0, False)
    assert edge.run("install", given=state) == 0
    assert edge.state().text() == state
    assert edge.run("install", given=state) == 0
    assert capsys.readouterr().out.split() == ["changed", "changed", "ok"]
    # the role reloads nginx, after it has written the rest of the configuration
    assert edge.calls == []


def test_rotation_reloads_nginx_until_it_has_loaded_the_keys(edge: Edge, capfd: pytest.CaptureFixture[str]) -> None:
    edge.run("install", given=tickets.begin(SECRET, 12, NOON).text())
    later = ["rotate", "--at", str(NOON + 24 * HOUR)]
    # its status is that of systemctl, so that the timer's unit fails with it
    assert edge.run(*later) == 3
    assert capfd.readouterr().out.endswith("nginx: the cause in _SYSTEMD_UNIT=nginx.service\n")
    assert edge.state() == tickets.begin(SECRET, 12, NOON + 24 * HOUR)
    assert edge.calls == ["try-reload-or-restart nginx.service"]
    edge.loaded.touch()
    now = edge.loaded.stat().st_mtime
    assert edge.run(*later) == 0
    assert len(edge.calls) == 1
    # keys of an earlier rotation that could not reload nginx, or a clock that was set back after nginx had loaded
    for loaded in (now - 3600, now + 3600):
        os.utime(edge.loaded, (loaded, loaded))
        assert edge.run(*later) == 3
    assert len(edge.calls) == 3


def test_period_begins_by_the_machines_clock(
    edge: Edge, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tickets.time, "time", lambda: float(NOON))
    assert edge.run("begin", "12", given=SECRET.decode()) == 0
    printed = capsys.readouterr().out
    assert printed == tickets.begin(SECRET, 12, NOON).text()
    edge.run("install", given=json.dumps({**json.loads(printed), "period": 0}))
    edge.run("rotate")
    assert edge.state().period == NOON // (12 * HOUR) - 1


@pytest.mark.parametrize("ahead", [0, 1])
def test_host_may_be_one_period_ahead(edge: Edge, ahead: int) -> None:
    """Its clock and the controller's differ, or its timer has just rotated."""
    edge.run("install", given=tickets.begin(SECRET, 12, NOON + (ahead + 1) * 12 * HOUR).text())
    before = edge.state()
    edge.run("install", given=tickets.begin(SECRET, 12, NOON).text())
    assert (edge.state() == before) is (ahead == 0)


@pytest.mark.parametrize("change", [{"hours": 0}, {"secret": "00" * 31}, {"secret": "xy" * 32}, {"period": "x"}])
def test_invalid_state_is_not_installed(edge: Edge, change: dict[str, Any]) -> None:
    state = json.loads(tickets.begin(SECRET, 12, NOON).text())
    with pytest.raises(ValueError):  # noqa: PT011 - of several kinds
        edge.run("install", given=json.dumps({**state, **change}))
    assert not edge.folder.exists()
