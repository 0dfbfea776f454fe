"""The id of a release: another one for all that changes what runs, the same one for all that doesn't."""

from __future__ import annotations

import dataclasses
import itertools
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import pytest
import yaml
from ansible_collections.baton.web.plugins.module_utils.artifact import artifact, lockfile, server_versions
from ansible_collections.baton.web.plugins.module_utils.artifact.targets import Target
from ansible_collections.baton.web.plugins.module_utils.artifact.toolchain import Tools
from ansible_collections.baton.web.plugins.module_utils.host.command import BatonError
from ansible_collections.baton.web.plugins.module_utils.release import staging
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ROOT = pathlib.Path(__file__).parents[5]
HASH = "sha256:" + "a" * 64
BOOKWORM = Target(minor=11, architecture="x86_64", glibc=(2, 36), patch=2)
TRIXIE = Target(minor=13, architecture="x86_64", glibc=(2, 41), patch=5)

# a file: its content, and whether it is to be executed
Files = Mapping[str, tuple[bytes, bool]]
APP: Files = {
    "main.py": (b"async def app(scope, receive, send): ...\n", False),
    "requirements.txt": (f"idna==3.10 --hash={HASH}\n".encode(), False),
    "lib/helper.py": (b"", False),
    "run.sh": (b"#!/bin/sh\n", True),
}
HANDOVER: Files = {
    "pyproject.toml": (b'[project]\nname = "gunicorn-handover"\nversion = "1.0"\n', False),
    "src/gunicorn_handover/__init__.py": (b"", False),
    "tests/test_it.py": (b"", False),
}
SERVER = f"gunicorn==27.0.1 --hash={HASH}\nuvicorn==0.50.0 --hash={HASH}\n"


@dataclasses.dataclass(frozen=True)
class Input:
    """All that a release is made from."""

    app: Files = dataclasses.field(default_factory=lambda: APP)
    handover: Files = dataclasses.field(default_factory=lambda: HANDOVER)
    server: str = SERVER
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class FoundError(Exception):
    """The build has come to the id; what follows needs packages."""


@dataclasses.dataclass(frozen=True)
class Circumstances:
    """What is none of a release's business."""

    seed: int = 0  # of the order in which files are made, and of their times
    umask: int = 0o022
    folder: str = "here"
    git: str = ""  # none, "new", "committed" or "another branch"


def lay(folder: pathlib.Path, files: Files, how: Circumstances) -> None:
    """Put files into a folder."""
    chance = random.Random(how.seed)
    names = list(files)
    chance.shuffle(names)
    old = os.umask(how.umask)
    try:
        for name in names:
            content, executable = files[name]
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            path.chmod((0o777 if executable else 0o666) & ~how.umask)
            os.utime(path, (chance.randrange(2**30),) * 2)
    finally:
        os.umask(old)


