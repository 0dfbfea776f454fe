"""The receipt of a change: how it is composed, shown and stored."""

from __future__ import annotations

import html.parser
import json
import pathlib
import re
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.change import receipt
from ansible_collections.baton.web.plugins.module_utils.change.version import VERSION
from ansible_collections.baton.web.plugins.module_utils.controller import receipt_page
from ansible_collections.baton.web.plugins.module_utils.edge import access_log
from ansible_collections.baton.web.plugins.module_utils.host.command import BatonError

from tests.support.access_log import NOON, OTHER, line, write

OLD, NEW = "1f0e99a2c4d58b71", "9b44c0d2e7a1335f"
DEPLOY = {"application": "links", "kind": "deploy", "result": "deployed", "release": NEW, "previous": OLD,
          "version": "1.4.2", "who": "ada", "where": "laptop", "started": NOON, "ended": NOON + 20.4}  # fmt: skip
HOST = {"method": "reload", "seconds": 1.84, "previous": OLD, "release": NEW, "started": NOON + 9}
PHASES = [{"name": "stage", "seconds": 4.2}, {"name": "roll", "seconds": 9.1}]
WINDOWS = {
    "before": access_log.Window(NOON - 60, NOON),
    "during": access_log.Window(NOON, NOON + 20),
    "after": access_log.Window(NOON + 20, NOON + 30),
}


@pytest.fixture
def edge(tmp_path: pathlib.Path) -> Any:
    """The answer of an edge whose log has these lines, after a round trip through JSON."""

    def read(*lines: str) -> dict[str, Any]:
        log = write(tmp_path / "log", sorted(lines, key=lambda one: float(one.split('"msec":')[1].split(",")[0])))
        found: dict[str, Any] = json.loads(json.dumps(access_log.summarize(log, WINDOWS, timeline=True)))
        return found

    return read


def compose(edges: dict[str, Any], hosts: dict[str, Any] | None = None, **deploy: Any) -> dict[str, Any]:
    hosts = {"app1": HOST} if hosts is None else hosts
    found: dict[str, Any] = receipt.compose(DEPLOY | deploy, edges, hosts, PHASES)
    return found


def spread(count: int, since: float, seconds: float, **changed: Any) -> list[str]:
    return [line(since + seconds * index / count, **changed) for index in range(count)]


def test_two_edges_are_summed_like_one(edge: Any) -> None:
    one = [*spread(600, NOON - 60, 60), *spread(200, NOON, 20, wait=0.03), line(NOON + 5, 502)]
    two = [*spread(300, NOON - 60, 60, wait=0.5), *spread(100, NOON, 20, status=404, upstream=OTHER)]
    together, apart = compose({"edge1": edge(*one, *two)}), compose({"edge1": edge(*one), "edge2": edge(*two)})
    assert apart["windows"] == together["windows"]
    assert apart["timeline"] == together["timeline"]
    assert apart["windows"]["before"]["requests"] == 900
    assert apart["windows"]["during"]["statuses"] == {"200": 200, "404": 100, "502": 1}


def test_timelines_of_different_steps_use_the_longer_one() -> None:
    point = {"requests": 1, "failures": 0, "max_ms": 5, "histogram": {"5": 1}}
    windows = {"during": access_log.Tally().result() | {"since": NOON, "until": NOON + 20}}
    fine = {"windows": windows, "timeline": {"step": 1, "points": {str(int(NOON) + s): point for s in range(4)}}}
    coarse = {"windows": windows, "timeline": {"step": 4, "points": {str(int(NOON)): point}}}
    assert compose({"a": fine, "b": coarse})["timeline"] == {
        "step": 4,
        "points": {str(int(NOON)): {"requests": 5, "failures": 0, "p50_ms": 5, "p99_ms": 5, "max_ms": 5}},
    }


OTHER_DIGIT = "\N{ARABIC-INDIC DIGIT ONE}"
POINT = {"requests": 1, "failures": 0, "max_ms": 5, "histogram": {"5": 1, "9" * 5000: 1, OTHER_DIGIT: 1}}
SECOND = str(int(NOON))


