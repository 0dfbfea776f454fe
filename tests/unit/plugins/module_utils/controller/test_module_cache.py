"""A module is uploaded to a host and compiled there once; with a broken cache, it still runs."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
import os
import pathlib
import subprocess
import sys
import types
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
from ansible.plugins.action import ActionBase
from ansible_collections.baton.web.plugins.module_utils.controller import module_cache, module_cache_host

from tests.support.playbooks import Playbooks

MODULE = """#!/usr/bin/python
from ansible.module_utils.basic import AnsibleModule

def main():
    module = AnsibleModule(argument_spec={"word": {"type": "str"}}, supports_check_mode=True)
    module.exit_json(changed=False, word=module.params["word"], file=__file__)

main()
"""
WORD = "\nzip_data='AAAA'\n"  # looks like the archive in Ansible's script, but isn't


@dataclasses.dataclass(frozen=True)
class Host:
    """A host's cache folder, and Ansible's script for a module."""

    folder: pathlib.Path
    script: bytes

    def run(self, *, sends: bool, reserve: str = "0") -> dict[str, Any]:
        """Run the module as a host would, in a home folder with modules that must not be imported."""
        script = module_cache.cached("echo", self.script, sends=sends)
        script = script.replace(module_cache_host.FOLDER.encode(), str(self.folder).encode())
        script = script.replace(b"100 * 1024 * 1024", reserve.encode())
        home = self.folder.parent / "home"
        home.mkdir(exist_ok=True)
        for name in ("base64", "hashlib", "json", "compileall", "py_compile", "tempfile", "zipfile"):
            (home / f"{name}.py").write_text("raise RuntimeError('not the real one')")
        done = subprocess.run([sys.executable], input=script, capture_output=True, check=False, cwd=home)
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def kept(self) -> list[pathlib.Path]:
        """The files in the cache."""
        return sorted(self.folder.iterdir())


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The script that Ansible sends for the module."""
    folder = tmp_path_factory.mktemp("packed")
    (folder / "echo.py").write_text(MODULE)
    environment = {
        "ANSIBLE_LIBRARY": str(folder),
        "ANSIBLE_KEEP_REMOTE_FILES": "1",
        "ANSIBLE_REMOTE_TMP": str(folder / "tmp"),
    }
    tasks = [{"echo": {"word": WORD}}]
    runner, playbook = Playbooks.written(folder, {"tasks": tasks}, environment=environment)
    runner.succeed(playbook)
    (path,) = folder.glob("tmp/*/AnsiballZ_echo.py")
    return path.read_bytes()


@pytest.fixture
def host(tmp_path: pathlib.Path, script: bytes) -> Host:
    """A host with an empty cache."""
    (tmp_path / "modules").mkdir()
    return Host(tmp_path / "modules", script)


def test_module_is_uploaded_once(host: Host) -> None:
    assert host.run(sends=False)[module_cache_host.LACKING]
    first = host.run(sends=True)
    assert first["word"] == WORD
    assert [path.name.partition("-")[0] for path in host.kept()] == ["echo"]
    again = host.run(sends=False)
    assert (again["word"], module_cache_host.LACKING in again) == (first["word"], False)
    assert len(module_cache.cached("echo", host.script, sends=False)) < len(host.script) / 8


def test_module_is_compiled_once(host: Host) -> None:
    host.run(sends=True)
    with zipfile.ZipFile(host.kept()[0]) as archive:
        names = set(archive.namelist())
    sources = {name for name in names if name.endswith(".py")}
    assert {f"{name}c" for name in sources} == names - sources
    # modules know which file of the archive they were loaded from
    assert host.run(sends=False)["file"].endswith(".pyc")


def test_bytecode_of_another_python_is_ignored(host: Host) -> None:
    host.run(sends=True)
    path = host.kept()[0]
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, b"old!" + data[4:] if name.endswith(".pyc") else data)
    path.write_bytes(hashlib.sha256(packed.getvalue()).hexdigest().encode() + b"\n" + packed.getvalue())
    assert host.run(sends=False)["file"].endswith(".py")


