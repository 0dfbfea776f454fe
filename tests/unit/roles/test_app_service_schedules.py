"""Scheduled commands: their units, schedules.json, and what preflight refuses."""

from __future__ import annotations

import json
import pathlib
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

SERVICE = "/etc/systemd/system/links-cleanup.service"
TIMER = "/etc/systemd/system/links-cleanup.timer"
GIVEN: dict[str, Any] = {"app_name": "links", "app_service_credentials": ["TOKEN"]}


@pytest.fixture(scope="module")
def role(load_role: Callable[[str], Any]) -> Any:
    return load_role("app_service")


def files(role: Any, schedules: dict[str, Any], **given: Any) -> dict[str, dict[str, Any]]:
    settings = {**GIVEN, "app_schedules": schedules, **given}
    found = role.value("__app_service_schedule_files", ansible_search_path=[str(role.path)], **settings)
    return {one["path"]: one for one in found}


def cleanup(**changed: Any) -> dict[str, Any]:
    return {"cleanup": {"command": "links-cleanup --old", "calendar": "*-*-* 03:00", **changed}}


def test_schedule_is_a_timer_and_a_command_in_the_current_release(role: Any) -> None:
    written = files(role, cleanup(timeout=60, memory_max="256M", environment={"MODE": "50%"}))
    service, timer = written[SERVICE]["content"], written[TIMER]["content"]
    for line in ("Type=oneshot", "User=links", "LoadCredential=TOKEN:/etc/links/secrets/TOKEN", "ProtectSystem=strict"):
        assert line in service.splitlines()
    (start,) = [line for line in service.splitlines() if line.startswith("ExecStart=")]
    assert start.startswith('ExecStart=/usr/bin/env "MODE=50%%" /opt/links/current/venv/bin/python ')
    assert start.endswith('/opt/links/current "links-cleanup --old"')
    assert service.splitlines()[-2:] == ["TimeoutStartSec=60", "MemoryMax=256M"]
    assert "MemoryMax=85%" in files(role, cleanup())[SERVICE]["content"].splitlines()
    assert [line for line in timer.splitlines() if line.startswith(("OnCal", "Persis"))] == [
        "OnCalendar=*-*-* 03:00",
        "Persistent=true",
    ]


def test_several_times_without_catching_up(role: Any) -> None:
    timer = files(role, cleanup(calendar=["hourly", "*-*-* 03:30"], catch_up=False))[TIMER]["content"]
    assert "OnCalendar=hourly\nOnCalendar=*-*-* 03:30\nPersistent=false\n" in timer


@pytest.mark.parametrize(
    ("hosts", "first", "runs"), [("first", True, True), ("first", False, False), ("all", False, True)]
)
def test_schedules_json_tells_whether_the_host_runs_it(role: Any, hosts: str, first: bool, runs: bool) -> None:
    written = files(role, cleanup(hosts=hosts), app_service_first_host=first)
    assert json.loads(written["/etc/links/schedules.json"]["content"]) == {
        "cleanup": {"command": "links-cleanup --old", "runs": runs, "timeout": 3600}
    }
    assert SERVICE in written


def test_no_schedules_leave_no_file(role: Any) -> None:
    (written,) = files(role, {}).values()
    assert (written["path"], written["state"]) == ("/etc/links/schedules.json", "absent")


def test_systemd_accepts_the_units(role: Any, tmp_path: pathlib.Path) -> None:
    for path, one in files(role, cleanup()).items():
        if path.endswith((".service", ".timer")):
            (tmp_path / path.rpartition("/")[2]).write_text(one["content"])
    (tmp_path / "links-cleanup.service").write_text(
        (tmp_path / "links-cleanup.service").read_text().replace("/opt/links/current/venv/bin/python", "/bin/true")
    )
    verify = ["systemd-analyze", "verify", str(tmp_path / "links-cleanup.timer")]
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "links-cleanup" not in done.stderr


@pytest.mark.parametrize(
    ("schedules", "words"),
    [
        ([], "app_schedules is []. Give a mapping"),
        ({"web": {}}, "app_schedules.web: Baton uses the name web itself"),
        ({"Clean up": {}}, 'app_schedules has a schedule called "Clean up"'),
        ({"worker": {}}, "app_processes has a type with the same name"),
        ({"api": {}}, "the host has a unit links-api.service that Baton didn't write"),
        ({"cleanup": None}, "app_schedules.cleanup is null"),
        (cleanup(command=" "), "command is missing or empty"),
        (cleanup(command="a\nb"), "Give one line of text"),
        (cleanup(calendar=""), 'calendar is "". Give a calendar expression'),
        (cleanup(calendar=["daily", 7]), "calendar is"),
        (cleanup(calendar="daily\nOnBootSec=1"), "calendar is"),
        (cleanup(hosts="app1"), 'hosts is "app1". Give all or first.'),
        (cleanup(timeout=0), "timeout is 0. Give a whole number of seconds"),
        (cleanup(catch_up="no"), 'catch_up is "no". Give true or false.'),
        (cleanup(memory_max="much"), 'memory_max is "much"'),
        (cleanup(overlap="allow"), 'overlap is "allow". Two runs never overlap on a host. Give forbid, or omit it.'),
        (cleanup(command="# later"), "Give one line of text that isn't a comment"),
        (cleanup(environment={"PATH": "x"}), "environment.PATH can't be set"),
        (cleanup(calender="x"), "Did you mean calendar?"),
    ],
)
def test_preflight_names_the_setting_and_the_fix(role: Any, schedules: Any, words: str) -> None:
    facts = {**role.templar().available_variables["ansible_facts"], "app_foreign_units": ["links-api.service"]}
    given = {**GIVEN, "ansible_facts": facts, "app_processes": {"worker": {"command": "x"}}}
    assert role.refusals(**given, app_schedules=cleanup(overlap="forbid")) == []
    (message,) = role.refusals(**given, app_schedules=schedules)
    assert words in message
    facts["app_calendar_problems"] = ["app_schedules.cleanup.calendar is wrong."]
    assert facts["app_calendar_problems"][0] in role.refusals(**given, app_schedules=cleanup())[0]
