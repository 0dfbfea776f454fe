"""The list of releases on a host, and their removal, which is atomic."""

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
def release_store(tmp_path: pathlib.Path) -> store.ReleaseStore:
    """The releases r1 to r5, of which r5 is the newest and r2 the current one."""
    release_store = store.ReleaseStore(
        tmp_path / "opt/releases", tmp_path / "opt/current", tmp_path / "state", started_at_boot=tmp_path / "wants"
    )
    for number in range(1, 6):
        folder = release_store.releases / f"r{number}"
        (folder / "src").mkdir(parents=True)
        (folder / "release.json").write_text(json.dumps({"id": f"r{number}", "staged": f"2026-01-0{number}"}))
    release_store.current.symlink_to("releases/r2")
    return release_store


def names(release_store: store.ReleaseStore) -> list[str]:
    """The names in the releases' folder."""
    return sorted(folder.name for folder in release_store.releases.iterdir())


def test_incomplete_current_release_is_not_swept(release_store: store.ReleaseStore) -> None:
    (release_store.releases / "r2/release.json").unlink()
    assert store.sweep(release_store) == []
    assert (release_store.releases / "r2/src").is_dir()


def test_release_of_a_background_process_is_kept(release_store: store.ReleaseStore) -> None:
    """Even while the process isn't running, for example between two restarts."""
    instances = release_store.releases.parent / "processes"
    instances.mkdir()
    # the process of r3 was told to stop and has ended
    for name, release in (("worker-2-1", "r1"), ("worker-1-1", "r3")):
        (instances / name).symlink_to(release_store.releases / release)
    release_store.started_at_boot.mkdir()
    (release_store.started_at_boot / "opt-worker@2-1.service").symlink_to("/etc/systemd/system/opt-worker@.service")
    assert store.in_use(release_store) == {"r1"}
    store.prune(release_store, 0, dry=False)
    assert names(release_store) == ["r1", "r2"]


def test_only_complete_folders_named_by_their_id_are_releases(release_store: store.ReleaseStore) -> None:
    (release_store.releases / "link").symlink_to("r1")
    (release_store.releases / "r5").rename(release_store.releases / "r6")
    (release_store.releases / "r4/release.json").write_text("{")
    assert list(store.complete(release_store)) == ["r3", "r2", "r1"]
    # others aren't removed either
    assert store.prune(release_store, 0, dry=True)["removed"] == ["r3", "r1"]


def test_release_is_renamed_before_it_is_removed(
    release_store: store.ReleaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: seen.append(names(release_store)))
    store.remove(release_store, release_store.releases / "r1")
    assert seen[-1] == [".removing-r1", "r2", "r3", "r4", "r5"]
    monkeypatch.undo()
    assert store.sweep(release_store) == [".removing-r1"]


def test_prune_in_check_mode_neither_waits_for_the_lock_nor_removes(release_store: store.ReleaseStore) -> None:
    (release_store.releases / ".staging-x").mkdir()
    with store.locked(release_store):
        result = store.prune(release_store, 0, dry=True)
    assert (result["changed"], result["kept"], result["current"]) == (True, [], "r2")
    assert ".staging-x" in names(release_store)


@pytest.mark.parametrize("identity", ["", ".hidden", "../etc", "a/b", "a\n"])
def test_invalid_id_is_refused(identity: str) -> None:
    store.check_identity("0123456789abcdef")
    with pytest.raises(BatonError, match="is not a valid id of a release"):
        store.check_identity(identity)


def test_prune_keeps_the_newest_and_the_current(release_store: store.ReleaseStore) -> None:
    result = store.prune(release_store, 2, dry=False)
    assert result == {"changed": True, "removed": ["r3", "r1"], "kept": ["r5", "r4"], "current": "r2"}
    assert names(release_store) == ["r2", "r4", "r5"]
    assert store.prune(release_store, 2, dry=False)["changed"] is False


def test_prune_prefers_releases_that_served_to_newer_ones(release_store: store.ReleaseStore) -> None:
    release_store.state.mkdir()
    (release_store.state / "active.json").write_text(json.dumps({"served": ["r2", "r1", "r3"]}))
    assert store.prune(release_store, 2, dry=False)["removed"] == ["r5", "r4"]
    assert store.prune(release_store, 1, dry=False)["removed"] == ["r3"]


@pytest.mark.parametrize("usage", ["cwd", "open", "program"])
def test_release_that_a_process_uses_is_kept(release_store: store.ReleaseStore, usage: str) -> None:
    folder = release_store.releases / "r1/src"
    (folder / "sleep").write_bytes(pathlib.Path("/bin/sleep").read_bytes())
    (folder / "sleep").chmod(0o755)
    program = str(folder / "sleep") if usage == "program" else "sleep"
    with (folder / "sleep").open() as file:
        options: dict[str, dict[str, Any]] = {"cwd": {"cwd": folder}, "open": {"stdin": file}, "program": {}}
        process = subprocess.Popen([program, "60"], **options[usage])
    try:
        assert store.in_use(release_store) == {"r1"}
        assert store.prune(release_store, 0, dry=False)["removed"] == ["r5", "r4", "r3"]
        (release_store.releases / "r1/release.json").unlink()
        assert store.sweep(release_store) == []
    finally:
        process.kill()
        process.wait()
    assert store.sweep(release_store) == ["r1"]


def test_leftovers_of_an_interrupted_run_are_swept(release_store: store.ReleaseStore) -> None:
    for name in (".staging-r9", ".removing-r8"):
        (release_store.releases / name / "src").mkdir(parents=True)
    (release_store.releases / "r4/release.json").unlink()
    (release_store.releases / "file").touch()
    (release_store.releases / "link").symlink_to("r3")
    assert store.sweep(release_store) == [".removing-r8", ".staging-r9", "r4"]
    assert names(release_store) == ["file", "link", "r1", "r2", "r3", "r5"]


def test_lock_is_released_when_the_work_fails(
    release_store: store.ReleaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_LOCK_WAIT", 0)
    with pytest.raises(OSError, match="no room"), store.locked(release_store):
        raise OSError("no room")
    with (
        store.locked(release_store),
        pytest.raises(BatonError, match="Another run has been staging or pruning releases"),
    ):
        store.locked(release_store).__enter__()


def test_host_without_releases_has_none(tmp_path: pathlib.Path) -> None:
    release_store = store.ReleaseStore(tmp_path / "opt/releases", tmp_path / "opt/current", tmp_path / "state")
    assert (store.complete(release_store), store.sweep(release_store), store.current(release_store)) == ({}, [], None)
    assert store.prune(release_store, 5, dry=True)["removed"] == []
