"""Written files survive a power loss completely, as the recorded order of system calls shows.

A file is synced before its rename, and its folder after it: each rename to a permanent path follows an fsync of the
whole content (or a sync of its filesystem), and precedes an fsync of its folder.
"""

from __future__ import annotations

import grp
import json
import os
import pathlib
import pwd
import stat
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.activation import activation, boot, snapshot
from ansible_collections.baton.web.plugins.module_utils.app import layout, state_files
from ansible_collections.baton.web.plugins.module_utils.change import deploy_lock, history
from ansible_collections.baton.web.plugins.module_utils.host import atomic_file, bounded, files, systemd
from ansible_collections.baton.web.plugins.module_utils.release import store

from tests.unit.plugins.module_utils.activation.test_activation import Units
from tests.unit.plugins.module_utils.release.test_staging import release_store, stage  # noqa: F401

# content, mode, owner and group of a file
FileState = tuple[bytes, int, int, int]


class Recorder:
    """Records renames, new links, removals and syncs below a folder, in order."""

    def __init__(self, top: pathlib.Path, patch: pytest.MonkeyPatch) -> None:
        self.top = top
        self.on_disk: dict[int, FileState] = {}  # by inode, at its last sync
        self.moves: list[tuple[str, bool, str]] = []  # destination, whether its folder was synced since, problem
        for name in ("rename", "replace"):
            patch.setattr(os, name, self._moving(getattr(os, name)))
        patch.setattr(os, "symlink", self._linking(os.symlink))
        for name in ("unlink", "remove"):
            patch.setattr(os, name, self._removing(getattr(os, name)))
        patch.setattr(os, "fsync", self._syncing(os.fsync))
        patch.setattr(os, "sync", self._all_written)
        for module in (subprocess, bounded):
            patch.setattr(module, "run", self._running(module.run))

    def _syncing(self, really: Callable[[Any], None]) -> Callable[[Any], None]:
        def fsync(file: Any) -> None:
            really(file)
            number = file if isinstance(file, int) else file.fileno()
            path = os.readlink(f"/proc/self/fd/{number}")
            if os.path.isdir(path):
                self._names_written(lambda place: os.path.realpath(os.path.dirname(place)) == os.path.realpath(path))
            else:
                self._written(path)

        return fsync

    def _running(self, really: Callable[..., Any]) -> Callable[..., Any]:
        def run(words: Any, *more: Any, **how: Any) -> Any:
            done = really(words, *more, **how)
            if [str(word) for word in words[:2]] == ["sync", "--file-system"]:
                self._all_written()
            return done

        return run

    def _moving(self, really: Callable[..., None]) -> Callable[..., None]:
        def move(source: Any, target: Any, **how: Any) -> None:
            problem = self._problem(pathlib.Path(source))
            really(source, target, **how)
            self.moves.append((os.path.abspath(target), False, problem))

        return move

    def _linking(self, really: Callable[..., None]) -> Callable[..., None]:
        def link(target: Any, path: Any, *more: Any, **how: Any) -> None:
            really(target, path, *more, **how)
            self.moves.append((os.path.abspath(path), False, ""))

        return link

    def _removing(self, really: Callable[..., None]) -> Callable[..., None]:
        def remove(path: Any, **how: Any) -> None:
            really(path, **how)
            self.moves.append((os.path.abspath(path), False, ""))

        return remove

    def _all_written(self) -> None:
        for path in self.top.rglob("*"):
            if path.is_file() and not path.is_symlink():
                self._written(str(path))
        self._names_written(lambda _: True)

    def _written(self, path: str) -> None:
        self.on_disk[os.stat(path).st_ino] = state_of(pathlib.Path(path))

    def _names_written(self, those: Callable[[str], bool]) -> None:
        self.moves = [(place, synced or those(place), problem) for place, synced, problem in self.moves]

    def _problem(self, source: pathlib.Path) -> str:
        """Which content of a file, or of a folder's files, isn't synced; empty if all of it is."""
        if source.is_symlink():
            return ""  # a symlink has no content
        status = [source] if source.is_file() else sorted(source.rglob("*"))
        for path in status:
            if path.is_file() and not path.is_symlink() and self.on_disk.get(path.stat().st_ino) != state_of(path):
                return f"{path} is renamed before it is on the disk"
        return ""

    def check(self, *lasting: pathlib.Path) -> None:
        """Assert that each of these paths was written or removed permanently."""
        for path in lasting:
            moves = [move for move in self.moves if move[0] == os.path.abspath(path)]
            assert moves, f"nothing was renamed to {path}, linked or removed there"
            for _, synced, problem in moves:
                assert not problem
                assert synced, f"the name {path} is not on the disk"


