"""The problems that checks find are reported together, those that depend on others left out."""

from __future__ import annotations

from typing import Any

from ansible_collections.baton.web.plugins.module_utils.controller.problems import Problems

UNDEFINED = "Task failed: Error while evaluating conditional: 'x' is undefined"


def text(*failures: tuple[str, Any], of_all: bool = False) -> str:
    problems = Problems()
    for host, message in failures:
        problems.add(host, message if isinstance(message, dict) else {"msg": message}, of_all=of_all)
    return problems.text()


def test_hosts_with_the_same_problem_are_one_line() -> None:
    same = [("web1", "web1: a is 1. Set b."), ("web2", "web2: a is 1. Set b.")]
    assert text(*same) == "web1, web2: a is 1. Set b."
    assert text(*same, ("web2", "web2 has no memory."), ("web3", "no space"), *same) == (
        "3 problems. Nothing has been changed.\n- web1, web2: a is 1. Set b.\n- web2 has no memory.\n- web3: no space"
    )
    assert text(("web1", "web1: no\n- web2: no"), ("web3", "no")).endswith("\n- web1: no\n  - web2: no\n- web3: no")
    # the name of another host isn't this one's
    assert text(("web1", "web10: no")) == "web1: web10: no"
    assert text(("web1", "web1: no"), of_all=True) == "web1: no"
    assert text() == ""


def test_each_failed_item_of_a_loop_is_a_problem() -> None:
    items = [{"failed": True, "msg": "one"}, {"msg": "fine"}, {"failed": True, "msg": "two"}]
    found = text(("web1", {"msg": "One or more items failed", "results": items}), of_all=True)
    assert found == "2 problems. Nothing has been changed.\n- one\n- two"


def test_each_message_of_an_assertion_is_a_problem() -> None:
    several = {"msg": ["web1: a is 1.", "web1: b is 2."]}
    assert text(("web1", several), ("web2", "web2: b is 2.")) == (
        "2 problems. Nothing has been changed.\n- web1: a is 1.\n- web1, web2: b is 2."
    )


def test_check_that_depends_on_another_is_left_out() -> None:
    assert text(("web1", UNDEFINED), ("web2", "web2: no memory")) == "web2: no memory"
    # but a check that can't be evaluated never passes
    assert text(("web1", UNDEFINED)) == f"web1: {UNDEFINED}"
