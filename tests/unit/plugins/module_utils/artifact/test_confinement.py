"""What the code of a source or a package can reach on the controller, tested with such code."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import sys
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.artifact import artifact, lockfile
from ansible_collections.baton.web.plugins.module_utils.artifact.confinement import Confinement
from ansible_collections.baton.web.plugins.module_utils.artifact.targets import Target
from ansible_collections.baton.web.plugins.module_utils.artifact.toolchain import Tools
from ansible_collections.baton.web.plugins.module_utils.host.command import BatonError

from tests.support.machine import HERE
from tests.support.playbooks import Playbooks
from tests.support.program import write_script

Write = Callable[..., pathlib.Path]
MakeRequest = Callable[..., artifact.Request]
SERVER_LOCK = pathlib.Path(__file__).parents[5] / "roles/app_release/files/server-requirements.txt"
MAIN = "async def app(scope, receive, send): ...\n"
SETTINGS = ["auto", "off"]
# collects what it can read, and ends the build with it as the message
THIEF = """
import json, os, pathlib, sys

def readable(path):
    try:
        return pathlib.Path(path).read_text()
    except OSError:
        return None

def collect(*_, **__):
    found = {"key": readable(KEY), "home": sorted(os.listdir(os.path.expanduser("~"))), "environment": dict(os.environ)}
    processes = [readable(f"/proc/{one}/environ") for one in os.listdir("/proc") if one.isdigit()]
    found["others"] = "OPERATOR_TOKEN" in "".join(filter(None, processes))
    return "FOUND" + json.dumps(found) + "END"
"""


@pytest.fixture
def key(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A private key in the operator's home, and a token in the environment."""
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    path = home / ".ssh/id_ed25519"
    path.write_text("PRIVATE")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("OPERATOR_TOKEN", "s3cret")
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
    return path


def thief(key: pathlib.Path) -> str:
    return f"KEY = {str(key)!r}\n{THIEF}\n"


def by_backend(key: pathlib.Path) -> dict[str, Any]:
    backend = '[build-system]\nrequires = []\nbuild-backend = "evil"\nbackend-path = ["."]\n'
    return {
        "main.py": MAIN,
        "requirements.txt": "-e .\n",
        "pyproject.toml": f'[project]\nname = "demo"\nversion = "1"\n{backend}',
        "evil.py": f"{thief(key)}\ndef build_wheel(*_): sys.exit(collect())\n",
    }


def by_setup(key: pathlib.Path) -> dict[str, Any]:
    return {"main.py": MAIN, "requirements.txt": "-e .\n", "setup.py": f"{thief(key)}\nsys.exit(collect())\n"}


def by_requirements_hook(key: pathlib.Path) -> dict[str, Any]:
    """A backend that runs when it is asked for its requirements, because its metadata is dynamic."""
    files = by_backend(key)
    del files["requirements.txt"]
    files["pyproject.toml"] = files["pyproject.toml"].replace('version = "1"', 'dynamic = ["version"]')
    files["evil.py"] = f"{thief(key)}\ndef get_requires_for_build_wheel(*_): sys.exit(collect())\n"
    return files


def by_command(key: pathlib.Path) -> dict[str, Any]:
    return {"main.py": MAIN, "requirements.txt": "", "build.py": f"{thief(key)}\nsys.exit(collect())\n"}


def collected(error: BatonError) -> dict[str, Any]:
    match = re.search(r"FOUND(.*)END", str(error))
    assert match, str(error)
    found: dict[str, Any] = json.loads(match[1])
    return found


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("source", [by_backend, by_setup, by_requirements_hook, by_command])
def test_build_cannot_reach_the_operators_secrets(
    source: Callable[[pathlib.Path], dict[str, Any]],
    setting: str,
    key: pathlib.Path,
    write: Write,
    make_request: MakeRequest,
    tools: Tools,
) -> None:
    own = Tools(tools.cache, confinement=Confinement(setting))
    command = ["/usr/bin/python3", "build.py"] if source is by_command else []
    with pytest.raises(BatonError) as caught:
        artifact.build(make_request(write("app", source(key)), build_command=command), own)
    found = collected(caught.value)
    assert not {"OPERATOR_TOKEN", "SSH_AUTH_SOCK"} & set(found["environment"])
    assert "s3cret" not in str(caught.value)
    assert found["environment"]["HOME"] != str(key.parents[1])
    assert ".ssh" not in found["home"]
    if own.confinement.works:
        assert found["key"] is None
        assert not found["others"]
        assert "confined by bubblewrap" in own.confinement.report()
    else:
        assert "unconfined, because " in own.confinement.report()
    assert "OPERATOR_TOKEN" in os.environ


