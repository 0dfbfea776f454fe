"""What the playbooks ask of the settings of process types, which nothing has checked then."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.controller import process_settings

WORKER = {"command": "work"}


@pytest.mark.parametrize(
    ("hosts", "wanted"),
    [
        ([], False),
        ([{}], False),
        ([{"worker": WORKER}], True),
        ([{"worker": {**WORKER, "order": "after_web"}}], False),
        ([{}, {"beat": {"order": "after_web"}, "worker": {"order": "before_web"}}], True),
        ([None, "worker", ["worker"], {"worker": None}], False),
    ],
)
def test_whether_a_release_reaches_any_before_the_web(hosts: list[Any], wanted: bool) -> None:
    assert process_settings.has_before_web(hosts) is wanted


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
def test_a_lock_outlasts_the_longest_stop(processes: Any, seconds: int) -> None:
    assert process_settings.longest_stop(processes) == seconds
