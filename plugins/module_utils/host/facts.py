"""The facts that roles need, with the names of Ansible's own facts, at a fraction of their cost."""

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

from . import resources  # a link to gunicorn_handover's module

# Connecting a datagram socket sends nothing: the kernel only chooses the route. Ansible uses the same addresses.
PROBE_ADDRESSES = {socket.AF_INET: ("8.8.8.8", 53), socket.AF_INET6: ("2404:6800:400a:800::1012", 53)}
RENAMED = {"container-other": "container"}  # systemd's name to Ansible's


def gather(*, packages: bool) -> dict[str, Any]:
    """Return all facts of this host; the installed packages only with `packages`."""
    return {
        "architecture": platform.machine(),
        "clock": time.time(),
        "default_ipv4": default_address(socket.AF_INET),
        "default_ipv6": default_address(socket.AF_INET6),
        **distribution(),
        "memtotal_mb": memory(),
        **({"packages": installed_packages(), "package_lists_age": package_lists_age()} if packages else {}),
        "nameservers": nameservers(),
        **postgresql(),
        "processor_vcpus": resources.cores(),  # respects the CPU quota of a container
        "python": {
            "version": {"major": sys.version_info[0], "minor": sys.version_info[1], "micro": sys.version_info[2]}
        },
        "service_mgr": service_manager(),
        **virtualization(),
    }


def default_address(family: socket.AddressFamily) -> dict[str, str]:
    """Return the source address of the default route; empty if there is none."""
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(PROBE_ADDRESSES[family])
        return {"address": probe.getsockname()[0]}
    return {}


def distribution(root: str = "/") -> dict[str, str]:
    """Return name and version of the operating system, such as Debian 12.5 or Ubuntu 24.04."""
    release = os_release(root)
    known = {"debian": "Debian", "ubuntu": "Ubuntu"}
    name = known.get(release.get("ID", ""), release.get("NAME", "Linux").split()[0])
    version = release.get("VERSION_ID", "")
    with contextlib.suppress(OSError):
        # only this file has Debian's point release
        point = pathlib.Path(root, "etc/debian_version").read_text(encoding="utf-8").strip()
        if name == "Debian" and point.startswith(f"{version}."):
            version = point
    return {
        "distribution": name,
        "distribution_version": version,
        "distribution_major_version": version.split(".")[0],
        "distribution_release": release.get("VERSION_CODENAME", ""),
    }


def os_release(root: str = "/") -> Mapping[str, str]:
    """Return the fields of /etc/os-release."""
    found = {}
    with contextlib.suppress(OSError):
        for line in pathlib.Path(root, "etc/os-release").read_text(encoding="utf-8").splitlines():
            name, given, value = line.partition("=")
            if given:
                found[name.strip()] = "".join(shlex.split(value))
    return found


def memory(root: str = "/") -> int:
    """Return the host's memory in MiB."""
    for line in pathlib.Path(root, "proc/meminfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) // 1024
    return 0


def installed_packages(root: str = "/") -> list[str]:
    """Return the names of the installed packages, which saves roles a call of apt.

    Unlike Ansible's package_facts without versions: Ansible copies a host's facts on each access, for hundreds of
    packages on every host.
    """
    found = set()
    with contextlib.suppress(OSError):
        for paragraph in pathlib.Path(root, "var/lib/dpkg/status").read_text(encoding="utf-8").split("\n\n"):
            # not the long fields, which come later
            fields = dict(line.partition(": ")[::2] for line in paragraph.split("\n", 12)[:12])
            if fields.get("Status", "").endswith(" ok installed"):
                found.add(fields["Package"])
    return sorted(found)


def package_lists_age(root: str = "/") -> float | None:
    """Return the seconds since apt's package lists were updated; None if there are none."""
    lists = pathlib.Path(root, "var/lib/apt/lists")
    with contextlib.suppress(OSError):
        # apt also updates these times if a list has not changed
        times = [path.stat().st_mtime for path in (lists, lists / "partial")]
        if any(
            path.name.endswith(("Packages", "Packages.lz4", "Packages.xz", "Packages.gz")) for path in lists.iterdir()
        ):
            return max(0.0, time.time() - max(times))
    return None


def nameservers(root: str = "/") -> list[str]:
    """Return the name servers in /etc/resolv.conf."""
    found = []
    with contextlib.suppress(OSError):
        for line in pathlib.Path(root, "etc/resolv.conf").read_text(encoding="utf-8", errors="replace").splitlines():
            words = line.split()
            if len(words) > 1 and words[0] == "nameserver" and re.fullmatch("[0-9a-fA-F.:]{2,45}", words[1]):
                found.append(words[1])
    return found[:8]


def postgresql(root: str = "/") -> dict[str, int]:
    """Return max_connections of the PostgreSQL server as of its last start; empty if there is none.

    The server records it in its control file; of several servers, the lowest counts.
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
    """Return the service manager: systemd, or the name of process 1."""
    if os.path.isdir("/run/systemd/system"):
        return "systemd"
    return pathlib.Path("/proc/1/comm").read_text(encoding="utf-8").strip()


def virtualization() -> dict[str, str]:
    """Return whether the host is virtualized, and how, from systemd-detect-virt."""
    kind = ""
    with contextlib.suppress(OSError):
        done = subprocess.run(["systemd-detect-virt"], capture_output=True, text=True, check=False)
        kind = done.stdout.strip()
    if kind in ("", "none"):
        return {"virtualization_role": "host", "virtualization_type": ""}
    return {"virtualization_role": "guest", "virtualization_type": RENAMED.get(kind, kind)}
