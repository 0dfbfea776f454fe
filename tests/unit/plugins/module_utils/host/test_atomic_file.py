"""Files that are replaced atomically."""

from __future__ import annotations

import contextlib
import os
import pathlib
import stat
import time

import pytest
from ansible_collections.baton.web.plugins.module_utils.host import atomic_file


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "file.conf").write_text("old")
    return tmp_path / "file.conf"


def names(path: pathlib.Path) -> list[str]:
    return sorted(found.name for found in path.parent.iterdir())


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
def test_file_has_its_content_and_mode_under_any_umask(path: pathlib.Path, mode: int) -> None:
    before = os.umask(0o077)
    try:
        atomic_file.write(path, "new", mode=mode)
    finally:
        os.umask(before)
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("new", mode)
    assert names(path) == ["file.conf"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_default_mode_follows_the_umask(path: pathlib.Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        atomic_file.write(path, b"new")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_error_keeps_the_old_file_and_leaves_nothing_else(path: pathlib.Path) -> None:
    with contextlib.suppress(ValueError), atomic_file.replacing(path, "new", mode=0o600):
        raise ValueError
    assert path.read_text() == "old"
    assert names(path) == ["file.conf"]


def test_file_is_readable_only_by_its_owner_until_it_is_in_place(path: pathlib.Path) -> None:
    with atomic_file.replacing(path, "secret", mode=0o644) as copy:
        assert copy.name == path.name
        assert stat.S_IMODE(copy.parent.stat().st_mode) == 0o700
        assert copy.parent.name.startswith(".")
        assert path.read_text() == "old"


@pytest.mark.parametrize(("age", "stays"), [(60, True), (7200, False)])
def test_leftovers_of_a_killed_writer_are_removed_once_they_are_old(path: pathlib.Path, age: int, stays: bool) -> None:
    left, other = (path.with_name(f".{name}.abcd.baton") for name in ("file.conf", "another"))
    for folder in (left, other):
        folder.mkdir()
        (folder / "secret").write_text("half")
        os.utime(folder, (time.time() - age,) * 2)
    atomic_file.write(path, "new")
    assert path.read_text() == "new"
    assert names(path) == sorted([other.name, "file.conf", *([left.name] if stays else [])])


def test_concurrent_writers_do_not_conflict(path: pathlib.Path) -> None:
    with atomic_file.replacing(path, "first"), atomic_file.replacing(path, "second"):
        pass
    assert path.read_text() == "first"
    assert names(path) == ["file.conf"]


def test_sweep_removes_leftover_folders_only(path: pathlib.Path) -> None:
    left, link = path.with_name(".gone.abcd.baton"), path.with_name(".link.abcd.baton")
    left.mkdir()
    link.symlink_to(path.parent)
    atomic_file.sweep(path.parent, age=0)
    assert names(path) == [".link.abcd.baton", "file.conf"]


def test_longest_possible_name_can_be_written(path: pathlib.Path) -> None:
    long = path.with_name("n" * 255)
    atomic_file.write(long, "new")
    assert long.read_text() == "new"


def test_sync_folder_refuses_a_file(path: pathlib.Path) -> None:
    with pytest.raises(NotADirectoryError):
        atomic_file.sync_folder(path)


def test_content_is_synced_before_the_rename_and_the_folder_after(
    path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, pathlib.Path.replace

    def synced(descriptor: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else os.pread(descriptor, 9, 0).decode())
        fsync(descriptor)

    def renamed(self: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
        calls.append("renamed")
        return replace(self, target)

    def opened(file: str | os.PathLike[str], flags: int, mode: int = 0o777) -> int:
        return open_file(file, os.O_RDWR | (flags & ~os.O_WRONLY) if flags & os.O_WRONLY else flags, mode)

    open_file = os.open
    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(pathlib.Path, "replace", renamed)
    atomic_file.write(path, "new")
    assert calls == ["new", "renamed", "folder"]
