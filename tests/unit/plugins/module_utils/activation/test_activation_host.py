"""Activation on a host with all its parts: files, a socket, a server with workers, a status. Systemd is a stand-in.

Each test says what is to be seen from outside: the order of what happened, what answers on the socket, and what lies on
the disk.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.activation import activation, digests, handover
from ansible_collections.baton.web.plugins.module_utils.app import health_check, layout, server_status
from ansible_collections.baton.web.plugins.module_utils.host import systemd

from tests.support.little_host import BRIDGE, SERVICE, SOCKET, Clock, Host

TIMEOUT = 30.0
BOUND = 15  # seconds that a proof, and the health page, are waited for at most
END_BRIDGE = [f"stop {BRIDGE}", f"reset-failed {BRIDGE}"]
NO_BRIDGE = [f"reset-failed {BRIDGE}"]


def asked(release: str) -> str:
    return f"ask {SERVICE} {release}"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    told = Clock()
    for module in (activation, handover, health_check):
        monkeypatch.setattr(module, "time", told)
    return told


@pytest.fixture
def fresh(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:  # noqa: ARG001
    """A host that has never served."""
    host = Host(pathlib.Path(tempfile.mkdtemp(prefix="baton-")))
    monkeypatch.setenv("PATH", f"{host.root}/bin", prepend=":")
    yield host
    host.end()


@pytest.fixture
def host(fresh: Host, clock: Clock) -> Host:
    """A host that serves aaaa."""
    activate(fresh, "aaaa")
    assert serving(fresh) == "aaaa"
    fresh.forget()
    clock.pauses.clear()
    return fresh


def activate(host: Host, release: str, **how: Any) -> str:
    """Activate a release; returns the way."""
    change = activation.Activation(host.app, release, how.pop("timeout", TIMEOUT), host.health, **how)
    change.execute()
    way: str = change.method
    return way


def refused(host: Host, release: str, **how: Any) -> str:
    """Activate a release that can't be; returns the message."""
    with pytest.raises(layout.ActivationError) as told:
        activate(host, release, **how)
    return str(told.value)


def serving(host: Host) -> str:
    """The release that serves; all that tells of it has to say the same, and nothing may be left of a handover."""
    answers = [host.ask() for _ in range(4)]
    said = server_status.read(host.app, SERVICE)
    told = {answer["release"] for answer in answers} | {worker["release"] for worker in said["workers"]}
    assert {answer["by"] for answer in answers} == {SERVICE}
    assert host.units[BRIDGE].state == "inactive"
    assert said["master"]["pid"] == host.pid()
    record = digests.recorded(host.app)
    assert record is not None
    assert told == {layout.current(host.app)} == {record.release}
    # the processes have the configuration that is on the disk
    on_disk = {name: (host.root / "etc/links" / name).read_text() for name in ("environment", "secrets/TOKEN")}
    assert (answers[0]["environment"], answers[0]["secret"]) == (on_disk["environment"], on_disk["secrets/TOKEN"])
    (release,) = told
    return str(release)


def left_as_it_was(host: Host, before: dict[str, Any], record: bytes) -> None:
    """Whether a handover that failed has changed nothing."""
    assert host.files() == before, "content, mode and owner of every file"
    assert serving(host) == "aaaa"
    assert host.app.record.read_bytes() == record
    assert host.ask()["unit"] == host.loaded[SERVICE] == "[Service]\nNice=0\n"
    assert not list(host.root.rglob("*.baton"))
    assert digests.choose(host.app, digests.digests(host.app, "aaaa")) == "none"


CHANGES = {
    "reload": {"etc/links/environment": 'A="2"'},
    "bridge": {"etc/links/environment": 'A="2"', "etc/links/secrets/TOKEN": "another", "etc/links/secrets/NEW": "new"},
    "reopen": {"etc/systemd/system/links.socket": "[Socket]\nListenStream=/run/links/web.sock\nBacklog=1\n"},
}


