"""The units of a rehearsal: what they share with the service, and where they differ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.unit_file import service_section

Directives = dict[str, list[str]]
GIVEN: dict[str, Any] = {
    "app_name": "links",
    "app_service_user": "links",
    "app_service_memory_max": "2G",
    "app_service_credentials": ["TOKEN"],
    "app_service_directives": {"ReadWritePaths": ["/srv/media"], "PrivateDevices": False},
    "__app_service_unit": {
        "name": "links.service",
        "description": "links",
        "status": "handover.json",
        "restart": "always",
        "wanted": True,
    },
}


@pytest.fixture
def role(load_role: Callable[[str], Any]) -> Any:
    return load_role("app_service")


def units(role: Any, **given: Any) -> tuple[Directives, Directives]:
    """The directives of the service and of its rehearsal."""
    service, rehearsal = (
        service_section(role.render(f"etc/systemd/system/{name}.service.j2", **GIVEN, **given))
        for name in ("app", "app-rehearsal@")
    )
    return service, rehearsal


def test_rehearsal_unit_differs_from_the_service_only_where_required(role: Any) -> None:
    service, rehearsal = units(role)
    differing = {name for name in service.keys() | rehearsal.keys() if service.get(name) != rehearsal.get(name)}
    rehearsal_only = {"Nice", "CPUWeight", "OOMScoreAdjust", "RuntimeMaxSec"}
    service_only = {"Sockets", "ExecReload", "RestartSec", "LimitNICE", "OOMPolicy"}
    assert differing == rehearsal_only | service_only | {
        *("Environment", "ExecStart", "Restart", "TimeoutStartSec", "TimeoutStopSec"),
        # the status belongs to the service
        *("ReadOnlyPaths", "ReadWritePaths"),
    }


def test_rehearsal_unit_does_not_refer_to_the_current_release(role: Any) -> None:
    text = role.render("etc/systemd/system/app-rehearsal@.service.j2", **GIVEN)
    assert "/current" not in text
    assert "/opt/links/releases/%i/venv/bin/python -m gunicorn_handover" in text


def test_rehearsal_writes_no_status(role: Any) -> None:
    _, rehearsal = units(role)
    assert not any("GUNICORN_HANDOVER_STATUS" in value for value in rehearsal["Environment"])


def test_operator_directives_override_both_units(role: Any) -> None:
    for unit in units(role):
        assert unit["PrivateDevices"][-1] == "false"
        assert unit["ReadWritePaths"][-1] == "/srv/media"


def test_scratch_socket_is_only_for_root_and_the_user(role: Any) -> None:
    lines = role.render("etc/systemd/system/app-rehearsal@.socket.j2", **GIVEN).splitlines()
    assert {"SocketUser=links", "SocketMode=0600", "ListenStream=/run/links-rehearsal-%i.sock"} < set(lines)


def test_rehearsal_timeout_exceeds_the_boot_timeout(role: Any) -> None:
    assert int(role.value("app_service_rehearsal_timeout", app_service_boot_timeout=300)) > 300
