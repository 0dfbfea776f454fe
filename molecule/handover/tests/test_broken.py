"""Releases and settings that can't serve: nothing changes, and whoever asked is told why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import COPY
from .support import PORTS, Traffic, both

BROKEN = "b" * 16
# seconds that a worker may boot: for a release that hangs, and as the inventory has it
SHORT, LONG_ENOUGH = 5, 120
CASES = {
    # what is wrong: what the journal and the caller are told
    "syntax error": "SyntaxError",
    "missing dependency": "No module named 'no_such_package'",
    "lifespan exception": "no database",
    "lifespan hang": "not ready after",
    "exit at import": "sys.exit(0)",
    "out of memory at import": "SIGKILL (out of memory?)",
    "missing files": "venv/bin/python",
}


@pytest.fixture(scope="module")
def traffic(good: str) -> Iterator[Traffic]:  # noqa: ARG001
    """One run of traffic through all of this; the last test looks at what came of it."""
    with Traffic(fewest=500, rate=15) as running:
        yield running


def refused(reason: str, before: dict[str, Any], answers: dict[str, Any]) -> None:
    """Asserts that nothing changed and that the reason was given."""
    after = both("state")
    for name in PORTS:
        (answer,) = answers[name]
        assert answer["rc"] != 0
        assert reason in answer["journal"]
        assert after[name] == before[name]


@pytest.mark.usefixtures("traffic")
@pytest.mark.parametrize("case", CASES)
def test_a_broken_release_changes_nothing(good: str, case: str) -> None:
    both("copy", release=BROKEN, broken=case)
    before = both("state")
    if case == "lifespan hang":
        both("limit_boots", seconds=SHORT)
    both("spoil", case=case, release=BROKEN)
    answers = both("reload")
    both("mend", release=good)
    refused(CASES[case], before, answers)
    answers = both("activate", release=BROKEN)
    if case == "lifespan hang":
        both("limit_boots", seconds=LONG_ENOUGH)
    refused(CASES[case], before, answers)
    for name in PORTS:
        (answer,) = answers[name]
        assert CASES[case] in answer["msg"]
        assert f"Release {good} serves, as before." in answer["msg"]


@pytest.mark.usefixtures("traffic")
def test_a_broken_configuration_changes_nothing(good: str) -> None:
    case, reason = "bad configuration", "spoiled"
    before = both("state")
    both("spoil", case=case)
    answers = both("reload")
    refused(reason, before, answers)
    answers = both("activate")
    refused(reason, before, answers)
    for name in PORTS:
        assert reason in answers[name][0]["msg"]
    # the module has put back what served; the file is whole again
    assert all(done[0]["rc"] == 0 for done in both("reload").values())
    both("mend", release=good)


@pytest.mark.usefixtures("traffic")
def test_a_pointer_to_nowhere_changes_nothing(good: str) -> None:
    before = both("state")
    both("spoil", case="missing", release="nowhere")
    answers = both("reload")
    both("mend", release=good)
    refused("venv/bin/python: No such file or directory", before, answers)


@pytest.mark.usefixtures("traffic")
def test_a_release_that_is_not_there_is_refused() -> None:
    before = both("state")
    answers = both("activate", release="nowhere")
    for name in PORTS:
        assert answers[name][0]["rc"] != 0
        assert "not a complete release" in answers[name][0]["msg"]
    assert both("state") == before


@pytest.mark.usefixtures("traffic")
def test_the_next_good_release_takes_over(good: str) -> None:
    for release in (COPY, good):
        for name, (answer,) in both("activate", release=release).items():
            assert (name, answer["rc"], answer.get("method")) == (name, 0, "reload"), answer
        assert {state["current"] for state in both("state").values()} == {release}


def test_and_no_request_failed_in_all_this(traffic: Traffic) -> None:
    traffic.end()
    assert traffic.failed == {}, traffic.failures
