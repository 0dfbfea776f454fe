"""Packages are installed from apt even if unneeded sources are broken."""

from __future__ import annotations

import types
from typing import Any

import pytest
from ansible.plugins.action import ActionBase

from tests.support.playbooks import plugin

DEAD = "E: Failed to fetch http://dead.test/InRelease  Could not connect to dead.test:80"
MISSING = {"failed": True, "msg": "No package matching 'jq' is available"}
INSTALLED = {"changed": True}


class Host:
    """A host whose apt returns these answers, one for each installation, and which records the calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: dict[str, Any], stderr: str = DEAD) -> None:
        self.calls: list[str] = []
        installations = iter(answers)

        def execute(_: Any, module: str, module_args: Any, **__: Any) -> dict[str, Any]:
            if module == "ansible.builtin.command":
                self.calls.append("read lists")
                return {"rc": 0, "stdout": "Hit:1 http://deb.test InRelease", "stderr": stderr}
            self.calls.append("install " + " ".join(module_args["name"]))
            return dict(next(installations))

        monkeypatch.setattr(ActionBase, "run", lambda *_: {})
        monkeypatch.setattr(ActionBase, "_execute_module", execute)

    @staticmethod
    def run(*names: str, age: float | None = 60, check: bool = False, delegate_to: str | None = None) -> Any:
        action = plugin("action/packages").ActionModule
        running = object.__new__(action)
        running._task = types.SimpleNamespace(
            args={"name": list(names)}, check_mode=check, delegate_to=delegate_to, action="baton.web.packages"
        )
        running.validate_argument_spec = lambda _: (None, {"name": list(names)})
        return running.run(None, {"inventory_hostname": "app1", "ansible_facts": {"package_lists_age": age}})


@pytest.mark.parametrize(
    ("age", "answers", "calls"),
    [
        (60, [INSTALLED], ["install jq"]),
        (60, [MISSING, INSTALLED], ["install jq", "read lists", "install jq"]),
        (90000, [INSTALLED], ["read lists", "install jq"]),
        (None, [INSTALLED], ["read lists", "install jq"]),
    ],
    ids=["fresh", "fresh without the package", "a day old", "none"],
)
def test_package_lists_are_read_only_if_needed(
    age: float | None, answers: list[dict[str, Any]], calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(monkeypatch, *answers)
    result = host.run("jq", age=age)
    assert host.calls == calls
    assert result["changed"]
    # so that the next role doesn't read them again
    assert ("ansible_facts" in result) is ("read lists" in calls)


def test_broken_source_that_is_not_needed_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    (warning,) = Host(monkeypatch, INSTALLED).run("jq", age=None)["warnings"]
    assert "Failed to fetch http://dead.test/InRelease" in warning


def test_unavailable_package_names_the_host_and_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    result = Host(monkeypatch, MISSING, MISSING).run("jq")
    assert result["failed"]
    for word in ("app1: ", "jq", "No package matching", "http://dead.test/InRelease", "sources.list.d"):
        assert word in result["msg"]


def test_output_of_a_failed_installation_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = {"failed": True, "msg": "'apt-get install jq' failed: ", "stderr": "E: You have held broken packages.\n"}
    assert "E: You have held broken packages." in Host(monkeypatch, broken, broken).run("jq")["msg"]


def test_check_mode_reads_no_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch, MISSING)
    assert host.run("jq", age=None, check=True) == {"changed": True}
    assert host.calls == ["install jq"]


def test_age_of_the_lists_is_not_used_for_a_delegated_task(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch, INSTALLED)
    assert "ansible_facts" not in host.run("jq", age=90000, delegate_to="builder1")
    assert host.calls == ["install jq"]


def test_call_without_packages_only_reads_the_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch, stderr="")
    assert host.run()["changed"] is False
    assert host.calls == ["read lists"]
