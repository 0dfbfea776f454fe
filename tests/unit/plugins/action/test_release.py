"""The task that stages, as the role has it, over a stand-in for ssh that runs commands here and notes each."""

from __future__ import annotations

import getpass
import os
import pathlib
import random
import subprocess
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest

from tests.support import systemd_run
from tests.support.machine import HERE
from tests.support.playbooks import Done, Playbooks, plugin

Build = Callable[..., Any]
SSH = """#!/bin/sh
for command; do :; done
case $command in "/bin/sh -c "*) ;; *) exit 255 ;; esac  # else Ansible asks what this ssh can do
echo "$command" >> {log}
case $command in *"cat >"*) {fault} ;; esac
exec sh -c "$command"
"""
FAULTS = {
    "a full disk": "ulimit -f 0",
    "a connection that breaks": 'head -c 100 | sh -c "$command"; exit',
}
PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.include_role: {name: baton.web.app_release, tasks_from: stage}
    - ansible.builtin.assert: {that: app_release_staged.current == serves, quiet: true}
"""


class Host:
    """A host, which is a folder here."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.releases = folder / "opt/releases"
        self.upload = folder / "state/upload"
        self.log = folder / "log"
        (folder / "opt").mkdir(parents=True)
        (folder / "play.yml").write_text(PLAY)
        (folder / "hosts").write_text(f"app1 ansible_python_interpreter={sys.executable}\n")

    def stage(self, built: dict[str, Any], *options: str, fault: str = "", **variables: object) -> Done:
        """Run the task."""
        ssh = self.folder / "ssh"
        ssh.write_text(SSH.format(log=self.log, fault=fault))
        ssh.chmod(0o755)
        self.log.write_text("")
        given = {
            "app_name": "demo",
            "app_release_artifact": built,
            "app_release_target": HERE,
            "app_release_dir": str(self.releases),
            "app_release_state_dir": str(self.folder / "state"),
            "app_release_app_state_dir": str(self.folder / "app"),
            "app_release_uv": str(pathlib.Path(sys.executable).with_name("uv")),
            "app_release_python": sys.executable,
            "serves": None,
        }
        programs = self.folder / "bin"
        programs.mkdir(exist_ok=True)
        systemd_run.install(programs)
        surroundings = {"ANSIBLE_SSH_EXECUTABLE": str(ssh), "PATH": f"{programs}:{os.environ['PATH']}"}
        playbooks = Playbooks(self.folder / "hosts", surroundings)
        return playbooks.play(str(self.folder / "play.yml"), *options, **{**given, **variables})

    @property
    def exchanges(self) -> list[str]:
        """What the last task did over ssh."""
        return ["upload" if "cat >" in line else "module" for line in self.log.read_text().splitlines()]

    def uploads(self) -> list[str]:
        """What lies there of uploads."""
        return sorted(path.name for path in self.upload.iterdir()) if self.upload.exists() else []


@pytest.fixture
def host(tmp_path: pathlib.Path) -> Host:
    return Host(tmp_path / "host")


def test_a_change_of_code_takes_one_round_trip_and_what_is_large_one_more_for_each_archive(
    host: Host, build: Build
) -> None:
    first, second = build(), build("async def app(scope, receive, send): ...\n# changed")
    large = build(f"async def app(scope, receive, send): ...\n# {random.Random(1).randbytes(300_000).hex()}")
    done = host.stage(first)
    assert done.changed == [1], done.output
    assert host.exchanges == ["module", "upload", "upload", "module"]
    done = host.stage(second)
    assert done.changed == [1], done.output
    assert host.exchanges == ["module"]
    assert host.uploads() == []
    done = host.stage(large)
    assert done.changed == [1], done.output
    assert host.exchanges == ["module", "upload", "module"]
    assert host.upload.stat().st_mode & 0o777 == 0o700
    assert host.uploads() == []
    (host.folder / "opt/current").symlink_to(f"releases/{first['id']}")
    done = host.stage(second, serves=first["id"])
    assert (done.status, done.changed) == (0, [0]), done.output
    assert host.exchanges == ["module"]
    assert sorted(folder.name for folder in host.releases.iterdir()) == sorted(
        built["id"] for built in (first, second, large)
    )


