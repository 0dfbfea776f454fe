"""The sandbox of each unit: no other test notices if a directive disappears from a template."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

UNITS = "etc/systemd/system/"
# for every process that Baton starts
COMMON = {
    "NoNewPrivileges=true",
    "ProtectHome=true",
    "PrivateTmp=true",
    "PrivateDevices=true",
    "ProtectClock=true",
    "ProtectHostname=true",
    "ProtectKernelLogs=true",
    "ProtectKernelModules=true",
    "ProtectKernelTunables=true",
    "ProtectControlGroups=true",
    "RestrictNamespaces=true",
    "RestrictRealtime=true",
    "LockPersonality=true",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service",
    "SystemCallErrorNumber=EPERM",
}
# for processes that only write to their own folders
STRICT = COMMON | {"ProtectSystem=strict", "ProtectProc=invisible", "RestrictSUIDSGID=true"}
# for processes that run the application's code: never root, no capabilities, and files that others can't read
APPLICATION = STRICT | {
    "User=links",
    "Group=links",
    "CapabilityBoundingSet=",
    "AmbientCapabilities=",
    "RemoveIPC=true",
    "UMask=0027",
    "SystemCallFilter=~@privileged",
    "StateDirectoryMode=0750",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
}
GIVEN: dict[str, Any] = {
    "app_name": "links",
    "app_service_migration_command": "true",
    "app_processes": {"worker": {"command": "x"}},
    "app_schedules": {"cleanup": {"command": "x", "calendar": "daily"}},
    "nginx_server_sandbox": True,
    "postgresql_server_sandbox": True,
    "tls_certificate_name": "links",
}


@pytest.mark.parametrize(
    ("role", "template", "expected"),
    [
        ("app_service", "app.service.j2", APPLICATION),
        ("app_service", "app-rehearsal@.service.j2", APPLICATION),
        ("app_service", "app-migration@.service.j2", APPLICATION),
        ("app_service", "app-process@.service.j2", APPLICATION),
        ("app_service", "app-schedule.service.j2", APPLICATION),
        ("nginx_server", "nginx.service.d/baton.conf.j2", STRICT | {"MemoryDenyWriteExecute=true"}),
        ("postgresql_server", "postgresql@.service.d/baton.conf.j2", COMMON | {"ProtectSystem=full"}),
        ("tls_certificate", "acme.service.j2", STRICT | {"CapabilityBoundingSet="}),
    ],
)
def test_unit_has_its_sandbox_directives(
    load_role: Callable[[str], Any], role: str, template: str, expected: set[str]
) -> None:
    loaded = load_role(role)
    given = dict(GIVEN)
    if role == "app_service":
        given["__app_service_unit"] = loaded.value("__app_service_units", **GIVEN)[0]
        for kind, plural in (("process", "processes"), ("schedule", "schedules")):
            ((name, one),) = loaded.value(f"__app_service_{plural}", **GIVEN).items()
            given[f"__app_service_{kind}"] = {"key": name, "value": one}
    section = loaded.render(UNITS + template, **given).partition("[Service]\n")[2].partition("[Install]")[0]
    assert expected - set(section.splitlines()) == set()
