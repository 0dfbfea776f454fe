"""What a rollout asks of which host, in which order: the project's playbooks on hosts that answer as they are told."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.noted_fleet import FACTS, SWITCHED, NotedFleet
from tests.support.playbooks import Done

KINDS: dict[str, dict[str, Any]] = {
    "deploy": {"configure": False, "stage": True, "restart_workers": False},
    "configure": {"configure": True, "stage": False, "restart_workers": False},
    "restart": {"configure": False, "stage": False, "restart_workers": True},
    "rollback": {"configure": False, "stage": False, "restart_workers": False},
}

# what phases/artifact.yml leaves
ARTIFACT: dict[str, Any] = {"id": "r2", "complete": True, "wheels": {}, "release": {"version": "v2"}}
ARTIFACT |= {"source": {"path": "/nowhere/r2-src.tar.gz"}}


@pytest.fixture
def fleet(tmp_path: pathlib.Path) -> Callable[..., NotedFleet]:
    """Hosts on which everything succeeds, of app servers and load balancers."""

    def make(app_servers: list[str], load_balancers: list[str], **variables: Any) -> NotedFleet:
        groups = {"app_servers": app_servers, "load_balancers": load_balancers}
        made = NotedFleet(tmp_path, groups, **{"deploy_bake_seconds": 1} | variables)
        made.answer("baton.web.host_facts", {"ansible_facts": FACTS})
        made.answer("baton.web.deploy_lock", {"changed": True, "history": {}})
        made.answer("baton.web.release", {"changed": True, "current": "r1", "release": {"id": "r2"}})
        made.answer("baton.web.rehearse", {"rehearsed": True})
        made.answer("baton.web.activate", {"rehearsed": True}, state="rehearsed")
        made.answer("baton.web.activate", SWITCHED, state="active")
        made.answer("baton.web.activate", SWITCHED | {"release": "r1", "previous": "r2"}, state="reverted")
        made.answer("baton.web.edge_log_info", {"verdict": {"ok": True, "message": "fine."}, "windows": {}})
        made.answer("baton.web.finish", {"changed": True, "removed": [], "trouble": "", "left": []})
        return made

    return make


def rollout(fleet: NotedFleet, kind: str, *options: str, **more: Any) -> Done:
    change = {"kind": kind, **KINDS[kind], **more}
    return fleet.play("phases/rollout.yml", *options, baton_change=change, app_release_built={"artifact": ARTIFACT})


def test_deploy_runs_its_steps_in_order(fleet: Callable[..., NotedFleet]) -> None:
    """Each batch is drained, activated, restored and baked on every edge before the next; the migration runs once."""
    three = fleet(
        ["app1", "app2", "app3"],
        ["edge1", "edge2"],
        deploy_batches=[1, "100%"],
        deploy_drain=True,
        app_service_migration_command="migrate",
    )
    rollout(three, "deploy").check_status()
    first, rest = "10.0.0.1:8000", "10.0.0.2:8000 10.0.0.3:8000"
    assert three.steps == [
        *(f"app{number} deploy_lock held" for number in (1, 2, 3)),
        *(f"app{number} release r2" for number in (1, 2, 3)),
        "app1 unit links-migration@r2.service",
        "app1 rehearse r2",
        *(f"{edge} drain {first}" for edge in ("edge1", "edge2")),
        "app1 activate active r2",
        # the next batch is rehearsed while the first is activated
        "app2 activate rehearsed r2",
        "app3 activate rehearsed r2",
        *(f"{edge} drain restore {first}" for edge in ("edge1", "edge2")),
        *(f"{edge} edge_log_info bake {first}" for edge in ("edge1", "edge2")),
        *(f"{edge} drain {rest}" for edge in ("edge1", "edge2")),
        "app2 activate active r2",
        "app3 activate active r2",
        *(f"{edge} drain restore {rest}" for edge in ("edge1", "edge2")),
        *(f"{edge} edge_log_info bake {rest}" for edge in ("edge1", "edge2")),
        *("edge1 edge_log_info", "edge2 edge_log_info"),
        *(f"app{number} finish deployed" for number in (1, 2, 3)),
    ]
    for one in three.arguments("baton.web.finish"):
        assert (one["serves"], one["keep"]) == ("r2", 5)


def test_failed_batch_reverts_every_host(fleet: Callable[..., NotedFleet]) -> None:
    """Of a restart, which neither stages nor migrates nor rehearses."""
    two = fleet(["app1", "app2"], ["edge1"], deploy_batches=[1], app_service_migration_command="migrate")
    two.answer("baton.web.activate", {"failed": True, "msg": "Workers don't start."}, "app2", state="active")
    done = rollout(two, "restart", release="r1")
    assert done.status != 0
    assert "app2, handover: Workers don't start." in done.words
    assert two.steps == [
        "app1 deploy_lock held",
        "app2 deploy_lock held",
        "app1 activate active r1",
        "edge1 edge_log_info bake 10.0.0.1:8000",
        "app2 activate active r1",
        "app1 activate reverted",
        "app2 activate reverted",
        "edge1 edge_log_info",
        "app1 finish reverted",
        "app2 finish reverted",
    ]
    assert all(one["renew"] for one in two.arguments("baton.web.activate", state="active"))
    for one in two.arguments("baton.web.finish"):
        # the release to go back to stays, and nothing is noted as served
        assert not one.keys() & {"serves", "keep", "first_host"}


def test_bad_bake_reverts(fleet: Callable[..., NotedFleet]) -> None:
    """Of settings on a host that is its own edge: secrets are there before the units that name them, and the old ones
    as long as other units may.
    """
    one = fleet(["app1"], [], app_config_secrets={"TOKEN": "x"})
    verdict = {"verdict": {"ok": False, "message": "app1: 9 of 9 requests were answered 5xx."}}
    one.answer("baton.web.edge_log_info", verdict, max_failed_percent=1)
    done = rollout(one, "configure")
    assert done.status != 0
    assert one.steps == [
        "app1 deploy_lock held",
        "app1 files /etc/links/environment",
        "app1 files /etc/links/secrets",
        "app1 files /etc/links/gunicorn.conf.py",
        "app1 systemd_service links.socket",
        "app1 systemd_service links.service",
        "app1 files /etc/links/secrets",
        "app1 rehearse",
        "app1 activate active",
        "app1 edge_log_info bake",
        "app1 activate reverted",
        "app1 edge_log_info",
        "app1 finish reverted",
    ]
    folders = [told["files"][0] for told in one.arguments("baton.web.files")]
    assert [told["purge"] for told in folders if told["path"].endswith("/secrets")] == [False, True]


def test_rollback_activates_background_processes_last(fleet: Callable[..., NotedFleet]) -> None:
    """Under the locks also of the app servers that --limit excludes, which are released in the end."""
    three = fleet(["app1", "app2", "app3"], [], deploy_bake_seconds=0)
    three.answer("baton.web.host_facts", {"ansible_facts": FACTS | {"app_before_web": True}})
    known: dict[str, Any] = {"current": "r1", "candidates": ["r0"], "releases": ["r0", "r1"]}
    known |= {"rollback_candidates": [], "blocking": {}, "failures": []}
    three.answer("baton.web.deploy_lock", {"changed": True, "history": known}, state="held")
    chosen = "{{ baton_rollback.release | default('') }}"
    rollout(three, "rollback", "--limit", "app2,app3", release=chosen).check_status()
    assert three.steps == [
        *(f"app{number} deploy_lock held" for number in (1, 2, 3)),
        # all, before processes of another release start on any of them
        "app2 rehearse r0",
        "app3 rehearse r0",
        "app2 activate active r0",
        "app3 activate active r0",
        "app2 activate active before_web r0",
        "app3 activate active before_web r0",
        *("app2 edge_log_info", "app3 edge_log_info"),
        *("app2 finish rolled back", "app3 finish rolled back"),
        "app1 deploy_lock released",
    ]
