"""A bake that is watched in pieces: what each is asked, and what ends it."""

from __future__ import annotations

import types
from typing import Any

import pytest

from tests.support.playbooks import plugin

action = plugin("action/edge_log_info")
GOOD, BAD = {"verdict": {"ok": True}}, {"verdict": {"ok": False}}


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the action for so many seconds: the verdicts of its pieces are given, and after which Ctrl-C is pressed."""

    def run(seconds: float, *verdicts: dict[str, Any], pressed_after: int = 99) -> tuple[list[dict[str, Any]], Any]:
        asked: list[dict[str, Any]] = []

        def execute(_action: Any, _variables: Any, arguments: dict[str, Any]) -> dict[str, Any]:
            asked.append(arguments)
            return verdicts[len(asked) - 1]

        monkeypatch.setattr("ansible.plugins.action.ActionBase.run", lambda *_: {})
        monkeypatch.setattr(action.action, "execute", execute)
        monkeypatch.setattr(action.action, "interrupted", lambda: len(asked) >= pressed_after)

        class Here(action.ActionModule):  # type: ignore[misc,name-defined]
            def __init__(self) -> None:
                checks = {"host": "links.example.org", "count": "20"}
                self._task = types.SimpleNamespace(
                    args={"bake_seconds": str(seconds), "bake_since": 5, "checks": checks}
                )

        return asked, Here().run(None, {})

    return run


@pytest.mark.parametrize(
    ("seconds", "pieces", "checks"), [(0, [0], "20"), (10, [10], "20"), (25, [25 / 3] * 3, 7), (600, [10] * 60, 3)]
)
def test_the_pieces_are_the_whole(watch: Any, seconds: float, pieces: list[float], checks: object) -> None:
    asked, answer = watch(seconds, *[GOOD] * len(pieces))
    assert [piece["bake_seconds"] for piece in asked] == pytest.approx(pieces)
    assert {piece["bake_since"] for piece in asked} == {5}
    assert {piece["checks"]["count"] for piece in asked} == {checks}
    assert answer == GOOD


def test_a_bad_verdict_ends_it(watch: Any) -> None:
    asked, answer = watch(60, GOOD, BAD)
    assert (len(asked), answer) == (2, BAD)


def test_what_has_no_verdict_is_read_once(watch: Any) -> None:
    asked, answer = watch(60, {"failed": True, "msg": "edge1 can't be reached"})
    assert (len(asked), answer["msg"]) == (1, "edge1 can't be reached")


def test_the_operator_waits_for_one_piece_at_most(watch: Any) -> None:
    asked, answer = watch(300, GOOD, GOOD, pressed_after=2)
    assert (len(asked), answer["failed"], answer["msg"]) == (2, True, "Interrupted by the operator.")
