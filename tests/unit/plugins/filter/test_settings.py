"""The filters that check the settings of all hosts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.filter import settings
from ansible_collections.baton.web.plugins.module_utils.controller import role_checks

from tests.unit.roles.conftest import trusted


class HostVars(dict[str, Any]):
    """The hosts' variables, unevaluated."""

    def raw_get(self, host: str) -> Any:
        return self[host]


def fleet(size: int, **different: Any) -> HostVars:
    """Hosts with the same settings except for `different`, of which each has a value of its own."""

    def variables(number: int) -> Any:
        own = {name: f"{value}{number}" for name, value in different.items()}
        name = f"app{number}"
        environment = {"ADDRESS": "{{ ansible_host }} {{ private_address }}"}
        return trusted(
            {
                "inventory_hostname": name,
                "ansible_host": f"{name}.example.org",
                "private_address": f"10.0.0.{number}",
                "group_names": ["app_servers"],
                "app_config_environment": environment,
                **own,
            }
        )

    return HostVars({f"app{number}": variables(number) for number in range(1, size + 1)})


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hosts for which a role's checks have been evaluated; each fails."""
    hosts = []

    def failing(_self: Any, _role: str, values: Mapping[str, Any], _hostvars: Any) -> list[str]:
        hosts.append(values["inventory_hostname"])
        return [f"{hosts[-1]}: wrong"]

    monkeypatch.setattr(role_checks.Checks, "failing", failing)
    return hosts


def test_one_of_the_hosts_with_the_same_settings_is_checked_and_all_are_named(checked: list[str]) -> None:
    hosts = fleet(3)
    assert settings.role_problems(hosts, {"app_config": list(hosts)}, list(hosts)) == ["app1, app2, app3: wrong"]
    assert checked == ["app1"]


def test_checks_of_a_large_fleet_with_different_settings_are_bounded(checked: list[str]) -> None:
    hosts = fleet(40, app_module="main")
    settings.role_problems(hosts, {"app_config": list(hosts)}, list(hosts))
    assert len(checked) == settings.MOST_CHECKED
    checked.clear()
    # of the run only
    settings.role_problems(hosts, {"app_config": list(hosts)}, ["app7"])
    assert checked == ["app7"]
