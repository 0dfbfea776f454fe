"""Prometheus' metrics of all workers: what they sum up to, over reloads and deaths, and what they leave behind."""

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
# what an application does that follows prometheus_client's documentation, and a gauge that each worker sets
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
def counted(server: Server) -> Server:
    """A server whose workers count."""
    server.configure(
        workers=WORKERS, keepalive=10, handover_metrics_directory=str(server.root / "metrics"), handover_boot_nice=0
    )
    bring(server, "1")
    return server.start()


def bring(server: Server, name: str) -> None:
    server.release(name, before=COUNTING, after=SERVED)
    server.point(name)


def files(server: Server, kind: str = "counter") -> list[str]:
    return sorted(path.name for path in (server.root / "metrics").glob(f"{kind}_*.db"))


def wait_alone(server: Server) -> None:
    """Waits until the workers that serve are the only ones."""
    wait_for(lambda: len(server.children()) == len(server.pids()) == WORKERS, what="the end of the old workers")


def end(server: Server, number: int) -> None:
    """Ends a worker by a signal, and waits for its successor."""
    pid = server.pids()[0]
    os.kill(pid, number)
    wait_for(lambda: pid not in server.children() and pid not in server.pids(), what=f"the end of {pid}")
    wait_alone(server)


class Client(threading.Thread):
    """Asks for a page again and again, each time on a new connection, until the block ends."""

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
def test_the_sum_is_what_was_sent_over_reloads_and_deaths(counted: Server) -> None:
    server = counted
    with Client(server, "/") as first, Client(server, "/metrics") as scraper:
        for name in ("2", "3", "4", "5", "6"):
            bring(server, name)
            assert server.reload().returncode == 0
            wait_alone(server)
    # without traffic: requests in progress die with the worker that is killed
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        end(server, number)
    with Client(server, "/") as second, Client(server, "/metrics") as other_scraper:
        server.release("7", before="raise RuntimeError('no')")
        server.point("7")
        assert server.reload().returncode == 1
    sent = len(first.answers) + len(second.answers)
    found = server.get("/metrics")
    assert (found["requests_total"], found["seconds_count"], found["seconds_sum"]) == (sent, sent, sent / 2)
    # no sum was smaller than one before it
    sums = [answer["requests_total"] for answer in scraper.answers + other_scraper.answers]
    assert sums == sorted(sums)
    assert len(set(sums)) > 10
    # no more than there ever were workers at the same time: two generations
    assert len(files(server)) <= 2 * WORKERS
    assert len(files(server, "histogram")) <= 2 * WORKERS


def test_sums_go_on_after_a_restart(counted: Server) -> None:
    for _ in range(5):
        counted.get("/")
    assert counted.stop() == 0
    counted.messages.clear()
    counted.start()
    counted.get("/")
    assert counted.get("/metrics")["requests_total"] == 6
    assert len(files(counted)) == WORKERS


def test_gauges_of_a_master_that_was_killed_are_forgotten(counted: Server) -> None:
    counted.signal(signal.SIGTTIN)
    wait_for(lambda: counted.get("/metrics")["workers"] == WORKERS + 1)
    pids = counted.children()
    counted.stop(signal.SIGKILL)
    wait_for(lambda: not any(map(alive, pids)), what="the end of the workers")
    counted.messages.clear()
    counted.start()
    assert counted.get("/metrics")["workers"] == WORKERS


def test_a_gauge_is_of_the_workers_that_live(counted: Server) -> None:
    assert counted.get("/metrics")["workers"] == WORKERS
    bring(counted, "2")
    assert counted.reload().returncode == 0
    wait_alone(counted)
    wait_for(lambda: counted.get("/metrics")["workers"] == WORKERS)
    end(counted, signal.SIGKILL)
    assert counted.get("/metrics")["workers"] == WORKERS
    counted.signal(signal.SIGTTOU)
    wait_for(lambda: len(counted.children()) == WORKERS - 1)
    wait_for(lambda: counted.get("/metrics")["workers"] == WORKERS - 1)


def test_what_the_application_forks_counts_too_and_leaves_no_files(counted: Server) -> None:
    for _ in range(20):
        counted.get("/fork")
    assert counted.get("/metrics")["requests_total"] == 20
    assert len(files(counted)) <= WORKERS + 1


def test_two_processes_never_have_the_same_slot(tmp_path: Path) -> None:
    directory = str(tmp_path)
    assert [metrics.take_slot(directory) for _ in range(3)] == ["worker0", "worker1", "worker2"]
    os.close(metrics._held[-2])  # as by the end of its process
    assert [metrics.take_slot(directory) for _ in range(2)] == ["worker1", "worker3"]


def test_a_process_that_was_killed_while_it_took_its_slot_stands_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / "worker0.lock").touch()
    metrics.forget_gauges(str(tmp_path))
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
def test_a_worker_that_cannot_count_serves(server: Server, text: str, directory: str, reason: str) -> None:
    server.configure(text, handover_metrics_directory=directory.format(root=server.root))
    server.start()
    assert server.get("/environment").get("PROMETHEUS_MULTIPROC_DIR") is None
    assert reason in server.log


def test_nothing_is_changed_for_an_application_unless_it_is_asked_for(server: Server) -> None:
    server.start()
    assert server.get("/environment").get("PROMETHEUS_MULTIPROC_DIR") is None
