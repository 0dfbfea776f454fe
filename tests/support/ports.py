"""Which ports of a host can be reached, scanned with nmap from another host of the fleet."""

from __future__ import annotations

import dataclasses
import re

INSTALL = "apt-get -o DPkg::Lock::Timeout=300 install -qq -y --no-install-recommends nmap > /dev/null"
# the ports that the fleets' hosts may listen on, and all ports below 1024
PORTS = "1-1024,5432,6379,6380,8000,8081,8443"
NUMBER = 1030
# IPv6 is off in the fleets' networks; link-local addresses exist as soon as it is on
ENABLE_IPV6 = "sysctl -q -w net.ipv6.conf.eth0.disable_ipv6=0"
LINK_LOCAL = (
    'timeout 60 sh -c "until ip -6 -o address show dev eth0 scope link -tentative '
    "| grep -o 'fe80:[^/]*'; do sleep 0.1; done\""
)


@dataclasses.dataclass(frozen=True)
class Found:
    """The result of a scan: ports that accept, ports that refuse, and the number of those that don't respond."""

    open: list[int]
    closed: list[int]
    filtered: int


def scan(address: str) -> str:
    """The nmap command that scans an address, with machine-readable output."""
    version = "-6" if ":" in address else "-4"
    return f"nmap {version} -n -Pn -sS -p {PORTS} -oG - {address}"


def read(output: str) -> Found:
    """Parse the command's output. Raises ValueError if it isn't nmap's output for one host."""
    if "\tPorts: " not in output:
        raise ValueError(f"nmap reports no ports of a host: {output.strip()}")
    ignored = re.search(r"Ignored State: filtered \((\d+)\)", output)
    listed = {
        state: [int(port) for port in re.findall(rf"(\d+)/{state}/", output)]
        for state in ("open", "closed", "filtered")
    }
    silent = int(ignored[1]) if ignored else 0
    return Found(listed["open"], listed["closed"], silent + len(listed["filtered"]))
