"""Checks of a host before anything on it is changed: disk space, free ports, calendar expressions."""

from __future__ import annotations

import fnmatch
import glob
import os
import pathlib
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from . import disk

LISTEN = "0A"  # TCP_LISTEN in /proc/net/tcp


def disk_problems(host: str, directories: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield sentences about folders with too little free space (MiB)."""
    for entry in directories:
        free = shutil.disk_usage(disk.existing(pathlib.Path(entry["path"]))).free // 2**20
        if free < entry["megabytes"]:
            yield (
                f"{host}: {entry['path']} has {free} MiB free, but {entry['megabytes']} MiB are needed. "
                "Free some space, or give the host a larger disk."
            )


def port_problems(host: str, ports: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield sentences about TCP ports that other programs listen on."""
    wanted = {int(entry["port"]): entry for entry in ports}
    others: dict[int, list[str]] = {}
    for port, owner in sorted(listeners(set(wanted))):
        if not any(fnmatch.fnmatch(owner, pattern) for pattern in wanted[port]["allowed"]):
            others.setdefault(port, []).append(owner)
    for port, owners in others.items():
        units = [owner for owner in owners if owner.endswith((".service", ".socket"))]
        # the socket of a service would start it again
        command = f": `systemctl disable --now {' '.join(units)}`" if units else ""
        yield (
            f"{host}: port {port}, which {wanted[port]['for']} needs, is in use by {' and '.join(owners)}. "
            f"Choose another port; or, if the host doesn't need {' and '.join(owners)}, stop and disable it{command}."
        )


def calendar_problems(calendars: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield sentences about schedules' calendar expressions that this host's systemd doesn't accept."""
    # usually all are valid, and one call is enough
    if not calendars or not _refused(*(entry["calendar"] for entry in calendars)):
        return
    for entry in calendars:
        if why := _refused(entry["calendar"]):
            yield (
                f'{entry["setting"]} is "{entry["calendar"]}", which systemd doesn\'t accept ({why}). '
                'Write an expression of systemd.time(7), such as "*-*-* 03:00" or "Mon..Fri 08..18:00/15"; '
                "`systemd-analyze calendar` tests it."
            )


def _refused(*expressions: str) -> str:
    """Return why systemd doesn't accept one of these calendar expressions; empty if it accepts all of them."""
    asked = ["systemd-analyze", "calendar", "--", *expressions]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        return ""  # another check reports that the host doesn't run systemd
    return (done.stderr.strip().splitlines() or ["no reason given"])[-1] if done.returncode else ""


def listeners(ports: set[int]) -> set[tuple[int, str]]:
    """Return the listeners on these TCP ports as (port, unit or command), from /proc and systemd."""
    inodes: dict[str, int] = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if not os.path.exists(table):
            continue
        for line in pathlib.Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            port = int(fields[1].rsplit(":", 1)[1], 16)
            if fields[3] == LISTEN and port in ports:
                inodes[fields[9]] = port
    if not inodes:
        return set()
    sockets = socket_units()
    found = set()
    for link in glob.glob("/proc/[0-9]*/fd/*"):
        try:
            target = os.readlink(link)
        except OSError:
            continue
        port = inodes.get(target[8:-1], 0) if target.startswith("socket:[") else 0
        if port:
            pid = link.split("/")[2]
            found.add((port, sockets.get(port, "systemd") if pid == "1" else _unit(pid)))
    return found


def socket_units() -> dict[int, str]:
    """Return socket units by the TCP port that they listen on."""
    listing = subprocess.run(
        ["systemctl", "list-sockets", "--no-legend", "--plain", "--full"], capture_output=True, text=True, check=False
    )
    units = {}
    for line in listing.stdout.splitlines():
        fields = line.split()
        address, unit = fields[0], next((field for field in fields[1:] if field.endswith(".socket")), "")
        port = address.rsplit(":", 1)[-1]
        if port.isdigit() and unit:
            units[int(port)] = unit
    return units


def _unit(pid: str) -> str:
    """Return the systemd unit of a process, or its command if it has none."""
    try:
        for line in pathlib.Path(f"/proc/{pid}/cgroup").read_text(errors="replace").splitlines():
            unit = line.rsplit("/", 1)[-1]
            if unit.endswith(".service"):
                return unit
        return pathlib.Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return f"process {pid}"


def glibc() -> str:
    """Return the version of the C library, such as 2.36, which determines the wheels that run here."""
    return platform.libc_ver()[1]
