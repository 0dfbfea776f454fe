"""Modules that have systemd start and stop something. systemctl is a program that notes what it is told."""

from __future__ import annotations

import functools
import json
import pathlib
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.app import layout, masking
from ansible_collections.baton.web.plugins.module_utils.change import deploy_lock, history
from ansible_collections.baton.web.plugins.modules import exec as exec_module
from ansible_collections.baton.web.plugins.modules import schedule, unit, wait_ready

from tests.support import modules

SYSTEMCTL = """#!/bin/sh
echo "$*" >> {root}/told
case $1 in
  show) echo ActiveState=$(cat {root}/state 2>/dev/null || echo active) ;;
  list-units) ;;
  *) test ! -e {root}/broken ;;
esac
"""


class Host:
    """A folder that the modules take for the root of their host."""

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
    def told(self) -> list[str]:
        """What systemctl was told to do."""
        path = self.root / "told"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if line.split()[0] in ("start", "stop", "restart", "reload")]


@pytest.fixture
def host(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    made = Host(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=":")
    application = functools.partial(layout.Application, root=str(tmp_path))
    monkeypatch.setattr(layout, "Application", application)
    monkeypatch.setattr(unit, "Application", application)
    monkeypatch.setattr(masking, "masked", functools.partial(masking.masked, root=str(tmp_path)))
    return made


MIGRATION = "links-migration@r2.service"
NOTE = {"name": "links", "entry": {"kind": "deploy", "release": "r2", "result": "begun", "when": 1.0}}


def start(**options: Any) -> dict[str, Any]:
    return modules.run(unit, name=MIGRATION, application="links", timeout=5, **options)


def test_unit_is_started_under_the_lock_and_after_its_note(host: Host) -> None:
    lock = {"name": "links", "token": "a"}
    lost = start(lock=lock, history=NOTE)
    assert "This run has lost its lock" in lost["msg"]
    assert (host.told, history.read(host.app)) == ([], [])
    deploy_lock.take(host.app, deploy_lock.Run("a", "ann@laptop", ""), "deploy", 60)
    done = start(lock=lock, history=NOTE)
    assert (done["changed"], done["log"]) == (True, "the unit logged ***")
    assert host.told == [f"start {MIGRATION}"]
    assert [entry["result"] for entry in history.read(host.app)] == ["begun"]


def test_unit_that_fails_is_noted_as_begun_and_tells_no_secret(host: Host) -> None:
    (host.root / "broken").touch()
    failed = start(history=NOTE)
    assert failed["msg"] == f"{MIGRATION} failed. What it logged last:\nthe unit logged ***"
    assert [entry["result"] for entry in history.read(host.app)] == ["begun"]


def test_unit_does_not_begin_where_its_note_can_not_be_written(host: Host) -> None:
    (host.app.state / "history.jsonl").mkdir()
    failed = start(history=NOTE)
    assert f"{MIGRATION} didn't begin" in failed["msg"]
    assert host.told == []


def test_unit_in_check_mode_is_not_started(host: Host) -> None:
    assert start(check=True, history=NOTE)["changed"]
    assert (host.told, history.read(host.app)) == ([], [])


def test_unit_waits_for_another_instance_and_gives_up_in_time(host: Host) -> None:
    told = host.root / "told"
    host.program("systemctl", f'#!/bin/sh\necho "$*" >> {told}; echo links-migration@r1.service activating\n')
    failed = modules.run(unit, name=MIGRATION, application="links", timeout=0)
    assert "links-migration@ still runs for another instance" in failed["msg"]
    assert host.told == []


TIMER = "links-cleanup.timer"


def set_up_schedule(host: Host, *, runs: bool = True) -> None:
    host.app.schedule_settings.write_text(json.dumps({"cleanup": {"runs": runs}}))


def switch(state: str, **options: Any) -> dict[str, Any]:
    return modules.run(schedule, name="links", schedule="cleanup", state=state, **options)


def test_schedule_is_suspended_until_it_is_resumed(host: Host) -> None:
    set_up_schedule(host)
    host.app.current.symlink_to("releases/r1")
    mark = host.app.suspended("cleanup")
    assert switch("suspended", check=True)["changed"]
    assert not mark.exists()
    first = switch("suspended")
    assert (first["changed"], first["runs"], first["unit"]) == (True, True, "links-cleanup.service")
    assert (mark.exists(), host.told) == (True, [f"stop {TIMER}"])
    assert not switch("suspended")["changed"]
    assert not switch("known")["changed"]
    assert switch("resumed")["changed"]
    assert (mark.exists(), host.told) == (False, [f"stop {TIMER}", f"start {TIMER}"])
    assert not switch("resumed")["changed"]


@pytest.mark.parametrize(("runs", "release"), [(False, True), (True, False)])
def test_schedule_is_not_started_where_it_does_not_run(host: Host, runs: bool, release: bool) -> None:
    """On another host, or before there is a release."""
    set_up_schedule(host, runs=runs)
    if release:
        host.app.current.symlink_to("releases/r1")
    switch("suspended")
    assert switch("resumed")["runs"] is runs
    assert host.told == [f"stop {TIMER}"]


def test_schedule_that_is_unknown_is_told_with_those_that_are_not(host: Host) -> None:
    set_up_schedule(host)
    wrong = modules.run(schedule, name="links", schedule="clean", state="suspended")
    assert wrong["msg"] == "links has no scheduled command 'clean' here. It has cleanup."


@pytest.fixture
def release(host: Host) -> Host:
    """A host with a release, whose systemd runs the command without its properties."""
    host.program("systemd-run", '#!/bin/sh\nfor command; do :; done\nexec sh -c "$command"\n')
    host.app.current.symlink_to("releases/r1")
    (host.root / "etc/systemd/system/links.service").write_text("[Service]\nUser=links\n")
    return host


def run(command: str, **options: Any) -> dict[str, Any]:
    return modules.run(exec_module, name="links", command=command, **options)


@pytest.mark.usefixtures("release")
def test_command_ends_with_its_exit_code() -> None:
    good = run("echo hello s3cret-value")
    assert (good["rc"], good["output"], good["release"]) == (0, "hello ***\n", "r1")
    bad = run("echo s3cret-value; exit 3")
    assert (bad["failed"], bad["rc"]) == (True, 3)
    assert bad["msg"].startswith("Exit code 3 in release r1.\n***")


def test_command_in_check_mode_does_not_run(release: Host) -> None:
    told = run(f"touch {release.root}/ran", check=True)
    assert (told["changed"], told["release"], (release.root / "ran").exists()) == (True, "r1", False)


@pytest.mark.usefixtures("host")
def test_command_needs_a_release() -> None:
    assert run("true")["msg"] == "No release has been activated on this host yet. Deploy one."


def test_host_is_waited_for_until_its_units_are_active(host: Host) -> None:
    assert modules.run(wait_ready, units=["nginx.service"], timeout=1)["changed"] is False
    (host.root / "state").write_text("failed")
    told = modules.run(wait_ready, units=["nginx.service"], timeout=0)
    assert told["msg"] == "The host doesn't serve after 0 s: nginx.service is not active."