def change(host: Host, way: str) -> None:
    """Change the configuration so that the next activation takes this way."""
    for path, text in CHANGES[way].items():
        host.write(path, text, mode=0o600)
    if way == "bridge":
        host.write("etc/systemd/system/links.service", "[Service]\nNice=5\n")
    host.load()


# -- the order of each way ---------------------------------------------------------------------------------


def test_the_first_release_is_started_proven_and_asked(fresh: Host) -> None:
    assert activate(fresh, "aaaa", transaction="one") == "start"
    assert fresh.events == [
        f"sync {fresh.app.before}.new",
        f"sync {fresh.app.release('aaaa')}",
        f"reset-failed {SERVICE} {BRIDGE}",
        f"start {SOCKET}",
        f"start {SERVICE}",
        f"prove {SERVICE}",
        *NO_BRIDGE,
        asked("aaaa"),
        f"sync {fresh.app.state}",
    ]
    assert serving(fresh) == "aaaa"


def test_a_release_is_reloaded_proven_and_asked(host: Host) -> None:
    assert activate(host, "bbbb") == "reload"
    assert host.events == [
        f"sync {host.app.release('bbbb')}",
        f"reload {SERVICE}",
        f"prove {SERVICE}",
        *NO_BRIDGE,
        asked("bbbb"),
        f"sync {host.app.state}",
    ]
    assert serving(host) == "bbbb"


def test_a_bridge_serves_before_the_restart_and_ends_after_the_proof(host: Host) -> None:
    change(host, "bridge")
    assert activate(host, "bbbb") == "bridge"
    assert host.events == [
        f"sync {host.app.release('bbbb')}",
        f"reset-failed {BRIDGE}",
        f"start {BRIDGE}",
        f"prove {BRIDGE}",
        f"restart {SERVICE}",
        f"prove {SERVICE}",
        *END_BRIDGE,
        asked("bbbb"),
        f"sync {host.app.state}",
    ]
    assert serving(host) == "bbbb"
    assert host.ask()["unit"] == "[Service]\nNice=5\n"


def test_a_bridge_that_was_left_is_ended_before_another_is_started(host: Host) -> None:
    systemd.change("start", BRIDGE, TIMEOUT)
    change(host, "bridge")
    host.forget()
    activate(host, "aaaa")
    assert host.events[:3] == [*END_BRIDGE, f"start {BRIDGE}"]
    assert serving(host) == "aaaa"


def test_a_bridge_that_alone_serves_is_not_stopped_first(host: Host) -> None:
    """The service has died, and what a killed handover left is all that there is."""
    systemd.change("start", BRIDGE, TIMEOUT)
    systemd.change("stop", SERVICE, TIMEOUT)
    host.forget()
    assert activate(host, "aaaa") == "start"
    assert [event for event in host.events if event.split()[0] in ("start", "prove", "stop")] == [
        f"start {SOCKET}",
        f"start {SERVICE}",
        f"prove {SERVICE}",
        f"stop {BRIDGE}",
    ]
    assert serving(host) == "aaaa"


def test_a_bridge_that_was_left_beside_what_serves_is_ended(host: Host) -> None:
    systemd.change("start", BRIDGE, TIMEOUT)
    assert activate(host, "aaaa") == "start"
    assert serving(host) == "aaaa"


def test_a_bridge_that_failed_once_does_not_stay_failed(host: Host) -> None:
    host.units[BRIDGE].state = "failed"
    activate(host, "bbbb")
    assert host.units[BRIDGE].state == "inactive"


def test_a_socket_is_opened_anew_while_nothing_listens_on_it(host: Host) -> None:
    change(host, "reopen")
    assert activate(host, "bbbb") == "reopen"
    assert host.events == [
        f"sync {host.app.release('bbbb')}",
        f"stop {SERVICE}",
        f"restart {SOCKET}",
        f"reset-failed {SERVICE} {BRIDGE}",
        f"start {SOCKET}",
        f"start {SERVICE}",
        f"prove {SERVICE}",
        *NO_BRIDGE,
        asked("bbbb"),
        f"sync {host.app.state}",
    ]
    assert serving(host) == "bbbb"


