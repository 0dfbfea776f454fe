"""The arguments of each step of a deploy: playbooks, roles, wiring and actions are real, the hosts are fake."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.recorded_fleet import RecordedFleet
from tests.unit.playbooks.test_rollout import ARTIFACT, make_fleet, rollout  # noqa: F401

# none of them has its default, so that each must be passed on
SETTINGS: dict[str, Any] = {
    "app_account_user": "www-links",
    "app_service_health_path": "/readyz",
    "app_service_health_host": "links.example.org",
    "app_service_migration_command": "migrate",
    "app_service_migration_timeout": 50,
    "app_service_rehearsal_timeout": 70,
    "app_migrations": "blocking",
    "app_version": "v2",
    "app_port": 8010,
    "app_processes": {"worker": {"command": "work"}},
    "app_release_allow_old_packages": ["starlette"],
    "app_releases_keep": 7,
    "deploy_batches": [1, "100%"],
    "deploy_drain": True,
    "deploy_drain_timeout": 45,
    "deploy_lock_seconds": 4000,
    "deploy_lock_wait": 30,
    "deploy_bake_max_failed_percent": 2,
    "deploy_bake_max_p99_factor": 4,
    "deploy_bake_p99_floor_ms": 300,
    "nginx_site_https_port": 444,
}
PAGE = {"health_path": "/readyz", "health_host": "links.example.org"}
EDGE_LOG = {"edge": "edge1", "log": "/var/log/nginx/links-access.log"}
RELEASE = {
    "application": "links",
    "releases_dir": "/opt/links/releases",
    "state_dir": "/var/lib/baton/links",
    "artifact": ARTIFACT,
    "target": {"python": "3.11.2", "architecture": "x86_64", "glibc": "2.36"},
    "allow_old_packages": ["starlette"],
    "uv": "/var/lib/baton/bin/uv",
    "python": "/usr/bin/python3",
    "app_state_dir": "/var/lib/links",
    "app_user": "www-links",
}


@pytest.fixture
def deployed(make_fleet: Callable[..., RecordedFleet]) -> RecordedFleet:  # noqa: F811
    """A fleet after a deploy."""
    fleet = make_fleet(["app1", "app2"], ["edge1"], **SETTINGS)
    rollout(fleet, "deploy").check_status()
    return fleet


def given(fleet: RecordedFleet, module: str, **matching: Any) -> dict[str, Any]:
    """The arguments of a module's first run with at least these arguments."""
    return fleet.arguments(f"baton.web.{module}", **matching)[0]


def test_arguments_of_a_deploy(deployed: RecordedFleet) -> None:
    lock = given(deployed, "deploy_lock")
    run = lock["run"]
    assert run.keys() == {"token", "who", "process"}
    assert lock == {"name": "links", "state": "held", "run": run, "reason": "deploy v2", "seconds": 4000, "wait": 30}
    assert given(deployed, "release") == RELEASE
    migration = given(deployed, "unit")
    entry = migration["history"]["entry"]
    assert entry.pop("when") > 0
    assert migration == {
        "name": "links-migration@r2.service",
        "application": "links",
        "timeout": 110,
        "history": {"name": "links", "entry": entry},
    }
    assert entry == {
        "kind": "deploy",
        "release": "r2",
        "result": "begun",
        "migrations": "blocking",
        "who": run["who"],
        "token": run["token"],
    }
    assert given(deployed, "rehearse") == {"name": "links", "release": "r2", "timeout": 70, **PAGE}
    activation = {"name": "links", "release": "r2", "restart_workers": False, "transaction": run["token"]}
    (seconds,) = {arguments["timeout"] for arguments in deployed.arguments("baton.web.activate")}
    assert given(deployed, "activate", part="before_web") == {**activation, "part": "before_web", "timeout": seconds}
    assert given(deployed, "activate", part="web") == {
        **activation,
        **PAGE,
        "part": "web",
        "state": "active",
        "timeout": seconds,
        "health_listen": "10.0.0.1:8010",
    }


