"""Files and directories as they are wanted: what is written, when, with which rights, and what a dry run says."""

from __future__ import annotations

import grp
import os
import pathlib
import pwd
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.host import files

OWNER, GROUP = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name


def wanted(path: pathlib.Path, **given: Any) -> files.DesiredFile:
    return files.DesiredFile(path, **{"owner": OWNER, "group": GROUP, **given})


def refuse(command: str, scratch: pathlib.Path) -> str:
    """Accepts what has the word "good" in it."""
    assert command == "check %s"
    return "" if "good" in scratch.read_text() else "no good"


def apply(*items: files.DesiredFile, dry: bool = False) -> list[str]:
    return [shown["after_header"] for shown in files.apply(items, refuse, dry=dry)]


def test_a_directory_and_what_is_in_it(tmp_path: pathlib.Path) -> None:
    folder, file = tmp_path / "unit.d", tmp_path / "unit.d/limits.conf"
    items = (wanted(folder, state="directory", mode=0o750), wanted(file, content="A=1\n", mode=0o640))
    assert set(apply(*items)) == {str(folder), str(file)}
    assert (file.read_text(), file.stat().st_mode & 0o7777) == ("A=1\n", 0o640)
    assert folder.stat().st_mode & 0o7777 == 0o750
    assert list(folder.iterdir()) == [file]
    written = file.stat()
    assert apply(*items) == []
    # what is as it should be is not touched: a program sees by the times whether it has to read anew
    assert file.stat() == written


def test_a_dry_run_says_the_same_and_does_nothing(tmp_path: pathlib.Path) -> None:
    items = (
        wanted(tmp_path / "unit.d", state="directory"),
        # there is no such user yet
        wanted(tmp_path / "unit.d/limits.conf", content="A=1\n", owner="nobody-knows-me"),
    )
    assert set(apply(*items, dry=True)) == {str(item.path) for item in items}
    assert list(tmp_path.iterdir()) == []


def test_the_difference_is_shown(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "limits.conf"
    file.write_text("A=1\n")
    file.chmod(0o600)
    rights, text = files.apply([wanted(file, content="A=2\n", mode=0o644)], refuse, dry=True)
    assert "mode: 0600" in rights["before"]
    assert "mode: 0644" in rights["after"]
    assert (text["before"], text["after"]) == ("A=1\n", "A=2\n")


def test_what_is_not_valid_leaves_the_file_as_it_was(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "limits.conf"
    apply(wanted(file, content="good\n", validate="check %s"))
    with pytest.raises(files.FilesError, match=r"limits\.conf would not be valid, so it wasn't changed: no good"):
        apply(wanted(file, content="bad\n", validate="check %s"))
    assert file.read_text() == "good\n"
    assert list(tmp_path.iterdir()) == [file]


def test_rights_alone_are_put_right(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "secret"
    file.write_text("s")
    file.chmod(0o644)
    assert apply(wanted(file, content="s", mode=0o600)) == [str(file)]
    assert file.stat().st_mode & 0o7777 == 0o600


def test_a_link_is_not_written_through(tmp_path: pathlib.Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    (tmp_path / "link").symlink_to(elsewhere)
    with pytest.raises(files.FilesError, match="is a link instead of a file"):
        apply(wanted(tmp_path / "link", content="yours"))
    assert elsewhere.read_text() == "mine"


def test_a_directory_may_be_a_link_to_one(tmp_path: pathlib.Path) -> None:
    (tmp_path / "large").mkdir(mode=0o755)
    (tmp_path / "state").symlink_to("large")
    assert apply(wanted(tmp_path / "state", state="directory", mode=0o750)) == [str(tmp_path / "state")]
    assert (tmp_path / "large").stat().st_mode & 0o7777 == 0o750
    assert apply(wanted(tmp_path / "state", state="directory", mode=0o750)) == []


def test_what_is_not_wanted_goes(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder/inner").mkdir(parents=True)
    items = [wanted(tmp_path / name, state="absent") for name in ("file", "folder", "never there")]
    assert apply(*items, dry=True) == [str(tmp_path / "file"), str(tmp_path / "folder")]
    assert apply(*items) == [str(tmp_path / "file"), str(tmp_path / "folder")]
    assert list(tmp_path.iterdir()) == []


def test_a_purge_leaves_what_is_wanted_too(tmp_path: pathlib.Path) -> None:
    for name in ("A", "B", ".hidden"):
        (tmp_path / "secrets").mkdir(exist_ok=True)
        (tmp_path / "secrets" / name).write_text("s")
    items = [
        wanted(tmp_path / "secrets", state="directory", mode=0o700, purge=True),
        wanted(tmp_path / "secrets/A", content="s", mode=0o600),
    ]
    apply(*items)
    assert [path.name for path in (tmp_path / "secrets").iterdir()] == ["A"]
    assert apply(*items) == []


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"owner": "nobody-knows-me"}, "nobody-knows-me"),
        ({"path": "missing/file"}, "missing/file: No such file or directory"),
    ],
)
def test_what_can_not_be_done_is_said(tmp_path: pathlib.Path, given: dict[str, str], says: str) -> None:
    path = tmp_path / given.pop("path", "file")
    with pytest.raises(files.FilesError, match=says):
        apply(wanted(path, **given))
