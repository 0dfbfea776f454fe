"""Unpacking untrusted source distributions."""

from __future__ import annotations

import bz2
import contextlib
import copy
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
from ansible_collections.baton.web.plugins.module_utils.host import disk, wheel_build
from ansible_collections.baton.web.plugins.module_utils.host.command import CommandError
from hypothesis import given, settings
from hypothesis import strategies as st

Member = tuple[str, str, str]  # name, kind, target or content


def pack(folder: pathlib.Path, *members: Member) -> pathlib.Path:
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
def test_path_outside_the_archive_is_refused(tmp_path: pathlib.Path, members: list[Member]) -> None:
    outside = tmp_path / "outside"
    (outside / "folder").mkdir(parents=True)
    (outside / "kept").write_text("theirs")
    resolved = [(name, kind, text.replace("OUTSIDE", str(outside))) for name, kind, text in members]
    with pytest.raises(CommandError, match="leads out of it"):
        wheel_build.unpack_sdist(pack(tmp_path, *resolved), tmp_path / "unpacked" / "thing")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside", "thing-1.0.tar.gz", "unpacked"]
    assert sorted(path.name for path in outside.iterdir()) == ["folder", "kept"]
    assert (outside / "kept").stat().st_nlink == 1


def test_harmless_links_are_kept(tmp_path: pathlib.Path) -> None:
    archive = pack(
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
def test_device_is_refused(tmp_path: pathlib.Path, kind: bytes) -> None:
    path = tmp_path / "thing-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("thing-1.0/device")
        member.type = kind
        archive.addfile(member)
    with pytest.raises(CommandError, match="a special file"):
        wheel_build.unpack_sdist(path, tmp_path / "unpacked")


def test_special_modes_and_owners_are_dropped(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "thing-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("thing-1.0/setup.py")
        member.mode, member.uid, member.gid = 0o4755, 12345, 12345
        archive.addfile(member)
    found = (wheel_build.unpack_sdist(path, tmp_path / "unpacked") / "setup.py").stat()
    assert stat.S_IMODE(found.st_mode) == 0o755
    assert found.st_uid == os.getuid()


def test_link_to_a_protected_file_is_not_followed(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "thing-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("subdirectory")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/shadow"
        archive.addfile(member)
    assert wheel_build.unpack_sdist(path, tmp_path / "unpacked") == tmp_path / "unpacked"


@pytest.mark.parametrize("subdirectory", ["../../outside", "/etc", "out", "loop", "a\0b", "a" * 5000])
def test_subdirectory_must_be_a_folder_of_the_archive(tmp_path: pathlib.Path, subdirectory: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    archive = pack(
        tmp_path,
        ("subdirectory", "file", subdirectory),
        ("source/setup.py", "file", ""),
        ("source/out", "symlink", str(outside)),
        ("source/loop", "symlink", "loop"),
    )
    with pytest.raises(CommandError, match="has no folder"):
        wheel_build.unpack_sdist(archive, tmp_path / "unpacked")


def test_link_is_no_folder_to_build_in(tmp_path: pathlib.Path) -> None:
    (tmp_path / "outside").mkdir()
    elsewhere = str(tmp_path / "outside")
    assert wheel_build.unpack_sdist(pack(tmp_path, ("thing-1.0", "symlink", elsewhere)), tmp_path / "a").name == "a"
    archive = pack(tmp_path, ("subdirectory", "file", "."), ("source", "symlink", elsewhere))
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
def test_any_archive_changes_nothing_outside(members: list[Member]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        parent = pathlib.Path(folder)
        outside = parent / "outside"
        outside.mkdir()
        (outside / "kept").write_text("theirs")
        (outside / "kept").chmod(0o600)
        resolved = [(name, kind, text.replace("OUTSIDE", str(outside))) for name, kind, text in members]
        with contextlib.suppress(CommandError):
            wheel_build.unpack_sdist(pack(parent, *resolved), parent / "unpacked")
        assert sorted(path.name for path in parent.iterdir() if path.name != "unpacked") == [
            "outside",
            "thing-1.0.tar.gz",
        ]
        assert [path.name for path in outside.iterdir()] == ["kept"]
        found = (outside / "kept").stat()
        assert (found.st_nlink, stat.S_IMODE(found.st_mode)) == (1, 0o600)
        assert (outside / "kept").read_text() == "theirs"


@pytest.mark.parametrize("suffix", [".tar.gz", ".zip", ".tar.xz", ".tar.bz2"])
@given(st.data())
def test_damaged_archive_is_refused_or_unpacked(suffix: str, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        parent = pathlib.Path(folder)
        content = bytearray(create_archive(parent, suffix))
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        path = parent / f"thing-1.0{suffix}"
        path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
        with contextlib.suppress(CommandError):
            wheel_build.unpack_sdist(path, parent / "unpacked")


def create_archive(folder: pathlib.Path, suffix: str) -> bytes:
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


def test_encrypted_archive_is_refused(tmp_path: pathlib.Path) -> None:
    content = bytearray(create_archive(tmp_path, ".zip"))
    for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(signature) + flags] |= 1
    path = tmp_path / "thing-1.0.zip"
    path.write_bytes(content)
    with pytest.raises(CommandError, match=r"can't be unpacked .*encrypted"):
        wheel_build.unpack_sdist(path, tmp_path / "unpacked")


def bomb(folder: pathlib.Path, suffix: str, *blocks: tuple[bytes, int]) -> pathlib.Path:
    """A small archive of a few blocks, each so many times."""
    path = folder / f"thing-1.0{suffix}"
    with path.open("wb") as file:
        for block, count in blocks:
            file.write(COMPRESS[suffix](block) * count)
    return path


def header(size: int, kind: bytes = tarfile.REGTYPE, name: str = "thing-1.0/zeros") -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


ZEROS, GIB = bytes(2**24), 2**30


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize(
    ("blocks", "says"),
    [
        ([(header(10 * GIB), 1), (ZEROS, 640)], r"has more than the \d+ MiB that there is room for"),
        ([(header(len(ZEROS)) + ZEROS, 640)], r"has more than the \d+ MiB that there is room for"),
        ([(header(0) * 1000, 2)], "has more than 1500 files"),
        ([(header(GIB, tarfile.XHDTYPE), 1), (ZEROS, 64)], "has a header of more than 1024 KiB"),
        ([(header(GIB, tarfile.GNUTYPE_LONGNAME), 1), (ZEROS, 64)], "has a header of more than 1024 KiB"),
        ([(header(-GIB, tarfile.XHDTYPE), 1), (ZEROS, 64)], "has a header of more than 1024 KiB"),
        # back to where it was, without an end; a newer Python refuses it
        ([(header(0) * 2 + header(-1024), 1)], "has more than 1500 files|can't be unpacked"),
    ],
    ids=["one-large-file", "many-large-files", "many-files", "attributes", "name", "no-attributes", "backwards"],
)
def test_small_archive_of_a_huge_package_fails_early_and_leaves_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, suffix: str, blocks: list[tuple[bytes, int]], says: str
) -> None:
    monkeypatch.setattr(disk, "LARGEST", 2**27)
    monkeypatch.setattr(disk, "MOST_FILES", 1500)
    path = bomb(tmp_path, suffix, *blocks)
    assert path.stat().st_size < 2**24
    with pytest.raises(CommandError, match=says):
        wheel_build.unpack_sdist(path, tmp_path / "unpacked")
    assert list((tmp_path / "unpacked").iterdir()) == []


def test_sparse_map_counts_as_a_header(tmp_path: pathlib.Path) -> None:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("thing-1.0/zeros")
        member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "1"}
        content = b"4000000\n" + b"1\n" * 8_000_000
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    path = bomb(tmp_path, ".tar.gz", (plain.getvalue(), 1))
    with pytest.raises(CommandError, match="has a header of more than 1024 KiB"):
        wheel_build.unpack_sdist(path, tmp_path / "unpacked")


def test_zip_files_that_share_their_bytes_are_counted(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "thing-1.0.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("thing-1.0/0", ZEROS)
        for number in range(1, 640):
            again = copy.copy(archive.filelist[0])
            again.filename = again.orig_filename = f"thing-1.0/{number}"
            archive.filelist.append(again)
    assert path.stat().st_size < 2**20
    with pytest.raises(CommandError, match=r"thing-1\.0\.zip has more than the \d+ MiB that there is room for"):
        wheel_build.unpack_sdist(path, tmp_path / "unpacked")
    assert list((tmp_path / "unpacked").iterdir()) == []


def test_package_must_fit_on_the_disk(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "RESERVE_BYTES", 2**60)
    with pytest.raises(CommandError, match="has more than the 0 MiB that there is room for"):
        wheel_build.unpack_sdist(pack(tmp_path, ("thing-1.0/setup.py", "file", "x")), tmp_path / "unpacked")
