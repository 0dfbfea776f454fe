"""What a host lacks is reported before anything changes."""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import socket
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from ansible_collections.baton.web.plugins.module_utils.host import preflight

from tests.support.program import write_script


@pytest.fixture
def listening() -> Iterator[int]:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server.getsockname()[1]


def test_folder_with_enough_space_is_no_problem(tmp_path: pathlib.Path) -> None:
    assert list(preflight.disk_problems("app1", [{"path": str(tmp_path / "not" / "yet"), "megabytes": 1}])) == []


def test_too_little_space_is_reported_with_figures(tmp_path: pathlib.Path) -> None:
    (found,) = preflight.disk_problems("app1", [{"path": str(tmp_path), "megabytes": 2**40}])
    assert found.startswith(f"app1: {tmp_path} has ")
    assert f"{2**40} MiB are needed" in found


@pytest.mark.parametrize(("free", "refused"), [(1024, False), (1023, True)])
def test_all_requested_space_must_be_free(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, free: int, refused: bool
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free * 2**20))
    assert bool([*preflight.disk_problems("app1", [{"path": str(tmp_path), "megabytes": 1024}])]) is refused


def test_port_in_use_is_reported_with_its_owner(listening: int) -> None:
    (found,) = preflight.port_problems("edge1", [{"port": listening, "for": "nginx", "allowed": ["nginx.service"]}])
    assert f"edge1: port {listening}, which nginx needs, is in use by " in found
    assert ". Choose another port; or, if the host doesn't need " in found


def test_socket_and_service_of_another_application_are_named_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its socket, the service would start again; and it may be an application that has to go on serving."""
    monkeypatch.setattr(
        preflight,
        "listeners",
        lambda _: {(8000, "shop.service"), (8000, "shop.socket"), (8000, "links.socket"), (9100, "python3")},
    )
    wanted = [
        {"port": 8000, "for": "links (app_port)", "allowed": ["links.socket", "links.service"]},
        {"port": 9100, "for": "Redis (redis_server_port)", "allowed": []},
    ]
    assert list(preflight.port_problems("app1", wanted)) == [
        "app1: port 8000, which links (app_port) needs, is in use by shop.service and shop.socket. Choose another "
        "port; or, if the host doesn't need shop.service and shop.socket, stop and disable it: "
        "`systemctl disable --now shop.service shop.socket`.",
        "app1: port 9100, which Redis (redis_server_port) needs, is in use by python3. Choose another port; "
        "or, if the host doesn't need python3, stop and disable it.",
    ]


def test_port_used_by_the_service_itself_is_no_problem(listening: int) -> None:
    owners = [owner for _, owner in preflight.listeners({listening})]
    assert len(owners) == 1
    assert list(preflight.port_problems("edge1", [{"port": listening, "for": "nginx", "allowed": owners}])) == []


def test_free_port_is_no_problem() -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    assert list(preflight.port_problems("edge1", [{"port": port, "for": "nginx", "allowed": []}])) == []


@pytest.mark.parametrize("wrong", [[], ["never"], ["never", "-x"]])
def test_calendar_that_systemd_does_not_accept_is_reported(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, wrong: list[str]
) -> None:
    script = f"""echo x >> {tmp_path}/calls
for one; do case $one in never|-x) echo "Failed to parse calendar specification '$one'" >&2; exit 1;; esac; done"""
    write_script(tmp_path / "systemd-analyze", script)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    given = [{"setting": "app_schedules.cleanup.calendar", "calendar": one} for one in ("daily", *wrong)]
    found = list(preflight.calendar_problems(given))
    assert len(found) == len(wrong)
    for sentence, one in zip(found, wrong, strict=True):
        assert sentence.startswith(f'app_schedules.cleanup.calendar is "{one}", which systemd doesn\'t accept (Failed')
        assert "Write an expression of systemd.time(7)" in sentence
    # a process per expression only if one is wrong
    assert len((tmp_path / "calls").read_text().split()) == (1 + len(given) if wrong else 1)


def test_calendars_are_not_checked_without_systemd(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert list(preflight.calendar_problems([{"setting": "x", "calendar": "daily"}])) == []


def test_outgoing_connection_is_not_a_listener(listening: int) -> None:
    with socket.create_connection(("127.0.0.1", listening)) as client:
        port = client.getsockname()[1]
        assert preflight.listeners({port}) == set()
