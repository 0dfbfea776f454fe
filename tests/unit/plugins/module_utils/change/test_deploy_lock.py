"""One change of the fleet at a time, and nobody waits for the dead."""

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
from ansible_collections.baton.web.plugins.module_utils.change import deploy_lock

ANN = deploy_lock.Run("a", "ann@laptop", "ann's process")
BOB = deploy_lock.Run("b", "bob@desk", "bob's process")


@pytest.fixture
def app(tmp_path: pathlib.Path) -> Application:
    return Application("links", str(tmp_path))


def held(app: Application) -> deploy_lock.Holder:
    holder = deploy_lock.read(app)
    assert holder is not None
    return holder


def test_who_comes_second_is_told_who_is_first(app: Application) -> None:
    deploy_lock.take(app, ANN, "deploy v2", 900)
    with pytest.raises(deploy_lock.LockedError) as told:
        deploy_lock.take(app, BOB, "rollback", 900)
    for word in ("ann@laptop", "deploy v2", "deploy_lock_wait", "unlock.yml", deploy_lock.clock(held(app).expires)):
        assert word in str(told.value)
    assert told.value.holder == held(app)
    assert held(app).token == "a"


def test_the_lock_is_for_root_alone(app: Application) -> None:
    deploy_lock.take(app, ANN, "deploy v2", 900)
    assert stat.S_IMODE((app.state / "lock.json").stat().st_mode) == 0o600


def test_one_s_own_lock_is_extended_and_keeps_its_beginning(app: Application) -> None:
    deploy_lock.take(app, ANN, "deploy v2", 10)
    first = held(app)
    assert deploy_lock.take(app, ANN, "deploy v2", 900) is None
    assert held(app).since == first.since
    assert held(app).expires > first.expires + 500


def test_a_sign_of_life_moves_the_end_and_never_shortens_it(app: Application) -> None:
    deploy_lock.take(app, ANN, "deploy v2", 100)
    first = held(app)
    time.sleep(0.01)
    deploy_lock.extend(app, "a")
    assert first.expires < held(app).expires < first.expires + 50


def test_who_has_lost_the_lock_goes_no_further_though_the_other_run_has_ended(app: Application) -> None:
    deploy_lock.take(app, ANN, "deploy v2", -1)
    deploy_lock.take(app, BOB, "rollback", 900)
    deploy_lock.release(app, "b")
    with pytest.raises(deploy_lock.LockedError, match=r"has lost its lock on .* another run may have been here"):
        deploy_lock.extend(app, "a")
    # the way back needs none
    deploy_lock.extend(app, "a", needed=False)
    assert deploy_lock.read(app) is None


def test_who_has_lost_the_lock_is_told_to_whom(app: Application) -> None:
    deploy_lock.take(app, ANN, "deploy v2", 100)
    deploy_lock.remove(app, force=True)
    deploy_lock.take(app, BOB, "rollback", 100)
    before = held(app)
    with pytest.raises(deploy_lock.LockedError, match=r"has lost its lock: .* bob@desk .*rollback"):
        deploy_lock.extend(app, "a")
    assert held(app) == before


def test_an_expired_lock_is_taken_over(app: Application) -> None:
    deploy_lock.take(app, ANN, "deploy v2", -1)
    dead = deploy_lock.take(app, BOB, "rollback", 900)
    assert dead is not None
    assert dead.who == "ann@laptop"
    assert held(app).token == "b"


def test_a_holder_that_is_known_to_be_dead_is_taken_over_at_once(app: Application) -> None:
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


def test_of_many_that_come_at_once_one_gets_it(app: Application) -> None:
    # also where an expired lock is to be taken over
    deploy_lock.take(app, ANN, "deploy v2", -1)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    rivals = [context.Process(target=contend, args=(app, f"rival {number}", answers)) for number in range(8)]
    for rival in rivals:
        rival.start()
    told = sorted(answers.get(timeout=60) for _ in rivals)
    for rival in rivals:
        rival.join()
    assert told[:-1] == [""] * 7
    assert told[-1] == held(app).token


def test_only_one_s_own_lock_is_given_back(app: Application) -> None:
    deploy_lock.take(app, ANN, "deploy v2", 900)
    assert not deploy_lock.release(app, "b")
    assert held(app).token == "a"
    assert deploy_lock.release(app, "a")
    assert deploy_lock.read(app) is None


def test_where_nothing_was_ever_deployed_there_is_nothing_to_give_back_and_nothing_is_made(app: Application) -> None:
    assert not deploy_lock.release(app, "a")
    assert deploy_lock.remove(app, force=False) is None
    assert not app.state.exists()


def test_a_lock_that_may_be_alive_is_removed_by_force_alone(app: Application) -> None:
    deploy_lock.take(app, ANN, "deploy v2", 900)
    with pytest.raises(deploy_lock.LockedError, match="unlock_force=true"):
        deploy_lock.remove(app, force=False)
    removed = deploy_lock.remove(app, force=True)
    assert removed is not None
    assert removed.token == "a"
    assert deploy_lock.remove(app, force=False) is None


@pytest.mark.parametrize(("seconds", "dead"), [(-1, ""), (900, "a")])
def test_a_dead_lock_is_removed_without_force(app: Application, seconds: float, dead: str) -> None:
    deploy_lock.take(app, ANN, "deploy v2", seconds)
    assert deploy_lock.remove(app, force=False, dead=dead) is not None
    assert deploy_lock.read(app) is None


