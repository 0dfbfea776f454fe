"""The units of an application: what a rehearsal shares with the service, and where it differs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

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


def service_section(text: str) -> Directives:
    """The directives of a unit's [Service] section."""
    found: Directives = {}
    for line in text.partition("[Service]")[2].partition("[Install]")[0].splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def units(role: Any, **given: Any) -> tuple[Directives, Directives]:
    """The directives of the service and of its rehearsal."""
    service, rehearsal = (
        service_section(role.render(f"etc/systemd/system/{name}.service.j2", **GIVEN, **given))
        for name in ("app", "app-rehearsal@")
    )
    return service, rehearsal


def test_a_rehearsal_differs_from_the_service_only_where_it_must(role: Any) -> None:
    service, rehearsal = units(role)
    differing = {name for name in service.keys() | rehearsal.keys() if service.get(name) != rehearsal.get(name)}
    own = {"Nice", "CPUWeight", "OOMScoreAdjust", "RuntimeMaxSec"}
    the_service_s_alone = {"Sockets", "ExecReload", "RestartSec", "LimitNICE", "OOMPolicy"}
    assert differing == own | the_service_s_alone | {
        *("Environment", "ExecStart", "Restart", "TimeoutStartSec", "TimeoutStopSec"),
        # the status is the service's
        *("ReadOnlyPaths", "ReadWritePaths"),
    }


def test_a_rehearsal_never_speaks_of_the_current_release(role: Any) -> None:
    text = role.render("etc/systemd/system/app-rehearsal@.service.j2", **GIVEN)
    assert "/current" not in text
    assert "/opt/links/releases/%i/venv/bin/python -m gunicorn_handover" in text


def test_a_rehearsal_keeps_no_status_where_the_service_has_its_own(role: Any) -> None:
    _, rehearsal = units(role)
    assert not any("GUNICORN_HANDOVER_STATUS" in value for value in rehearsal["Environment"])


def test_the_user_s_directives_win_in_both(role: Any) -> None:
    for unit in units(role):
        assert unit["PrivateDevices"][-1] == "false"
        assert unit["ReadWritePaths"][-1] == "/srv/media"


def test_nobody_but_root_and_the_user_can_connect_to_the_scratch_socket(role: Any) -> None:
    lines = role.render("etc/systemd/system/app-rehearsal@.socket.j2", **GIVEN).splitlines()
    assert {"SocketUser=links", "SocketMode=0600", "ListenStream=/run/links-rehearsal-%i.sock"} < set(lines)


def test_a_rehearsal_has_more_time_than_a_worker_to_boot(role: Any) -> None:
    assert int(role.value("app_service_rehearsal_timeout", app_service_boot_timeout=300)) > 300
