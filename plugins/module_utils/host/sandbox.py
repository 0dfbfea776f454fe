"""Run packages' code on a host confined: in a transient unit with a dynamic user, without network."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from . import disk

# paths inside the sandbox of the writable and of the read-only folder
WRITABLE, READABLE = Path("/tmp/work"), Path("/tmp/input")

# limits of code that runs once, so that it can't starve running services
BOUNDS = (
    "TasksMax=1024",
    "MemoryMax=75%",
    "MemorySwapMax=0",
    "OOMScoreAdjust=500",
    f"LimitFSIZE={disk.LARGEST}",
)
# sandbox properties for any user
CONFINED = (
    "PrivateTmp=yes",
    "PrivateDevices=yes",
    "ProtectHome=yes",
    "ProtectSystem=strict",
    "ProtectProc=invisible",
    "ProtectKernelTunables=yes",
    "ProtectKernelModules=yes",
    "ProtectControlGroups=yes",
    "RestrictNamespaces=yes",
    "RestrictSUIDSGID=yes",
    "LockPersonality=yes",
    "NoNewPrivileges=yes",
    "CapabilityBoundingSet=",
    "InaccessiblePaths=-/run/dbus",
    "ReadOnlyPaths=-/run/baton",
)
_PROPERTIES = (*BOUNDS, *CONFINED, "DynamicUser=yes", "PrivateNetwork=yes", "UMask=0022")


def available() -> bool:
    """Whether this runs as root on a host with systemd."""
    return os.geteuid() == 0 and os.path.isdir("/run/systemd/system")


def invocation(
    environment: Mapping[str, str], *, timeout: int, writable: Path | None = None, readable: Path | None = None
) -> list[str]:
    """Return the words to put before a command that runs confined for at most `timeout` seconds.

    The two folders are mounted at WRITABLE and READABLE; their modes still apply.
    """
    properties = [*_PROPERTIES, f"RuntimeMaxSec={timeout}"]
    if writable is not None:
        properties += [f"BindPaths={writable}:{WRITABLE}", f"WorkingDirectory={WRITABLE}"]
    if readable is not None:
        properties.append(f"BindReadOnlyPaths={readable}:{READABLE}")
    return [
        *("systemd-run", "--quiet", "--collect", "--wait", "--pipe"),
        *(f"--property={line}" for line in properties),
        *(f"--setenv={name}={value}" for name, value in environment.items()),
    ]
