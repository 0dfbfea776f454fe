"""One scheduled command: what its timer needs, and what the change reports. test_background.py activates it."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.activation import boot, digests
from ansible_collections.baton.web.plugins.module_utils.activation.schedule import Schedule
from ansible_collections.baton.web.plugins.module_utils.app import layout
from ansible_collections.baton.web.plugins.module_utils.host import systemd

TIMER = "links-cleanup.timer"
# a timer is forgotten before it starts
START = [("stop", TIMER, 7.0), ("daemon-reload",), ("start", TIMER, 7.0)]


class Host:
    """A host with one scheduled command, and a systemd that records what it is asked to do."""

    def __init__(self, root: pathlib.Path) -> None:
        self.app = layout.Application("links", str(root))
        self.active, self.calls = False, list[tuple[Any, ...]]()
        for folder in ("etc/links", "etc/systemd/system/multi-user.target.wants", "var/lib/baton/links/suspended"):
            (root / folder).mkdir(parents=True)
        release = self.app.release("aaaa")
        release.mkdir(parents=True)
        (release / "release.json").write_text(json.dumps({"id": "aaaa", "python": "3.11.2", "packages": {}}))
        self.app.path("etc/machine-id").write_text("x")
        for kind in ("timer", "service"):
            self.app.path("etc/systemd/system", f"links-cleanup.{kind}").write_text(f"[{kind}]")
        self.declare(True)

    def declare(self, runs: bool | None) -> None:
        settings = {} if runs is None else {"cleanup": {"runs": runs}}
        self.app.schedule_settings.write_text(json.dumps(settings))

    def record(self) -> None:
        """Record the command as activated."""
        wanted = digests.scheduled(self.app, self.change().process, "aaaa")
        self.app.record.write_text(json.dumps({"processes": {"cleanup": vars(wanted)}}))

    def change(self, process: layout.ProcessType | None = None) -> Schedule:
        found = process or next(one for one in self.app.processes if one.name == "cleanup")
        return Schedule(self.app, found, "aaaa", 7.0)

    @property
    def enabled(self) -> dict[str, str]:
        return {link.name: str(link.readlink()) for link in self.app.started_at_boot.iterdir()}


@pytest.fixture
def host(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    fake = Host(tmp_path)

    def change(*words: Any) -> None:
        fake.calls.append(words)
        fake.active = words[0] != "stop"

    def systemctl(*words: Any, **_: Any) -> None:
        fake.calls.append(words)
        fake.active = False

    monkeypatch.setattr(systemd, "change", change)
    monkeypatch.setattr(systemd, "systemctl", systemctl)
    monkeypatch.setattr(systemd, "is_active", lambda unit: unit == TIMER and fake.active)
    monkeypatch.setattr(systemd, "properties_of_all", lambda *_, **__: [])
    return fake


def test_timer_is_started_within_the_timeout_and_enabled(host: Host) -> None:
    change = host.change()
    assert (change.method, change.timer) == ("start", TIMER)
    assert change.unproven() == f"{TIMER} doesn't run"
    change.execute()
    assert host.calls == START
    assert host.enabled == {TIMER: f"/etc/systemd/system/{TIMER}"}
    assert (change.unproven(), change.refusal(0.0)) == ("", "")
    assert change.result() == {"method": "start", "started": [TIMER], "stopped": [], "seconds": 0.0}


def test_timer_that_should_not_run_is_stopped_and_disabled(host: Host) -> None:
    host.change().execute()
    host.calls.clear()
    host.declare(False)
    change = host.change()
    assert change.method == "stop"
    # a timer that still runs is no reason to fail
    assert change.unproven() == ""
    change.execute()
    assert (host.calls, host.enabled) == ([("stop", TIMER)], {})
    assert change.result() == {"method": "stop", "started": [], "stopped": [TIMER], "seconds": 0.0}
    assert host.app.path("etc/systemd/system", TIMER).exists()


@pytest.mark.parametrize(
    ("active", "recorded", "runs", "suspended", "method"),
    [
        (True, True, True, False, "none"),
        (True, False, True, False, "start"),
        (False, True, True, False, "start"),
        (False, True, False, False, "none"),
        (True, True, False, False, "stop"),
        (True, True, True, True, "stop"),
        (False, True, True, True, "none"),
    ],
)
def test_method_depends_on_timer_and_settings(
    host: Host, active: bool, recorded: bool, runs: bool, suspended: bool, method: str
) -> None:
    if recorded:
        host.record()
    host.active = active
    if active:
        boot.enable(host.app, [TIMER], TIMER)
    host.declare(runs)
    if suspended:
        host.app.suspended("cleanup").touch()
    change = host.change()
    assert change.method == method
    if method == "none":
        change.execute()
        change.revert()
        assert host.calls == []


def test_command_that_is_no_longer_declared_is_removed(host: Host) -> None:
    host.change().execute()
    process = host.change().process
    host.declare(None)
    change = host.change(host.app.as_declared(process))
    assert change.method == "stop"
    change.execute()
    assert host.enabled == {}
    assert [path.name for path in host.app.path("etc/systemd/system").glob("links-*")] == []


def test_revert_restores_what_is_declared_by_then(host: Host) -> None:
    host.declare(False)
    host.active = True
    change = host.change()
    change.execute()
    host.calls.clear()
    host.declare(True)
    change.revert()
    assert (host.calls, list(host.enabled)) == (START, [TIMER])
    assert change.result()["started"] == [TIMER]
