"""The service: how many workers a host gets, what Gunicorn reads, what the units say, what preflight refuses."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

PROJECT = pathlib.Path(__file__).parents[3]
CONFIGURATION = "etc/app/gunicorn.conf.py.j2"
UNIT = "etc/systemd/system/app.service.j2"
MIGRATION = "etc/systemd/system/app-migration@.service.j2"
REHEARSAL = "etc/systemd/system/app-rehearsal@.service.j2"
SCRATCH = "etc/systemd/system/app-rehearsal@.socket.j2"
APPLICATION = {"app_name": "links", "app_service_migration_command": "python -m links.migrate"}


def host(cores: int, megabytes: int) -> dict[str, Any]:
    return {"ansible_facts": {"processor_vcpus": cores, "memtotal_mb": megabytes, "service_mgr": "systemd"}}


@pytest.fixture
def render(load_role: Callable[[str], Any]) -> Callable[..., str]:
    def render(template: str, unit: int = 0, **given: Any) -> str:
        role = load_role("app_service")
        variables = {**APPLICATION, **given}
        units = role.value("__app_service_units", **variables)
        text: str = role.render(template, __app_service_unit=units[unit], **variables)
        return text

    return render


@pytest.fixture
def configuration(render: Callable[..., str], tmp_path: pathlib.Path) -> Callable[..., dict[str, Any]]:
    """What Gunicorn reads from the rendered file, beside a release and an environment."""

    def load(environment: str = "", **given: Any) -> dict[str, Any]:
        current = tmp_path / "current"
        current.mkdir()
        described = {
            "id": "abc",
            "module": "links.main:app",
            "working_directory": "src/services",
            "import_paths": ["src/lib"],
        }
        (current / "release.json").write_text(json.dumps(described))
        (tmp_path / "environment").write_text(environment)
        text = render(CONFIGURATION, **given)
        text = text.replace("/opt/links/current", str(current)).replace("/etc/links", str(tmp_path))
        (tmp_path / "gunicorn.conf.py").write_text(text)
        show = (
            "import json, runpy, sys; found = runpy.run_path(sys.argv[1]); "
            "print(json.dumps({key: value for key, value in found.items() if isinstance(value, (str, int, list))}))"
        )
        done = subprocess.run(
            [sys.executable, "-c", show, str(tmp_path / "gunicorn.conf.py")],
            env={**os.environ, "PYTHONPATH": str(PROJECT / "handover/src")},
            text=True,
            capture_output=True,
            check=True,
        )
        settings: dict[str, Any] = json.loads(done.stdout)
        return settings

    return load


@pytest.mark.parametrize(
    ("cores", "megabytes", "settings", "workers"),
    [
        (2, 8192, {}, 5),
        (2, 8192, {"app_service_workload": "cpu"}, 2),
        # 1 GiB has room for two workers of 200 MiB and as many new ones, and a small host for one at least
        (4, 1024, {}, 2),
        (4, 2048, {}, 4),
        (2, 4096, {}, 5),
        (4, 200, {}, 1),
        (16, 4096, {"app_service_worker_memory_mb": 300, "app_service_memory_percent": 30}, 4),
        (4, 1024, {"app_service_workload": "cpu", "app_service_worker_memory_mb": 700}, 1),
        # a number that is given is taken as it is
        (4, 1024, {"app_service_workers": 12}, 12),
    ],
)
def test_the_number_of_workers_follows_from_the_host(
    configuration: Callable[..., dict[str, Any]], cores: int, megabytes: int, settings: dict[str, Any], workers: int
) -> None:
    assert configuration(**host(cores, megabytes), **settings)["workers"] == workers


@pytest.mark.parametrize("settings", [{}, {"app_service_workers": 12}], ids=str)
def test_the_environment_has_the_last_word_on_the_number_of_workers(
    configuration: Callable[..., dict[str, Any]], settings: dict[str, Any]
) -> None:
    assert configuration('WEB_CONCURRENCY="7"\n', **settings)["workers"] == 7


def test_what_a_release_needs_comes_from_the_release(
    configuration: Callable[..., dict[str, Any]], tmp_path: pathlib.Path
) -> None:
    settings = configuration('GREETING="it costs \\$5"\n')
    assert settings["wsgi_app"] == "links.main:app"
    assert settings["chdir"] == f"{tmp_path}/current/src/services"
    programs = f"PATH={tmp_path}/current/venv/bin:/usr/local/bin:/usr/bin:/bin"
    assert settings["raw_env"] == ["GREETING=it costs $5", "RELEASE_ID=abc", programs]


def test_every_setting_of_gunicorn_arrives(configuration: Callable[..., dict[str, Any]]) -> None:
    wanted = {
        "timeout": 41,
        "graceful_timeout": 42,
        "keepalive": 43,
        "backlog": 44,
        "max_requests": 45,
        "max_requests_jitter": 46,
    }
    settings = configuration(**{f"app_service_{name}": value for name, value in wanted.items()})
    assert {name: settings[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, ([], 10, False)),
        ({"app_service_health_path": "/readyz"}, (["/readyz"], 10, False)),
        ({"app_service_health_path": "/readyz", "app_service_warmup_paths": []}, ([], 10, False)),
        ({"app_service_timeout": 4, "app_service_warmup_paths": ['/a"b']}, (['/a"b'], 2, False)),
        ({"app_service_warmup_required": True, "app_service_warmup_timeout": 3}, ([], 3, True)),
    ],
    ids=str,
)
def test_workers_warm_up_by_the_health_page_unless_told_otherwise(
    configuration: Callable[..., dict[str, Any]], given: dict[str, Any], wanted: tuple[list[str], int, bool]
) -> None:
    settings = configuration(app_service_health_host="links.example", **given)
    found = tuple(settings[f"handover_warmup_{name}"] for name in ("paths", "timeout", "required"))
    assert found == wanted
    assert settings["handover_warmup_host"] == "links.example"


def test_a_reload_has_time_for_the_boots_and_the_warmups(load_role: Callable[[str], Any]) -> None:
    role = load_role("app_service")
    given = {**APPLICATION, **host(2, 8192), "app_service_workers": 3}
    more = [
        int(role.value("__app_service_reload_timeout", **given, app_service_warmup_timeout=seconds))
        for seconds in (5, 15)
    ]
    assert more[1] - more[0] == 30


def test_workers_are_not_replaced_by_number_of_requests_unless_asked(
    configuration: Callable[..., dict[str, Any]],
) -> None:
    assert configuration()["max_requests"] == 0


@pytest.mark.parametrize(
    ("listen", "edges", "believed"),
    [("/run/links/web.sock", None, "*"), ("10.0.0.2:8000", ["10.0.0.1", "10.0.0.9"], "10.0.0.1,10.0.0.9")],
)
def test_forwarded_headers_are_believed_from_the_edge_alone(
    configuration: Callable[..., dict[str, Any]], listen: str, edges: list[str] | None, believed: str
) -> None:
    given = {} if edges is None else {"app_service_forwarded_allow_ips": edges}
    assert configuration(app_service_listen=listen, **given)["forwarded_allow_ips"] == believed


def test_the_bridge_differs_from_the_service_in_what_it_must_alone(render: Callable[..., str]) -> None:
    service, bridge = (set(render(UNIT, unit).splitlines()) for unit in (0, 1))
    assert service ^ bridge == {
        "Description=links",
        "Description=links while its service restarts",
        "Environment=GUNICORN_HANDOVER_STATUS=/run/baton/links/handover.json",
        "Environment=GUNICORN_HANDOVER_STATUS=/run/baton/links/bridge.json",
        *(line for line in service | bridge if line.startswith("ExecReload=")),
        "Restart=always",
        "Restart=no",
        "[Install]",
        "WantedBy=multi-user.target",
    }


@pytest.mark.parametrize(
    ("template", "release"), [(UNIT, "current"), (REHEARSAL, "releases/%i"), (MIGRATION, "releases/%i")]
)
def test_every_process_starts_with_the_same_variables(render: Callable[..., str], template: str, release: str) -> None:
    given = {"TZ": "Europe/Vienna", "PYTHONUTF8": 1, "MALLOC_CONF": 'a:"50%"\\'}
    lines = render(template, app_service_process_environment=given).splitlines()
    assert f"Environment=PATH=/opt/links/{release}/venv/bin:/usr/local/bin:/usr/bin:/bin" in lines
    for line in ('"TZ=Europe/Vienna"', '"PYTHONUTF8=1"', '"MALLOC_CONF=a:\\"50%%\\"\\\\"'):
        assert f"Environment={line}" in lines


@pytest.mark.parametrize(
    ("given", "lines"),
    [
        ({}, ["IPAddressDeny=169.254.0.0/16 fe80::a9fe:a9fe fd00:ec2::254 100.100.100.200 192.0.0.192"]),
        ({"app_service_denied_addresses": []}, []),
        (
            {"app_service_allowed_addresses": ["10.0.0.0/8"], "app_service_forwarded_allow_ips": ["10.1.0.1", "*"]},
            ["IPAddressDeny=any", "IPAddressAllow=localhost 10.0.0.0/8 10.1.0.1"],
        ),
    ],
)
def test_whom_the_application_can_talk_to(render: Callable[..., str], given: dict[str, Any], lines: list[str]) -> None:
    for unit in (UNIT, REHEARSAL, MIGRATION):
        assert [line for line in render(unit, **given).splitlines() if line.startswith("IPAddress")] == lines


def test_a_denied_name_server_is_told(load_role: Callable[[str], Any]) -> None:
    facts = {**host(2, 4096)["ansible_facts"], "nameservers": ["10.0.0.2", "169.254.169.254"]}
    given = {**APPLICATION, "ansible_facts": facts}
    (message,) = load_role("app_service").refusals(**given)
    assert "asks 169.254.169.254 for DNS" in message
    assert load_role("app_service").refusals(**given, app_service_denied_addresses=["fd00:ec2::254"]) == []


def test_libraries_may_read_what_the_kernel_says_of_the_host(render: Callable[..., str]) -> None:
    # psutil raises without /proc/meminfo and /proc/stat, and prometheus_client's metrics vanish
    assert "ProcSubset" not in render(UNIT)


def test_directives_of_the_operator_come_last_and_win(render: Callable[..., str]) -> None:
    given = {"ReadWritePaths": ["/srv/a", "/srv/b"], "PrivateDevices": False}
    service = render(UNIT, app_service_directives=given).partition("[Service]")[2].partition("[Install]")[0]
    lines = service.split()
    assert lines[-3:] == ["PrivateDevices=false", "ReadWritePaths=/srv/a", "ReadWritePaths=/srv/b"]


@pytest.mark.parametrize(
    "command",
    ["python -m links.migrate", """sh -c 'echo "$HOME" `id` 100% \\n $$'""", "set -e\n# first\nmake 'a b'\n"],
)
def test_systemd_hands_the_migration_command_on_as_it_was_written(render: Callable[..., str], command: str) -> None:
    text = render(MIGRATION, app_service_migration_command=command)
    (line,) = [line for line in text.splitlines() if line.startswith("ExecStart=")]
    word = line.split(" ", 3)[3]
    # what systemd does to a word in double quotes: its escapes, then specifiers and variables
    assert word[0] == word[-1] == '"'
    escapes = {"\\\\": "\\", '\\"': '"', "\\n": "\n", "%%": "%", "$$": "$"}
    read = re.sub(r"\\.|%%|\$\$", lambda match: escapes[match[0]], word[1:-1])
    assert read == command.strip()


def test_the_migration_has_secrets_of_its_own_in_place_of_the_application_s(render: Callable[..., str]) -> None:
    text = render(
        MIGRATION,
        app_service_credentials=["API_KEY", "DATABASE_URL"],
        app_service_migration_credentials=["DATABASE_URL"],
    )
    loaded = [line.partition("=")[2] for line in text.splitlines() if line.startswith("LoadCredential=")]
    assert loaded == [
        "API_KEY:/etc/links/secrets/API_KEY",
        "DATABASE_URL:/etc/links/migration-secrets/DATABASE_URL",
    ]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"app_service_listen": "8000", "app_service_forwarded_allow_ips": ["10.0.0.1"]}, "ADDRESS:PORT"),
        ({"app_service_listen": "10.0.0.2:8000"}, "List the edge's addresses"),
        ({"app_service_timeout": 0}, "must be above 0"),
        ({"app_service_denied_addresses": ["metadata.internal"]}, "metadata.internal, which is no address"),
        ({"app_service_allowed_addresses": ["10.0.0.0/8", "any"]}, "any, which is no address"),
        ({"app_service_worker_memory_mb": 0}, "must be above 0"),
        ({"app_service_memory_percent": 101}, "between 1 and 100"),
        ({"app_service_workers": -1}, "0 to size them from the host"),
        ({"app_service_rehearsal_timeout": 0}, "Give seconds, above 0"),
        ({"app_service_warmup_paths": ["/", "readyz", "/a b"]}, 'app_service_warmup_paths has "readyz", "/a b"'),
        ({"app_service_warmup_paths": ["/a\n"]}, "percent-encoded: /readyz"),
        ({"app_service_health_path": "readyz"}, 'app_service_warmup_paths has "readyz"'),
        ({"app_service_health_path": "/", "app_service_health_host": "a b"}, 'app_service_health_host is "a b"'),
        ({"app_service_warmup_timeout": 0}, "app_service_warmup_timeout is 0"),
        ({"app_service_warmup_timeout": 31}, "at most app_service_timeout (30)"),
    ],
    ids=str,
)
def test_preflight_refuses(load_role: Callable[[str], Any], wrong: dict[str, Any], words: str) -> None:
    role = load_role("app_service")
    given = {**APPLICATION, **host(2, 8192)}
    assert role.refusals(**given) == []
    (message,) = role.refusals(**{**given, **wrong})
    assert message.startswith("edge1: ")
    assert words in message


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (host(2, 256), "edge1: the host has 256 MiB of memory; 75 % of it is less than one worker needs"),
        (
            {"ansible_facts": {"processor_vcpus": 1, "memtotal_mb": 9999, "service_mgr": "openrc"}},
            "edge1: the host runs openrc",
        ),
    ],
    ids=["memory", "systemd"],
)
def test_a_host_that_can_not_carry_the_service_is_refused(
    load_role: Callable[[str], Any], facts: dict[str, Any], words: str
) -> None:
    messages = load_role("app_service").refusals(**APPLICATION, **facts)
    assert len(messages) == 1
    assert words in messages[0]


def service_section(text: str) -> dict[str, list[str]]:
    """The directives of a unit's [Service] section."""
    found: dict[str, list[str]] = {}
    for line in text.partition("[Service]")[2].partition("[Install]")[0].splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def test_a_rehearsal_differs_from_the_service_only_where_it_must(render: Callable[..., str]) -> None:
    given: dict[str, Any] = {
        "app_service_memory_max": "2G",
        "app_service_credentials": ["TOKEN"],
        "app_service_directives": {"ReadWritePaths": ["/srv/media"], "PrivateDevices": False},
    }
    service, rehearsal = (service_section(render(unit, **given)) for unit in (UNIT, REHEARSAL))
    # the status of the master that serves
    service["ReadWritePaths"].remove("-/run/baton/links")
    differing = {name for name in service.keys() | rehearsal.keys() if service.get(name) != rehearsal.get(name)}
    assert rehearsal["ReadOnlyPaths"] == ["-/run/baton/links"]
    own = {"Nice", "ReadOnlyPaths", "CPUWeight", "OOMScoreAdjust", "RuntimeMaxSec"}
    the_service_s_alone = {"Sockets", "ExecReload", "RestartSec", "OOMPolicy", "LimitNICE"}
    # a niceness; without the sign it is the raw limit, and 0 forbids a worker to come back from one
    assert service["LimitNICE"] == ["+0"]
    both = {"Environment", "ExecStart", "Restart", "TimeoutStartSec", "TimeoutStopSec"}
    assert differing == own | the_service_s_alone | both