def test_a_second_activation_does_nothing(host: Host) -> None:
    inode = host.app.record.stat().st_ino
    assert activate(host, "aaaa") == "none"
    assert host.events == []
    assert host.app.record.stat().st_ino == inode


def test_new_settings_of_the_same_release_need_no_sync_of_it(host: Host) -> None:
    change(host, "reload")
    assert activate(host, "aaaa") == "reload"
    assert host.events[0] == f"reload {SERVICE}"
    assert host.ask()["environment"] == 'A="2"'


# -- proof -------------------------------------------------------------------------------------------------

NO_PROOF = {
    "none": "the master hasn't written its status",
    "another master": "the master hasn't written its status",
    "booting": "is booting",
    "too few": "2 of 3 workers serve",
    "another release": "serves release 0000, not bbbb",
    "dead worker": "is gone",
}


@pytest.mark.parametrize("status", NO_PROOF)
def test_a_reload_that_is_not_proven_goes_back(host: Host, status: str) -> None:
    before, record = host.files(), host.app.record.read_bytes()
    host.behave("bbbb", status=status)
    said = refused(host, "bbbb")
    assert f"{SERVICE} can't prove that it serves bbbb: " in said
    assert NO_PROOF[status] in said
    assert said.endswith("\nRelease aaaa serves, as before.")
    assert asked("bbbb") not in host.events, "what isn't proven isn't asked either"
    assert host.events.count(f"reload {SERVICE}") == 2
    left_as_it_was(host, before, record)


def test_a_status_of_the_generation_before_is_no_proof_of_the_next(host: Host) -> None:
    host.behave("bbbb", status="silent")
    assert "can't prove that it serves bbbb" in refused(host, "bbbb")


@pytest.mark.parametrize("timeout", [10.0, 300.0])
def test_a_proof_is_waited_for_to_its_bound_and_no_longer(host: Host, clock: Clock, timeout: float) -> None:
    host.behave("bbbb", status="none")
    polls, began = host.count(f"prove {SERVICE}") if host.events else 0, clock.slept
    refused(host, "bbbb", timeout=timeout)
    bound = min(timeout, BOUND)
    assert polls == 0
    # the way back has a proof as well, which comes at once
    assert bound <= clock.slept - began <= bound + 2
    assert bound <= host.count(f"prove {SERVICE}") <= bound + 5


@pytest.mark.parametrize("way", ["reload", "bridge"])
def test_a_proof_that_comes_late_is_one(host: Host, way: str) -> None:
    change(host, way)
    host.behave("bbbb", status="none", proves_after=4)
    assert activate(host, "bbbb") == way
    assert host.count(f"prove {SERVICE}") == 4
    assert host.count(f"prove {BRIDGE}") == (4 if way == "bridge" else 0)
    assert serving(host) == "bbbb"


def test_a_bridge_that_is_not_proven_lets_the_service_run(host: Host) -> None:
    before, record = host.files(), host.app.record.read_bytes()
    pid = host.pid()
    change(host, "bridge")
    host.behave("bbbb", **{BRIDGE: {"status": "booting"}})
    said = refused(host, "bbbb")
    assert f"{BRIDGE} can't prove that it serves bbbb" in said
    assert host.pid() == pid, "it was not restarted"
    assert f"restart {SERVICE}" not in host.events
    assert f"stop {BRIDGE}" in host.events
    # what serves has its old unit, which only a restart would change; the files have it, too
    left_as_it_was(host, before, record)


