"""The start: readiness, refused settings, environment, and messages to the service manager."""

from __future__ import annotations

import os
import signal
import textwrap
from typing import Any

import pytest

from conftest import Server, alive, wait_for
from gunicorn_handover import arbiter, priority, resources

pytestmark = pytest.mark.versions


def test_ready_is_sent_once_all_workers_serve(server: Server) -> None:
    first = server.root / "first"
    mark = f"import os\ntry:\n    os.mkdir({str(first)!r})\nexcept FileExistsError:\n"
    server.release("1", mark + textwrap.indent(server.block_import("second"), "    "))
    server.start(ready=False)
    wait_for(lambda: server.status_file.exists() and len(server.pids()) == 1)
    server.wait_for_loop()
    received = server.received()
    assert "READY=1" not in received
    assert any(line.startswith("STATUS=1 of 2 workers ready, generation 1, release 1") for line in received)
    assert not any(line.startswith("STATUS=2 of 2") for line in received)
    server.unblock_import("second")
    wait_for(lambda: server.notified("READY=1"))
    assert len(server.pids()) == 2
    assert any(
        message.startswith("STATUS=2 of 2 workers ready, generation 1, release 1") for message in server.messages
    )
    server.signal(signal.SIGHUP)
    wait_for(lambda: any(message == "RELOADING=1" for message in server.messages))
    wait_for(lambda: server.messages.count("READY=1") == 2)


def test_start_may_take_as_long_as_its_boots(server: Server) -> None:
    """A busy machine lets them take three times their timeouts."""
    server.configure(handover_boot_timeout=70, handover_warmup_timeout=50)
    server.start()
    assert f"EXTEND_TIMEOUT_USEC={3 * (70 + 50) * 10**6}" in server.received()


def test_boot_at_once_limits_concurrent_boots(server: Server) -> None:
    server.configure(workers=3, handover_boot_at_once=1)
    server.release(
        "1",
        "import os, time\n"
        "from pathlib import Path as P\n"
        "lock = P(__file__).with_name('lock')\n"
        "os.close(os.open(lock, os.O_CREAT | os.O_EXCL)); time.sleep(0.3); lock.unlink()",
    )
    server.start()
    assert len(server.pids()) == 3


def test_boot_at_once_defaults_to_cores_plus_one(server: Server) -> None:
    wanted = resources.cores() + 1
    server.configure(workers=wanted)
    server.release(
        "1",
        "import os, time\n"
        "from pathlib import Path as P\n"
        "marks = P(__file__).with_name('marks'); marks.mkdir(exist_ok=True); (marks / str(os.getpid())).touch()\n"
        f"while len(os.listdir(marks)) < {wanted}:\n"
        "    time.sleep(0.02)",
    )
    server.start()
    assert len(server.pids()) == wanted


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("raise RuntimeError('no database')", "", "RuntimeError: no database"),
        ("raise SystemExit(0)", "", "sys.exit(0)"),
        ("import os; os._exit(1)", "", "exited with code 1"),
        ("import time; time.sleep(60)", "", "not ready after 2 s"),
        ("", "async def lifespan(receive, send):\n    await asyncio.sleep(60)", "not ready after 2 s"),
    ],
)
def test_start_fails_if_no_worker_boots(server: Server, before: str, after: str, reason: str) -> None:
    server.configure(handover_boot_timeout=2)
    server.release("1", before, after)
    server.start(ready=False)
    assert server.process is not None
    assert server.process.wait(30) != 0
    assert reason in server.log
    # with the traceback of the application's own error
    assert ("The application could not be started." in server.log) == ("RuntimeError" in reason)
    assert "READY=1" not in server.messages
    assert any(reason in message for message in server.messages if message.startswith("STATUS=Failed"))


