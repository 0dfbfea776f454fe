"""The collection as a team uses it: packed, installed into a folder of its own, with an inventory of the team's."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

from tests.support.playbooks import PROJECT

BIN = pathlib.Path(sys.executable).parent


def run(folder: pathlib.Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command in a folder, with no setting that leads to this checkout."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "PYTHONPATH", "BATON_"))}
    return subprocess.run(
        [str(BIN / words[0]), *words[1:]],
        cwd=folder,
        env={**kept, "PATH": f"{BIN}:{os.environ['PATH']}", "ANSIBLE_FORCE_COLOR": "0", **environment},
        check=False,
        text=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )


def copy_checkout(folder: pathlib.Path) -> None:
    """Copy what is, or will be, committed."""
    names = ("ls-files", "-z", "--cached", "--others", "--exclude-standard")
    done = subprocess.run(["git", *names], cwd=PROJECT, check=True, text=True, capture_output=True)
    for name in filter(None, done.stdout.split("\0")):
        if os.path.lexists(PROJECT / name):  # or it is removed, and that isn't committed yet
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, folder / name, follow_symlinks=False)


def pack(checkout: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """The archive of the collection in a checkout."""
    done = run(checkout, "ansible-galaxy", "collection", "build", "--output-path", str(folder))
    assert done.returncode == 0, done.stderr
    (archive,) = folder.glob("baton-web-*.tar.gz")
    return archive


def install(archive: pathlib.Path, team: pathlib.Path) -> None:
    """A team's repository, made as README.md says, with the inventory of the example."""
    done = run(team, "ansible-galaxy", "collection", "install", str(archive), "-p", "collections", "--offline")
    assert done.returncode == 0, done.stderr
    shutil.copytree(team / "collections/ansible_collections/baton/web/inventories/example", team / "inventory")
    (team / "inventory/ansible.cfg").rename(team / "ansible.cfg")
