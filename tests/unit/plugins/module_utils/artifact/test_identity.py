"""The id of a release: it changes with everything that affects what runs, and with nothing else."""

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

# a file's content, and whether it is executable
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
    """Everything that a release is made from."""

    app: Files = dataclasses.field(default_factory=lambda: APP)
    handover: Files = dataclasses.field(default_factory=lambda: HANDOVER)
    server: str = SERVER
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class FoundError(Exception):
    """The build has calculated the id; the rest would need packages."""


@dataclasses.dataclass(frozen=True)
class Circumstances:
    """Circumstances that must not affect a release."""

    seed: int = 0  # for the order in which files are created, and their times
    umask: int = 0o022
    folder: str = "here"
    git: str = ""  # none, "new", "committed" or "another branch"


def write_files(folder: pathlib.Path, files: Files, how: Circumstances) -> None:
    """Write files into a folder."""
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
    """The id of a release, by a real build that stops once it is known."""
    how = how or Circumstances()
    root = pathlib.Path(tempfile.mkdtemp(prefix="baton-id-"))
    real_identity = artifact._Build._identity

    def stop(self: Any, *parts: Any) -> None:
        raise FoundError(real_identity(self, *parts)[0])

    try:
        app, handover = (root / how.folder / name for name in ("app", "handover"))
        write_files(app, given.app, how)
        write_files(handover, given.handover, how)
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
# names with different sort orders
names = st.sampled_from(["a.py", "a/b.py", "a-b.py", "A.py", "lib/z.py", "z/y/x.txt", "data.bin", ".hidden"])
trees = st.dictionaries(names, st.tuples(st.binary(max_size=20), st.booleans()), max_size=5)
quick = settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@quick
@given(more=trees, one=circumstances, other=circumstances)
def test_id_depends_only_on_the_input(more: Files, one: Circumstances, other: Circumstances) -> None:
    given = Input(app={**APP, **more})
    assert identity(given, one) == identity(given, other)


@pytest.mark.parametrize("git", ["new", "committed", "another branch"])
def test_id_is_the_same_inside_and_outside_a_repository(git: str) -> None:
    assert identity(Input(), Circumstances(git=git)) == identity(Input())


@quick
@given(more=trees, data=st.data())
def test_each_change_of_a_tree_changes_the_id(more: Files, data: st.DataObject) -> None:
    which = data.draw(st.sampled_from(["app", "handover"]))
    # in the handover package, the wheel is only made from src
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


def test_each_change_of_what_runs_has_its_own_id() -> None:
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
    ids=["handover's tests", "caches", "tools' folders", "order in the server's lock", "version", "name", "builder"],
)
def test_other_changes_keep_the_id(changed: Input) -> None:
    assert identity(changed) == identity(Input())


@pytest.mark.parametrize(
    ("name", "value"), [("SUPPORTED", {**server_versions.SUPPORTED, "click": ">=9"}), ("_LAYOUT", artifact._LAYOUT + 1)]
)
def test_changed_rules_of_the_build_change_the_id(name: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = identity(Input())
    monkeypatch.setattr(server_versions if name == "SUPPORTED" else artifact, name, value)
    assert identity(Input()) != before


def test_fleet_does_not_change_the_id_but_hosts_check_their_target(tmp_path: pathlib.Path) -> None:
    """All hosts get the same id; a host whose Python or glibc changed stages the release again."""
    assert identity(Input(), targets=(BOOKWORM,)) == identity(Input(), targets=(TRIXIE, BOOKWORM))
    (tmp_path / "venv/bin").mkdir(parents=True)
    (tmp_path / "venv/bin/python").touch()
    built = {
        "id": "r1",
        "source": {"path": "/s.tar.gz"},
        "wheels": {"py3.11-x86_64-glibc2.36": {"key": "k", "path": "/w.tar"}},
    }
    facts = {"python": "3.11.2", "architecture": "x86_64", "glibc": "2.36"}
    wanted = staging.StageRequest.parse(built, facts, tmp_path)
    assert staging.fits({"target": "py3.11-x86_64-glibc2.36"}, tmp_path, wanted)
    for other in ("py3.12-x86_64-glibc2.36", "py3.11-aarch64-glibc2.36", "py3.11-x86_64-glibc2.41"):
        assert not staging.fits({"target": other}, tmp_path, wanted)
    (tmp_path / "venv/bin/python").unlink()
    assert not staging.fits({"target": "py3.11-x86_64-glibc2.36"}, tmp_path, wanted)
    for change in ({"python": "3.12"}, {"architecture": "aarch64"}, {"glibc": "2.41"}):
        with pytest.raises(BatonError, match="has no wheels for"):
            staging.StageRequest.parse(built, {**facts, **change}, tmp_path)


def test_requested_python_version_is_part_of_the_salt() -> None:
    defaults = yaml.safe_load((ROOT / "roles/app_release/defaults/main.yml").read_text())
    assert "app_release_python_version" in defaults["app_release_salt"]


PROGRAM = """
import pathlib, sys
from ansible_collections.baton.web.plugins.module_utils.artifact import server_versions, source_tree, toolchain
tree = source_tree.digest(pathlib.Path(sys.argv[1]))
print(toolchain.key_of(tree, server_versions.SUPPORTED, {"b": 1, "a": {"d": 2, "c": 3}}))
"""


def test_hash_seed_does_not_change_the_digests(tmp_path: pathlib.Path) -> None:
    write_files(tmp_path, APP, Circumstances())
    words = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "collections")}
    found = {
        subprocess.run(words, env={**environment, "PYTHONHASHSEED": seed}, capture_output=True, check=True).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1