def test_a_bridge_goes_on_until_the_service_is_proven(host: Host) -> None:
    before, record = host.files(), host.app.record.read_bytes()
    change(host, "bridge")
    host.behave("bbbb", **{SERVICE: {"status": "booting"}})
    said = refused(host, "bbbb")
    assert f"{SERVICE} can't prove that it serves bbbb" in said
    orders = [event for event in host.events if event.split()[0] in ("start", "restart", "stop", "prove")]
    assert orders[:4] == [f"start {BRIDGE}", f"prove {BRIDGE}", f"restart {SERVICE}", f"prove {SERVICE}"]
    # the bridge of the failed release is ended, another one brings what served before
    assert orders[4:] == [
        f"prove {SERVICE}",
        f"stop {BRIDGE}",
        f"start {BRIDGE}",
        f"prove {BRIDGE}",
        f"restart {SERVICE}",
        f"prove {SERVICE}",
        f"stop {BRIDGE}",
        f"prove {SERVICE}",
    ]
    left_as_it_was(host, before, record)


# -- the health page ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["start", "reload", "bridge", "reopen"])
@pytest.mark.parametrize("status", [400, 503])
def test_a_page_that_is_not_well_is_asked_to_its_bound_and_goes_back(
    fresh: Host, clock: Clock, way: str, status: int
) -> None:
    if way == "start":
        fresh.behave("aaaa", statuses=[status])
        said = refused(fresh, "aaaa")
        assert said.endswith("\nThis host has no release, as before.")
        assert layout.current(fresh.app) is None
        assert not fresh.app.record.exists()
        assert fresh.units[SERVICE].state == "inactive"
        assert fresh.listener is None
        release = "aaaa"
    else:
        activate(fresh, "aaaa")
        before, record = fresh.files(), fresh.app.record.read_bytes()
        fresh.forget()
        clock.pauses.clear()
        change(fresh, way)
        fresh.behave("bbbb", statuses=[status])
        said = refused(fresh, "bbbb")
        left_as_it_was(fresh, before, record)
        release = "bbbb"
    assert f"could not be activated ({way}): /health answers {status}: " in said
    # with each pause the clock goes on by a second at least: 15 s are twelve questions
    assert clock.pauses[:5] == [0.25, 0.5, 1.0, 2.0, 2.0]
    assert fresh.count(asked(release)) == 10


@pytest.mark.parametrize("way", ["reload", "bridge", "reopen"])
def test_a_page_that_gets_well_is_well(host: Host, way: str) -> None:
    change(host, way)
    host.behave("bbbb", statuses=[503, 404, 502, 399])
    assert activate(host, "bbbb") == way
    assert host.count(asked("bbbb")) == 4
    assert serving(host) == "bbbb"


def test_a_short_timeout_bounds_the_page_too(host: Host, clock: Clock) -> None:
    host.behave("bbbb", statuses=[503])
    began = clock.slept
    refused(host, "bbbb", timeout=10.0)
    assert 10 <= clock.slept - began <= 12


def test_the_page_is_asked_as_the_edge_asks(host: Host) -> None:
    activate(host, "bbbb")
    head = (host.root / "head").read_text().splitlines()
    assert head[0] == "GET /health HTTP/1.1"
    assert {
        "Host: links.example",
        "X-Forwarded-For: 127.0.0.1",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: links.example",
        "Connection: close",
    } <= set(head)


def test_without_a_health_page_the_proof_is_enough(host: Host) -> None:
    host.behave("bbbb", statuses=[503])
    activation.Activation(host.app, "bbbb", TIMEOUT).execute()
    assert asked("bbbb") not in host.events
    assert serving(host) == "bbbb"


# -- failures in each phase --------------------------------------------------------------------------------

PHASES = [
    ("reload", f"reload {SERVICE}"),
    ("bridge", f"start {BRIDGE}"),
    ("bridge", f"restart {SERVICE}"),
    ("bridge", f"stop {BRIDGE}"),
    ("reopen", f"stop {SERVICE}"),
    ("reopen", f"restart {SOCKET}"),
    ("reopen", f"start {SOCKET}"),
    ("reopen", f"start {SERVICE}"),
]


