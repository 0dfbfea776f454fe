"""Activation on a fake host with real files, a real socket, and a server with workers. Only systemd is a stand-in.

Each test asserts what is visible from outside: the order of events, the answers on the socket, and the files on disk.
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

from tests.support.fake_host import BRIDGE, SERVICE, SOCKET, Clock, Host

TIMEOUT = 30.0
BOUND = 15  # seconds after which a proof, and the health page, are given up
END_BRIDGE = [f"stop {BRIDGE}", f"reset-failed {BRIDGE}"]
NO_BRIDGE = [f"reset-failed {BRIDGE}"]


def page_request(release: str) -> str:
    return f"ask {SERVICE} {release}"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    for module in (activation, handover, health_check):
        monkeypatch.setattr(module, "time", fake)
    return fake


@pytest.fixture
def fresh(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:  # noqa: ARG001
    """A host on which no release has served."""
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


def activate(host: Host, release: str, **options: Any) -> str:
    """Activate a release; return the method."""
    change = activation.Activation(host.app, release, options.pop("timeout", TIMEOUT), host.health, **options)
    change.execute()
    method: str = change.method
    return method


def activate_and_fail(host: Host, release: str, **options: Any) -> str:
    """Activate a release, which must fail; return the message."""
    with pytest.raises(layout.ActivationError) as caught:
        activate(host, release, **options)
    return str(caught.value)


def serving(host: Host) -> str:
    """The release that serves. All sources must agree, and nothing may be left of a handover."""
    answers = [host.ask() for _ in range(4)]
    status = server_status.read(host.app, SERVICE)
    releases = {answer["release"] for answer in answers} | {worker["release"] for worker in status["workers"]}
    assert {answer["by"] for answer in answers} == {SERVICE}
    assert host.units[BRIDGE].state == "inactive"
    assert status["master"]["pid"] == host.pid()
    record = digests.recorded(host.app)
    assert record is not None
    assert releases == {layout.current(host.app)} == {record.release}
    # the processes have the configuration on the disk
    on_disk = {name: (host.root / "etc/links" / name).read_text() for name in ("environment", "secrets/TOKEN")}
    assert (answers[0]["environment"], answers[0]["secret"]) == (on_disk["environment"], on_disk["secrets/TOKEN"])
    (release,) = releases
    return str(release)


def assert_unchanged(host: Host, before: dict[str, Any], record: bytes) -> None:
    """Assert that a failed handover has changed nothing."""
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


def change(host: Host, method: str) -> None:
    """Change the configuration so that the next activation takes this method."""
    for path, text in CHANGES[method].items():
        host.write(path, text, mode=0o600)
    if method == "bridge":
        host.write("etc/systemd/system/links.service", "[Service]\nNice=5\n")
    host.load()


# -- the order of each method ---------------------------------------------------------------------------------


def test_start_proves_the_release_and_requests_the_page(fresh: Host) -> None:
    assert activate(fresh, "aaaa", transaction="one") == "start"
    assert fresh.events == [
        f"sync {fresh.app.before}.new",
        f"sync {fresh.app.release('aaaa')}",
        f"reset-failed {SERVICE} {BRIDGE}",
        f"start {SOCKET}",
        f"start {SERVICE}",
        f"prove {SERVICE}",
        *NO_BRIDGE,
        page_request("aaaa"),
        f"sync {fresh.app.state}",
    ]
    assert serving(fresh) == "aaaa"


def test_reload_proves_the_release_and_requests_the_page(host: Host) -> None:
    assert activate(host, "bbbb") == "reload"
    assert host.events == [
        f"sync {host.app.release('bbbb')}",
        f"reload {SERVICE}",
        f"prove {SERVICE}",
        *NO_BRIDGE,
        page_request("bbbb"),
        f"sync {host.app.state}",
    ]
    assert serving(host) == "bbbb"


def test_bridge_serves_before_the_restart_and_stops_after_the_proof(host: Host) -> None:
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
        page_request("bbbb"),
        f"sync {host.app.state}",
    ]
    assert serving(host) == "bbbb"
    assert host.ask()["unit"] == "[Service]\nNice=5\n"


def test_leftover_bridge_is_stopped_before_another_starts(host: Host) -> None:
    systemd.change("start", BRIDGE, TIMEOUT)
    change(host, "bridge")
    host.forget()
    activate(host, "aaaa")
    assert host.events[:3] == [*END_BRIDGE, f"start {BRIDGE}"]
    assert serving(host) == "aaaa"


def test_bridge_that_alone_serves_is_not_stopped_first(host: Host) -> None:
    """The service has died, and only a killed handover's bridge serves."""
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


