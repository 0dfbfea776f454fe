"""The module activate on a host with a real server; systemd is a stand-in."""

from __future__ import annotations

import functools
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
from tests.support.little_host import Host

RUN = deploy_lock.Run("a", "ann@laptop", "")


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """One that serves aaaa, and whose root is what the modules take for theirs."""
    made = Host(pathlib.Path(tempfile.mkdtemp(prefix="baton-")))
    monkeypatch.setenv("PATH", f"{made.root}/bin", prepend=":")
    for part in (layout, masking):
        name = "Application" if part is layout else "masked"
        monkeypatch.setattr(part, name, functools.partial(getattr(part, name), root=str(made.root)))
    assert run(made, release="aaaa")["way"] == "start"
    made.forget()
    yield made
    made.end()


def run(host: Host, *, check: bool = False, **options: Any) -> dict[str, Any]:
    page = {"health_path": host.health.path, "health_listen": host.health.listen, "health_host": host.health.host}
    return modules.run(activate, check=check, name="links", timeout=30, **page, **options)


def test_activation_tells_from_what_to_what(host: Host) -> None:
    told = run(host, release="bbbb")
    assert (told["changed"], told["way"], told["previous"], told["release"]) == (True, "reload", "aaaa", "bbbb")
    assert told["diff"] == {"before": "aaaa\n", "after": "bbbb\n"}
    assert host.ask()["release"] == "bbbb"
    again = run(host, release="bbbb")
    assert (again["changed"], again["way"], again["previous"]) == (False, "none", "bbbb")
    # without a release it is the current one, and anew where that is asked for
    assert [run(host)["way"], run(host, renew=True)["way"]] == ["none", "reload"]


def test_check_mode_tells_the_way_and_changes_nothing(host: Host) -> None:
    assert run(host, check=True, release="bbbb")["way"] == "reload"
    assert run(host, check=True, release="aaaa")["changed"] is False
    # one that isn't staged, as nothing is in a check
    unknown = run(host, check=True, release="dddd")
    assert (unknown["changed"], unknown["way"], unknown["release"]) == (True, "unknown", "dddd")
    assert run(host, check=True, release="bbbb", state="rehearsed")["rehearsed"] is False
    assert not [event for event in host.events if not event.startswith(("prove", "ask"))]
    assert host.ask()["release"] == "aaaa"


def test_transaction_needs_its_lock_and_leads_back_without_it(host: Host) -> None:
    lost = run(host, release="bbbb", transaction="a")
    assert "This run has lost its lock" in lost["msg"]
    assert host.ask()["release"] == "aaaa"
    deploy_lock.take(host.app, RUN, "deploy", 60)
    assert run(host, release="bbbb", transaction="a")["changed"]
    deploy_lock.release(host.app, "a")
    back = run(host, state="reverted", transaction="a")
    assert (back["changed"], back["previous"], back["release"]) == (True, "bbbb", "aaaa")
    assert host.ask()["release"] == "aaaa"
    nothing = run(host, state="reverted", transaction="a")
    assert (nothing["changed"], nothing["way"]) == (False, "none")


def test_lock_of_another_run_stops_both_ways(host: Host) -> None:
    deploy_lock.take(host.app, deploy_lock.Run("b", "bob@laptop", ""), "deploy", 60)
    for state in ("active", "reverted"):
        assert "is being changed by bob@laptop" in run(host, release="bbbb", transaction="a", state=state)["msg"]
    assert host.ask()["release"] == "aaaa"


def test_failure_leaves_secrets_out(host: Host) -> None:
    host.write("etc/links/secrets/TOKEN", "s3cret-value", mode=0o400)
    host.program("journalctl", "#!/bin/sh\necho the password s3cret-value is wrong\n")
    host.fail("start links-bridge.service")
    failed = run(host, release="bbbb")
    assert "Release bbbb could not be activated (bridge): the password *** is wrong" in failed["msg"]
    assert host.ask()["release"] == "aaaa"


def test_host_without_a_release_needs_one_to_be_named(host: Host) -> None:
    host.app.current.unlink()
    assert run(host)["msg"] == "No release has been activated on this host yet. Deploy one."


def test_rehearsal_in_check_mode_boots_nothing(host: Host) -> None:
    told = modules.run(rehearse, check=True, name="links", release="bbbb")
    assert (told["changed"], told["rehearsed"], host.events) == (False, False, [])


def test_rehearsal_tells_of_a_migration_without_its_secrets(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []
    host.write("etc/links/secrets/TOKEN", "s3cret-value", mode=0o400)

    def rehearsed(_app: Any, *options: Any) -> dict[str, Any]:
        asked.append(options)
        return {"rehearsed": True, "seconds": 1.0, "migrates": "Running upgrade  -> 1a2b, s3cret-value"}

    monkeypatch.setattr(rehearsal, "rehearse", rehearsed)
    told = run(host, release="bbbb", state="rehearsed")
    assert (told["changed"], told["rehearsed"], told["release"]) == (False, True, "aaaa")
    assert told["migrates"] == "Running upgrade  -> 1a2b, ***"
    assert modules.run(rehearse, name="links", release="bbbb")["migrates"] == told["migrates"]
    assert asked == [("bbbb", 30, host.health), ("bbbb", 90, None)]
