"""The memory and database connections that two generations need, and the messages about them."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import pytest
import yaml
from ansible_collections.baton.web.plugins.filter import capacity, settings
from ansible_collections.baton.web.plugins.module_utils.app import workers

PROJECT = pathlib.Path(__file__).resolve().parents[4]
FACTS = {"processor_vcpus": 2, "memtotal_mb": 4096}


def fleet(*, database: dict[str, Any] | None = None, hosts: int = 1, **settings: Any) -> list[str]:
    app = {"app_name": "links", "ansible_facts": FACTS, **settings}
    servers = {f"app{number}": app for number in range(1, hosts + 1)}
    found: list[str] = capacity.problems(
        {**servers, "data1": {"app_name": "links", **(database or {})}}, [*servers], ["data1"] if database else []
    )
    return found


def worker(**more: Any) -> dict[str, Any]:
    return {"worker": {"command": "work", **more}}


def running(count: int, limit: int = 100) -> dict[str, Any]:
    facts = {"postgresql_max_connections": count}
    return {"ansible_facts": facts, "postgresql_server_max_connections": limit}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"app_service_workers": 8},
        # sized from the host, so they fit
        {"app_service_worker_memory_mb": 1700},
        {"app_service_workers": 8, "app_processes": worker(strategy="replace", memory_max="896M")},
        {"app_service_workers": 8, "app_processes": worker(memory_max="infinity")},
        # the default limit is no need
        {"app_service_workers": 8, "app_processes": worker()},
        # nothing is known about the host
        {"app_service_workers": 800, "ansible_facts": {}},
        # invalid settings are reported by other checks
        {"app_processes": {"web": {}}, "app_schedules": "none"},
        {"app_service_worker_memory_mb": "many"},
    ],
    ids=str,
)
def test_sufficient_capacity_causes_no_message(settings: dict[str, Any]) -> None:
    assert fleet(**settings) == []


def test_memory_of_two_generations_is_reported_with_figures_and_fixes() -> None:
    (message,) = fleet(app_service_workers=4, app_service_worker_memory_mb=600)
    assert message.startswith(
        "app1: a change needs up to 4800 MiB of memory: 4 workers of 600 MiB (app_service_worker_memory_mb), twice "
        "during a handover. The host has 4096 MiB, of which the workers may use 3481 "
        "(app_service_memory_max). Run fewer workers (app_service_workers: 2), "
    )
    assert message.endswith(
        "or use a larger host. Two generations of workers run during each change: neither app_service_rehearsal: false "
        "nor deploy_drain makes it need less."
    )
    assert len(fleet(hosts=3, app_service_workers=4, app_service_worker_memory_mb=600)) == 3


@pytest.mark.parametrize(
    ("given", "fixes"),
    [
        # the host's memory
        (
            {"app_processes": worker(memory_max="600M")},
            "set strategy: replace for worker (app_processes), whose old processes then end first, "
            "lower the count or memory_max of worker, ",
        ),
        ({"app_processes": worker(memory_max="1G", strategy="replace")}, "lower the count or memory_max of worker, "),
        # the limit of the workers, to which the other types don't matter
        ({"app_service_memory_max": "70%"}, "raise app_service_memory_max, "),
        ({"app_service_workers": 20, "app_processes": worker(memory_max="600M")}, ""),
    ],
)
def test_memory_message_has_only_fixes_that_help(given: dict[str, Any], fixes: str) -> None:
    (message,) = fleet(**{"app_service_workers": 8, **given})
    beginning, _, end = message.partition("(playbooks/status.yml shows it), ")
    assert "Run fewer workers" in beginning
    assert end.startswith(f"{fixes}or use a larger host.")


@pytest.mark.parametrize(
    ("process", "words"),
    [
        ({"memory_max": "897M", "strategy": "replace"}, "1 worker processes of 897 MiB (its memory_max)"),
        ({"memory_max": "5.5%", "count": "cores"}, "4 worker processes of 225 MiB (its memory_max)"),
        ({"memory_max": 1073741824}, "2 worker processes of 1024 MiB (its memory_max)"),
    ],
)
def test_background_processes_with_a_memory_limit_count(process: dict[str, Any], words: str) -> None:
    (message,) = fleet(app_service_workers=8, app_processes=worker(**process))
    assert words in message


def test_process_of_one_host_counts_only_there() -> None:
    (message,) = fleet(hosts=2, app_service_workers=8, app_processes=worker(hosts="first", memory_max="1G"))
    assert message.startswith("app1: ")


def test_host_too_small_for_two_workers_gets_no_advice_on_their_number() -> None:
    (message,) = fleet(app_service_worker_memory_mb=2100)
    assert "up to 4200 MiB" in message
    assert "app_service_workers" not in message


def test_explicit_memory_limit_is_not_checked() -> None:
    settings: dict[str, Any] = {"app_service_workers": 9, "app_service_worker_memory_mb": 200}
    assert len(fleet(**settings)) == 1
    for limit in ("", "600M", "95%"):
        assert fleet(app_service_memory_max=limit, **settings) == []


def test_default_memory_limit_matches_the_worker_formula() -> None:
    default = settings.argument_specs()["app_service"]["argument_specs"]["main"]["options"]["app_service_memory_max"]
    assert default["default"] == f"{workers.SHARE:.0%}"


def test_web_concurrency_determines_the_workers_that_count() -> None:
    (message,) = fleet(app_config_environment={"WEB_CONCURRENCY": 30})
    assert "30 workers of 200 MiB" in message


def test_connections_of_two_generations_are_reported_with_figures_and_fixes() -> None:
    settings: dict[str, Any] = {
        "hosts": 2,
        "app_service_workers": 4,
        "app_database_connections": 5,
        "app_processes": worker(count=2, database_connections=2, hosts="first"),
        "app_schedules": {"nightly": {"command": "x", "calendar": "daily"}},
    }
    (message,) = fleet(database={"postgresql_server_max_connections": 91}, **settings)
    assert message == (
        "data1: links may open 89 connections to PostgreSQL during a change: 2 x 4 workers with 5 "
        "each (app_database_connections) on app1, app2; 4 worker processes with 2 each (its database_connections) on "
        "app1; 1 of scheduled commands on app1. The server allows 88 (postgresql_server_max_connections: 91, 3 of them "
        "reserved for superusers). Raise postgresql_server_max_connections to 92 (site.yml restarts it), lower the "
        "application's pools and app_database_connections, or run fewer workers (app_service_workers) or processes "
        "(app_processes)."
    )
    assert fleet(database={"postgresql_server_max_connections": 92}, **settings) == []


def test_explicit_settings_are_checked_before_the_host_is_known() -> None:
    settings: dict[str, Any] = {"ansible_facts": {}, "app_database_connections": 20}
    small = {"postgresql_server_max_connections": 50}
    assert len(fleet(database=small, app_service_workers=2, **settings)) == 1
    assert fleet(database=small, **settings) == []


def test_running_server_counts_until_it_is_restarted() -> None:
    settings: dict[str, Any] = {"app_service_workers": 4, "app_database_connections": 5}
    (message,) = fleet(database=running(42), **settings)
    assert "The server allows 39 (max_connections of the running server: 42" in message
    assert "Run site.yml, which restarts it" in message
    assert fleet(database=running(43), **settings) == []
    # the limit that site.yml would apply
    (message,) = fleet(database=running(500, limit=42), **settings)
    assert "postgresql_server_max_connections: 42" in message
    hosts = {"app1": {"app_name": "links", "ansible_facts": FACTS, **settings}, "data1": running(10)}
    assert capacity.problems(hosts, ["app1"], ["data1"], provision=True) == []
    assert len(capacity.problems(hosts, ["app1"], ["data1"])) == 1


def test_external_database_is_not_checked() -> None:
    assert fleet(app_service_workers=4, app_database_connections=500) == []


@pytest.mark.parametrize("inventory", ["inventories/demo", "inventories/example", "molecule/default/inventory"])
def test_inventories_count_all_connections_of_the_reference_application(inventory: str) -> None:
    defaults = (PROJECT / "app/links/settings.py").read_text()
    size, overflow = (
        int(re.findall(rf"database_{name}: int = Field\(default=(\d+)", defaults)[0])
        for name in ("pool_size", "max_overflow")
    )
    folder = PROJECT / inventory / "group_vars"
    (given,) = [yaml.safe_load(path.read_text()) for path in (*folder.glob("all.yml"), *folder.glob("all/main.yml"))]
    # its /readyz has a connection of its own
    assert given["app_database_connections"] == size + overflow + 1
    if "postgresql_server_max_connections" in given:
        workstation = {"ansible_facts": {"processor_vcpus": 12, "memtotal_mb": 32768}}
        assert fleet(hosts=2, database=given, **given, **workstation) == []