def test_arguments_of_the_edges_steps(deployed: RecordedFleet) -> None:
    # `optional` depends on facts that only preflight reads
    drains = [{**arguments, "optional": None} for arguments in deployed.arguments("baton.web.drain")]
    usual = {"site": "links", "timeout": 45, "optional": None}
    assert drains == [
        {**usual, "drained": [], "back": [], key: [address]}
        for address in ("10.0.0.1", "10.0.0.2")
        for key in ("drained", "back")
    ]
    bake, _, summary = deployed.arguments("baton.web.edge_log_info")
    before = bake["windows"].pop("before")
    assert before["until"] - before["since"] == pytest.approx(60)
    assert bake.pop("bake_since") > before["until"]
    bake.pop("optional")
    assert bake == {
        **EDGE_LOG,
        "windows": {},
        "upstreams": ["10.0.0.1:8010", "10.0.0.1:8443"],
        "upstream_names": ["app1"],
        "bake_seconds": 1.0,
        "max_failed_percent": 2,
        "max_p99_factor": 4,
        "p99_floor_ms": 300,
        "checks": {"address": "127.0.0.1:444", "host": "links.example.org", "path": "/readyz", "count": 20},
    }
    windows = summary.pop("windows")
    assert windows["before"] == before
    assert windows["during"]["since"] == before["until"]
    assert windows["during"]["until"] == windows["after"]["since"] <= windows["after"]["until"]
    assert summary == {**EDGE_LOG, "timeline": True, "bake_seconds": 0.0}


def test_arguments_of_the_end(deployed: RecordedFleet) -> None:
    finish = given(deployed, "finish")
    for text in ("receipt", "receipt_name"):
        assert finish.pop(text)
    entry = finish.pop("entry")
    run = given(deployed, "deploy_lock")["run"]
    assert finish == {"name": "links", "run": run, "serves": "r2", "keep": 7, "first_host": ""}
    assert entry.pop("when") > 0
    assert entry == {
        "kind": "deploy",
        "version": "v2",
        "result": "deployed",
        "release": "r2",
        "migrations": "blocking",
        "who": run["who"],
        "token": run["token"],
        "reason": "",
        "serves": "r2",
        "previous": "r1",
        "method": "reload",
        "processes": "",
        "seconds": 1.2,
    }


def test_release_is_imported_as_the_services_user_if_it_is_not_rehearsed(
    make_fleet: Callable[..., RecordedFleet],  # noqa: F811
) -> None:
    settings = {**SETTINGS, "app_service_rehearsal": False, "app_release_import_timeout": 33}
    fleet = make_fleet(["app1"], [], **settings)
    rollout(fleet, "deploy").check_status()
    assert fleet.arguments("baton.web.rehearse") == []
    check = {
        "user": "www-links",
        "timeout": 33,
        "environment_file": "/etc/links/environment",
        "credentials_dir": "/etc/links/secrets",
        "unit_file": "/etc/systemd/system/links.service",
    }
    assert given(fleet, "release") == {**RELEASE, "check_import": check}


def test_arguments_of_a_revert(make_fleet: Callable[..., RecordedFleet]) -> None:  # noqa: F811
    fleet = make_fleet(["app1", "app2"], ["edge1"], **{**SETTINGS, "deploy_lock_wait": 0})
    fleet.set_result("baton.web.activate", {"failed": True, "msg": "no"}, "app2", state="active", part="web")
    assert rollout(fleet, "restart", release="r1").status != 0
    # an ending run may still have the lock of another host than the first
    assert [arguments["wait"] for arguments in fleet.arguments("baton.web.deploy_lock")] == [0, 10]
    token = given(fleet, "deploy_lock")["run"]["token"]
    seconds = given(fleet, "activate", part="web")["timeout"]
    reverted = fleet.arguments("baton.web.activate", state="reverted")
    assert reverted == [
        {
            "name": "links",
            "state": "reverted",
            "transaction": token,
            "timeout": seconds,
            **PAGE,
            "health_listen": f"10.0.0.{number}:8010",
        }
        for number in (1, 2)
    ]
    # both are restored, although the second one's activation failed
    assert sorted(fleet.arguments("baton.web.drain")[-1]["back"]) == ["10.0.0.1", "10.0.0.2"]


def test_check_mode_neither_bakes_nor_reads_logs(make_fleet: Callable[..., RecordedFleet]) -> None:  # noqa: F811
    fleet = make_fleet(["app1", "app2"], ["edge1"], **SETTINGS)
    rollout(fleet, "restart", "--check", release="r1").check_status()
    assert len(fleet.arguments("baton.web.activate", part="web", state="active")) == 2
    assert fleet.arguments("baton.web.edge_log_info") == []
    (finish, _) = fleet.arguments("baton.web.finish")
    assert "serves" not in finish
