"""Releases and settings that can't serve: nothing changes, and the caller gets the reason."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import COPY
from .support import PORTS, Traffic, both

BROKEN = "b" * 16
# boot timeouts in seconds: for a release that hangs, and the inventory's
SHORT, LONG_ENOUGH = 5, 120
CASES = {
    # case: words in the journal and in the caller's message
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
    """One run of traffic during all tests of this module; the last test checks its results."""
    with Traffic(fewest=500, rate=15) as running:
        yield running


def assert_unchanged(reason: str, before: dict[str, Any], answers: dict[str, Any]) -> None:
    """Assert that nothing changed and that the reason was reported."""
    after = both("state")
    for name in PORTS:
        (answer,) = answers[name]
        assert answer["rc"] != 0
        assert reason in answer["journal"]
        assert after[name] == before[name]


@pytest.mark.usefixtures("traffic")
@pytest.mark.parametrize("case", CASES)
def test_broken_release_changes_nothing(good: str, case: str) -> None:
    both("copy", release=BROKEN, broken=case)
    before = both("state")
    if case == "lifespan hang":
        both("limit_boots", seconds=SHORT)
    both("corrupt", case=case, release=BROKEN)
    answers = both("reload")
    both("restore", release=good)
    assert_unchanged(CASES[case], before, answers)
    answers = both("activate", release=BROKEN)
    if case == "lifespan hang":
        both("limit_boots", seconds=LONG_ENOUGH)
    assert_unchanged(CASES[case], before, answers)
    for name in PORTS:
        (answer,) = answers[name]
        assert CASES[case] in answer["msg"]
        assert f"Release {good} serves, as before." in answer["msg"]


@pytest.mark.usefixtures("traffic")
def test_broken_configuration_changes_nothing(good: str) -> None:
    case, reason = "bad configuration", "corrupted"
    before = both("state")
    both("corrupt", case=case)
    answers = both("reload")
    assert_unchanged(reason, before, answers)
    answers = both("activate")
    assert_unchanged(reason, before, answers)
    for name in PORTS:
        assert reason in answers[name][0]["msg"]
    # the module has reverted the change, so the file is valid again
    assert all(done[0]["rc"] == 0 for done in both("reload").values())
    both("restore", release=good)


@pytest.mark.usefixtures("traffic")
def test_dangling_current_changes_nothing(good: str) -> None:
    before = both("state")
    both("corrupt", case="missing", release="nowhere")
    answers = both("reload")
    both("restore", release=good)
    assert_unchanged("venv/bin/python: No such file or directory", before, answers)


@pytest.mark.usefixtures("traffic")
def test_missing_release_is_refused() -> None:
    before = both("state")
    answers = both("activate", release="nowhere")
    for name in PORTS:
        assert answers[name][0]["rc"] != 0
        assert "not a complete release" in answers[name][0]["msg"]
    assert both("state") == before


@pytest.mark.usefixtures("traffic")
def test_next_good_release_is_activated(good: str) -> None:
    for release in (COPY, good):
        for name, (answer,) in both("activate", release=release).items():
            assert (name, answer["rc"], answer.get("method")) == (name, 0, "reload"), answer
        assert {state["current"] for state in both("state").values()} == {release}


def test_no_request_failed_in_this_module(traffic: Traffic) -> None:
    traffic.end()
    assert traffic.failed == {}, traffic.failures
