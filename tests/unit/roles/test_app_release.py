"""What the role accepts from a host that builds wheels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

WHEEL = {"filename": "x-1-py3-none-any.whl", "key": "x", "path": "/var/lib/baton/build/x.whl"}


@pytest.mark.parametrize(
    ("wheels", "checked", "accepted"),
    [
        ([WHEEL], 1, True),
        ([WHEEL, WHEEL], 2, True),
        ([WHEEL] * 1000, 2, False),
        ([{**WHEEL, "filename": "../x.whl"}], 1, False),
        ([{**WHEEL, "key": "z"}], 1, False),
    ],
)
def test_build_host_returns_at_most_one_wheel_for_each_source(
    load_role: Callable[[str], Any], wheels: list[dict[str, str]], checked: int, accepted: bool
) -> None:
    role = load_role("app_release")
    task = next(
        task for task in role.load("tasks/job.yml") if task["name"] == "Job | Verify the wheels that were built"
    )
    given = {"__app_release_wheels": {"wheels": wheels}, "__app_release_job": {"results": {"x": "/a", "y": "/b"}}}
    items = role.value(task["loop"].strip("{} "), **given)
    assert len(items) == checked
    conditions = task["ansible.builtin.assert"]["that"]
    assert all(role.value(one, item=item, **given) for item in items for one in conditions) is accepted