def test_start_fails_if_second_worker_does_not_boot(server: Server) -> None:
    server.release(
        "1",
        "from pathlib import Path as P\n"
        "mark = P(__file__).with_name('mark')\n"
        "if mark.exists(): raise RuntimeError('second')\n"
        "mark.touch()",
    )
    server.start(ready=False)
    assert server.process is not None
    assert server.process.wait(30) != 0
    assert "READY=1" not in server.messages


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_worker_that_waits_for_the_others_ends_with_the_master(server: Server, number: int) -> None:
    server.configure(graceful_timeout=3600)
    server.start()
    first = server.root / "first"
    mark = f"import os\ntry:\n    os.mkdir({str(first)!r})\nexcept FileExistsError:\n"
    server.release("2", mark + textwrap.indent(server.block_import("second"), "    "))
    server.set_current("2")
    server.signal(signal.SIGHUP)
    wait_for(lambda: (server.status["reload_under_way"] or {}).get("progress") == "booting workers, 1 of 2 up")
    pids = server.children()
    assert len(pids) == 4
    server.stop(number)
    server.unblock_import("second")
    wait_for(lambda: not any(map(alive, pids)), what="the workers' exit")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"preload_app": True}, "preload_app"),
        ({"reload": True}, "The setting reload"),
        ({"reuse_port": True}, "reuse_port"),
        ({"daemon": True}, "daemon"),
        ({"worker_class": "sync"}, "worker_class"),
        ({"handover_http": "auto"}, "httptools, h11"),
        ({"handover_boot_timeout": 0}, "not a valid timeout"),
        ({"handover_idle_timeout": -1}, "number of seconds"),
    ],
)
def test_unsafe_settings_are_refused(server: Server, settings: dict[str, Any], reason: str) -> None:
    server.configure(**settings)
    server.start(ready=False)
    assert server.process is not None
    assert server.process.wait(30) != 0
    assert reason in server.log


def test_usr2_is_ignored(server: Server) -> None:
    server.start()
    server.signal(signal.SIGUSR2)
    wait_for(lambda: "USR2 is ignored" in server.log)
    assert server.get()["release"] == "1"
    assert len(server.children()) == 2


def test_credentials_override_variables(server: Server) -> None:
    credentials = server.root / "credentials"
    credentials.mkdir()
    (credentials / "DATABASE_PASSWORD").write_text("pass$word\n")
    (credentials / "GREETING").write_text("from the credential")
    (credentials / "server.key").write_text("no name for a variable")
    environment = server.root / "environment"
    environment.write_text('# plain\nGREETING="plain"\nQUOTED="a \\"b\\" \\\\ \\$c \\`d\\`"\nBLANKS="  two and one "\n')
    server.environ = {"CREDENTIALS_DIRECTORY": str(credentials), "GREETING": "inherited", "WEB_CONCURRENCY": "1"}
    server.configure(
        f"from gunicorn_handover import environment\nraw_env = environment.raw_env({str(environment)!r})", workers=2
    )
    server.start()
    for _ in range(2):
        seen = server.get("/environment")
        assert seen["DATABASE_PASSWORD"] == "pass$word"
        assert seen["GREETING"] == "from the credential"
        assert seen["QUOTED"] == 'a "b" \\ $c `d`'
        assert seen["BLANKS"] == "  two and one "
        assert seen["WEB_CONCURRENCY"] == "1"
        assert not any("no name" in value for value in seen.values())
        assert "NOTIFY_SOCKET" not in seen
        assert server.reload().returncode == 0


def test_status_masks_credentials(server: Server) -> None:
    credentials = server.root / "credentials"
    credentials.mkdir()
    (credentials / "DATABASE_URL").write_text("postgresql://links:hush@db/links\n")
    server.environ = {"CREDENTIALS_DIRECTORY": str(credentials)}
    server.release("1", "import os; raise RuntimeError('no database at ' + os.environ['DATABASE_URL'])")
    server.start(ready=False)
    assert server.process is not None
    assert server.process.wait(30) != 0
    statuses = [message for message in server.messages if message.startswith("STATUS=Failed")]
    assert "RuntimeError: no database at ***" in statuses[-1]
    assert not any("hush" in message for message in server.messages)


