"""Long work, by a real worker on a real queue."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from pydantic import SecretStr
from sqlalchemy import text

from links import broker, report
from links.broker import create_celery
from links.database import create_engine
from links.report import click_report
from links.settings import Settings
from tests.conftest import RedisServer

APP = Path(__file__).parent.parent


def environment_of(settings: Settings, redis: RedisServer) -> dict[str, str]:
    """What a worker with these settings needs."""
    given = {**os.environ, "REDIS_URL": redis.url, "LINKS_STATE_DIRECTORY": str(settings.state_directory)}
    if settings.database_url is not None:
        given["DATABASE_URL"] = settings.database_url.get_secret_value()
    return given


@contextmanager
def worker(environment: dict[str, str], log: Path, processes: int = 1) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a Celery worker, and end it with the test."""
    command = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "links.jobs",
        "worker",
        "--without-mingle",
        "--without-gossip",
        "-l",
        "info",
        "-c",
        str(processes),
    ]
    with log.open("ab") as output:
        process = subprocess.Popen(command, cwd=APP, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def until(condition: Callable[[], Any], log: Path) -> Any:
    """Wait for a condition, and give what it gives."""
    deadline = time.monotonic() + 180
    while not (found := condition()):
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    return found


def lines(log: Path) -> list[dict[str, Any]]:
    """What was logged as JSON."""
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


class Asked:
    """A task that was asked for."""

    def __init__(self, queue: Celery, name: str, *arguments: float) -> None:
        self._queue = queue
        self._id = queue.send_task(name, args=arguments, headers={"request_id": "r-1"}).id

    @property
    def state(self) -> str:
        """Celery's word for how far it is."""
        return str(self._queue.backend.get_task_meta(self._id)["status"])

    @property
    def ended(self) -> bool:
        """Whether there is a result."""
        return self.state in {"SUCCESS", "FAILURE", "REVOKED"}

    @property
    def result(self) -> Any:
        """What it gave, or tells meanwhile."""
        return self._queue.backend.get_task_meta(self._id)["result"]


@pytest.fixture
def queue(redis_server: RedisServer) -> Iterator[Celery]:
    """Give the queue as the web has it."""
    with create_celery(Settings(redis_url=SecretStr(redis_server.url))) as celery:
        yield celery


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """What a worker logs."""
    return tmp_path / "worker.log"


@pytest.fixture
def environment(tmp_path: Path, redis_server: RedisServer) -> dict[str, str]:
    """Of a worker with a database of its own."""
    return environment_of(Settings(state_directory=tmp_path), redis_server)


def test_jobs_without_redis_say_what_is_missing() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
    ended = subprocess.run(
        [sys.executable, "-c", "import links.jobs"], cwd=APP, env=environment, capture_output=True, check=False
    )
    assert ended.returncode != 0
    assert b"Jobs need Redis: set REDIS_URL" in ended.stderr


def test_no_task_is_given_away_while_its_worker_may_be_at_it() -> None:
    settings = Settings(redis_url=SecretStr("redis://127.0.0.1/0"), job_time_limit=500, job_stop_timeout=300)
    configured = create_celery(settings).conf
    assert configured.broker_transport_options["visibility_timeout"] > 500 + 300
    assert configured.task_acks_late
    assert configured.task_reject_on_worker_lost
    assert configured.worker_soft_shutdown_timeout == 300


async def test_a_report_sums_up_and_tells_how_far_it_is(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "BATCH", 2)
    monkeypatch.setattr(report, "TOP", 2)
    engine = create_engine(settings)
    async with engine.begin() as connection:
        for slug, site, clicks in [("a", "x", 1), ("b", "y", 5), ("c", "x", 3), ("d", "z", 0), ("e", "y", 1)]:
            values = {"slug": slug, "url": f"https://{site}.example/", "clicks": clicks}
            await connection.execute(
                text("INSERT INTO links (slug, url, clicks) VALUES (:slug, :url, :clicks)"), values
            )
    await engine.dispose()
    told: list[tuple[int, int]] = []
    found = await click_report(settings, lambda done, total: told.append((done, total)))
    assert told == [(2, 5), (4, 5), (5, 5)]
    assert (found["links"], found["clicks"], found["unused"]) == (5, 10, 1)
    assert [(one["slug"], one["clicks"]) for one in found["top"]] == [("b", 5), ("c", 3)]
    assert found["sites"] == [{"site": "y.example", "clicks": 6}, {"site": "x.example", "clicks": 4}]


def test_a_worker_does_what_the_queue_has(
    settings: Settings, redis_server: RedisServer, queue: Celery, log: Path
) -> None:
    asked = Asked(queue, broker.REPORT)
    with worker(environment_of(settings, redis_server), log):
        until(lambda: asked.ended, log)
    assert asked.result["links"] == 0


def test_a_task_that_fails_says_whose_request_it_was(log: Path, environment: dict[str, str], queue: Celery) -> None:
    """Celery's own line, too."""
    asked = Asked(queue, "links.jobs.pause", -1)
    with worker(environment, log):
        until(lambda: asked.ended, log)
        written = until(lambda: [line for line in lines(log) if "exception" in line], log)
    assert asked.state == "FAILURE"
    assert {(line["level"], line["request_id"]) for line in written} == {("error", "r-1")}
    assert "ValueError" in written[0]["exception"]
    (own,) = [line for line in lines(log) if line["message"] == "Pausing for -1 s"]
    assert (own["level"], own["logger"], own["request_id"]) == ("info", "links.jobs", "r-1")


def test_a_task_whose_process_dies_is_done_by_another(log: Path, environment: dict[str, str], queue: Celery) -> None:
    asked = Asked(queue, "links.jobs.pause", 1)
    with worker(environment, log):
        until(lambda: asked.state == "STARTED", log)
        first = asked.result["pid"]
        os.kill(first, signal.SIGKILL)
        until(lambda: asked.ended, log)
    assert asked.state == "SUCCESS", log.read_text()
    assert asked.result["pid"] != first


def test_a_worker_that_stops_ends_its_task_and_takes_no_other(
    log: Path, environment: dict[str, str], queue: Celery
) -> None:
    running = Asked(queue, "links.jobs.pause", 2)
    with worker(environment, log) as stopping:
        until(lambda: running.state == "STARTED", log)
        stopping.send_signal(signal.SIGTERM)
        waiting = Asked(queue, "links.jobs.pause", 0)
        until(lambda: stopping.poll() is not None, log)
        assert running.state == "SUCCESS", log.read_text()
        assert waiting.state == "PENDING"
    with worker(environment, log):
        until(lambda: waiting.ended, log)
    assert running.result["pid"] != waiting.result["pid"]


def test_what_a_worker_has_no_time_for_goes_back_at_once(log: Path, environment: dict[str, str], queue: Celery) -> None:
    """Not only after the visibility timeout, as after a kill of the whole worker."""
    long = Asked(queue, "links.jobs.pause", 300)
    with worker({**environment, "LINKS_JOB_STOP_TIMEOUT": "1"}, log) as stopping:
        until(lambda: long.state == "STARTED", log)
        first = long.result["pid"]
        stopping.send_signal(signal.SIGQUIT)
        until(lambda: stopping.poll() is not None, log)
    with worker(environment, log):
        until(lambda: long.state == "STARTED" and long.result["pid"] != first, log)