def test_host_without_the_folder_caches_nothing(host: Host) -> None:
    host.folder.rmdir()
    assert host.run(sends=True)["word"] == WORD
    assert host.run(sends=False)[module_cache_host.LACKING]
    assert not host.folder.exists()


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "nothing left": lambda _: b"",
    "half of it": lambda sound: sound[: len(sound) // 2],
    "a byte changed": lambda sound: sound[:-99] + bytes([sound[-99] ^ 1]) + sound[-98:],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_file_is_uploaded_again(host: Host, damage: Callable[[bytes], bytes]) -> None:
    host.run(sends=True)
    path = host.kept()[0]
    sound = path.read_bytes()
    path.write_bytes(damage(sound))
    assert host.run(sends=False)[module_cache_host.LACKING]
    host.run(sends=True)
    assert host.run(sends=False)["word"] == WORD


def test_folder_that_others_can_write_is_not_used(host: Host) -> None:
    host.run(sends=True)
    host.folder.chmod(0o777)
    assert host.run(sends=False)[module_cache_host.LACKING]
    host.kept()[0].unlink()
    assert host.run(sends=True)["word"] == WORD
    assert host.kept() == []


def test_full_disk_caches_nothing(host: Host) -> None:
    assert host.run(sends=True, reserve="1 << 60")["word"] == WORD
    assert host.kept() == []


def test_unwritable_file_leaves_nothing(host: Host) -> None:
    host.run(sends=True)
    (path,) = host.kept()
    path.unlink()
    (path / "in the way").mkdir(parents=True)
    assert host.run(sends=True)["word"] == WORD
    assert host.kept() == [path]


def test_old_files_are_removed(host: Host) -> None:
    for age in range(module_cache_host.KEPT + 1):
        for name in (f"echo-{age}", f"another-{age}"):
            (host.folder / name).touch()
            os.utime(host.folder / name, (1_700_000_000 - age,) * 2)
    host.run(sends=True)
    kept = {path.name for path in host.kept()}
    assert {name for name in kept if len(name) < 20} == {
        *(f"echo-{age}" for age in range(module_cache_host.KEPT - 1)),
        *(f"another-{age}" for age in range(module_cache_host.KEPT + 1)),
    }
    assert host.run(sends=False)["word"] == WORD


def test_digest_ignores_the_time_of_packing() -> None:
    def archive(year: int, content: str) -> bytes:
        done = io.BytesIO()
        with zipfile.ZipFile(done, "w") as file:
            file.writestr(zipfile.ZipInfo("a.py", (year, 1, 1, 0, 0, 0)), content)
        return base64.b64encode(done.getvalue())

    assert module_cache.digest(archive(2025, "a = 1")) == module_cache.digest(archive(2026, "a = 1"))
    assert module_cache.digest(archive(2025, "a = 1")) != module_cache.digest(archive(2025, "a = 2"))


@pytest.mark.parametrize("script", [b"#!/bin/sh\necho\n", b"\nzip_data='AAAA',\n"])
def test_unknown_script_is_unchanged(script: bytes) -> None:
    assert module_cache.cached("echo", script, sends=True) == script


@dataclasses.dataclass(frozen=True)
class Built:
    """The part of Ansible's class that the action uses."""

    b_module_data: bytes


class Action(module_cache.CachedModuleAction):
    """An action whose host never caches; `sent` are the scripts that it received."""

    def __init__(self, host: Host, user: str = "root", transport: str = "ssh", *, check_mode: bool = False) -> None:
        self._connection = types.SimpleNamespace(transport=transport, become=user)
        self._task = types.SimpleNamespace(check_mode=check_mode)
        self.host = host
        self.sent: list[bytes] = []

    def get_become_option(self, _option: str, _default: Any = None) -> Any:
        return self._connection.become

    def run(self, *_: Any, **__: Any) -> dict[str, Any]:
        result: dict[str, Any] = self._execute_module()
        return result


@pytest.fixture
def ansible(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces Ansible's part: a host that lacks every module that isn't uploaded."""

    def configure(action: Action, *_: Any) -> tuple[Built, str]:
        return Built(action.host.script), "echo.py"

    def execute(action: Action) -> dict[str, Any]:
        built, _ = action._configure_module("echo", {}, {})
        action.sent.append(built.b_module_data)
        return {module_cache_host.LACKING: True} if b"zip_data=recall(" in built.b_module_data else {"word": "done"}

    monkeypatch.setattr(ActionBase, "_configure_module", configure)
    monkeypatch.setattr(ActionBase, "_execute_module", execute)


@pytest.mark.usefixtures("ansible")
class TestAction:
    """Which script is sent, and when."""

    def test_missing_module_is_uploaded_each_time(self, host: Host) -> None:
        action = Action(host)
        assert [action.run(), action.run()] == [{"word": "done"}] * 2
        assert [b"zip_data=keep(" in script for script in action.sent] == [False, True, False, True]

    def test_check_mode_caches_nothing(self, host: Host) -> None:
        action = Action(host, check_mode=True)
        assert action.run() == {"word": "done"}
        assert action.sent[1:] == [host.script]

    @pytest.mark.parametrize(("user", "transport"), [("deploy", "ssh"), ("root", "local")])
    def test_user_or_connection_without_a_cache_gets_the_plain_script(
        self, host: Host, user: str, transport: str
    ) -> None:
        action = Action(host, user, transport)
        assert action.run() == {"word": "done"}
        assert action.sent == [host.script]
