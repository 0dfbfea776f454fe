"""What the playbooks derive from the settings of process types before anything has validated them."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.controller import process_settings

WORKER = {"command": "work"}


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        ([], False),
        ([{}], False),
        ([{"worker": WORKER}], True),
        ([{"worker": {**WORKER, "order": "after_web"}}], False),
        ([{}, {"beat": {"order": "after_web"}, "worker": {"order": "before_web"}}], True),
        ([None, "worker", ["worker"], {"worker": None}], False),
    ],
)
def test_has_before_web(hosts: list[Any], expected: bool) -> None:
    assert process_settings.has_before_web(hosts) is expected


@pytest.mark.parametrize(
    ("processes", "seconds"),
    [
        ({}, 0),
        ({"worker": WORKER}, 30),
        ({"worker": {"stop_timeout": 7200}, "beat": {"stop_timeout": "300"}}, 7200),
        ({"worker": {"stop_timeout": "long"}}, 0),
        ("worker", 0),
        ({"worker": None}, 0),
    ],
)
def test_longest_stop(processes: Any, seconds: int) -> None:
    assert process_settings.longest_stop(processes) == seconds
