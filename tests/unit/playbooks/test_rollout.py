"""The steps of a rollout and their order: the project's playbooks on fake hosts."""

from __future__ import annotations

import pathlib
import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.playbooks import Done
from tests.support.recorded_fleet import ACTIVATED, FACTS, RecordedFleet

KINDS: dict[str, dict[str, Any]] = {
    "deploy": {"configure": False, "stage": True, "restart_workers": False},
    "configure": {"configure": True, "stage": False, "restart_workers": False},
    "restart": {"configure": False, "stage": False, "restart_workers": True},
    "rollback": {"configure": False, "stage": False, "restart_workers": False},
}

# a result of phases/artifact.yml
ARTIFACT: dict[str, Any] = {"id": "r2", "complete": True, "wheels": {}, "release": {"version": "v2"}}
ARTIFACT |= {"source": {"path": "/nowhere/r2-src.tar.gz"}}


@pytest.fixture
def make_fleet(tmp_path: pathlib.Path) -> Callable[..., RecordedFleet]:
    """App servers and load balancers on which everything succeeds."""

    def make(app_servers: list[str], load_balancers: list[str], **variables: Any) -> RecordedFleet:
        groups = {"app_servers": app_servers, "load_balancers": load_balancers}
        fake = RecordedFleet(tmp_path, groups, **{"deploy_bake_seconds": 1} | variables)
        fake.set_result("baton.web.host_facts", {"ansible_facts": FACTS})
        fake.set_result("baton.web.deploy_lock", {"changed": True, "history": {}})
        fake.set_result("baton.web.release", {"changed": True, "current": "r1", "release": {"id": "r2"}})
        fake.set_result("baton.web.rehearse", {"rehearsed": True})
        fake.set_result("baton.web.activate", {"rehearsed": True}, state="rehearsed")
        fake.set_result("baton.web.activate", ACTIVATED, state="active")
        fake.set_result("baton.web.activate", ACTIVATED | {"release": "r1", "previous": "r2"}, state="reverted")
        fake.set_result("baton.web.edge_log_info", {"verdict": {"ok": True, "message": "fine."}, "windows": {}})
        fake.set_result("baton.web.finish", {"changed": True, "removed": [], "trouble": "", "left": []})
        return fake

    return make


def rollout(fleet: RecordedFleet, kind: str, *options: str, **more: Any) -> Done:
    """Run the rollout. `more`: further keys of baton_change."""
    change = {"kind": kind, **KINDS[kind], **more}
    return fleet.play("phases/rollout.yml", *options, baton_change=change, app_release_built={"artifact": ARTIFACT})


def test_deploy_runs_its_steps_in_order(make_fleet: Callable[..., RecordedFleet]) -> None:
    """Each batch is drained, activated, restored and baked on every edge before the next; the migration runs once."""
    fleet = make_fleet(
        ["app1", "app2", "app3"],
        ["edge1", "edge2"],
        deploy_batches=[1, "100%"],
        deploy_drain=True,
        app_service_migration_command="migrate",
    )
    rollout(fleet, "deploy").check_status()
    first, rest = "10.0.0.1", "10.0.0.2 10.0.0.3"
    # whichever of the ports the edges use
    first_servers = "10.0.0.1:8000 10.0.0.1:8443"
    rest_servers = "10.0.0.2:8000 10.0.0.2:8443 10.0.0.3:8000 10.0.0.3:8443"
    assert fleet.steps == [
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
        *(f"{edge} edge_log_info bake {first_servers}" for edge in ("edge1", "edge2")),
        *(f"{edge} drain {rest}" for edge in ("edge1", "edge2")),
        "app2 activate active r2",
        "app3 activate active r2",
        *(f"{edge} drain restore {rest}" for edge in ("edge1", "edge2")),
        *(f"{edge} edge_log_info bake {rest_servers}" for edge in ("edge1", "edge2")),
        *("edge1 edge_log_info", "edge2 edge_log_info"),
        *(f"app{number} finish deployed" for number in (1, 2, 3)),
    ]
    for arguments in fleet.arguments("baton.web.finish"):
        assert (arguments["serves"], arguments["keep"]) == ("r2", 5)


