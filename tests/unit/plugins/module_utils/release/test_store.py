"""The releases on a host: which there are, which are kept, and that none is ever half removed."""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.host.command import BatonError
from ansible_collections.baton.web.plugins.module_utils.release import store


@pytest.fixture
def five(tmp_path: pathlib.Path) -> store.ReleaseStore:
    """The releases r1 to r5, of which r5 is the newest and r2 the current one."""
    places = store.ReleaseStore(tmp_path / "opt/releases", tmp_path / "opt/current", tmp_path / "state")
    for number in range(1, 6):
        folder = places.releases / f"r{number}"
        (folder / "src").mkdir(parents=True)
        (folder / "release.json").write_text(json.dumps({"id": f"r{number}", "staged": f"2026-01-0{number}"}))
    places.current.symlink_to("releases/r2")
    return places


def there(places: store.ReleaseStore) -> list[str]:
    return sorted(folder.name for folder in places.releases.iterdir())


def test_half_made_release_that_is_current_is_not_swept(five: store.ReleaseStore) -> None:
    (five.releases / "r2/release.json").unlink()
    assert store.sweep(five) == []
    assert (five.releases / "r2/src").is_dir()


def test_release_of_a_background_process_is_kept(five: store.ReleaseStore) -> None:
    """Also while the process isn't there, as between two restarts."""
    instances = five.releases.parent / "processes"
    instances.mkdir()
    (instances / "worker-1-1").symlink_to(five.releases / "r1")
    assert store.in_use(five) == {"r1"}
    store.prune(five, 0, dry=False)
    assert there(five) == ["r1", "r2"]


def test_only_whole_folders_of_their_name_are_releases(five: store.ReleaseStore) -> None:
    (five.releases / "link").symlink_to("r1")
    (five.releases / "r5").rename(five.releases / "r6")
    (five.releases / "r4/release.json").write_text("{")
    assert list(store.complete(five)) == ["r3", "r2", "r1"]
    # neither is anybody's to remove
    assert store.prune(five, 0, dry=True)["removed"] == ["r3", "r1"]


def test_release_is_gone_from_sight_before_it_is_removed(
    five: store.ReleaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: seen.append(there(five)))
    store.remove(five, five.releases / "r1")
    assert seen[-1] == [".removing-r1", "r2", "r3", "r4", "r5"]
    monkeypatch.undo()
    assert store.sweep(five) == [".removing-r1"]


def test_prune_in_check_mode_neither_waits_nor_removes(five: store.ReleaseStore) -> None:
    (five.releases / ".staging-x").mkdir()
    with store.locked(five):
        told = store.prune(five, 0, dry=True)
    assert (told["changed"], told["kept"], told["current"]) == (True, [], "r2")
    assert ".staging-x" in there(five)


@pytest.mark.parametrize("identity", ["", ".hidden", "../etc", "a/b", "a\n"])
def test_identity_becomes_no_other_folder(identity: str) -> None:
    store.check_identity("0123456789abcdef")
    with pytest.raises(BatonError, match="can't be the id of a release"):
        store.check_identity(identity)


def test_newest_are_kept_beside_the_current(five: store.ReleaseStore) -> None:
    told = store.prune(five, 2, dry=False)
    assert told == {"changed": True, "removed": ["r3", "r1"], "kept": ["r5", "r4"], "current": "r2"}
    assert there(five) == ["r2", "r4", "r5"]
    assert store.prune(five, 2, dry=False)["changed"] is False


def test_those_that_served_are_kept_before_newer_ones_that_did_not(five: store.ReleaseStore) -> None:
    five.state.mkdir()
    (five.state / "active.json").write_text(json.dumps({"served": ["r2", "r1", "r3"]}))
    assert store.prune(five, 2, dry=False)["removed"] == ["r5", "r4"]
    assert store.prune(five, 1, dry=False)["removed"] == ["r3"]


@pytest.mark.parametrize("what", ["cwd", "open", "program"])
def test_release_that_a_process_lives_on_is_kept(five: store.ReleaseStore, what: str) -> None:
    folder = five.releases / "r1/src"
    (folder / "sleep").write_bytes(pathlib.Path("/bin/sleep").read_bytes())
    (folder / "sleep").chmod(0o755)
    program = str(folder / "sleep") if what == "program" else "sleep"
    with (folder / "sleep").open() as file:
        given: dict[str, dict[str, Any]] = {"cwd": {"cwd": folder}, "open": {"stdin": file}, "program": {}}
        process = subprocess.Popen([program, "60"], **given[what])
    try:
        assert store.in_use(five) == {"r1"}
        assert store.prune(five, 0, dry=False)["removed"] == ["r5", "r4", "r3"]
        (five.releases / "r1/release.json").unlink()
        assert store.sweep(five) == []
    finally:
        process.kill()
        process.wait()
    assert store.sweep(five) == ["r1"]


def test_what_an_interrupted_run_left_is_swept(five: store.ReleaseStore) -> None:
    for name in (".staging-r9", ".removing-r8"):
        (five.releases / name / "src").mkdir(parents=True)
    (five.releases / "r4/release.json").unlink()
    (five.releases / "file").touch()
    (five.releases / "link").symlink_to("r3")
    assert store.sweep(five) == [".removing-r8", ".staging-r9", "r4"]
    assert there(five) == ["file", "link", "r1", "r2", "r3", "r5"]


def test_lock_is_released_when_the_work_fails(five: store.ReleaseStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_LOCK_WAIT", 0)
    with pytest.raises(OSError, match="no room"), store.locked(five):
        raise OSError("no room")
    with store.locked(five), pytest.raises(BatonError, match="Another run stages or prunes releases here"):
        store.locked(five).__enter__()


def test_host_without_releases_has_none(tmp_path: pathlib.Path) -> None:
    places = store.ReleaseStore(tmp_path / "opt/releases", tmp_path / "opt/current", tmp_path / "state")
    assert (store.complete(places), store.sweep(places), store.current(places)) == ({}, [], None)
    assert store.prune(places, 5, dry=True)["removed"] == []