def test_leftover_bridge_beside_the_service_is_stopped(host: Host) -> None:
    systemd.change("start", BRIDGE, TIMEOUT)
    assert activate(host, "aaaa") == "start"
    assert serving(host) == "aaaa"


def test_failed_state_of_the_bridge_is_reset(host: Host) -> None:
    host.units[BRIDGE].state = "failed"
    activate(host, "bbbb")
    assert host.units[BRIDGE].state == "inactive"


def test_socket_is_reopened_while_nothing_listens(host: Host) -> None:
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
        page_request("bbbb"),
        f"sync {host.app.state}",
    ]
    assert serving(host) == "bbbb"


def test_second_activation_does_nothing(host: Host) -> None:
    inode = host.app.record.stat().st_ino
    assert activate(host, "aaaa") == "none"
    assert host.events == []
    assert host.app.record.stat().st_ino == inode


def test_new_settings_of_the_same_release_need_no_sync(host: Host) -> None:
    change(host, "reload")
    assert activate(host, "aaaa") == "reload"
    assert host.events[0] == f"reload {SERVICE}"
    assert host.ask()["environment"] == 'A="2"'


# -- proof -------------------------------------------------------------------------------------------------

NO_PROOF = {
    "none": "the master hasn't written its status",
    "another master": "the master hasn't written its status",
    "booting": "workers serve",
    "too few": "2 of 3 workers serve",
    "another release": "serves release 0000, not bbbb",
    "dead worker": "no longer exists",
}


@pytest.mark.parametrize("status", NO_PROOF)
def test_unproven_reload_is_reverted(host: Host, status: str) -> None:
    before, record = host.files(), host.app.record.read_bytes()
    host.behave("bbbb", status=status)
    message = activate_and_fail(host, "bbbb")
    assert f"{SERVICE} can't prove that it serves bbbb: " in message
    assert NO_PROOF[status] in message
    assert message.endswith("\nRelease aaaa serves, as before.")
    assert page_request("bbbb") not in host.events, "an unproven release gets no request for the page"
    assert host.events.count(f"reload {SERVICE}") == 2
    assert_unchanged(host, before, record)


def test_status_of_the_previous_generation_is_no_proof(host: Host) -> None:
    host.behave("bbbb", status="silent")
    assert "can't prove that it serves bbbb" in activate_and_fail(host, "bbbb")


@pytest.mark.parametrize("timeout", [10.0, 300.0])
def test_proof_is_awaited_up_to_its_bound(host: Host, clock: Clock, timeout: float) -> None:
    host.behave("bbbb", status="none")
    polls, began = host.count(f"prove {SERVICE}") if host.events else 0, clock.slept
    activate_and_fail(host, "bbbb", timeout=timeout)
    bound = min(timeout, BOUND)
    assert polls == 0
    # the revert needs a proof as well, which succeeds at once
    assert bound <= clock.slept - began <= bound + 2
    assert bound <= host.count(f"prove {SERVICE}") <= bound + 5


@pytest.mark.parametrize("method", ["reload", "bridge"])
def test_late_proof_is_accepted(host: Host, method: str) -> None:
    change(host, method)
    host.behave("bbbb", status="none", proves_after=4)
    assert activate(host, "bbbb") == method
    assert host.count(f"prove {SERVICE}") == 4
    assert host.count(f"prove {BRIDGE}") == (4 if method == "bridge" else 0)
    assert serving(host) == "bbbb"


def test_unproven_bridge_leaves_the_service_running(host: Host) -> None:
    before, record = host.files(), host.app.record.read_bytes()
    pid = host.pid()
    change(host, "bridge")
    host.behave("bbbb", **{BRIDGE: {"status": "booting"}})
    message = activate_and_fail(host, "bbbb")
    assert f"{BRIDGE} can't prove that it serves bbbb" in message
    assert host.pid() == pid, "it was not restarted"
    assert f"restart {SERVICE}" not in host.events
    assert f"stop {BRIDGE}" in host.events
    # the serving master still has its old unit, which only a restart would change, and so have the files
    assert_unchanged(host, before, record)


