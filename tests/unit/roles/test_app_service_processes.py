"""The process types beside web: their units, processes.json, and what preflight refuses."""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.app import workers

from tests.support.unit_file import directives

PROJECT = pathlib.Path(__file__).resolve().parents[3]
SERVICE = "etc/systemd/system/app.service.j2"
UNIT = "/etc/systemd/system/links-worker@.service"
CHECK = "/etc/systemd/system/links-worker-check@.service"
GIVEN: dict[str, Any] = {
    "app_name": "links",
    "app_service_credentials": ["TOKEN"],
    "app_service_process_environment": {"TZ": "UTC"},
    "app_processes": {"worker": {"command": "celery -A links.jobs worker"}},
}


@pytest.fixture(scope="module")
def role(load_role: Callable[[str], Any]) -> Any:
    return load_role("app_service")


def files(role: Any, processes: dict[str, Any] | None = None, **given: Any) -> dict[str, dict[str, Any]]:
    """The files that the role writes for the process types, by path."""
    settings = {**GIVEN, **({} if processes is None else {"app_processes": processes}), **given}
    # lets a lookup find the role's templates
    found = role.value("__app_service_process_files", ansible_search_path=[str(role.path)], **settings)
    return {one["path"]: one for one in found}


def unit(role: Any, path: str = UNIT, facts: dict[str, Any] | None = None, **worker: Any) -> dict[str, list[str]]:
    given = {"command": "celery -A links.jobs worker", **worker}
    more = {"ansible_facts": facts} if facts else {}
    return directives(files(role, {"worker": given}, **more)[path]["content"])


def test_processes_json_lists_types_in_the_settings_order(role: Any) -> None:
    processes = {
        "worker": {"command": "work", "count": "cores", "stop_timeout": 300},
        "beat": {"command": "beat", "strategy": "replace", "hosts": "first", "check": "ping"},
    }
    settings = json.loads(files(role, processes)["/etc/links/processes.json"]["content"])
    assert list(settings) == ["worker", "beat"]
    common = {"settle_seconds": 5}
    assert settings["worker"] == common | {
        "command": "exec work",
        "count": 2,
        "strategy": "overlap",
        "order": "before_web",
        "stop_timeout": 300,
        "check": "",
    }
    assert settings["beat"] == common | {
        "command": "exec beat",
        "count": 1,
        "strategy": "replace",
        "order": "after_web",
        "stop_timeout": 30,
        "check": "ping",
    }
    elsewhere = files(role, processes, app_service_first_host=False)
    assert json.loads(elsewhere["/etc/links/processes.json"]["content"])["beat"]["count"] == 0
    # the unit exists on every host
    assert "/etc/systemd/system/links-beat@.service" in elsewhere


def test_no_process_types_leave_no_file_and_no_units(role: Any) -> None:
    (only,) = files(role, {}).values()
    assert (only["path"], only["state"]) == ("/etc/links/processes.json", "absent")


def test_process_unit_matches_the_service_in_its_own_release(role: Any) -> None:
    web = directives(role.render(SERVICE, **GIVEN, __app_service_unit=role.value("__app_service_units", **GIVEN)[0]))
    worker = unit(role)
    assert worker["ExecStart"] == [
        "/opt/links/processes/worker-%i/venv/bin/python /opt/links/release-exec /opt/links/processes/worker-%i "
        '"exec celery -A links.jobs worker"'
    ]
    assert worker["EnvironmentFile"] == ["/etc/links/environment"]
    specific = {
        *("Description", "Requires", "After", "Sockets", "Type", "NotifyAccess", "Environment", "ExecStart"),
        *("ExecReload", "RestartSec", "TimeoutStartSec", "TimeoutStopSec", "LimitNICE", "ConditionPathExists"),
        *("StartLimitIntervalSec", "Restart", "MemoryMax"),
        "ReadWritePaths",  # the master's status
    }
    assert {key: value for key, value in web.items() if key not in specific} == {
        key: worker.get(key) for key in web.keys() - specific
    }
    assert not any("/current" in value for values in worker.values() for value in values)
    assert '"TZ=UTC"' in worker["Environment"]
    assert worker["Environment"][-1] == "PROCESS_INSTANCE=%i"
    assert worker["LoadCredential"] == ["TOKEN:/etc/links/secrets/TOKEN"]
    checks = unit(role, CHECK, check="celery inspect ping")
    for key in ("User", "LoadCredential", "SystemCallFilter", "EnvironmentFile", "Environment"):
        assert checks[key] == worker[key], key
    assert checks["ExecStart"][0].endswith('/opt/links/processes/worker-%i "celery inspect ping"')


