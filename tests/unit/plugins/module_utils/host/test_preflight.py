"""What a host lacks is told before anything is changed."""

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


def test_a_folder_with_room_is_no_problem(tmp_path: pathlib.Path) -> None:
    assert list(preflight.disk_problems("app1", [{"path": str(tmp_path / "not" / "yet"), "megabytes": 1}])) == []


def test_too_little_room_is_told_in_numbers(tmp_path: pathlib.Path) -> None:
    (found,) = preflight.disk_problems("app1", [{"path": str(tmp_path), "megabytes": 2**40}])
    assert found.startswith(f"app1: {tmp_path} has ")
    assert f"{2**40} MiB are needed" in found


@pytest.mark.parametrize(("free", "refused"), [(1024, False), (1023, True)])
def test_all_the_room_asked_for_must_be_free(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, free: int, refused: bool
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free * 2**20))
    assert bool([*preflight.disk_problems("app1", [{"path": str(tmp_path), "megabytes": 1024}])]) is refused


def test_a_port_that_somebody_else_has_is_told_with_its_owner(listening: int) -> None:
    (found,) = preflight.port_problems("edge1", [{"port": listening, "for": "nginx", "allowed": ["nginx.service"]}])
    assert f"edge1: port {listening}, which nginx needs, is in use by " in found
    assert "Stop and disable it" in found


def test_a_port_that_is_ours_already_is_no_problem(listening: int) -> None:
    ours = [owner for _, owner in preflight.listeners({listening})]
    assert len(ours) == 1
    assert list(preflight.port_problems("edge1", [{"port": listening, "for": "nginx", "allowed": ours}])) == []


def test_a_free_port_is_no_problem() -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    assert list(preflight.port_problems("edge1", [{"port": port, "for": "nginx", "allowed": []}])) == []


def test_a_connection_from_a_port_is_not_taken_for_a_listener(listening: int) -> None:
    with socket.create_connection(("127.0.0.1", listening)) as client:
        port = client.getsockname()[1]
        assert preflight.listeners({port}) == set()


def test_the_nearest_parent_stands_for_a_folder_to_be(tmp_path: pathlib.Path) -> None:
    assert preflight.existing(str(tmp_path / "a" / "b")) == str(tmp_path)
    assert preflight.existing(os.sep) == os.sep
