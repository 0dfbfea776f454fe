"""What the roles must know of a host, by the names that Ansible's own facts have, at a fraction of their cost."""

from __future__ import annotations

import contextlib
import os
import pathlib
import platform
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

from . import resources  # that of gunicorn_handover, by a link

# Connecting a datagram socket sends nothing: the kernel only chooses the route. Ansible asks it for the same address.
ELSEWHERE = ("8.8.8.8", 53)
RENAMED = {"container-other": "container"}  # systemd's name and Ansible's


def gather(*, packages: bool) -> dict[str, Any]:
    """All of them, of this host; the installed packages only when asked for."""
    return {
        "architecture": platform.machine(),
        "clock": time.time(),
        "default_ipv4": default_ipv4(),
        **distribution(),
        "memtotal_mb": memory(),
        **({"packages": installed_packages(), "package_lists_age": package_lists_age()} if packages else {}),
        "nameservers": nameservers(),
        **postgresql(),
        "processor_vcpus": resources.cores(),  # of a container, those that its quota pays for
        "python": {
            "version": {"major": sys.version_info[0], "minor": sys.version_info[1], "micro": sys.version_info[2]}
        },
        "service_mgr": service_manager(),
        **virtualization(),
    }


def default_ipv4() -> dict[str, str]:
    """The address from which the host reaches others; empty when it reaches nobody."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(ELSEWHERE)
        return {"address": probe.getsockname()[0]}
    return {}


def distribution(root: str = "/") -> dict[str, str]:
    """Name and version of the operating system, such as Debian 12.5 or Ubuntu 24.04."""
    said = os_release(root)
    known = {"debian": "Debian", "ubuntu": "Ubuntu"}
    name = known.get(said.get("ID", ""), said.get("NAME", "Linux").split()[0])
    version = said.get("VERSION_ID", "")
    with contextlib.suppress(OSError):
        # Debian says its point release there alone
        point = pathlib.Path(root, "etc/debian_version").read_text(encoding="utf-8").strip()
        if name == "Debian" and point.startswith(f"{version}."):
            version = point
    return {
        "distribution": name,
        "distribution_version": version,
        "distribution_major_version": version.split(".")[0],
        "distribution_release": said.get("VERSION_CODENAME", ""),
    }


def os_release(root: str = "/") -> Mapping[str, str]:
    """The fields of /etc/os-release."""
    found = {}
    with contextlib.suppress(OSError):
        for line in pathlib.Path(root, "etc/os-release").read_text(encoding="utf-8").splitlines():
            name, given, value = line.partition("=")
            if given:
                found[name.strip()] = "".join(shlex.split(value))
    return found


def memory(root: str = "/") -> int:
    """The host's memory in MiB."""
    for line in pathlib.Path(root, "proc/meminfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) // 1024
    return 0


def installed_packages(root: str = "/") -> list[str]:
    """The names of the installed packages, with which roles need not ask apt.

    Ansible's package_facts has a mapping from them to versions, which nobody reads: each look at a host's variables
    would copy it, for hundreds of packages and every host.
    """
    found = set()
    with contextlib.suppress(OSError):
        for paragraph in pathlib.Path(root, "var/lib/dpkg/status").read_text(encoding="utf-8").split("\n\n"):
            # the long fields come later
            fields = dict(line.partition(": ")[::2] for line in paragraph.split("\n", 12)[:12])
            if fields.get("Status", "").endswith(" ok installed"):
                found.add(fields["Package"])
    return sorted(found)


def package_lists_age(root: str = "/") -> float | None:
    """Seconds since apt's lists of packages were read; None where there are none."""
    lists = pathlib.Path(root, "var/lib/apt/lists")
    with contextlib.suppress(OSError):
        # kept by apt for each list that it has read, also of a source that has nothing new
        times = [path.stat().st_mtime for path in (lists, lists / "partial")]
        if any(
            path.name.endswith(("Packages", "Packages.lz4", "Packages.xz", "Packages.gz")) for path in lists.iterdir()
        ):
            return max(0.0, time.time() - max(times))
    return None


def nameservers(root: str = "/") -> list[str]:
    """The servers that programs ask for names."""
    found = []
    with contextlib.suppress(OSError):
        for line in pathlib.Path(root, "etc/resolv.conf").read_text(encoding="utf-8", errors="replace").splitlines():
            words = line.split()
            if len(words) > 1 and words[0] == "nameserver" and re.fullmatch("[0-9a-fA-F.:]{2,45}", words[1]):
                found.append(words[1])
    return found[:8]


def postgresql(root: str = "/") -> dict[str, int]:
    """How many connections the PostgreSQL that runs here takes, or ran last; nothing where there is none.

    The server notes it beside its data when it starts; of several the least counts.
    """
    found = []
    for data in pathlib.Path(root, "var/lib/postgresql").glob("*/main"):
        program = pathlib.Path(root, "usr/lib/postgresql", data.parent.name, "bin/pg_controldata")
        with contextlib.suppress(OSError):
            done = subprocess.run(
                [program, data],
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                stdin=subprocess.DEVNULL,
                env={"LC_ALL": "C"},
            )
            found += re.findall(r"^max_connections setting:\s*([0-9]{1,6})$", done.stdout, re.MULTILINE)
    return {"postgresql_max_connections": min(map(int, found))} if found else {}


def service_manager() -> str:
    """What runs the host's services: systemd, or the name of process 1."""
    if os.path.isdir("/run/systemd/system"):
        return "systemd"
    return pathlib.Path("/proc/1/comm").read_text(encoding="utf-8").strip()


def virtualization() -> dict[str, str]:
    """Whether the host is a guest, and of what, as systemd finds out."""
    kind = ""
    with contextlib.suppress(OSError):
        done = subprocess.run(["systemd-detect-virt"], capture_output=True, text=True, check=False)
        kind = done.stdout.strip()
    if kind in ("", "none"):
        return {"virtualization_role": "host", "virtualization_type": ""}
    return {"virtualization_role": "guest", "virtualization_type": RENAMED.get(kind, kind)}