def identity(given: Input, how: Circumstances | None = None, targets: tuple[Target, ...] = (BOOKWORM,)) -> str:
    """The id of what is built from this, built for real up to it."""
    how = how or Circumstances()
    root = pathlib.Path(tempfile.mkdtemp(prefix="baton-id-"))
    really = artifact._Build._identity

    def stop(self: Any, *parts: Any) -> None:
        raise FoundError(really(self, *parts)[0])

    try:
        app, handover = (root / how.folder / name for name in ("app", "handover"))
        lay(app, given.app, how)
        lay(handover, given.handover, how)
        if how.git:
            in_git(app, how.git)
        (root / "server.txt").write_text(given.server)
        request = artifact.Request(
            app_name="demo",
            app_source=str(app),
            app_version="",
            app_source_subdir="",
            app_module="main:app",
            targets=targets,
            server_lock=root / "server.txt",
            handover_source=handover,
            base_dirs=["/"],
            options=lockfile.ResolveOptions(),
            state_dir="/var/lib/demo",
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(artifact._Build, "_identity", stop)
            with pytest.raises(FoundError) as found:
                artifact.build(dataclasses.replace(request, **given.settings), Tools(root / "cache"))
        return str(found.value)
    finally:
        shutil.rmtree(root)


def in_git(folder: pathlib.Path, how: str) -> None:
    environment = {
        **os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.org",
        "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@example.org",
    }  # fmt: skip
    steps = {
        "new": ["init"],
        "committed": ["init", "add -A", "commit -m one"],
        "another branch": ["init", "add -A", "commit -m two", "checkout -b more", "commit --allow-empty -m three"],
    }
    for step in steps[how]:
        subprocess.run(["git", *step.split()], cwd=folder, env=environment, check=True, capture_output=True)


circumstances = st.builds(
    Circumstances,
    seed=st.integers(0, 1000),
    umask=st.sampled_from([0o022, 0o077, 0o002, 0o000]),
    folder=st.sampled_from(["here", "elsewhere/very deep", "ünï"]),
)
# names that sort in more than one way
names = st.sampled_from(["a.py", "a/b.py", "a-b.py", "A.py", "lib/z.py", "z/y/x.txt", "data.bin", ".hidden"])
trees = st.dictionaries(names, st.tuples(st.binary(max_size=20), st.booleans()), max_size=5)
quick = settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@quick
@given(more=trees, one=circumstances, other=circumstances)
def test_nothing_but_the_input_makes_an_id(more: Files, one: Circumstances, other: Circumstances) -> None:
    given = Input(app={**APP, **more})
    assert identity(given, one) == identity(given, other)


@pytest.mark.parametrize("git", ["new", "committed", "another branch"])
def test_an_id_is_the_same_in_a_repository_and_out_of_one(git: str) -> None:
    assert identity(Input(), Circumstances(git=git)) == identity(Input())


@quick
@given(more=trees, data=st.data())
def test_each_change_of_a_tree_makes_another_id(more: Files, data: st.DataObject) -> None:
    which = data.draw(st.sampled_from(["app", "handover"]))
    # of the package, what its wheel is made of
    src = "" if which == "app" else "src/"
    base = {**(APP if which == "app" else HANDOVER), **{f"{src}{name}": file for name, file in more.items()}}
    kept = {"app": ("main.py", "requirements.txt"), "handover": ("pyproject.toml", "tests/test_it.py")}[which]
    name = data.draw(st.sampled_from([name for name in sorted(base) if name not in kept]))
    content, executable = base[name]
    change = data.draw(st.sampled_from(["content", "mode", "name", "removed", "added"]))
    changed = {
        "content": {**base, name: (content + b"#", executable)},
        "mode": {**base, name: (content, not executable)},
        "name": {**{one: file for one, file in base.items() if one != name}, f"{name}2": base[name]},
        "removed": {one: file for one, file in base.items() if one != name},
        "added": {**base, f"{src}new": (b"", False)},
    }[change]
    one, other = (
        Input(app=files) if which == "app" else Input(handover=files)  # the other tree is the same
        for files in (base, changed)
    )
    assert identity(one) != identity(other)


CHANGES: dict[str, Input] = {
    "nothing": Input(),
    "another version in the lock": Input(
        app={**APP, "requirements.txt": (f"idna==3.9 --hash={HASH}\n".encode(), False)}
    ),
    "another file of a locked version": Input(
        app={**APP, "requirements.txt": (f"idna==3.10 --hash=sha256:{'b' * 64}\n".encode(), False)}
    ),
    "one package more": Input(
        app={**APP, "requirements.txt": (f"idna==3.10 --hash={HASH}\nsix==1.17.0 --hash={HASH}\n".encode(), False)}
    ),
    "another server": Input(server=SERVER.replace("27.0.1", "27.0.2")),
    "another file of the server": Input(server=SERVER.replace("a" * 64, "c" * 64)),
    "one package of the server less": Input(server=SERVER.splitlines()[0] + "\n"),
    "module": Input(settings={"app_module": "main:create_app()"}),
    "import paths": Input(settings={"import_paths": ["lib"]}),
    "working directory": Input(settings={"working_directory": "lib"}),
    "a file left out": Input(settings={"excluded": ["run.sh"]}),
    "a file added": Input(settings={"files": [{"path": "a.ini", "content": "x"}]}),
    "another file added": Input(settings={"files": [{"path": "a.ini", "content": "y"}]}),
    "a program added": Input(settings={"files": [{"path": "a.ini", "content": "x", "mode": "0755"}]}),
    "a link to the state": Input(settings={"state_links": [{"path": "data"}]}),
    "to another place of it": Input(settings={"state_links": [{"path": "data", "target": "uploads"}]}),
    "to a file of it": Input(settings={"state_links": [{"path": "data", "directory": False}]}),
    "to another state": Input(settings={"state_links": [{"path": "data"}], "state_dir": "/srv/demo"}),
    "the project not installed": Input(settings={"project_wheel": False}),
    "another Python": Input(settings={"salt": "3.13"}),
}


def test_whatever_changes_what_runs_has_an_id_of_its_own() -> None:
    found = {name: identity(given) for name, given in CHANGES.items()}
    for (one, first), (other, second) in itertools.combinations(found.items(), 2):
        assert first != second, f"{one} and {other} have one id"
    assert all(len(one) == 16 and set(one) <= set("0123456789abcdef") for one in found.values())


@pytest.mark.parametrize(
    "changed",
    [
        Input(handover={**HANDOVER, "tests/test_it.py": (b"more", False), "bench/b.py": (b"", False)}),
        Input(app={**APP, "__pycache__/main.pyc": (b"x", False), "lib/helper.pyc": (b"x", False)}),
        Input(app={**APP, ".venv/x": (b"x", False), "node_modules/x": (b"x", False), ".git/x": (b"x", False)}),
        Input(server=f"# a comment\n{SERVER.splitlines()[1]}\n{SERVER.splitlines()[0]}\n"),
        Input(settings={"app_version": "2.0"}),
        Input(settings={"app_name": "other"}),
        Input(settings={"build": "builder"}),
    ],
    ids=["tests of ours", "caches", "tools' folders", "order in the server's lock", "version", "name", "who builds"],
)
def test_what_does_not_change_what_runs_has_the_same_id(changed: Input) -> None:
    assert identity(changed) == identity(Input())


@pytest.mark.parametrize(
    ("name", "value"), [("SUPPORTED", {**server_versions.SUPPORTED, "click": ">=9"}), ("_LAYOUT", artifact._LAYOUT + 1)]
)
def test_another_rule_of_ours_makes_another_id(name: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = identity(Input())
    monkeypatch.setattr(server_versions if name == "SUPPORTED" else artifact, name, value)
    assert identity(Input()) != before


def test_the_fleet_makes_no_id_but_a_host_takes_no_release_for_another_kind(tmp_path: pathlib.Path) -> None:
    """One id goes to all hosts of a fleet; on each its release is made anew when the host has become another one."""
    assert identity(Input(), targets=(BOOKWORM,)) == identity(Input(), targets=(TRIXIE, BOOKWORM))
    (tmp_path / "venv/bin").mkdir(parents=True)
    (tmp_path / "venv/bin/python").touch()
    artifact_of = {
        "id": "r1",
        "source": {"path": "/s.tar.gz"},
        "wheels": {"py3.11-x86_64-glibc2.36": {"key": "k", "path": "/w.tar"}},
    }
    here = {"python": "3.11.2", "architecture": "x86_64", "glibc": "2.36"}
    wanted = staging.StageRequest.parse(artifact_of, here, tmp_path)
    assert staging.fits({"target": "py3.11-x86_64-glibc2.36"}, tmp_path, wanted)
    for other in ("py3.12-x86_64-glibc2.36", "py3.11-aarch64-glibc2.36", "py3.11-x86_64-glibc2.41"):
        assert not staging.fits({"target": other}, tmp_path, wanted)
    (tmp_path / "venv/bin/python").unlink()
    assert not staging.fits({"target": "py3.11-x86_64-glibc2.36"}, tmp_path, wanted)
    for change in ({"python": "3.12"}, {"architecture": "aarch64"}, {"glibc": "2.41"}):
        with pytest.raises(BatonError, match="has no wheels for"):
            staging.StageRequest.parse(artifact_of, {**here, **change}, tmp_path)


def test_the_version_of_python_that_is_asked_for_enters() -> None:
    defaults = yaml.safe_load((ROOT / "roles/app_release/defaults/main.yml").read_text())
    assert "app_release_python_version" in defaults["app_release_salt"]


PROGRAM = """
import pathlib, sys
from ansible_collections.baton.web.plugins.module_utils.artifact import server_versions, source_tree, toolchain
tree = source_tree.digest(pathlib.Path(sys.argv[1]))
print(toolchain.key_of(tree, server_versions.SUPPORTED, {"b": 1, "a": {"d": 2, "c": 3}}))
"""


def test_the_seed_of_hashes_makes_no_id(tmp_path: pathlib.Path) -> None:
    lay(tmp_path, APP, Circumstances())
    words = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "collections")}
    found = {
        subprocess.run(words, env={**environment, "PYTHONHASHSEED": seed}, capture_output=True, check=True).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1
