"""The modules that start and stop units. systemctl is replaced by a script that records its commands."""

from __future__ import annotations

import functools
import json
import os
import pathlib
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.activation import boot
from ansible_collections.baton.web.plugins.module_utils.app import layout, masking, server_status, transient_unit
from ansible_collections.baton.web.plugins.module_utils.change import deploy_lock, history
from ansible_collections.baton.web.plugins.modules import exec as exec_module
from ansible_collections.baton.web.plugins.modules import schedule, unit, wait_drained, wait_ready

from tests.support import modules
from tests.support.clock import Clock, SteppingClock

SYSTEMCTL = """#!/bin/sh
echo "$*" >> {root}/commands
case $1 in
  show) echo ActiveState=$(cat {root}/state 2>/dev/null || echo active) ;;
  list-units) ;;
  *) test ! -e {root}/broken ;;
esac
"""


class Host:
    """A folder that is the root of the modules' host."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        self.app = layout.Application("links", str(root))
        for folder in ("bin", "etc/links/secrets", "etc/systemd/system", "var/lib/baton/links", "opt/links"):
            (root / folder).mkdir(parents=True)
        (root / "etc/links/secrets/TOKEN").write_text("s3cret-value")
        self.program("systemctl", SYSTEMCTL.format(root=root))
        self.program("journalctl", "#!/bin/sh\necho the unit logged s3cret-value\n")

    def program(self, name: str, text: str) -> None:
        (self.root / "bin" / name).write_text(text)
        (self.root / "bin" / name).chmod(0o755)

    @property
    def commands(self) -> list[str]:
        """The commands to systemctl that change a unit."""
        path = self.root / "commands"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if line.split()[0] in ("start", "stop", "restart", "reload")]


@pytest.fixture
def host(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    fake = Host(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=":")
    application = functools.partial(layout.Application, root=str(tmp_path))
    monkeypatch.setattr(layout, "Application", application)
    monkeypatch.setattr(unit, "Application", application)
    monkeypatch.setattr(masking, "masked", functools.partial(masking.masked, root=str(tmp_path)))
    return fake


MIGRATION = "links-migration@r2.service"
RECORD = {"name": "links", "entry": {"kind": "deploy", "release": "r2", "result": "begun", "when": 1.0}}


def start(**options: Any) -> dict[str, Any]:
    return modules.run(unit, name=MIGRATION, application="links", timeout=5, **options)


def test_unit_is_started_under_the_lock_and_after_its_record(host: Host) -> None:
    lock = {"name": "links", "token": "a"}
    lost = start(lock=lock, history=RECORD)
    assert "This run has lost its lock" in lost["msg"]
    assert (host.commands, history.read(host.app)) == ([], [])
    deploy_lock.take(host.app, deploy_lock.Run("a", "ann@laptop", ""), "deploy", 60)
    started = start(lock=lock, history=RECORD)
    assert (started["changed"], started["log"]) == (True, "the unit logged ***")
    assert host.commands == [f"start {MIGRATION}"]
    assert [entry["result"] for entry in history.read(host.app)] == ["begun"]


def test_failed_unit_is_recorded_as_begun_and_its_log_is_masked(host: Host) -> None:
    (host.root / "broken").touch()
    failed = start(history=RECORD)
    assert failed["msg"] == f"{MIGRATION} failed. It logged last:\nthe unit logged ***"
    assert [entry["result"] for entry in history.read(host.app)] == ["begun"]


def test_unit_is_not_started_if_its_record_cannot_be_written(host: Host) -> None:
    (host.app.state / "history.jsonl").mkdir()
    failed = start(history=RECORD)
    assert f"{MIGRATION} wasn't started, because the history" in failed["msg"]
    assert host.commands == []


def test_check_mode_starts_no_unit(host: Host) -> None:
    assert start(check=True, history=RECORD)["changed"]
    assert (host.commands, history.read(host.app)) == ([], [])


def test_unit_waits_for_another_instance_until_its_timeout(host: Host) -> None:
    commands = host.root / "commands"
    host.program("systemctl", f'#!/bin/sh\necho "$*" >> {commands}; echo links-migration@r1.service activating\n')
    failed = modules.run(unit, name=MIGRATION, application="links", timeout=0)
    assert "another instance of links-migration@ is still running" in failed["msg"]
    assert host.commands == []


TIMER = "links-cleanup.timer"


def configure_schedule(host: Host, **about: Any) -> None:
    host.app.schedule_settings.write_text(json.dumps({"cleanup": {"runs": True, **about}}))


def enabled(host: Host) -> list[str]:
    """The units that start at boot."""
    folder = host.app.started_at_boot
    return [link.name for link in folder.iterdir()] if folder.exists() else []


def set_state(state: str, **options: Any) -> dict[str, Any]:
    return modules.run(schedule, name="links", schedule="cleanup", state=state, **options)


def test_schedule_is_suspended_until_it_is_resumed(host: Host) -> None:
    configure_schedule(host)
    host.app.current.symlink_to("releases/r1")
    boot.enable(host.app, [TIMER], TIMER)
    mark = host.app.suspended("cleanup")
    assert set_state("suspended", check=True)["changed"]
    assert (mark.exists(), enabled(host)) == (False, [TIMER])
    first = set_state("suspended")
    assert (first["changed"], first["runs"], first["unit"]) == (True, True, "links-cleanup.service")
    assert (mark.exists(), enabled(host), host.commands) == (True, [], [f"stop {TIMER}"])
    assert not set_state("suspended")["changed"]
    assert not set_state("known")["changed"]
    assert set_state("resumed")["changed"]
    assert (mark.exists(), enabled(host)) == (False, [TIMER])
    assert host.commands == [f"stop {TIMER}", f"stop {TIMER}", f"start {TIMER}"]
    assert not set_state("resumed")["changed"]


def test_suspension_that_left_the_timer_enabled_is_repeated(host: Host) -> None:
    """It was killed, or made by an earlier version: a reboot would start the timer."""
    configure_schedule(host)
    boot.enable(host.app, [TIMER], TIMER)
    host.app.suspended("cleanup").parent.mkdir()
    host.app.suspended("cleanup").touch()
    assert set_state("suspended")["changed"]
    assert (enabled(host), host.commands) == ([], [f"stop {TIMER}"])


def test_schedule_that_cannot_start_stays_suspended(host: Host) -> None:
    configure_schedule(host)
    host.app.current.symlink_to("releases/r1")
    set_state("suspended")
    (host.root / "broken").touch()
    assert set_state("resumed")["failed"]
    assert (host.app.suspended("cleanup").exists(), enabled(host)) == (True, [])


@pytest.mark.parametrize(("runs", "release"), [(False, True), (True, False)])
def test_timer_is_not_started_if_the_schedule_does_not_run(host: Host, runs: bool, release: bool) -> None:
    """It runs on another host, or no release has been activated yet."""
    configure_schedule(host, runs=runs)
    if release:
        host.app.current.symlink_to("releases/r1")
    set_state("suspended")
    assert set_state("resumed")["runs"] is runs
    assert (host.commands, enabled(host)) == ([f"stop {TIMER}"], [])


def test_known_schedule_is_described(host: Host) -> None:
    configure_schedule(host, timeout=7200)
    result = set_state("known")
    assert {key: result[key] for key in ("changed", "release", "runs", "timeout", "unit")} == {
        "changed": False,
        "release": "",
        "runs": True,
        "timeout": 7200,
        "unit": "links-cleanup.service",
    }
    host.app.current.symlink_to("releases/r1")
    # as an earlier version wrote it
    configure_schedule(host)
    result = set_state("known")
    assert (result["release"], result["timeout"]) == ("r1", 3600)


def test_unknown_schedule_is_reported_with_the_known_ones(host: Host) -> None:
    configure_schedule(host)
    failed = modules.run(schedule, name="links", schedule="clean", state="suspended")
    assert failed["msg"] == "links has no scheduled command 'clean' here. It has cleanup."


@pytest.fixture
def release(host: Host) -> Host:
    """A host with a release, whose systemd-run ignores the properties."""
    host.program("systemd-run", '#!/bin/sh\nfor command; do :; done\nexec sh -c "$command"\n')
    host.app.current.symlink_to("releases/r1")
    (host.root / "etc/systemd/system/links.service").write_text("[Service]\nUser=links\n")
    return host


def run(command: str, **options: Any) -> dict[str, Any]:
    return modules.run(exec_module, name="links", command=command, **options)


@pytest.mark.usefixtures("release")
def test_exit_code_of_a_command() -> None:
    succeeded = run("echo hello s3cret-value")
    assert (succeeded["rc"], succeeded["output"], succeeded["release"]) == (0, "hello ***\n", "r1")
    failed = run("echo s3cret-value; exit 3")
    assert (failed["failed"], failed["rc"]) == (True, 3)
    assert failed["msg"].startswith("Exit code 3 in release r1.\n***")


def test_check_mode_runs_no_command(release: Host) -> None:
    result = run(f"touch {release.root}/ran", check=True)
    assert (result["changed"], result["release"], (release.root / "ran").exists()) == (True, "r1", False)


@pytest.mark.usefixtures("host")
def test_command_needs_a_release() -> None:
    assert run("true")["msg"] == "No release has been activated on this host yet. Deploy one."


def test_wait_ready_waits_for_the_units(host: Host) -> None:
    assert modules.run(wait_ready, units=["nginx.service"], timeout=1)["changed"] is False
    (host.root / "state").write_text("failed")
    failed = modules.run(wait_ready, units=["nginx.service"], timeout=0)
    assert failed["msg"] == "The host doesn't serve after 0 s: nginx.service is not active."


@pytest.mark.usefixtures("host")
def test_wait_ready_shows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_status, "unready", lambda *_: "/health answers 503: s3cret-value is refused")
    failed = modules.run(wait_ready, name="links", timeout=0)
    assert failed["msg"] == "The host doesn't serve after 0 s: /health answers 503: *** is refused."


def test_wait_drained_waits_until_the_draining_workers_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = {"pid": 2**22 - 1, "state": "draining", "release": "r1"}
    ready = {"pid": 1, "state": "ready", "release": "r1"}
    draining = {"pid": os.getpid(), "state": "draining", "release": "r2"}
    statuses = [{"workers": [ready, draining]}, {"workers": [ready, draining]}, {"workers": [ready, ended]}, {}]
    monkeypatch.setattr(server_status, "read", lambda *_: statuses.pop(0))
    assert modules.run(wait_drained, name="links", timeout=30)["left"] == []
    assert len(statuses) == 1


def test_wait_drained_returns_who_still_drains_after_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    draining = {"pid": os.getpid(), "state": "draining", "release": "r2"}
    monkeypatch.setattr(server_status, "read", lambda *_: {"workers": [draining]})
    result = modules.run(wait_drained, name="links", timeout=0)
    assert (result["left"], result["changed"]) == ([os.getpid()], False)


def wait_for_another_instance(
    host: Host, monkeypatch: pytest.MonkeyPatch, pauses: float
) -> tuple[dict[str, Any], float]:
    """Start a migration while another one runs for so many pauses. Returns the result and how long it waited."""
    busy = host.root / "busy"
    busy.write_text("links-migration@r1.service activating\n")
    host.program("systemctl", SYSTEMCTL.format(root=host.root).replace("list-units)", f"list-units) cat {busy}"))
    clock = SteppingClock()

    def pause() -> None:
        if len(clock.pauses) == pauses:
            busy.write_text("")

    clock.at_pause = pause
    monkeypatch.setattr(unit, "time", clock)
    return modules.run(unit, name=MIGRATION, application="links", timeout=10), sum(clock.pauses)


def test_unit_starts_once_the_other_instance_has_ended(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    result, waited = wait_for_another_instance(host, monkeypatch, 5)
    assert (host.commands, waited, result["seconds"]) == ([f"start {MIGRATION}"], 2.5, 0.0)


def test_wait_for_another_instance_ignores_corrections_of_the_clock(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, waited = wait_for_another_instance(host, monkeypatch, float("inf"))
    assert "another instance of links-migration@ is still running" in result["msg"]
    assert (host.commands, waited) == ([], 10.5)


@pytest.mark.usefixtures("release")
def test_stopped_command_is_reported_with_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, limits = Clock(), list[float]()

    def run_for(seconds: float) -> Any:
        def stopped(_argv: list[str], timeout: float, _name: str) -> tuple[int | None, str]:
            limits.append(timeout)
            clock.now += seconds
            return None, "half of it\n"

        return stopped

    monkeypatch.setattr(exec_module, "time", clock)
    monkeypatch.setattr(transient_unit, "run", run_for(5))
    failed = run("work", timeout=5)
    assert failed["msg"].startswith("Exit code None in release r1. It was stopped after 5 s.\nhalf of it")
    assert (failed["rc"], failed["seconds"], failed["changed"]) == (None, 5.0, True)
    monkeypatch.setattr(transient_unit, "run", run_for(4))
    assert run("work", timeout=5)["msg"] == "Exit code None in release r1.\nhalf of it"
    # systemd ends it first
    assert limits == [65, 65]


@pytest.mark.usefixtures("release")
def test_command_runs_for_at_most_its_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[list[str], float, str]] = []

    def record(*given: Any) -> tuple[int, str]:
        calls.append(given)
        return 0, ""

    monkeypatch.setattr(transient_unit, "run", record)
    assert run("work", timeout=7)["rc"] == 0
    assert run("work")["output"] == ""
    (argv, _, unit_name), (default, _, other) = calls
    assert f"--unit={unit_name}" in argv
    assert unit_name.startswith("links-command-")
    # two commands may run at the same time
    assert other != unit_name
    assert "--property=RuntimeMaxSec=7" in argv
    assert "--property=RuntimeMaxSec=600" in default


@pytest.mark.usefixtures("host")
def test_wait_ready_asks_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(now=0.0)
    monkeypatch.setattr(wait_ready, "time", clock)
    monkeypatch.setattr(server_status, "unready", lambda *_: "" if len(clock.pauses) == 6 else "no worker is ready")
    result = modules.run(wait_ready, name="links", timeout=60)
    assert clock.pauses == [0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    assert result["seconds"] == 7.0
    monkeypatch.setattr(server_status, "unready", lambda *_: "no worker is ready")
    clock.now, clock.pauses = 0.0, []
    failed = modules.run(wait_ready, name="links", timeout=60)
    assert failed["msg"] == "The host doesn't serve after 60 s: no worker is ready."
    assert 60 < clock.now <= 62


def test_wait_ready_needs_both_the_units_and_the_application(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def unready(app: layout.Application, health: Any) -> str:
        asked.append((app.name, health))
        return ""

    monkeypatch.setattr(server_status, "unready", unready)
    monkeypatch.setattr(server_status, "read", lambda *_: {"workers": [{}, {}]})
    host.app.current.symlink_to("releases/r1")
    page: dict[str, Any] = {
        "health_path": "/readyz",
        "health_listen": "/run/links/web.sock",
        "health_host": "links.example",
    }
    result = modules.run(wait_ready, name="links", units=["nginx.service"], timeout=0, **page)
    assert (result["release"], result["workers"]) == ("r1", 2)
    ((name, health),) = asked
    assert (name, health.path, health.listen, health.host) == ("links", *page.values())
    (host.root / "state").write_text("inactive")
    failed = modules.run(wait_ready, name="links", units=["nginx.service", "redis.service"], timeout=0)
    assert failed["msg"].endswith("nginx.service is not active; redis.service is not active.")
    assert len(asked) == 1
