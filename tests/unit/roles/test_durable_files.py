"""Certificates and session ticket keys survive a power loss; activation/test_durability.py explains how."""

from __future__ import annotations

import pathlib

import pytest

from tests.unit.plugins.module_utils.activation.test_durability import Recorder
from tests.unit.roles.test_acme_certificate import Host, alone, signed  # noqa: F401
from tests.unit.roles.test_session_tickets import HOUR, NOON, SECRET, tickets


def test_certificate_is_durable_before_the_link_leads_to_it(
    alone: Host,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone.certbot_obtains(signed())
    with monkeypatch.context() as patch:
        recorder = Recorder(alone.root, patch)
        assert alone.run()["trouble"] == ""
    link = alone.root / "ssl/links"
    files = [link.resolve() / name for name in ("privkey.pem", "fullchain.pem", "directory")]
    recorder.check(*files, link, alone.root / "state/status.json", alone.root / "state/certbot/profile")
    places = [place for place, _, _ in recorder.moves]
    assert max(places.index(str(file)) for file in files) < places.index(str(link))


def test_session_ticket_keys_are_durable_and_the_state_is_written_last(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tickets"
    files = [folder / name for name in (*tickets.NAMES, "state.json")]
    with monkeypatch.context() as patch:
        recorder = Recorder(tmp_path, patch)
        tickets.install(tickets.begin(SECRET, 12, NOON), folder, dry=False)
        recorder.check(*files)
        recorder.moves.clear()
        tickets.rotate(folder, NOON + 12 * HOUR)
        recorder.check(*files)
    written = [place for place, _, _ in recorder.moves if pathlib.Path(place) in files]
    assert written[-1] == str(folder / "state.json")
