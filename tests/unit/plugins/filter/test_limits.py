"""The number of workers that the edge assumes for an app server."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.baton.web.plugins.filter import limits

HOST: dict[str, Any] = {"ansible_facts": {"processor_vcpus": 2, "memtotal_mb": 8192}}


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({}, 5),
        ({"app_service_workload": "cpu"}, 2),
        # memory for two generations
        ({"app_service_worker_memory_mb": 1600}, 2),
        ({"app_service_worker_memory_mb": 1600, "app_service_memory_percent": 20}, 1),
        ({"app_service_worker_memory_mb": 100000}, 1),
        ({"app_service_workers": 9}, 9),
        ({"app_service_workers": 9, "app_config_environment": {"WEB_CONCURRENCY": 4}}, 4),
        ({"app_config_environment": {"WEB_CONCURRENCY": "many"}}, 5),
        ({"app_config_environment": None}, 5),
        ({"ansible_facts": {}}, 0),
        ({"ansible_facts": {}, "app_service_workers": 9}, 9),
    ],
    ids=str,
)
def test_worker_count_follows_host_and_settings(settings: dict[str, Any], count: int) -> None:
    assert limits.worker_counts(["app1"], {"app1": {**HOST, **settings}}) == [count]


def test_unknown_server_is_left_out() -> None:
    assert limits.upstream_workers(["10.0.0.21:8000", "10.0.0.22:8000"], [5, 0]) == {"10.0.0.21:8000": 5}
