"""The service under random signals, stopped processes, many connections and many reloads: it loses no request, gets all
its workers back, and leaks nothing. Each test has a short form, and a long one."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.traffic import Background, Load

from conftest import Server, wait_for
from test_reload import LOADS

SIGNALS = [getattr(signal, f"SIG{name}") for name in ("HUP", "HUP", "TTIN", "TTOU", "USR1", "USR2", "WINCH")]
MOST = 4  # workers


def rounds(long: int, short: int = 5) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("rounds", [short, pytest.param(long, marks=pytest.mark.long)])


@pytest.fixture
def dice() -> random.Random:
    return random.Random(1)


def assert_settles(server: Server) -> None:
    """Asserts that the next reload leaves exactly the workers of one generation."""
    done = server.reload()
    assert done.returncode == 0, done.stderr + server.log
    wait_for(lambda: len(server.children()) == len(server.status["workers"]) == 2, what="the exit of all old workers")
    assert {worker["generation"] for worker in server.status["workers"]} == {server.status["generation"]}
    # a worker that a reload or TTOU overtakes while it boots may end by its SIGTERM
    assert set(server.failed_exits) <= {"was killed by SIGTERM"}


@contextlib.contextmanager
def no_request_lost(server: Server, loads: list[Load], rate: float) -> Iterator[None]:
    """Sends requests during the block and until the workers have settled: none may fail."""
    with Background(server.target, loads, rate=rate, fewest=int(rate)) as traffic:
        yield
        assert_settles(server)
    assert traffic.summary.failed == {}, traffic.summary.failures


@rounds(50)
def test_reloads_at_random_moments_lose_no_request(server: Server, dice: random.Random, rounds: int) -> None:
    server.configure(keepalive=10)
    server.start()
    with no_request_lost(server, LOADS, rate=100):
        for _ in range(rounds):
            server.signal(signal.SIGHUP)
            time.sleep(dice.uniform(0, 1))


@rounds(25)
def test_mixed_signals_lose_no_request(server: Server, dice: random.Random, rounds: int) -> None:
    server.configure(keepalive=10)
    server.start()
    with no_request_lost(server, LOADS, rate=100):
        for _ in range(rounds):
            for number in dice.choices(SIGNALS, k=dice.randint(1, 4)):
                if number is not signal.SIGTTIN or server.status["workers_wanted"] < MOST:
                    server.signal(number)
            time.sleep(dice.uniform(0, 1))


@contextlib.contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # it was told to exit before
                os.kill(pid, signal.SIGCONT)


@rounds(25)
def test_stopped_processes_lose_no_request(server: Server, dice: random.Random, rounds: int) -> None:
    """The master, a worker, or all, the master continuing first; also while a reload runs."""
    server.configure(keepalive=10)
    server.start()
    assert server.process is not None
    master = server.process.pid
    with no_request_lost(server, [Load("get")], rate=50):
        for number in range(rounds):
            if number % 2:
                server.signal(signal.SIGHUP)
                time.sleep(dice.uniform(0, 0.3))
            # a worker that exits in the meantime stays a zombie while the master is stopped
            with stopped(dice.choice([[master], server.pids()[:1], [master, *server.pids()]])):
                time.sleep(dice.uniform(0, 0.5))


@pytest.mark.long
def test_suspension_longer_than_timeout_ends_no_worker(server: Server) -> None:
    server.configure(timeout=10)
    server.start()
    assert server.process is not None
    before = server.pids()
    with stopped(before):
        with stopped([server.process.pid]):
            time.sleep(14)
        server.wait_for_loop()
    server.wait_for_loop()
    assert server.pids() == before
    assert server.failed_exits == []
    assert server.get()["release"] == "1"


@rounds(1000, short=100)
def test_idle_connections_outlast_a_reload(server: Server, rounds: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    server.configure(keepalive=60, graceful_timeout=60)
    server.start()
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        connections = [stack.enter_context(contextlib.closing(server.connect())) for _ in range(rounds)]
        for number, connection in enumerate(connections):
            if number % 2:
                assert connection.get().status == 200
            else:
                connection.connect()
        server.wait_accepted()
        assert server.reload().returncode == 0
        for connection in connections:
            response = connection.get()
            assert (response.status, response.getheader("connection")) == (200, "close")
    assert_settles(server)


@rounds(100)
def test_reloads_leak_nothing_in_the_master(server: Server, rounds: int) -> None:
    server.start()
    assert server.process is not None
    folder = Path(f"/proc/{server.process.pid}/fd")
    seen = set()
    for number in range(rounds):
        if number % 5 == 4:  # a reload that fails
            server.configure("raise ValueError('bad conf')")
            assert server.reload().returncode == 1
            server.configure()
        assert_settles(server)
        seen.add(len(list(folder.iterdir())))
    assert len(seen) == 1, seen
