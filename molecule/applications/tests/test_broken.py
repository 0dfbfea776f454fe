"""Versions that fail to boot, each in its own way: the deploy reports why, and the current release isn't affected."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.wait import until

from .conftest import Deployed
from .support import PYTHON, SOLO, Traffic, host

pytestmark = pytest.mark.long

UNCHANGED = ["Nothing has changed. Release", "still serves."]
UNIT = "fragile-rehearsal@"
SETTINGS = "/etc/fragile/gunicorn.conf.py"
# version: words in the deploy's output. The first three fail while the release is staged, in the import check.
BROKEN = {
    "syntax": ["SyntaxError", "main.py"],
    "dependency": ["ModuleNotFoundError: No module named 'nowhere_to_be_found'"],
    "exit": ["no licence was found"],
    "lifespan": ["did not boot", "Traceback", "main.py", "RuntimeError: no ledger at ledger.example.org", *UNCHANGED],
    "hang": ["not ready after 20 s (app_service_boot_timeout)", *UNCHANGED],
    "memory": ["it ran out of memory: MemoryMax is 300 MiB (app_service_memory_max)", *UNCHANGED],
    "database": ["did not boot", "ConnectionRefusedError: [Errno 111]", "main.py", *UNCHANGED],
    "unwell": ["it booted, but /ready answers 503: the ledger is read-only", *UNCHANGED],
}


def state(application: Deployed) -> dict[str, Any]:
    """The serving release and processes of each host."""
    return {
        name: (
            application.current(name),
            application.master(name),
            application.workers(name),
            application.get_json(name),
        )
        for name in SOLO
    }


def assert_no_leftovers(application: Deployed) -> None:
    """Assert that no unit, socket or process of a rehearsal is left."""
    for name in SOLO:
        on = host(name)
        assert on.check_output(f"systemctl list-units --all --plain --no-legend '{UNIT}*'") == ""
        assert on.check_output("systemctl list-units --failed --plain --no-legend 'fragile*'") == ""
        assert on.check_output("find /run -maxdepth 1 -name '*rehearsal*'") == ""
    until(lambda: not any(others(application, name) for name in SOLO), "other processes are left")


def others(application: Deployed, name: str) -> set[int]:
    """The application's processes that don't serve."""
    return alive(name) - {application.master(name), *application.workers(name)}


def alive(name: str) -> set[int]:
    return {int(pid) for pid in host(name).check_output("pgrep -u fragile || test $? = 1").split()}


def boots(name: str) -> list[Any]:
    """What each boot of the application recorded of its environment, oldest first."""
    return [json.loads(line) for line in host(name).check_output("cat /var/lib/fragile/boots").splitlines()]


@pytest.fixture
def broken_settings() -> Iterator[None]:
    """A gunicorn.conf.py that can't be read, on both hosts."""
    for name in SOLO:
        host(name).check_output(f"cp {SETTINGS} {SETTINGS}.good && echo 'timeout = 1 // 0' >> {SETTINGS}")
    yield
    for name in SOLO:
        host(name).check_output(f"mv {SETTINGS}.good {SETTINGS}")


@pytest.mark.parametrize("name", SOLO)
def test_systemd_verifies_rehearsal_units(fragile: Deployed, name: str) -> None:
    for unit in (f"{UNIT}{fragile.current(name)}.service", f"{UNIT}{fragile.current(name)}.socket"):
        # an unknown directive in the unit shows that the test finds what systemd reports
        canary = f"/run/canary/{unit}"
        host(name).check_output(f"mkdir -p /run/canary && (systemctl cat {unit}; echo 'Canary=1') > {canary}")
        spoiled = host(name).run(f"systemd-analyze verify {canary}").stderr
        host(name).check_output("rm -r /run/canary")
        assert [line for line in spoiled.splitlines() if unit in line and "Canary" in line]
        verified = host(name).run(f"systemd-analyze verify {unit}")
        assert [line for line in verified.stderr.splitlines() + verified.stdout.splitlines() if "fragile" in line] == []


@pytest.mark.parametrize("name", SOLO)
def test_rehearsal_has_environment_of_service(fragile: Deployed, name: str) -> None:
    release = fragile.current(name)
    rehearsed, *served = boots(name)
    assert len(served) == 2
    assert rehearsed["environment"] == {"GREETING": "hello", "TOKEN": "not-a-secret-of-anybody", "RELEASE_ID": release}
    assert rehearsed["root is read-only"]
    packages = f"lib/python{PYTHON[name]}/site-packages"
    assert f"/opt/fragile/releases/{release}/venv/{packages}" in rehearsed["path"]
    for worker in served:
        # the same release by another path
        worker["path"] = [entry.replace("/current/", f"/releases/{release}/") for entry in worker["path"]]
        assert rehearsed == worker


@pytest.mark.parametrize("version", BROKEN)
def test_broken_version_changes_nothing(fragile: Deployed, version: str) -> None:
    before = state(fragile)
    with Traffic(fragile) as traffic:
        done = fragile.play("playbooks/deploy.yml", app_version=version)
    assert done.status != 0
    for word in BROKEN[version]:
        assert word in done.words, done.output
    assert traffic.failed == {}
    assert traffic.sent > 100
    assert state(fragile) == before
    assert_no_leftovers(fragile)


def test_rehearsal_has_its_own_timeout(fragile: Deployed) -> None:
    before = state(fragile)
    done = fragile.play("playbooks/deploy.yml", app_version="hang", app_service_rehearsal_timeout=6)
    assert done.status != 0
    for word in ["it was not ready after 6 s (app_service_rehearsal_timeout)", *UNCHANGED]:
        assert word in done.words, done.output
    assert state(fragile) == before
    assert_no_leftovers(fragile)


@pytest.mark.usefixtures("fragile", "broken_settings")
def test_invalid_gunicorn_settings_change_nothing(fragile: Deployed) -> None:
    before = state(fragile)
    with Traffic(fragile) as traffic:
        done = fragile.play("playbooks/deploy.yml", app_version="better")
    assert done.status != 0
    for word in ["ZeroDivisionError", "gunicorn.conf.py", *UNCHANGED]:
        assert word in done.words, done.output
    assert traffic.failed == {}
    assert state(fragile) == before
    assert_no_leftovers(fragile)


def test_current_release_is_not_rehearsed(fragile: Deployed) -> None:
    before = {name: len(boots(name)) for name in SOLO}
    assert fragile.deploy(app_version="good").changed == [0, 0]
    assert {name: len(boots(name)) for name in SOLO} == before


def test_check_mode_boots_nothing(fragile: Deployed) -> None:
    before = {name: len(boots(name)) for name in SOLO}
    assert fragile.play("playbooks/deploy.yml", "--check", app_version="better").status == 0
    assert {name: len(boots(name)) for name in SOLO} == before


def test_deploy_removes_leftovers_of_killed_rehearsal(fragile: Deployed) -> None:
    for name in SOLO:
        unit = f"{UNIT}{fragile.current(name)}.service"
        host(name).check_output(f"systemctl start {unit}")
        # it has a time limit of its own
        assert host(name).check_output(f"systemctl show --value --property RuntimeMaxUSec {unit}") == "1min"
    with Traffic(fragile) as traffic:
        fragile.deploy(app_version="better")
    assert traffic.failed == {}
    assert {fragile.get_json(name)["version"] for name in SOLO} == {"better"}
    assert_no_leftovers(fragile)