def test_change_ends_with_the_certificates_that_end_soon(make_fleet: Callable[..., RecordedFleet]) -> None:
    """Also those of edges, which aren't part of the rollout's plays, and after a failure, whose cause they may be."""
    known = [{"path": "/c.pem", "purpose": "of the site"}]
    fleet = make_fleet(["app1"], ["edge1", "edge2"], deploy_bake_seconds=0, baton_certificates_noted=known)
    now = time.time()
    ends = {"app1": -1, "edge1": 20.5, "edge2": 80.5}
    for host, left in ends.items():
        said = {"/c.pem": {"begins": now - 10 * 86400, "expires": now + left * 86400}}
        fleet.set_result("baton.web.host_facts", {"ansible_facts": FACTS | {"certificates": said}}, host)
    warnings = [
        "app1: the certificate of the site (/c.pem) has expired; run site.yml to renew it.",
        "edge2: the certificate of the site is valid until "
        + time.strftime("%Y-%m-%d", time.gmtime(now + 80.5 * 86400)),
    ]
    done = rollout(fleet, "restart", release="r1")
    done.check_status()
    assert warnings[0] in done.words
    assert "edge1" not in done.words.partition("Show the ends of the certificates")[2].partition("RECAP")[0]
    assert warnings[1] in rollout(fleet, "restart", release="r1", provision=True).words
    fleet.set_result("baton.web.activate", {"failed": True, "msg": "Workers don't start."}, state="active")
    assert warnings[0] in rollout(fleet, "restart", release="r1").words


def test_release_that_cannot_be_staged_is_not_migrated(make_fleet: Callable[..., RecordedFleet]) -> None:
    """Such as one that lacks the program of a background process; also without a rehearsal."""
    fleet = make_fleet(
        ["app1", "app2"], ["edge1"], app_service_migration_command="migrate", app_service_rehearsal=False
    )
    lacks = "app_processes.worker.command runs the program wrok, which the host and this release don't have."
    fleet.set_result("baton.web.release", {"failed": True, "msg": lacks}, "app2", application="links")
    done = rollout(fleet, "deploy")
    assert done.status != 0
    assert f"app2, staging: {lacks}" in done.words
    assert fleet.steps == [
        *("app1 deploy_lock held", "app2 deploy_lock held"),
        *("app1 release r2", "app2 release r2"),
        *("app1 activate reverted", "app2 activate reverted"),
        "edge1 edge_log_info",
        *("app1 finish reverted", "app2 finish reverted"),
    ]


def test_failed_batch_reverts_every_host(make_fleet: Callable[..., RecordedFleet]) -> None:
    """A restart neither stages nor migrates nor rehearses."""
    fleet = make_fleet(["app1", "app2"], ["edge1"], deploy_batches=[1], app_service_migration_command="migrate")
    fleet.set_result("baton.web.activate", {"failed": True, "msg": "Workers don't start."}, "app2", state="active")
    done = rollout(fleet, "restart", release="r1")
    assert done.status != 0
    assert "app2, handover: Workers don't start." in done.words
    assert fleet.steps == [
        "app1 deploy_lock held",
        "app2 deploy_lock held",
        "app1 activate active r1",
        "edge1 edge_log_info bake 10.0.0.1:8000 10.0.0.1:8443",
        "app2 activate active r1",
        "app1 activate reverted",
        "app2 activate reverted",
        "edge1 edge_log_info",
        "app1 finish reverted",
        "app2 finish reverted",
    ]
    assert all(arguments["restart_workers"] for arguments in fleet.arguments("baton.web.activate", state="active"))
    for arguments in fleet.arguments("baton.web.finish"):
        # the previous release is kept, and none is recorded as served
        assert not arguments.keys() & {"serves", "keep", "first_host"}


