"""Reading an edge's access log."""

from __future__ import annotations

import gzip
import os
import pathlib
import random
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.edge import access_log
from ansible_collections.baton.web.plugins.module_utils.edge.access_log import Window

from tests.support.access_log import CANARY, NOON, OTHER, line, redirect, write


def counted(*lines: str, upstreams: tuple[str, ...] = ()) -> dict[str, Any]:
    tally = access_log.Tally(upstreams)
    for one in lines:
        entry = access_log.parse(one.encode())
        assert entry is not None
        tally.add(entry)
    found: dict[str, Any] = tally.result()
    return found


def read(path: str, since: float, until: float, **options: Any) -> dict[str, Any]:
    found: dict[str, Any] = access_log.summarize(path, {"one": Window(since, until)}, **options)["windows"]["one"]
    return found


# how lines are counted


def test_failures_are_counted_by_status_and_path_without_client_aborts() -> None:
    found = counted(
        *[line()] * 5, *[line(status=500)] * 2, line(status=502, path="/"), line(status=499), line(status=404)
    )
    assert (found["requests"], found["failures"], found["client_closed"]) == (10, 3, 1)
    assert found["statuses"] == {"200": 5, "404": 1, "499": 1, "500": 2, "502": 1}
    assert found["failing"][0] == {"status": 500, "path": "/api/links", "count": 2}


def test_redirect_to_https_is_counted_separately() -> None:
    assert counted(redirect(), line())["requests"] == 1
    assert counted(redirect(), line())["by_edge"] == 1
    assert counted(redirect(), upstreams=(CANARY,))["requests"] == 0


def test_edges_own_5xx_counts_unless_servers_are_selected() -> None:
    nothing: dict[str, Any] = {
        "upstream": "",
        "upstream_status": "",
        "upstream_header_time": "",
        "upstream_response_time": "",
    }
    page = line(status=503, **nothing)
    assert counted(page)["failures"] == 1
    assert counted(page, upstreams=(CANARY,))["requests"] == 0


def test_only_requests_of_the_selected_servers_count() -> None:
    lines = [line(upstream=OTHER, status=500), line(), line(upstream="unix:/run/links/web.sock")]
    assert counted(*lines, upstreams=(CANARY,)) == counted(line())
    assert counted(*lines, upstreams=("unix:/run/links/web.sock",))["requests"] == 1
    assert counted(*lines)["failures"] == 1


def test_rescued_request_is_a_failure_of_the_first_server_only() -> None:
    saved = line(upstream=f"{CANARY}, {OTHER}", upstream_status="502, 200", wait="-, 0.004",
                 upstream_response_time="0.100, 0.005")  # fmt: skip
    everyone, canary, other = counted(saved), counted(saved, upstreams=(CANARY,)), counted(saved, upstreams=(OTHER,))
    assert (everyone["failures"], everyone["rescued"], everyone["max_ms"]) == (0, 1, 104)
    assert (canary["failures"], canary["rescued"], canary["max_ms"]) == (0, 1, 100)
    assert (other["failures"], other["rescued"], other["max_ms"]) == (0, 0, 4)
    assert canary["failing"] == [{"status": 502, "path": "/api/links", "count": 1}]


def test_request_that_no_server_answered_is_a_failure_of_each() -> None:
    lost = line(status=502, upstream=f"{CANARY}, {OTHER}", upstream_status="502, 502", wait="-, -",
                upstream_response_time="0.000, 0.000")  # fmt: skip
    for upstreams in ((), (CANARY,), (OTHER,)):
        assert counted(lost, upstreams=upstreams)["failures"] == 1


def test_latency_is_the_time_to_the_first_byte() -> None:
    assert counted(line(wait=0.020, upstream_response_time="9.000", request_time=30.0))["max_ms"] == 20


def test_latency_of_an_aborted_request_is_its_duration() -> None:
    assert counted(line(status=499, wait="-", upstream_response_time="8.000"))["max_ms"] == 8000


def test_websocket_has_no_latency() -> None:
    found = counted(line(status=101, wait=2.0, request_time=3600.0))
    assert (found["requests"], found["websockets"], found["p99_ms"]) == (1, 1, None)


def test_percentiles() -> None:
    found = counted(*[line(wait=0.005)] * 98, line(wait=1.0), line(wait=2.5))
    assert (found["p50_ms"], found["max_ms"]) == (5, 2500)
    assert found["p99_ms"] == pytest.approx(1000, rel=0.03)


@pytest.mark.parametrize(
    "junk",
    [
        "", "{}", "[]", "7", "null", '"text"', "[" * 200_000, "\x00\x00\x00", line()[:90],
        line().replace('"status":200', '"status":'), line().replace('"upstream":"10.0.0.21:8000"', '"upstream":7'),
        '10.0.0.1 - - [10/Oct/2026:13:55:36 +0000] "GET / HTTP/1.1" 200 2326',
    ],
)  # fmt: skip
def test_invalid_line_is_not_parsed(junk: str) -> None:
    assert access_log.parse(junk.encode()) is None


