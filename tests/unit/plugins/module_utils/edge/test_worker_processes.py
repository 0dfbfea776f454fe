"""nginx's worker processes and their connections, as the kernel shows them, and the waits for their requests."""

from __future__ import annotations

import functools
import os
import pathlib
import subprocess
from collections.abc import Iterator

import pytest
from ansible_collections.baton.web.plugins.module_utils.edge import upstream
from ansible_collections.baton.web.plugins.module_utils.edge.upstream import Connection

from tests.support.clock import Clock
from tests.support.program import write_script
from tests.support.wait import until

A, B, CLIENT = "10.0.0.21:8000", "10.0.0.22:8000", "192.0.2.9:50000"
TITLES = ("nginx: worker process", "nginx: worker process is shutting down", "nginx: master process", "worker process")


def _has_title(line: pathlib.Path, title: str) -> bool:
    return line.read_bytes().startswith(f"{title}\0".encode())


@pytest.fixture
def processes() -> Iterator[dict[str, int]]:
    """Processes with these titles: pid by title."""
    started = {
        title: subprocess.Popen(["bash", "-c", 'exec -a "$0" sleep 600', title], stdout=subprocess.DEVNULL)
        for title in TITLES
    }
    for title, process in started.items():
        line = pathlib.Path(f"/proc/{process.pid}/cmdline")
        until(functools.partial(_has_title, line, title), f"no {title}")
    yield {title: process.pid for title, process in started.items()}
    for process in started.values():
        process.kill()
        process.wait()


def test_worker_processes_are_known_by_their_titles_and_master(
    processes: dict[str, int], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "MASTER", tmp_path / "nginx.pid")
    # nginx doesn't run
    assert upstream.workers() == {}
    # processes of the application or of a container may have such titles
    (tmp_path / "nginx.pid").write_text("1\n")
    assert not upstream.workers().keys() & set(processes.values())
    (tmp_path / "nginx.pid").write_text(f"{os.getpid()}\n")
    found = upstream.workers()
    assert {title: found.get(pid) for title, pid in processes.items()} == {
        TITLES[0]: False,
        TITLES[1]: True,
        TITLES[2]: None,
        TITLES[3]: None,
    }


def test_connections_are_those_of_nginx(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = f'0 0 10.0.0.11:40000  {A} users:(("nginx",pid=12,fd=3))'
    write_script(tmp_path / "ss", f"echo \"$@\" > {tmp_path}/arguments; echo '{listing}'")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert upstream.connections() == [Connection(12, A)]
    assert (tmp_path / "arguments").read_text().split() == ["-Htnp", "state", "established"]


class Nginx:
    """Worker processes and connections that change in the pauses of the code under test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.workers: dict[int, bool] = {}
        self.open: list[Connection] = []
        self.clock = Clock(now=0.0)
        monkeypatch.setattr(upstream, "time", self.clock)
        monkeypatch.setattr(upstream, "workers", lambda: dict(self.workers))
        monkeypatch.setattr(upstream, "connections", lambda: list(self.open))


@pytest.fixture
def nginx(monkeypatch: pytest.MonkeyPatch) -> Nginx:
    return Nginx(monkeypatch)


def test_requests_of_drained_servers_are_waited_for(nginx: Nginx) -> None:
    nginx.workers = {12: True, 13: False}
    nginx.open = [Connection(13, A), Connection(13, B), Connection(13, CLIENT), Connection(13, CLIENT)]

    def pause() -> None:
        nginx.open = nginx.open[1:]

    nginx.clock.at_pause = pause
    assert upstream.wait_until_idle([A, B], [A], 5) == 0
    assert len(nginx.clock.pauses) == 1


@pytest.mark.parametrize(("old", "left"), [(True, 2), (False, 1)])
def test_requests_that_remain_are_counted(nginx: Nginx, old: bool, left: int) -> None:
    nginx.workers = {12: old}
    # one that a drained server answers, and an upload, which only a former worker might send to it
    nginx.open = [Connection(12, CLIENT), Connection(12, A), Connection(12, CLIENT)]
    assert upstream.wait_until_idle([A, B], [A], 2) == left
    assert nginx.clock.now == pytest.approx(2, abs=0.15)
    assert nginx.clock.now > 2


@pytest.mark.parametrize(("old", "left"), [(True, 1), (False, 0)])
def test_only_uploads_of_former_workers_are_yet_to_be_forwarded(nginx: Nginx, old: bool, left: int) -> None:
    nginx.workers = {12: old}
    nginx.open = [Connection(12, CLIENT), Connection(12, A), Connection(12, CLIENT)]
    assert upstream.wait_until_passed_on([A, B], 1) == left
