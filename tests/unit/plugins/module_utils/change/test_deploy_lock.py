"""The deploy lock: one change of the fleet at a time, and a dead holder blocks nobody."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import pathlib
import stat
import threading
import time

import pytest
from ansible_collections.baton.web.plugins.module_utils.app.layout import Application
from ansible_collections.baton.web.plugins.module_utils.change import deploy_lock, table

ANN = deploy_lock.Run("a", "ann@laptop", "ann's process")
BOB = deploy_lock.Run("b", "bob@desk", "bob's process")


@pytest.fixture
def app(tmp_path: pathlib.Path) -> Application:
    return Application("links", str(tmp_path))


def held(app: Application) -> deploy_lock.Holder:
    holder = deploy_lock.read(app)
    assert holder is not None
    return holder


def test_locked_error_names_the_holder(app: Application) -> None:
    deploy_lock.take(app, ANN, "deploy v2", 900)
    with pytest.raises(deploy_lock.LockedError) as caught:
        deploy_lock.take(app, BOB, "rollback", 900)
    for word in ("ann@laptop", "deploy v2", "deploy_lock_wait", "unlock.yml", table.utc(held(app).expires)):
        assert word in str(caught.value)
    assert caught.value.holder == held(app)
    assert held(app).token == "a"


def test_lock_file_is_readable_only_by_root(app: Application) -> None:
    deploy_lock.take(app, ANN, "deploy v2", 900)
    assert stat.S_IMODE((app.state / "lock.json").stat().st_mode) == 0o600


def test_own_lock_is_extended_and_keeps_its_start(app: Application) -> None:
    deploy_lock.take(app, ANN, "deploy v2", 10)
    first = held(app)
    assert deploy_lock.take(app, ANN, "deploy v2", 900) is None
    assert held(app).since == first.since
    assert held(app).expires > first.expires + 500


def test_extend_postpones_the_expiry(app: Application) -> None:
    deploy_lock.take(app, ANN, "deploy v2", 100)
    first = held(app)
    time.sleep(0.01)
    deploy_lock.extend(app, "a")
    assert first.expires < held(app).expires < first.expires + 50


def test_run_that_lost_its_lock_stops_although_the_other_run_has_ended(app: Application) -> None:
    deploy_lock.take(app, ANN, "deploy v2", -1)
    deploy_lock.take(app, BOB, "rollback", 900)
    deploy_lock.release(app, "b")
    with pytest.raises(deploy_lock.LockedError, match=r"has lost its lock on .* another run may have been here"):
        deploy_lock.extend(app, "a")
    # a revert needs no lock
    deploy_lock.extend(app, "a", needed=False)
    assert deploy_lock.read(app) is None


def test_run_that_lost_its_lock_is_told_the_new_holder(app: Application) -> None:
    deploy_lock.take(app, ANN, "deploy v2", 100)
    deploy_lock.remove(app, force=True)
    deploy_lock.take(app, BOB, "rollback", 100)
    before = held(app)
    with pytest.raises(deploy_lock.LockedError, match=r"has lost its lock: .* bob@desk .*rollback"):
        deploy_lock.extend(app, "a")
    assert held(app) == before


def test_expired_lock_is_taken_over(app: Application) -> None:
    deploy_lock.take(app, ANN, "deploy v2", -1)
    dead = deploy_lock.take(app, BOB, "rollback", 900)
    assert dead is not None
    assert dead.who == "ann@laptop"
    assert held(app).token == "b"


def test_lock_of_a_dead_holder_is_taken_over_immediately(app: Application) -> None:
    deploy_lock.take(app, ANN, "deploy v2", 900)
    with pytest.raises(deploy_lock.LockedError):
        deploy_lock.take(app, BOB, "rollback", 900, dead="another")
    dead = deploy_lock.take(app, BOB, "rollback", 900, dead="a")
    assert dead is not None
    assert dead.token == "a"
    assert held(app).token == "b"


def contend(app: Application, token: str, answers: multiprocessing.Queue[str]) -> None:
    try:
        deploy_lock.take(app, deploy_lock.Run(token, token, ""), "deploy", 900)
        answers.put(token)
    except deploy_lock.LockedError:
        answers.put("")


def test_only_one_of_many_concurrent_runs_gets_the_lock(app: Application) -> None:
    # even if an expired lock must be taken over
    deploy_lock.take(app, ANN, "deploy v2", -1)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    rivals = [context.Process(target=contend, args=(app, f"rival {number}", answers)) for number in range(8)]
    for rival in rivals:
        rival.start()
    tokens = sorted(answers.get(timeout=60) for _ in rivals)
    for rival in rivals:
        rival.join()
    assert tokens[:-1] == [""] * 7
    assert tokens[-1] == held(app).token


def test_only_the_own_lock_is_released(app: Application) -> None:
    deploy_lock.take(app, ANN, "deploy v2", 900)
    assert not deploy_lock.release(app, "b")
    assert held(app).token == "a"
    assert deploy_lock.release(app, "a")
    assert deploy_lock.read(app) is None


def test_release_without_a_lock_creates_nothing(app: Application) -> None:
    assert not deploy_lock.release(app, "a")
    assert deploy_lock.remove(app, force=False) is None
    assert not app.state.exists()


def test_live_lock_is_removed_only_by_force(app: Application) -> None:
    deploy_lock.take(app, ANN, "deploy v2", 900)
    with pytest.raises(deploy_lock.LockedError, match="unlock_force=true"):
        deploy_lock.remove(app, force=False)
    removed = deploy_lock.remove(app, force=True)
    assert removed is not None
    assert removed.token == "a"
    assert deploy_lock.remove(app, force=False) is None


@pytest.mark.parametrize(("seconds", "dead"), [(-1, ""), (900, "a")])
def test_dead_lock_is_removed_without_force(app: Application, seconds: float, dead: str) -> None:
    deploy_lock.take(app, ANN, "deploy v2", seconds)
    assert deploy_lock.remove(app, force=False, dead=dead) is not None
    assert deploy_lock.read(app) is None


def test_invalid_lock_file_is_no_lock(app: Application) -> None:
    app.state.mkdir(parents=True)
    (app.state / "lock.json").write_text('{"token": "a", ')
    deploy_lock.take(app, BOB, "rollback", 900)
    assert held(app).token == "b"


def test_times_are_in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert table.utc(1764072000.0) == "2025-11-25 12:00:00 UTC"
        holder = deploy_lock.Holder("a", "ann@laptop", "", "deploy v2", 1764072000.0, 1764072900.0, 900.0)
        assert holder.description() == "ann@laptop since 2025-11-25 12:00:00 UTC (deploy v2)"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_holder_round_trips_through_the_file(app: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    assert deploy_lock.take(app, ANN, "deploy v2", 900) is None
    expected = deploy_lock.Holder("a", "ann@laptop", "ann's process", "deploy v2", 1000.0, 1900.0, 900.0)
    assert deploy_lock.read(app) == expected
    assert deploy_lock.as_dict(expected) == {
        "token": "a",
        "who": "ann@laptop",
        "process": "ann's process",
        "reason": "deploy v2",
        "since": 1000.0,
        "expires": 1900.0,
        "seconds": 900.0,
        "description": "ann@laptop since 1970-01-01 00:16:40 UTC (deploy v2)",
    }
    assert deploy_lock.as_dict(None) is None
    # a lock that is taken over starts anew; an extended one keeps its start
    monkeypatch.setattr(time, "time", lambda: 1500.0)
    deploy_lock.take(app, ANN, "deploy v2", 100)
    assert (held(app).since, held(app).expires) == (1000.0, 1600.0)
    monkeypatch.setattr(time, "time", lambda: 1600.0)
    assert deploy_lock.take(app, BOB, "rollback", 50) is not None
    assert (held(app).since, held(app).expires) == (1600.0, 1650.0)


def test_extend_uses_the_requested_duration(app: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    deploy_lock.take(app, ANN, "deploy v2", 100)
    monkeypatch.setattr(time, "time", lambda: 1050.0)
    deploy_lock.extend(app, "a")
    assert held(app).expires == 1150.0
    monkeypatch.setattr(time, "time", lambda: 900.0)  # the clock was set back
    deploy_lock.extend(app, "a")
    assert held(app).expires == 1150.0


def test_optional_extend_creates_no_lock(app: Application) -> None:
    app.state.mkdir(parents=True)
    deploy_lock.extend(app, "a", needed=False)
    assert not (app.state / "lock.json").exists()


def test_full_disk_does_not_fail_an_extend(app: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    deploy_lock.extend(app, "a")  # the folder doesn't exist
    deploy_lock.take(app, ANN, "deploy v2", 100)
    before = held(app)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    deploy_lock.extend(app, "a")
    assert held(app) == before
    with pytest.raises(OSError, match="No space"):
        deploy_lock.take(app, ANN, "deploy v2", 100)


def test_leftover_of_a_killed_writer_is_overwritten(app: Application) -> None:
    app.state.mkdir(parents=True)
    (app.state / "lock.new").write_text("x" * 5000)  # a run that was killed while it wrote
    deploy_lock.take(app, ANN, "deploy v2", 100)
    assert held(app).token == "a"


@pytest.mark.parametrize("operation", ["take", "extend", "release", "remove"])
def test_operations_wait_for_each_other(app: Application, operation: str) -> None:
    deploy_lock.take(app, ANN, "deploy v2", 900)
    operations = {
        "take": lambda: deploy_lock.take(app, ANN, "deploy v2", 900),
        "extend": lambda: deploy_lock.extend(app, "a"),
        "release": lambda: deploy_lock.release(app, "a"),
        "remove": lambda: deploy_lock.remove(app, force=True),
    }
    with (app.state / "lock.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        thread = threading.Thread(target=operations[operation], daemon=True)
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
    thread.join(60)
    assert not thread.is_alive()


def test_invalid_lock_file_is_only_removed_by_unlock(app: Application) -> None:
    app.state.mkdir(parents=True)
    (app.state / "lock.json").write_text("[]")
    assert not deploy_lock.release(app, "a")
    assert (app.state / "lock.json").exists()
    assert deploy_lock.remove(app, force=False) is None
    assert not (app.state / "lock.json").exists()


def test_refused_removal_names_the_holder_and_the_expiry(app: Application) -> None:
    deploy_lock.take(app, ANN, "deploy v2", 900)
    with pytest.raises(deploy_lock.LockedError) as caught:
        deploy_lock.remove(app, force=False, dead="another")
    assert caught.value.holder == held(app)
    for word in ("links is being changed by ann@laptop", "deploy v2", table.utc(held(app).expires)):
        assert word in str(caught.value)
    with pytest.raises(deploy_lock.LockedError) as lost:
        deploy_lock.extend(app, "b")
    assert lost.value.holder == held(app)


def test_run_options_of_modules() -> None:
    assert deploy_lock.RUN_OPTIONS == {
        "token": {"type": "str", "required": True, "no_log": False},
        "who": {"type": "str", "required": True},
        "process": {"type": "str", "default": ""},
    }
    for value in (ANN, deploy_lock.Holder("a", "", "", "", 0, 0, 0)):
        with pytest.raises(AttributeError):
            value.token = "b"  # type: ignore[misc]


@pytest.mark.parametrize("other", ["A", "b"])  # sorts before and after the holder's token
def test_other_tokens_are_refused(app: Application, other: str) -> None:
    deploy_lock.take(app, ANN, "deploy v2", 900)
    with pytest.raises(deploy_lock.LockedError):
        deploy_lock.take(app, deploy_lock.Run(other, "bob@desk", ""), "rollback", 900)
    with pytest.raises(deploy_lock.LockedError):
        deploy_lock.extend(app, other)
    assert not deploy_lock.release(app, other)
    assert held(app).token == "a"
