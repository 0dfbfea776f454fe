"""A command runs with the service's user, environment and sandbox."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys

import pytest
from ansible_collections.baton.web.plugins.module_utils.app import layout, transient_unit

from tests.support.program import write_script
from tests.support.wait import until

UNIT = """\
[Unit]
Description=links
User=not-this

[Service]
Type=notify
# a comment=1
User=links
Environment=PYTHONUNBUFFERED=1
Environment=PYTHONPATH=/opt/links/current/server
Environment=GUNICORN_HANDOVER_STATUS=/run/links/handover.json
LoadCredential=TOKEN:/etc/links/secrets/TOKEN
ExecStart=/opt/links/current/venv/bin/python
ExecReload=/bin/true
Restart=always
TimeoutStopSec=35
ProtectSystem=strict
ReadWritePaths=-/run/baton/links
LogExtraFields=A=100%%

[Install]
WantedBy=multi-user.target
"""
UNIT_NAME = "links-command-1.service"


def test_properties_are_those_of_the_service_except_what_makes_a_server() -> None:
    assert transient_unit.properties(UNIT) == [
        "User=links",
        "Environment=PYTHONUNBUFFERED=1",
        "LoadCredential=TOKEN:/etc/links/secrets/TOKEN",
        "ProtectSystem=strict",
        "LogExtraFields=A=100%",
        "ReadOnlyPaths=-/run/baton",
    ]


@pytest.fixture
def argv(tmp_path: pathlib.Path) -> list[str]:
    unit = tmp_path / "etc/systemd/system/links.service"
    unit.parent.mkdir(parents=True)
    unit.write_text(UNIT)
    app = layout.Application("links", str(tmp_path))
    words: list[str] = transient_unit.invocation(app, "aaaa", "echo $HOME", 60, UNIT_NAME)
    return words


def test_dollar_signs_are_left_to_the_shell(argv: list[str]) -> None:
    assert argv[-1] == "echo $$HOME"


def test_command_runs_in_the_release_with_a_time_limit(argv: list[str]) -> None:
    assert argv[-2].endswith("/opt/links/releases/aaaa")
    assert "--property=RuntimeMaxSec=60" in argv
    assert "--property=EnvironmentFile=/etc/links/environment" in argv
    assert f"--unit={UNIT_NAME}" in argv


def started(folder: pathlib.Path) -> subprocess.Popen[bytes]:
    """A program that runs a command of a minute, and its systemctl, which records what it is told to stop."""
    write_script(folder / "systemctl", f'echo "$@" >{folder}/told; kill $(cat {folder}/pid)')
    command = ["sh", "-c", f"echo $$ >{folder}/pid; exec sleep 60"]
    script = f"from {transient_unit.__name__} import run; run({command!r}, 60, {UNIT_NAME!r})"
    path = f"{folder}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment)
    pid = folder / "pid"
    until(lambda: pid.exists() and pid.read_text().endswith("\n"), "the command has not begun")
    return process


def test_command_is_stopped_when_nobody_reads_its_output(tmp_path: pathlib.Path) -> None:
    with started(tmp_path) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait() == 0
    assert (tmp_path / "told").read_text() == f"stop {UNIT_NAME}\n"


def test_command_whose_output_is_read_is_not_stopped(tmp_path: pathlib.Path) -> None:
    with started(tmp_path) as process:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
        assert process.wait() == 0
    assert not (tmp_path / "told").exists()


def test_command_has_the_services_properties_and_program(argv: list[str], tmp_path: pathlib.Path) -> None:
    release = f"{tmp_path}/opt/links/releases/aaaa"
    assert argv == [
        *("systemd-run", "--quiet", "--collect", "--wait", "--pipe", f"--unit={UNIT_NAME}"),
        "--description=A command in links",
        *(f"--property={line}" for line in transient_unit.properties(UNIT)),
        "--property=EnvironmentFile=/etc/links/environment",
        "--property=RuntimeMaxSec=60",
        "--property=TimeoutStopSec=10",
        *(f"{release}/venv/bin/python", f"{tmp_path}/opt/links/release-exec", release, "echo $$HOME"),
    ]


def test_only_the_end_of_a_long_output_is_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transient_unit, "MOST", 2048)
    long = [sys.executable, "-c", "import sys; print('x' * 5000); sys.exit('\\udcff is the end')"]
    status, output = transient_unit.run(long, 60, UNIT_NAME)
    assert status == 1
    first, rest = output.split("\n", 1)
    assert first == "[output before the last 2 KiB is omitted]"
    assert len(rest) < 2049
    assert rest.endswith("is the end\n")
    assert transient_unit.run(["echo", "all of it"], 60, UNIT_NAME) == (0, "all of it\n")
