"""Which ports of a host others can reach, as nmap sees them from another host of the fleet."""

from __future__ import annotations

import dataclasses
import re

INSTALL = "apt-get -o DPkg::Lock::Timeout=300 install -qq -y --no-install-recommends nmap > /dev/null"
# what a host may listen on in the fleets, and all ports below 1024
PORTS = "1-1024,5432,6379,8000,8081"
NUMBER = 1028
# IPv6 is off in the fleets' networks; link-local addresses are there as soon as it is on
ENABLE_IPV6 = "sysctl -q -w net.ipv6.conf.eth0.disable_ipv6=0"
LINK_LOCAL = (
    'timeout 60 sh -c "until ip -6 -o address show dev eth0 scope link -tentative '
    "| grep -o 'fe80:[^/]*'; do sleep 0.1; done\""
)


@dataclasses.dataclass(frozen=True)
class Found:
    """What a scan saw: ports that answer, ports that say that nobody is there, and how many say nothing."""

    open: list[int]
    closed: list[int]
    filtered: int


def scan(address: str) -> str:
    """The command that scans an address: nmap's, with output for programs."""
    version = "-6" if ":" in address else "-4"
    return f"nmap {version} -n -Pn -sS -p {PORTS} -oG - {address}"


def read(told: str) -> Found:
    """What the command printed. Raises ValueError when it isn't what nmap prints of one host."""
    if "\tPorts: " not in told:
        raise ValueError(f"nmap says nothing of a host's ports: {told.strip()}")
    ignored = re.search(r"Ignored State: filtered \((\d+)\)", told)
    listed = {
        state: [int(port) for port in re.findall(rf"(\d+)/{state}/", told)] for state in ("open", "closed", "filtered")
    }
    silent = int(ignored[1]) if ignored else 0
    return Found(listed["open"], listed["closed"], silent + len(listed["filtered"]))
