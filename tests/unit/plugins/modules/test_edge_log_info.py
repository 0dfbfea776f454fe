"""The module edge_log_info on a log in nginx's format."""

from __future__ import annotations

import pathlib
import time
from typing import Any

from ansible_collections.baton.web.plugins.modules import edge_log_info

from tests.support import modules
from tests.support.access_log import CANARY, OTHER, line, write


def bake(path: pathlib.Path, lines: list[str], *, check: bool = False, **options: Any) -> dict[str, Any]:
    log = write(path / "log", lines)
    defaults = {"edge": "edge1", "log": log, "upstreams": [CANARY], "upstream_names": ["app1"], "bake_seconds": 0.1}
    return modules.run(edge_log_info, check=check, **(defaults | options))


def during(status: int, upstream: str = CANARY, count: int = 30, at: float = 0.0) -> list[str]:
    return [line(time.time() + at, status, upstream=upstream)] * count


def test_release_is_evaluated_by_its_own_servers(tmp_path: pathlib.Path) -> None:
    since = time.time() - 10
    bad = bake(tmp_path, during(500), bake_since=since)["verdict"]
    assert (bad["ok"], bad["requests"], bad["failed"]) == (False, 30, 30)
    assert "edge1: 30 of 30 requests to app1 were answered 5xx" in bad["message"]
    assert bake(tmp_path, during(200) + during(500, OTHER), bake_since=since)["verdict"]["ok"]
    # requests before the bake don't count
    assert bake(tmp_path, during(500, at=-20), bake_since=since)["verdict"]["quiet"]


def test_release_is_compared_with_the_window_before(tmp_path: pathlib.Path) -> None:
    now = time.time()
    before = [line(now - 40, 500)] * 50 + [line(now - 40)] * 50
    lines = before + during(200) + during(500, count=20)
    windows = {"before": {"since": now - 60, "until": now - 20}}
    assert bake(tmp_path, lines, bake_since=now - 10, windows=windows)["verdict"]["ok"]
    assert not bake(tmp_path, lines, bake_since=now - 10)["verdict"]["ok"]
    # with other limits
    assert bake(tmp_path, lines, bake_since=now - 10, min_failed=21)["verdict"]["ok"]
    assert bake(tmp_path, lines, bake_since=now - 10, max_failed_percent=60)["verdict"]["ok"]


def test_no_verdict_in_check_mode_or_without_a_bake(tmp_path: pathlib.Path) -> None:
    for options in ({"check": True}, {"bake_seconds": 0}):
        result = bake(tmp_path, during(500), **options)
        assert (result["changed"], "verdict" in result) == (False, False)


def test_windows_are_counted_separately(tmp_path: pathlib.Path) -> None:
    now = time.time()
    lines = [line(now - 50, 500), *[line(now - 30)] * 3]
    windows = {"before": {"since": now - 60, "until": now - 40}, "during": {"since": now - 40, "until": now}}
    result = bake(tmp_path, lines, windows=windows, bake_seconds=0, timeline=True)
    counts = {name: (window["requests"], window["failures"]) for name, window in result["windows"].items()}
    assert counts == {"before": (1, 1), "during": (3, 0)}
    assert result["timeline"]["points"]


def test_missing_log_is_reported_with_edge_and_fix(tmp_path: pathlib.Path) -> None:
    windows = {"during": {"since": 1.0, "until": 2.0}}
    failed = modules.run(edge_log_info, edge="edge1", log=str(tmp_path / "none"), windows=windows)
    assert failed["msg"].startswith(f"edge1: the access log {tmp_path}/none can't be read (No such file or directory).")
    assert "site.yml" in failed["msg"]
    failed = bake(tmp_path, [], windows={"before": {"since": 1}})
    assert "needs `since` and `until`" in failed["msg"]