def test_web_concurrency_sets_default_workers(server: Server) -> None:
    server.environ = {"WEB_CONCURRENCY": "3"}
    server.configure()
    server.config_file.write_text(server.config_file.read_text().replace("workers = 2\n", ""))
    server.start()
    assert len(server.pids()) == 3


def test_unix_and_tcp_sockets_are_served(server: Server) -> None:
    import http.client
    import socket

    listener = socket.create_server(("127.0.0.1", 0))
    server.listeners.append(listener)
    server.start()
    assert server.get()["release"] == "1"
    connection = http.client.HTTPConnection("127.0.0.1", listener.getsockname()[1])
    connection.request("GET", "/")
    assert connection.getresponse().status == 200
    connection.close()
    assert server.reload().returncode == 0


def test_factory_and_bind_without_systemd_socket(server: Server) -> None:
    server.listeners.clear()
    server.socket.unlink()
    server.release("1", "", "def create():\n    return application\n")
    server.configure(bind=f"unix:{server.socket}", wsgi_app="main:create()")
    server.arguments = []
    server.module = "main:create()"
    server.start()
    assert server.get()["release"] == "1"
    assert server.stop() == 0
    assert not os.path.exists(server.socket)


@pytest.mark.parametrize(
    ("took", "waited", "words"),
    [
        (9, 0, ""),
        (11, 0.5, "not ready after 10 s (handover_boot_timeout)"),
        (10, 0, ""),
        (11, 1, ""),
        (12, 1, "not ready after 10 s (handover_boot_timeout) and 2 s more for the 1 s that it waited for a processor"),
        # a busy machine isn't the application's fault, up to a limit
        (30, 20, ""),
        (25, 16, ""),
        (
            25,
            14,
            "not ready after 10 s (handover_boot_timeout) and 15 s more for the 14 s that it waited for a processor",
        ),
        (
            31,
            30,
            "not ready after 10 s (handover_boot_timeout) and 21 s more for the 30 s that it waited for a processor",
        ),
    ],
)
def test_boot_timeout_excludes_cpu_wait(took: float, waited: float, words: str) -> None:
    assert arbiter._overdue(took, waited, 10) == words


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (3, 4, ": yes, by the kernel's count"),
        (3, 3, ": no, by the kernel's count"),
        (4, 3, ": no, by the kernel's count"),
        (None, 3, ""),
        (3, None, ""),
    ],
)
def test_oom_kill_count_explains_sigkill(
    monkeypatch: pytest.MonkeyPatch, before: int | None, after: int | None, words: str
) -> None:
    master = arbiter.HandoverArbiter.__new__(arbiter.HandoverArbiter)
    master._oom_kills = before
    monkeypatch.setattr(priority, "oom_kills", lambda: after)
    assert master._exit_reason(signal.SIGKILL) == f"was killed by SIGKILL (out of memory?){words}"
    assert master._oom_kills == after, "the next one is compared with this count"
    assert master._exit_reason(signal.SIGTERM) == "was killed by SIGTERM"


@pytest.mark.parametrize("number", ["many", "0", "-1", "2.5"])
def test_invalid_web_concurrency_is_one_line_error(server: Server, number: str) -> None:
    server.environ["WEB_CONCURRENCY"] = number
    server.start(ready=False)
    assert server.process is not None
    assert server.process.wait(60) == 1
    message = f"WEB_CONCURRENCY is '{number}'. Set it to a number of workers, 1 or more, or unset it."
    assert server.log == f"Error: {message}\n"


def test_empty_web_concurrency_counts_as_unset(server: Server) -> None:
    server.environ["WEB_CONCURRENCY"] = ""
    server.start()
    assert len(server.pids()) == 2