@pytest.mark.parametrize("second", ["9" * 5000, "9" * 30, "4102444800", "0", OTHER_DIGIT * 10])
def test_implausible_times_of_an_edge_are_ignored(second: str) -> None:
    window = access_log.Tally().result() | {"since": 0, "until": 200_000_000_000}
    answer = {"windows": {"during": window}, "timeline": {"step": 1, "points": {SECOND: POINT, second: POINT}}}
    document = compose({"edge1": answer})
    assert list(document["timeline"]["points"]) == [SECOND]
    assert (document["windows"]["during"]["since"], document["windows"]["during"]["until"]) == (NOON, NOON)
    assert len(receipt_page.page(document)) < 100_000


def test_number_of_points_is_limited() -> None:
    windows = {"during": access_log.Tally().result() | {"since": NOON, "until": NOON + 20}}
    points = {str(int(NOON) + second): POINT for second in range(100_000)}
    for step in (1, 2**62):
        answer = {"windows": windows, "timeline": {"step": step, "points": points}}
        assert len(compose({"edge1": answer})["timeline"]["points"]) <= receipt.MAX_POINTS


def test_names_in_an_edges_answer_are_limited() -> None:
    tally = access_log.Tally().result() | {"since": NOON, "until": NOON + 20}
    window = tally | {
        "statuses": {"200": 5, "x\n": 1, "9" * 5000: 1, OTHER_DIGIT: 1},
        "histogram": {str(number): 1 for number in range(100_000)},
    }
    document = compose({"edge1": {"windows": {"during": window, **{f"x{number}\n": window for number in range(10)}}}})
    assert list(document["windows"]) == ["during"]
    assert document["windows"]["during"]["statuses"] == {"200": 5}
    assert len(document["windows"]["during"]["histogram"]) == receipt.MAX_BINS


# messages


def test_headline_without_failures(edge: Any) -> None:
    assert compose({"edge1": edge(*spread(4120, NOON, 20))})["headline"] == (
        "None of the 4,120 requests that the edges logged during the change failed."
    )


def test_headline_names_failures_and_the_rate_before(edge: Any) -> None:
    answers = edge(
        *spread(999, NOON - 60, 60), line(NOON - 1, 500), *spread(363, NOON, 20), *spread(37, NOON + 9, 1, status=500)
    )
    assert compose({"edge1": answers})["headline"] == (
        "37 of the 400 requests that the edges logged during the change failed (9.25 %; before, 0.10 %), "
        "most often 500 on /api/links."
    )


def test_headline_mentions_clients_that_gave_up(edge: Any) -> None:
    usual, many = [line(NOON - 30, 499)] * 5, [line(NOON + 10, 499)] * 80
    before, during = spread(995, NOON - 60, 60), spread(720, NOON, 20)
    gave_up = compose({"edge1": edge(*before, *usual, *during, *many)})["headline"]
    assert gave_up == (
        "None of the 800 requests that the edges logged during the change failed, but 80 clients (10.0 %) gave up "
        "waiting."
    )
    assert "gave up" not in compose({"edge1": edge(*before, *usual, *during, *many[:4])})["headline"]
    usual = [line(NOON - 30, 499)] * 120
    assert "gave up" not in compose({"edge1": edge(*before, *usual, *during, *many)})["headline"]


def test_headline_without_traffic_claims_nothing(edge: Any) -> None:
    document = compose({"edge1": edge()})
    assert document["headline"] == "No request ended during the change, so it proves nothing about requests."
    assert receipt.text(document)
    assert "No request ended during the change" in receipt_page.page(document)


