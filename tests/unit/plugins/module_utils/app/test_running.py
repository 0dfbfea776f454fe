"""Which of an application's processes run on a host, and which host is noted for `hosts: first`."""

from __future__ import annotations

import fnmatch
import pathlib
import subprocess

import pytest
from ansible_collections.baton.web.plugins.module_utils.app import layout, running
from ansible_collections.baton.web.plugins.module_utils.host import systemd


@pytest.fixture
def app(tmp_path: pathlib.Path) -> layout.Application:
    application = layout.Application("links", str(tmp_path))
    application.state.mkdir(parents=True)
    return application


@pytest.mark.parametrize(
    ("unit", "state", "found"),
    [
        ("links-beat@3-1.service", "active", ["app_processes.beat"]),
        ("links-beat@3-1.service", "activating", ["app_processes.beat"]),
        # it still finishes its job
        ("links-beat@3-1.service", "deactivating", ["app_processes.beat"]),
        ("links-beat@3-1.service", "failed", []),
        ("links-beat@3-1.service", "inactive", []),
        ("links-nightly.timer", "active", ["app_schedules.nightly"]),
        # a run continues although its timer was stopped
        ("links-nightly.service", "activating", ["app_schedules.nightly"]),
        ("links.service", "active", []),
        # removed from the settings, but another host must not run it yet
        ("links-bot@1-1.service", "deactivating", ["app_processes.bot"]),
        ("links-bridge.service", "active", []),
        ("links-migration@0123456789abcdef.service", "activating", []),
        ("links-beat-check@3-1.service", "activating", []),
        ("links2-beat@1-1.service", "active", []),
        # or the web service of an application links-beat: for a schedule beat, Baton refuses it
        ("links-beat.service", "active", ["app_schedules.beat"]),
    ],
)
def test_processes_that_have_not_stopped_are_running(
    app: layout.Application, unit: str, state: str, found: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def systemctl(*words: str, **_: object) -> subprocess.CompletedProcess[str]:
        matches = any(fnmatch.fnmatch(unit, word) for word in words)
        return subprocess.CompletedProcess(words, 0, f"Id={unit}\nActiveState={state}\n" if matches else "", "")

    monkeypatch.setattr(systemd, "systemctl", systemctl)
    assert running.alive(app) == found


@pytest.mark.parametrize("state", ["failed", "inactive"])
def test_what_starts_at_boot_is_known_although_it_has_ended(
    app: layout.Application, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it could move to another host, and run on both after a reboot."""
    units = {"links-beat@3-1.service": "beat@", "links-nightly.timer": "nightly.timer", "links.service": "links"}
    shown = "\n".join(f"Id={unit}\nActiveState={state}\n" for unit in units)
    monkeypatch.setattr(systemd, "systemctl", lambda *words, **_: subprocess.CompletedProcess(words, 0, shown, ""))
    assert running.started_at_boot(app) == []
    app.started_at_boot.mkdir(parents=True)
    for unit, file in units.items():
        (app.started_at_boot / unit).symlink_to(f"/etc/systemd/system/{file}")
    assert running.started_at_boot(app) == ["app_processes.beat", "app_schedules.nightly"]
    assert running.alive(app) == []


def test_host_that_is_not_set_up_runs_nothing(tmp_path: pathlib.Path) -> None:
    """It may not even have systemd."""
    assert running.alive(layout.Application("links", str(tmp_path))) == []


def test_noted_host_round_trips(app: layout.Application) -> None:
    assert running.recorded_first_host(app) == ""
    running.record_first_host(app, "app1.example.org")
    assert running.recorded_first_host(app) == "app1.example.org"
    running.record_first_host(app, "")
    assert running.recorded_first_host(app) == ""
    running.record_first_host(app, "")


@pytest.mark.parametrize("note", ["", "-x", "a b", "x" * 300, "{{ x }}", "a\nb"])
def test_invalid_note_is_no_host(app: layout.Application, note: str) -> None:
    app.first_host.write_text(note)
    assert running.recorded_first_host(app) == ""