def test_bridge_runs_until_the_service_is_proven(host: Host) -> None:
    before, record = host.files(), host.app.record.read_bytes()
    change(host, "bridge")
    host.behave("bbbb", **{SERVICE: {"status": "booting"}})
    message = activate_and_fail(host, "bbbb")
    assert f"{SERVICE} can't prove that it serves bbbb" in message
    orders = [event for event in host.events if event.split()[0] in ("start", "restart", "stop", "prove")]
    assert orders[:4] == [f"start {BRIDGE}", f"prove {BRIDGE}", f"restart {SERVICE}", f"prove {SERVICE}"]
    # the failed release's bridge is stopped; another one restores the previous release
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
    assert_unchanged(host, before, record)


# -- the health page ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["start", "reload", "bridge", "reopen"])
@pytest.mark.parametrize("status", [400, 503])
def test_failing_page_is_retried_to_its_bound_and_reverted(fresh: Host, clock: Clock, method: str, status: int) -> None:
    if method == "start":
        fresh.behave("aaaa", statuses=[status])
        message = activate_and_fail(fresh, "aaaa")
        assert message.endswith("\nThis host has no release, as before.")
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
        change(fresh, method)
        fresh.behave("bbbb", statuses=[status])
        message = activate_and_fail(fresh, "bbbb")
        assert_unchanged(fresh, before, record)
        release = "bbbb"
    assert f"could not be activated ({method}): /health answers {status}: " in message
    # each pause advances the clock by at least a second, so 15 s allow ten requests
    assert clock.pauses[:5] == [0.25, 0.5, 1.0, 2.0, 2.0]
    assert fresh.count(page_request(release)) == 10


@pytest.mark.parametrize("method", ["reload", "bridge", "reopen"])
def test_page_that_recovers_is_accepted(host: Host, method: str) -> None:
    change(host, method)
    host.behave("bbbb", statuses=[503, 404, 502, 399])
    assert activate(host, "bbbb") == method
    assert host.count(page_request("bbbb")) == 4
    assert serving(host) == "bbbb"


def test_short_timeout_also_limits_the_page(host: Host, clock: Clock) -> None:
    host.behave("bbbb", statuses=[503])
    began = clock.slept
    activate_and_fail(host, "bbbb", timeout=10.0)
    assert 10 <= clock.slept - began <= 12


def test_page_is_requested_as_the_edge_would(host: Host) -> None:
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


def test_proof_suffices_without_a_health_page(host: Host) -> None:
    host.behave("bbbb", statuses=[503])
    activation.Activation(host.app, "bbbb", TIMEOUT).execute()
    assert page_request("bbbb") not in host.events
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


@pytest.mark.parametrize(("method", "order"), PHASES, ids=[f"{method}: {order}" for method, order in PHASES])
def test_failed_command_keeps_the_previous_release_serving(host: Host, method: str, order: str) -> None:
    before, record = host.files(), host.app.record.read_bytes()
    change(host, method)
    host.fail(order)
    message = activate_and_fail(host, "bbbb", transaction="one")
    assert message.startswith(f"Release bbbb could not be activated ({method}): ")
    assert message.endswith("\nRelease aaaa serves, as before.")
    assert "what the unit logged" in message
    assert_unchanged(host, before, record)


@pytest.mark.parametrize("order", [f"start {SOCKET}", f"start {SERVICE}"])
def test_first_release_that_cannot_start_leaves_nothing(fresh: Host, order: str) -> None:
    fresh.fail(order)
    assert activate_and_fail(fresh, "aaaa").endswith("\nThis host has no release, as before.")
    assert fresh.events[-2:] == ["daemon-reload", f"stop {SOCKET} {SERVICE} {BRIDGE}"]
    assert layout.current(fresh.app) is None
    assert not fresh.app.record.exists()
    assert fresh.listener is None


@pytest.mark.parametrize("method", ["reload", "bridge", "reopen"])
def test_release_that_does_not_boot_reports_the_cause(host: Host, method: str) -> None:
    before, record = host.files(), host.app.record.read_bytes()
    change(host, method)
    host.behave("bbbb", boot="fails")
    message = activate_and_fail(host, "bbbb")
    if method == "reload":
        assert "the worker could not import missing. It logged last:\nwhat the unit logged" in message
    assert message.endswith("\nRelease aaaa serves, as before.")
    assert_unchanged(host, before, record)


def test_failed_sync_ends_the_activation_before_the_symlink_moves(host: Host) -> None:
    before, record = host.files(), host.app.record.read_bytes()
    inode = os.lstat(host.app.current).st_ino
    host.program("sync", "exit 1")
    message = activate_and_fail(host, "bbbb")
    assert message.endswith("\nRelease aaaa serves, as before.")
    assert os.lstat(host.app.current).st_ino == inode
    assert f"reload {SERVICE}" not in host.events
    assert_unchanged(host, before, record)


