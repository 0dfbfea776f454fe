"""Sources that try to make the controller read, write, delete or run something foreign; unusual git repositories."""

from __future__ import annotations

import os
import pathlib
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.artifact import artifact, source, source_tree
from ansible_collections.baton.web.plugins.module_utils.artifact.targets import Target
from ansible_collections.baton.web.plugins.module_utils.artifact.toolchain import Tools
from ansible_collections.baton.web.plugins.module_utils.host.command import BatonError

from tests.support.machine import HERE

MAIN = "async def app(scope, receive, send): ...\n"
Make = Callable[..., dict[str, Any]]


@pytest.fixture
def elsewhere(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder beside the source whose content must not change."""
    folder = tmp_path / "elsewhere"
    (folder / "uploads").mkdir(parents=True)
    (folder / "uploads/precious").write_text("precious")
    return folder


@pytest.fixture
def app(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "main.py").write_text(MAIN)
    (folder / "requirements.txt").write_text("idna==3.10\n")
    return folder


@pytest.fixture
def make(app: pathlib.Path, make_request: Callable[..., artifact.Request], tools: Tools) -> Make:
    def build(**changes: object) -> dict[str, Any]:
        result: dict[str, Any] = artifact.build(make_request(app, targets=[Target.parse(HERE)], **changes), tools)
        return result

    return build


def everything(folder: pathlib.Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


LINKS = {
    "relative": {"data": "../elsewhere"},
    "absolute": {"data": "{elsewhere}"},
    # each link alone stays inside the source, but not all three together
    "chained": {"p/q/deep": "../../top", "data": "p/q/deep/../../elsewhere"},
}


@pytest.mark.parametrize("links", LINKS.values(), ids=LINKS)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"state_links": [{"path": "data/uploads"}]},
        {"files": [{"path": "data/uploads/precious", "content": "overwritten"}]},
        {"files": [{"path": "data/new", "content": "new"}]},
        {"build_command": ["/bin/sh", "-c", "rm -rf data/uploads"]},
        {"app_source_subdir": "data"},
    ],
    ids=lambda changes: next(iter(changes), "nothing"),
)
def test_nothing_is_done_through_a_link_out_of_the_source(
    make: Make, app: pathlib.Path, elsewhere: pathlib.Path, links: dict[str, str], changes: dict[str, Any]
) -> None:
    (app / "p/q").mkdir(parents=True)
    (app / "top").mkdir()
    (app / "top/file").touch()
    for name, text in links.items():
        (app / name).symlink_to(text.format(elsewhere=elsewhere))
    # relative to the copy of the source as well as to the source
    scratch = pathlib.Path(os.environ.get("TMPDIR", "/tmp"))
    before = everything(elsewhere), sorted(scratch.glob("elsewhere*"))
    with pytest.raises(BatonError, match=r"link|has no folder"):
        make(**changes)
    assert (everything(elsewhere), sorted(scratch.glob("elsewhere*"))) == before


def test_link_that_is_replaced_or_excluded_is_allowed(make: Make, app: pathlib.Path) -> None:
    (app / "data").symlink_to("/var/lib/demo/data")
    (app / "dev").symlink_to("/home/me/dev")
    built = make(state_links=[{"path": "data"}], excluded=["dev"])
    assert built["release"]["state_links"] == [{"path": "data", "target": "data", "directory": True}]


def test_added_file_is_not_written_through_a_link_inside(make: Make, app: pathlib.Path) -> None:
    (app / "real").mkdir()
    (app / "real/file").touch()
    (app / "alias").symlink_to("real")
    with pytest.raises(BatonError, match="is below alias, which is a link to real"):
        make(files=[{"path": "alias/new", "content": "new"}])


def test_link_in_place_of_a_tracked_folder_is_copied_as_a_link(
    tmp_path: pathlib.Path, app: pathlib.Path, elsewhere: pathlib.Path, run: Callable[..., str]
) -> None:
    (app / "data/uploads").mkdir(parents=True)
    (app / "data/uploads/precious").write_text("of the application")
    run("git", "init", "--quiet", cwd=app)
    run("git", "add", "--all", cwd=app)
    subprocess.run(["rm", "-r", app / "data"], check=True)
    (app / "data").symlink_to(elsewhere)
    source_tree.copy(app, tmp_path / "copy")
    assert (tmp_path / "copy/data").is_symlink()
    assert everything(elsewhere) == {"uploads/precious": "precious"}


@pytest.mark.parametrize("command", ["mkfifo pipe", "ln -s /etc/hostname hosts", "ln -s ../../.. up"])
def test_output_of_a_build_command_is_checked_too(make: Make, command: str) -> None:
    with pytest.raises(BatonError, match=r"a special file|leads out"):
        make(build_command=["/bin/sh", "-c", command])


def test_state_links_do_not_break_the_projects_own_build(
    make: Make, app: pathlib.Path, pyproject: Callable[..., str]
) -> None:
    (app / "pyproject.toml").write_text(pyproject("demo", ["idna==3.10"]))
    (app / "requirements.txt").write_text("idna==3.10\n-e .\n")
    (app / "demo").mkdir()
    (app / "demo/__init__.py").touch()
    (app / "demo/config.json").write_text("{}")
    # the backend reads each file, and a link to a host's state folder is dangling here
    links = [{"path": "demo/uploads"}, {"path": "demo/config.json", "directory": False}]
    built = make(state_links=links, excluded=["tests"], files=[{"path": "demo/added", "content": "x"}])
    assert built["complete"]


def test_added_file_for_the_build_needs_its_option(
    make: Make, app: pathlib.Path, pyproject: Callable[..., str]
) -> None:
    included = '[tool.hatch.build.targets.wheel.force-include]\n"VERSION.txt" = "demo/VERSION.txt"\n'
    (app / "pyproject.toml").write_text(pyproject("demo", rest=included))
    (app / "requirements.txt").write_text("idna==3.10\n-e .\n")
    added = {"path": "VERSION.txt", "content": "1"}
    with pytest.raises(BatonError, match="`build: true`"):
        make(files=[added])
    assert make(files=[{**added, "build": True}])["complete"]


@pytest.mark.parametrize("line", ["-r missing.txt", "!!! what"])
def test_messages_name_a_file_by_its_place_in_the_source(make: Make, app: pathlib.Path, line: str) -> None:
    (app / "requirements.txt").write_text(f"{line}\n")
    with pytest.raises(BatonError) as caught:
        make()
    assert ".txt" in str(caught.value)
    assert "baton-artifact-" not in str(caught.value)


# -- git ---------------------------------------------------------------------------------------------------


@pytest.fixture
def repository(app: pathlib.Path, run: Callable[..., str]) -> pathlib.Path:
    run("git", "init", "--quiet", "--initial-branch=main", cwd=app)
    run("git", "add", "--all", cwd=app)
    run("git", "commit", "--quiet", "--message=all", cwd=app)
    return app


def test_submodule_without_a_checkout_is_named(
    repository: pathlib.Path, tmp_path: pathlib.Path, run: Callable[..., str]
) -> None:
    other = tmp_path / "other"
    subprocess.run(["cp", "-r", repository, other], check=True)
    run(
        "git",
        "-c",
        "protocol.file.allow=always",
        "submodule",
        "--quiet",
        "add",
        str(other),
        "libs/other",
        cwd=repository,
    )
    run("git", "commit", "--quiet", "--message=submodule", cwd=repository)
    run("git", "submodule", "--quiet", "deinit", "--all", cwd=repository)
    with pytest.raises(BatonError) as caught:
        source_tree.tracked(repository)
    assert "The submodule libs/other of" in str(caught.value)
    assert f"git -C {repository} submodule update --init" in str(caught.value)


@pytest.mark.parametrize("variable", ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"])
def test_git_variables_of_the_environment_are_ignored(
    repository: pathlib.Path,
    tmp_path: pathlib.Path,
    run: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
) -> None:
    """A git hook has these variables; another repository's working tree could be deployed under the tag's name."""
    run("git", "tag", "v1", cwd=repository)
    (repository / "main.py").write_text("not committed\n")
    other = tmp_path / "other"
    subprocess.run(["git", "init", "--quiet", other], check=True)
    values = {"GIT_DIR": other / ".git", "GIT_WORK_TREE": other, "GIT_INDEX_FILE": other / "index"}
    monkeypatch.setenv(variable, str(values[variable]))
    found = source.classify(str(repository), "v1", ["/"])
    source.fetch(found, tmp_path / "fetched", tmp_path / "cache")
    assert (tmp_path / "fetched/main.py").read_text() == MAIN
    assert source_tree.tracked(repository) == ["main.py", "requirements.txt"]


def test_repository_of_another_user_is_refused_by_git(
    repository: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # a variable of git's own tests
    monkeypatch.delenv("SUDO_UID", raising=False)
    subprocess.run(["chown", "-R", "12345", repository], check=os.geteuid() == 0)
    with pytest.raises(BatonError) as caught:
        source_tree.tracked(repository)
    assert "dubious ownership" in str(caught.value)
    assert "safe.directory" in caught.value.fix


@pytest.mark.parametrize("file", ["config", "index"])
def test_damaged_repository_is_an_error(repository: pathlib.Path, file: str) -> None:
    (repository / f".git/{file}").write_text("[core\n")
    with pytest.raises(BatonError, match="git can't read"):
        source_tree.tracked(repository)


def test_repository_cannot_run_programs(
    repository: pathlib.Path, tmp_path: pathlib.Path, run: Callable[..., str]
) -> None:
    marker = tmp_path / "marker"
    run("git", "config", "core.fsmonitor", f"touch {marker}", cwd=repository)
    run("git", "config", "filter.evil.clean", f"touch {marker}; cat", cwd=repository)
    (repository / ".gitattributes").write_text("*.py filter=evil\n")
    (repository / "main.py").write_text(MAIN + "# changed\n")
    assert source_tree.tracked(repository) == [".gitattributes", "main.py", "requirements.txt"]
    assert source.describe(repository).endswith("+")
    assert not marker.exists()


def test_git_lfs_pointers_are_refused(make: Make, app: pathlib.Path) -> None:
    (app / "model.bin").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(BatonError) as caught:
        make()
    assert "model.bin" in str(caught.value)
    assert "git lfs pull" in caught.value.fix
    assert make(excluded=["model.bin"])["complete"]
