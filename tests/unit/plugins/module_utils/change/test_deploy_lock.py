"""One change of the fleet at a time, and nobody waits for the dead."""

from __future__ import annotations

import multiprocessing
import pathlib
import stat
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
