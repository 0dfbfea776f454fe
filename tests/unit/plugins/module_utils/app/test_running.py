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
    ("unit", "state", "names"),
    [
        ("links-beat@3-1.service", "active", ["beat"]),
        ("links-beat@3-1.service", "activating", ["beat"]),
        # it still finishes its job
        ("links-beat@3-1.service", "deactivating", ["beat"]),
        ("links-beat@3-1.service", "failed", []),
        ("links-beat@3-1.service", "inactive", []),
        ("links-nightly.timer", "active", ["nightly"]),
        # a run continues although its timer was stopped
        ("links-nightly.service", "activating", ["nightly"]),
        ("links.service", "active", []),
        # removed from the settings, but another host must not run it yet
        ("links-bot@1-1.service", "deactivating", ["bot"]),
        ("links-bridge.service", "active", []),
        ("links-migration@0123456789abcdef.service", "activating", []),
        ("links-beat-check@3-1.service", "activating", []),
        ("links2-beat@1-1.service", "active", []),
    ],
)
def test_processes_that_have_not_stopped_are_running(
    app: layout.Application, unit: str, state: str, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def systemctl(*words: str, **_: object) -> subprocess.CompletedProcess[str]:
        matches = any(fnmatch.fnmatch(unit, word) for word in words)
        return subprocess.CompletedProcess(words, 0, f"Id={unit}\nActiveState={state}\n" if matches else "", "")

    monkeypatch.setattr(systemd, "systemctl", systemctl)
    assert running.names(app) == names


def test_host_that_is_not_set_up_runs_nothing(tmp_path: pathlib.Path) -> None:
    """It may not even have systemd."""
    assert running.names(layout.Application("links", str(tmp_path))) == []


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
