"""Running code of packages on a host: in a transient unit with a user of its own, no network, and little to see."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from . import disk

# where the folder is that it may write, and the one that it may only read
WRITABLE, READABLE = Path("/tmp/work"), Path("/tmp/input")

# what code that is run once may take of a host at most: one that wants more must not take it from what serves
BOUNDS = (
    "TasksMax=1024",
    "MemoryMax=75%",
    "MemorySwapMax=0",
    "OOMScoreAdjust=500",
    f"LimitFSIZE={disk.LARGEST}",
)
# of systemd, for whoever the user is
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
    """Whether there is something to take away, and systemd to do so."""
    return os.geteuid() == 0 and os.path.isdir("/run/systemd/system")


def invocation(
    environment: Mapping[str, str], *, timeout: int, writable: Path | None = None, readable: Path | None = None
) -> list[str]:
    """What comes before a command that is to run so, for `timeout` seconds at most.

    The two folders are seen at WRITABLE and READABLE, by whoever may read and write them outside.
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
