"""The service: number of workers, Gunicorn's configuration, the units, and what preflight refuses."""

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

from tests.support.unit_file import service_section

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
    """The settings that Gunicorn reads from the rendered file, with a release and an environment."""

    def load(environment: str = "", **given: Any) -> dict[str, Any]:
        current = tmp_path / "current"
        current.mkdir()
        metadata = {
            "id": "abc",
            "module": "links.main:app",
            "working_directory": "src/services",
            "import_paths": ["src/lib"],
        }
        (current / "release.json").write_text(json.dumps(metadata))
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
        # 1 GiB suffices for two workers of 200 MiB and their two successors; a small host gets at least one worker
        (4, 1024, {}, 2),
        (4, 2048, {}, 4),
        (2, 4096, {}, 5),
        (4, 200, {}, 1),
        (16, 4096, {"app_service_worker_memory_mb": 300, "app_service_memory_percent": 30}, 4),
        (4, 1024, {"app_service_workload": "cpu", "app_service_worker_memory_mb": 700}, 1),
        # an explicit number is used unchanged
        (4, 1024, {"app_service_workers": 12}, 12),
    ],
)
def test_worker_count_follows_the_hosts_resources(
    configuration: Callable[..., dict[str, Any]], cores: int, megabytes: int, settings: dict[str, Any], workers: int
) -> None:
    assert configuration(**host(cores, megabytes), **settings)["workers"] == workers


@pytest.mark.parametrize("settings", [{}, {"app_service_workers": 12}], ids=str)
def test_web_concurrency_overrides_the_worker_count(
    configuration: Callable[..., dict[str, Any]], settings: dict[str, Any]
) -> None:
    assert configuration('WEB_CONCURRENCY="7"\n', **settings)["workers"] == 7


def test_application_settings_come_from_the_release(
    configuration: Callable[..., dict[str, Any]], tmp_path: pathlib.Path
) -> None:
    settings = configuration('GREETING="it costs \\$5"\n')
    assert settings["wsgi_app"] == "links.main:app"
    assert settings["chdir"] == f"{tmp_path}/current/src/services"
    programs = f"PATH={tmp_path}/current/venv/bin:/usr/local/bin:/usr/bin:/bin"
    assert settings["raw_env"] == ["GREETING=it costs $5", "RELEASE_ID=abc", programs]


def test_gunicorn_settings_are_rendered(configuration: Callable[..., dict[str, Any]]) -> None:
    expected = {
        "timeout": 41,
        "graceful_timeout": 42,
        "keepalive": 43,
        "backlog": 44,
        "limit_request_fields": 47,
        "max_requests": 45,
        "max_requests_jitter": 46,
    }
    settings = configuration(**{f"app_service_{name}": value for name, value in expected.items()})
    assert {name: settings[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ([], 10, False)),
        ({"app_service_health_path": "/readyz"}, (["/readyz"], 10, False)),
        ({"app_service_health_path": "/readyz", "app_service_warmup_paths": []}, ([], 10, False)),
        ({"app_service_timeout": 4, "app_service_warmup_paths": ['/a"b']}, (['/a"b'], 2, False)),
        ({"app_service_warmup_required": True, "app_service_warmup_timeout": 3}, ([], 3, True)),
    ],
    ids=str,
)
def test_warmup_requests_the_health_page_by_default(
    configuration: Callable[..., dict[str, Any]], given: dict[str, Any], expected: tuple[list[str], int, bool]
) -> None:
    settings = configuration(app_service_health_host="links.example", **given)
    found = tuple(settings[f"handover_warmup_{name}"] for name in ("paths", "timeout", "required"))
    assert found == expected
    assert settings["handover_warmup_host"] == "links.example"


def test_reload_timeout_covers_boots_and_warmups(load_role: Callable[[str], Any]) -> None:
    role = load_role("app_service")
    given = {**APPLICATION, **host(2, 8192), "app_service_workers": 3}
    timeouts = [
        int(role.value("__app_service_reload_timeout", **given, app_service_warmup_timeout=seconds))
        for seconds in (5, 15)
    ]
    assert timeouts[1] - timeouts[0] == 30


