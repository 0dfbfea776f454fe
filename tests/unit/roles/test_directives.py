"""Directives that the inventory adds to the units of roles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.rendered import LEAST

ROLES = ["app_service", "nginx_server", "postgresql_server"]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    ("directives", "words"),
    [
        (
            {"ReadWritePaths": "/srv\nExecStartPre=/bin/false"},
            '.ReadWritePaths is "/srv\\nExecStartPre=/bin/false". Give a',
        ),
        ({"ReadWritePaths": ["/srv", "/a\rb"]}, '.ReadWritePaths is ["/srv", "/a\\rb"]. Give a text of one line'),
        ({"ReadWritePaths": {"/srv": True}}, '.ReadWritePaths is {"/srv": true}. Give a'),
        ({"ReadWritePaths": [["/srv"]]}, '.ReadWritePaths is [["/srv"]]. Give a'),
        ({"Nice\nUser": "root"}, " has \"Nice\\nUser\", which isn't a directive's name"),
        ({"Nice=1": "x"}, ' has "Nice=1", which'),
        ({"": "x"}, ' has "", which'),
    ],
    ids=str,
)
def test_invalid_directive_is_refused(
    load_role: Callable[[str], Any], role: str, directives: dict[str, Any], words: str
) -> None:
    (message,) = load_role(role).refusals(**LEAST, **{f"{role}_directives": directives})
    assert message.startswith(f"edge1: {role}_directives{words}")


@pytest.mark.parametrize("role", ROLES)
def test_valid_directives_are_accepted(load_role: Callable[[str], Any], role: str) -> None:
    given = {
        "ReadWritePaths": ["/srv/a b", "/srv/%i"],
        "Nice": 5,
        "PrivateDevices": False,
        "IPAddressDeny": None,
        "A1": "",
    }
    assert load_role(role).refusals(**LEAST, **{f"{role}_directives": given}) == []
