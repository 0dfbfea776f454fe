"""Check the addresses by which hosts are known to others: a compromised host may claim another's.

Other hosts open their firewall and their database to these addresses, trust what comes from them, and send requests
there. The operator sets an address in the inventory (`private_address`); without it, a host reports its own.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any

SET = "Set private_address for each of these hosts in the inventory"


def problems(names: Iterable[str], known: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each address that isn't one of a host, or is another host's.

    `names`: all hosts of the inventory. `known`: their variables; `baton_address` is missing where a host hasn't said
    its address yet.
    """
    hosts = {host: known[host] for host in names}  # each once: Ansible collects a host's variables on each access
    addresses = {
        host: str(about[key])
        for host, about in hosts.items()
        for key in ("private_address", "baton_address")
        if key in about
    }
    claimed = {host: address for host, address in addresses.items() if "private_address" not in hosts[host]}
    if wrong := [sentence for host, address in addresses.items() for sentence in _unusable(host, address, claimed)]:
        return wrong
    if len(hosts) == 1:
        return []  # no other host uses its address
    reached = {host: found for host, about in hosts.items() if (found := _reached_at(host, about))}
    return _shared(addresses, claimed) + _taken(claimed, reached)


def _unusable(host: str, address: str, claimed: Iterable[str]) -> list[str]:
    has = f'{host} has the {"address" if host in claimed else "private_address"} "{address}"'
    try:
        found = ipaddress.IPv4Address(address)
    except ValueError:
        return [f"{has}, which isn't an IPv4 address. Set private_address to the address that other hosts use."]
    # requests from a loopback address would be trusted as the host's own
    if found.is_unspecified or found.is_multicast or found.is_reserved or (found.is_loopback and host in claimed):
        return [f"{has}, at which no other host can reach it. Set private_address to the address that other hosts use."]
    return []


def _shared(addresses: Mapping[str, str], claimed: Iterable[str]) -> list[str]:
    """Return a sentence for each address of several hosts."""
    owners: dict[str, list[str]] = {}
    for host, address in addresses.items():
        owners.setdefault(address, []).append(host)
    return [
        f"{' and '.join(names)} have the same address {address} ("
        + ", ".join(f"{name} {'says so itself' if name in claimed else 'by its private_address'}" for name in names)
        + f"), and other hosts know a host by its address. {SET}, each another, or remove all but one of them. If none "
        "of them should have that address, find out whether it is compromised."
        for address, names in owners.items()
        if len(names) > 1
    ]


def _taken(claimed: Mapping[str, str], reached: Mapping[str, str]) -> list[str]:
    """Return a sentence for each claimed address at which the inventory reaches another host.

    That it differs from the host's own address in the inventory is normal, as with NAT or a network for SSH.
    """
    return [
        f"{host} says that its address is {address}, but that is {other} in the inventory, and other hosts know a host "
        f"by its address. If it is right, set private_address: {address} for {host}. Else find out whether the host is "
        "compromised."
        for host, address in claimed.items()
        for other, at in reached.items()
        if at == address and other != host
    ]


def _reached_at(host: str, variables: Mapping[str, Any]) -> str:
    """Return the IPv4 address at which the inventory reaches a host; empty for a name, IPv6, or a forwarded port."""
    try:
        found = ipaddress.IPv4Address(str(variables.get("ansible_host", host)))
    except ValueError:
        return ""
    return "" if found.is_loopback else str(found)
