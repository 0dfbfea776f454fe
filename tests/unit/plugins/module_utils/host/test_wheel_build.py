"""Source distributions of others: what they may not do when they are unpacked."""

from __future__ import annotations

import io
import os
import pathlib
import stat
import tarfile

import pytest
from ansible_collections.baton.web.plugins.module_utils.host import wheel_build
from ansible_collections.baton.web.plugins.module_utils.host.command import CommandError

Member = tuple[str, str, str]  # name, kind, target or content


def packed(folder: pathlib.Path, *members: Member) -> pathlib.Path:
    path = folder / "thing-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, kind, text in members:
            member = tarfile.TarInfo(name)
            if kind == "file":
                member.size = len(text)
                archive.addfile(member, io.BytesIO(text.encode()))
            else:
                member.type = {"symlink": tarfile.SYMTYPE, "link": tarfile.LNKTYPE}[kind]
                member.linkname = text
                archive.addfile(member)
    return path


@pytest.mark.parametrize(
    "members",
    [
        [("../evil", "file", "x")],
        [("/etc/evil", "file", "x")],
        [("thing/out", "symlink", "/etc"), ("thing/out/evil", "file", "x")],
        [("thing/out", "symlink", "/etc/evil"), ("thing/out", "file", "x")],
        [("thing/out", "symlink", "../../etc"), ("./thing/out/evil", "file", "x")],
        [("thing/out", "link", "/etc/shadow")],
        [("thing/out", "link", "../shadow")],
    ],
)
def test_a_path_that_leads_out_is_refused(tmp_path: pathlib.Path, members: list[Member]) -> None:
    with pytest.raises(CommandError, match="leads out of it"):
        wheel_build.unpack_sdist(packed(tmp_path, *members), tmp_path / "unpacked" / "thing")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thing-1.0.tar.gz", "unpacked"]


def test_links_that_nothing_goes_through_stay(tmp_path: pathlib.Path) -> None:
    archive = packed(
        tmp_path,
        ("thing-1.0/src/a.c", "file", "int a;"),
        ("thing-1.0/a.c", "symlink", "src/a.c"),
        ("thing-1.0/b.c", "link", "thing-1.0/src/a.c"),
        ("thing-1.0/var", "symlink", "/var/lib/thing"),
    )
    project = wheel_build.unpack_sdist(archive, tmp_path / "unpacked")
    assert project.name == "thing-1.0"
    assert {(project / name).read_text() for name in ("a.c", "b.c")} == {"int a;"}


@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_what_is_no_file_is_refused(tmp_path: pathlib.Path, kind: bytes) -> None:
    path = tmp_path / "thing-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("thing-1.0/device")
        member.type = kind
        archive.addfile(member)
    with pytest.raises(CommandError, match="no file, folder or link"):
        wheel_build.unpack_sdist(path, tmp_path / "unpacked")


def test_nothing_is_unpacked_with_the_rights_of_others(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "thing-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("thing-1.0/setup.py")
        member.mode, member.uid, member.gid = 0o4755, 12345, 12345
        archive.addfile(member)
    found = (wheel_build.unpack_sdist(path, tmp_path / "unpacked") / "setup.py").stat()
    assert stat.S_IMODE(found.st_mode) == 0o755
    assert found.st_uid == os.getuid()


def test_what_only_root_reads_is_not_read_for_a_package(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "thing-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("subdirectory")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/shadow"
        archive.addfile(member)
    assert wheel_build.unpack_sdist(path, tmp_path / "unpacked") == tmp_path / "unpacked"
