"""The local fleet's own checks, without hosts."""

from __future__ import annotations

import pathlib

import pytest

from fleet import fleet


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> pathlib.Path:
    """A fleet of 25 hosts, on a machine whose limit of inotify instances is in the returned file."""
    hosts = tuple(fleet.Host(f"app{n}", "bookworm", f"10.213.1.{n}", 22700 + n, ()) for n in range(25))
    monkeypatch.setattr(fleet, "load", lambda _: fleet.Fleet("large", "10.213.1.0/24", hosts))
    limit = tmp_path / "max_user_instances"
    monkeypatch.setattr(fleet, "INOTIFY_LIMIT", limit)

    def engine() -> None:
        raise RuntimeError("the engine is asked")

    monkeypatch.setattr(fleet, "Engine", engine)
    return limit


def test_too_many_hosts_for_inotify_are_refused_before_one_boots(large: pathlib.Path) -> None:
    large.write_text("149\n")
    with pytest.raises(fleet.FleetError, match=r"25 hosts, which need about 150 .* has 149.*sysctl -w fs\.inotify"):
        fleet.up("inventory")


def test_as_many_hosts_as_inotify_allows_are_booted(large: pathlib.Path) -> None:
    large.write_text("150\n")
    with pytest.raises(RuntimeError, match="the engine is asked"):
        fleet.up("inventory")
