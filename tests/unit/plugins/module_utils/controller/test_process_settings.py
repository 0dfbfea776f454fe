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
        ([{"beat": {"strategy": "replace"}}], False),
        ([{"consumer": {"strategy": "replace", "order": "before_web"}}], True),
        ([{"worker": {"strategy": ["replace"]}}], False),
        ([None, "worker", ["worker"], {"worker": None}], False),
    ],
)
def test_has_before_web(hosts: list[Any], expected: bool) -> None:
    assert process_settings.has_before_web(hosts) is expected


@pytest.mark.parametrize(
    ("processes", "seconds"),
    [
        ({}, 0),
        # the rehearsal and the activation, each on the first host and then on the others
        ({"worker": WORKER}, 4 * 5),
        ({"worker": {"settle_seconds": "20", "stop_timeout": 7200, "check": "ping"}}, 4 * (20 + 60)),
        ({"beat": {"strategy": "replace", "stop_timeout": "300"}}, 10 * (300 + 30 + 5)),
        ({"beat": {"strategy": "replace", "order": "before_web", "stop_timeout": 300}}, 2 * (300 + 30 + 5)),
        ({"bot": {"order": "after_web"}, "worker": WORKER}, 2 * 5 + 10 * 5 + 4 * 5),
        ({"worker": {"settle_seconds": "long"}}, 0),
        ("worker", 0),
        ({"worker": None}, 0),
    ],
)
def test_longest_wait(processes: Any, seconds: int) -> None:
    assert process_settings.longest_wait(processes, 10) == seconds
    # those that a host has are known by their new settings, or are removed
    known = processes if isinstance(processes, dict) else {}
    waits = {**dict.fromkeys(known, 9000), "ticker": 600, "mailer": 0}
    assert process_settings.longest_wait(processes, 10, waits) == seconds + 10 * (600 + 30) + 10 * 30
