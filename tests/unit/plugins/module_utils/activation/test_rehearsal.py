"""What a rehearsal reports about a release that doesn't boot, and that it stops what it started."""

from __future__ import annotations

import http.server
import json
import pathlib
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.activation import rehearsal
from ansible_collections.baton.web.plugins.module_utils.app import health_check, layout
from ansible_collections.baton.web.plugins.module_utils.host import systemd

from tests.support.clock import Clock, SteppingClock

READY = health_check.Health("/readyz", "", "links.example.org")
Calls = list[tuple[str, ...]]


@pytest.fixture
def app(tmp_path: pathlib.Path) -> layout.Application:
    """A host's root with the releases aaaa, which is current, and bbbb."""
    application = layout.Application("links", str(tmp_path))
    for release in ("aaaa", "bbbb"):
        application.release(release).mkdir(parents=True)
        metadata = {"id": release, "python": "3.11.2"}
        (application.release(release) / "release.json").write_text(json.dumps(metadata))
    (tmp_path / "run").mkdir()
    layout.set_current(application, "aaaa")
    return application


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """A systemd whose commands all succeed; records them."""
    commands: Calls = []

    def systemctl(*arguments: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:  # noqa: ARG001
        commands.append(arguments)
        return subprocess.CompletedProcess(arguments, 0, "", "")

    monkeypatch.setattr(systemd, "systemctl", systemctl)
    monkeypatch.setattr(systemd, "ending", lambda *_: systemd.Ending("", ""))
    return commands


@pytest.fixture
def failing(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the start fail: failing("exit-code", "what was logged")."""

    def arrange(result: str, log: str, memory_max: str = "infinity") -> None:
        def systemctl(*arguments: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:  # noqa: ARG001
            calls.append(arguments)
            fails = arguments[0] == "start"
            return subprocess.CompletedProcess(arguments, int(fails), "", "Unit not found." if fails else "")

        monkeypatch.setattr(systemd, "systemctl", systemctl)
        monkeypatch.setattr(systemd, "ending", lambda *_: systemd.Ending(result, log))
        monkeypatch.setattr(systemd, "properties", lambda *_: {"MemoryMax": memory_max})

    return arrange


class _UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


@pytest.fixture
def page(app: layout.Application) -> Iterator[dict[str, Any]]:
    """A server on the scratch socket of bbbb: its answer, and the headers of the last request."""
    answers: dict[str, Any] = {"status": 200, "body": b""}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answers["headers"] = dict(self.headers)
            self.send_response(answers["status"])
            self.end_headers()
            self.wfile.write(answers["body"])

        def log_message(self, *_: Any) -> None:
            pass

        def address_string(self) -> str:
            return ""

    with _UnixServer(str(rehearsal.Rehearsal(app, "bbbb").listen), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield answers
        server.shutdown()


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the health check."""
    fake = Clock(now=0.0)
    monkeypatch.setattr(health_check, "time", fake)
    return fake


def failure(app: layout.Application, health: health_check.Health | None = None, timeout: float = 1) -> str:
    with pytest.raises(rehearsal.RehearsalError) as raised:
        rehearsal.Rehearsal(app, "bbbb").execute(timeout, health)
    return str(raised.value)


CLEARED = ("stop", "links-rehearsal@*.service", "links-rehearsal@*.socket")


def test_rehearsal_clears_leftovers_boots_and_stops_its_units(app: layout.Application, calls: Calls) -> None:
    rehearsal.Rehearsal(app, "bbbb").execute(1)
    # a successful rehearsal doesn't wait for the stop
    assert calls == [CLEARED, ("start", "links-rehearsal@bbbb.service"), ("stop", "--no-block", *CLEARED[1:])]


def test_incomplete_release_starts_nothing(app: layout.Application, calls: Calls) -> None:
    with pytest.raises(layout.ActivationError, match="not a complete release"):
        rehearsal.Rehearsal(app, "cccc").execute(1)
    assert calls == []


def test_failed_boot_reports_the_log_and_the_current_release(
    app: layout.Application, calls: Calls, failing: Any
) -> None:
    failing("exit-code", "Traceback\nRuntimeError: no ledger")
    assert failure(app) == (
        "Release bbbb failed its rehearsal: it did not boot. It logged last:\nTraceback\nRuntimeError: no ledger\n"
        "Nothing has changed. Release aaaa still serves."
    )
    assert calls[-1] == CLEARED


def test_failed_boot_before_the_first_release(app: layout.Application, failing: Any) -> None:
    failing("exit-code", "no")
    layout.set_current(app, None)
    assert failure(app).endswith("Nothing has changed. Nothing is served here yet.")


def test_missing_unit_is_reported(app: layout.Application, failing: Any) -> None:
    failing("", "")
    assert "it could not be started: Unit not found." in failure(app)


@pytest.mark.parametrize(
    ("result", "log", "memory_max", "message"),
    [
        ("oom-kill", "", "104857600", "it ran out of memory: MemoryMax is 100 MiB (app_service_memory_max)"),
        ("exit-code", f"Worker {rehearsal.KILLED}", "104857600", "it ran out of memory: MemoryMax is 100 MiB"),
        (
            "exit-code",
            f"Worker {rehearsal.KILLED}: yes, by the kernel's count",
            "infinity",
            "it was killed, as the kernel does when the host runs out of memory",
        ),
        (
            "exit-code",
            f"Worker {rehearsal.KILLED}: no, by the kernel's count",
            "104857600",
            "it was killed (SIGKILL), but not for lack of memory",
        ),
        ("oom-kill", "", "infinity", "as the kernel does when the host runs out of memory"),
        ("timeout", "", "infinity", "it was not ready after 0 s (app_service_boot_timeout)"),
        ("exit-code", f"not ready after 60 s {rehearsal.LATE}", "infinity", "it was not ready after 0 s"),
        # the master kills a worker that is late
        (
            "exit-code",
            f"not ready after 60 s {rehearsal.LATE}\nWorker {rehearsal.KILLED}",
            "infinity",
            "it was not ready after 0 s (app_service_boot_timeout).",
        ),
        (
            "exit-code",
            f"Worker is not ready after 6 s {rehearsal.LATE} and 9 s more for the 12 s that it waited for a processor",
            "infinity",
            "it was not ready after 6 s (app_service_boot_timeout) and 9 s more for the 12 s that it waited for a proc",
        ),
    ],
)
def test_cause_is_taken_from_systemds_result(
    app: layout.Application, failing: Any, result: str, log: str, memory_max: str, message: str
) -> None:
    failing(result, log, memory_max)
    assert message in failure(app)


def hanging_start(calls: Calls, monkeypatch: pytest.MonkeyPatch, early: float = 0) -> None:
    """A start that never ends: each wait for it takes its timeout, less `early` seconds."""
    clock = SteppingClock(now=1000.0)
    monkeypatch.setattr(rehearsal, "time", clock)

    def systemctl(*arguments: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        calls.append(arguments)
        if arguments[0] == "start":
            assert len(calls) < 9, "it waits forever"
            clock.now += timeout - early
            raise subprocess.TimeoutExpired("systemctl", timeout)
        return subprocess.CompletedProcess(arguments, 0, "", "")

    monkeypatch.setattr(systemd, "systemctl", systemctl)


def test_hanging_rehearsal_is_killed_and_cleared(
    app: layout.Application, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging_start(calls, monkeypatch)
    assert "it was not ready after 7 s (app_service_rehearsal_timeout)" in failure(app, timeout=7)
    assert calls[-2:] == [("kill", "--signal=KILL", "links-rehearsal@bbbb.service"), CLEARED]


def fake_start(app: layout.Application, monkeypatch: pytest.MonkeyPatch, waits: float, needs: float) -> Clock:
    """A start that takes `needs` seconds and waits for a processor for this share of them. Returns the clock."""
    clock = SteppingClock(now=1000.0)
    app.path("proc/7").mkdir(parents=True, exist_ok=True)
    group = app.path("sys/fs/cgroup/system.slice/links")
    group.mkdir(parents=True, exist_ok=True)
    (group / "cgroup.procs").write_text("7\n")

    def systemctl(*arguments: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        if arguments[0] == "start":
            left = 1000 + needs - clock.now
            clock.now += min(left, timeout)
            waited = int((clock.now - 1000) * waits * 1e9)
            app.path("proc/7/schedstat").write_text(f"12345 {waited} 99")
            if left > timeout:
                raise subprocess.TimeoutExpired("systemctl", timeout)
        return subprocess.CompletedProcess(arguments, 0, "", "")

    monkeypatch.setattr(systemd, "systemctl", systemctl)
    monkeypatch.setattr(systemd, "properties", lambda *_: {"ControlGroup": "/system.slice/links"})
    monkeypatch.setattr(systemd, "ending", lambda *_: systemd.Ending("", ""))
    monkeypatch.setattr(rehearsal, "time", clock)
    return clock


def test_time_waiting_for_a_processor_does_not_count(app: layout.Application, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = fake_start(app, monkeypatch, waits=0.5, needs=18)
    weight = app.path("sys/fs/cgroup/system.slice/links/cpu.weight")
    weight.write_text("10")
    rehearsal.Rehearsal(app, "bbbb").execute(10)
    assert clock.now == 1018
    # a starving rehearsal gets the normal CPU weight
    assert weight.read_text() == "100"


@pytest.mark.parametrize(("waits", "ends", "more"), [(0.0, 10, ""), (0.5, 20, " and 10 s more for the 10 s that it")])
def test_hanging_rehearsal_is_given_up(
    app: layout.Application, monkeypatch: pytest.MonkeyPatch, waits: float, ends: float, more: str
) -> None:
    clock = fake_start(app, monkeypatch, waits, needs=10_000)
    assert f"not ready after 10 s (app_service_rehearsal_timeout){more}" in failure(app, timeout=10)
    assert clock.now - 1000 == pytest.approx(ends, rel=0.02)


def test_rehearsal_without_a_processor_is_given_up(app: layout.Application, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = fake_start(app, monkeypatch, waits=0.99, needs=10_000)
    assert "(app_service_rehearsal_timeout) and 20 s more" in failure(app, timeout=10)
    assert clock.now == 1030


@pytest.mark.usefixtures("calls")
def test_page_is_requested_as_the_edge_would(app: layout.Application, page: dict[str, Any]) -> None:
    rehearsal.Rehearsal(app, "bbbb").execute(5, READY)
    headers = {name: page["headers"][name] for name in ("Host", "X-Forwarded-Proto", "X-Forwarded-For")}
    assert headers == {"Host": "links.example.org", "X-Forwarded-Proto": "https", "X-Forwarded-For": "127.0.0.1"}


def test_failing_page_is_reported_with_its_body(app: layout.Application, page: dict[str, Any], calls: Calls) -> None:
    page.update(status=503, body=b"the ledger is read-only")
    assert "it booted, but /readyz answers 503: the ledger is read-only" in failure(app, READY)
    assert calls[-1] == CLEARED


@pytest.mark.usefixtures("calls")
def test_page_without_an_answer_is_reported(app: layout.Application) -> None:
    assert "it booted, but /readyz does not respond" in failure(app, READY)


@pytest.mark.parametrize(("timeout", "boot", "patience"), [(1, 0, 5), (40, 30, 10), (40, 38, 5), (60, 2, 15)])
def test_page_gets_the_remaining_time_within_5_to_15_seconds(
    app: layout.Application,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    timeout: float,
    boot: float,
    patience: float,
) -> None:
    fake_start(app, monkeypatch, waits=0, needs=boot)
    assert "does not respond" in failure(app, READY, timeout)
    assert clock.now == pytest.approx(patience)


def test_boot_is_given_up_slightly_before_its_timeout(
    app: layout.Application, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wait with a timeout can end slightly early; it is not repeated for the rest."""
    hanging_start(calls, monkeypatch, early=0.02)
    failure(app, timeout=10)
    # one that checks whether the host is busy, and one for the remaining time
    assert [call[0] for call in calls].count("start") == 2


def test_host_is_reported_as_busy_after_a_second_of_waiting(
    app: layout.Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_start(app, monkeypatch, waits=0.05, needs=10_000)
    assert "(app_service_rehearsal_timeout)." in failure(app, timeout=10)
    fake_start(app, monkeypatch, waits=0.5, needs=10_000)
    assert "waited for a processor: the host is busy." in failure(app, timeout=10)


def test_rehearsal_has_a_minute_to_stop(app: layout.Application, monkeypatch: pytest.MonkeyPatch) -> None:
    timeouts: list[float] = []

    def systemctl(*arguments: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        timeouts.append(timeout)
        return subprocess.CompletedProcess(arguments, 0, "", "")

    monkeypatch.setattr(systemd, "systemctl", systemctl)
    rehearsal.clear(app)
    rehearsal.clear(app, wait=False)
    assert timeouts == [60, 60]


@pytest.mark.parametrize(("needed", "rehearsed"), [(True, True), (False, False)])
def test_release_that_serves_already_is_not_booted(
    app: layout.Application, calls: Calls, monkeypatch: pytest.MonkeyPatch, needed: bool, rehearsed: bool
) -> None:
    app.state.mkdir(parents=True)
    monkeypatch.setattr(rehearsal, "needed", lambda *_: needed)
    monkeypatch.setattr(systemd, "first_match", lambda unit, *_: f"{unit}: Running upgrade  -> 1a2b")
    result = rehearsal.rehearse(app, "bbbb", 1)
    assert result["rehearsed"] is rehearsed
    assert result["migrates"] == ("links-rehearsal@bbbb.service: Running upgrade  -> 1a2b" if rehearsed else "")
    assert (("start", "links-rehearsal@bbbb.service") in calls) is rehearsed
    # the default is the current release; without one there is nothing to rehearse
    assert rehearsal.rehearse(app, "", 1)["rehearsed"] is rehearsed
    layout.set_current(app, None)
    assert rehearsal.rehearse(app, "", 1)["rehearsed"] is False


@pytest.mark.usefixtures("calls")
def test_page_that_recovers_is_healthy(app: layout.Application, page: dict[str, Any], clock: Clock) -> None:
    page.update(status=503)
    clock.at_pause = lambda: page.update(status=204)
    rehearsal.Rehearsal(app, "bbbb").execute(1, READY)


def test_interrupted_rehearsal_is_cleared(
    app: layout.Application, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(health_check, "wait_healthy", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rehearsal.Rehearsal(app, "bbbb").execute(1, READY)
    assert calls[-1] == CLEARED


@pytest.mark.parametrize("waits", [0.01, 0.5])
def test_boot_that_waited_for_a_second_gets_normal_priority_in_both_cgroup_versions(
    app: layout.Application, monkeypatch: pytest.MonkeyPatch, waits: float
) -> None:
    fake_start(app, monkeypatch, waits=waits, needs=12)
    for group, file in (("system.slice/links", "cpu.weight"), ("cpu/system.slice/links", "cpu.shares")):
        path = app.path("sys/fs/cgroup", group, file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("10")
    if waits == 0.01:
        failure(app, timeout=10)
    else:
        rehearsal.Rehearsal(app, "bbbb").execute(10)
    weights = [
        app.path("sys/fs/cgroup", path).read_text()
        for path in ("system.slice/links/cpu.weight", "cpu/system.slice/links/cpu.shares")
    ]
    assert weights == (["10", "10"] if waits == 0.01 else ["100", "1024"])
