"""One change of the fleet at a time, and nobody waits for the dead."""

from __future__ import annotations

import dataclasses
import pathlib
import time

import pytest
from ansible.module_utils.baton import deploy_lock
from ansible.module_utils.baton.activation import Application

ANN = deploy_lock.Asker("a", "ann@laptop", "deploy v2", "laptop", ["a"], 0.0)
BOB = deploy_lock.Asker("b", "bob@desk", "rollback", "desk", ["b"], 0.0)


@pytest.fixture
def app(tmp_path: pathlib.Path) -> Application:
    return Application("links", str(tmp_path))


def test_who_comes_second_is_told_who_is_first(app: Application) -> None:
    deploy_lock.take(app, ANN, 900)
    with pytest.raises(deploy_lock.LockedError) as told:
        deploy_lock.take(app, BOB, 900)
    for word in ("ann@laptop", "deploy v2", "deploy_lock_wait", "unlock.yml"):
        assert word in str(told.value)
    holder = deploy_lock.read(app)
    assert holder is not None
    assert holder.token == "a"


def test_one_s_own_lock_is_extended_and_keeps_its_beginning(app: Application) -> None:
    deploy_lock.take(app, ANN, 10)
    first = deploy_lock.read(app)
    assert deploy_lock.take(app, ANN, 900) is None
    second = deploy_lock.read(app)
    assert first is not None
    assert second is not None
    assert second.since == first.since
    assert second.expires > first.expires + 500


def test_a_sign_of_life_moves_the_end_and_never_shortens_it(app: Application) -> None:
    deploy_lock.take(app, ANN, 100)
    deploy_lock.extend(app, "a", 50)
    deploy_lock.extend(app, "somebody else's", 5000)
    holder = deploy_lock.read(app)
    assert holder is not None
    assert 90 < holder.expires - time.time() < 110
    deploy_lock.extend(app, "a", 900)
    holder = deploy_lock.read(app)
    assert holder is not None
    assert holder.expires - time.time() > 800


def test_an_expired_lock_is_taken_over(app: Application) -> None:
    deploy_lock.take(app, ANN, -1)
    dead = deploy_lock.take(app, BOB, 900)
    assert dead is not None
    assert dead.who == "ann@laptop"


def test_a_holder_that_died_on_the_same_controller_is_taken_over_at_once(app: Application) -> None:
    deploy_lock.take(app, ANN, 900)
    time.sleep(0.01)
    again = dataclasses.replace(ANN, token="c", living=["c"])
    dead = deploy_lock.take(app, again, 900)
    assert dead is not None
    assert dead.token == "a"


@pytest.mark.parametrize(
    "asker",
    [
        dataclasses.replace(ANN, token="c", living=["a", "c"]),
        # it may have begun after the living were counted
        dataclasses.replace(ANN, token="c", living=["c"], living_age=60.0),
        # nothing is known of another controller's runs
        dataclasses.replace(BOB, living=["b"]),
    ],
)
def test_a_holder_that_may_live_is_respected(app: Application, asker: deploy_lock.Asker) -> None:
    deploy_lock.take(app, ANN, 900)
    time.sleep(0.01)
    with pytest.raises(deploy_lock.LockedError):
        deploy_lock.take(app, asker, 900)


def test_waiting_ends_when_the_lock_is_free(app: Application) -> None:
    deploy_lock.take(app, ANN, 1.2)
    began = time.monotonic()
    deploy_lock.take(app, BOB, 900, wait=30)
    assert time.monotonic() - began < 10


def test_only_one_s_own_lock_is_given_back(app: Application) -> None:
    deploy_lock.take(app, ANN, 900)
    assert not deploy_lock.release(app, "b")
    assert deploy_lock.read(app) is not None
    assert deploy_lock.release(app, "a")
    assert deploy_lock.read(app) is None


def test_a_lock_that_may_be_alive_is_removed_by_force_alone(app: Application) -> None:
    deploy_lock.take(app, ANN, 900)
    with pytest.raises(deploy_lock.LockedError, match="unlock_force=true"):
        deploy_lock.remove(app, force=False)
    removed = deploy_lock.remove(app, force=True)
    assert removed is not None
    assert removed.token == "a"
    assert deploy_lock.remove(app, force=False) is None


def test_a_file_that_makes_no_sense_is_no_lock(app: Application) -> None:
    app.state.mkdir(parents=True)
    (app.state / "lock.json").write_text('{"token": "a", ')
    deploy_lock.take(app, BOB, 900)
    holder = deploy_lock.read(app)
    assert holder is not None
    assert holder.token == "b"