def state_of(path: pathlib.Path) -> FileState:
    status = path.stat()
    return path.read_bytes(), stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid


@pytest.fixture
def app(tmp_path: pathlib.Path) -> layout.Application:
    """A host's root with the releases aaaa, which is current and kept, and bbbb."""
    application = layout.Application("links", str(tmp_path))
    for name in ("aaaa", "bbbb"):
        folder = application.release(name)
        folder.mkdir(parents=True)
        (folder / "release.json").write_text(json.dumps({"id": name, "python": "3.11.2", "packages": {}}))
    for path in ("etc/links/environment", "etc/links/secrets/TOKEN", "etc/systemd/system/links.service"):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("as it serves")
    application.state.mkdir(parents=True)
    layout.set_current(application, "aaaa")
    with snapshot.replaced_folder(application.kept) as scratch:
        snapshot.keep(application, scratch)
    return application


@pytest.fixture
def recorded(
    app: layout.Application,  # noqa: ARG001 - created before the recording
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Recorder]:
    with monkeypatch.context() as patch:
        yield Recorder(tmp_path, patch)


def test_history_entry_is_durable(app: layout.Application, recorded: Recorder) -> None:
    history.append(app, {"kind": "deploy", "release": "aaaa", "result": "deployed"})
    recorded.check(app.state / "history.jsonl")


def test_deploy_lock_is_durable_when_taken_and_extended(app: layout.Application, recorded: Recorder) -> None:
    deploy_lock.take(app, deploy_lock.Run("token", "me", ""), "deploy", 60)
    deploy_lock.extend(app, "token")
    recorded.check(app.state / "lock.json")
    assert len([place for place, _, _ in recorded.moves if place.endswith("lock.json")]) == 2


def test_receipt_is_durable(app: layout.Application, recorded: Recorder) -> None:
    history.keep_receipt(app, "20251125T120000Z-links-r1", '{"format": 1}\n')
    recorded.check(app.state / "receipts/20251125T120000Z-links-r1.json")


def test_configuration_file_is_durable(tmp_path: pathlib.Path, recorded: Recorder) -> None:
    owner, group = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name
    path = tmp_path / "etc/links/gunicorn.conf.py"
    wanted = files.DesiredFile(path, content="workers = 2", mode=0o640, owner=owner, group=group)
    files.apply([wanted], lambda *_: "", dry=False)
    recorded.check(path)


def test_state_file_is_durable(tmp_path: pathlib.Path, recorded: Recorder) -> None:
    # written by this process: for another user, a child process would write it, which isn't recorded
    assert state_files._put(tmp_path, state_files.StateFile("a/b.txt", b"content"), dry=False)
    recorded.check(tmp_path / "a/b.txt")


@pytest.mark.parametrize("to", ["bbbb", None])
def test_symlink_is_durable(app: layout.Application, recorded: Recorder, to: str | None) -> None:
    layout.set_current(app, to)
    recorded.check(app.current)


def test_units_enabled_at_boot_are_durable(app: layout.Application, recorded: Recorder) -> None:
    links = [app.started_at_boot / f"links-worker@{number}-1.service" for number in (1, 2)]
    links[0].parent.mkdir()
    for link in links:
        boot.enable_only(app, "links-worker@*.service", [link.name], "links-worker@.service")
    recorded.check(links[1])
    boot.enable_only(app, "links-worker@*.service", [], "links-worker@.service")
    recorded.check(links[1])


