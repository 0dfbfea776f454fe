"""What an application does as it is imported, before it is a release: it has the service's sandbox, and bounds."""

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
# ends when somebody ends it, whatever it is told before
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
    """The modules that import, on both hosts, as one file."""
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
    """How it went."""

    message: str
    memory: int  # KiB, of who had it imported
    left: list[str]


def imported(name: str, text: str, timeout: int = 60) -> Imported:
    """Import an application on a host."""
    words = f"printf %s {shlex.quote(text)} | python3 {ARCHIVE} {timeout}"
    found = Imported(**json.loads(host(name).check_output(words)))
    # whatever it did, nothing of it is left, and who waited for it has kept little
    assert found.left == []
    assert found.memory < 100 * 1024
    return found


@pytest.fixture(params=HOSTS)
def name(request: pytest.FixtureRequest, archive: None) -> str:  # noqa: ARG001
    """A host that can import."""
    return str(request.param)


def test_it_is_imported_in_the_services_sandbox(name: str) -> None:
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
    told: Any = json.JSONDecoder().raw_decode(found.message.partition("\n")[2])[0]
    uid, gid = (int(host(name).check_output(f"id {option} hostile")) for option in ("-u", "-g"))
    groups = sorted(map(int, host(name).check_output("id -G hostile").split()))
    assert [told["identity"][:2], sorted(told["identity"][2])] == [[uid, gid], groups]
    assert told["status"] == ["1", 0, "2"]
    assert set(told["may"]) <= {"/var/tmp", "/var/lib/hostile", "/dev/shm"}  # private, its own, and a private one
    assert "/var/lib/hostile" in told["may"]
    assert told["secret"] == "***"


def test_a_daemon_that_it_starts_ends_with_it(name: str) -> None:
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
def test_one_that_does_not_end_is_ended(name: str, text: str) -> None:
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
def test_one_that_takes_too_much_is_ended_by_its_own_bounds(name: str, text: str, says: str) -> None:
    before = host(name).check_output("systemctl show hostile.service --property=MainPID,NRestarts")
    found = imported(name, text + APP)
    assert "can't be imported as user hostile" in found.message
    assert says in found.message
    assert host(name).check_output("systemctl show hostile.service --property=MainPID,NRestarts") == before


def test_a_deploy_without_a_rehearsal_tells_why_it_can_not_be_imported(hostile: Hostile) -> None:
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


def test_of_a_command_that_prints_much_the_end_is_shown(hostile: Hostile) -> None:
    command = "yes | head -c 50M; echo the end"
    done = hostile.succeed("playbooks/exec.yml", "--limit", HOSTS[0], command=command)
    assert "output before the last 1024 KiB is omitted" in done.words
    assert "the end" in done.output
    assert len(done.output) < 5 * 2**20