def test_failed_record_is_reverted(host: Host) -> None:
    before, record = host.files(), host.app.record.read_bytes()
    host.program("sync", f'test "$2" != {host.app.state}')
    change(host, "reload")
    assert activate_and_fail(host, "bbbb").endswith("\nRelease aaaa serves, as before.")
    assert_unchanged(host, before, record)


def test_stopped_service_is_started_again_by_the_revert(host: Host) -> None:
    """The failed attempt started the service; the revert starts the previous release, whatever state the unit has."""
    before, record = host.files(), host.app.record.read_bytes()
    systemd.change("stop", SERVICE, TIMEOUT)
    host.forget()
    host.behave("bbbb", boot="fails")
    assert "(start)" in activate_and_fail(host, "bbbb")
    assert host.events.count(f"restart {SERVICE}") == 1
    assert_unchanged(host, before, record)


# -- the revert --------------------------------------------------------------------------------------------


def block(host: Host) -> None:
    """Put a folder in the place of a file, so that it can't be replaced."""
    path = host.root / "etc/links/environment"
    path.unlink()
    (path / "x").mkdir(parents=True)


@pytest.mark.parametrize("serves", [True, False])
def test_symlink_is_reverted_before_the_files_which_may_fail(host: Host, serves: bool) -> None:
    def sabotage() -> None:
        block(host)
        if not serves:
            host.stop(SERVICE)

    host.behave("bbbb", boot="fails")
    host.hooks[f"reload {SERVICE}"] = sabotage
    message = activate_and_fail(host, "bbbb")
    assert layout.current(host.app) == "aaaa"
    if serves:
        assert "\nRelease aaaa serves, as before, but its settings could not be restored: " in message
        assert host.ask()["release"] == "aaaa"
    else:
        assert "\nRelease aaaa could not be restored: " in message


def test_revert_reloads_the_units(host: Host) -> None:
    change(host, "bridge")
    host.fail(f"restart {SERVICE}")
    activate_and_fail(host, "bbbb")
    orders = [event for event in host.events if event.split()[0] in ("daemon-reload", "restart")]
    assert orders == [f"restart {SERVICE}", "daemon-reload", f"restart {SERVICE}"]
    assert host.ask()["unit"] == "[Service]\nNice=0\n"


def test_refused_reload_is_not_repeated_by_the_revert(host: Host) -> None:
    """The previous release still serves and is proven, so the revert sends no second HUP."""
    host.behave("bbbb", boot="fails")
    activate_and_fail(host, "bbbb")
    assert host.events.count(f"reload {SERVICE}") == 1


def test_failing_settings_of_the_same_release_are_reverted_in_the_workers(host: Host) -> None:
    before, record = host.files(), host.app.record.read_bytes()
    change(host, "reload")
    host.behave("aaaa", statuses=[503])
    activate_and_fail(host, "aaaa")
    assert host.events.count(f"reload {SERVICE}") == 2, "the workers had loaded the settings"
    assert_unchanged(host, before, record)


def test_unproven_revert_is_reported_as_failed(host: Host) -> None:
    host.behave("bbbb", statuses=[503])
    host.behave("aaaa", status="booting")
    assert "\nRelease aaaa could not be restored: " in activate_and_fail(host, "bbbb")


@pytest.mark.parametrize("method", ["reload", "bridge", "reopen"])
def test_revert_restores_owner_and_mode_of_every_file(host: Host, method: str) -> None:
    before = host.files()
    change(host, method)
    activate(host, "bbbb", transaction="one")
    change(host, "reload")
    activate(host, "cccc", transaction="one")
    host.forget()
    assert activation.revert(host.app, "one", TIMEOUT, host.health) == method
    assert host.files() == before
    assert serving(host) == "aaaa"
    assert host.events[0] == "daemon-reload"
    assert host.events[-2:] == [page_request("aaaa"), f"sync {host.app.state}"], "with proof and health page"
    assert host.ask()["unit"] == "[Service]\nNice=0\n"
    assert layout.served(host.app) == ["aaaa"], "a reverted release doesn't count"
    host.forget()
    assert activation.revert(host.app, "one", TIMEOUT, host.health) == "none"
    assert host.events == ["daemon-reload"]


