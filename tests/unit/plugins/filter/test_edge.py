"""Which addresses a network contains."""

from __future__ import annotations

import pytest

from tests.support.playbooks import plugin


@pytest.mark.parametrize(
    ("networks", "expected"),
    [
        ([], []),
        (["10.0.0.0/8"], ["10.0.0.1"]),
        (["10.0.0.7/8", "fe80::/10"], ["10.0.0.1", "fe80::1%eth0"]),
        (["10.0.0.1", "192.168.0.0/16"], ["10.0.0.1"]),
        (["::/0"], ["fe80::1%eth0", "fd00::1"]),
    ],
    ids=str,
)
def test_addresses_within_networks(networks: list[str], expected: list[str]) -> None:
    addresses = ["10.0.0.1", "fe80::1%eth0", "fd00::1", "11.0.0.1", "no address", ""]
    assert plugin("filter/edge").within(addresses, networks) == expected
