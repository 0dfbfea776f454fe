"""The properties that confine packages' code on a host, written out: tests compare each one."""

from __future__ import annotations

BOUNDS = ["TasksMax=1024", "MemoryMax=75%", "MemorySwapMax=0", "OOMScoreAdjust=500", f"LimitFSIZE={2**33}"]
CONFINED = [
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
]