@pytest.mark.parametrize(("version", "backs_off"), [("12", False), ("13", True)])
def test_restarts_are_limited_and_back_off_where_systemd_can(role: Any, version: str, backs_off: bool) -> None:
    facts = {"distribution": "Debian", "distribution_major_version": version, "processor_vcpus": 2, "memtotal_mb": 4096}
    found = unit(role, facts=facts)
    assert found["Restart"] == ["always"]
    assert ("RestartSteps" in found) is backs_off
    interval, burst = (int(found[key][0]) for key in ("StartLimitIntervalSec", "StartLimitBurst"))
    # a process that always ends at once is restarted for about 20 minutes, less than the limit's interval
    delays = [1, 2, 4, 8, 16, 32, *[60] * 200] if backs_off else [15] * 200
    assert 900 < sum(delays[:burst]) < 1500 < interval


def test_process_type_settings_override_the_unit_directives(role: Any) -> None:
    worker = {"command": "work", "stop_signal": "QUIT", "stop_timeout": 7200, "memory_max": "1G"}
    given = {"app_service_directives": {"TimeoutStopSec": 5, "MemoryMax": "9G"}, "app_service_memory_max": "4G"}
    found = directives(files(role, {"worker": worker}, **given)[UNIT]["content"])
    assert found["TimeoutStopSec"][-1] == "7200"
    assert found["MemoryMax"] == ["85%", "9G", "1G"]
    assert found["KillSignal"] == found["SuccessExitStatus"] == ["SIGQUIT"]


def test_unit_without_a_limit_of_its_own_cannot_use_all_of_the_hosts_memory(role: Any) -> None:
    """Nor does the limit that the operator chose for web apply to the other units."""
    more = {"app_service_migration_command": "migrate", "app_service_memory_max": "300M"}
    migration = directives(role.render("etc/systemd/system/app-migration@.service.j2", **GIVEN, **more))
    written = files(role, {"worker": {"command": "work", "check": "ping"}}, **more)
    for found in (migration, *(directives(written[name]["content"]) for name in (UNIT, CHECK))):
        assert found["MemoryMax"] == [f"{workers.SHARE:.0%}"]
    assert unit(role, memory_max="infinity")["MemoryMax"][-1] == "infinity"


def test_command_and_environment_pass_through_systemd_unchanged(role: Any) -> None:
    """How systemd reads the line: `%%` and `$$` stand for one character each, and backslashes escape within quotes."""
    command = r"""printf '%s|' "$HOME \ é" 'a"b'"""
    environment = {"QUEUE": 'a "b" $c 100%', "TWICE": True}
    (line,) = unit(role, command=command, environment=environment)["ExecStart"]
    words = re.findall(r'"((?:[^"\\]|\\.)*)"|(\S+)', line)
    read = [re.sub(r"\\(.)", r"\1", quoted or bare).replace("%%", "%").replace("$$", "$") for quoted, bare in words]
    assert read[:3] == ["/usr/bin/env", 'QUEUE=a "b" $c 100%', "TWICE=true"]
    assert read[-1] == f"exec {command}"


@pytest.mark.parametrize("command", ["sleep 60", "sleep 60 >> /dev/null 2>&1", "true && A=1 exec sleep 60"])
def test_command_itself_receives_the_stop_signal(role: Any, command: str) -> None:
    """If a shell received it, systemd would kill the command as soon as the shell ends (`KillMode=mixed`)."""
    found = unit(role, command=command)
    assert found["KillMode"] == ["mixed"]
    (line,) = found["ExecStart"]
    with subprocess.Popen(["/bin/sh", "-c", line.rpartition(' "')[2].rstrip('"')]) as process:
        words = pathlib.Path(f"/proc/{process.pid}/cmdline")
        deadline = time.monotonic() + 30
        while words.read_bytes() != b"sleep\x0060\x00" and time.monotonic() < deadline:
            time.sleep(0.05)
        read = words.read_bytes()
        process.kill()
    assert read == b"sleep\x0060\x00"


