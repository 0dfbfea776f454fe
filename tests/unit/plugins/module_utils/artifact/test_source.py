from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.artifact import source, source_tree
from ansible_collections.baton.web.plugins.module_utils.artifact.toolchain import Tools
from ansible_collections.baton.web.plugins.module_utils.host.command import BatonError

from tests.support.program import write_script

Write = Callable[..., pathlib.Path]
Run = Callable[..., str]


def _commit(run: Run, folder: pathlib.Path, text: str = "first") -> str:
    if not (folder / ".git").exists():
        run("git", "init", "-q", "-b", "main", cwd=folder)
    run("git", "add", "-A", cwd=folder)
    run("git", "commit", "-q", "--allow-empty", "-m", text, cwd=folder)
    return run("git", "rev-parse", "HEAD", cwd=folder).strip()


def files(folder: pathlib.Path) -> list[str]:
    return list(source_tree.walk(folder))


@pytest.mark.parametrize(
    ("given", "version", "kind", "where", "ref"),
    [
        ("https://git.example.org/a/b", "v1", "git", "https://git.example.org/a/b", "v1"),
        ("git+https://git.example.org/a/b.git@v2", "", "git", "https://git.example.org/a/b.git", "v2"),
        ("git+https://git.example.org/b@c.git@feature/x", "", "git", "https://git.example.org/b@c.git", "feature/x"),
        ("git+https://me:TOKEN@git.example.org/b.git", "", "git", "https://me:TOKEN@git.example.org/b.git", ""),
        ("git+https://me:TOKEN@git.example.org:8443/b.git@v2", "", "git",
         "https://me:TOKEN@git.example.org:8443/b.git", "v2"),
        ("git+ssh://git@git.example.org/b.git", "v2", "git", "ssh://git@git.example.org/b.git", "v2"),
        ("git+git@git.example.org:b.git@v2", "", "git", "git@git.example.org:b.git", "v2"),
        ("git@git.example.org:a/b.git", "main", "git", "git@git.example.org:a/b.git", "main"),
        ("ssh://git@git.example.org/a/b.git", "", "git", "ssh://git@git.example.org/a/b.git", ""),
        ("datasette", "0.65", "package", "datasette==0.65", ""),
        ("litellm[proxy]", "", "package", "litellm[proxy]", ""),
        ("a @ https://files.example.org/a-1.0-py3-none-any.whl", "", "package",
         "a@ https://files.example.org/a-1.0-py3-none-any.whl", ""),
    ],
)  # fmt: skip
def test_kinds_of_sources(given: str, version: str, kind: str, where: str, ref: str, tmp_path: pathlib.Path) -> None:
    found = source.classify(given, version, [str(tmp_path)])
    assert (found.kind, found.where.replace(" @", "@"), found.ref) == (kind, where, ref)


def test_folder_is_found_beside_the_inventory(write: Write, tmp_path: pathlib.Path) -> None:
    write("app", {"main.py": ""})
    assert source.classify("./app", "", ["/nowhere", str(tmp_path)]).where == str(tmp_path / "app")
    assert source.classify(str(tmp_path / "app"), "", []).where == str(tmp_path / "app")


@pytest.mark.parametrize(
    ("given", "version", "message"),
    [
        ("", "", "empty"),
        ("./nowhere", "", "not a folder"),
        ("app", "", "could also be a published package"),
        ("datasette>1", "2", "both give a version"),
        ("ftp://x/y", "", "neither a git URL"),
        ("git+https://h/a.git@v1", "v2", "names 'v1'"),
        ("two words", "", "neither a folder nor a git URL nor a package"),
    ],
)
def test_ambiguous_or_invalid_source_is_refused(
    given: str, version: str, message: str, write: Write, tmp_path: pathlib.Path
) -> None:
    write("app", {"main.py": ""})
    with pytest.raises(BatonError, match=message):
        source.classify(given, version, [str(tmp_path)])


def test_ignored_files_are_not_copied(write: Write, run: Run, tmp_path: pathlib.Path, tools: Tools) -> None:
    folder = write(
        "app", {"main.py": "", "new.py": "", ".env": "SECRET=1", ".gitignore": ".env\n", "web/dist/a.js": ""}
    )
    _commit(run, folder)
    write("app", {"untracked.py": "", "__pycache__/main.pyc": ""})
    (folder / "new.py").unlink()
    source.fetch(source.Source("folder", str(folder)), tmp_path / "copy", tools.cache)
    assert files(tmp_path / "copy") == [".gitignore", "main.py", "untracked.py", "web/dist/a.js"]