@pytest.mark.parametrize(("way", "order"), PHASES, ids=[f"{way}: {order}" for way, order in PHASES])
def test_whatever_order_fails_what_served_serves(host: Host, way: str, order: str) -> None:
    before, record = host.files(), host.app.record.read_bytes()
    change(host, way)
    host.fail(order)
    said = refused(host, "bbbb", transaction="one")
    assert said.startswith(f"Release bbbb could not be activated ({way}): ")
    assert said.endswith("\nRelease aaaa serves, as before.")
    assert "what the unit logged" in said
    left_as_it_was(host, before, record)


@pytest.mark.parametrize("order", [f"start {SOCKET}", f"start {SERVICE}"])
def test_a_first_release_that_can_not_start_leaves_nothing(fresh: Host, order: str) -> None:
    fresh.fail(order)
    assert refused(fresh, "aaaa").endswith("\nThis host has no release, as before.")
    assert fresh.events[-2:] == ["daemon-reload", f"stop {SOCKET} {SERVICE} {BRIDGE}"]
    assert layout.current(fresh.app) is None
    assert not fresh.app.record.exists()
    assert fresh.listener is None


@pytest.mark.parametrize("way", ["reload", "bridge", "reopen"])
def test_a_release_that_does_not_boot_says_why(host: Host, way: str) -> None:
    before, record = host.files(), host.app.record.read_bytes()
    change(host, way)
    host.behave("bbbb", boot="fails")
    said = refused(host, "bbbb")
    if way == "reload":
        assert "the worker could not import missing. It logged last:\nwhat the unit logged" in said
    assert said.endswith("\nRelease aaaa serves, as before.")
    left_as_it_was(host, before, record)


def test_a_disk_that_can_not_sync_ends_it_before_the_pointer_moves(host: Host) -> None:
    before, record = host.files(), host.app.record.read_bytes()
    inode = os.lstat(host.app.current).st_ino
    host.program("sync", "#!/bin/sh\nexit 1\n")
    said = refused(host, "bbbb")
    assert said.endswith("\nRelease aaaa serves, as before.")
    assert os.lstat(host.app.current).st_ino == inode
    assert f"reload {SERVICE}" not in host.events
    left_as_it_was(host, before, record)


def test_what_can_not_be_noted_goes_back(host: Host) -> None:
    before, record = host.files(), host.app.record.read_bytes()
    host.program("sync", f'#!/bin/sh\ntest "$2" != {host.app.state}\n')
    change(host, "reload")
    assert refused(host, "bbbb").endswith("\nRelease aaaa serves, as before.")
    left_as_it_was(host, before, record)


def test_a_service_that_was_down_stays_what_it_was_and_is_started_again(host: Host) -> None:
    """What failed was started; the way back starts what served, whatever the unit says by then."""
    before, record = host.files(), host.app.record.read_bytes()
    systemd.change("stop", SERVICE, TIMEOUT)
    host.forget()
    host.behave("bbbb", boot="fails")
    assert "(start)" in refused(host, "bbbb")
    assert host.events.count(f"restart {SERVICE}") == 1
    left_as_it_was(host, before, record)


# -- the way back ------------------------------------------------------------------------------------------


def block(host: Host) -> None:
    """Put something in the place of a file that no file can replace."""
    path = host.root / "etc/links/environment"
    path.unlink()
    (path / "x").mkdir(parents=True)


@pytest.mark.parametrize("serves", [True, False])
def test_the_pointer_goes_back_before_the_files_which_may_fail(host: Host, serves: bool) -> None:
    def happen() -> None:
        block(host)
        if not serves:
            host.stop(SERVICE)

    host.behave("bbbb", boot="fails")
    host.hooks[f"reload {SERVICE}"] = happen
    said = refused(host, "bbbb")
    assert layout.current(host.app) == "aaaa"
    if serves:
        assert "\nRelease aaaa serves, as before, but its settings could not be restored: " in said
        assert host.ask()["release"] == "aaaa"
    else:
        assert "\nRelease aaaa could not be restored: " in said


