"""Background processes and schedules of the reference application: Celery with Redis, and a scheduled command."""

from __future__ import annotations

import json
import re
import shlex
import time
from typing import Any

import pytest

from tests.support import nginx
from tests.support.wait import until

from .conftest import APP_SERVERS, FLEET, Edge, enqueue_pauses, journal, other

pytestmark = pytest.mark.hosts("edge1")


def state(name: str, unit: str) -> str:
    return str(other(name).run(f"systemctl is-active {unit}").stdout.strip())


def test_workers_of_current_release_run_on_every_app_server() -> None:
    for name in APP_SERVERS:
        host = other(name)
        release = host.check_output("basename $(readlink /opt/links/current)")
        running = "systemctl list-units --plain --no-legend --state=active 'links-worker@*'"
        result = host.check_output(running).splitlines()
        (unit,) = [line.split()[0] for line in result]
        folder = host.check_output(f"readlink /proc/$(systemctl show -P MainPID {unit})/cwd")
        assert folder.startswith(f"/opt/links/releases/{release}/")
        # the same threshold as for the web service
        host.check_output(f"systemd-analyze security --threshold=15 {unit}")


def test_background_process_creates_report(edge: Edge) -> None:
    asked = edge("/api/reports", "POST")
    assert asked.status_code == 202, asked.text
    report = asked.json()["id"]

    def ended() -> dict[str, Any] | None:
        result: dict[str, Any] = edge(f"/api/reports/{report}").json()
        return result if result["state"] in ("done", "failed") else None

    result = until(ended, "there is no report")
    assert result["state"] == "done", result
    # the worker logs it after it has reported to the queue
    words = rf"\[{report}\] succeeded in"
    look = f"journalctl --sync; journalctl --no-pager -u 'links-worker@*' --grep {shlex.quote(words)}"
    until(lambda: any(other(name).run(look).rc == 0 for name in APP_SERVERS), "the worker says nothing")
    logs = FLEET.succeed("playbooks/logs.yml", "-e", "process=worker", "-e", "lines=5000").output
    assert re.search(words, logs)


def test_request_id_is_in_logs_of_edge_web_and_worker(edge: Edge) -> None:
    begin = time.time()
    request_id = edge("/api/reports", "POST").headers["x-request-id"]
    assert nginx.logged(other("edge1"), "links", [request_id])[request_id]["status"] == 202

    def logged(units: str, *loggers: str) -> dict[str, Any]:
        """Their entries of this request, by logger, once each of these has one."""

        def found() -> dict[str, Any] | None:
            entries = [json.loads(one["MESSAGE"]) for one in journal(units, begin, request_id)]
            named = {entry["logger"]: entry for entry in entries if entry["request_id"] == request_id}
            return named if named.keys() >= {*loggers} else None

        result: dict[str, Any] = until(found, f"{units} has no entry of each of {loggers}")
        return result

    web = logged("links.service", "access", "links.reports")
    assert (web["access"]["path"], web["access"]["status"]) == ("/api/reports", 202)
    assert "Enqueued report" in web["links.reports"]["message"]
    assert "Reported on" in logged("links-worker@*", "links.report", "celery.app.trace")["links.report"]["message"]


@pytest.mark.long
def test_job_longer_than_the_soft_shutdown_runs_again_at_once() -> None:
    """If systemd killed the worker, the queue would consider the job lost later than `until` waits."""
    begin = time.time()

    def logged(words: str) -> list[str]:
        return [f"{one['_HOSTNAME']} {one['_SYSTEMD_UNIT']}" for one in journal("links-worker@*", begin, words)]

    # a number of seconds that no other test uses, in which a busy machine reaches the workers' stop
    enqueue_pauses(127)
    until(lambda: logged("Pausing for 127 s"), "the job doesn't start")
    FLEET.succeed("playbooks/restart.yml", deploy_bake_seconds=0)
    started = until(lambda: len(found := logged("Pausing for 127 s")) > 1 and found, "the job doesn't run again")
    assert len({*started}) == len(started), started
    until(lambda: logged("links.jobs.pause.* succeeded in"), "the job doesn't end")
    # the old workers ended by themselves
    for name in APP_SERVERS:
        # of systemd alone: sudo logs this command
        look = f"journalctl --sync; journalctl --no-pager -t systemd --since=@{int(begin)} --grep"
        other(name).check_output(f"{look} 'Stopped links-worker@'")
        assert other(name).run(f"{look} 'links-worker@.*(Failed with result|timed out)'").rc == 1, name


def test_schedule_runs_on_first_app_server_and_can_be_suspended() -> None:
    timer = "links-nightly.timer"
    assert (state("app1", timer), state("app2", timer)) == ("active", "inactive")
    release = other("app1").check_output("basename $(readlink /opt/links/current)")
    schedule = ("playbooks/schedule.yml", "-e", "schedule=nightly", "-e")
    ran = FLEET.succeed(*schedule, "schedule_action=run").output
    assert "app1: nightly succeeded in" in ran
    assert f"nightly of {release}" in ran
    assert "app2: nightly" not in ran
    FLEET.succeed(*schedule, "schedule_action=suspend")
    assert state("app1", timer) == "inactive"
    assert "suspended" in FLEET.succeed("playbooks/status.yml").output
    FLEET.succeed(*schedule, "schedule_action=resume")
    assert state("app1", timer) == "active"
    unknown = FLEET.play("playbooks/schedule.yml", "-e", "schedule=nightli", "-e", "schedule_action=run")
    assert unknown.status != 0
    assert "links has no scheduled command 'nightli' here. It has nightly, spanning." in unknown.words


def timers() -> list[str]:
    return [state(name, "links-nightly.timer") for name in APP_SERVERS]


def test_single_host_process_is_not_started_on_second_host() -> None:
    """Also when the run can't check the other host."""
    assert [other(name).check_output("cat /var/lib/baton/links/first-host") for name in APP_SERVERS] == ["app1"] * 2
    for limit, words in (
        (
            [],
            "app1 runs app_schedules.nightly, app_schedules.spanning (now, or after its next boot), which must not run "
            "on app2 (hosts: first) at the same time.",
        ),
        (
            ["--limit", "app2"],
            "app_schedules.nightly, app_schedules.spanning (hosts: first) may run on app1, which this run doesn't "
            "check. Run this without --limit",
        ),
    ):
        done = FLEET.play("playbooks/configure.yml", "-e", "app_first_host=app2", *limit)
        assert done.status != 0
        assert words in done.words, done.output
        assert timers() == ["active", "inactive"]


@pytest.mark.long
def test_single_host_process_moves_with_first_host_setting() -> None:
    configure = ("playbooks/configure.yml", "-e", "deploy_bake_seconds=0", "-e")
    try:
        FLEET.succeed(*configure, "app_first_host=none")
        assert timers() == ["inactive", "inactive"]
        FLEET.succeed(*configure, "app_first_host=app2")
        assert timers() == ["inactive", "active"]
        assert FLEET.succeed("playbooks/configure.yml").changed == [0] * 4
        assert timers() == ["inactive", "active"]
    finally:
        FLEET.succeed(*configure, "app_first_host=none")
        FLEET.succeed(*configure, "app_first_host=app1")
    assert timers() == ["active", "inactive"]