def test_a_file_that_makes_no_sense_is_no_lock(app: Application) -> None:
    app.state.mkdir(parents=True)
    (app.state / "lock.json").write_text('{"token": "a", ')
    deploy_lock.take(app, BOB, "rollback", 900)
    assert held(app).token == "b"


def test_times_are_told_in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert deploy_lock.clock(1764072000.0) == "2025-11-25 12:00:00 UTC"
        holder = deploy_lock.Holder("a", "ann@laptop", "", "deploy v2", 1764072000.0, 1764072900.0, 900.0)
        assert holder.description() == "ann@laptop since 2025-11-25 12:00:00 UTC (deploy v2)"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_what_was_written_is_what_is_read(app: Application, monkeypatch: pytest.MonkeyPatch) -> None:
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
    # a lock that is taken over begins anew, one's own doesn't
    monkeypatch.setattr(time, "time", lambda: 1500.0)
    deploy_lock.take(app, ANN, "deploy v2", 100)
    assert (held(app).since, held(app).expires) == (1000.0, 1600.0)
    monkeypatch.setattr(time, "time", lambda: 1600.0)
    assert deploy_lock.take(app, BOB, "rollback", 50) is not None
    assert (held(app).since, held(app).expires) == (1600.0, 1650.0)


def test_a_sign_of_life_is_good_for_what_was_asked(app: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    deploy_lock.take(app, ANN, "deploy v2", 100)
    monkeypatch.setattr(time, "time", lambda: 1050.0)
    deploy_lock.extend(app, "a")
    assert held(app).expires == 1150.0
    monkeypatch.setattr(time, "time", lambda: 900.0)  # a clock that was set back
    deploy_lock.extend(app, "a")
    assert held(app).expires == 1150.0


def test_an_unneeded_sign_of_life_makes_no_lock(app: Application) -> None:
    app.state.mkdir(parents=True)
    deploy_lock.extend(app, "a", needed=False)
    assert not (app.state / "lock.json").exists()


def test_a_disk_that_takes_no_sign_of_life_stops_nobody(app: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    deploy_lock.extend(app, "a")  # there is not even a folder
    deploy_lock.take(app, ANN, "deploy v2", 100)
    before = held(app)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    deploy_lock.extend(app, "a")
    assert held(app) == before
    with pytest.raises(OSError, match="No space"):
        deploy_lock.take(app, ANN, "deploy v2", 100)


def test_a_shorter_lock_leaves_nothing_of_a_longer_one(app: Application) -> None:
    app.state.mkdir(parents=True)
    (app.state / "lock.new").write_text("x" * 5000)  # a run that was killed while it wrote
    deploy_lock.take(app, ANN, "deploy v2", 100)
    assert held(app).token == "a"


@pytest.mark.parametrize("act", ["take", "extend", "release", "remove"])
def test_each_step_waits_for_another_s(app: Application, act: str) -> None:
    deploy_lock.take(app, ANN, "deploy v2", 900)
    acts = {
        "take": lambda: deploy_lock.take(app, ANN, "deploy v2", 900),
        "extend": lambda: deploy_lock.extend(app, "a"),
        "release": lambda: deploy_lock.release(app, "a"),
        "remove": lambda: deploy_lock.remove(app, force=True),
    }
    with (app.state / "lock.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        step = threading.Thread(target=acts[act], daemon=True)
        step.start()
        step.join(0.2)
        assert step.is_alive()
    step.join(60)
    assert not step.is_alive()


def test_a_lock_that_makes_no_sense_is_nobody_s_to_give_back(app: Application) -> None:
    app.state.mkdir(parents=True)
    (app.state / "lock.json").write_text("[]")
    assert not deploy_lock.release(app, "a")
    assert (app.state / "lock.json").exists()
    assert deploy_lock.remove(app, force=False) is None
    assert not (app.state / "lock.json").exists()


def test_who_may_not_remove_a_lock_is_told_whose_it_is_and_when_it_ends(app: Application) -> None:
    deploy_lock.take(app, ANN, "deploy v2", 900)
    with pytest.raises(deploy_lock.LockedError) as told:
        deploy_lock.remove(app, force=False, dead="another")
    assert told.value.holder == held(app)
    for word in ("links is being changed by ann@laptop", "deploy v2", deploy_lock.clock(held(app).expires)):
        assert word in str(told.value)
    with pytest.raises(deploy_lock.LockedError) as lost:
        deploy_lock.extend(app, "b")
    assert lost.value.holder == held(app)


def test_a_run_as_modules_take_it() -> None:
    assert deploy_lock.RUN_OPTIONS == {
        "token": {"type": "str", "required": True, "no_log": False},
        "who": {"type": "str", "required": True},
        "process": {"type": "str", "default": ""},
    }
    for one in (ANN, deploy_lock.Holder("a", "", "", "", 0, 0, 0)):
        with pytest.raises(AttributeError):
            one.token = "b"  # type: ignore[misc]


@pytest.mark.parametrize("other", ["A", "b"])  # before and after the holder's in any order
def test_another_s_token_is_another_s(app: Application, other: str) -> None:
    deploy_lock.take(app, ANN, "deploy v2", 900)
    with pytest.raises(deploy_lock.LockedError):
        deploy_lock.take(app, deploy_lock.Run(other, "bob@desk", ""), "rollback", 900)
    with pytest.raises(deploy_lock.LockedError):
        deploy_lock.extend(app, other)
    assert not deploy_lock.release(app, other)
    assert held(app).token == "a"
