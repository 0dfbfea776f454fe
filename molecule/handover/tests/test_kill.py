"""SIGKILL to whatever takes part: only what the victim held is lost, and what is left is old or new.

A handover is brought to a phase and held there, so that the blow strikes in it on a machine of any speed.
"""

from __future__ import annotations

import pytest

from .conftest import COPY, SECOND
from .support import BY_BRIDGE, BY_RELOAD, LONG, PORTS, Traffic, at_once, both, crash

# short requests: what a victim holds is then a handful
SHORT = ("get,path=/,share=6", "post,path=/echo,share=3,size=20000,expect=20000", "fresh,path=/,share=3,wait=0.3")
ROUNDS = 17 if LONG else 1  # through all phases, on each of the two hosts


def test_a_worker_that_dies_is_replaced_and_no_other(good: str) -> None:  # noqa: ARG001
    with Traffic(SHORT, fewest=50) as traffic:
        killed = both("kill_worker")
    for name in PORTS:
        assert (killed[name]["stayed"], killed[name]["workers"]) == (True, 2)
        assert (killed[name]["same master"], killed[name]["reloads"]) == (True, 0)
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
        killed = both("kill_booting", release=COPY)
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
        killed = both("kill_bridge", release=COPY, where="bridge booting")
        after = both("state")
        good_again = both("activate")
    assert traffic.failed == {}, traffic.failures
    for name in PORTS:
        assert killed[name]["phase"] == "bridge booting"
        assert killed[name]["rc"] != 0
        assert f"Release {good} serves, as before." in killed[name]["msg"]
        assert after[name] == before[name]
        # the secret was put back with the rest
        assert good_again[name][0]["method"] == "none"


def test_a_bridge_that_is_killed_while_it_serves_loses_only_what_it_holds(good: str) -> None:
    with Traffic(SHORT, fewest=50) as traffic:
        killed = both("kill_bridge", release=COPY, where="restarting")
        after = both("state")
        both("activate", release=good)
    for name in PORTS:
        assert killed[name]["phase"] == "restarting"
        assert traffic.failed_on(name) <= killed[name]["held"], traffic.failures
        assert killed[name]["rc"] == 0, killed[name]
        assert after[name]["served"] == [COPY]


def test_a_handover_comes_to_its_end_without_its_caller(good: str) -> None:
    phases = [*BY_RELOAD, *BY_BRIDGE]
    both("activate", release=COPY)
    with Traffic(fewest=75) as traffic:
        tries = both("kill_callers", releases=[COPY, SECOND], phases=phases, rounds=ROUNDS, seed=1)
        both("activate", release=good)
    assert traffic.failed == {}, traffic.failures
    for name in PORTS:
        assert [attempt["phase"] for attempt in tries[name]] == phases * ROUNDS
        for attempt in tries[name]:
            # one release, which the pointer and the record agree on, and no bridge left
            assert attempt["served"] == [attempt["current"]], attempt
            assert attempt["record"] == attempt["current"], attempt
            # what was begun is done; what was let run on before the blow may have been
            if attempt["phase"] != "not begun" or not attempt["round"]:
                assert (attempt["current"] == attempt["wanted"]) is (attempt["phase"] != "not begun"), attempt


def test_the_end_of_its_login_does_not_end_a_handover(good: str) -> None:
    after = both("kill_login", release=COPY)
    assert {state["current"] for state in after.values()} == {COPY}
    assert {tuple(state["served"]) for state in after.values()} == {(COPY,)}
    both("activate", release=good)


@pytest.mark.parametrize("phase", [*BY_RELOAD, *BY_BRIDGE] if LONG else ["bridge serving"])
def test_when_all_of_a_handover_is_killed_the_next_one_converges(good: str, phase: str) -> None:
    with Traffic(fewest=75) as traffic:
        killed = both("kill_everything", release=COPY, where=phase)
        converged = both("activate", release=COPY)
        after = both("state")
        both("activate", release=good)
    assert traffic.failed == {}, traffic.failures
    for name in PORTS:
        assert killed[name]["phase"] == phase
        assert converged[name][0]["rc"] == 0, converged[name]
        assert after[name]["served"] == [after[name]["record"]] == [COPY]


@pytest.mark.parametrize("phase", [*BY_RELOAD, *BY_BRIDGE] if LONG else ["booted"])
def test_a_host_that_loses_power_comes_back_with_old_or_new(good: str, phase: str) -> None:
    begun = both("begin", release=COPY, where=phase)
    at_once(crash)
    after = both("state")
    again = both("activate", release=good)
    end = both("state")
    for name in PORTS:
        assert begun[name]["phase"] == phase
        assert after[name]["served"] in ([good], [COPY])
        assert after[name]["served"] == [after[name]["current"]]
        assert again[name][0]["rc"] == 0, again[name]
        assert end[name]["served"] == [end[name]["record"]] == [good]