def test_unreadable_edge_is_named(edge: Any) -> None:
    edges = {
        "edge1": edge(*spread(10, NOON, 20)),
        "edge2": {"failed": True, "msg": "edge2: the access log can't be read.\nTraceback"},
        "edge3": {"unreachable": True},
    }
    document = compose(edges)
    assert (
        "The log of edge2 could not be read (the access log can't be read): its requests are missing."
        in (document["notes"])
    )
    assert "The log of edge3 could not be read (unreachable): its requests are missing." in document["notes"]
    assert document["windows"]["during"]["requests"] == 10
    document = compose({name: edges[name] for name in ("edge2", "edge3")})
    assert document["headline"].startswith("No edge's log could be read")
    assert "edge3" in receipt.text(document)
    assert "edge3" in receipt_page.page(document)


def test_restrictions_of_the_figures_are_noted(edge: Any) -> None:
    answers = edge(line(NOON + 1, 499), line(NOON + 2, 101), line(NOON + 3, client="::1", user_agent="baton-check"))
    answers["windows"]["before"]["complete"] = False
    answers["skipped_lines"] = 2
    notes = "\n".join(compose({"edge1": answers})["notes"])
    assert "The logs of edge1 don't reach back to the beginning of: before." in notes
    assert "2 lines in the log of edge1 could not be parsed." in notes
    assert "Ended because the client disconnected (499), not counted as failures: 1 request during the change." in notes
    assert "WebSockets that ended, without a latency: 1 request during the change." in notes
    assert "The deploy's own active checks, not counted: 1 request during the change." in notes


def test_cause_of_a_failure_is_left_to_the_end_of_the_run(edge: Any) -> None:
    """The run fails with it right after the receipt; files of the receipt stand alone and have it."""
    cause = "The deploy of links failed.\napp1, rehearsal: it logged last:\nModuleNotFoundError"
    document = compose({"edge1": edge(line(NOON + 3, client="::1", user_agent="baton-check"))}, reason=cause)
    assert "ModuleNotFoundError" not in receipt.text(document)
    assert "Note: The deploy's own active checks, not counted: 1 request" in receipt.text(document)
    assert cause in document["notes"]
    assert "ModuleNotFoundError" in receipt_page.page(document)


@pytest.mark.parametrize(
    ("host", "words"),
    [
        (HOST, f"{OLD} -> {NEW}"),
        ({**HOST, "previous": None, "method": "start"}, f"nothing -> {NEW}"),
        ({**HOST, "release": OLD, "method": "none"}, f"serves {OLD}, unchanged"),
        ({**HOST, "release": OLD}, f"serves {OLD}, processes replaced"),
        ({**HOST, "reverted": True, "release": OLD}, f"reverted to {OLD}"),
        (
            {"failed": True, "msg": "Release x could not be activated.\nlog"},
            "failed: Release x could not be activated.",
        ),
        ({"unreachable": True}, "failed: unreachable"),
        ({"skipped": True}, "not reached"),
    ],
)
def test_outcome_of_each_host_is_shown(host: dict[str, Any], words: str) -> None:
    document = compose({}, {"app1": host})
    assert receipt.outcome(document["hosts"]["app1"]) == words
    assert words in receipt.text(document)


def test_text_is_a_table(edge: Any) -> None:
    answers = edge(*spread(1200, NOON - 60, 60), *spread(400, NOON, 20, wait=0.012), *spread(9, NOON + 20, 9, wait=0))
    assert receipt.text(compose({"edge1": answers})).splitlines() == [
        f"links 1.4.2 ({NEW}): deployed in 20.4 s, 2025-11-25 12:00:00 UTC by ada on laptop with Baton {VERSION}",
        "None of the 400 requests that the edges logged during the change failed.",
        "",
        "        SECONDS  REQUESTS  FAILED     P50     P99     MAX",
        "before       60     1,200       0    5 ms    5 ms    5 ms",
        "during       20       400       0   12 ms   12 ms   12 ms",
        "after        10         9       0  < 1 ms  < 1 ms  < 1 ms",
        "",
        "HOST  OUTCOME                               METHOD  SECONDS",
        f"app1  {OLD} -> {NEW}  reload      1.8",
        "",
        "Phases: stage 4.2 s, roll 9.1 s",
    ]


