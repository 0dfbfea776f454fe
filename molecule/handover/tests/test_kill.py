"""SIGKILL to whatever takes part: only what the victim held is lost, and what is left is old or new."""

from __future__ import annotations

import time

import pytest

from .conftest import COPY
from .support import LONG, PORTS, Traffic, at_once, both, crash

# short requests: what a victim holds is then a handful
SHORT = ("get,path=/,share=6", "post,path=/echo,share=3,size=20000,expect=20000", "fresh,path=/,share=3,wait=0.3")
TRIES = 100 if LONG else 10  # on each of the two hosts


def test_a_worker_is_back_within_a_second(good: str) -> None:  # noqa: ARG001
    with Traffic(SHORT, fewest=50) as traffic:
        killed = both("kill_worker")
    for name in PORTS:
        assert killed[name]["forked"] < 1
        assert traffic.failed_on(name) <= killed[name]["held"], traffic.failures


def test_a_killed_master_is_back_by_one_restart_and_what_waited_is_answered(good: str) -> None:  # noqa: ARG001
    with Traffic(SHORT, fewest=50) as traffic:
        killed = both("kill_master")
    for name in PORTS:
        assert killed[name]["restarts"] == 1
        assert killed[name]["socket"] == "active"
        assert traffic.failed_on(name) <= killed[name]["held"], traffic.failures


def test_a_booting_worker_takes_nothing_with_it(good: str) -> None:  # noqa: ARG001
    with Traffic(fewest=75) as traffic:
        killed = both("kill_booting")
        good_again = both("reload")
    assert traffic.failed == {}, traffic.failures
    for name in PORTS:
        assert killed[name]["rc"] != 0
        assert killed[name]["after"] == killed[name]["before"]
        assert "SIGKILL" in killed[name]["error"]
        assert good_again[name][0]["rc"] == 0


def test_a_bridge_that_is_killed_as_it_boots_changes_nothing(good: str) -> None:
    with Traffic(fewest=75) as traffic:
        before = both("state")
        killed = both("kill_bridge", serving=False)
        after = both("state")
        good_again = both("activate")
    assert traffic.failed == {}, traffic.failures
    for name in PORTS:
        assert killed[name]["rc"] != 0
        assert f"Release {good} serves, as before." in killed[name]["msg"]
        assert after[name] == before[name]
        # the secret was put back with the rest
        assert good_again[name][0]["way"] == "none"


def test_a_bridge_that_is_killed_while_it_serves_loses_only_what_it_holds(good: str) -> None:
    with Traffic(SHORT, fewest=50) as traffic:
        killed = both("kill_bridge", serving=True)
        after = both("state")
    for name in PORTS:
        assert traffic.failed_on(name) <= killed[name]["held"], traffic.failures
        assert killed[name]["rc"] == 0, killed[name]
        assert after[name]["served"] == [good]


def test_a_handover_comes_to_its_end_without_its_caller(good: str) -> None:
    with Traffic(fewest=75) as traffic:
        tries = both("kill_callers", count=TRIES, releases=[good, COPY], longest=4.0, seed=1)
        both("activate", release=good)
    assert traffic.failed == {}, traffic.failures
    for name in PORTS:
        assert len(tries[name]) == TRIES
        for attempt in tries[name]:
            # one release, which the pointer and the record agree on, and no bridge left
            assert attempt["served"] == [attempt["current"]], attempt
            assert attempt["record"] == attempt["current"], attempt


def test_the_end_of_its_login_does_not_end_a_handover(good: str) -> None:
    after = both("kill_login", release=COPY)
    assert {state["current"] for state in after.values()} == {COPY}
    assert {tuple(state["served"]) for state in after.values()} == {(COPY,)}
    both("activate", release=good)


@pytest.mark.parametrize("moment", [0.5, 1.5, 3.0] if LONG else [1.5])
def test_when_all_of_a_handover_is_killed_the_next_one_converges(good: str, moment: float) -> None:
    with Traffic(fewest=75) as traffic:
        both("kill_everything", release=COPY, moment=moment)
        converged = both("activate", release=COPY)
        after = both("state")
        both("activate", release=good)
    assert traffic.failed == {}, traffic.failures
    for name in PORTS:
        assert converged[name][0]["rc"] == 0, converged[name]
        assert after[name]["served"] == [after[name]["record"]] == [COPY]


@pytest.mark.parametrize("moment", [1.0, 3.0, 6.0] if LONG else [2.0])
def test_a_host_that_loses_power_comes_back_with_old_or_new(good: str, moment: float) -> None:
    both("begin", release=COPY)
    time.sleep(moment)
    at_once(crash)
    after = both("state")
    again = both("activate", release=good)
    end = both("state")
    for name in PORTS:
        assert after[name]["served"] in ([good], [COPY])
        assert after[name]["served"] == [after[name]["current"]]
        assert again[name][0]["rc"] == 0, again[name]
        assert end[name]["served"] == [end[name]["record"]] == [good]