def test_a_rehearsal_stays_one_whatever_the_operator_s_directives_say(render: Callable[..., str]) -> None:
    wishes = {"Restart": "always", "Nice": "-5", "RuntimeMaxSec": "infinity"}
    rehearsal = service_section(render(REHEARSAL, app_service_directives=wishes))
    assert [rehearsal[name][-1] for name in wishes] == ["no", "19", "60"]


def test_a_rehearsal_knows_neither_the_current_release_nor_the_service_s_status(render: Callable[..., str]) -> None:
    text = render(REHEARSAL)
    assert "/opt/links/releases/%i/venv/bin/python -m gunicorn_handover" in text
    assert "/current" not in text
    assert "GUNICORN_HANDOVER_STATUS" not in text


def test_nobody_but_root_and_the_user_can_connect_to_the_scratch_socket(render: Callable[..., str]) -> None:
    lines = render(SCRATCH).splitlines()
    assert {"SocketUser=links", "SocketMode=0600", "ListenStream=/run/links-rehearsal-%i.sock"} < set(lines)


def test_a_rehearsal_reads_the_settings_of_its_own_release(
    configuration: Callable[..., dict[str, Any]], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rehearsed = tmp_path / "releases/def/release.json"
    rehearsed.parent.mkdir(parents=True)
    about = {"id": "def", "module": "links.new:app", "working_directory": "src", "import_paths": []}
    rehearsed.write_text(json.dumps(about))
    monkeypatch.setenv("GUNICORN_HANDOVER_RELEASE_FILE", str(rehearsed))
    settings = configuration()
    assert (settings["wsgi_app"], settings["chdir"]) == ("links.new:app", f"{rehearsed.parent}/src")


def test_a_rehearsal_has_more_time_than_a_worker_to_boot(load_role: Callable[[str], Any]) -> None:
    assert int(load_role("app_service").value("app_service_rehearsal_timeout", app_service_boot_timeout=300)) > 300


def test_who_can_connect_to_the_socket_and_how_many_may_wait(render: Callable[..., str]) -> None:
    unit = "etc/systemd/system/app.socket.j2"
    lines = render(unit, app_service_listen="/run/links/web.sock", app_service_backlog=77).splitlines()
    assert {"SocketUser=links", "SocketMode=0660", "Backlog=77", "ListenStream=/run/links/web.sock"} < set(lines)
    (group,) = [line for line in lines if line.startswith("SocketGroup=")]
    assert group == "SocketGroup=www-data"
    tcp = render(unit, app_service_listen="10.0.0.5:8000").splitlines()
    assert "ListenStream=10.0.0.5:8000" in tcp
    assert "Backlog=2048" in tcp
    assert not any(line.startswith(("SocketMode=", "SocketUser=")) for line in tcp)
