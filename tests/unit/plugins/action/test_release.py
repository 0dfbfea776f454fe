"""The staging tasks of the role, over a stand-in for ssh that runs commands locally and logs them."""

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
from tests.support.program import write_script

Build = Callable[..., Any]
SSH = """for command; do :; done
case $command in "/bin/sh -c "*) ;; *) exit 255 ;; esac  # otherwise Ansible probes what this ssh supports
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
    """A host, which is a folder of this machine."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.releases = folder / "opt/releases"
        self.upload = folder / "state/upload"
        self.log = folder / "log"
        (folder / "opt").mkdir(parents=True)
        (folder / "play.yml").write_text(PLAY)
        (folder / "hosts").write_text(f"app1 ansible_python_interpreter={sys.executable}\n")

    def stage(self, built: dict[str, Any], *options: str, fault: str = "", **variables: object) -> Done:
        """Run the staging tasks."""
        ssh = write_script(self.folder / "ssh", SSH.format(log=self.log, fault=fault))
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
        environment = {"ANSIBLE_SSH_EXECUTABLE": str(ssh), "PATH": f"{programs}:{os.environ['PATH']}"}
        playbooks = Playbooks(self.folder / "hosts", environment)
        return playbooks.play(str(self.folder / "play.yml"), *options, **{**given, **variables})

    @property
    def exchanges(self) -> list[str]:
        """What the last run did over ssh."""
        return ["upload" if "cat >" in line else "module" for line in self.log.read_text().splitlines()]

    def leftovers(self) -> list[str]:
        """The files in the upload folder."""
        return sorted(path.name for path in self.upload.iterdir()) if self.upload.exists() else []


@pytest.fixture
def host(tmp_path: pathlib.Path) -> Host:
    return Host(tmp_path / "host")


def test_only_changed_archives_are_uploaded_each_in_one_exchange(host: Host, build: Build) -> None:
    first, second = build(), build("async def app(scope, receive, send): ...\n# changed")
    large = build(f"async def app(scope, receive, send): ...\n# {random.Random(1).randbytes(300_000).hex()}")
    done = host.stage(first)
    assert done.changed == [1], done.output
    assert host.exchanges == ["module", "upload", "upload", "module"]
    done = host.stage(second)
    assert done.changed == [1], done.output
    assert host.exchanges == ["module"]
    assert host.leftovers() == []
    done = host.stage(large)
    assert done.changed == [1], done.output
    assert host.exchanges == ["module", "upload", "module"]
    assert host.upload.stat().st_mode & 0o777 == 0o700
    assert host.leftovers() == []
    (host.folder / "opt/current").symlink_to(f"releases/{first['id']}")
    done = host.stage(second, serves=first["id"])
    assert (done.status, done.changed) == (0, [0]), done.output
    assert host.exchanges == ["module"]
    assert sorted(folder.name for folder in host.releases.iterdir()) == sorted(
        built["id"] for built in (first, second, large)
    )


def test_check_mode_uploads_nothing_and_shows_the_release(host: Host, build: Build) -> None:
    built = build()
    done = host.stage(built, "--check", "--diff")
    assert (done.status, done.changed) == (0, [1]), done.output
    assert f"+{host.releases}/{built['id']}" in done.output
    assert host.exchanges == ["module"]
    assert not host.releases.exists()
    assert not host.upload.exists()


def test_full_disk_is_reported_before_the_upload(host: Host, build: Build) -> None:
    built = build()
    built["source"]["upload_bytes"] = 1 << 60
    done = host.stage(built)
    assert "app1" in done.words
    assert "MiB free. Free disk space there" in done.words, done.output
    assert host.exchanges == ["module"]
    assert not host.upload.exists()


