"""Files in the application's own folder: created once, as its user, and never over something else."""

from __future__ import annotations

import getpass
import os
import pathlib
import pwd
import signal
import stat

import pytest
from ansible_collections.baton.web.plugins.module_utils.app import state_files

OTHER = "nobody"


def put(folder: pathlib.Path, *names: str, user: str = "", dry: bool = False) -> list[str]:
    wanted = [state_files.StateFile(name, b"first", 0o600) for name in names]
    created: list[str] = state_files.apply(folder, user or getpass.getuser(), wanted, dry=dry)
    return created


def test_missing_files_are_created_and_others_kept(tmp_path: pathlib.Path) -> None:
    (tmp_path / "kept").write_text("the application's")
    paths = [str(tmp_path / "data/links.sqlite")]
    assert put(tmp_path, "kept", "data/links.sqlite", dry=True) == paths
    assert not (tmp_path / "data").exists()
    assert put(tmp_path, "kept", "data/links.sqlite") == paths
    assert put(tmp_path, "kept", "data/links.sqlite") == []
    assert (tmp_path / "kept").read_text() == "the application's"
    assert (tmp_path / "data/links.sqlite").read_bytes() == b"first"
    assert stat.S_IMODE((tmp_path / "data/links.sqlite").stat().st_mode) == 0o600


def test_existing_link_is_kept(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a").symlink_to("nowhere")
    assert put(tmp_path, "a") == []
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("path", ["../out", "/etc/out", "a/../../out", ""])
def test_path_outside_the_folder_is_refused(tmp_path: pathlib.Path, path: str) -> None:
    with pytest.raises(state_files.StateFilesError, match="leads out"):
        put(tmp_path, path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_root_creates_files_as_the_user(tmp_path: pathlib.Path) -> None:
    account = pwd.getpwnam(OTHER)
    for folder in (tmp_path, *tmp_path.parents):
        if folder == tmp_path or folder.name.startswith(("pytest", "popen")):
            folder.chmod(0o755)
    state, root_owned = tmp_path / "state", tmp_path / "root"
    state.mkdir()
    os.chown(state, account.pw_uid, account.pw_gid)
    root_owned.mkdir(mode=0o755)
    (state / "data").symlink_to(root_owned)
    assert put(state, "own", user=OTHER) == [str(state / "own")]
    assert (state / "own").stat().st_uid == account.pw_uid
    with pytest.raises(state_files.StateFilesError, match="Permission denied"):
        put(state, "data/file", user=OTHER)
    assert list(root_owned.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_user_who_stops_the_process_blocks_nothing(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_files, "LIMIT", 0.1)
    monkeypatch.setattr(state_files, "_put", lambda *_: os.kill(os.getpid(), signal.SIGSTOP))
    with pytest.raises(state_files.StateFilesError, match="it ended without a message"):
        put(tmp_path, "a", user=OTHER)