def test_max_requests_is_off_by_default(
    configuration: Callable[..., dict[str, Any]],
) -> None:
    assert configuration()["max_requests"] == 0


@pytest.mark.parametrize(
    ("listen", "edges", "trusted"),
    [("/run/links/web.sock", None, "*"), ("10.0.0.2:8000", ["10.0.0.1", "10.0.0.9"], "10.0.0.1,10.0.0.9")],
)
def test_forwarded_headers_are_trusted_only_from_the_edge(
    configuration: Callable[..., dict[str, Any]], listen: str, edges: list[str] | None, trusted: str
) -> None:
    given = {} if edges is None else {"app_service_forwarded_allow_ips": edges}
    assert configuration(app_service_listen=listen, **given)["forwarded_allow_ips"] == trusted


def test_bridge_unit_differs_from_the_service_only_where_required(render: Callable[..., str]) -> None:
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
def test_process_environment_is_in_every_unit(render: Callable[..., str], template: str, release: str) -> None:
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
            ["IPAddressDeny=any", "IPAddressAllow=localhost", "IPAddressAllow=10.0.0.0/8 10.1.0.1"],
        ),
    ],
)
def test_address_filter_of_the_units(render: Callable[..., str], given: dict[str, Any], lines: list[str]) -> None:
    for unit in (UNIT, REHEARSAL, MIGRATION):
        assert [line for line in render(unit, **given).splitlines() if line.startswith("IPAddress")] == lines


def test_denied_name_server_is_reported(load_role: Callable[[str], Any]) -> None:
    facts = {**host(2, 4096)["ansible_facts"], "nameservers": ["10.0.0.2", "169.254.169.254"]}
    given = {**APPLICATION, "ansible_facts": facts}
    (message,) = load_role("app_service").refusals(**given)
    assert "asks 169.254.169.254 for DNS" in message
    assert load_role("app_service").refusals(**given, app_service_denied_addresses=["fd00:ec2::254"]) == []


def test_name_server_outside_of_the_allowed_addresses_is_reported(load_role: Callable[[str], Any]) -> None:
    facts = {**host(2, 4096)["ansible_facts"], "nameservers": ["127.0.0.53", "10.0.0.2", "::1", "fe80::1%eth0"]}
    given = {**APPLICATION, "ansible_facts": facts, "app_service_denied_addresses": ["10.0.0.0/8"]}
    (message,) = load_role("app_service").refusals(**given, app_service_allowed_addresses=["10.1.0.0/16"])
    assert "asks 10.0.0.2, fe80::1%eth0 for DNS, which isn't in app_service_allowed_addresses" in message
    assert "Add it to that setting" in message
    allowed = {"app_service_allowed_addresses": ["10.0.0.2", "fe80::/10"]}
    assert load_role("app_service").refusals(**given, **allowed) == []
    # the units also allow the edges
    edges = {"app_service_allowed_addresses": ["fe80::/10"], "app_service_forwarded_allow_ips": ["10.0.0.2", "*"]}
    assert load_role("app_service").refusals(**given, **edges) == []


def test_units_do_not_hide_proc_subset(render: Callable[..., str]) -> None:
    # psutil fails without /proc/meminfo and /proc/stat, and prometheus_client's metrics disappear
    assert "ProcSubset" not in render(UNIT)


def test_operator_directives_come_last(render: Callable[..., str]) -> None:
    given = {"ReadWritePaths": ["/srv/a", "/srv/b"], "PrivateDevices": False}
    service = render(UNIT, app_service_directives=given).partition("[Service]")[2].partition("[Install]")[0]
    lines = service.split()
    assert lines[-3:] == ["PrivateDevices=false", "ReadWritePaths=/srv/a", "ReadWritePaths=/srv/b"]


