"""A Python other than the distribution's, for one application, installed by uv from the operator's mirror."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator

import pytest

from .conftest import Deployed
from .support import SOLO, Traffic, host

pytestmark = pytest.mark.long

# Debian 12's Python, packed as uv expects: relocatable, with its library in the same tree.
PACK = """
set -e
mkdir -p /srv/packed/python/bin /srv/packed/python/lib
cp /usr/bin/python3.11 /srv/packed/python/bin/
ln -s python3.11 /srv/packed/python/bin/python3
cp -a /usr/lib/python3.11 /srv/packed/python/lib/
find /srv/packed -type l -lname "/*" -delete
tar -C /srv/packed -czf /srv/python.tar.gz python
rm -r /srv/packed
"""
LIST = {
    f"cpython-3.11.2-linux-{platform.machine()}-gnu": {
        "name": "cpython",
        "arch": {"family": platform.machine(), "variant": None},
        "os": "linux",
        "libc": "gnu",
        "major": 3,
        "minor": 11,
        "patch": 2,
        "prerelease": "",
        "variant": None,
        "build": "1",
        "url": "file:///srv/uv/python.tar.gz",
        "sha256": None,
    }
}


@pytest.fixture(scope="module")
def changed(member: Deployed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traffic]:
    """Traffic during the deploy that gives `member` Python 3.11 also on Debian 13, whose own is 3.13."""
    folder = tmp_path_factory.mktemp("uv")
    (folder / "uv.toml").write_text('python-downloads-json-url = "/srv/uv/list.json"\n')
    (folder / "list.json").write_text(json.dumps(LIST))
    host("solo1").check_output(PACK)
    fetched = f"src=/srv/python.tar.gz dest={folder}/ flat=true"
    member.ad_hoc("solo1", "ansible.builtin.fetch", fetched).check_status()
    member.ad_hoc("solo2", "ansible.builtin.copy", f"src={folder}/ dest=/srv/uv/ mode=preserve").check_status()
    host("solo2").check_output("ln -sfn /srv/uv /etc/uv")
    with Traffic(member) as traffic:
        member.succeed("site.yml", python_runtime_version="3.11")
    yield traffic
    host("solo2").check_output("rm /etc/uv")


@pytest.mark.parametrize("name", SOLO)
@pytest.mark.usefixtures("changed")
def test_application_runs_with_requested_python(member: Deployed, name: str) -> None:
    assert member.status(name)["versions"]["python"].startswith("3.11.")
    assert member.get_json(name)["versions"]["orjson"] == "3.11.4"


@pytest.mark.parametrize(("name", "home"), [("solo1", "/usr/bin/"), ("solo2", "/var/lib/baton/python/cpython-3.11")])
@pytest.mark.usefixtures("changed")
def test_uv_python_is_used_only_if_needed(member: Deployed, name: str, home: str) -> None:
    assert host(name).check_output(f"readlink -f /proc/{member.master(name)}/exe").startswith(home)


def test_change_of_python_loses_no_request(changed: Traffic) -> None:
    assert changed.failed == {}
    assert changed.sent > 100


@pytest.mark.usefixtures("changed")
def test_second_run_changes_nothing(member: Deployed) -> None:
    assert member.succeed("site.yml", python_runtime_version="3.11").changed == [0, 0]