def test_failed_rehearsal_shows_no_step_after_it(make_fleet: Callable[..., RecordedFleet]) -> None:
    fleet = make_fleet(["app1", "app2"], ["edge1"], app_processes={"worker": {"command": "work"}})
    fleet.set_result("baton.web.rehearse", {"failed": True, "msg": "Workers don't start."}, "app1")
    done = rollout(fleet, "deploy")
    assert done.status != 0
    assert "app1, rehearsal: Workers don't start." in done.words
    assert not re.search("Activate|Roll out|Hand over", done.output)
    assert fleet.steps[-5:] == [
        "app1 activate reverted",
        "app2 activate reverted",
        "edge1 edge_log_info",
        "app1 finish reverted",
        "app2 finish reverted",
    ]


def test_failed_drain_prevents_activation_of_the_batch(make_fleet: Callable[..., RecordedFleet]) -> None:
    fleet = make_fleet(["app1", "app2", "app3"], ["edge1"], deploy_drain=True, deploy_batches=[1, "100%"])
    fleet.set_result("baton.web.drain", {"failed": True, "msg": "nginx rejects it."}, drained=["10.0.0.2", "10.0.0.3"])
    done = rollout(fleet, "restart", release="r1")
    assert done.status != 0
    assert "app2, handover: edge1: nginx rejects it." in done.words
    assert [step for step in fleet.steps if " activate active" in step] == ["app1 activate active r1"]
    assert [step for step in fleet.steps if "reverted" in step] == [
        *(f"app{number} activate reverted" for number in (1, 2, 3)),
        *(f"app{number} finish reverted" for number in (1, 2, 3)),
    ]


def test_ends_of_background_processes_are_read_where_some_were_stopped(
    make_fleet: Callable[..., RecordedFleet],
) -> None:
    fleet = make_fleet(["app1", "app2"], ["edge1"], deploy_bake_seconds=0)
    worker = {"method": "overlap", "started": ["new@1"], "stopped": ["old"], "stop_requested": 1764072001.0}
    fleet.set_result("baton.web.activate", ACTIVATED | {"processes": {"worker": worker}}, "app2", state="active")
    rollout(fleet, "restart", release="r1").check_status()
    assert [step for step in fleet.steps if "process_ends_info" in step] == ["app2 process_ends_info links"]
    (arguments,) = fleet.arguments("baton.web.process_ends_info")
    assert arguments["stopped"] == {"worker": {"stopped": ["old"], "stop_requested": 1764072001.0}}
    assert arguments["started"] == ["new@1"]


def test_new_background_process_that_has_ended_reverts(make_fleet: Callable[..., RecordedFleet]) -> None:
    """It was proven when it was started, and is checked again once the last batch has passed its bake."""
    fleet = make_fleet(["app1", "app2"], ["edge1"])
    worker = {"method": "overlap", "started": ["new@1"], "stopped": ["old@1"], "stop_requested": 1764072001.0}
    fleet.set_result("baton.web.activate", ACTIVATED | {"processes": {"worker": worker}}, state="active")
    down = {"ends": {}, "down": "links-worker@2-1.service ended. It logged last:\n{{ 7 * 7 }} no broker"}
    fleet.set_result("baton.web.process_ends_info", {"ends": {}, "down": ""})
    # after the revert it isn't asked for
    fleet.set_result("baton.web.process_ends_info", down, "app2", started=["new@1"])
    done = rollout(fleet, "restart", release="r1")
    assert done.status != 0
    assert "app2, processes: links-worker@2-1.service ended." in done.words
    assert "{{ 7 * 7 }} no broker" in done.words
    assert done.words.count("no broker") == 1
    assert fleet.steps[fleet.steps.index("app2 activate active r1") :] == [
        "app2 activate active r1",
        "edge1 edge_log_info bake 10.0.0.2:8000 10.0.0.2:8443",
        *("app1 process_ends_info links", "app2 process_ends_info links"),
        *("app1 activate reverted", "app2 activate reverted"),
        *("app1 process_ends_info links", "app2 process_ends_info links"),
        "edge1 edge_log_info",
        *("app1 finish reverted", "app2 finish reverted"),
    ]
    assert [arguments["started"] for arguments in fleet.arguments("baton.web.process_ends_info")] == (
        [["new@1"]] * 2 + [[]] * 2
    )