@pytest.mark.parametrize(
    ("path", "mode", "group"), [("etc/links/environment", 0o604, 12345), ("etc/links/secrets/TOKEN", 0o400, 1)]
)
def test_file_with_another_mode_or_owner_is_restored(host: Host, path: str, mode: int, group: int) -> None:
    before = host.files()
    (host.root / path).chmod(mode)
    if os.geteuid() == 0:
        os.chown(host.root / path, 7, group)
    activation.revert(host.app, "another", TIMEOUT)
    assert host.files() == before


def test_revert_of_a_transaction_restores_the_files_before_the_symlink(host: Host) -> None:
    """The files determine what is handed over, so no handover may begin before they are restored."""
    change(host, "bridge")
    activate(host, "bbbb", transaction="one")
    block(host)
    host.forget()
    with pytest.raises(layout.ActivationError, match="The previous release could not be restored: "):
        activation.revert(host.app, "one", TIMEOUT, host.health)
    assert layout.current(host.app) == "bbbb"
    assert host.events == []
    assert host.ask()["release"] == "bbbb"


def test_unchanged_file_is_not_written(host: Host) -> None:
    inodes = {name: (host.root / name).stat().st_ino for name in host.files()}
    host.write("etc/links/environment", 'A="2"')
    activation.revert(host.app, "another", TIMEOUT)
    changed = {name for name, inode in inodes.items() if (host.root / name).stat().st_ino != inode}
    assert changed <= {"etc/links/environment"}


def test_kept_files_are_readable_only_by_root(host: Host) -> None:
    host.write("etc/links/environment", 'A="2"', mode=0o640)
    activate(host, "bbbb", transaction="one")
    for folder in (host.app.kept, host.app.before):
        assert folder.stat().st_mode & 0o777 == 0o700
    for path in (host.app.kept / "etc/links/secrets/TOKEN", host.app.before / "kept/etc/links/secrets/TOKEN"):
        assert path.stat().st_mode & 0o777 == 0o400
    assert host.app.record.stat().st_mode & 0o777 == 0o600
    kept = {name: status for name, status in host.files().items() if "kept" not in name}
    for name, status in kept.items():
        found = (host.app.kept / name).stat()
        assert (found.st_mode, found.st_uid, found.st_gid) == status[1:]


def test_secrets_are_never_readable_by_others_while_they_are_copied(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[tuple[int, int]] = []
    open_file = os.open

    def opened(path: str | os.PathLike[str], flags: int, mode: int = 0o777, **options: Any) -> int:
        descriptor = open_file(path, flags, mode, **options)
        if flags & os.O_CREAT and pathlib.Path(path).name == "TOKEN":
            folder = pathlib.Path(path).parent
            modes.append((os.fstat(descriptor).st_mode & 0o777, folder.stat().st_mode & 0o777))
        return descriptor

    monkeypatch.setattr(os, "open", opened)
    activate(host, "bbbb")
    assert set(modes) == {(0o600, 0o700)}


def test_first_snapshot_of_a_transaction_is_used(host: Host) -> None:
    activate(host, "bbbb", transaction="one")
    activate(host, "cccc", transaction="two")
    assert activation.revert(host.app, "two", TIMEOUT) == "reload"
    assert serving(host) == "bbbb"


def test_revert_of_a_first_release_stops_it(fresh: Host) -> None:
    activate(fresh, "aaaa", transaction="one")
    assert activation.revert(fresh.app, "one", TIMEOUT) == "stop"
    assert layout.current(fresh.app) is None
    assert fresh.listener is None
    assert fresh.units[SERVICE].state == "inactive"
    assert not fresh.app.record.exists()
    assert activation.revert(fresh.app, "one", TIMEOUT) == "none"


def test_pruned_release_is_no_longer_recorded_as_served(host: Host) -> None:
    activate(host, "bbbb")
    shutil.rmtree(host.app.release("aaaa"))
    activate(host, "cccc")
    assert layout.served(host.app) == ["cccc", "bbbb"]


# -- systemd -----------------------------------------------------------------------------------------------


def test_command_that_exceeds_its_timeout_fails(host: Host) -> None:
    host.program("systemctl", "exec sleep 60")
    with pytest.raises(systemd.UnitError, match=rf"`systemctl reload {SERVICE}` took longer than 0 s\. what the unit"):
        systemd.change("reload", SERVICE, 0.1)


def test_host_is_ready_when_all_workers_serve_the_current_release(host: Host) -> None:
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
