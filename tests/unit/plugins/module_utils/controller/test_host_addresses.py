"""Addresses of hosts: what a host says of itself must not be another host's."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.controller import host_addresses


def says(address: str, **inventory: str) -> dict[str, str]:
    """The variables of a host that said its address."""
    return {"baton_address": address, **inventory}


def given(address: str, **inventory: str) -> dict[str, str]:
    """The variables of a host with an address in the inventory."""
    return {"baton_address": address, "private_address": address, **inventory}


@pytest.mark.parametrize(
    "hosts",
    [
        {"app1": says("10.0.0.1"), "app2": says("10.0.0.2")},
        {"app1": says("10.0.0.1", ansible_host="10.0.0.1"), "app2": says("10.0.0.2", ansible_host="app2.example")},
        {"10.0.0.1": says("10.0.0.1"), "app2": says("10.0.0.2", ansible_host="fd00::2")},
        {"app1": given("10.0.0.1", ansible_host="203.0.113.1"), "app2": says("10.0.0.2")},
        # forwarded ports, as in the demo
        {"app1": says("10.0.0.1", ansible_host="127.0.0.1"), "app2": says("10.0.0.2", ansible_host="127.0.0.1")},
        # an excluded host that can't be reached
        {"app1": says("10.0.0.1"), "app2": {"ansible_host": "10.0.0.2"}},
        # NAT, or a network for SSH
        {"app1": says("10.0.0.1", ansible_host="203.0.113.1"), "203.0.113.2": says("10.0.0.2")},
        # no other host uses its address
        {"app1": says("10.0.0.1", ansible_host="203.0.113.1")},
        {"app1": given("127.0.0.1")},
    ],
    ids=str,
)
def test_addresses_that_fit_are_accepted(hosts: dict[str, Any]) -> None:
    assert host_addresses.problems(hosts, hosts) == []


@pytest.mark.parametrize(
    ("hosts", "words"),
    [
        (
            {"app1": says("10.0.0.1"), "app2": says("10.0.0.1")},
            ["app1 and app2 have the same address 10.0.0.1 (app1 says so itself, app2 says so itself)", "compromised"],
        ),
        (
            {"app1": says("10.0.0.2"), "app2": given("10.0.0.2")},
            ["(app1 says so itself, app2 by its private_address)", "Set private_address for each of these hosts"],
        ),
        # another host that can't be reached, or is behind NAT
        (
            {"app1": says("10.0.0.2"), "app2": {"ansible_host": "10.0.0.2"}},
            ["app1 says that its address is 10.0.0.2, but that is app2 in the inventory", "private_address: 10.0.0.2"],
        ),
        (
            {"app1": says("10.0.0.2"), "10.0.0.2": says("10.0.0.3")},
            ["app1 says that its address is 10.0.0.2, but that is 10.0.0.2 in the inventory"],
        ),
        *(
            (
                {"app1": says(address), "app2": says("10.0.0.2")},
                [f'app1 has the address "{address}", at which no other'],
            )
            for address in ("127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255")
        ),
        ({"app1": given("0.0.0.0")}, ['app1 has the private_address "0.0.0.0"', "Set private_address to"]),
        ({"app1": given("10.0.0.300")}, ['app1 has the private_address "10.0.0.300", which isn\'t an IPv4 address']),
        # the controller knows it before any host is contacted
        ({"app1": {"private_address": "fd00::1"}}, ['app1 has the private_address "fd00::1", which isn\'t an IPv4']),
    ],
    ids=str,
)
def test_addresses_of_other_hosts_and_of_none_are_refused(hosts: dict[str, Any], words: list[str]) -> None:
    (sentence,) = host_addresses.problems(hosts, hosts)
    for word in words:
        assert word in sentence
