"""The program that reloads nginx, with a master that replaces its worker processes, or refuses to."""

from __future__ import annotations

import pathlib
import subprocess
from collections.abc import Iterator

import pytest

from tests.support import program
from tests.support.wait import until

PROGRAM = pathlib.Path(__file__).resolve().parents[3] / "roles/nginx_server/files/nginx_reload.py"
KEY = 'limit_req "x" uses the "$a" key while previously it used the "$b" key'
PORT = "bind() to 0.0.0.0:81 failed (98: Address already in use)"
# Processes with the titles of nginx's. The master's argument is the command that it runs on a HUP.
WORKER = """
trap 'exec -a "nginx: worker process is shutting down" sleep 60' QUIT
while :; do sleep 0.01; done
"""
MASTER = r"""
start() { (exec -a "nginx: worker process" bash worker) & worker=$!; }
replace() { old=$worker; start; sleep 0.1; kill -QUIT "$old"; }
refuse() { sed "s/^/2026\/11\/30 15:01:51 [emerg] $$#$$: /" causes >> error.log; }
on_hup=$1
trap 'eval "$on_hup"' HUP
trap 'kill $(jobs -p); exit' TERM
start
echo $$ > nginx.pid
while :; do sleep 0.01; done
"""


class Nginx:
    """A master process, its files, and the program that reloads it."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root, self.log, self.pid_file = root, root / "error.log", root / "nginx.pid"
        self.program = program.load(PROGRAM, "nginx_reload")
        self.program.LOG, self.program.PID_FILE = self.log, self.pid_file
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, on_hup: str, *causes: str) -> None:
        """Start it. `causes`: what its command `refuse` logs."""
        (self.root / "causes").write_text("".join(f"{cause}\n" for cause in causes))
        (self.root / "worker").write_text(WORKER)
        # a shell can't trap what it ignores at its start, as under nohup
        command = ["env", "--default-signal=HUP,QUIT", "bash", "-c", MASTER, "master", on_hup]
        self.process = subprocess.Popen(command, cwd=self.root)
        until(lambda: self.pid_file.exists() and self.pid_file.read_text() and self.accepting(), "no worker process")

    def accepting(self) -> set[int]:
        found: set[int] = self.program.accepting(int(self.pid_file.read_text()))
        return found

    def reload(self) -> str:
        """Run the program; return its error, empty if it succeeded."""
        try:
            self.program.reload()
        except self.program.ReloadError as error:
            return str(error)
        return ""


@pytest.fixture
def nginx(tmp_path: pathlib.Path) -> Iterator[Nginx]:
    fake = Nginx(tmp_path)
    yield fake
    if fake.process:
        fake.process.terminate()
        fake.process.wait()


def test_reload_ends_when_only_new_workers_accept(nginx: Nginx) -> None:
    nginx.start("replace")
    for _ in range(2):  # the first one's former worker process is still shutting down at the second
        before = nginx.accepting()
        assert nginx.reload() == ""
        assert nginx.accepting()
        assert not nginx.accepting() & before


@pytest.mark.parametrize(
    ("causes", "fix"),
    [
        ([KEY], "Give the zone another name, or run `systemctl restart nginx` in a maintenance window"),
        # nginx tries to listen several times
        ([PORT, PORT, "still could not bind()"], "Stop that program, or choose another port"),
        (["open() failed"], "Correct the configuration"),
    ],
)
def test_refused_configuration_fails_with_the_cause_and_the_fix(nginx: Nginx, causes: list[str], fix: str) -> None:
    # lines of earlier reloads aren't causes
    nginx.log.write_text("2026/11/30 15:00:00 [emerg] 1#1: of another master\n")
    nginx.start("refuse", *causes)
    before = nginx.accepting()
    why = nginx.reload()
    known = "; ".join(dict.fromkeys(causes))
    assert why.startswith(f"nginx refuses the new configuration and serves the previous one: {known}. ")
    assert fix in why
    assert nginx.accepting() == before


def test_port_that_becomes_free_meanwhile_is_no_refusal(nginx: Nginx) -> None:
    nginx.start("refuse; sleep 0.3; replace", PORT)
    assert nginx.reload() == ""


def test_log_may_be_missing_or_rotated(nginx: Nginx) -> None:
    nginx.start("rm -f error.log; refuse", KEY)
    assert KEY in nginx.reload()
    nginx.log.write_text("long\n" * 1000)
    assert KEY in nginx.reload()


def test_earlier_refusal_does_not_fail_a_later_reload(nginx: Nginx) -> None:
    nginx.start("if [ -e fixed ]; then replace; else refuse; fi", KEY)
    assert KEY in nginx.reload()
    (nginx.root / "fixed").touch()
    assert nginx.reload() == ""


def test_wait_is_bounded(nginx: Nginx) -> None:
    nginx.start("true")
    nginx.program.SECONDS = 0.3
    assert "previous worker processes still accept connections 0 s after the reload" in nginx.reload()


def test_status_and_message_are_those_of_the_reload(nginx: Nginx, capsys: pytest.CaptureFixture[str]) -> None:
    assert nginx.program.main() == 1
    assert "nginx doesn't run as" in capsys.readouterr().err
    nginx.start("replace")
    assert nginx.program.main() == 0
