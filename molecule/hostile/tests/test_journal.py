"""Untrusted log lines and status files, from the application or other users, are displayed safely."""

from __future__ import annotations

import datetime
import json
import os
import re
import shlex
import signal
import zoneinfo
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.playbooks import PROJECT
from tests.support.wait import until

from .conftest import HOSTS, Hostile, host

README = PROJECT / "README.md"
APP = "hostile"
# enough for the time and the log lines of earlier tests
ALL = ("-e", "since='3 hours ago'", "-e", "lines=5000")
STATUS = f"/run/baton/{APP}/handover.json"
SECRET = "changethis-hostile-secret"  # of the scenario's inventory

# run as the user nobody: write journal entries that claim to be from the application, using the native protocol
FORGE = f"""
import socket
def send(*fields):
    journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    journal.connect("/run/systemd/journal/socket")
    journal.send(b"".join(field.encode() + b"\\n" for field in (*fields, "SYSLOG_IDENTIFIER={APP}")))
messages = ['{{"message": {{"forged": 1}}}}', '{{"message": 7}}', "[" * 20000, "{{" * 20000]
for message in (*messages, "forged \\x1b]52;c;x\\x07"):
    send("MESSAGE=" + message)
send("MESSAGE=forged", "PRIORITY=abc")
send("MESSAGE=forged", "MESSAGE=twice")
"""
# as the application itself, in one of its units
SAY = """
import json
for message in ({"message": {"nested": 1}}, {"message": 7}, {"message": "hid\\x1b[8mden \\u202edesrever", "level": []}):
    print(json.dumps(message))
print("[" * 20000)
print("{" * 20000)
"""


@pytest.fixture
def status_file() -> Iterator[Any]:
    """Returns a function that replaces the status file; restores it afterwards."""
    name = HOSTS[0]
    kept = str(host(name).check_output(f"cat {STATUS}"))

    def put(content: str) -> str:
        host(name).run_expect([0], f"rm -f {STATUS}; {content}")
        return name

    yield put
    host(name).run_expect([0], f"rm -f {STATUS}; printf %s {shlex.quote(kept)} >{STATUS}; chown {APP} {STATUS}")


def test_forged_journal_entries_are_ignored(hostile: Hostile) -> None:
    for name in HOSTS:
        forge = f"python3 -c {shlex.quote(FORGE)}"
        host(name).run_expect([0], f"setpriv --reuid=65534 --regid=65534 --clear-groups {forge}")
        # the lines are in the journal
        assert "forged" in host(name).check_output(f"journalctl --sync; journalctl --no-pager -o cat -t {APP}")
    done = hostile.succeed("playbooks/logs.yml", *ALL)
    assert "forged" not in done.output
    assert "Application startup complete" in done.output


def test_invalid_log_lines_are_shown_escaped(hostile: Hostile) -> None:
    for name in HOSTS:
        unit = f"{APP}-migration@script.service"
        run = f"systemd-run --wait --quiet --unit={unit} --property=SyslogIdentifier={APP}"
        host(name).run_expect([0], f"{run} python3 -c {shlex.quote(SAY)} && journalctl --sync")
    done = hostile.succeed("playbooks/logs.yml", *ALL)
    assert '{"nested": 1}' in done.output
    assert "hidden \\u202edesrever" in done.output
    assert not {"\x1b", "\u202e"} & set(done.output)