def test_process_knows_its_release_after_its_link_is_removed(role: Any, tmp_path: pathlib.Path) -> None:
    release = tmp_path / "releases/abc"
    (release / "src").mkdir(parents=True)
    (release / "server").symlink_to(PROJECT / "handover/src")
    metadata = {"id": "abc", "working_directory": "src", "import_paths": ["src/lib"]}
    (release / "release.json").write_text(json.dumps(metadata))
    link = tmp_path / "worker-1-1"
    link.symlink_to(release)
    command = f'rm {link}; pwd; echo "$PATH"; echo "$PYTHONPATH"; echo "$VIRTUAL_ENV"; echo "$RELEASE_ID"'
    runs = [sys.executable, str(role.path / "files/release-exec"), str(link), command]
    done = subprocess.run(runs, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        f"{release}/src",
        f"{release}/venv/bin:/usr/local/bin:/usr/bin:/bin",
        f"{release}/src/lib",
        f"{release}/venv",
        "abc",
    ]


@pytest.mark.parametrize("version", ["12", "13"])
def test_systemd_accepts_the_units(role: Any, tmp_path: pathlib.Path, version: str) -> None:
    facts = {"distribution": "Debian", "distribution_major_version": version, "processor_vcpus": 2, "memtotal_mb": 4096}
    worker = {"command": 'work "$X" 5%', "check": "ping", "memory_max": "25%", "environment": {"A": "b c"}}
    paths = []
    for name, one in files(role, {"worker": worker}, ansible_facts=facts).items():
        if name.endswith(".service"):
            # the release's programs don't exist here
            text = one["content"].replace("/opt/links/processes/worker-%i/venv/bin/python", "/bin/true")
            path = tmp_path / pathlib.PurePath(name).name.replace("@", "@1-1")
            path.write_text(text.replace("User=links", "User=root").replace("Group=links", "Group=root"))
            paths.append(str(path))
    assert len(paths) == 2
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *paths], capture_output=True, text=True, check=False
    )
    warnings = [line for line in done.stderr.splitlines() if "links-" in line]
    # this machine's systemd may be older and ignores newer directives
    assert [line for line in warnings if not re.search("RestartSteps|RestartMaxDelaySec", line)] == []


