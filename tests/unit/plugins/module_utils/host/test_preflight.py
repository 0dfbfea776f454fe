"""What a host lacks is reported before anything changes."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import socket
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from ansible_collections.baton.web.plugins.module_utils.host import preflight


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
    assert "Stop and disable it" in found


def test_port_used_by_the_service_itself_is_no_problem(listening: int) -> None:
    owners = [owner for _, owner in preflight.listeners({listening})]
    assert len(owners) == 1
    assert list(preflight.port_problems("edge1", [{"port": listening, "for": "nginx", "allowed": owners}])) == []


def test_free_port_is_no_problem() -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    assert list(preflight.port_problems("edge1", [{"port": port, "for": "nginx", "allowed": []}])) == []


def test_outgoing_connection_is_not_a_listener(listening: int) -> None:
    with socket.create_connection(("127.0.0.1", listening)) as client:
        port = client.getsockname()[1]
        assert preflight.listeners({port}) == set()


def test_nearest_existing_parent_represents_a_missing_folder(tmp_path: pathlib.Path) -> None:
    assert preflight.existing(str(tmp_path / "a" / "b")) == str(tmp_path)
    assert preflight.existing(os.sep) == os.sep
