"""The import check of a release: it runs in the service's sandbox, with limits."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import shlex
import zipfile
from typing import Any

import pytest

from tests.support.playbooks import PROJECT

from .conftest import HOSTS, SCENARIO, Hostile, host

ARCHIVE = "/var/tmp/imports.pyz"
SECRET = "changethis-hostile-secret"  # of the scenario's inventory
APP = "\nasync def app(scope, receive, send): ...\n"
# a daemon that ignores signals until it is killed
DAEMON = """
import os, signal, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        while True:
            time.sleep(1)
    os._exit(0)
os.wait()
"""


@pytest.fixture(scope="module")
def archive(hostile: Hostile) -> None:
    """The modules of the import check, as one file on both hosts."""
    assert hostile.source.is_dir()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("module_utils/__init__.py", "")
        for room in ("app", "host", "release"):
            for path in (PROJECT / "plugins/module_utils" / room).glob("*.py"):
                file.write(path, f"module_utils/{room}/{path.name}")
        file.write(SCENARIO / "tests/on_host/imports.py", "__main__.py")
    text = base64.b64encode(packed.getvalue()).decode()
    for name in HOSTS:
        host(name).check_output(f"rm -f {ARCHIVE}.b64")
        # a word of a command has 128 KiB at most
        for start in range(0, len(text), 50_000):
            host(name).check_output(f"printf %s {text[start : start + 50_000]} >> {ARCHIVE}.b64")
        host(name).check_output(f"base64 -d {ARCHIVE}.b64 > {ARCHIVE}")


@dataclasses.dataclass(frozen=True)
class Imported:
    """The result of an import."""

    message: str
    memory: int  # KiB, of the process that ran the check
    left: list[str]


def imported(name: str, text: str, timeout: int = 60) -> Imported:
    """Import an application on a host."""
    words = f"printf %s {shlex.quote(text)} | python3 {ARCHIVE} {timeout}"
    found = Imported(**json.loads(host(name).check_output(words)))
    # no process is left, and the caller has used little memory
    assert found.left == []
    assert found.memory < 100 * 1024
    return found


@pytest.fixture(params=HOSTS)
def name(request: pytest.FixtureRequest, archive: None) -> str:  # noqa: ARG001
    """A host with the archive."""
    return str(request.param)


def test_import_runs_in_sandbox_of_service(name: str) -> None:
    text = """
import json, os, pathlib
def may(path):
    try:
        pathlib.Path(path, "x").write_text("x")
        pathlib.Path(path, "x").unlink()
    except OSError:
        return False
    return True
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
print(json.dumps({
    "identity": [os.getresuid()[0], os.getresgid()[0], os.getgroups()],
    "status": [status["NoNewPrivs"], int(status["CapBnd"], 16), status["Seccomp"]],
    "may": [path for path in ("/run/hostile", "/run/baton/hostile", "/etc/hostile", "/opt/hostile", ".", "/var/tmp",
                              "/var/lib/hostile", "/var/lib/baton/hostile", "/dev/shm") if may(path)],
    "secret": os.environ["SECRET_KEY"],
}))
raise SystemExit(3)
"""
    found = imported(name, text)
    assert "\n{" in found.message, found.message
    result: Any = json.JSONDecoder().raw_decode(found.message.partition("\n")[2])[0]
    uid, gid = (int(host(name).check_output(f"id {option} hostile")) for option in ("-u", "-g"))
    groups = sorted(map(int, host(name).check_output("id -G hostile").split()))
    assert [result["identity"][:2], sorted(result["identity"][2])] == [[uid, gid], groups]
    assert result["status"] == ["1", 0, "2"]
    assert set(result["may"]) <= {"/var/tmp", "/var/lib/hostile", "/dev/shm"}  # private, its own, and a private one
    assert "/var/lib/hostile" in result["may"]
    assert result["secret"] == "***"


def test_daemon_started_by_import_is_killed(name: str) -> None:
    assert imported(name, DAEMON + APP).message == ""


@pytest.mark.parametrize(
    "text",
    [
        "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
        "import os, time\nos.close(1)\nos.close(2)\ntime.sleep(600)",
        f"{DAEMON}\ntime.sleep(600)",
        "import os\nwhile True: os.write(1, b'\\0\\x1b[2J' * 10_000)",
    ],
    ids=["stops itself", "closes its output and hangs", "hangs with a daemon", "prints without end"],
)
def test_hanging_import_is_killed(name: str, text: str) -> None:
    found = imported(name, text + APP, timeout=2)
    assert "took longer than 2 s" in found.message
    assert not {"\x1b", "\0"} & set(found.message)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("held = []\nwhile True: held.append(b'x' * 2**20)", "memory"),
        (
            "import os, time\nborn = 0\ntry:\n  while True:\n    born += 1\n    os.fork() or time.sleep(600)\n"
            "except OSError: print('born:', born)\nraise SystemExit(3)",
            "born: ",
        ),
        (f"for _ in range(300): print('x' * 2**20, end='')\nprint({SECRET!r})\nraise SystemExit(3)", "xxx***"),
    ],
    ids=["memory", "tasks", "output"],
)
def test_import_that_exceeds_limits_is_killed(name: str, text: str, says: str) -> None:
    before = host(name).check_output("systemctl show hostile.service --property=MainPID,NRestarts")
    found = imported(name, text + APP)
    assert "can't be imported as user hostile" in found.message
    assert says in found.message
    assert host(name).check_output("systemctl show hostile.service --property=MainPID,NRestarts") == before


def test_failed_import_is_reported_without_rehearsal(hostile: Hostile) -> None:
    before = [host(one).check_output("readlink /opt/hostile/current; ls /opt/hostile/releases") for one in HOSTS]
    main = hostile.source / "main.py"
    kept = main.read_text()
    main.write_text(f"import os\n{DAEMON}\nraise SystemExit('not with ' + os.environ['SECRET_KEY'])\n")
    try:
        done = hostile.play("playbooks/deploy.yml", app_service_rehearsal=False)
    finally:
        main.write_text(kept)
    assert done.status != 0
    assert "main:app can't be imported as user hostile: not with *** Correct the application" in done.words
    assert SECRET not in done.output
    after = [host(one).check_output("readlink /opt/hostile/current; ls /opt/hostile/releases") for one in HOSTS]
    assert after == before


def test_long_output_of_command_is_truncated(hostile: Hostile) -> None:
    command = "yes | head -c 50M; echo the end"
    done = hostile.succeed("playbooks/exec.yml", "--limit", HOSTS[0], command=command)
    assert "output before the last 1024 KiB is omitted" in done.words
    assert "the end" in done.output
    assert len(done.output) < 5 * 2**20
