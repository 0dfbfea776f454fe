"""Files and folders in their desired state: content, mode and owner, and what a dry run reports."""

from __future__ import annotations

import grp
import os
import pathlib
import pwd
from typing import Any

import pytest
from ansible.module_utils import basic
from ansible.module_utils.testing import patch_module_args
from ansible_collections.baton.web.plugins.module_utils.host import files

OWNER, GROUP = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name


def desired(path: pathlib.Path, **given: Any) -> files.DesiredFile:
    return files.DesiredFile(path, **{"owner": OWNER, "group": GROUP, **given})


def refuse(command: str, scratch: pathlib.Path) -> str:
    """Accept content with the word "good"."""
    assert command == "check %s"
    return "" if "good" in scratch.read_text() else "no good"


def apply(*items: files.DesiredFile, dry: bool = False) -> list[str]:
    return [shown["after_header"] for shown in files.apply(items, refuse, dry=dry)]


def test_folder_and_its_file_are_created_once(tmp_path: pathlib.Path) -> None:
    folder, file = tmp_path / "unit.d", tmp_path / "unit.d/limits.conf"
    items = (desired(folder, state="directory", mode=0o750), desired(file, content="A=1\n", mode=0o640))
    assert set(apply(*items)) == {str(folder), str(file)}
    assert (file.read_text(), file.stat().st_mode & 0o7777) == ("A=1\n", 0o640)
    assert folder.stat().st_mode & 0o7777 == 0o750
    assert list(folder.iterdir()) == [file]
    written = file.stat()
    assert apply(*items) == []
    # an unchanged file keeps its times, by which programs decide whether to read it again
    assert file.stat() == written


def test_dry_run_reports_the_same_and_changes_nothing(tmp_path: pathlib.Path) -> None:
    items = (
        desired(tmp_path / "unit.d", state="directory"),
        # this user doesn't exist yet
        desired(tmp_path / "unit.d/limits.conf", content="A=1\n", owner="nobody-knows-me"),
    )
    assert set(apply(*items, dry=True)) == {str(item.path) for item in items}
    assert list(tmp_path.iterdir()) == []


def test_difference_is_shown(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "limits.conf"
    file.write_text("A=1\n")
    file.chmod(0o600)
    rights, text = files.apply([desired(file, content="A=2\n", mode=0o644)], refuse, dry=True)
    assert "mode: 0600" in rights["before"]
    assert "mode: 0644" in rights["after"]
    assert (text["before"], text["after"]) == ("A=1\n", "A=2\n")


def test_copied_file_follows_its_source_and_is_not_shown(tmp_path: pathlib.Path) -> None:
    key, copy = tmp_path / "privkey.pem", tmp_path / "baton.key"
    item = desired(copy, source=str(key), mode=0o600)
    # the key of a new host is made between check mode and the run
    assert set(apply(item, dry=True)) == {str(copy)}
    with pytest.raises(files.FilesError, match=rf"{copy} can't be copied from {key}: No such file"):
        apply(item)
    for text in ("first\n", "second\n"):
        key.write_text(text)
        shown = files.apply([item], refuse, dry=False)
        assert (copy.read_text(), copy.stat().st_mode & 0o7777) == (text, 0o600)
        assert not [word for word in ("first", "second") if word in str(shown)]
        assert apply(item) == []


def test_invalid_content_leaves_the_file_unchanged(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "limits.conf"
    apply(desired(file, content="good\n", validate="check %s"))
    with pytest.raises(files.FilesError, match=r"limits\.conf would not be valid, so it wasn't changed: no good"):
        apply(desired(file, content="bad\n", validate="check %s"))
    assert file.read_text() == "good\n"
    assert list(tmp_path.iterdir()) == [file]


def test_wrong_mode_alone_is_corrected(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "secret"
    file.write_text("s")
    file.chmod(0o644)
    assert apply(desired(file, content="s", mode=0o600)) == [str(file)]
    assert file.stat().st_mode & 0o7777 == 0o600


def test_link_is_not_written_through(tmp_path: pathlib.Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    (tmp_path / "link").symlink_to(elsewhere)
    with pytest.raises(files.FilesError, match="is a link instead of a file"):
        apply(desired(tmp_path / "link", content="yours"))
    assert elsewhere.read_text() == "mine"


def test_folder_may_be_a_link(tmp_path: pathlib.Path) -> None:
    (tmp_path / "large").mkdir(mode=0o755)
    (tmp_path / "state").symlink_to("large")
    assert apply(desired(tmp_path / "state", state="directory", mode=0o750)) == [str(tmp_path / "state")]
    assert (tmp_path / "large").stat().st_mode & 0o7777 == 0o750
    assert apply(desired(tmp_path / "state", state="directory", mode=0o750)) == []


def test_unwanted_files_and_folders_are_removed(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder/inner").mkdir(parents=True)
    items = [desired(tmp_path / name, state="absent") for name in ("file", "folder", "never there")]
    assert apply(*items, dry=True) == [str(tmp_path / "file"), str(tmp_path / "folder")]
    assert apply(*items) == [str(tmp_path / "file"), str(tmp_path / "folder")]
    assert list(tmp_path.iterdir()) == []


def test_purge_keeps_listed_files(tmp_path: pathlib.Path) -> None:
    for name in ("A", "B", ".hidden"):
        (tmp_path / "secrets").mkdir(exist_ok=True)
        (tmp_path / "secrets" / name).write_text("s")
    items = [
        desired(tmp_path / "secrets", state="directory", mode=0o700, keep=[str(tmp_path / "secrets/A")]),
        desired(tmp_path / "secrets/A", content="s", mode=0o600),
    ]
    apply(*items)
    assert [path.name for path in (tmp_path / "secrets").iterdir()] == ["A"]
    assert apply(*items) == []
    apply(desired(tmp_path / "secrets", state="directory", mode=0o700))
    assert [path.name for path in (tmp_path / "secrets").iterdir()] == ["A"]
    apply(desired(tmp_path / "secrets", state="directory", mode=0o700, keep=[]))
    assert list((tmp_path / "secrets").iterdir()) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"owner": "nobody-knows-me"}, "nobody-knows-me"),
        ({"path": "missing/file"}, "missing/file: No such file or directory"),
    ],
)
def test_errors_are_reported(tmp_path: pathlib.Path, given: dict[str, str], message: str) -> None:
    path = tmp_path / given.pop("path", "file")
    with pytest.raises(files.FilesError, match=message):
        apply(desired(path, **given))


def test_whole_files_are_not_logged_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(
        basic.AnsibleModule, "log", lambda _, message, log_args=None: said.append(f"{message}{log_args}")
    )
    with patch_module_args({"content": "whole file"}):
        module = files.unlogged(basic.AnsibleModule)({"content": {"type": "str"}})
        basic.AnsibleModule({"content": {"type": "str"}})
    assert module.params["content"] == "whole file"
    assert ["whole file" in one for one in said] == [False, True]