def test_path_may_contain_any_bytes() -> None:
    entry = access_log.parse(line(path="/PLACE").encode().replace(b"PLACE", b"\xff\xfe\xe9"))
    assert entry is not None
    assert entry.status == 200


# windows


def test_window_includes_its_start_and_excludes_its_end(tmp_path: pathlib.Path) -> None:
    log = write(tmp_path / "log", [line(NOON + second) for second in range(10)])
    assert read(log, NOON + 2, NOON + 5)["requests"] == 3
    both = access_log.summarize(log, {"before": Window(NOON, NOON + 4), "during": Window(NOON + 4, NOON + 100)})
    assert [both["windows"][name]["requests"] for name in ("before", "during")] == [4, 6]


def test_windows_may_be_far_apart_or_overlap(tmp_path: pathlib.Path) -> None:
    log = write(tmp_path / "log", [line(NOON + second) for second in range(5000)])
    windows = {"a": Window(NOON, NOON + 10), "b": Window(NOON + 5, NOON + 20), "c": Window(NOON + 4000, NOON + 4007)}
    found = access_log.summarize(log, windows)["windows"]
    assert [found[name]["requests"] for name in windows] == [10, 15, 7]


def test_lines_slightly_out_of_order_are_found(tmp_path: pathlib.Path) -> None:
    chance = random.Random(3)
    times = [NOON + index / 50 for index in range(100_000)]
    order = sorted(times, key=lambda time: time + chance.uniform(0, 3))
    log = write(tmp_path / "log", [line(time) for time in order])
    assert os.path.getsize(log) > 100 * access_log.CHUNK
    for since, until in ((NOON, NOON + 1), (NOON + 777.5, NOON + 790), (NOON + 1990, NOON + 3000)):
        assert read(log, since, until)["requests"] == sum(since <= time < until for time in times)


