"""A module's result that no module of Baton returns is a failure that names the host."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ansible.plugins.action import ActionBase
from ansible_collections.baton.web.plugins.module_utils.controller import module_result

VARIABLES = {"inventory_hostname": "app1"}


class Action(module_result.CheckedModuleAction):
    """An action that runs nothing by itself."""

    def run(self, *_: Any, **__: Any) -> dict[str, Any]:
        return {}


def action(delegate_to: str = "") -> Any:
    made = object.__new__(Action)
    made._task = SimpleNamespace(action="baton.web.activate", delegate_to=delegate_to)
    return made


@pytest.mark.parametrize(
    ("output", "accepted"),
    [
        ({"stdout": "x" * 60, "stderr": "y" * 40}, True),
        ({"stdout": "x" * 60, "stderr": "y" * 41}, False),
        ({"stderr": "y" * 101}, False),
        ({"stdout": "x" * 100, "stderr": None}, True),
    ],
)
def test_output_and_errors_have_a_limit_together(
    monkeypatch: pytest.MonkeyPatch, output: dict[str, Any], accepted: bool
) -> None:
    monkeypatch.setattr(module_result, "LARGEST", 100)
    parsed: list[Any] = []

    def parse(_self: Any, *given: Any) -> dict[str, int]:
        parsed.append(given)
        return {"a": 1}

    monkeypatch.setattr(ActionBase, "_parse_returned_data", parse)
    if accepted:
        assert action()._parse_returned_data(output, "legacy") == {"a": 1}
        assert parsed == [(output, "legacy")]
    else:
        with pytest.raises(module_result.TooLargeError):
            action()._parse_returned_data(output, "legacy")
        assert parsed == []


@pytest.mark.parametrize("error", [AttributeError, TypeError, ValueError, RecursionError])
def test_result_of_a_wrong_type_is_a_failure_of_its_host(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def execute(*_: Any, **__: Any) -> None:
        raise error("'list' object has no attribute 'items'")

    monkeypatch.setattr(ActionBase, "_execute_module", execute)
    failed = action()._execute_module(task_vars=VARIABLES)
    assert failed["failed"] is True
    assert failed["msg"] == (
        "app1 returned what Baton's program doesn't return ('list' object has no attribute 'items'). Find out whether "
        "it is compromised, and reinstall it if it is."
    )
    assert action("edge1")._execute_module(task_vars=VARIABLES)["msg"].startswith("edge1 returned")
    assert action()._execute_module()["msg"].startswith("The host returned")


def test_result_that_is_too_large_is_a_failure_with_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    def execute(*_: Any, **__: Any) -> None:
        raise module_result.TooLargeError("17.5")

    monkeypatch.setattr(ActionBase, "_execute_module", execute)
    for given, options, name in (
        (("baton.web.logs_info",), {}, "baton.web.logs_info"),
        ((), {"module_name": "baton.web.finish"}, "baton.web.finish"),
        ((), {}, "baton.web.activate"),
    ):
        failed = action()._execute_module(*given, task_vars=VARIABLES, **options)
        assert failed["msg"].startswith(f"app1 returned 17.5 MiB for {name}, more than 16 MiB. If you asked for logs")