def test_a_way_back_reloads_what_systemd_has_read(host: Host) -> None:
    change(host, "bridge")
    host.fail(f"restart {SERVICE}")
    refused(host, "bbbb")
    orders = [event for event in host.events if event.split()[0] in ("daemon-reload", "restart")]
    assert orders == [f"restart {SERVICE}", "daemon-reload", f"restart {SERVICE}"]
    assert host.ask()["unit"] == "[Service]\nNice=0\n"


def test_nothing_is_handed_over_on_the_way_back_when_nothing_was(host: Host) -> None:
    """A way back from a reload that was refused sends no second HUP: what serves is proven to."""
    host.behave("bbbb", boot="fails")
    refused(host, "bbbb")
    assert host.events.count(f"reload {SERVICE}") == 1


def test_settings_of_the_same_release_that_are_not_well_go_back_to_the_workers(host: Host) -> None:
    before, record = host.files(), host.app.record.read_bytes()
    change(host, "reload")
    host.behave("aaaa", statuses=[503])
    refused(host, "aaaa")
    assert host.events.count(f"reload {SERVICE}") == 2, "the workers have taken the settings"
    left_as_it_was(host, before, record)


def test_a_way_back_that_is_not_proven_is_not_called_one(host: Host) -> None:
    host.behave("bbbb", statuses=[503])
    host.behave("aaaa", status="booting")
    assert "\nRelease aaaa could not be restored: " in refused(host, "bbbb")


@pytest.mark.parametrize("way", ["reload", "bridge", "reopen"])
def test_a_transaction_is_undone_with_owner_and_mode_of_every_file(host: Host, way: str) -> None:
    before = host.files()
    change(host, way)
    activate(host, "bbbb", transaction="one")
    change(host, "reload")
    activate(host, "cccc", transaction="one")
    host.forget()
    assert activation.revert(host.app, "one", TIMEOUT, host.health) == way
    assert host.files() == before
    assert serving(host) == "aaaa"
    assert host.events[0] == "daemon-reload"
    assert host.events[-2:] == [asked("aaaa"), f"sync {host.app.state}"], "by the same gated way"
    assert host.ask()["unit"] == "[Service]\nNice=0\n"
    assert layout.served(host.app) == ["aaaa"], "what was undone has never served"
    host.forget()
    assert activation.revert(host.app, "one", TIMEOUT, host.health) == "none"
    assert host.events == ["daemon-reload"]


@pytest.mark.parametrize(
    ("path", "mode", "group"), [("etc/links/environment", 0o604, 12345), ("etc/links/secrets/TOKEN", 0o400, 1)]
)
def test_a_file_of_which_only_mode_or_owner_changed_goes_back(host: Host, path: str, mode: int, group: int) -> None:
    before = host.files()
    (host.root / path).chmod(mode)
    if os.geteuid() == 0:
        os.chown(host.root / path, 7, group)
    activation.revert(host.app, "none of these", TIMEOUT)
    assert host.files() == before


def test_files_go_back_before_the_pointer_when_a_transaction_is_undone(host: Host) -> None:
    """What is to be handed over is decided by the files: none of it begins before they are back."""
    change(host, "bridge")
    activate(host, "bbbb", transaction="one")
    block(host)
    host.forget()
    with pytest.raises(layout.ActivationError, match="The previous release could not be restored: "):
        activation.revert(host.app, "one", TIMEOUT, host.health)
    assert layout.current(host.app) == "bbbb"
    assert host.events == []
    assert host.ask()["release"] == "bbbb"


def test_a_file_that_is_as_it_was_is_not_written(host: Host) -> None:
    inodes = {name: (host.root / name).stat().st_ino for name in host.files()}
    host.write("etc/links/environment", 'A="2"')
    activation.revert(host.app, "none of these", TIMEOUT)
    changed = {name for name, inode in inodes.items() if (host.root / name).stat().st_ino != inode}
    assert changed <= {"etc/links/environment"}


