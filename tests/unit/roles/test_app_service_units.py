"""The units and settings of the web service."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.unit_file import directives

GIVEN: dict[str, Any] = {"app_name": "links", "app_service_credentials": ["TOKEN"]}


@pytest.fixture(scope="module")
def role(load_role: Callable[[str], Any]) -> Any:
    return load_role("app_service")


def unit(role: Any, number: int, **given: Any) -> dict[str, list[str]]:
    """The directives of the service (0) or its bridge (1)."""
    settings = {**GIVEN, **given}
    units = role.value("__app_service_units", **settings)
    text = role.render("etc/systemd/system/app.service.j2", **settings, __app_service_unit=units[number])
    return directives(text)


@pytest.mark.parametrize("number", [0, 1])
def test_failing_unit_keeps_the_socket_and_its_folder(role: Any, number: int) -> None:
    found = unit(role, number)
    assert found["StartLimitIntervalSec"] == ["0"]
    assert "RuntimeDirectory" not in found
    socket = role.render("etc/systemd/system/app.socket.j2", **GIVEN)
    assert "TriggerLimitIntervalSec=0" in socket


@pytest.mark.parametrize("number", [0, 1])
def test_worker_out_of_memory_does_not_stop_the_service(role: Any, number: int) -> None:
    """systemd's default, `stop`, would also stop the serving workers."""
    assert unit(role, number)["MemoryMax"] == ["85%"]
    limited = unit(role, number, app_service_memory_max="1G")
    assert (limited["MemoryMax"], limited["OOMPolicy"]) == (["1G"], ["continue"])
    assert "MemoryMax" not in unit(role, number, app_service_memory_max="")


@pytest.mark.parametrize("number", [0, 1])
def test_metrics_are_optional_and_shared_by_service_and_bridge(role: Any, number: int) -> None:
    folder = "GUNICORN_HANDOVER_METRICS=/run/baton/links/metrics"
    assert folder in unit(role, number, app_service_metrics=True)["Environment"]
    assert not [line for line in unit(role, number)["Environment"] if "METRICS" in line]
    # a rehearsal has no traffic to count
    assert "METRICS" not in role.render(
        "etc/systemd/system/app-rehearsal@.service.j2", **GIVEN, app_service_metrics=True
    )


@pytest.mark.parametrize("workers", [1, 2, 17])
def test_timeouts_are_in_order(role: Any, workers: int) -> None:
    given = {"app_service_workers": workers, "app_service_boot_timeout": 30, "app_service_graceful_timeout": 40}
    found = unit(role, 0, **given)
    reload = int(found["ExecReload"][0].partition("--timeout ")[2].split()[0])
    start, stop = (int(found[name][0]) for name in ("TimeoutStartSec", "TimeoutStopSec"))
    # boots one after another and a drain < the waiting reload < systemd, which would kill the reload
    assert workers * 30 + 40 < reload < start
    # the drain and the lifespan's shutdown (handover_exit_timeout) < systemd, which would kill both
    assert stop > 40 + 5


def test_graceful_timeout_shorter_than_the_drain_is_refused(role: Any) -> None:
    timeouts = {"app_service_keepalive": 5, "app_service_graceful_timeout": 6}
    (message,) = role.refusals(**GIVEN, **timeouts)
    assert "waits app_service_keepalive + 1 = 6 s" in message
    assert role.refusals(**GIVEN, **{**timeouts, "app_service_graceful_timeout": 7}) == []


def test_root_owns_every_folder_in_which_root_opens_or_chowns(role: Any) -> None:
    templar = role.templar(**GIVEN)
    wanted = [
        {key: templar.template(item.get(key, "root")) for key in ("path", "owner")}
        for item in role.load("vars/main.yml")["__app_service_wanted"]
    ]
    theirs = [pathlib.PurePath(item["path"]) for item in wanted if item["owner"] != "root"]
    assert theirs == [pathlib.PurePath("/run/baton/links")]
    sockets = (role.render(f"etc/systemd/system/{name}.socket.j2", **GIVEN) for name in ("app", "app-rehearsal@"))
    listening = [line.partition("=")[2] for text in sockets for line in text.splitlines() if line.startswith("Listen")]
    assert listening
    for path in map(pathlib.PurePath, [*listening, *(item["path"] for item in wanted)]):
        assert not set(path.parents) & set(theirs), path
    for line in role.render("etc/tmpfiles.d/app.conf.j2", **GIVEN).splitlines():
        if line.startswith("d "):
            assert (line.split()[3] != "root") == (pathlib.PurePath(line.split()[1]) in theirs), line
    # the service can write there, and nowhere else below /run
    assert unit(role, 0)["ReadWritePaths"] == ["-/run/baton/links"]
