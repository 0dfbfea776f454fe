"""The collection as a team uses it: packed, and installed into a folder with the team's own inventory."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

from tests.support.playbooks import PROJECT

BIN = pathlib.Path(sys.executable).parent


def run(folder: pathlib.Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, without environment variables that refer to this checkout."""
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
    """Copy the files that git tracks or would add."""
    names = ("ls-files", "-z", "--cached", "--others", "--exclude-standard")
    done = subprocess.run(["git", *names], cwd=PROJECT, check=True, text=True, capture_output=True)
    for name in filter(None, done.stdout.split("\0")):
        if os.path.lexists(PROJECT / name):  # git also lists deleted files until the deletion is committed
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, folder / name, follow_symlinks=False)


def pack(checkout: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """Build the collection's archive from a checkout; return its path."""
    done = run(checkout, "ansible-galaxy", "collection", "build", "--output-path", str(folder))
    assert done.returncode == 0, done.stderr
    (archive,) = folder.glob("baton-web-*.tar.gz")
    return archive


def install(archive: pathlib.Path, team: pathlib.Path) -> None:
    """Set up a team's repository as README.md describes, with the example inventory."""
    done = run(team, "ansible-galaxy", "collection", "install", str(archive), "-p", "collections", "--offline")
    assert done.returncode == 0, done.stderr
    shutil.copytree(team / "collections/ansible_collections/baton/web/inventories/example", team / "inventory")
    (team / "inventory/ansible.cfg").rename(team / "ansible.cfg")
