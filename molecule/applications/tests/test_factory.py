"""A factory locked by Poetry: settings, additions to its source, writable folders, and its server's versions."""

from __future__ import annotations

import json

import pytest

from .conftest import Deployed
from .support import PYTHON, SOLO, host


@pytest.mark.parametrize("name", SOLO)
def test_settings_and_secrets_are_passed_unchanged(factory: Deployed, name: str) -> None:
    key = '-----BEGIN KEY-----\n"first" $line\n  second\\line\n-----END KEY-----\n'
    answer = factory.get_json(name)
    assert answer["environment"] == {
        "QUOTES": 'it\'s "quoted" \\ $HOME %n `id` #1',
        "SPACES": "  two before, one after ",
        "UNICODE": "Füße ✓",
        "NUMBER": "7",
        "SWITCH": "true",
        "EMPTY": "",
        # like `$(cat file)`, a variable's value lacks the file's final newline
        "SIGNING_KEY": key.removesuffix("\n"),
    }
    assert answer["signing key"] == key


@pytest.mark.parametrize("name", SOLO)
def test_factory_gets_its_arguments(factory: Deployed, name: str) -> None:
    assert factory.get_json(name)["title"] == "Shop & Söhne"


@pytest.mark.parametrize("name", SOLO)
def test_source_settings_are_applied(factory: Deployed, name: str) -> None:
    answer = factory.get_json(name)
    assert answer["built"] == "built by the controller"
    assert (answer["region"], answer["legacy"]) == ("EU", 42)
    assert "static/style.css" in answer["files"]
    assert not [file for file in answer["files"] if file.endswith(".psd") or file.startswith("notes/")]


@pytest.mark.parametrize("name", SOLO)
def test_written_files_are_in_state_folder(factory: Deployed, name: str) -> None:
    assert factory.get_json(name)["boots"] == "/var/lib/factory/var/boots.txt"
    assert host(name).file("/var/lib/factory/var").user == "factory"


@pytest.mark.parametrize("name", SOLO)
def test_package_without_wheel_is_compiled(factory: Deployed, name: str) -> None:
    assert factory.get_json(name)["interfaces"] is True


@pytest.mark.parametrize("name", SOLO)
def test_extra_requirements_respect_bounds(factory: Deployed, name: str) -> None:
    assert [int(part) for part in factory.get_json(name)["humanize"].split(".")[:2]] < [4, 13]


@pytest.mark.parametrize("name", SOLO)
def test_old_server_is_replaced_only_for_web_service(factory: Deployed, name: str) -> None:
    serving = factory.get_json(name)["uvicorn"]
    assert serving == factory.status(name)["versions"]["uvicorn"] != "0.23.2"
    python = f"/opt/factory/current/venv/bin/python{PYTHON[name]}"
    assert host(name).check_output(f"{python} -c 'import uvicorn; print(uvicorn.__version__)'") == "0.23.2"


@pytest.mark.parametrize("name", SOLO)
def test_bill_of_materials_lists_installed_packages_with_hashes(factory: Deployed, name: str) -> None:
    answer = json.loads(host(name).file("/opt/factory/current/bom.cdx.json").content_string)
    parts = {(one["name"], part["value"]): one for one in answer["components"] for part in one["properties"]}
    assert parts["uvicorn", "venv"]["version"] == "0.23.2"
    assert parts["uvicorn", "server"]["version"] == factory.status(name)["versions"]["uvicorn"]
    assert {("shop", "project"), ("netifaces", "venv"), ("gunicorn-handover", "server")} <= set(parts)
    assert all(len(one["hashes"][0]["content"]) == 64 for one in parts.values())


def test_old_package_is_deployed_only_if_allowed(factory: Deployed) -> None:
    assert "starlette 0.47.3, older than 1.3.1" in factory.first.words
    before = {name: factory.current(name) for name in SOLO}
    done = factory.play("playbooks/deploy.yml", app_release_allow_old_packages=[])
    assert done.status != 0
    for word in (
        "poetry.lock (read on the controller)",
        "starlette 0.47.3",
        "app_release_allow_old_packages: [starlette]",
    ):
        assert word in done.words, done.output
    assert {name: factory.current(name) for name in SOLO} == before


def test_hosts_keep_no_build_files(factory: Deployed) -> None:
    look = "find /var/lib/baton -path '/var/lib/baton/build/*'"
    for name in SOLO:
        canary = "/var/lib/baton/build/canary"
        assert host(name).check_output(f"mkdir -p /var/lib/baton/build; touch {canary}; {look}; rm {canary}") == canary
    assert factory.deploy().changed == [0, 0]
    for name in SOLO:
        assert host(name).check_output(look) == ""
