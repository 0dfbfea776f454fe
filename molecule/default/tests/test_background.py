"""Background processes and schedules of the reference application: Celery over Redis, a command at set times."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest

from tests.support.wait import until

from .conftest import APP_SERVERS, FLEET, Edge, other

pytestmark = pytest.mark.hosts("edge1")


def state(name: str, unit: str) -> str:
    return str(other(name).run(f"systemctl is-active {unit}").stdout.strip())


def test_workers_run_on_every_app_server_in_the_current_release() -> None:
    for name in APP_SERVERS:
        host = other(name)
        release = host.check_output("basename $(readlink /opt/links/current)")
        running = "systemctl list-units --plain --no-legend --state=active 'links-worker@*'"
        told = host.check_output(running).splitlines()
        (unit,) = [line.split()[0] for line in told]
        folder = host.check_output(f"readlink /proc/$(systemctl show -P MainPID {unit})/cwd")
        assert folder.startswith(f"/opt/links/releases/{release}/")
        # as confined as the web processes
        host.check_output(f"systemd-analyze security --threshold=15 {unit}")


def test_a_report_is_made_by_a_background_process(edge: Edge) -> None:
    asked = edge("/api/reports", "POST")
    assert asked.status_code == 202, asked.text
    report = asked.json()["id"]

    def ended() -> dict[str, Any] | None:
        told: dict[str, Any] = edge(f"/api/reports/{report}").json()
        return told if told["state"] in ("done", "failed") else None

    told = until(ended, "there is no report")
    assert told["state"] == "done", told
    # the worker says so when it has told the queue
    words = rf"\[{report}\] succeeded in"
    look = f"journalctl --sync; journalctl --no-pager -u 'links-worker@*' --grep {shlex.quote(words)}"
    until(lambda: any(other(name).run(look).rc == 0 for name in APP_SERVERS), "the worker says nothing")
    logs = FLEET.succeed("playbooks/logs.yml", "-e", "process=worker", "-e", "lines=5000").output
    assert re.search(words, logs)


def test_a_schedule_runs_on_the_first_app_server_and_can_be_suspended() -> None:
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
    assert "links has no scheduled command 'nightli' here. It has nightly." in unknown.words


def timers() -> list[str]:
    return [state(name, "links-nightly.timer") for name in APP_SERVERS]


def test_what_runs_on_one_host_alone_is_started_on_no_second_one() -> None:
    """Seen while it runs, and where this run can't ask."""
    assert [other(name).check_output("cat /var/lib/baton/links/first-host") for name in APP_SERVERS] == ["app1"] * 2
    for limit, words in (
        ([], "app1 runs nightly, which must not run on app2 (hosts: first) at the same time."),
        (
            ["--limit", "app2"],
            "nightly (hosts: first) may run on app1, which this run doesn't check. Run this without --limit",
        ),
    ):
        done = FLEET.play("playbooks/configure.yml", "-e", "app_first_host=app2", *limit)
        assert done.status != 0
        assert words in done.words, done.output
        assert timers() == ["active", "inactive"]


@pytest.mark.long
def test_it_moves_when_it_is_told_to_and_stays_there() -> None:
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
