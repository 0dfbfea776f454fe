"""The program that runs background processes and commands in a release, with the service's import paths and secrets."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest

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
        environment = {"CREDENTIALS_DIRECTORY": str(self.credentials), **environment}
        words = [sys.executable, str(PROGRAM), str(self.folder), command]
        return subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, **environment})


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
