"""The module preflight_info passes each check what it needs, and reports the problems of all of them together."""

from __future__ import annotations

import platform
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.app import ownership
from ansible_collections.baton.web.plugins.module_utils.host import preflight
from ansible_collections.baton.web.plugins.modules import preflight_info

from tests.support import modules

DIRECTORIES = [{"path": "/srv", "megabytes": 5}]
PORTS = [{"port": 443, "for": "nginx", "allowed": ["nginx.service"]}]
APPLICATION = {"name": "links", "user": "www", "adopt": ["user www"], "server": False, "edge": True}


class Checks:
    """Records what each check gets; all find a problem if `bad`."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.bad, self.calls = False, dict[str, Any]()
        for name in ("disk_problems", "port_problems"):
            patch.setattr(preflight, name, self._check(name))
        patch.setattr(ownership, "problems", self._check("ownership"))
        patch.setattr(preflight, "glibc", lambda: "2.36")

    def _check(self, name: str) -> Any:
        def check(*given: Any, **options: Any) -> list[str]:
            self.calls[name] = (given, options) if options else given
            return [f"{name} is wrong."] if self.bad else []

        return check


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> Checks:
    return Checks(monkeypatch)


def run(**options: Any) -> dict[str, Any]:
    return modules.run(preflight_info, host="app1", **options)


def test_each_check_gets_its_options(checks: Checks) -> None:
    result = run(directories=DIRECTORIES, ports=PORTS, application=APPLICATION)
    assert checks.calls == {
        "disk_problems": ("app1", DIRECTORIES),
        "port_problems": ("app1", PORTS),
        "ownership": (("app1",), APPLICATION),
    }
    assert (result["changed"], result["architecture"], result["glibc"]) == (False, platform.machine(), "2.36")


def test_host_without_the_application_is_not_searched_for_it(checks: Checks) -> None:
    run()
    assert checks.calls == {name: ("app1", []) for name in ("disk_problems", "port_problems")}
    run(application={"name": "links", "user": "links"})
    assert checks.calls["ownership"][1] == {
        "name": "links",
        "user": "links",
        "adopt": [],
        "server": True,
        "edge": False,
    }


def test_problems_of_all_checks_are_reported_together(checks: Checks) -> None:
    checks.bad = True
    assert run(application=APPLICATION)["msg"] == (
        "ownership is wrong. disk_problems is wrong. port_problems is wrong."
    )
