"""An application from a git repository with a requirements.txt: a first deploy that fails, then several versions."""

from __future__ import annotations

import pytest

from tests.support.playbooks import Done

from .conftest import Deployed
from .support import SOLO, Traffic, host

pytestmark = pytest.mark.long

TRACEBACK = ["Traceback", "main.py", "connect()", "no ledger at ledger.example.org"]


def test_failed_first_deploy_reports_cause(failed_first_deploy: Done) -> None:
    assert failed_first_deploy.status != 0
    for word in [*TRACEBACK, "Without a release, as before the change: solo1, solo2."]:
        assert word in failed_first_deploy.words, failed_first_deploy.output


@pytest.mark.usefixtures("failed_first_deploy")
def test_failed_first_deploy_leaves_nothing() -> None:
    for name in SOLO:
        on = host(name)
        assert not on.file("/opt/plain/current").exists
        assert not on.file("/opt/plain/current").is_symlink
        for unit in ("plain.socket", "plain.service", "plain-bridge.service"):
            assert on.run(f"systemctl is-active {unit}").stdout.strip() == "inactive"
        assert on.check_output("find /opt/plain/releases -mindepth 1 -maxdepth 1 -name '.*'") == ""
        assert on.check_output("pgrep -u plain || test $? = 1") == ""


@pytest.mark.parametrize("name", SOLO)
def test_first_version_is_served(plain: Deployed, name: str) -> None:
    assert plain.get_json(name) == {
        "version": "v1",
        "idna": "3.10",
        "greeting": "hello",
        "client": plain.get_json(name)["client"],
        "scheme": "https",
        "folder": f"/opt/plain/releases/{plain.current(name)}/src",
    }
    assert plain.release(name)["lock"] == "requirements.txt"
    assert plain.release(name)["version"].startswith("v1 (")


def test_deploy_loses_no_request(plain: Deployed) -> None:
    before = {name: plain.workers(name) for name in SOLO}
    with Traffic(plain) as traffic:
        plain.deploy(app_version="v2")
    assert traffic.failed == {}
    assert traffic.sent > 100
    for name in SOLO:
        assert (plain.get_json(name)["version"], plain.get_json(name)["idna"]) == ("v2", "3.11")
        assert not before[name] & plain.workers(name)


def test_version_that_cannot_boot_keeps_current_release(plain: Deployed) -> None:
    before = {name: (plain.current(name), plain.master(name), plain.workers(name)) for name in SOLO}
    with Traffic(plain) as traffic:
        done = plain.play("playbooks/deploy.yml", app_version="broken")
    assert done.status != 0
    for word in [*TRACEBACK, "failed its rehearsal", "Nothing has changed. Release", "still serves."]:
        assert word in done.words, done.output
    assert traffic.failed == {}
    assert {name: (plain.current(name), plain.master(name), plain.workers(name)) for name in SOLO} == before


def test_old_releases_are_pruned(plain: Deployed) -> None:
    served = {name: plain.current(name) for name in SOLO}
    plain.deploy(app_version="v3")
    for name in SOLO:
        assert plain.get_json(name)["version"] == "v3"
        kept = plain.releases(name)
        assert len(kept) == 2
        assert plain.current(name) in kept
        assert served[name] in kept


def test_same_version_again_changes_nothing(plain: Deployed) -> None:
    before = {name: plain.workers(name) for name in SOLO}
    assert plain.deploy(app_version="v3").changed == [0, 0]
    assert {name: plain.workers(name) for name in SOLO} == before