def test_subfolder_of_a_checkout_and_a_plain_folder(
    write: Write, run: Run, tmp_path: pathlib.Path, tools: Tools
) -> None:
    _commit(run, write("repo", {".gitignore": "*.log\n", "svc/main.py": "", "svc/x.log": "", "other.py": ""}))
    source.fetch(source.Source("folder", str(tmp_path / "repo/svc")), tmp_path / "sub", tools.cache)
    assert files(tmp_path / "sub") == ["main.py"]
    plain = write("plain", {"main.py": "", "node_modules/x.js": "", ".venv/bin/python": "", "venv/x": "", "a.log": ""})
    source.fetch(source.Source("folder", str(plain)), tmp_path / "copy", tools.cache)
    assert files(tmp_path / "copy") == ["a.log", "main.py"]


def test_token_is_only_for_git_and_another_one_fetches_nothing_again(
    write: Write,
    run: Run,
    tmp_path: pathlib.Path,
    rotated: Callable[[str, str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commit = _commit(run, write("repo", {"main.py": "1"}))
    # the real git, whose arguments are logged, and a credential helper of the user
    git = write_script(tmp_path / "git", f'echo "$@" >> {tmp_path}/calls\nexec {shutil.which("git")} "$@"')
    monkeypatch.setenv("PATH", f"{git.parent}:{os.environ['PATH']}")
    for name, value in (("COUNT", "1"), ("KEY_0", "credential.helper"), ("VALUE_0", "!echo password=OTHER; false")):
        monkeypatch.setenv(f"GIT_CONFIG_{name}", value)
    for token in ("TOKEN1", "TOKEN2 with: 'all' kinds/of@signs\\n"):
        origin = source.classify(rotated("repo", token), "main", [])
        assert "TOKEN" in origin.where
        assert str(origin).endswith("/repo at main")
        assert source.fetch(origin, tmp_path / f"got{len(token)}", tmp_path / "cache") == commit
    calls = (tmp_path / "calls").read_text()
    assert "ls-remote" in calls
    assert "TOKEN" not in calls
    assert len(list((tmp_path / "cache/git").iterdir())) == 1
    kept = [path.read_bytes() for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert not [content for content in kept if b"TOKEN" in content]


def test_submodules_of_the_same_server_use_the_token(
    write: Write, run: Run, tmp_path: pathlib.Path, rotated: Callable[[str, str], str]
) -> None:
    _commit(run, write("part", {"part.py": ""}))
    repository = write("repo", {"main.py": ""})
    _commit(run, repository)
    allow = ("-c", "protocol.file.allow=always")
    run("git", *allow, "submodule", "--quiet", "add", tmp_path / "part", "part", cwd=repository)
    run("git", "config", "--file=.gitmodules", "submodule.part.url", "../part", cwd=repository)
    _commit(run, repository)
    origin = source.classify(rotated("repo", "TOKEN"), "main", [])
    source.fetch(origin, tmp_path / "got", tmp_path / "cache")
    assert "part/part.py" in files(tmp_path / "got")


def test_url_with_only_a_user_uses_the_users_credential_helper(
    write: Write, run: Run, tmp_path: pathlib.Path, rotated: Callable[[str, str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = _commit(run, write("repo", {"main.py": "1"}))
    address = rotated("repo", "TOKEN")
    helper = '[credential]\n helper = "!f() { echo password=TOKEN; }; f"\n'
    rule = '[url "ssh://nowhere/"]\n insteadOf = http://127.0.0.1\n'
    (tmp_path / "config").write_text(helper + rule)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "config"))
    origin = source.Source("git", address.replace(":TOKEN@", "@"), "main")
    assert source.fetch(origin, tmp_path / "got", tmp_path / "cache") == commit


def test_url_with_an_invalid_token_is_reported_without_it(tmp_path: pathlib.Path) -> None:
    with pytest.raises(BatonError, match=r"https://git.example.org/x' is not a valid URL") as caught:
        source.fetch(source.Source("git", "https://me:TO[KEN@git.example.org/x"), tmp_path / "x", tmp_path / "cache")
    assert "KEN" not in str(caught.value)


def test_failed_git_source_is_reported_without_its_token(tmp_path: pathlib.Path, tools: Tools) -> None:
    with pytest.raises(BatonError, match=r"http://127\.0\.0\.1:1/x\.git can't be read") as caught:
        source.fetch(source.Source("git", "http://me:TOKEN@127.0.0.1:1/x.git"), tmp_path / "x", tools.cache)
    assert "TOKEN" not in str(caught.value)


def test_git_branch_tag_commit_and_head(write: Write, run: Run, tmp_path: pathlib.Path, tools: Tools) -> None:
    folder = write("repo", {"main.py": "1"})
    first = _commit(run, folder)
    run("git", "tag", "-a", "v1", "-m", "v1", cwd=folder)
    run("git", "branch", "feature/x", cwd=folder)
    write("repo", {"main.py": "2"})
    second = _commit(run, folder)
    refs = {"v1": first, "feature/x": first, first: first, first[:8]: first, "": second, "main": second}
    for number, (ref, expected) in enumerate(refs.items()):
        copy = tmp_path / f"copy{number}"
        assert source.fetch(source.Source("git", folder.as_uri(), ref), copy, tools.cache) == expected
        assert (copy / "main.py").read_text() == ("1" if expected == first else "2")
        assert not (copy / ".git").exists()


def test_moved_branch_is_fetched_again(write: Write, run: Run, tmp_path: pathlib.Path, tools: Tools) -> None:
    folder = write("repo", {"main.py": "1"})
    _commit(run, folder)
    origin = source.Source("git", folder.as_uri(), "main")
    source.fetch(origin, tmp_path / "one", tools.cache)
    write("repo", {"main.py": "2"})
    _commit(run, folder)
    source.fetch(origin, tmp_path / "two", tools.cache)
    assert (tmp_path / "two/main.py").read_text() == "2"


def test_submodule_is_fetched(write: Write, run: Run, tmp_path: pathlib.Path, tools: Tools) -> None:
    inner = write("inner", {"lib.py": "lib"})
    _commit(run, inner)
    outer = write("outer", {"main.py": ""})
    _commit(run, outer)
    run("git", "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(inner), "vendor/inner", cwd=outer)
    _commit(run, outer, "submodule")
    source.fetch(source.Source("git", outer.as_uri(), "main"), tmp_path / "copy", tools.cache)
    assert (tmp_path / "copy/vendor/inner/lib.py").read_text() == "lib"


def test_version_of_a_folder_in_a_repository(write: Write, run: Run, tmp_path: pathlib.Path, tools: Tools) -> None:
    repository = write("repo", {"services/links/main.py": "1", "other.py": "", ".gitignore": "scratch\n"})
    first = _commit(run, repository)
    run("git", "tag", "v1", cwd=repository)
    write("repo", {"services/links/main.py": "2", "scratch/main.py": "3"})
    _commit(run, repository, "second")
    found = source.classify("repo/services/links", "v1", [str(tmp_path)])
    assert str(found) == f"{repository}/services/links at v1"
    assert source.fetch(found, tmp_path / "copy", tools.cache) == first
    assert files(tmp_path / "copy") == ["main.py"]
    assert (tmp_path / "copy/main.py").read_text() == "1"
    # an untracked folder has no versions; app_version is only a name for it
    assert source.classify("repo/scratch", "v1", [str(tmp_path)]).kind == "folder"
    with pytest.raises(BatonError, match="no branch, tag or commit 'v9'"):
        source.fetch(source.classify("repo/services/links", "v9", [str(tmp_path)]), tmp_path / "x", tools.cache)


@pytest.mark.parametrize(
    ("where", "ref", "message"),
    [("", "nope", "no branch, tag or commit 'nope'"), ("", "both", "ambiguous"), ("/nowhere.git", "", "can't be read"),
     ("", "0" * 40, "can't be fetched|no branch")],
)  # fmt: skip
def test_git_errors_name_the_cause(
    where: str, ref: str, message: str, write: Write, run: Run, tmp_path: pathlib.Path, tools: Tools
) -> None:
    folder = write("repo", {"main.py": "1"})
    _commit(run, folder)
    run("git", "tag", "both", cwd=folder)
    run("git", "branch", "both", cwd=folder)
    with pytest.raises(BatonError, match=message):
        source.fetch(
            source.Source("git", f"file://{where}" if where else folder.as_uri(), ref), tmp_path / "x", tools.cache
        )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"app_source": "../nowhere"},
            "app_source '../nowhere' is not a folder (looked for {above}/nowhere). Correct the path, which is relative",
        ),
        ({"app_source": "/nowhere/at/all"}, "app_source '/nowhere/at/all' is not a folder. Correct the path."),
        ({"app_source": "~/nowhere/at/all"}, "(looked for {home}/nowhere/at/all). Correct the path."),
        ({"app_source_subdir": "nope"}, "app/nope is not a folder"),
        ({"app_source_subdir": "../elsewhere"}, "leads out of the source"),
        ({"app_release_lock": "locks/uv.lock"}, "app/locks/uv.lock or "),
        ({"app_release_import_paths": ["lib", "nope"]}, "app_release_import_paths: "),
        ({"app_release_working_directory": "nope"}, "app_release_working_directory: "),
        (
            {"app_release_files": [{"path": "a", "src": "missing.txt"}]},
            "app_release_files: {here}/missing.txt is not a file",
        ),
    ],
)
def test_missing_files_are_reported_before_the_build(
    tmp_path: pathlib.Path, given: dict[str, Any], message: str
) -> None:
    (tmp_path / "app/services/api/lib").mkdir(parents=True)
    values = {"app_source": str(tmp_path / "app"), "app_source_subdir": "services/api", **given}
    (sentence,) = source.problems(values, [str(tmp_path)])
    places = {"here": tmp_path, "above": tmp_path.parent, "home": pathlib.Path.home()}
    assert message.format(**places) in sentence


@pytest.mark.parametrize(
    "given",
    [
        {"app_release_import_paths": ["lib", "services/api/lib"]},
        {"app_release_lock": "added.txt", "app_release_files": [{"path": "added.txt", "content": "idna==3.10"}]},
        # the build command may create it
        {"app_release_import_paths": ["generated"], "app_release_build_command": "make"},
        {"app_source": "https://git.example.org/app.git", "app_source_subdir": "nope"},
        {"app_source": "shop", "app_version": "1.2", "app_source_subdir": ""},
    ],
)
def test_files_that_only_the_build_knows_are_not_checked(tmp_path: pathlib.Path, given: dict[str, Any]) -> None:
    (tmp_path / "app/services/api/lib").mkdir(parents=True)
    values = {"app_source": str(tmp_path / "app"), "app_source_subdir": "services/api", **given}
    assert source.problems(values, ["/nonexistent"]) == []


def test_unresolved_merge_conflicts_are_refused(write: Write, run: Run, tmp_path: pathlib.Path, tools: Tools) -> None:
    folder = write("repo", {"main.py": "first", "sub/a.py": "first", "sub/b.py": "first"})
    _commit(run, folder)
    run("git", "checkout", "-q", "-b", "other", cwd=folder)
    write("repo", {"sub/a.py": "theirs", "sub/b.py": "theirs"})
    theirs = _commit(run, folder)
    run("git", "checkout", "-q", "main", cwd=folder)
    write("repo", {"sub/a.py": "ours", "sub/b.py": "ours"})
    _commit(run, folder)
    assert source.problems({"app_source": str(folder)}, []) == []
    run("sh", "-c", "git merge -q other || true", cwd=folder)
    words = "has unresolved merge conflicts in sub/a.py, sub/b.py. Resolve them and run `git add` for these files, or"
    (sentence,) = source.problems({"app_source": str(folder)}, [])
    assert sentence.startswith(f"The source {folder} {words}")
    with pytest.raises(BatonError, match=r"unresolved merge conflicts in sub/a\.py, sub/b\.py"):
        source.fetch(source.classify(str(folder), "", []), tmp_path / "copy", tools.cache)
    # a commit has none, nor has another folder of the repository
    assert source.problems({"app_source": str(folder), "app_version": theirs}, []) == []
    write("repo", {"beside/main.py": ""})
    assert source.problems({"app_source": str(folder / "beside")}, []) == []
    run("git", "add", "sub", cwd=folder)
    assert source.problems({"app_source": str(folder)}, []) == []


def test_small_repository_with_a_huge_commit_fails_early_and_leaves_nothing(
    write: Write, run: Run, tmp_path: pathlib.Path, tools: Tools
) -> None:
    """Trees may name the same tree and the same file again and again: 10^8 files of 16 MiB each, in seven objects."""
    repository = write("repo", {"main.py": ""})
    _commit(run, repository)
    names = "for name in $(seq 100); do"
    script = f"""
        object=$(head -c {2**24} /dev/zero | git hash-object -w --stdin); kind="100644 blob"
        for level in 1 2 3 4; do
            object=$({names} printf '%s %s\\t%s\\n' "$kind" $object $name; done | git mktree); kind="040000 tree"
        done
        git update-ref HEAD $(git commit-tree -m bomb $object)
    """
    run("sh", "-ec", script, cwd=repository)
    with pytest.raises(
        BatonError, match=r"/repo has more than the \d+ MiB that there is room for\. Leave out"
    ) as failure:
        source.fetch(source.classify(f"git+file://{repository}", "", []), tmp_path / "copy", tools.cache)
    assert list((tmp_path / "copy").iterdir()) == []
    assert "app_release_exclude" not in str(failure.value)  # by which it would be left out too late
