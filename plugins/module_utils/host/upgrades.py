"""A host's pending upgrades, whether a reboot is required, and how long the last boot took."""

from __future__ import annotations

import pathlib
import re
import subprocess
from collections.abc import Mapping
from typing import Any

from . import systemd

_UPGRADE = re.compile(r"^Inst (?P<name>\S+)(?: \[(?P<before>[^\]]+)\])? \((?P<after>\S+)", re.MULTILINE)
_REMOVAL = re.compile(r"^Remv (\S+)", re.MULTILINE)
_BOOT = ("FirmwareTimestampMonotonic", "UserspaceTimestampMonotonic", "FinishTimestampMonotonic")


def reboot_required(root: str = "/") -> list[str]:
    """Return the packages that require a reboot; empty if none is required."""
    for folder in ("run", "var/run"):
        flag = pathlib.Path(root, folder, "reboot-required")
        if flag.exists():
            packages = flag.with_name("reboot-required.pkgs")
            return sorted(set(packages.read_text().split())) if packages.exists() else ["unknown packages"]
    return []


def boot_seconds(properties: Mapping[str, str], container: bool) -> float:
    """Return how long the last boot took in seconds, from systemd's properties (microseconds, kernel's clock)."""
    firmware, userspace, finish = (int(properties.get(name) or 0) for name in _BOOT)
    if not finish:
        return 0.0
    # a container shares the machine's clock, which began long before
    return round((finish - userspace if container else finish + firmware) / 1e6, 1)


def pending(listing: str) -> dict[str, Any]:
    """Parse the output of `apt-get --simulate dist-upgrade`. Keys as in upkeep_info's RETURN."""
    found = {upgrade["name"]: upgrade for upgrade in _UPGRADE.finditer(listing)}
    return {
        "upgrades": [
            " ".join([name, *([upgrade["before"], "->"] if upgrade["before"] else ["new:"]), upgrade["after"]])
            for name, upgrade in sorted(found.items())
        ],
        "removals": sorted(set(_REMOVAL.findall(listing)) - set(found)),
    }


def boot() -> float:
    """Return how long this host's last boot took, in seconds."""
    container = subprocess.run(["systemd-detect-virt", "--container", "--quiet"], check=False).returncode == 0
    return boot_seconds(systemd.manager_properties(*_BOOT), container)


def simulate() -> subprocess.CompletedProcess[str]:
    """Simulate an upgrade of all packages."""
    return subprocess.run(
        ["apt-get", "--simulate", "--quiet", "dist-upgrade"],
        check=False,
        text=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
    )
