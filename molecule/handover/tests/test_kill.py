"""SIGKILL to every process of a handover: only the killed process's connections are lost, and one release serves.

A handover is held in a phase, so that the kill happens in that phase on a machine of any speed.
"""

from __future__ import annotations

import pytest

from .conftest import COPY, SECOND
from .support import BY_BRIDGE, BY_RELOAD, LONG, PORTS, Traffic, both, crash, in_parallel

# short requests, so that a killed process has only a few
SHORT = ("get,path=/,share=6", "post,path=/echo,share=3,size=20000,expect=20000", "fresh,path=/,share=3,wait=0.3")
ROUNDS = 17 if LONG else 1  # through all phases, on each of the two hosts


def test_only_killed_worker_is_replaced(good: str) -> None:  # noqa: ARG001
    with Traffic(SHORT, fewest=50) as traffic:
        killed = both("kill_worker")
    for name in PORTS:
        assert (killed[name]["stayed"], killed[name]["workers"]) == (True, 2)
        assert (killed[name]["same master"], killed[name]["reloads"]) == (True, 0)
        assert traffic.failed_on(name) <= killed[name]["held"], traffic.failures


def test_killed_master_is_restarted_once_and_queued_request_is_answered(good: str) -> None:  # noqa: ARG001
    with Traffic(SHORT, fewest=50) as traffic:
        killed = both("kill_master")
    for name in PORTS:
        assert killed[name]["restarts"] == 1
        assert killed[name]["socket"] == "active"
        assert traffic.failed_on(name) <= killed[name]["held"], traffic.failures


def test_killed_booting_worker_changes_nothing(good: str) -> None:  # noqa: ARG001
    with Traffic(fewest=75) as traffic:
        killed = both("kill_booting", release=COPY)
        good_again = both("reload")
    assert traffic.failed == {}, traffic.failures
    for name in PORTS:
        assert killed[name]["rc"] != 0
        assert killed[name]["after"] == killed[name]["before"]
        assert "SIGKILL" in killed[name]["error"]
        assert good_again[name][0]["rc"] == 0


def test_killed_booting_bridge_changes_nothing(good: str) -> None:
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
        # the secret was reverted, too
        assert good_again[name][0]["method"] == "none"


def test_killed_serving_bridge_loses_only_its_connections(good: str) -> None:
    with Traffic(SHORT, fewest=50) as traffic:
        killed = both("kill_bridge", release=COPY, where="restarting")
        after = both("state")
        both("activate", release=good)
    for name in PORTS:
        assert killed[name]["phase"] == "restarting"
        assert traffic.failed_on(name) <= killed[name]["held"], traffic.failures
        assert killed[name]["rc"] == 0, killed[name]
        assert after[name]["served"] == [COPY]


def test_handover_completes_without_its_caller(good: str) -> None:
    phases = [*BY_RELOAD, *BY_BRIDGE]
    both("activate", release=COPY)
    with Traffic(fewest=75) as traffic:
        tries = both("kill_callers", releases=[COPY, SECOND], phases=phases, rounds=ROUNDS, seed=1)
        both("activate", release=good)
    assert traffic.failed == {}, traffic.failures
    for name in PORTS:
        assert [attempt["phase"] for attempt in tries[name]] == phases * ROUNDS
        for attempt in tries[name]:
            # one release, the same as in `current` and in the record, and no bridge left
            assert attempt["served"] == [attempt["current"]], attempt
            assert attempt["record"] == attempt["current"], attempt
            # a started handover is completed; in later rounds it ran on for a moment before the kill
            if attempt["phase"] != "not started" or not attempt["round"]:
                assert (attempt["current"] == attempt["wanted"]) is (attempt["phase"] != "not started"), attempt


def test_handover_survives_end_of_login(good: str) -> None:
    after = both("kill_login", release=COPY)
    assert {state["current"] for state in after.values()} == {COPY}
    assert {tuple(state["served"]) for state in after.values()} == {(COPY,)}
    both("activate", release=good)


@pytest.mark.parametrize("phase", [*BY_RELOAD, *BY_BRIDGE] if LONG else ["bridge serving"])
def test_next_handover_converges_after_killed_one(good: str, phase: str) -> None:
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
def test_host_serves_one_release_after_power_loss(good: str, phase: str) -> None:
    started = both("begin", release=COPY, where=phase)
    in_parallel(crash)
    after = both("state")
    again = both("activate", release=good)
    end = both("state")
    for name in PORTS:
        assert started[name]["phase"] == phase
        assert after[name]["served"] in ([good], [COPY])
        assert after[name]["served"] == [after[name]["current"]]
        assert again[name][0]["rc"] == 0, again[name]
        assert end[name]["served"] == [end[name]["record"]] == [good]
