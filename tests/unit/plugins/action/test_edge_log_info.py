"""A bake that is watched in intervals: the arguments of each, and what ends it."""

from __future__ import annotations

import types
from typing import Any

import pytest

from tests.support.playbooks import plugin

action = plugin("action/edge_log_info")
GOOD, BAD = {"verdict": {"ok": True}}, {"verdict": {"ok": False}}


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the action with these verdicts, one for each interval, and presses Ctrl-C after `pressed_after` of them."""

    def run(seconds: float, *verdicts: dict[str, Any], pressed_after: int = 99) -> tuple[list[dict[str, Any]], Any]:
        calls: list[dict[str, Any]] = []

        def execute(_action: Any, _variables: Any, arguments: dict[str, Any]) -> dict[str, Any]:
            calls.append(arguments)
            return verdicts[len(calls) - 1]

        monkeypatch.setattr("ansible.plugins.action.ActionBase.run", lambda *_: {})
        monkeypatch.setattr(action.action, "execute", execute)
        monkeypatch.setattr(action.action, "interrupted", lambda: len(calls) >= pressed_after)

        class Here(action.ActionModule):  # type: ignore[misc,name-defined]
            def __init__(self) -> None:
                checks = {"host": "links.example.org", "count": "20"}
                self._task = types.SimpleNamespace(
                    args={"bake_seconds": str(seconds), "bake_since": 5, "checks": checks}
                )

        return calls, Here().run(None, {})

    return run


@pytest.mark.parametrize(
    ("seconds", "intervals", "checks"), [(0, [0], "20"), (10, [10], "20"), (25, [25 / 3] * 3, 7), (600, [10] * 60, 3)]
)
def test_intervals_add_up_to_the_bake(watch: Any, seconds: float, intervals: list[float], checks: object) -> None:
    calls, answer = watch(seconds, *[GOOD] * len(intervals))
    assert [call["bake_seconds"] for call in calls] == pytest.approx(intervals)
    assert {call["bake_since"] for call in calls} == {5}
    assert {call["checks"]["count"] for call in calls} == {checks}
    assert answer == GOOD


def test_bad_verdict_ends_the_bake(watch: Any) -> None:
    calls, answer = watch(60, GOOD, BAD)
    assert (len(calls), answer) == (2, BAD)


def test_failed_read_is_not_repeated(watch: Any) -> None:
    calls, answer = watch(60, {"failed": True, "msg": "edge1 can't be reached"})
    assert (len(calls), answer["msg"]) == (1, "edge1 can't be reached")


def test_interrupt_takes_effect_after_the_current_interval(watch: Any) -> None:
    calls, answer = watch(300, GOOD, GOOD, pressed_after=2)
    assert (len(calls), answer["failed"], answer["msg"]) == (2, True, "Interrupted by the operator.")


@pytest.mark.parametrize("wrong", [{"verdict": 5}, {"verdict": None}, {"verdict": ["ok"]}, {}])
def test_verdict_of_another_type_ends_the_bake(watch: Any, wrong: dict[str, Any]) -> None:
    calls, answer = watch(60, wrong)
    assert (len(calls), answer) == (1, wrong)
