"""The program that runs background processes and commands in a release, with the service's import paths and secrets."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest
from ansible_collections.baton.web.plugins.module_utils.release import store

PROJECT = pathlib.Path(__file__).resolve().parents[3]
PROGRAM = PROJECT / "roles/app_service/files/release-exec"


class Release:
    """A release, and the credentials of the unit that runs a command in it."""

    def __init__(self, root: pathlib.Path) -> None:
        self.folder, self.credentials = root / "releases/abc", root / "credentials"
        (self.folder / "src/api").mkdir(parents=True)
        self.credentials.mkdir()
        (self.folder / "server").symlink_to(PROJECT / "handover/src")
        metadata = {"id": "abc", "working_directory": "src/api", "import_paths": ["src", "src/lib"]}
        (self.folder / "release.json").write_text(json.dumps(metadata))

    def run(self, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        with self.start(command, **environment) as process:
            output, errors = process.communicate()
            return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def start(self, command: str, **environment: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "CREDENTIALS_DIRECTORY": str(self.credentials), **environment}
        words = [sys.executable, str(PROGRAM), str(self.folder), command]
        pipe = subprocess.PIPE
        return subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment)


@pytest.fixture
def release(tmp_path: pathlib.Path) -> Release:
    return Release(tmp_path)


def test_command_has_the_secrets_as_variables(release: Release) -> None:
    (release.credentials / "TOKEN").write_text("s3cret\n")
    (release.credentials / "tls.key").write_text("not for a variable")
    done = release.run('echo "$TOKEN $QUEUE"; env', TOKEN="of the environment file", QUEUE="mail")
    assert done.stdout.startswith("s3cret mail\n"), done.stderr
    assert "not for a variable" not in done.stdout


def test_command_has_all_import_paths_in_their_order(release: Release) -> None:
    done = release.run('echo "$PYTHONPATH"; pwd; exit 3', PYTHONPATH="/elsewhere", RELEASE_ID="x", VIRTUAL_ENV="/x")
    paths, folder = done.stdout.splitlines()
    assert paths == f"{release.folder}/src:{release.folder}/src/lib"
    assert folder == f"{release.folder}/src/api"
    assert done.returncode == 3


@pytest.mark.parametrize("fault", ["NUL", "missing"])
def test_command_does_not_run_without_its_secrets(release: Release, fault: str) -> None:
    if fault == "NUL":
        (release.credentials / "TOKEN").write_bytes(b"a\0b")
    else:
        release.credentials.rmdir()
    done = release.run("echo ran")
    assert (done.returncode, done.stdout) == (1, "")
    words = (
        "The credential TOKEN contains a NUL"
        if fault == "NUL"
        else f"No such file or directory: '{release.credentials}'"
    )
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["cd /; echo begun; read line", "cd /; exec 3>/dev/null; echo begun; exec cat"])
def test_release_is_in_use_until_its_command_ends(release: Release, command: str) -> None:
    """Also by a shell script that has left the release's folder, or a program from elsewhere."""
    places = store.ReleaseStore(release.folder.parent, release.folder.parent.parent / "current", release.credentials)
    with release.start(command) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        assert store.in_use(places) == {"abc"}
        process.communicate("\n")
    assert store.in_use(places) == set()
