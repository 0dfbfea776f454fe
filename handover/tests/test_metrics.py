"""Prometheus metrics of all workers: their sums across reloads and crashes, and the files that remain."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from conftest import Server, alive, wait_for
from gunicorn_handover import metrics

WORKERS = 2
# an application that follows prometheus_client's documentation, with a gauge that each worker sets
COUNTING = """
import os
import prometheus_client
from prometheus_client import multiprocess
REQUESTS = prometheus_client.Counter("requests", "Requests to the front page")
SECONDS = prometheus_client.Histogram("seconds", "Their time", buckets=[1, 60])
BUSY = prometheus_client.Gauge("workers", "Workers that live", multiprocess_mode="livesum")
BUSY.set(1)
"""
SERVED = """
_served = application

async def application(scope, receive, send):
    path = scope.get("path")
    if path == "/metrics":
        registry = prometheus_client.CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)
        await answer(send, {
            metric.name + sample.name.removeprefix(metric.name): sample.value
            for metric in registry.collect() for sample in metric.samples if "le" not in sample.labels
        })
        return
    if path == "/":
        REQUESTS.inc()
        SECONDS.observe(0.5)
    if path == "/fork":
        if not (child := os.fork()):
            REQUESTS.inc()
            os._exit(0)
        os.waitpid(child, 0)
    await _served(scope, receive, send)
"""


@pytest.fixture
def metrics_server(server: Server) -> Server:
    """A server whose workers keep metrics."""
    server.configure(
        workers=WORKERS, keepalive=10, handover_metrics_directory=str(server.root / "metrics"), handover_boot_nice=0
    )
    make_release(server, "1")
    return server.start()


def make_release(server: Server, name: str) -> None:
    server.release(name, before=COUNTING, after=SERVED)
    server.set_current(name)


def files(server: Server, kind: str = "counter") -> list[str]:
    return sorted(path.name for path in (server.root / "metrics").glob(f"{kind}_*.db"))


def wait_settled(server: Server) -> None:
    """Waits until only serving workers are left."""
    wait_for(lambda: len(server.children()) == len(server.pids()) == WORKERS, what="the exit of the old workers")


def end(server: Server, number: int) -> None:
    """Sends a signal to a worker, and waits for its replacement."""
    pid = server.pids()[0]
    os.kill(pid, number)
    wait_for(lambda: pid not in server.children() and pid not in server.pids(), what=f"the exit of {pid}")
    wait_settled(server)


class Client(threading.Thread):
    """Requests a page repeatedly, each time on a new connection, until the block ends."""

    def __init__(self, server: Server, path: str) -> None:
        super().__init__(daemon=True)
        self._server = server
        self._path = path
        self._ended = threading.Event()
        self.answers: list[Any] = []
        self.failures: list[Exception] = []

    def run(self) -> None:
        while not self._ended.wait(0.01):
            try:
                self.answers.append(self._server.get(self._path))
            except Exception as error:
                self.failures.append(error)

    def __enter__(self) -> Client:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()
        assert self.failures == []


@pytest.mark.versions
def test_counters_survive_reloads_and_crashes(metrics_server: Server) -> None:
    server = metrics_server
    with Client(server, "/") as first, Client(server, "/metrics") as scraper:
        for name in ("2", "3", "4", "5", "6"):
            make_release(server, name)
            assert server.reload().returncode == 0
            wait_settled(server)
    # without traffic, as requests in progress fail when their worker is killed
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        end(server, number)
    with Client(server, "/") as second, Client(server, "/metrics") as other_scraper:
        server.release("7", before="raise RuntimeError('no')")
        server.set_current("7")
        assert server.reload().returncode == 1
    sent = len(first.answers) + len(second.answers)
    found = server.get("/metrics")
    assert (found["requests_total"], found["seconds_count"], found["seconds_sum"]) == (sent, sent, sent / 2)
    # no sum ever decreased
    sums = [answer["requests_total"] for answer in scraper.answers + other_scraper.answers]
    assert sums == sorted(sums)
    assert len(set(sums)) > 10
    # at most as many files as workers at the same time: two generations
    assert len(files(server)) <= 2 * WORKERS
    assert len(files(server, "histogram")) <= 2 * WORKERS


def test_counters_continue_after_restart(metrics_server: Server) -> None:
    for _ in range(5):
        metrics_server.get("/")
    assert metrics_server.stop() == 0
    metrics_server.messages.clear()
    metrics_server.start()
    metrics_server.get("/")
    assert metrics_server.get("/metrics")["requests_total"] == 6
    assert len(files(metrics_server)) == WORKERS


def test_gauges_of_killed_master_are_cleared(metrics_server: Server) -> None:
    metrics_server.signal(signal.SIGTTIN)
    wait_for(lambda: metrics_server.get("/metrics")["workers"] == WORKERS + 1)
    pids = metrics_server.children()
    metrics_server.stop(signal.SIGKILL)
    wait_for(lambda: not any(map(alive, pids)), what="the exit of the workers")
    metrics_server.messages.clear()
    metrics_server.start()
    assert metrics_server.get("/metrics")["workers"] == WORKERS


def test_gauges_cover_running_workers_only(metrics_server: Server) -> None:
    assert metrics_server.get("/metrics")["workers"] == WORKERS
    make_release(metrics_server, "2")
    assert metrics_server.reload().returncode == 0
    wait_settled(metrics_server)
    wait_for(lambda: metrics_server.get("/metrics")["workers"] == WORKERS)
    end(metrics_server, signal.SIGKILL)
    assert metrics_server.get("/metrics")["workers"] == WORKERS
    metrics_server.signal(signal.SIGTTOU)
    wait_for(lambda: len(metrics_server.children()) == WORKERS - 1)
    wait_for(lambda: metrics_server.get("/metrics")["workers"] == WORKERS - 1)


def test_forked_processes_count_and_leave_no_files(metrics_server: Server) -> None:
    for _ in range(20):
        metrics_server.get("/fork")
    assert metrics_server.get("/metrics")["requests_total"] == 20
    assert len(files(metrics_server)) <= WORKERS + 1


def test_slots_are_exclusive(tmp_path: Path) -> None:
    directory = str(tmp_path)
    assert [metrics.take_slot(directory) for _ in range(3)] == ["worker0", "worker1", "worker2"]
    os.close(metrics._held[-2])  # as when its process exits
    assert [metrics.take_slot(directory) for _ in range(2)] == ["worker1", "worker3"]


def test_slot_of_killed_process_is_reused(tmp_path: Path) -> None:
    (tmp_path / "worker0.lock").touch()
    metrics.clear_gauges(str(tmp_path))
    assert metrics.take_slot(str(tmp_path)) == "worker0"
    assert (tmp_path / "gauge_livesum_worker0.db").stat().st_size > 0


@pytest.mark.parametrize(
    ("text", "directory", "reason"),
    [
        ("import sys\nsys.modules['prometheus_client'] = None", "{root}/metrics", "has no prometheus_client"),
        ("", "/proc/nowhere", "No such file or directory: '/proc/nowhere'"),
    ],
    ids=["library", "directory"],
)
def test_worker_serves_without_metrics(server: Server, text: str, directory: str, reason: str) -> None:
    server.configure(text, handover_metrics_directory=directory.format(root=server.root))
    server.start()
    assert server.get("/environment").get("PROMETHEUS_MULTIPROC_DIR") is None
    assert reason in server.log


def test_multiprocess_mode_is_off_by_default(server: Server) -> None:
    server.start()
    assert server.get("/environment").get("PROMETHEUS_MULTIPROC_DIR") is None