def test_restored_files_are_durable(app: layout.Application, recorded: Recorder, tmp_path: pathlib.Path) -> None:
    changed = [tmp_path / "etc/links/environment", tmp_path / "etc/systemd/system/links.service"]
    for path in changed:
        path.write_text("changed")
    added = tmp_path / "etc/links/secrets/NEW"
    added.write_text("new")
    snapshot.restore(app, app.kept)
    recorded.check(*changed, added)
    assert changed[0].read_text() == "as it serves"


def test_snapshot_is_durable_before_anything_changes(app: layout.Application, recorded: Recorder) -> None:
    snapshot.snapshot(app, "one")
    recorded.check(app.before)


@pytest.fixture
def handed_over(app: layout.Application, recorded: Recorder, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """The calls of an activation of bbbb, on a host whose units do what they should."""
    app.status_file(app.service).parent.mkdir(parents=True)
    Units(app, monkeypatch).active.clear()
    activation.Activation(app, "bbbb", 1, transaction="one").execute()
    return recorded


def test_record_of_an_activation_is_durable(app: layout.Application, handed_over: Recorder) -> None:
    handed_over.check(app.record, app.kept, app.before, app.current)


def test_release_is_synced_before_the_symlink(app: layout.Application, handed_over: Recorder) -> None:
    assert (app.release("bbbb") / "release.json").stat().st_ino in handed_over.on_disk
    names = [place for place, _, _ in handed_over.moves]
    assert names.index(str(app.before)) < names.index(str(app.current)) < names.index(str(app.record))


def test_removal_of_the_last_release_is_durable(
    app: layout.Application, recorded: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd, "systemctl", lambda *_, **__: None)
    app.record.write_text("{}")
    activation._stop_all(app, 1)
    recorded.check(app.current, app.record)


def test_release_is_synced_before_its_rename(
    release_store: store.ReleaseStore,  # noqa: F811
    build: Callable[..., Any],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built = build()
    with monkeypatch.context() as patch:
        recorder = Recorder(tmp_path, patch)
        stage(release_store, built)
    recorder.check(release_store.releases / built["id"])


@pytest.mark.parametrize("moment", [1, 2])
def test_crash_while_a_folder_is_replaced_leaves_the_old_or_the_new(
    app: layout.Application, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """Between the two renames, neither folder has the name."""
    (pathlib.Path(app.root) / "etc/links/environment").write_text("changed")
    real_rename, left = os.rename, moment

    def rename(source: Any, target: Any) -> None:
        nonlocal left
        if not pathlib.Path(source).is_dir():
            return real_rename(source, target)
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
        return real_rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename)
        with pytest.raises(KeyboardInterrupt), snapshot.replaced_folder(app.kept) as scratch:
            snapshot.keep(app, scratch)
    snapshot.restore(app, app.kept)
    assert (pathlib.Path(app.root) / "etc/links/environment").read_text() == "as it serves"
    with snapshot.replaced_folder(app.kept) as scratch:
        snapshot.keep(app, scratch)
    assert [path.name for path in app.state.glob("kept*")] == ["kept"]


def test_interrupted_snapshot_leaves_the_previous_one(app: layout.Application) -> None:
    snapshot.snapshot(app, "one")
    app.before.rename(app.before.with_name("before.old"))
    assert snapshot.last(app)["transaction"] == "one"


# -- the recorder itself -----------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["", "no fsync", "no folder", "late", "written after", "mode after"])
def test_recorder_detects_each_fault(tmp_path: pathlib.Path, recorded: Recorder, fault: str) -> None:
    scratch, path = tmp_path / "new", tmp_path / "file"
    with scratch.open("w") as file:
        file.write("content")
        file.flush()
        if fault not in ("no fsync", "late"):
            os.fsync(file.fileno())
        if fault == "written after":
            file.write("more")
            file.flush()
        if fault == "mode after":
            scratch.chmod(0o600)
        scratch.rename(path)
        if fault == "late":
            os.fsync(file.fileno())
    if fault != "no folder":
        atomic_file.sync_folder(tmp_path)
    if fault:
        with pytest.raises(AssertionError):
            recorded.check(path)
    else:
        recorded.check(path)