@pytest.mark.parametrize("answer", [None, {"failed": True, "msg": "no journal"}])
def test_host_that_cannot_be_asked_about_its_processes_fails_no_change(
    make_fleet: Callable[..., RecordedFleet], answer: dict[str, Any] | None
) -> None:
    fleet = make_fleet(["app1", "app2"], ["edge1"], deploy_bake_seconds=0)
    worker = {"method": "start", "started": ["new@1"], "stopped": []}
    fleet.set_result("baton.web.activate", ACTIVATED | {"processes": {"worker": worker}}, state="active")
    fleet.set_result("baton.web.process_ends_info", answer)
    rollout(fleet, "restart", release="r1").check_status()
    assert not [step for step in fleet.steps if step.endswith("activate reverted")]
    assert len([step for step in fleet.steps if "process_ends_info" in step]) == 2


def test_bad_bake_reverts(make_fleet: Callable[..., RecordedFleet]) -> None:
    """A change of settings on a host that is its own edge: new secrets are written before the units that use them, and
    old ones are removed after the units have changed.
    """
    fleet = make_fleet(["app1"], [], app_config_secrets={"TOKEN": "x"})
    verdict = {"verdict": {"ok": False, "message": "app1: 9 of 9 requests were answered 5xx."}}
    fleet.set_result("baton.web.edge_log_info", verdict, max_failed_percent=1)
    done = rollout(fleet, "configure")
    assert done.status != 0
    assert fleet.steps == [
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
    folders = [arguments["files"][0] for arguments in fleet.arguments("baton.web.files")]
    kept = [folder.get("keep") for folder in folders if folder["path"].endswith("/secrets")]
    assert kept == [None, ["/etc/links/secrets/TOKEN"]]


def test_rollback_activates_background_processes_last(make_fleet: Callable[..., RecordedFleet]) -> None:
    """App servers that --limit excludes are locked, too, and released at the end."""
    fleet = make_fleet(["app1", "app2", "app3"], [], deploy_bake_seconds=0)
    fleet.set_result(
        "baton.web.host_facts", {"ansible_facts": FACTS | {"app_before_web": True, "app_stop_timeouts": {"beat": 600}}}
    )
    history: dict[str, Any] = {"current": "r1", "candidates": ["r0"], "releases": ["r0", "r1"]}
    history |= {"rollback_candidates": [], "blocking": {}, "failures": []}
    fleet.set_result("baton.web.deploy_lock", {"changed": True, "history": history}, state="held")
    release = "{{ baton_rollback.release | default('') }}"
    rollout(fleet, "rollback", "--limit", "app2,app3", release=release).check_status()
    assert fleet.steps == [
        *(f"app{number} deploy_lock held" for number in (1, 2, 3)),
        # the web processes of all hosts, before background processes of the release start on any of them
        "app2 rehearse r0",
        "app3 rehearse r0",
        "app2 activate active r0",
        "app3 activate active r0",
        # until then they may enqueue jobs that the previous release doesn't know
        "app2 wait_drained links",
        "app3 wait_drained links",
        "app2 activate active before_web r0",
        "app3 activate active before_web r0",
        *("app2 edge_log_info", "app3 edge_log_info"),
        *("app2 finish rolled back", "app3 finish rolled back"),
        "app1 deploy_lock released",
    ]
    # long enough for the removed type on both hosts
    locks = fleet.arguments("baton.web.deploy_lock", state="held")
    assert [lock["seconds"] for lock in locks] == [900 + 600 + 2 * 60 + 2 * 630] * 3
