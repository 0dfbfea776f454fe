"""The container's gunicorn.conf.py: the role's values, except for what only a container has."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

PROJECT = pathlib.Path(__file__).parents[3]
# set by the release and the inventory on a host, by the image and the environment in a container
OWN = {"wsgi_app", "chdir", "raw_env", "bind", "forwarded_allow_ips"}


def python(code: str, *arguments: str | pathlib.Path, **environment: str) -> dict[str, Any]:
    """The JSON output of a Python program that can import gunicorn_handover."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": str(PROJECT / "handover/src"), **environment},
        text=True,
        capture_output=True,
        check=True,
    )
    output: dict[str, Any] = json.loads(done.stdout)
    return output


def resources() -> dict[str, Any]:
    """This machine's resources, as facts of a host."""
    return python(
        "import json; from gunicorn_handover import resources; "
        "print(json.dumps({'processor_vcpus': resources.cores(), 'memtotal_mb': resources.memory_mb()}))"
    )


def read(path: pathlib.Path, **environment: str) -> dict[str, Any]:
    """The settings in a Gunicorn configuration."""
    show = (
        "import json, runpy, sys; found = runpy.run_path(sys.argv[1]); print(json.dumps({key: value for key, value in "
        "found.items() if not key.startswith('_') and isinstance(value, (str, int, float, list, type(None)))}))"
    )
    return python(show, path, **environment)


@pytest.fixture
def image(tmp_path: pathlib.Path) -> pathlib.Path:
    """The configuration as in the image: next to workers.py."""
    for name in ("app/container/gunicorn.conf.py", "plugins/module_utils/app/workers.py"):
        shutil.copy(PROJECT / name, tmp_path)
    return tmp_path / "gunicorn.conf.py"


def test_container_settings_equal_a_hosts(
    image: pathlib.Path, load_role: Callable[[str], Any], tmp_path: pathlib.Path
) -> None:
    facts = {**resources(), "service_mgr": "systemd"}
    (tmp_path / "current").mkdir()
    (tmp_path / "current/release.json").write_text(
        json.dumps({"id": "1", "module": "links.main:app", "working_directory": "src", "import_paths": []})
    )
    (tmp_path / "environment").touch()
    text = load_role("app_service").render(
        "etc/app/gunicorn.conf.py.j2", app_name="links", app_service_health_path="/readyz", ansible_facts=facts
    )
    host = tmp_path / "host.conf.py"
    host.write_text(text.replace("/opt/links/current", str(tmp_path / "current")).replace("/etc/links", str(tmp_path)))

    of_host, of_container = read(host), read(image)
    for name in OWN:
        of_host.pop(name, None)
        of_container.pop(name, None)
    assert of_container == of_host


def test_environment_overrides_settings(image: pathlib.Path) -> None:
    settings = read(image, WEB_CONCURRENCY="7", PORT="9000")
    assert (settings["workers"], settings["bind"]) == (7, "0.0.0.0:9000")


def test_empty_variable_counts_as_unset(image: pathlib.Path) -> None:
    settings = read(image, WEB_CONCURRENCY="", PORT="")
    assert settings["workers"] >= 1
    assert settings["bind"] == "0.0.0.0:8000"
