"""Links and marks of background processes and schedules survive a power loss; test_durability.py explains how."""

from __future__ import annotations

import functools
import json
import pathlib

import pytest
from ansible_collections.baton.web.plugins.module_utils.activation import boot
from ansible_collections.baton.web.plugins.module_utils.app import layout
from ansible_collections.baton.web.plugins.module_utils.host import systemd
from ansible_collections.baton.web.plugins.modules import schedule

from tests.support import modules
from tests.unit.plugins.module_utils.activation.test_background import (  # noqa: F401
    Units,
    activate,
    app,
    declare,
    units,
)
from tests.unit.plugins.module_utils.activation.test_durability import Recorder

WORKERS = ["links-worker@1-1.service", "links-worker@1-2.service"]


@pytest.fixture
def recorder(
    app: layout.Application,  # noqa: F811
    units: Units,  # noqa: ARG001, F811 - created before the recording
    monkeypatch: pytest.MonkeyPatch,
) -> Recorder:
    declare(app, worker={})
    return Recorder(pathlib.Path(app.root), monkeypatch)


def test_enabled_and_disabled_units_are_durable(app: layout.Application, recorder: Recorder) -> None:  # noqa: F811
    boot.enable(app, WORKERS, "links-worker@.service")
    links = [app.started_at_boot / unit for unit in WORKERS]
    recorder.check(*links)
    recorder.moves.clear()
    boot.disable(app, WORKERS)
    recorder.check(*links)
    assert list(app.started_at_boot.iterdir()) == []


def test_units_are_enabled_by_links_to_their_file(app: layout.Application) -> None:  # noqa: F811
    app.started_at_boot.rmdir()
    boot.disable(app, WORKERS)
    assert not app.started_at_boot.exists()
    boot.enable(app, WORKERS, "links-worker@.service")
    # a left-over, which leads elsewhere
    (app.started_at_boot / WORKERS[0]).unlink()
    (app.started_at_boot / WORKERS[0]).symlink_to("/dev/null")
    boot.enable(app, WORKERS, "links-worker@.service")
    targets = {link.name: str(link.readlink()) for link in app.started_at_boot.iterdir()}
    assert targets == dict.fromkeys(WORKERS, "/etc/systemd/system/links-worker@.service")
    boot.disable(app, WORKERS[1:])
    boot.disable(app, WORKERS[1:])
    assert [link.name for link in app.started_at_boot.iterdir()] == WORKERS[:1]


def test_link_of_an_instance_is_durable_before_it_starts(
    app: layout.Application,  # noqa: F811
    units: Units,  # noqa: F811
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started = []

    def change(verb: str, unit: str, timeout: float) -> None:
        recorder.check(app.instances / f"worker-{unit.partition('@')[2].removesuffix('.service')}")
        started.append(unit)
        units.change(verb, unit, timeout)

    monkeypatch.setattr(systemd, "change", change)
    activate(app, "aaaa")
    assert started == WORKERS


@pytest.mark.parametrize("state", ["suspended", "resumed"])
def test_suspension_of_a_schedule_is_durable(
    app: layout.Application,  # noqa: F811
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    state: str,
) -> None:
    monkeypatch.setattr(layout, "Application", functools.partial(layout.Application, root=app.root))
    monkeypatch.setattr(systemd, "change", lambda *_: None)
    app.schedule_settings.write_text(json.dumps({"cleanup": {"runs": True}}))
    mark = app.suspended("cleanup")
    if state == "resumed":
        mark.parent.mkdir()
        mark.touch()
    assert modules.run(schedule, name="links", schedule="cleanup", state=state)["changed"]
    recorder.check(mark)
    assert mark.exists() is (state == "suspended")


def test_record_of_the_part_before_web_is_durable(
    app: layout.Application,  # noqa: F811
    units: Units,  # noqa: ARG001, F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    declare(app, worker={})
    activate(app, "aaaa")
    synced: list[pathlib.Path] = []
    monkeypatch.setattr(layout, "sync_filesystem", synced.append)
    declare(app, worker={"stop_timeout": 99})
    recorder = Recorder(pathlib.Path(app.root), monkeypatch)
    activate(app, "bbbb", part="before_web", transaction="t1")
    recorder.check(app.record)
    # the release before its processes start, and the copy of the configuration before it replaces the previous one
    assert synced == [app.release("bbbb"), app.state]


@pytest.mark.parametrize("strategy", ["overlap", "replace"])
def test_failed_state_of_stopped_processes_is_cleared(
    app: layout.Application,  # noqa: F811
    units: Units,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    strategy: str,
) -> None:
    """Otherwise `systemctl --failed` and the status would list them forever."""
    declare(app, worker={"strategy": strategy})
    activate(app, "aaaa")
    calls: list[tuple[str, ...]] = []

    def systemctl(*words: str, timeout: float = 30) -> object:
        calls.append(words)
        return units.systemctl(*words, timeout=timeout)

    monkeypatch.setattr(systemd, "systemctl", systemctl)
    activate(app, "bbbb")
    cleared = ("reset-failed", *WORKERS)
    assert cleared in calls
    stopped = next(number for number, words in enumerate(calls) if words[0] == "stop" and WORKERS[0] in words)
    assert stopped < calls.index(cleared)