@pytest.mark.parametrize(
    "command",
    ["python -m links.migrate", """sh -c 'echo "$HOME" `id` 100% \\n $$'""", "set -e\n# first\nmake 'a b'\n"],
)
def test_migration_command_passes_through_systemd_unchanged(render: Callable[..., str], command: str) -> None:
    text = render(MIGRATION, app_service_migration_command=command)
    (line,) = [line for line in text.splitlines() if line.startswith("ExecStart=")]
    word = line.split(" ", 3)[3]
    # how systemd reads a quoted word: escapes first, then specifiers and variables
    assert word[0] == word[-1] == '"'
    escapes = {"\\\\": "\\", '\\"': '"', "\\n": "\n", "%%": "%", "$$": "$"}
    read = re.sub(r"\\.|%%|\$\$", lambda match: escapes[match[0]], word[1:-1])
    assert read == command.strip()


def test_migration_secrets_replace_those_of_the_application(render: Callable[..., str]) -> None:
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
    ("changed", "words"),
    [
        ({"app_service_listen": "8000", "app_service_forwarded_allow_ips": ["10.0.0.1"]}, "ADDRESS:PORT"),
        ({"app_service_listen": "10.0.0.2:8000"}, "List the edge's addresses"),
        ({"app_service_timeout": 0}, "app_service_timeout is 0. Give a number from 1"),
        ({"app_service_keepalive": 0}, "app_service_keepalive is 0. Give a number from 1"),
        # a template, which only the role evaluates
        ({"app_service_boot_timeout": "{{ 0 }}"}, "app_service_boot_timeout is 0."),
        ({"app_service_denied_addresses": ["metadata.internal"]}, "metadata.internal, which is no address"),
        ({"app_service_denied_addresses": ["169.254.0.0/16", "10.0.0.300"]}, "10.0.0.300, which is no address"),
        ({"app_service_allowed_addresses": ["10.0.0.0/8", "any"]}, "any, which is no address"),
        ({"app_service_worker_memory_mb": 0}, "app_service_worker_memory_mb is 0. Give a number from 1"),
        ({"app_service_memory_percent": 101}, "app_service_memory_percent is 101. Give a number from 1 to 100."),
        ({"app_service_workers": -1}, "app_service_workers is -1. Give a number from 0"),
        ({"app_service_rehearsal_timeout": 0}, "app_service_rehearsal_timeout is 0. Give a number from 1"),
        ({"app_service_memory_max": "512"}, 'app_service_memory_max is "512". Give a value'),
        ({"app_service_memory_max": "2GB"}, 'app_service_memory_max is "2GB". Give a value'),
        ({"app_service_warmup_paths": ["/", "readyz", "/a b"]}, 'app_service_warmup_paths has "readyz", "/a b"'),
        ({"app_service_warmup_paths": ["/a\n"]}, "percent-encoded: /readyz"),
        ({"app_service_health_path": "readyz"}, 'app_service_health_path is "readyz", which isn\'t a path'),
        ({"app_service_health_path": "readyz", "app_service_warmup_paths": []}, 'app_service_health_path is "readyz"'),
        ({"app_service_health_path": "/", "app_service_health_host": "a b"}, 'app_service_health_host is "a b"'),
        ({"app_service_warmup_timeout": 0}, "app_service_warmup_timeout is 0"),
        ({"app_service_warmup_timeout": 31}, "at most app_service_timeout (30)"),
    ],
    ids=str,
)
def test_preflight_refuses(load_role: Callable[[str], Any], changed: dict[str, Any], words: str) -> None:
    role = load_role("app_service")
    given = {**APPLICATION, **host(2, 8192)}
    assert role.refusals(**given) == []
    messages = role.refusals(**{**given, **changed})
    (message,) = (message for message in messages if words in message)
    assert message.startswith("edge1: ")


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
def test_unsuitable_host_is_refused(load_role: Callable[[str], Any], facts: dict[str, Any], words: str) -> None:
    messages = load_role("app_service").refusals(**APPLICATION, **facts)
    assert len(messages) == 1
    assert words in messages[0]


