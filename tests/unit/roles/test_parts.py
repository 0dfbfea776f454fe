"""Which parts of a role a host gets, by its settings and by what was found there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ansible.template import trust_as_template

PARTS = ("ansible.builtin.import_tasks", "ansible.builtin.include_tasks")
GIVEN: dict[str, Any] = {
    "app_name": "links",
    "nginx_site_name": "links",
    "nginx_site_server_names": ["links.example.org"],
    "nginx_site_certificate": "/a.pem",
    "nginx_site_certificate_key": "/b.pem",
    "nginx_site_upstreams": ["unix:/run/links/web.sock"],
    "redis_server_name": "links",
    "tls_certificate_name": "links",
    "tls_certificate_names": ["links.example.org"],
}
# a check mode run on a host that lacks the packages, where nothing that needs them can be looked at
FRESH = {"ansible_check_mode": True}
LACKING = {"changed": True}


def due(role: Any, tasks: list[dict[str, Any]], templar: Any) -> Iterator[dict[str, Any]]:
    for task in tasks:
        conditions = task.get("when", [])
        listed = conditions if isinstance(conditions, list) else [conditions]
        if all(templar.evaluate_conditional(trust_as_template(str(one))) for one in listed):
            yield from due(role, task["block"], templar) if "block" in task else [task]


@pytest.fixture
def found(load_role: Callable[[str], Any]) -> Callable[..., list[dict[str, Any]]]:
    def find(name: str, file: str, **given: Any) -> list[dict[str, Any]]:
        role = load_role(name)
        return list(due(role, role.load(f"tasks/{file}.yml"), role.templar(**GIVEN, **given)))

    return find


BASELINE = ["preflight", "install", "time_sync", "journal", "kernel", "security_updates"]
INSTALL = ["preflight", "install"]
RUNNING = [*INSTALL, "configure", "service"]
CERTIFICATE = ["preflight", "method_self_signed", "activate"]


def link(target: str) -> dict[str, Any]:
    return {"tls_certificate_method": "acme", "__tls_certificate_serves": {"stat": {"lnk_source": target}}}


@pytest.mark.parametrize(
    ("role", "given", "parts"),
    [
        ("host_baseline", {}, BASELINE),
        *(
            ("host_baseline", {f"host_baseline_{part}": False}, [one for one in BASELINE if one != part])
            for part in BASELINE[2:]
        ),
        ("host_baseline", {**FRESH, "__host_baseline_installed": LACKING}, [*INSTALL, "journal", "kernel"]),
        ("host_firewall", {"host_firewall_enabled": True, "__host_firewall_pending": False}, RUNNING),
        ("host_firewall", {"host_firewall_enabled": True, "__host_firewall_pending": True}, INSTALL),
        ("host_firewall", {"host_firewall_enabled": False, "__host_firewall_pending": False}, ["preflight"]),
        ("host_sshd", {"host_sshd_enabled": True}, ["preflight", "configure"]),
        ("host_sshd", {"host_sshd_enabled": False}, ["preflight"]),
        ("nginx_server", {"nginx_server_session_tickets": False}, [*RUNNING, "tickets_absent"]),
        # the keys are there before nginx is told to read them
        (
            "nginx_server",
            {"nginx_server_session_tickets": True},
            ["preflight", "install", "tickets_present", "configure", "service"],
        ),
        ("nginx_server", {**FRESH, "__nginx_server_packages": LACKING}, INSTALL),
        ("redis_server", {}, RUNNING),
        ("redis_server", {**FRESH, "__redis_server_packages": LACKING}, INSTALL),
        ("postgresql_server", {}, [*RUNNING, "databases"]),
        ("postgresql_server", {**FRESH, "__postgresql_server_packages": LACKING}, INSTALL),
        ("python_runtime", {"__python_runtime_managed": False}, ["preflight", "uv"]),
        ("python_runtime", {"__python_runtime_managed": True}, ["preflight", "uv", "managed_python"]),
        ("tls_certificate", {}, [*CERTIFICATE, "acme_absent"]),
        # until the authority's certificate is there, one of our own
        ("tls_certificate", link("/etc/ssl/baton/links-self-signed"), [*CERTIFICATE, "acme_present"]),
        ("tls_certificate", link("/etc/ssl/baton/links-20260101"), ["preflight", "acme_present"]),
        ("app_service", {}, ["preflight", "configure", "service"]),
        ("app_config", {}, ["preflight", "configure"]),
    ],
)
def test_role_does_what_its_settings_say(
    found: Callable[..., list[dict[str, Any]]], role: str, given: dict[str, Any], parts: list[str]
) -> None:
    included = [task[key] for task in found(role, "main", **given) for key in PARTS if key in task]
    names = [name.replace("{{ __tls_certificate_at_once }}", "self_signed").removesuffix(".yml") for name in included]
    assert names == parts


def verbs(tasks: list[dict[str, Any]]) -> list[str]:
    """What is done to units."""
    told = [task.get("ansible.builtin.systemd_service", {}) for task in tasks]
    return [one["state"] for one in told if "state" in one]


def newer(role: str, rc: int, stdout: str = "") -> dict[str, Any]:
    return {f"__{role}_newer": {"rc": rc, "stdout": stdout}}


@pytest.mark.parametrize(
    ("role", "given", "done"),
    [
        ("nginx_site", newer("nginx_site", 0), []),
        ("nginx_site", newer("nginx_site", 0, "/etc/nginx/sites-enabled/links.conf"), ["reloaded"]),
        ("nginx_site", newer("nginx_site", 1), ["reloaded"]),
        ("nginx_server", {**newer("nginx_server", 0), "__nginx_server_confinement": {"stdout": "x"}}, ["started"]),
        (
            "nginx_server",
            {**newer("nginx_server", 0, "/etc/nginx/nginx.conf"), "__nginx_server_confinement": {"stdout": "x"}},
            ["started", "reloaded"],
        ),
        # it has no site yet, and runs without its sandbox
        (
            "nginx_server",
            {**newer("nginx_server", 0), "__nginx_server_confinement": {"stdout": ""}},
            ["started", "restarted"],
        ),
        ("redis_server", {**newer("redis_server", 0), "__redis_server_compared": {}}, ["started"]),
        ("redis_server", {**newer("redis_server", 1), "__redis_server_compared": {}}, ["started"]),
        ("redis_server", {**newer("redis_server", 0, "x"), "__redis_server_compared": {}}, ["started", "restarted"]),
    ],
)
def test_service_is_restarted_or_reloaded_for_what_it_has_not_read(
    found: Callable[..., list[dict[str, Any]]], role: str, given: dict[str, Any], done: list[str]
) -> None:
    assert verbs(found(role, "service", **given)) == done


@pytest.mark.parametrize(("status", "loaded"), [(0, 0), (3, 1)])
def test_redis_loads_a_certificate_that_it_does_not_serve(
    found: Callable[..., list[dict[str, Any]]], status: int, loaded: int
) -> None:
    given = {**newer("redis_server", 0), "__redis_server_compared": {"rc": status}, "redis_server_tls": "required"}
    assert sum("ansible.builtin.shell" in task for task in found("redis_server", "service", **given)) == loaded


@pytest.mark.parametrize(("adopted", "made"), [([], ["group", "user"]), (["user links"], [])])
def test_account_that_is_adopted_stays_as_it_is(
    found: Callable[..., list[dict[str, Any]]], adopted: list[str], made: list[str]
) -> None:
    tasks = found("app_account", "main", app_account_adopt=adopted)
    assert [name for task in tasks for name in ("group", "user") if f"ansible.builtin.{name}" in task] == made


@pytest.mark.parametrize(
    ("activates", "rehearsal", "renews", "asked"),
    [
        (True, True, False, True),
        (True, False, True, True),
        (False, True, False, True),
        # what is only to be restarted was proven when it was activated
        (False, True, True, False),
        (False, False, False, False),
    ],
)
def test_host_of_a_later_batch_is_rehearsed_where_that_is_wanted(
    found: Callable[..., list[dict[str, Any]]], activates: bool, rehearsal: bool, renews: bool, asked: bool
) -> None:
    given = {"app_service_activates": activates, "app_service_rehearsal": rehearsal, "app_service_renew": renews}
    assert bool(found("app_service", "activate", **given)) is asked


@pytest.mark.parametrize(
    ("command", "host", "runs"), [("migrate", "app1", True), ("migrate", "app2", False), ("", "app1", False)]
)
def test_migration_runs_on_the_first_host(
    found: Callable[..., list[dict[str, Any]]], command: str, host: str, runs: bool
) -> None:
    given = {"ansible_play_hosts": ["app1", "app2"], "inventory_hostname": host}
    assert bool(found("app_service", "migrate", app_service_migration_command=command, **given)) is runs


def test_units_are_enabled_where_they_are_there(found: Callable[..., list[dict[str, Any]]]) -> None:
    for check, changed, wanted in ((False, True, 1), (True, False, 1), (True, True, 0)):
        given = {"ansible_check_mode": check, "__app_service_files": {"changed": changed}}
        assert len(found("app_service", "service", **given)) == wanted


def every(tasks: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for task in tasks:
        yield task
        yield from every(task.get("block", []) + task.get("rescue", []) + task.get("always", []))


def test_whatever_is_started_is_started_at_boot_too(load_role: Callable[[str], Any]) -> None:
    role = load_role("host_baseline")
    started = [
        (path.parent.parent.name, task["name"], task["ansible.builtin.systemd_service"].get("enabled"))
        for path in sorted(role.path.parent.glob("*/tasks/*.yml"))
        for task in every(load_role(path.parent.parent.name).load(f"tasks/{path.name}") or [])
        if task.get("ansible.builtin.systemd_service", {}).get("state") == "started"
    ]
    assert len(started) > 5
    assert [name for *name, enabled in started if enabled is not True] == []
