"""What of an application runs on a host, and which host was the one for what runs alone."""

from __future__ import annotations

import fnmatch
import json
import pathlib
import subprocess

import pytest
from ansible_collections.baton.web.plugins.module_utils.app import layout, running
from ansible_collections.baton.web.plugins.module_utils.host import systemd


@pytest.fixture
def app(tmp_path: pathlib.Path) -> layout.Application:
    application = layout.Application("links", str(tmp_path))
    application.state.mkdir(parents=True)
    about = {"count": 0, "strategy": "replace", "order": "after_web", "settle_seconds": 0, "stop_timeout": 9}
    application.process_settings.parent.mkdir(parents=True)
    application.process_settings.write_text(json.dumps({name: {**about, "check": False} for name in ("beat", "bee")}))
    application.schedule_settings.write_text(json.dumps({name: {"runs": False} for name in ("nightly", "hourly")}))
    return application


@pytest.mark.parametrize(
    ("unit", "state", "names"),
    [
        ("links-beat@3-1.service", "active", ["beat"]),
        ("links-beat@3-1.service", "activating", ["beat"]),
        # until it has ended its job
        ("links-beat@3-1.service", "deactivating", ["beat"]),
        ("links-beat@3-1.service", "failed", []),
        ("links-beat@3-1.service", "inactive", []),
        ("links-nightly.timer", "active", ["nightly"]),
        # a run goes on although the timer was stopped
        ("links-nightly.service", "activating", ["nightly"]),
        ("links.service", "active", []),
        ("links-bees@1-1.service", "active", []),
    ],
)
def test_what_has_not_stopped_runs(
    app: layout.Application, unit: str, state: str, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def systemctl(*words: str, **_: object) -> subprocess.CompletedProcess[str]:
        shown = any(fnmatch.fnmatch(unit, word) for word in words)
        return subprocess.CompletedProcess(words, 0, f"Id={unit}\nActiveState={state}\n" if shown else "", "")

    monkeypatch.setattr(systemd, "systemctl", systemctl)
    assert running.names(app) == names


def test_a_host_without_any_asks_nobody(tmp_path: pathlib.Path) -> None:
    assert running.names(layout.Application("links", str(tmp_path))) == []


def test_settings_that_cannot_be_read_are_told_of_elsewhere(app: layout.Application) -> None:
    app.process_settings.write_text("{")
    assert running.names(app) == []


def test_a_note_is_read_as_it_was_written(app: layout.Application) -> None:
    assert running.recorded_first_host(app) == ""
    running.record_first_host(app, "app1.example.org")
    assert running.recorded_first_host(app) == "app1.example.org"
    running.record_first_host(app, "")
    assert running.recorded_first_host(app) == ""
    running.record_first_host(app, "")


@pytest.mark.parametrize("said", ["", "-x", "a b", "x" * 300, "{{ x }}", "a\nb"])
def test_a_note_that_is_no_host_is_none(app: layout.Application, said: str) -> None:
    app.first_host.write_text(said)
    assert running.recorded_first_host(app) == ""
