"""The module activate on a host with a real server and a fake systemd."""

from __future__ import annotations

import functools
import json
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.activation import rehearsal
from ansible_collections.baton.web.plugins.module_utils.app import layout, masking
from ansible_collections.baton.web.plugins.module_utils.change import deploy_lock
from ansible_collections.baton.web.plugins.modules import activate, rehearse

from tests.support import modules
from tests.support.fake_host import Host

RUN = deploy_lock.Run("a", "ann@laptop", "")


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """A host that serves aaaa. Its root is that of the modules."""
    fake = Host(pathlib.Path(tempfile.mkdtemp(prefix="baton-")))
    monkeypatch.setenv("PATH", f"{fake.root}/bin", prepend=":")
    for part in (layout, masking):
        name = "Application" if part is layout else "masked"
        monkeypatch.setattr(part, name, functools.partial(getattr(part, name), root=str(fake.root)))
    assert run(fake, release="aaaa")["method"] == "start"
    fake.forget()
    yield fake
    fake.end()


def run(host: Host, *, check: bool = False, **options: Any) -> dict[str, Any]:
    page = {"health_path": host.health.path, "health_listen": host.health.listen, "health_host": host.health.host}
    return modules.run(activate, check=check, name="links", timeout=30, **page, **options)


def test_activation_reports_the_previous_and_the_new_release(host: Host) -> None:
    result = run(host, release="bbbb")
    assert (result["changed"], result["method"], result["previous"], result["release"]) == (
        True,
        "reload",
        "aaaa",
        "bbbb",
    )
    assert result["diff"] == {"before": "aaaa\n", "after": "bbbb\n"}
    assert host.ask()["release"] == "bbbb"
    again = run(host, release="bbbb")
    assert (again["changed"], again["method"], again["previous"]) == (False, "none", "bbbb")
    # the default is the current release, whose workers are replaced on request
    assert [run(host)["method"], run(host, restart_workers=True)["method"]] == ["none", "reload"]


def test_commands_are_recorded_where_nothing_has_to_be_activated(host: Host) -> None:
    """A rollback to the release compares them. The type runs only on another host."""
    settings = {"strategy": "replace", "order": "after_web", "settle_seconds": 5, "stop_timeout": 30, "check": False}
    host.write("etc/links/processes.json", json.dumps({"beat": {"command": "exec tick", "count": 0, **settings}}))
    assert host.app.commands == {"app_processes.beat": "exec tick"}
    for part, check in (("before_web", False), ("web", True)):
        assert run(host, part=part, check=check)["changed"] is False
        assert layout.recorded_commands(host.app) == {"aaaa": {}}
    assert run(host, part="web")["changed"] is False
    assert layout.recorded_commands(host.app) == {"aaaa": {"app_processes.beat": "exec tick"}}


def test_check_mode_reports_the_method_and_changes_nothing(host: Host) -> None:
    assert run(host, check=True, release="bbbb")["method"] == "reload"
    assert run(host, check=True, release="aaaa")["changed"] is False
    # not staged, because check mode stages nothing
    unknown = run(host, check=True, release="dddd")
    assert (unknown["changed"], unknown["method"], unknown["release"]) == (True, "unknown", "dddd")
    assert run(host, check=True, release="bbbb", state="rehearsed")["rehearsed"] is False
    assert not [event for event in host.events if not event.startswith(("prove", "ask"))]
    assert host.ask()["release"] == "aaaa"


def test_activation_needs_the_lock_and_revert_does_not(host: Host) -> None:
    lost = run(host, release="bbbb", transaction="a")
    assert "This run has lost its lock" in lost["msg"]
    assert host.ask()["release"] == "aaaa"
    deploy_lock.take(host.app, RUN, "deploy", 60)
    assert run(host, release="bbbb", transaction="a")["changed"]
    deploy_lock.release(host.app, "a")
    reverted = run(host, state="reverted", transaction="a")
    assert (reverted["changed"], reverted["previous"], reverted["release"]) == (True, "bbbb", "aaaa")
    assert host.ask()["release"] == "aaaa"
    again = run(host, state="reverted", transaction="a")
    assert (again["changed"], again["method"]) == (False, "none")


def test_lock_of_another_run_prevents_activation_and_revert(host: Host) -> None:
    deploy_lock.take(host.app, deploy_lock.Run("b", "bob@laptop", ""), "deploy", 60)
    for state in ("active", "reverted"):
        assert "is being changed by bob@laptop" in run(host, release="bbbb", transaction="a", state=state)["msg"]
    assert host.ask()["release"] == "aaaa"


def test_secrets_are_masked_in_a_failure(host: Host) -> None:
    host.write("etc/links/secrets/TOKEN", "s3cret-value", mode=0o400)
    host.program("journalctl", "#!/bin/sh\necho the password s3cret-value is wrong\n")
    host.fail("start links-bridge.service")
    failed = run(host, release="bbbb")
    assert "Release bbbb could not be activated (bridge): the password *** is wrong" in failed["msg"]
    assert host.ask()["release"] == "aaaa"


def test_host_without_a_release_is_reported(host: Host) -> None:
    host.app.current.unlink()
    assert run(host)["msg"] == "No release has been activated on this host yet. Deploy one."


def test_rehearsal_in_check_mode_boots_nothing(host: Host) -> None:
    result = modules.run(rehearse, check=True, name="links", release="bbbb")
    assert (result["changed"], result["rehearsed"], host.events) == (False, False, [])


def test_rehearsal_reports_its_logs_with_masked_secrets(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    host.write("etc/links/secrets/TOKEN", "s3cret-value", mode=0o400)

    def rehearsed(_app: Any, *options: Any) -> dict[str, Any]:
        calls.append(options)
        logged = {"migrates": "Running upgrade  -> 1a2b, s3cret-value", "unchecked": "no s3cret-value"}
        return {"rehearsed": True, "seconds": 1.0, **logged}

    monkeypatch.setattr(rehearsal, "rehearse", rehearsed)
    result = run(host, release="bbbb", state="rehearsed")
    assert (result["changed"], result["rehearsed"], result["release"]) == (False, True, "aaaa")
    assert result["migrates"] == "Running upgrade  -> 1a2b, ***"
    assert result["unchecked"] == "no ***"
    assert modules.run(rehearse, name="links", release="bbbb")["migrates"] == result["migrates"]
    assert calls == [("bbbb", 30, host.health), ("bbbb", 90, None)]
