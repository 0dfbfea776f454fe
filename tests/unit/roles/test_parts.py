"""The parts of the roles that run on a host, depending on settings and on results of earlier tasks."""

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
# check mode on a host without the packages, where parts that need them are skipped
FRESH = {"ansible_check_mode": True}
LACKING = {"changed": True}


def due(role: Any, tasks: list[dict[str, Any]], templar: Any) -> Iterator[dict[str, Any]]:
    """The tasks whose conditions hold."""
    for task in tasks:
        conditions = task.get("when", [])
        listed = conditions if isinstance(conditions, list) else [conditions]
        if all(templar.evaluate_conditional(trust_as_template(str(condition))) for condition in listed):
            yield from due(role, task["block"], templar) if "block" in task else [task]


@pytest.fixture
def find_due(load_role: Callable[[str], Any]) -> Callable[..., list[dict[str, Any]]]:
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
            ("host_baseline", {f"host_baseline_{part}": False}, [other for other in BASELINE if other != part])
            for part in BASELINE[2:]
        ),
        ("host_baseline", {**FRESH, "__host_baseline_installed": LACKING}, [*INSTALL, "journal", "kernel"]),
        ("host_firewall", {"host_firewall_enabled": True, "__host_firewall_pending": False}, RUNNING),
        ("host_firewall", {"host_firewall_enabled": True, "__host_firewall_pending": True}, INSTALL),
        ("host_firewall", {"host_firewall_enabled": False, "__host_firewall_pending": False}, ["preflight"]),
        ("host_sshd", {"host_sshd_enabled": True}, ["preflight", "configure"]),
        ("host_sshd", {"host_sshd_enabled": False}, ["preflight"]),
        ("nginx_server", {"nginx_server_session_tickets": False}, [*RUNNING, "tickets_absent"]),
        # the keys are created before the configuration that uses them
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
        # a running renewal, which could link to its certificate again, ends first
        ("tls_certificate", {}, [CERTIFICATE[0], "acme_absent", *CERTIFICATE[1:]]),
        # self-signed until the authority's certificate has been obtained
        ("tls_certificate", link("/etc/ssl/baton/links-self-signed"), [*CERTIFICATE, "acme_present"]),
        ("tls_certificate", link("/etc/ssl/baton/links-20260101"), ["preflight", "acme_present"]),
        ("app_service", {}, ["preflight", "configure", "service"]),
        ("app_config", {}, ["preflight", "configure"]),
    ],
)
def test_settings_select_the_parts_of_a_role(
    find_due: Callable[..., list[dict[str, Any]]], role: str, given: dict[str, Any], parts: list[str]
) -> None:
    included = [task[key] for task in find_due(role, "main", **given) for key in PARTS if key in task]
    names = [name.replace("{{ __tls_certificate_at_once }}", "self_signed").removesuffix(".yml") for name in included]
    assert names == parts


def states(tasks: list[dict[str, Any]]) -> list[str]:
    """The states that the tasks set on units."""
    arguments = [task.get("ansible.builtin.systemd_service", {}) for task in tasks]
    return [given["state"] for given in arguments if "state" in given]


def newer(role: str, rc: int, stdout: str = "") -> dict[str, Any]:
    """The result of the search for files newer than the service's start."""
    return {f"__{role}_newer": {"rc": rc, "stdout": stdout}}


@pytest.mark.parametrize(
    ("role", "given", "expected"),
    [
        ("nginx_server", {"__nginx_server_confinement": {"stdout": "x"}}, ["started"]),
        # still without its sandbox
        ("nginx_server", {"__nginx_server_confinement": {"stdout": ""}}, ["started", "restarted"]),
        ("redis_server", {**newer("redis_server", 0), "__redis_server_compared": {}}, ["started"]),
        ("redis_server", {**newer("redis_server", 1), "__redis_server_compared": {}}, ["started"]),
        ("redis_server", {**newer("redis_server", 0, "x"), "__redis_server_compared": {}}, ["started", "restarted"]),
    ],
)
def test_service_is_restarted_if_needed(
    find_due: Callable[..., list[dict[str, Any]]], role: str, given: dict[str, Any], expected: list[str]
) -> None:
    assert states(find_due(role, "service", **given)) == expected


@pytest.mark.parametrize(("status", "loaded"), [(0, 0), (3, 1)])
def test_redis_loads_a_new_certificate(find_due: Callable[..., list[dict[str, Any]]], status: int, loaded: int) -> None:
    given = {**newer("redis_server", 0), "__redis_server_compared": {"rc": status}, "redis_server_tls": "required"}
    assert sum("ansible.builtin.shell" in task for task in find_due("redis_server", "service", **given)) == loaded


@pytest.mark.parametrize(("adopted", "created"), [([], ["group", "user"]), (["user links"], [])])
def test_adopted_account_is_not_changed(
    find_due: Callable[..., list[dict[str, Any]]], adopted: list[str], created: list[str]
) -> None:
    tasks = find_due("app_account", "main", app_account_adopt=adopted)
    assert [name for task in tasks for name in ("group", "user") if f"ansible.builtin.{name}" in task] == created


@pytest.mark.parametrize(
    ("activates", "rehearsal", "restarts", "expected"),
    [
        (True, True, False, True),
        (True, False, True, True),
        (False, True, False, True),
        # a release that is only restarted was rehearsed when it was activated
        (False, True, True, False),
        (False, False, False, False),
    ],
)
def test_host_of_a_later_batch_is_activated_or_rehearsed(
    find_due: Callable[..., list[dict[str, Any]]], activates: bool, rehearsal: bool, restarts: bool, expected: bool
) -> None:
    given = {
        "app_service_activates": activates,
        "app_service_rehearsal": rehearsal,
        "app_service_restart_workers": restarts,
    }
    assert bool(find_due("app_service", "activate", **given)) is expected


@pytest.mark.parametrize(
    ("command", "host", "runs"), [("migrate", "app1", True), ("migrate", "app2", False), ("", "app1", False)]
)
def test_migration_runs_on_the_first_host(
    find_due: Callable[..., list[dict[str, Any]]], command: str, host: str, runs: bool
) -> None:
    given = {"ansible_play_hosts": ["app1", "app2"], "inventory_hostname": host}
    assert bool(find_due("app_service", "migrate", app_service_migration_command=command, **given)) is runs


def test_units_are_enabled_if_they_exist(find_due: Callable[..., list[dict[str, Any]]]) -> None:
    for check, changed, expected in ((False, True, 1), (True, False, 1), (True, True, 0)):
        given = {"ansible_check_mode": check, "__app_service_files": {"changed": changed}}
        assert len(find_due("app_service", "service", **given)) == expected


def all_tasks(tasks: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The tasks, including those in blocks."""
    for task in tasks:
        yield task
        yield from all_tasks(task.get("block", []) + task.get("rescue", []) + task.get("always", []))


def test_started_units_are_also_enabled(load_role: Callable[[str], Any]) -> None:
    role = load_role("host_baseline")
    started = [
        (path.parent.parent.name, task["name"], task["ansible.builtin.systemd_service"].get("enabled"))
        for path in sorted(role.path.parent.glob("*/tasks/*.yml"))
        for task in all_tasks(load_role(path.parent.parent.name).load(f"tasks/{path.name}") or [])
        if task.get("ansible.builtin.systemd_service", {}).get("state") == "started"
    ]
    assert len(started) > 5
    assert [name for *name, enabled in started if enabled is not True] == []