@pytest.mark.parametrize("source", [by_backend, by_setup, by_requirements_hook, by_command])
def test_required_confinement_runs_nothing_without_bubblewrap(
    source: Callable[[pathlib.Path], dict[str, Any]],
    key: pathlib.Path,
    write: Write,
    make_request: MakeRequest,
    tools: Tools,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    own = Tools(tools.cache, confinement=Confinement("required"))
    command = ["/usr/bin/python3", "build.py"] if source is by_command else []
    with pytest.raises(BatonError) as caught:
        artifact.build(make_request(write("app", source(key)), build_command=command), own)
    assert "FOUND" not in str(caught.value)
    assert "bubblewrap is not installed" in caught.value.cause
    assert "Install bubblewrap" in caught.value.fix


def test_link_in_place_of_a_wheel_is_refused(
    key: pathlib.Path, write: Write, make_request: MakeRequest, tools: Tools
) -> None:
    files = by_backend(key)
    files["evil.py"] = (
        "import os\ndef build_wheel(folder, *_):\n"
        f"    os.symlink({str(key)!r}, os.path.join(folder, 'demo-1-py3-none-any.whl'))\n"
        "    return 'demo-1-py3-none-any.whl'\n"
    )
    with pytest.raises(BatonError, match="can't be built"):
        artifact.build(make_request(write("app", files)), tools)


@pytest.mark.parametrize("line", ["-r {}", "--index-url http://127.0.0.1:1/{}", "--find-links {}"])
def test_build_requirement_cannot_be_an_option_of_uv(
    line: str, key: pathlib.Path, write: Write, make_request: MakeRequest, tools: Tools
) -> None:
    files = by_backend(key)
    files["pyproject.toml"] = files["pyproject.toml"].replace("[]", json.dumps([line.format(key)]))
    with pytest.raises(BatonError, match="has an invalid requirement") as caught:
        artifact.build(make_request(write("app", files)), tools)
    assert "PRIVATE" not in str(caught.value)


def test_reading_a_lock_imports_no_module_beside_it(write: Write, tools: Tools, tmp_path: pathlib.Path) -> None:
    from poetry.factory import Factory

    mark = tmp_path / "ran"
    evil = f"open({str(mark)!r}, 'w')\n"
    root = write(
        "app", {"pyproject.toml": '[tool.poetry]\npackage-mode = false\n[tool.poetry.dependencies]\npython = "*"\n'}
    )
    content_hash = Factory().create_poetry(root).locker._get_content_hash()
    files = dict.fromkeys(("json.py", "cleo/__init__.py", "poetry/__init__.py", "sitecustomize.py"), evil)
    lock_text = (
        f'package = []\n[metadata]\nlock-version = "2.1"\npython-versions = "*"\ncontent-hash = "{content_hash}"\n'
    )
    write("app", {**files, "poetry.lock": lock_text})
    own = Tools(tools.cache, confinement=Confinement("off"))
    target = Target(11, "x86_64", (2, 36))
    assert lockfile.resolve(root, "", "", lockfile.ResolveOptions(), own, [target]).pins == []
    assert not mark.exists()


def test_run_reports_what_ran_and_whether_it_was_confined(
    write: Write, tools: Tools, handover: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    app = write("app", {"main.py": MAIN, "requirements.txt": ""})
    inventory, book = tmp_path / "hosts", tmp_path / "play.yml"
    inventory.write_text(f"localhost ansible_connection=local ansible_python_interpreter={sys.executable}\n")

    def output(setting: object, *options: str) -> str:
        arguments = {
            "app_name": "demo",
            "app_source": str(app),
            "app_module": "main:app",
            "server_lock": str(SERVER_LOCK),
            "handover_source": str(handover),
            "build_command": ["touch", "made"],
            "build_environment": {"MADE_FOR": f"{setting}{options}"},  # not from the cache
            "build_confinement": setting,
            "cache_dir": str(tools.cache),
            "targets": [HERE],
        }
        tasks = [{"name": "Build", "baton.web.artifact": arguments}]
        book.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]))
        done = Playbooks(inventory).play(str(book), *options)
        assert done.status == 0, done.output
        return str(done.words)

    off = output(False)  # YAML reads `off` as false
    assert "[WARNING]" in off
    assert "but unconfined, because app_release_build_confinement is off: app_release_build_command." in off
    if Confinement().works:
        assert "confined by bubblewrap: app_release_build_command." in output("required")
        assert "[WARNING]" not in output("auto")
        assert "[WARNING]" in output("auto", "--check")


def test_build_gets_only_index_credentials_and_settings(
    key: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = key.parents[1]
    (home / ".netrc").write_text(
        "machine index.example.org login me password p1\nmachine git.example.org login me password p2\n"
    )
    (home / ".netrc").chmod(0o600)
    (home / ".config/uv").mkdir(parents=True)
    (home / ".config/uv/uv.toml").write_text('index-url = "https://index.example.org/simple"\n')
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("UV_PUBLISH_TOKEN", "s3cret")
    monkeypatch.setenv("UV_INDEX_COMPANY_PASSWORD", "p3")

    def ask(command: str, index: bool) -> str:
        output: str = Confinement().run(
            ["/bin/sh", "-c", command], what="", cwd=tmp_path, environment={}, writable=[tmp_path], index=index
        )
        return output

    shown = ask("cat $HOME/.netrc $UV_CONFIG_FILE; env", True)
    assert "p1" in shown
    assert "UV_INDEX_COMPANY_PASSWORD=p3" in shown
    assert "https://index.example.org/simple" in shown
    assert "p2" not in shown
    assert "s3cret" not in shown
    assert "netrc" not in ask("ls -A $HOME", False)
    assert "p3" not in ask("env", False)


def test_reason_for_missing_confinement_is_reported(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_script(tmp_path / "bwrap", "echo 'bwrap: setting up uid map: Permission denied' >&2; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    used = Confinement()
    assert used.obstacle == "bubblewrap doesn't work here: bwrap: setting up uid map: Permission denied"
    assert used.run(["echo", "x"], what="a build", cwd=tmp_path, environment={}, writable=[]) == "x\n"
    assert used.report().endswith("Permission denied: a build. Install bubblewrap on the controller to confine it.")