def test_huge_log_is_only_read_around_the_window(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    with log.open("w") as file:
        for minute in range(600):
            file.write("".join(line(NOON + minute * 60 + second / 10) for second in range(600)))
    size, read_bytes = log.stat().st_size, 0
    assert size > 150_000_000
    plain = access_log._File.lines

    def lines(file: Any) -> Any:
        nonlocal read_bytes
        for one in plain(file):
            read_bytes += len(one)
            yield one

    monkeypatch.setattr(access_log._File, "lines", lines)
    for since in (NOON + 100, NOON + 17_000, NOON + 600 * 60 - 10):
        assert read(str(log), since, since + 10)["requests"] == 100
    assert read_bytes < size / 50


def test_invalid_lines_are_skipped_and_counted(tmp_path: pathlib.Path) -> None:
    good = [line(NOON + index / 10) for index in range(20_000)]
    junk = ["junk\n", "\n", '{"time":"x","msec":1764072000.5,"broken\n', "\x00" * 700_000 + "\n"]
    log = write(tmp_path / "log", [*good[:5], *junk, *good[5:9000], *junk, *good[9000:], *junk, good[-1][:40]])
    found = access_log.summarize(log, {"all": Window(NOON, NOON + 3000), "late": Window(NOON + 1990, NOON + 3000)})
    assert found["windows"]["all"]["requests"] == 20_000
    assert found["windows"]["late"]["requests"] == 100
    assert found["skipped_lines"] >= 3 * 3


def test_log_without_valid_lines_has_no_requests(tmp_path: pathlib.Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(os.urandom(3_000_000))
    assert read(str(log), NOON, NOON + 10)["requests"] == 0


def test_empty_log_has_no_requests(tmp_path: pathlib.Path) -> None:
    found = read(write(tmp_path / "log", []), NOON, NOON + 10)
    assert (found["requests"], found["p99_ms"], found["complete"]) == (0, None, True)


# rotation


def test_window_that_starts_before_the_log_includes_the_rotated_log(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "log.1", [line(NOON + second) for second in range(100)])
    log = write(tmp_path / "log", [line(NOON + second) for second in range(100, 110)])
    found = read(log, NOON + 90, NOON + 105)
    assert (found["requests"], found["complete"]) == (15, True)


def test_all_lines_are_in_the_rotated_log_just_after_rotation(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "log.1", [line(NOON + second) for second in range(100)])
    assert read(write(tmp_path / "log", []), NOON + 90, NOON + 105)["requests"] == 10


def test_late_lines_in_the_rotated_log_are_counted(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "log.1", [line(NOON + second) for second in (0, 1, 2, 4)])
    log = write(tmp_path / "log", [line(NOON + second) for second in (3, 5, 6)])
    assert read(log, NOON + 3.5, NOON + 10)["requests"] == 3


def test_window_that_starts_before_both_logs_is_incomplete(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "log.1", [line(NOON + second) for second in range(100)])
    with gzip.open(tmp_path / "log.2.gz", "wt") as file:
        file.write(line(NOON - 10))
    log = write(tmp_path / "log", [line(NOON + 100)])
    assert read(log, NOON - 20, NOON + 10)["complete"] is False
    assert read(log, NOON, NOON + 10)["complete"] is True


def test_log_of_a_new_site_is_complete(tmp_path: pathlib.Path) -> None:
    log = write(tmp_path / "log", [line(NOON)])
    assert read(log, NOON - 60, NOON + 10)["complete"] is True


def test_reading_continues_after_a_rotation(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "log"
    window = Window(NOON, NOON + 1000)
    write(path, [line(NOON), line(NOON + 1)[:50]])
    with access_log.Log(str(path), NOON) as log:
        assert len(list(log.entries(window))) == 1
        with path.open("a") as file:
            file.write(line(NOON + 1)[50:])
        assert len(list(log.entries(window))) == 1
        path.rename(tmp_path / "log.1")
        with (tmp_path / "log.1").open("a") as file:
            file.write(line(NOON + 2))
        write(path, [line(NOON + 3), line(NOON + 4)])
        assert [entry.ended for entry in log.entries(window)] == [NOON + 2, NOON + 3, NOON + 4]
        assert list(log.entries(window)) == []


def test_truncated_log_is_read_from_its_start(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "log"
    write(path, [line(NOON)] * 10)
    with access_log.Log(str(path), NOON) as log:
        assert len(list(log.entries(Window(NOON, NOON + 99)))) == 10
        write(path, [line(NOON + 1)])
        assert len(list(log.entries(Window(NOON, NOON + 99)))) == 1


def test_missing_log_is_an_error(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(str(tmp_path / "none"), NOON, NOON + 1)


# timeline


def test_timeline_counts_by_second(tmp_path: pathlib.Path) -> None:
    log = write(tmp_path / "log", [*[line(NOON)] * 3, line(NOON + 1.5, 500), line(NOON + 1.9), line(NOON + 7, wait=1)])
    found = access_log.summarize(log, {"a": Window(NOON, NOON + 5), "b": Window(NOON + 5, NOON + 10)}, timeline=True)
    points = found["timeline"]["points"]
    assert found["timeline"]["step"] == 1
    assert {second: (point["requests"], point["failures"]) for second, point in points.items()} == {
        str(int(NOON)): (3, 0),
        str(int(NOON) + 1): (2, 1),
        str(int(NOON) + 7): (1, 0),
    }
    assert points[str(int(NOON) + 7)]["max_ms"] == 1000


def test_stream_counts_when_it_ended_and_its_latency_when_it_was_answered(tmp_path: pathlib.Path) -> None:
    stream = line(NOON + 8, wait=0.030, upstream_response_time="6.030", request_time=6.03)
    old = line(NOON + 8, wait=5.0, upstream_response_time="3600", request_time=3600.0)
    log = write(tmp_path / "log", [stream, old])
    found = access_log.summarize(log, {"one": Window(NOON, NOON + 10)}, timeline=True)
    assert (found["windows"]["one"]["requests"], found["windows"]["one"]["max_ms"]) == (2, 30)
    points = found["timeline"]["points"]
    assert (points[str(int(NOON) + 2)]["requests"], points[str(int(NOON) + 2)]["max_ms"]) == (0, 30)
    assert (points[str(int(NOON) + 8)]["requests"], points[str(int(NOON) + 8)]["max_ms"]) == (2, None)


def test_long_timeline_has_longer_steps(tmp_path: pathlib.Path) -> None:
    log = write(tmp_path / "log", [line(NOON + second) for second in range(0, 7200, 2)])
    found = access_log.summarize(log, {"one": Window(NOON, NOON + 7200)}, timeline=True)["timeline"]
    assert found["step"] == 8
    assert len(found["points"]) == 900
    assert sum(point["requests"] for point in found["points"].values()) == 3600


# active checks


def test_active_checks_are_counted_separately_and_cannot_be_forged(tmp_path: pathlib.Path) -> None:
    check = line(client="127.0.0.1", user_agent="baton-check")
    forged = line(user_agent="baton-check")
    found = read(write(tmp_path / "log", [check, check, forged]), NOON, NOON + 1)
    assert (found["checks"], found["requests"]) == (2, 1)


def test_requests_above_the_servers_limits_are_no_failures() -> None:
    rejected = line(status=503, wait="-", upstream="links", upstream_status="502", upstream_response_time="0.000")
    for servers in ((), (CANARY,)):
        found = counted(rejected, line(), upstreams=servers)
        assert (found["requests"], found["failures"], found["surplus"]) == (1, 0, 1)
    # a server was tried first and failed
    failed = line(status=502, wait="-, -", upstream=f"{CANARY}, links", upstream_status="502, 502",
                  upstream_response_time="0.001, 0.000")  # fmt: skip
    assert counted(failed)["failures"] == 1
    assert counted(line(status=503))["failures"] == 1  # the application's own