def test_since_uses_operators_time_zone(hostile: Hostile) -> None:
    zone = "Pacific/Auckland"
    then = datetime.datetime.now(zoneinfo.ZoneInfo(zone)) - datetime.timedelta(hours=3)
    there = Hostile(hostile.inventory, {**hostile.environment, "TZ": zone})
    since = f"{then:%Y-%m-%d %H:%M}"
    done = there.succeed("playbooks/logs.yml", "-e", f"since='{since}'", "-e", "lines=5000")
    assert "Application startup complete" in done.output
    (days,) = [{line[:10] for line in re.findall(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\S*Z info", done.output)}]
    assert days
    now = datetime.datetime.now(datetime.UTC)
    assert days <= {f"{moment:%Y-%m-%d}" for moment in (then.astimezone(datetime.UTC), now)}


@pytest.mark.parametrize(
    "playbook",
    ["logs", "exec", *(pytest.param(name, marks=pytest.mark.long) for name in ("history", "maintenance", "unlock"))],
)
def test_readme_commands_run(hostile: Hostile, playbook: str) -> None:
    (line,) = re.findall(rf"^ansible-playbook (playbooks/{playbook}\.yml.*)$", README.read_text(), re.MULTILINE)
    command, *options = shlex.split(line, comments=True)
    hostile.succeed(command, *options, "--check")


def test_unquoted_command_is_refused(hostile: Hostile) -> None:
    done = hostile.play("playbooks/exec.yml", "-e", "command=echo hello world")
    assert done.status != 0
    assert "-e \"command='two words'\"" in done.words
    done = hostile.succeed("playbooks/exec.yml", "-e", "command='echo hello world'")
    assert "hello world" in done.output


def test_interrupt_stops_command(hostile: Hostile) -> None:
    name = HOSTS[0]

    def units() -> str:
        return str(host(name).check_output(f"systemctl list-units --no-legend --state=active '{APP}-command-*'"))

    running = hostile.start("playbooks/exec.yml", "--limit", name, command="exec sleep 550")
    try:
        until(units, "the command has not begun")
    finally:
        os.killpg(running.pid, signal.SIGINT)  # to all processes, as a terminal does
    assert hostile.finish(running).status != 0
    until(lambda: not units(), "the command still runs")


@pytest.mark.parametrize(
    "content",
    [
        *(
            f"printf %s {shlex.quote(text)} >{STATUS}"
            for text in (
                '{"versions": [], "reload": "x", "master": {"pid": "../../tmp"}, "workers_wanted": 1e999}',
                json.dumps({"versions": {"python": "\x1b[2J\u202e\ud800"}, "workers_wanted": 10**40}),
            )
        ),
        f"python3 -c \"print('[' * 20000)\" >{STATUS}",
        f"mkfifo {STATUS}",
        f"ln -s /dev/zero {STATUS}",
    ],
)
def test_invalid_status_file_is_reported(hostile: Hostile, status_file: Any, content: str) -> None:
    name = status_file(content)
    done = hostile.play("playbooks/status.yml", "--limit", name)
    assert done.status != 0
    assert "0 of 0 workers are ready" in done.words
    assert "Traceback" not in done.output
    assert not {"\x1b", "\u202e"} & set(done.output)


def test_printed_secrets_are_masked(hostile: Hostile) -> None:
    script = f"echo key {SECRET}; echo part {SECRET[:10]}...; echo \"{{'KEY': '...{SECRET[-9:]}'}}\""
    done = hostile.succeed("playbooks/exec.yml", "-e", json.dumps({"command": script}))
    assert "key ***" in done.output
    assert "part ***..." in done.output
    assert "{'KEY': '...***'}" in done.output
    for name in HOSTS:
        unit = f"{APP}-migration@secret.service"
        say = f"systemd-run --wait --quiet --unit={unit} sh -c {shlex.quote(script)}"
        host(name).run_expect([0], f"{say} && journalctl --sync")
    done = hostile.succeed("playbooks/logs.yml", *ALL)
    assert "key ***" in done.output
    assert SECRET[:8] not in done.output


@pytest.mark.parametrize("name", HOSTS)
@pytest.mark.usefixtures("hostile")
def test_access_log_has_restricted_permissions(name: str) -> None:
    log = host(name).file(f"/var/log/nginx/{APP}-access.log")
    assert (log.user, log.group, log.mode) == ("www-data", "adm", 0o640)
