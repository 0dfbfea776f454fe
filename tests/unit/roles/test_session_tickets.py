"""The program that derives nginx's session ticket keys; in molecule/acme, two edges resume each other's sessions."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from tests.support import program

PROGRAM = pathlib.Path(__file__).resolve().parents[3] / "roles/nginx_server/files/session_tickets.py"
SECRET = b"not a secret of anybody, but long"
HOUR = 3600
NOON = 1_800_000_000 // (12 * HOUR) * 12 * HOUR


tickets = program.load(PROGRAM, "session_tickets")


def _keys(folder: pathlib.Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in tickets.NAMES]


@pytest.fixture
def edge(tmp_path: pathlib.Path) -> pathlib.Path:
    """The tickets folder of an edge that was set up at noon."""
    folder = tmp_path / "tickets"
    assert tickets.install(tickets.begin(SECRET, 12, NOON), folder, dry=False)
    return folder


def test_later_edge_derives_the_same_keys(edge: pathlib.Path, tmp_path: pathlib.Path) -> None:
    later = NOON + 30 * 12 * HOUR + 17
    tickets.rotate(edge, later)
    other = tmp_path / "other"
    tickets.install(tickets.begin(SECRET, 12, later), other, dry=False)
    assert _keys(other) == _keys(edge)
    assert len(set(_keys(edge))) == 3
    assert {len(key) for key in _keys(edge)} == {80}


def test_key_is_known_one_period_ahead_and_deleted_after_two(edge: pathlib.Path) -> None:
    _, key, after = _keys(edge)
    tickets.rotate(edge, NOON + 12 * HOUR - 1)
    assert _keys(edge)[1] == key
    tickets.rotate(edge, NOON + 12 * HOUR)
    assert _keys(edge)[:2] == [key, after]
    tickets.rotate(edge, NOON + 24 * HOUR)
    assert key not in _keys(edge)


def test_state_does_not_reveal_older_keys(edge: pathlib.Path) -> None:
    previous = _keys(edge)[0]
    tickets.rotate(edge, NOON + 24 * HOUR)
    state = tickets.State.read((edge / "state.json").read_text())
    assert state.at(0) == state
    assert previous not in [state.at(period).key() for period in range(state.period, state.period + 50)]
    assert SECRET.decode() not in (edge / "state.json").read_text()


def test_files_are_readable_only_by_root(edge: pathlib.Path) -> None:
    assert {path.stat().st_mode & 0o777 for path in edge.iterdir()} == {0o600}
    assert edge.stat().st_mode & 0o777 == 0o700
    assert sorted(path.name for path in edge.iterdir()) == sorted([*tickets.NAMES, "state.json"])


def test_clock_that_moves_back_changes_nothing(edge: pathlib.Path) -> None:
    before = _keys(edge)
    tickets.rotate(edge, NOON - 24 * HOUR)
    assert _keys(edge) == before


@pytest.mark.parametrize(
    ("secret", "hours", "ahead", "changes"),
    [
        (SECRET, 12, 0, False),
        (SECRET, 12, 12 * HOUR, False),  # the timer will rotate
        (SECRET, 12, -12 * HOUR, False),  # the controller's clock is slightly behind
        (SECRET, 12, -24 * HOUR, True),  # the host's clock was wrong
        (SECRET, 6, 0, True),
        (SECRET + b"!", 12, 0, True),
    ],
)
def test_state_is_replaced_only_if_the_hosts_is_wrong(
    edge: pathlib.Path, secret: bytes, hours: int, ahead: int, changes: bool
) -> None:
    wanted = tickets.begin(secret, hours, NOON + ahead)
    before = _keys(edge)
    assert tickets.install(wanted, edge, dry=True) is changes
    assert _keys(edge) == before
    assert tickets.install(wanted, edge, dry=False) is changes
    assert (_keys(edge) != before) is changes
    assert tickets.install(wanted, edge, dry=False) is False


@pytest.mark.parametrize("lost", [*tickets.NAMES, "state.json"])
def test_lost_file_is_restored(edge: pathlib.Path, lost: str) -> None:
    before = _keys(edge)
    (edge / lost).unlink()
    assert tickets.install(tickets.begin(SECRET, 12, NOON), edge, dry=False) is True
    assert _keys(edge) == before


@pytest.mark.parametrize("text", ["", "{}", '{"chain": "a", "hours": 12, "period": 1, "secret": "00"}', "[]", "null"])
def test_invalid_state_is_replaced_by_the_next_run(edge: pathlib.Path, text: str) -> None:
    (edge / "state.json").write_text(text)
    with pytest.raises(ValueError):  # noqa: PT011  the timer's unit fails; nginx keeps its keys
        tickets.rotate(edge, NOON)
    assert tickets.install(tickets.begin(SECRET, 12, NOON), edge, dry=False) is True


def test_newer_keys_cause_a_reload(edge: pathlib.Path, tmp_path: pathlib.Path) -> None:
    loaded = tmp_path / "nginx.loaded"
    assert tickets.is_newer(edge, loaded)
    loaded.touch()
    os.utime(loaded, (0, 0))
    assert tickets.is_newer(edge, loaded)
    loaded.touch()
    assert not tickets.is_newer(edge, loaded)


def test_secret_is_read_from_standard_input() -> None:
    done = subprocess.run(
        [sys.executable, "-I", str(PROGRAM), "begin", "12"], input=SECRET, capture_output=True, check=True
    )
    assert tickets.State.read(done.stdout.decode()).hours == 12
    assert SECRET not in done.stdout + done.stderr
