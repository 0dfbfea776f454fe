"""Bad input: the message, and that no host was changed."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import testinfra

from tests.support.certificate import issue
from tests.support.wait import until

SCENARIO = pathlib.Path(__file__).parents[1]
PROJECT = SCENARIO.parents[1]
INVENTORY = SCENARIO / "inventory"
GOOD: dict[str, Any] = {
    "app_name": "links",
    "app_source": str(PROJECT / "app"),
    "app_module": "links.main:app",
    "nginx_site_server_names": ["links.baton.test"],
}
SCHEDULES = {"cleanup": {"command": "x", "calendar": "25:00"}, "report": {"command": "x", "calendar": "daily"}}
# similar to another case
LONG = pytest.mark.long
FINGERPRINT = (
    "(dpkg-query -W; getent passwd; systemctl list-unit-files --no-legend; "
    "find /etc /opt /srv /usr/local /var/lib/baton /var/cache/baton -xdev -printf '%p %s %T@\\n' 2>/dev/null) "
    "| sha256sum"
)


def host(name: str) -> Any:
    return testinfra.get_host(f"ansible://{name}", ansible_inventory=str(INVENTORY))


def fingerprints() -> list[str]:
    return [host(name).check_output(FINGERPRINT) for name in ("web1", "web2")]


def site(
    tmp_path: pathlib.Path,
    variables: dict[str, Any],
    *options: str,
    program: str = "ansible-playbook",
    playbook: str = "site.yml",
) -> subprocess.CompletedProcess[str]:
    (tmp_path / "variables.json").write_text(json.dumps(variables))
    environment = {**os.environ, "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "ANSIBLE_FORCE_COLOR": "0"}
    command = [program, "-i", str(INVENTORY), *options, "-e", f"@{tmp_path}/variables.json", playbook]
    return subprocess.run(command, text=True, capture_output=True, check=False, env=environment, cwd=PROJECT)


FOLDERS = ("/etc/systemd/system", "/opt", "/srv", "/usr/local/bin", "/var/lib/baton", "/var/cache/baton")


@pytest.fixture(scope="module", autouse=True)
def canaries() -> None:
    """Proves that the fingerprint notices a file in each of these folders, an account, and a unit."""
    changes = {f"touch {folder}/canary": f"rm {folder}/canary" for folder in FOLDERS}
    changes["useradd --system canary"] = "userdel canary"
    unit = "/etc/systemd/system/canary.service"
    changes[f"printf '[Service]\\nExecStart=/bin/true\\n' > {unit}; systemctl daemon-reload"] = f"rm {unit}"
    for name in ("web1", "web2"):
        host(name).check_output("mkdir -p /var/lib/baton /var/cache/baton")
        for change, undo in changes.items():
            before = host(name).check_output(FINGERPRINT)
            host(name).check_output(change)
            after = host(name).check_output(FINGERPRINT)
            host(name).check_output(f"{undo}; systemctl daemon-reload")
            assert after != before, change


@pytest.fixture
def untouched() -> Iterator[None]:
    before = fingerprints()
    yield
    assert fingerprints() == before


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode != 0, done.stdout
    output = " ".join((done.stdout + done.stderr).split())
    for word in words:
        assert word in output, done.stdout + done.stderr


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"app_module": None}, ["the inventory lacks app_module", "inventories/example"]),
        pytest.param(
            {"nginx_site_server_names": None},
            ["lacks nginx_site_server_names", "such as nginx_site_server_names: ["],
            marks=LONG,
        ),
        (
            {"app_service_helth_path": "/"},
            ["app_service_helth_path is not a setting", "Did you mean app_service_health_path?"],
        ),
        ({"app_service_workers": "many"}, ['app_service_workers is "many". Give a whole number from 0']),
        pytest.param(
            {"private_address": "fd00::21"},
            ['web1 has the private_address "fd00::21"', "isn't an IPv4 address"],
            marks=LONG,
        ),
        ({"app_name": "My App"}, ['web1, web2: app_name is "My App"', "lower-case letter"]),
        ({"app_account_user": "root"}, ['user "root"', "Choose another name"]),
        ({"app_config_environment": {"A": "1\n2"}}, ["the value of A", "more than one line", "make it a secret"]),
        pytest.param({"app_config_environment": {"A-B": "1"}}, ["not names of environment variables: A-B"], marks=LONG),
        (
            {"app_service_workers": 900, "app_service_worker_memory_mb": 100},
            ["web1: a change needs up to 180000 MiB", "900 workers of 100 MiB", "web2:", "Run fewer workers"],
        ),
        ({"app_service_memory_max": "2GB"}, ['web1, web2: app_service_memory_max is "2GB"', "512M, 2G or 85%"]),
        pytest.param(
            {"app_service_worker_memory_mb": 9999999},
            ["the host has", "MiB of memory", "Use a larger host"],
            marks=LONG,
        ),
        ({"preflight_minimum_disk_mb": 99999999}, ["/var has", "MiB are needed", "Free some space"]),
        ({"python_runtime_version": "three"}, ['"three"', "isn't a Python version", "leave it empty"]),
        ({"app_source": "/nowhere/at/all"}, ["/nowhere/at/all", "not a folder", "Correct the path"]),
        ({"app_release_allow_old_packages": ["starlet"]}, ["names starlet", "Name some of gunicorn, h11"]),
        ({"app_module": "links.mian:app"}, ["links.mian", "links.main"]),
        pytest.param({"app_migrations": "Blocking"}, ['app_migrations is "Blocking"', "expand"], marks=LONG),
        pytest.param({"deploy_batches": "[1, 2]"}, ["deploy_batches is", "Give a list"], marks=LONG),
        ({"deploy_batches": [0, "100%"]}, ["deploy_batches is", "Give a list"]),
        pytest.param({"deploy_bake_seconds": "ten"}, ["deploy_bake_seconds is ten and must be a"], marks=LONG),
        (
            {
                "app_processes": {
                    "web": {"command": "x"},
                    "worker": {"command": "work | log", "count": 0, "memory_max": "1GB"},
                }
            },
            [
                "web1, web2: app_processes.web: Baton uses the name web itself",
                "worker.command is",
                "worker.count is 0",
                "worker.memory_max is",
            ],
        ),
        (
            {"nginx_site_read_timeout": 0, "nginx_site_connect_timeout": "{{ 1 - 1 }}"},
            ["nginx_site_read_timeout is 0. Give a whole number from 1 to 604800"],
        ),
        # only the roles' checks evaluate the template
        ({"nginx_site_connect_timeout": "{{ 1 - 1 }}"}, ["nginx_site_connect_timeout is 0. Give a number from 1 to"]),
        (
            {"nginx_server_tls_groups": ["X25519", "P-257"], "nginx_server_tls_ciphers": ["NONSENSE"]},
            ["- web1, web2: nginx_server_tls_groups has P-257", "- web1, web2: nginx_server_tls_ciphers has NONSENSE"],
        ),
        (
            {
                "app_service_allowed_addresses": ["198.51.100.1"],
                "app_config_environment": {"REDIS_URL": "redis://198.51.100.2/0"},
            },
            [
                "for DNS, which isn't in app_service_allowed_addresses",
                "web1: REDIS_URL: 198.51.100.2 isn't in app_service_allowed_addresses",
            ],
        ),
        ({"host_firewall_ssh_port": 2222}, ["cut off this connection", "host_firewall_ssh_port"]),
        ({"nginx_site_trusted_proxies": ["0.0.0.0/0"]}, ["0.0.0.0/0", "nginx_site_trusted_proxies_any"]),
        pytest.param({"nginx_site_client_certificates": "required"}, ["nginx_site_client_ca_source"], marks=LONG),
        pytest.param(
            {"nginx_server_tls_profile": "paranoid"}, ["nginx_server_tls_profile", "intermediate, modern"], marks=LONG
        ),
        (
            {"tls_certificate_method": "acme", "nginx_site_server_names": ["*.baton.test"]},
            ["web1, web2: *.baton.test can't be validated with tls_certificate_acme_challenge http-01", "dns-01"],
        ),
        pytest.param(
            {"tls_certificate_method": "acme", "tls_certificate_acme_directory": "http://ca.baton.test"},
            ['web1, web2: tls_certificate_acme_directory is "http://ca.baton.test"', "such as https://"],
            marks=LONG,
        ),
        pytest.param(
            {"nginx_site_server_names": ["links.baton.test", f"{'a' * 64}.baton.test"]},
            [
                "nginx_site_server_names) has names",
                ".baton.test has a part of 64 characters between dots, more than 63",
            ],
            marks=LONG,
        ),
    ],
)
def test_invalid_setting_is_reported_with_fix(
    tmp_path: pathlib.Path, changed: dict[str, Any], words: list[str]
) -> None:
    variables = {name: value for name, value in (GOOD | changed).items() if value is not None}
    assert_refused(site(tmp_path, variables), *words)


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    "playbook", ["deploy", "rollback", *(pytest.param(name, marks=LONG) for name in ("configure", "restart"))]
)
def test_unprovisioned_hosts_are_reported(tmp_path: pathlib.Path, playbook: str) -> None:
    done = site(tmp_path, GOOD, playbook=f"playbooks/{playbook}.yml")
    for name in ("web1", "web2"):
        assert_refused(
            done, f"{name} has not been set up for links yet. Run site.yml first, or exclude the host with --limit"
        )


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("playbook", "changed", "words"),
    [
        ("rollback", {"rolback_to": "0123456789abcdef"}, ["rolback_to is not a setting", "Did you mean rollback_to?"]),
        pytest.param("upgrade_system", {"upgrade_rebot": False}, ["Did you mean upgrade_reboot?"], marks=LONG),
        ("reboot", {"reboot_confirm": "yess"}, ['reboot_confirm is "yess". Set it to true or false']),
        pytest.param("exec", {"command": "true", "exec_host": "all"}, ["Did you mean exec_hosts?"], marks=LONG),
        pytest.param("unlock", {"unlock_forced": True}, ["Did you mean unlock_force?"], marks=LONG),
        pytest.param("history", {"history_line": 5}, ["Did you mean history_lines?"], marks=LONG),
    ],
)
def test_misspelled_variable_is_reported_by_every_playbook(
    tmp_path: pathlib.Path, playbook: str, changed: dict[str, Any], words: list[str]
) -> None:
    assert_refused(site(tmp_path, GOOD | changed, playbook=f"playbooks/{playbook}.yml"), *words)


@pytest.mark.usefixtures("untouched")
def test_wrong_calendar_is_reported_by_every_change(tmp_path: pathlib.Path) -> None:
    """Only the hosts can tell: their systemd parses it."""
    done = site(tmp_path, GOOD | {"app_schedules": SCHEDULES}, playbook="playbooks/configure.yml")
    assert_refused(done, 'app_schedules.cleanup.calendar is "25:00", which systemd doesn\'t accept', "systemd.time(7)")
    assert "app_schedules.report" not in done.stdout


@pytest.mark.usefixtures("untouched")
def test_too_many_database_connections_are_refused(tmp_path: pathlib.Path) -> None:
    database = tmp_path / "database.yml"
    database.write_text("postgresql_servers: {hosts: {web2: }}\n")
    settings = {"app_service_workers": 8, "app_database_connections": 5}
    done = site(tmp_path, GOOD | settings, "-i", str(database))
    assert_refused(done, "web2: links may open 160 connections", "2 x 8 workers with 5 each", "max_connections: 100")
    # known from the settings alone: no host was contacted
    assert "Gather the facts" not in done.stdout


@pytest.mark.usefixtures("untouched")
def test_missing_git_ref_is_reported(tmp_path: pathlib.Path) -> None:
    repository = tmp_path / "repository"
    subprocess.run(["git", "init", "-q", "-b", "main", str(repository)], check=True)
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "-C", str(repository), *identity, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    done = site(tmp_path, GOOD | {"app_source": f"file://{repository}", "app_version": "v9"})
    assert_refused(done, "no branch, tag or commit 'v9'", "Correct app_version")


@pytest.mark.usefixtures("untouched")
def test_unsupported_python_is_reported(tmp_path: pathlib.Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "pyproject.toml").write_text('[project]\nname = "x"\nversion = "1"\nrequires-python = ">=3.99"\n')
    (project / "main.py").write_text("app = None\n")
    done = site(tmp_path, GOOD | {"app_source": str(project), "app_module": "main:app"})
    assert_refused(done, "3.99", "3.11")


@pytest.mark.usefixtures("untouched")
def test_lock_with_old_package_is_refused(tmp_path: pathlib.Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "requirements.txt").write_text("starlette==0.47.3\n")
    (project / "main.py").write_text("app = None\n")
    done = site(tmp_path, GOOD | {"app_source": str(project), "app_module": "main:app"})
    assert_refused(done, "requirements.txt (read on the controller) has starlette 0.47.3", "Lock starlette>=1.3.1")
    assert "Reach every host" not in done.stdout


@pytest.mark.usefixtures("untouched")
def test_unreachable_host_is_reported_with_address(tmp_path: pathlib.Path) -> None:
    ghost = tmp_path / "ghost.yml"
    ghost.write_text("app_servers: {hosts: {ghost: {ansible_host: 127.0.0.1, ansible_port: 1}}}\n")
    assert_refused(site(tmp_path, GOOD, "-i", str(ghost)), "ghost (127.0.0.1:1", "can't be reached", "ssh", "--limit")


def test_port_in_use_is_reported(tmp_path: pathlib.Path) -> None:
    web2 = host("web2")
    web2.check_output("systemd-run -q --collect --unit=squatter python3 -m http.server 443")
    until(lambda: web2.check_output("ss -Hltn 'sport = :443'"), "the port isn't taken")
    before = fingerprints()
    try:
        done = site(tmp_path, GOOD)
        assert fingerprints() == before
    finally:
        web2.check_output("systemctl stop squatter.service")
    needed = "web2: port 443, which nginx (nginx_server_https_port, nginx_site_https_port) needs, is in use by "
    assert_refused(done, f"{needed}squatter.service", "`systemctl disable --now squatter.service`")


def test_unsupported_system_is_refused(tmp_path: pathlib.Path) -> None:
    web1 = host("web1")
    web1.check_output("cp -L /etc/os-release /run/os-release.good; readlink -f /etc/os-release > /run/os-release.path")
    web1.check_output(
        "sed -i 's/^ID=.*/ID=debian/; s/VERSION_ID=.*/VERSION_ID=\"10\"/; s/12 (bookworm)/10 (buster)/' "
        "$(readlink -f /etc/os-release); cp /etc/debian_version /run/; echo 10.13 > /etc/debian_version"
    )
    before = fingerprints()
    try:
        done = site(tmp_path, GOOD)
        assert fingerprints() == before
    finally:
        web1.check_output(
            "cat /run/os-release.good > $(cat /run/os-release.path); cat /run/debian_version > /etc/debian_version"
        )
    assert_refused(done, "web1 runs Debian 10", "Debian 12, Debian 13")


def provided(tmp_path: pathlib.Path, names: list[str], days: int, other_key: bool = False) -> dict[str, str]:
    """Settings for a provided certificate that is generated here."""
    certificate, key = issue(*names, common_name=names[0], start=-90, end=days)
    pem, private = tmp_path / "chain.pem", tmp_path / "key.pem"
    pem.write_text(certificate)
    private.write_text(issue().key if other_key else key)
    return {
        "tls_certificate_method": "provided",
        "tls_certificate_certificate_source": str(pem),
        "tls_certificate_private_key_source": str(private),
    }


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("names", "days", "other_key", "words"),
    [
        (["other.example"], 30, False, ["links.baton.test"]),
        pytest.param(["links.baton.test"], -1, False, ["Provide one that is valid"], marks=LONG),
        (["links.baton.test"], 30, True, ["key"]),
    ],
)
def test_invalid_certificate_is_refused(
    tmp_path: pathlib.Path, names: list[str], days: int, other_key: bool, words: list[str]
) -> None:
    assert_refused(site(tmp_path, GOOD | provided(tmp_path, names, days, other_key)), "web1", *words)


@pytest.mark.usefixtures("untouched")
def test_unrelated_mistakes_are_reported_together(tmp_path: pathlib.Path) -> None:
    ghost = tmp_path / "ghost.yml"
    ghost.write_text("app_servers: {hosts: {ghost: {ansible_host: 127.0.0.1, ansible_port: 1}}}\n")
    certificate = provided(tmp_path, ["other.example"], 30, other_key=True)
    # first what the controller knows by itself
    wrong = {"app_service_memory_max": "2GB", "nginx_server_large_client_header_buffers": "1 1"}
    known = site(tmp_path, GOOD | certificate | wrong, "-i", str(ghost))
    assert_refused(
        known,
        "problems. Nothing has been changed.",
        '- ghost, web1, web2: app_service_memory_max is "2GB"',
        '- ghost, web1, web2: nginx_server_large_client_header_buffers is "1 1"',
        "- ghost, web1, web2: the private key of links doesn't belong to its certificate",
        "covers DNS:other.example, but not DNS:links.baton.test",
    )
    assert "Reach every host" not in known.stdout
    of_hosts: dict[str, Any] = {
        "preflight_minimum_disk_mb": 99999999,
        "nginx_server_tls_ciphers": ["NONSENSE"],
        "app_schedules": SCHEDULES,
    }
    asked = site(tmp_path, GOOD | of_hosts, "-i", str(ghost))
    assert_refused(
        asked,
        "problems. Nothing has been changed.",
        "- ghost (127.0.0.1:1",
        '- web1, web2: app_schedules.cleanup.calendar is "25:00"',
        "- web1, web2: nginx_server_tls_ciphers has NONSENSE",
        "web1: /var has",
    )
    for done in (known, asked):
        assert done.stdout.count("failed: ") == 1
        assert "Task failed" not in done.stdout


@pytest.mark.usefixtures("untouched")
def test_missing_collections_are_reported(tmp_path: pathlib.Path) -> None:
    bare = tmp_path / "bare"
    uv = str(pathlib.Path(sys.executable).with_name("uv"))
    core = next(
        line.split()[0] for line in (PROJECT / "requirements.txt").read_text().splitlines() if "ansible-core==" in line
    )
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, str(bare)], check=True)
    subprocess.run([uv, "pip", "install", "-q", "--python", str(bare / "bin/python"), core], check=True)
    done = site(tmp_path, GOOD, program=str(bare / "bin/ansible-playbook"))
    with contextlib.suppress(OSError):
        (tmp_path / "variables.json").unlink()
    assert_refused(done, "This controller can't deploy", "community.crypto", "make setup")


@pytest.mark.usefixtures("untouched")
def test_failing_sudo_ends_run_before_changes(tmp_path: pathlib.Path) -> None:
    sudo = "sh -c 'echo sudo: sorry, you must have a tty to run sudo >&2; exit 1' --"
    mine = "{{ %s if inventory_hostname == 'web1' else 'sudo' }}"
    done = site(tmp_path, {**GOOD, "ansible_become_exe": mine % json.dumps(sudo)})
    assert_refused(
        done, "web1 (127.0.0.1:22211, user deploy) was reached, but can't be managed", "requiretty", "--limit"
    )
    assert "Build" not in done.stdout


@pytest.mark.usefixtures("untouched")
def test_unknown_host_key_is_reported_with_fix(tmp_path: pathlib.Path) -> None:
    strict = "-o StrictHostKeyChecking=yes -o UserKnownHostsFile=/dev/null -o ControlPath=none"
    mine = "{{ %s if inventory_hostname == 'web1' else %s }}"
    other = strict.replace("=yes", "=no") + " -o LogLevel=ERROR"
    done = site(tmp_path, {**GOOD, "ansible_ssh_common_args": mine % (json.dumps(strict), json.dumps(other))})
    assert_refused(
        done,
        "web1 (127.0.0.1:22211, user deploy) can't be reached",
        "Host key verification failed",
        "ssh-keyscan -p 22211 127.0.0.1",
        "known_hosts",
    )


@pytest.fixture
def taken() -> Iterator[None]:
    """A user `alice` on web1, and a folder and unit of another service."""
    web1 = host("web1")
    web1.check_output(
        "useradd --create-home --shell /bin/bash --comment 'Alice of sales' alice && mkdir /opt/reports && "
        "printf '[Service]\\nExecStart=/bin/true\\n' > /etc/systemd/system/reports.service"
    )
    yield
    web1.check_output("userdel --remove alice; rm -r /opt/reports /etc/systemd/system/reports.service")


@pytest.mark.usefixtures("taken", "untouched")
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"app_account_user": "alice"}, ["web1: user alice exists with the home /home/alice", "app_account_adopt"]),
        ({"app_name": "reports"}, ["web1: /opt/reports exists", "web1: reports.service is a unit"]),
        ({"app_name": "systemd-timesyncd"}, ["belongs to the system or to another service"]),
        pytest.param({"app_account_user": "sudo"}, ["belongs to the system"], marks=LONG),
        pytest.param({"app_name": "cron"}, ["belongs to the system or to another service"], marks=LONG),
    ],
    ids=lambda value: next(iter(value.values())) if isinstance(value, dict) else "",
)
def test_foreign_users_and_units_are_not_taken_over(
    tmp_path: pathlib.Path, changed: dict[str, Any], words: list[str]
) -> None:
    assert_refused(site(tmp_path, {**GOOD, **changed}), *words)