def test_rehearsal_unit_differs_from_the_service_only_where_required(render: Callable[..., str]) -> None:
    given: dict[str, Any] = {
        "app_service_memory_max": "2G",
        "app_service_credentials": ["TOKEN"],
        "app_service_directives": {"ReadWritePaths": ["/srv/media"], "PrivateDevices": False},
    }
    service, rehearsal = (service_section(render(unit, **given)) for unit in (UNIT, REHEARSAL))
    # the status of the serving master
    service["ReadWritePaths"].remove("-/run/baton/links")
    differing = {name for name in service.keys() | rehearsal.keys() if service.get(name) != rehearsal.get(name)}
    assert rehearsal["ReadOnlyPaths"] == ["-/run/baton/links"]
    rehearsal_only = {"Nice", "ReadOnlyPaths", "CPUWeight", "OOMScoreAdjust", "RuntimeMaxSec"}
    service_only = {"Sockets", "ExecReload", "RestartSec", "OOMPolicy", "LimitNICE"}
    # the + makes it a nice value; without it, it is the raw limit, and 0 would forbid a worker to raise its priority
    assert service["LimitNICE"] == ["+0"]
    both = {"Environment", "ExecStart", "Restart", "TimeoutStartSec", "TimeoutStopSec"}
    assert differing == rehearsal_only | service_only | both


def test_operator_directives_do_not_change_what_makes_a_rehearsal(render: Callable[..., str]) -> None:
    directives = {"Restart": "always", "Nice": "-5", "RuntimeMaxSec": "infinity"}
    rehearsal = service_section(render(REHEARSAL, app_service_directives=directives))
    assert [rehearsal[name][-1] for name in directives] == ["no", "19", "60"]


def test_rehearsal_unit_uses_neither_current_release_nor_service_status(render: Callable[..., str]) -> None:
    text = render(REHEARSAL)
    assert "/opt/links/releases/%i/venv/bin/python -m gunicorn_handover" in text
    assert "/current" not in text
    assert "GUNICORN_HANDOVER_STATUS" not in text


def test_scratch_socket_is_only_for_root_and_the_user(render: Callable[..., str]) -> None:
    lines = render(SCRATCH).splitlines()
    assert {"SocketUser=links", "SocketMode=0600", "ListenStream=/run/links-rehearsal-%i.sock"} < set(lines)


def test_rehearsal_reads_its_own_releases_settings(
    configuration: Callable[..., dict[str, Any]], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rehearsed = tmp_path / "releases/def/release.json"
    rehearsed.parent.mkdir(parents=True)
    metadata = {"id": "def", "module": "links.new:app", "working_directory": "src", "import_paths": []}
    rehearsed.write_text(json.dumps(metadata))
    monkeypatch.setenv("GUNICORN_HANDOVER_RELEASE_FILE", str(rehearsed))
    settings = configuration()
    assert (settings["wsgi_app"], settings["chdir"]) == ("links.new:app", f"{rehearsed.parent}/src")


def test_rehearsal_timeout_exceeds_the_boot_timeout(load_role: Callable[[str], Any]) -> None:
    assert int(load_role("app_service").value("app_service_rehearsal_timeout", app_service_boot_timeout=300)) > 300


def test_socket_permissions_and_backlog(render: Callable[..., str]) -> None:
    unit = "etc/systemd/system/app.socket.j2"
    lines = render(unit, app_service_listen="/run/links/web.sock", app_service_backlog=77).splitlines()
    assert {"SocketUser=links", "SocketMode=0660", "Backlog=77", "ListenStream=/run/links/web.sock"} < set(lines)
    (group,) = [line for line in lines if line.startswith("SocketGroup=")]
    assert group == "SocketGroup=www-data"
    tcp = render(unit, app_service_listen="10.0.0.5:8000").splitlines()
    assert "ListenStream=10.0.0.5:8000" in tcp
    assert "Backlog=2048" in tcp
    assert not any(line.startswith(("SocketMode=", "SocketUser=")) for line in tcp)