@pytest.mark.parametrize(
    ("processes", "words"),
    [
        (["worker"], 'app_processes is ["worker"]. Give a mapping'),
        ("worker", "Give a mapping"),
        ({"web": {"command": "x"}}, "app_processes.web: Baton uses the name web itself"),
        ({"rehearsal": {"command": "x"}}, "Baton uses the name rehearsal itself"),
        ({"check": {"command": "x"}}, "Baton uses the name check itself"),
        ({"Worker": {"command": "x"}}, 'a process type called "Worker"'),
        ({"my-worker": {"command": "x"}}, "lower-case letters, digits"),
        ({"a" * 33: {"command": "x"}}, "at most 32"),
        ({1: {"command": "x"}}, "a process type called 1"),
        ({"mailer": {"command": "x"}}, "the host has a unit links-mailer@.service that Baton didn't write"),
        ({"bot": {"command": "x"}}, "the host has a unit links-bot-check@.service"),
        ({"worker": None}, "app_processes.worker is null. Give a mapping"),
        ({"worker": {}}, "app_processes.worker.command is missing or empty"),
        ({"worker": {"command": "  \n"}}, "app_processes.worker.command is missing or empty"),
        ({"worker": {"command": "a\nb"}}, "app_processes.worker.command is "),
        ({"worker": {"command": "cd jobs && work"}}, "Write `exec` before the command"),
        ({"worker": {"command": "work | tee log"}}, "Write `exec` before the command"),
        ({"worker": {"command": "work & wait"}}, "Write `exec` before the command"),
        ({"worker": {"command": "(work)"}}, "Write `exec` before the command"),
        ({"worker": {"command": "while true; do work; done"}}, "Write `exec` before the command"),
        ({"worker": {"command": "QUEUE=a work"}}, "Set it in `environment` of the process type"),
        ({"worker": {"command": "work 'a"}}, "a quote isn't closed"),
        ({"worker": {"command": ["a", "b"]}}, "Give one line of text"),
        (
            {"worker": {"command": "x", "chekc": "y"}},
            "app_processes.worker.chekc is not a setting of a process type. Did you mean check?",
        ),
        ({"worker": {"command": "x", "strategy": "rolling"}}, '.strategy is "rolling". Give overlap or replace.'),
        ({"worker": {"command": "x", "order": "first"}}, '.order is "first". Give before_web or after_web.'),
        ({"worker": {"command": "x", "hosts": ["app1"]}}, '.hosts is ["app1"]. Give all or first.'),
        ({"worker": {"command": "x", "stop_signal": "KILL"}}, '.stop_signal is "KILL". Give TERM, INT, QUIT'),
        *(
            ({"worker": {"command": "x", "count": count}}, "worker.count is ")
            for count in (0, -1, "two", 1.5, True, None, "0", "Cores", 1001, 999999999)
        ),
        *(
            ({"worker": {"command": "x", key: value}}, f"worker.{key} is ")
            for key in ("stop_timeout", "settle_seconds")
            for value in (0, -5, "5min", 2.5, True, None, 604801)
        ),
        *(
            ({"worker": {"command": "x", "database_connections": value}}, "worker.database_connections is ")
            for value in (-1, "pool", 1.5, True, False, None)
        ),
        *(
            ({"worker": {"command": "x", "memory_max": value}}, "worker.memory_max is ")
            for value in (
                "lots",
                "1GB",
                "-1",
                "0",
                "2 G",
                "512m",
                True,
                "1G\n",
                0,
                10,
                "15M",
                "0%",
                "101%",
                "9.999%",
                "9E",
            )
        ),
        *(({"worker": {"command": "x", key: "# later"}}, f"worker.{key} is ") for key in ("command", "check")),
        ({"worker": {"command": "work a#b; log"}}, "the shell would get the stop signal"),
        ({"worker": {"command": "x", "check": "a\nb"}}, "worker.check is "),
        ({"worker": {"command": "x", "environment": ["A=b"]}}, "worker.environment is "),
        ({"worker": {"command": "x", "environment": {"PATH": "/x"}}}, "worker.environment.PATH can't be set"),
        ({"worker": {"command": "x", "environment": {"TOKEN": "x"}}}, "is also in app_config_secrets"),
        ({"worker": {"command": "x", "environment": {"A": "a\x1b"}}}, "worker.environment.A is not a text of one line"),
        ({"worker": {"command": "x\x1b[2J"}}, "worker.command is "),
        ({"worker": {"command": "x", "environment": {"A B": "x"}}}, "not a valid variable name"),
        ({"worker": {"command": "x", "environment": {"A": "x\ny"}}}, "not a text of one line"),
        ({"worker": {"command": "x", "environment": {"A": 1.1}}}, "a decimal number"),
        ({"worker": {"command": "x", "environment": {"A": None}}}, "not a text of one line"),
    ],
    ids=str,
)
def test_preflight_names_the_setting_and_the_fix(role: Any, processes: Any, words: str) -> None:
    facts = {
        **role.templar().available_variables["ansible_facts"],
        "app_foreign_units": ["links-mailer@.service", "links-bot-check@.service"],
    }
    (message,) = role.refusals(**{**GIVEN, "app_processes": processes, "ansible_facts": facts})
    assert message.startswith("edge1: ")
    assert words in message


def test_preflight_reports_each_fault(role: Any) -> None:
    worker = {"command": "", "count": 0, "strategy": "both"}
    messages = role.refusals(**{**GIVEN, "app_processes": {"worker": worker, "web": {}}})
    for words, message in zip(
        ("worker.command", "worker.count", "worker.strategy", "app_processes.web"), messages, strict=True
    ):
        assert message.startswith("edge1: ")
        assert words in message


@pytest.mark.parametrize(
    "worker",
    [
        {"command": "celery -A links.jobs worker\n", "count": "3", "memory_max": 1073741824},
        {"command": "x", "memory_max": "1.5G", "stop_timeout": 86400, "stop_signal": "QUIT", "check": "ping\n"},
        {"command": "x", "memory_max": "25%", "environment": {"OMP_NUM_THREADS": 1, "DEBUG": False}},
        {"command": "x", "count": "cores", "hosts": "first", "strategy": "replace", "order": "after_web"},
        {"command": "x", "memory_max": "infinity", "count": 1000},
        {"command": "work --queue a#b # for reports", "memory_max": "16M"},
        {"command": "''", "memory_max": "33.33%"},
        {"command": "work --name 'a; b && c' >> /tmp/log 2>&1"},
        {"command": "cd jobs && QUEUE=$(hostname) exec work"},
    ],
    ids=str,
)
def test_valid_process_types_are_accepted(role: Any, worker: dict[str, Any]) -> None:
    assert role.refusals(**{**GIVEN, "app_processes": {"worker": worker}}) == []
    assert UNIT in files(role, {"worker": worker})
