"""Source distributions of others: what they may not do when they are unpacked."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import pathlib
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable

import pytest
from ansible_collections.baton.web.plugins.module_utils.host import wheel_build
from ansible_collections.baton.web.plugins.module_utils.host.command import CommandError
from hypothesis import given, settings
from hypothesis import strategies as st

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
        [("thing/out", "symlink", "OUTSIDE/folder"), ("thing/out/../evil", "file", "x")],
        [("out", "symlink", "OUTSIDE"), ("in", "link", "out"), ("in/evil", "file", "x")],
        [("out", "symlink", "OUTSIDE"), ("in", "link", "out/kept")],
        [("out", "symlink", "OUTSIDE"), ("in", "link", "./out/../kept")],
        [("a", "file", "x"), ("a", "symlink", "OUTSIDE/kept"), ("in", "link", "a")],
        [("in", "link", "later"), ("later", "file", "x")],
    ],
)
def test_a_path_that_leads_out_is_refused(tmp_path: pathlib.Path, members: list[Member]) -> None:
    outside = tmp_path / "outside"
    (outside / "folder").mkdir(parents=True)
    (outside / "kept").write_text("theirs")
    told = [(name, kind, text.replace("OUTSIDE", str(outside))) for name, kind, text in members]
    with pytest.raises(CommandError, match="leads out of it"):
        wheel_build.unpack_sdist(packed(tmp_path, *told), tmp_path / "unpacked" / "thing")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside", "thing-1.0.tar.gz", "unpacked"]
    assert sorted(path.name for path in outside.iterdir()) == ["folder", "kept"]
    assert (outside / "kept").stat().st_nlink == 1


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
    with pytest.raises(CommandError, match="a special file"):
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


@pytest.mark.parametrize("subdirectory", ["../../outside", "/etc", "out", "loop", "a\0b", "a" * 5000])
def test_a_package_is_built_in_a_folder_of_its_own(tmp_path: pathlib.Path, subdirectory: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    archive = packed(
        tmp_path,
        ("subdirectory", "file", subdirectory),
        ("source/setup.py", "file", ""),
        ("source/out", "symlink", str(outside)),
        ("source/loop", "symlink", "loop"),
    )
    with pytest.raises(CommandError, match="has no folder"):
        wheel_build.unpack_sdist(archive, tmp_path / "unpacked")


def test_a_link_is_no_folder_to_build_in(tmp_path: pathlib.Path) -> None:
    (tmp_path / "outside").mkdir()
    elsewhere = str(tmp_path / "outside")
    assert wheel_build.unpack_sdist(packed(tmp_path, ("thing-1.0", "symlink", elsewhere)), tmp_path / "a").name == "a"
    archive = packed(tmp_path, ("subdirectory", "file", "."), ("source", "symlink", elsewhere))
    with pytest.raises(CommandError, match="has no folder"):
        wheel_build.unpack_sdist(archive, tmp_path / "b")


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".tar.gz": gzip.compress,
    ".tar.bz2": bz2.compress,
    ".tar.xz": lzma.compress,
}
ENTRIES = st.sampled_from(["a", "b", "a/b", "b/a", "./a", "a/../b", "..", ".", "a/c/d"])
MEMBERS = st.tuples(
    ENTRIES,
    st.sampled_from(["file", "symlink", "link"]),
    ENTRIES | st.sampled_from(["OUTSIDE", "../outside", "b/kept"]),
)


@settings(max_examples=settings().max_examples * 2)
@given(st.lists(MEMBERS, max_size=6))
def test_whatever_is_unpacked_nothing_outside_changes(members: list[Member]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        here = pathlib.Path(folder)
        outside = here / "outside"
        outside.mkdir()
        (outside / "kept").write_text("theirs")
        (outside / "kept").chmod(0o600)
        told = [(name, kind, text.replace("OUTSIDE", str(outside))) for name, kind, text in members]
        with contextlib.suppress(CommandError):
            wheel_build.unpack_sdist(packed(here, *told), here / "unpacked")
        assert sorted(path.name for path in here.iterdir() if path.name != "unpacked") == [
            "outside",
            "thing-1.0.tar.gz",
        ]
        assert [path.name for path in outside.iterdir()] == ["kept"]
        found = (outside / "kept").stat()
        assert (found.st_nlink, stat.S_IMODE(found.st_mode)) == (1, 0o600)
        assert (outside / "kept").read_text() == "theirs"


@pytest.mark.parametrize("suffix", [".tar.gz", ".zip", ".tar.xz", ".tar.bz2"])
@given(st.data())
def test_a_damaged_archive_is_a_package_that_can_t_be_built(suffix: str, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        here = pathlib.Path(folder)
        content = bytearray(archived(here, suffix))
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        path = here / f"thing-1.0{suffix}"
        path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
        with contextlib.suppress(CommandError):
            wheel_build.unpack_sdist(path, here / "unpacked")


def archived(folder: pathlib.Path, suffix: str) -> bytes:
    path = folder / f"whole{suffix}"
    if suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("thing-1.0/setup.py", "import setuptools\n" * 50)
    else:
        plain = io.BytesIO()
        with tarfile.open(fileobj=plain, mode="w") as packing:
            member = tarfile.TarInfo("thing-1.0/setup.py")
            member.size = 900
            packing.addfile(member, io.BytesIO(b"import setuptools\n" * 50))
        path.write_bytes(COMPRESS[suffix](plain.getvalue()))
    return path.read_bytes()


def test_an_encrypted_archive_is_a_package_that_can_t_be_built(tmp_path: pathlib.Path) -> None:
    content = bytearray(archived(tmp_path, ".zip"))
    for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(signature) + flags] |= 1
    path = tmp_path / "thing-1.0.zip"
    path.write_bytes(content)
    with pytest.raises(CommandError, match=r"can't be unpacked .*encrypted"):
        wheel_build.unpack_sdist(path, tmp_path / "unpacked")