def test_what_is_kept_is_for_root_alone_all_the_way(host: Host) -> None:
    host.write("etc/links/environment", 'A="2"', mode=0o640)
    activate(host, "bbbb", transaction="one")
    for folder in (host.app.kept, host.app.before):
        assert folder.stat().st_mode & 0o777 == 0o700
    for path in (host.app.kept / "etc/links/secrets/TOKEN", host.app.before / "kept/etc/links/secrets/TOKEN"):
        assert path.stat().st_mode & 0o777 == 0o400
    assert host.app.record.stat().st_mode & 0o777 == 0o600
    kept = {name: about for name, about in host.files().items() if "kept" not in name}
    for name, about in kept.items():
        found = (host.app.kept / name).stat()
        assert (found.st_mode, found.st_uid, found.st_gid) == about[1:]


def test_no_secret_can_be_read_by_others_while_it_is_copied(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    really = os.open

    def opened(path: str | os.PathLike[str], flags: int, mode: int = 0o777, **how: Any) -> int:
        descriptor = really(path, flags, mode, **how)
        if flags & os.O_CREAT and pathlib.Path(path).name == "TOKEN":
            folder = pathlib.Path(path).parent
            seen.append((os.fstat(descriptor).st_mode & 0o777, folder.stat().st_mode & 0o777))
        return descriptor

    monkeypatch.setattr(os, "open", opened)
    activate(host, "bbbb")
    assert set(seen) == {(0o600, 0o700)}


def test_the_first_snapshot_of_a_transaction_is_the_one_that_counts(host: Host) -> None:
    activate(host, "bbbb", transaction="one")
    activate(host, "cccc", transaction="two")
    assert activation.revert(host.app, "two", TIMEOUT) == "reload"
    assert serving(host) == "bbbb"


def test_undoing_a_first_release_ends_what_serves(fresh: Host) -> None:
    activate(fresh, "aaaa", transaction="one")
    assert activation.revert(fresh.app, "one", TIMEOUT) == "stop"
    assert layout.current(fresh.app) is None
    assert fresh.listener is None
    assert fresh.units[SERVICE].state == "inactive"
    assert not fresh.app.record.exists()
    assert activation.revert(fresh.app, "one", TIMEOUT) == "none"


def test_a_pruned_release_does_not_count_as_one_that_served(host: Host) -> None:
    activate(host, "bbbb")
    shutil.rmtree(host.app.release("aaaa"))
    activate(host, "cccc")
    assert layout.served(host.app) == ["cccc", "bbbb"]


# -- systemd -----------------------------------------------------------------------------------------------


def test_an_order_that_takes_too_long_has_failed(host: Host) -> None:
    host.program("systemctl", "#!/bin/sh\nexec sleep 60\n")
    with pytest.raises(systemd.UnitError, match=rf"`systemctl reload {SERVICE}` took longer than 0 s\. what the unit"):
        systemd.change("reload", SERVICE, 0.1)


def test_a_host_is_ready_when_all_its_workers_serve_what_is_current(host: Host) -> None:
    assert server_status.unready(host.app, host.health) == ""
    host.behave("aaaa", statuses=[404])
    systemd.change("reload", SERVICE, TIMEOUT)
    assert server_status.unready(host.app, host.health).startswith("/health answers 404")
    assert server_status.unready(host.app, None) == ""
    layout.set_current(host.app, "bbbb")
    assert "serves release aaaa, not bbbb" in server_status.unready(host.app, None)
    systemd.change("stop", SERVICE, TIMEOUT)
    assert server_status.unready(host.app, None) == f"{SERVICE} doesn't run"
    layout.set_current(host.app, None)
    assert server_status.unready(host.app, None) == "no release has been activated"
