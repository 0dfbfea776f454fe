from __future__ import annotations

import hashlib
import os
import pathlib
import tarfile
from collections.abc import Callable

import pytest
from ansible_collections.baton.web.plugins.module_utils.artifact import source_tree
from ansible_collections.baton.web.plugins.module_utils.host.command import BatonError

Write = Callable[..., pathlib.Path]


def test_digest_depends_on_paths_modes_and_contents(write: Write) -> None:
    folder = write("a", {"x.py": "1", "y/z.py": "2"})
    digests = {source_tree.digest(folder)}
    os.utime(folder / "x.py", (1, 1))
    assert source_tree.digest(folder) in digests, "times don't count"
    (folder / "x.py").chmod(0o755)
    digests.add(source_tree.digest(folder))
    write("a", {"x.py": "2"})
    digests.add(source_tree.digest(folder))
    (folder / "x.py").rename(folder / "w.py")
    digests.add(source_tree.digest(folder))
    (folder / "link").symlink_to("w.py")
    digests.add(source_tree.digest(folder))
    assert len(digests) == 5


def test_names_and_links_may_contain_any_bytes(write: Write, tmp_path: pathlib.Path) -> None:
    folder = write("a", {"x.py": "1"})
    name = os.fsdecode(b"caf\xe9.txt")
    (folder / name).write_text("2")
    (folder / "link").symlink_to(name)
    source_tree.check(folder)
    assert source_tree.digest(folder)
    source_tree.pack(tmp_path / "a.tar.gz", {"src": folder}, {}, 0)
    with tarfile.open(tmp_path / "a.tar.gz") as archive:
        assert archive.getmember("src/link").linkname == name


def test_archives_of_the_same_content_are_identical(write: Write, tmp_path: pathlib.Path) -> None:
    sums = []
    for name, mode in (("a", 0o644), ("b", 0o664)):
        folder = write(name, {"x.py": "1", "y/z.py": "2"})
        (folder / "x.py").chmod(mode)
        archive = tmp_path / f"{name}.tar.gz"
        source_tree.pack(archive, {"src": folder}, {"artifact.json": "{}"}, 1_700_000_000)
        sums.append(hashlib.sha256(archive.read_bytes()).hexdigest())
    assert sums[0] == sums[1]
    with tarfile.open(tmp_path / "a.tar.gz") as packed:
        assert packed.getnames() == ["artifact.json", "src", "src/x.py", "src/y", "src/y/z.py"]
        assert {(entry.uid, entry.mtime) for entry in packed} == {(0, 1_700_000_000)}


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["*.log"], ["a.py", "docs/b.md", "docs/c/d.py"]),
        (["docs/"], ["a.py", "x.log"]),
        (["docs/*.md", "/nothing"], ["a.py", "docs/c/d.py", "docs/x.log", "x.log"]),
        (["docs/c"], ["a.py", "docs/b.md", "docs/x.log", "x.log"]),
        # as in .gitignore: only at the top
        (["/docs"], ["a.py", "x.log"]),
        (["/x.log"], ["a.py", "docs/b.md", "docs/c/d.py", "docs/x.log"]),
    ],
)
def test_exclusions(patterns: list[str], expected: list[str], write: Write) -> None:
    folder = write("a", {"a.py": "", "x.log": "", "docs/b.md": "", "docs/c/d.py": "", "docs/x.log": ""})
    source_tree.exclude(folder, patterns)
    assert list(source_tree.walk(folder)) == expected


def test_link_out_of_the_source_is_refused(write: Write) -> None:
    folder = write("a", {"x.py": "", "sub/y.py": ""})
    (folder / "sub/fine").symlink_to("../x.py")
    source_tree.check(folder)
    (folder / "sub/bad").symlink_to("/etc/passwd")
    with pytest.raises(BatonError, match="sub/bad"):
        source_tree.check(folder)
    source_tree.check(folder, ["sub/bad"])


@pytest.mark.parametrize("path", ["/etc", "..", "../x", "a/../../x"])
def test_paths_stay_inside(path: str) -> None:
    with pytest.raises(BatonError, match="leads out"):
        source_tree.inside(path, "app_source_subdir")