@pytest.mark.parametrize("fault", FAULTS)
def test_broken_upload_leaves_nothing_and_the_next_run_stages(host: Host, build: Build, fault: str) -> None:
    built = build()
    done = host.stage(built, fault=FAULTS[fault])
    assert done.status == 2, done.output
    assert "can't be written on this host" in done.words
    assert host.exchanges == ["module", "upload"]
    assert host.leftovers() == []
    done = host.stage(built)
    assert done.changed == [1], done.output


def test_release_that_cannot_be_staged_leaves_no_upload(host: Host, build: Build) -> None:
    built = build("raise RuntimeError('no luck')\n")
    done = host.stage(built, app_release_import_user=getpass.getuser())
    assert done.status == 2
    assert "RuntimeError: no luck" in done.words, done.output
    assert list(host.releases.iterdir()) == []
    assert host.leftovers() == []


def test_source_that_cannot_be_written_is_reported_with_the_cause(tmp_path: pathlib.Path) -> None:
    module = plugin("modules/release")
    with pytest.raises(
        module.BatonError, match=r"app-src can't be written on this host \(No such file.*Check its disk"
    ):
        module._write(tmp_path / "gone/app-src", b"archive")


def test_uploads_of_a_killed_run_are_removed_by_the_next(host: Host, build: Build) -> None:
    built = build()
    host.stage(built)
    (host.upload / "0123").mkdir()
    (host.upload / "0123/part-src.tar.gz").write_text("half")
    (host.upload / "whole-src.tar.gz").write_text("left there by a version that had no folder for each run")
    done = host.stage(built)
    assert (done.status, done.changed) == (0, [0]), done.output
    assert host.leftovers() == []


ARCHIVE = {"src": "/cache/src.tar.gz", "dest": "/tmp/x"}


@pytest.mark.parametrize(
    ("uploads", "named", "sent"),
    [
        ([{"src": "/home/ada/.ssh/id_ed25519", "dest": "/tmp/x"}], "/home/ada/.ssh/id_ed25519", 0),
        ([ARCHIVE] * 1000, "/cache/src.tar.gz", 1),
        ([{"src": ["/cache/src.tar.gz"]}], "Nothing", 0),
        ([{}], "Nothing", 0),
        ([ARCHIVE, 5], "", 1),
        (5, "", 0),
    ],
)
def test_hosts_can_only_request_the_archives(
    uploads: object, named: str, sent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    action = plugin("action/release")
    monkeypatch.setattr("ansible.plugins.action.ActionBase.run", lambda *_: {})
    monkeypatch.setattr(action.action, "execute", lambda *_: {"archives_dir": "/tmp", "uploads": uploads})
    uploaded: list[str] = []

    class Here(action.ActionModule):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            paths = {"source": {"path": "/cache/src.tar.gz"}, "wheels": {"py3.11": {"path": "/cache/wheels.tar"}}}
            self._task = types.SimpleNamespace(args={"artifact": paths}, check_mode=False)

        def _upload(self, source: str, _: str) -> str:
            uploaded.append(source)
            return ""

    result = Here().run(None, {})
    assert result.get("msg", "") == (f"{named} was requested. {action.NO_ARCHIVE}" if named else "")
    assert result.get("failed", False) is bool(named)
    assert uploaded == ["/cache/src.tar.gz"] * sent


def test_large_archive_is_uploaded_in_pieces(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    action = plugin("action/release")
    monkeypatch.setattr(action, "PIECE", 10)
    modes = set()
    target = tmp_path / "with space" / "target"
    target.parent.mkdir()

    class Here(action.ActionModule):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            pass

        def _low_level_execute_command(self, command: str, in_data: bytes) -> dict[str, Any]:
            done = subprocess.run(["/bin/sh", "-c", command], input=in_data, capture_output=True)
            modes.add(target.stat().st_mode & 0o777)
            return {"rc": done.returncode, "stderr": done.stderr.decode()}

    (tmp_path / "source").write_bytes(bytes(range(35)))
    assert Here()._upload(str(tmp_path / "source"), str(target)) == ""
    assert target.read_bytes() == bytes(range(35))
    assert modes == {0o600}