def test_a_check_uploads_nothing_and_says_what_it_would_make(host: Host, build: Build) -> None:
    built = build()
    done = host.stage(built, "--check", "--diff")
    assert (done.status, done.changed) == (0, [1]), done.output
    assert f"+{host.releases}/{built['id']}" in done.output
    assert host.exchanges == ["module"]
    assert not host.releases.exists()
    assert not host.upload.exists()


def test_a_disk_without_room_is_said_before_anything_is_uploaded(host: Host, build: Build) -> None:
    built = build()
    built["source"]["upload_bytes"] = 1 << 60
    done = host.stage(built)
    assert "app1" in done.words
    assert "MiB free. Free disk space there" in done.words, done.output
    assert host.exchanges == ["module"]
    assert not host.upload.exists()


@pytest.mark.parametrize("fault", FAULTS)
def test_an_upload_that_breaks_leaves_nothing_and_the_next_run_stages(host: Host, build: Build, fault: str) -> None:
    built = build()
    done = host.stage(built, fault=FAULTS[fault])
    assert done.status == 2, done.output
    assert "can't be written on this host" in done.words
    assert host.exchanges == ["module", "upload"]
    assert host.uploads() == []
    done = host.stage(built)
    assert done.changed == [1], done.output


def test_a_release_that_cannot_be_made_leaves_no_upload(host: Host, build: Build) -> None:
    built = build("raise RuntimeError('no luck')\n")
    done = host.stage(built, app_release_import_user=getpass.getuser())
    assert done.status == 2
    assert "RuntimeError: no luck" in done.words, done.output
    assert list(host.releases.iterdir()) == []
    assert host.uploads() == []


def test_a_source_that_cannot_be_written_is_told_with_the_cause(tmp_path: pathlib.Path) -> None:
    module = plugin("modules/release")
    with pytest.raises(
        module.BatonError, match=r"app-src can't be written on this host \(No such file.*Check its disk"
    ):
        module._write(tmp_path / "gone/app-src", b"archive")


def test_what_a_killed_run_uploaded_goes_with_the_next(host: Host, build: Build) -> None:
    built = build()
    host.stage(built)
    (host.upload / "0123").mkdir()
    (host.upload / "0123/part-src.tar.gz").write_text("half")
    (host.upload / "whole-src.tar.gz").write_text("left there by a version that had no folder for each run")
    done = host.stage(built)
    assert (done.status, done.changed) == (0, [0]), done.output
    assert host.uploads() == []


def test_a_host_gets_no_other_file_of_the_controller(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    action = plugin("action/release")
    monkeypatch.setattr("ansible.plugins.action.ActionBase.run", lambda *_: {})
    asked = {"src": str(tmp_path / "id_ed25519"), "dest": "/tmp/x"}
    monkeypatch.setattr(action.action, "execute", lambda *_: {"archives_dir": "/tmp", "uploads": [asked]})

    class Here(action.ActionModule):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            paths = {"source": {"path": "/cache/src.tar.gz"}, "wheels": {"py3.11": {"path": "/cache/wheels.tar"}}}
            self._task = types.SimpleNamespace(args={"artifact": paths}, check_mode=False)

        def _upload(self, *_: str) -> str:
            raise AssertionError("uploaded")

    told = Here().run(None, {})
    assert told["failed"]
    assert told["msg"] == f"{asked['src']} was requested. {action.NO_ARCHIVE}"


def test_a_large_archive_goes_in_pieces(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    action = plugin("action/release")
    monkeypatch.setattr(action, "PIECE", 10)
    modes = set()
    there = tmp_path / "with space" / "there"
    there.parent.mkdir()

    class Here(action.ActionModule):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            pass

        def _low_level_execute_command(self, command: str, in_data: bytes) -> dict[str, Any]:
            done = subprocess.run(["/bin/sh", "-c", command], input=in_data, capture_output=True)
            modes.add(there.stat().st_mode & 0o777)
            return {"rc": done.returncode, "stderr": done.stderr.decode()}

    (tmp_path / "here").write_bytes(bytes(range(35)))
    assert Here()._upload(str(tmp_path / "here"), str(there)) == ""
    assert there.read_bytes() == bytes(range(35))
    assert modes == {0o600}