WORKER = {
    "worker": {
        "method": "overlap",
        "started": 2,
        "stopped": 3,
        "seconds": 5.24,
        "new": [517, 518],
        "old": [
            {"pid": 401, "state": "drained", "seconds": 0.31},
            {"pid": 402, "state": "drained", "seconds": 4.12},
            {"pid": 403, "state": "killed", "seconds": 30.04},
        ],
    }
}


COUNTED = ("STARTED", "STOPPED", "SECONDS")


@pytest.mark.parametrize(
    ("old", "words"),
    [
        ([{"pid": 4, "state": "draining", "seconds": 12.0}], "1 still draining after 12.0 s"),
        ([{"pid": 4, "state": "failed", "seconds": 1}], "1 ended with an error after 1.0 s"),
        ([{"pid": 4, "state": "\x1b[31mwell"}], "1 ended in an unknown state"),
        ([{}] * 10**4, "100 ended in an unknown state"),
        (["x", None, 7], "-"),
        ({"pid": 4}, "-"),
        ([], "-"),
    ],
)
def test_ends_of_old_processes_are_shown_whatever_a_host_reports(old: Any, words: str) -> None:
    document = compose({}, {"app1": {**HOST, "processes": {"worker": {**WORKER["worker"], "old": old}}}})
    assert receipt.ended(document["hosts"]["app1"]["processes"]["worker"]) == words
    assert words in receipt.text(document)
    assert Reader(receipt_page.page(document)).open == []


def test_background_processes_are_shown_by_host_and_type() -> None:
    document = compose({}, {"app1": {**HOST, "processes": WORKER}, "app2": HOST})
    lines = receipt.text(document).splitlines()
    (table,) = [number for number, line in enumerate(lines) if line.startswith("HOST  PROCESSES  METHOD ")]
    assert re.split("  +", lines[table]) == [*("HOST", "PROCESSES", "METHOD", "PIDS", "OLD PROCESSES"), *COUNTED]
    ends = "2 drained in 4.1 s, 1 killed after 30.0 s"
    counts = ["2", "3", "5.2"]
    assert re.split("  +", lines[table + 1]) == ["app1", "worker", "overlap", "401 402 403 -> 517 518", ends, *counts]
    assert lines[table + 2] == ""
    words = Reader(receipt_page.page(document)).words
    for word in ("Background processes", "worker", "overlap", "5.2 s", ends):
        assert word in words
    assert "Background processes" not in receipt_page.page(compose({}))


def test_phases_without_a_start_follow_each_other() -> None:
    phases = [*PHASES, {"name": "late", "started": NOON + 50, "seconds": 1}]
    begun = [phase["started"] - NOON for phase in receipt.compose(DEPLOY, {}, {}, phases)["phases"]]
    assert begun == pytest.approx([0, 4.2, 50], abs=0.01)


def test_receipt_has_the_version_of_baton() -> None:
    document = compose({})
    for written in (receipt.text(document), receipt_page.page(document), receipt.as_json(document)):
        assert VERSION in written
    # the receipt of an older Baton, which lacks it
    del document["deploy"]["baton"]
    assert "Baton" not in receipt.text(document)


# the page


