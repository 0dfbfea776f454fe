"""Background tasks, with a real worker and a real queue."""

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
import redis
from celery import Celery
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import OperationalError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncSession

from links import broker, report, store
from links.broker import create_celery
from links.database import DatabaseUnavailableError, create_engine
from links.report import click_report
from links.settings import Settings
from tests.conftest import RedisServer

APP = Path(__file__).parent.parent


def environment_of(settings: Settings, redis: RedisServer) -> dict[str, str]:
    """Return the environment of a worker with these settings."""
    given = {**os.environ, "REDIS_URL": redis.url, "LINKS_STATE_DIRECTORY": str(settings.state_directory)}
    if settings.database_url is not None:
        given["DATABASE_URL"] = settings.database_url.get_secret_value()
    return given


@contextmanager
def worker(
    environment: dict[str, str], log: Path, processes: int = 1, module: str = "links.jobs"
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a Celery worker, and kill it at the end."""
    command = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        module,
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
    """Wait until `condition` returns a true value, and return it."""
    deadline = time.monotonic() + 180
    while not (found := condition()):
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    return found


def lines(log: Path) -> list[dict[str, Any]]:
    """Return the JSON log lines."""
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


class Task:
    """A task that was enqueued."""

    def __init__(self, queue: Celery, name: str, *arguments: float) -> None:
        self._queue = queue
        self._id = queue.send_task(name, args=arguments, headers={"request_id": "r-1"}).id

    @property
    def state(self) -> str:
        """Celery's state of the task."""
        return str(self._queue.backend.get_task_meta(self._id)["status"])

    @property
    def ended(self) -> bool:
        """Whether the task has ended."""
        return self.state in {"SUCCESS", "FAILURE", "REVOKED"}

    @property
    def result(self) -> Any:
        """The task's result, or its progress while it runs."""
        return self._queue.backend.get_task_meta(self._id)["result"]


@pytest.fixture
def queue(redis_server: RedisServer) -> Iterator[Celery]:
    """Yield the queue, configured as in the web."""
    with create_celery(Settings(redis_url=SecretStr(redis_server.url))) as celery:
        yield celery


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Return the path of the worker's log."""
    return tmp_path / "worker.log"


@pytest.fixture
def environment(tmp_path: Path, redis_server: RedisServer) -> dict[str, str]:
    """Return the environment of a worker with a database of its own."""
    return environment_of(Settings(state_directory=tmp_path), redis_server)


def test_tasks_without_redis_fail_with_reason() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
    ended = subprocess.run(
        [sys.executable, "-c", "import links.jobs"], cwd=APP, env=environment, capture_output=True, check=False
    )
    assert ended.returncode != 0
    assert b"Tasks need Redis: set REDIS_URL" in ended.stderr


def test_visibility_timeout_exceeds_task_limits() -> None:
    settings = Settings(redis_url=SecretStr("redis://127.0.0.1/0"), job_time_limit=500, job_stop_timeout=300)
    configured = create_celery(settings).conf
    assert configured.broker_transport_options["visibility_timeout"] > 500 + 300
    assert configured.task_acks_late
    assert configured.task_reject_on_worker_lost
    assert configured.worker_soft_shutdown_timeout == 300


async def test_report_summarizes_links_and_reports_progress(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    calls: list[tuple[int, int]] = []
    found = await click_report(settings, lambda done, total: calls.append((done, total)))
    assert calls == [(2, 5), (4, 5), (5, 5)]
    assert (found["links"], found["clicks"], found["unused"]) == (5, 10, 1)
    assert [(one["slug"], one["clicks"]) for one in found["top"]] == [("b", 5), ("c", 3)]
    assert found["sites"] == [{"site": "y.example", "clicks": 6}, {"site": "x.example", "clicks": 4}]


async def test_report_waits_for_database(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = [DatabaseUnavailableError(), OperationalError("SELECT", {}, Exception())]
    count = store.count

    async def failing(session: AsyncSession) -> int:
        if failures:
            raise failures.pop()
        return await count(session)

    monkeypatch.setattr(store, "count", failing)
    assert (await click_report(settings, lambda *_: None))["links"] == 0
    assert failures == []


async def test_report_with_wrong_statement_fails(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async def wrong(_: AsyncSession) -> int:
        raise ProgrammingError("SELEKT", {}, Exception())

    monkeypatch.setattr(store, "count", wrong)
    with pytest.raises(ProgrammingError):
        await click_report(settings, lambda *_: None)


def test_worker_runs_queued_task(settings: Settings, redis_server: RedisServer, queue: Celery, log: Path) -> None:
    asked = Task(queue, broker.REPORT)
    with worker(environment_of(settings, redis_server), log):
        until(lambda: asked.ended, log)
    assert asked.result["links"] == 0


def test_failed_task_logs_request_id(log: Path, environment: dict[str, str], queue: Celery) -> None:
    """Celery's own line has the request id, too."""
    asked = Task(queue, "links.jobs.pause", -1)
    with worker(environment, log):
        until(lambda: asked.ended, log)
        written = until(lambda: [line for line in lines(log) if "exception" in line], log)
    assert asked.state == "FAILURE"
    assert {(line["level"], line["request_id"]) for line in written} == {("error", "r-1")}
    assert "ValueError" in written[0]["exception"]
    (own,) = [line for line in lines(log) if line["message"] == "Pausing for -1 s"]
    assert (own["level"], own["logger"], own["request_id"]) == ("info", "links.jobs", "r-1")


def test_task_of_killed_process_runs_again(log: Path, environment: dict[str, str], queue: Celery) -> None:
    asked = Task(queue, "links.jobs.pause", 1)
    with worker(environment, log):
        until(lambda: asked.state == "STARTED", log)
        first = asked.result["pid"]
        os.kill(first, signal.SIGKILL)
        until(lambda: asked.ended, log)
    assert asked.state == "SUCCESS", log.read_text()
    assert asked.result["pid"] != first


def test_stopping_worker_finishes_task_and_takes_no_other(
    log: Path, environment: dict[str, str], queue: Celery
) -> None:
    running = Task(queue, "links.jobs.pause", 2)
    with worker(environment, log) as stopping:
        until(lambda: running.state == "STARTED", log)
        stopping.send_signal(signal.SIGTERM)
        waiting = Task(queue, "links.jobs.pause", 0)
        until(lambda: stopping.poll() is not None, log)
        assert running.state == "SUCCESS", log.read_text()
        assert waiting.state == "PENDING"
    with worker(environment, log):
        until(lambda: waiting.ended, log)
    assert running.result["pid"] != waiting.result["pid"]


def test_task_that_ends_during_the_soft_shutdown_runs_once(
    log: Path, environment: dict[str, str], queue: Celery
) -> None:
    short = Task(queue, "links.jobs.pause", 1)
    with worker({**environment, "LINKS_JOB_STOP_TIMEOUT": "3"}, log) as stopping:
        until(lambda: short.state == "STARTED", log)
        first = short.result["pid"]
        stopping.send_signal(signal.SIGQUIT)
        waiting = Task(queue, "links.jobs.pause", 0)
        until(lambda: stopping.poll() is not None, log)
        # otherwise systemd would count the worker as failed
        assert stopping.returncode == 0, log.read_text()
    assert (short.state, waiting.state) == ("SUCCESS", "PENDING"), log.read_text()
    with worker(environment, log):
        until(lambda: waiting.ended, log)
    # in the same queue, before the other task
    assert (short.state, short.result["pid"]) == ("SUCCESS", first), log.read_text()
    assert len([line for line in lines(log) if line["message"] == "Pausing for 1 s"]) == 1


def test_unknown_tasks_wait_for_a_worker_that_knows_them(
    log: Path, tmp_path: Path, environment: dict[str, str], queue: Celery
) -> None:
    """As after a rollback. They don't use up the prefetch count of a worker that doesn't know them."""
    (tmp_path / "newer.py").write_text(
        "from links.jobs import app\n\n\n@app.task(name='tests.later')\ndef later(number):\n    return number\n"
    )
    unknown = [Task(queue, "tests.later", number) for number in range(3)]
    known = Task(queue, "links.jobs.pause", 0)
    with worker(environment, log):
        until(lambda: known.ended, log)
        assert {task.state for task in unknown} == {"PENDING"}, log.read_text()
        parked = [line for line in lines(log) if line["message"].startswith("Parked task tests.later ")]
        assert [line["request_id"] for line in parked] == ["r-1"] * 3
        python_path = os.pathsep.join([str(tmp_path), str(APP)])
        with worker({**environment, "PYTHONPATH": python_path}, tmp_path / "newer.log", module="newer"):
            until(lambda: all(task.ended for task in unknown), tmp_path / "newer.log")
    assert [(task.state, task.result) for task in unknown] == [("SUCCESS", number) for number in range(3)]


def test_unfinished_task_is_requeued_at_stop(log: Path, environment: dict[str, str], queue: Celery) -> None:
    """Immediately, not after the visibility timeout as when the whole worker is killed."""
    long = Task(queue, "links.jobs.pause", 300)
    with worker({**environment, "LINKS_JOB_STOP_TIMEOUT": "1"}, log) as stopping:
        until(lambda: long.state == "STARTED", log)
        first = long.result["pid"]
        stopping.send_signal(signal.SIGQUIT)
        until(lambda: stopping.poll() is not None, log)
    with worker(environment, log):
        until(lambda: long.state == "STARTED" and long.result["pid"] != first, log)


def test_task_that_succeeded_but_was_not_acknowledged_does_not_run_again(
    log: Path, environment: dict[str, str], queue: Celery, redis_server: RedisServer
) -> None:
    """Redis failed between the two."""
    asked = Task(queue, "links.jobs.pause", 0)
    with redis.Redis.from_url(redis_server.url) as client:
        message = json.loads(client.lindex(broker.QUEUE, 0))
        with worker(environment, log):
            until(lambda: asked.ended, log)
            # as when it returns to the queue
            message["headers"]["redelivered"] = message["properties"]["delivery_info"]["redelivered"] = True
            client.rpush(broker.QUEUE, json.dumps(message))
            until(lambda: "already completed successfully" in log.read_text(), log)
            until(lambda: not client.exists(broker.QUEUE, "unacked"), log)
    assert len([line for line in lines(log) if line["message"] == "Pausing for 0 s"]) == 1


# Celery stores the state of a task for 20 seconds at most
@pytest.mark.parametrize("seconds", [0, pytest.param(30, marks=pytest.mark.long)])
def test_running_task_runs_again_after_outage_of_queue(
    log: Path, environment: dict[str, str], queue: Celery, redis_server: RedisServer, seconds: float
) -> None:
    """Immediately, not after the visibility timeout."""
    long = Task(queue, "links.jobs.pause", 300)
    with worker(environment, log):
        until(lambda: long.state == "STARTED", log)
        first = long.result["pid"]
        redis_server.stop()
        time.sleep(seconds)
        redis_server.start()
        until(lambda: long.state == "STARTED" and long.result["pid"] != first, log)
    (cancelled,) = [line for line in lines(log) if line["message"].startswith("Cancelled task links.jobs.pause[")]
    assert cancelled["request_id"] == "r-1"


def test_task_that_was_just_received_runs_again_after_outage_of_queue(
    log: Path, tmp_path: Path, environment: dict[str, str], queue: Celery, redis_server: RedisServer
) -> None:
    """The second interruption comes before the new process of the worker has accepted the task."""
    (tmp_path / "slow.py").write_text(
        "import time\n\nfrom celery.signals import worker_process_init\n\nfrom links.jobs import app\n\n\n"
        "@worker_process_init.connect\ndef begin(**_):\n    time.sleep(2)\n"
    )
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), str(APP)])
    long = Task(queue, "links.jobs.pause", 300)
    with worker(environment, log, module="slow"):
        until(lambda: long.state == "STARTED", log)
        first = long.result["pid"]
        redis_server.stop()
        redis_server.start()
        until(lambda: log.read_text().count("] received") == 2, log)
        redis_server.stop()
        # otherwise Celery could return the task itself
        until(lambda: "Cannot connect" in log.read_text(), log)
        redis_server.start()
        until(lambda: long.state == "STARTED" and long.result["pid"] != first, log)


def test_task_that_another_worker_has_taken_after_an_outage_is_not_returned(
    log: Path, environment: dict[str, str], queue: Celery, redis_server: RedisServer
) -> None:
    """The outage was longer than the visibility timeout."""
    long = Task(queue, "links.jobs.pause", 300)
    with worker(environment, log) as late, redis.Redis.from_url(redis_server.url) as client:
        until(lambda: long.state == "STARTED", log)
        redis_server.stop()
        until(lambda: "Cancelled task links.jobs.pause[" in log.read_text(), log)
        until(lambda: "Cannot connect" in log.read_text(), log)
        late.send_signal(signal.SIGSTOP)
        redis_server.start()
        # as the other worker's record
        (taken,) = client.zrange("unacked_index", 0, -1)
        client.zadd("unacked_index", {taken: time.time()})
        late.send_signal(signal.SIGCONT)
        after = Task(queue, "links.jobs.pause", 0)
        until(lambda: after.ended, log)
        assert client.zrange("unacked_index", 0, -1) == [taken]
        assert client.hexists("unacked", taken)
