"""Groups of an inventory that seem to be misspelt groups of Baton."""

from __future__ import annotations

import pytest
import yaml
from ansible_collections.baton.web.plugins.module_utils.controller import groups

from tests.support.playbooks import PROJECT

SERVICES = yaml.safe_load((PROJECT / "playbooks/vars/topology.yml").read_text())["baton_host_service_table"]
KNOWN = ["app_servers", "load_balancers", *(row["group"] for row in SERVICES)]


def misspelt(**hosts: list[str]) -> dict[str, str]:
    return groups.misspelt({"all": ["a"], "ungrouped": [], **hosts}, KNOWN)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("app_server", "app_servers"),
        ("App-Servers", "app_servers"),
        ("load_balancer", "load_balancers"),
        ("loadbalancers", "load_balancers"),
        ("postgres_servers", "postgresql_servers"),
        ("databases", "postgresql_servers"),
        ("redis_server", "redis_servers"),
    ],
)
def test_group_with_a_similar_name_is_found_if_batons_is_empty(name: str, meant: str) -> None:
    assert misspelt(**{name: ["a"]}) == misspelt(**{name: ["a"], meant: []}) == {name: meant}
    # the operator's own
    assert misspelt(**{name: ["a"], meant: ["b"]}) == {}
    assert misspelt(**{name: []}) == {}


@pytest.mark.parametrize("name", ["fleet", "production", "mail_servers", "file_servers", "monitoring", "berlin"])
def test_group_of_the_operator_is_none_of_batons(name: str) -> None:
    assert misspelt(**{name: ["a"]}) == {}


def test_other_names_are_of_batons_groups() -> None:
    assert set(groups.OTHER_NAMES.values()) == set(KNOWN)
    assert not groups.OTHER_NAMES.keys() & set(KNOWN)