class Reader(html.parser.HTMLParser):
    """The elements, attributes and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words = ""
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "rect", "line", "circle", "path"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("rect", "line", "circle", "path"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def test_page_is_complete_and_loads_nothing(edge: Any) -> None:
    written = receipt_page.page(compose({"edge1": edge(*spread(400, NOON, 20), line(NOON + 9, 500))}))
    assert "url(" not in written
    page = Reader(written)
    assert page.open == []
    assert {"script", "link", "img", "iframe"}.isdisjoint(page.elements)
    assert not [name for name, _ in page.attributes if name in ("src", "href") or name.startswith("on")]
    for words in ("links 1.4.2", "deployed", "1 of the 401 requests", "app1", "stage", "/api/links", "reload"):
        assert words in page.words


def test_page_has_a_point_for_each_second_and_a_marker_for_each_handover(edge: Any) -> None:
    hosts = {name: {**HOST, "started": NOON + at} for name, at in (("app1", 9), ("app2", 9.2), ("app3", 15))}
    page = receipt_page.page(compose({"edge1": edge(*spread(400, NOON, 20), line(NOON + 9.5, 500))}, hosts))
    assert page.count('class="hover"') == 20
    assert "12:00:09 UTC: 21 requests, 1 failed" in page
    assert page.count('fill="var(--bad)"') == 1
    rows = dict(re.findall(r'class="name" x="[\d.]+" y="(\d+)">(app\d)<', page))
    assert len({row for row, name in rows.items() if name in ("app1", "app2")}) == 2


def test_untrusted_text_is_escaped_in_the_page(edge: Any) -> None:
    hostile = "<script>alert(1)</script>\"'&<img src=x onerror=x>"
    path = hostile.replace('"', "")
    document = compose(
        {"edge1": edge(line(NOON + 1, 500, path=path)), hostile: {"failed": True, "msg": hostile}},
        {
            hostile: {**HOST, "method": hostile, "previous": hostile, "processes": {hostile: {"method": hostile}}},
            "app2": {"failed": True, "msg": hostile},
        },
        **dict.fromkeys(("application", "result", "release", "version", "who", "where", "reason", "kind"), hostile),
    )
    document["phases"] = [{"name": hostile, "started": NOON, "seconds": 4.0}]
    page = receipt_page.page(document)
    assert "<script" not in page
    assert "<img" not in page
    reader = Reader(page)
    assert reader.open == []
    assert not [name for name, _ in reader.attributes if name.startswith("on")]
    assert reader.words.count("alert(1)") > 10


def test_receipt_without_hosts_phases_or_traffic_has_a_page(edge: Any) -> None:
    document: dict[str, Any] = receipt.compose(
        {"application": "x", "result": "failed", "started": NOON}, {"edge1": edge(line(NOON - 5))}, {}, []
    )
    assert Reader(receipt_page.page(document)).open == []
    assert receipt.text(document)


# storage


def kept(directory: pathlib.Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def keep(directory: pathlib.Path, count: int, **deploy: Any) -> list[pathlib.Path]:
    document = compose({}, **deploy)
    removed: list[pathlib.Path] = receipt.keep(document, receipt_page.page(document), directory, count)
    return removed


def test_receipt_is_named_by_time_application_and_release(tmp_path: pathlib.Path) -> None:
    directory = tmp_path / ".baton" / "receipts"
    keep(directory, 50)
    assert kept(directory) == [f"20251125T120000Z-links-{NEW}.html", f"20251125T120000Z-links-{NEW}.json"]
    document = json.loads((directory / kept(directory)[1]).read_text())
    assert (document["format"], document["deploy"]["result"]) == (1, "deployed")


def test_names_cannot_leave_the_directory(tmp_path: pathlib.Path) -> None:
    keep(tmp_path / "receipts", 50, release="../../etc/x", application="a/../b")
    assert kept(tmp_path) == ["receipts"]
    assert len(kept(tmp_path / "receipts")) == 2


def test_only_the_oldest_receipts_of_the_application_are_removed(tmp_path: pathlib.Path) -> None:
    (tmp_path / "notes.json").write_text("mine")
    keep(tmp_path, 50, application="my-links", started=NOON - 999)
    keep(tmp_path, 50, application="links2", started=NOON - 999)
    for hour in range(5):
        removed = keep(tmp_path, 3, started=NOON + hour * 3600)
    assert [path.name for path in removed] == [f"20251125T130000Z-links-{NEW}.{kind}" for kind in ("json", "html")]
    names = kept(tmp_path)
    assert len([name for name in names if "-links-" in name]) == 6
    assert len([name for name in names if "links2" in name or "my_links" in name]) == 4
    assert "notes.json" in names


def test_directory_that_cannot_be_written_is_reported_with_the_fix(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BatonError, match=r"can't be written to .*Make the directory writable"):
        keep(tmp_path / "file" / "receipts", 50)


@pytest.mark.parametrize(
    ("milliseconds", "words"),
    [
        (None, "-"),
        (0.9, "< 1 ms"),
        (1, "1 ms"),
        (9_999, "9999 ms"),
        (10_000, "10.0 s"),
        (61_500, "61.5 s"),
    ],
)
def test_duration_is_in_milliseconds_below_ten_seconds(milliseconds: float | None, words: str) -> None:
    assert receipt.duration(milliseconds) == words


@pytest.mark.parametrize(("canceled", "reported"), [(1, False), (2, True)])
def test_canceled_requests_are_reported_above_one_percent(edge: Any, canceled: int, reported: bool) -> None:
    answers = edge(*spread(100 - canceled, NOON, 20), *[line(NOON + 10, 499)] * canceled)
    assert ("gave up waiting" in compose({"edge1": answers})["headline"]) is reported


@pytest.mark.parametrize(("seconds", "counted"), [(7 * 86400, True), (7 * 86400 + 1, False)])
def test_times_count_up_to_seven_days_after_the_change(seconds: int, counted: bool) -> None:
    moment = NOON + seconds
    window = access_log.Tally().result() | {"since": NOON, "until": moment}
    result = {"windows": {"during": window}, "timeline": {"step": 1, "points": {str(int(moment)): POINT}}}
    document = compose({"edge1": result})
    assert list(document["timeline"]["points"]) == ([str(int(moment))] if counted else [])
    assert document["windows"]["during"]["until"] == (moment if counted else NOON)


def test_failures_are_counted_per_window(edge: Any) -> None:
    answers = edge(line(NOON - 5, 500), *spread(10, NOON, 20), *[line(NOON + 25, 503)] * 3)
    document = compose({"edge1": answers})
    assert {name: window["failures"] for name, window in document["windows"].items()} == {
        "before": 1,
        "during": 0,
        "after": 3,
    }
    assert document["headline"] == "None of the 10 requests that the edges logged during the change failed."


@pytest.mark.parametrize(
    ("times", "seconds"),
    [({"ended": NOON + 20.44}, 20.4), ({"ended": None, "seconds": 7.25}, 7.2), ({"ended": None}, 0.0)],
)
def test_duration_is_up_to_the_end_or_the_recorded_one(times: dict[str, Any], seconds: float) -> None:
    assert compose({}, **times)["deploy"]["seconds"] == seconds


@pytest.mark.parametrize(
    ("phases", "seconds"),
    [
        ([], []),
        # the last phase is still running
        ([("finish", 0.0)], [20.4]),
        ([("lock", 0.0), ("roll", 9.0), ("finish", 0.0)], [0.0, 9.0, 11.4]),
        ([("lock", 0.0), ("roll", 9.0)], [0.0, 9.0]),
        ([("roll", 30.0), ("finish", 0.0)], [30.0, 0.0]),
    ],
)
def test_running_phase_lasts_until_the_end(phases: list[tuple[str, float]], seconds: list[float]) -> None:
    recorded = [{"name": name, "seconds": duration} for name, duration in phases]
    assert [phase["seconds"] for phase in receipt.compose(DEPLOY, {}, {}, recorded)["phases"]] == seconds


def test_document_has_the_documented_keys() -> None:
    document = compose({})
    assert document["format"] == 1
    assert document["deploy"] == {
        **{key: DEPLOY[key] for key in ("application", "kind", "release", "previous", "version", "who", "where")},
        "reason": "",
        "result": "deployed",
        "baton": VERSION,
        "started": NOON,
        "seconds": 20.4,
    }
    assert receipt.title(document).startswith(f"links 1.4.2 ({NEW}): deployed in 20.4 s, 2025-11-25 12:00:00 UTC")
