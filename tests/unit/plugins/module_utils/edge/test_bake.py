"""Evaluating a release by the edge's log."""

from __future__ import annotations

import http.server
import json
import pathlib
import random
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.edge import access_log, bake

from tests.support.access_log import CANARY, NOON, OTHER, line, write
from tests.support.certificate import issue
from tests.support.clock import Clock
from tests.support.wait import until

NAMED = bake.Named("edge1", ["app1"])


def tally(lines: Iterable[str], upstreams: tuple[str, ...] = (CANARY,)) -> access_log.Tally:
    counted = access_log.Tally(upstreams)
    for one in lines:
        entry = access_log.parse(one.encode())
        assert entry is not None
        counted.add(entry)
    return counted


def verdict(lines: Iterable[str], before: Iterable[str] = (), **limits: Any) -> dict[str, Any]:
    evaluation = bake.Evaluation(NAMED, NOON, tally(before), bake.Limits(**limits), (CANARY,))
    for one in lines:
        entry = access_log.parse(one.encode())
        assert entry is not None
        evaluation.add(entry)
    found: dict[str, Any] = evaluation.verdict(NOON + 10)
    return found


def during(count: int, status: int = 200, wait: float = 0.005, **changed: Any) -> list[str]:
    """Requests spread over the ten seconds of the bake."""
    return [line(NOON + 0.1 + 9.8 * index / count, status, wait, **changed) for index in range(count)]


GOOD_BEFORE = [line(NOON - 30)] * 1000


def test_release_that_answers_as_before_is_good() -> None:
    found = verdict(during(400), GOOD_BEFORE)
    assert (found["ok"], found["quiet"]) == (True, False)
    assert found["message"] == "edge1: 400 requests to app1 in 10 s, 0 answered 5xx, p99 5 ms."


def test_message_names_edge_rate_previous_rate_and_most_frequent_failure() -> None:
    before = [*GOOD_BEFORE[1:], line(NOON - 30, 500)]
    found = verdict([*during(375), *during(30, 500), *during(7, 502, path="/")], before)
    assert not found["ok"]
    assert found["message"] == (
        "edge1: 37 of 412 requests to app1 were answered 5xx (9.0 %; before the deploy 0.1 %), "
        "most often 500 on /api/links."
    )


def test_release_that_only_answers_500_is_bad_at_the_third_request() -> None:
    assert verdict(during(2, 500), GOOD_BEFORE)["ok"]
    assert not verdict(during(3, 500), GOOD_BEFORE)["ok"]
    assert "no earlier requests to compare" in verdict(during(3, 500))["message"]


@pytest.mark.parametrize("share", [0.002, 0.02, 0.05, 0.2])
def test_failure_rate_as_before_is_accepted(share: float) -> None:
    chance = random.Random(11)
    good, bad = (access_log.parse(line(NOON + 1, status).encode()) for status in (200, 500))
    assert good is not None
    assert bad is not None
    before = access_log.Tally()
    for _ in range(3000):
        before.add(bad if chance.random() < share else good)
    for _ in range(100):
        evaluation = bake.Evaluation(NAMED, NOON, before, bake.Limits())
        for number in range(400):
            evaluation.add(bad if chance.random() < share else good)
            if number % 10 == 0:  # as often as a bake evaluates
                assert not evaluation.failing()
    for _ in range(60):
        evaluation.add(bad)
    assert evaluation.failing()


def test_failures_of_other_servers_do_not_count() -> None:
    assert verdict([*during(100), *during(100, 500, upstream=OTHER)], GOOD_BEFORE)["ok"]


def test_canary_whose_requests_others_must_answer_is_bad() -> None:
    saved = during(10, 200, upstream=f"{CANARY}, {OTHER}", upstream_status="502, 200",
                   upstream_header_time="-, 0.004", upstream_response_time="0.000, 0.004")  # fmt: skip
    found = verdict([*during(50), *saved], GOOD_BEFORE)
    assert not found["ok"]
    assert "most often 502 on /api/links" in found["message"]


def test_requests_that_began_before_the_bake_do_not_count() -> None:
    old = [line(NOON + 1, 500, request_time=1.5)] * 10
    assert verdict([*old, *during(30)], GOOD_BEFORE)["requests"] == 30


def test_slow_release_is_bad() -> None:
    found = verdict([*during(370), *during(30, wait=0.7)], GOOD_BEFORE)
    assert not found["ok"]
    assert "took longer than 200 ms (p99 691 ms" in found["message"]
    assert "before the deploy 5 ms" in found["message"]


def test_latency_below_the_floor_is_never_bad() -> None:
    assert verdict(during(400, wait=0.15), GOOD_BEFORE)["ok"]
    assert not verdict(during(400, wait=0.15), GOOD_BEFORE, p99_floor_ms=100)["ok"]


def test_latency_as_before_is_accepted() -> None:
    slow = [line(NOON - 30, wait=0.4)] * 1000
    assert verdict(during(400, wait=0.45), slow)["ok"]
    assert not verdict(during(400, wait=1.5), slow)["ok"]


def test_first_requests_of_cold_workers_do_not_count_as_slow() -> None:
    cold = [line(NOON + 1.9, wait=1.5, request_time=1.5)] * 10
    assert verdict([*cold, *during(100)], GOOD_BEFORE)["ok"]


def test_latency_is_not_evaluated_without_a_baseline() -> None:
    assert verdict(during(400, wait=3.0))["ok"]


def test_quiet_site_is_reported_as_quiet() -> None:
    found = verdict(during(3), GOOD_BEFORE)
    assert (found["ok"], found["quiet"]) == (True, True)
    assert found["message"] == "edge1: only 3 requests to app1 in 10 s, too few to evaluate."
    assert verdict([])["message"] == "edge1: only 0 requests to app1 in 10 s, too few to evaluate."


def test_active_checks_count_for_failures_but_not_as_traffic() -> None:
    ours: dict[str, Any] = {"client": "127.0.0.1", "user_agent": "baton-check"}
    found = verdict(during(30, **ours))
    assert (found["ok"], found["quiet"], found["requests"]) == (True, True, 0)
    assert not verdict(during(3, 503, **ours))["ok"]


def test_baseline_includes_all_servers_if_the_canary_had_few_requests(tmp_path: pathlib.Path) -> None:
    failing = [line(NOON - 9, 500, upstream=OTHER)] * 50
    log = write(tmp_path / "log", [*failing, *[line(NOON - 8, upstream=OTHER)] * 50, line(NOON - 7)])
    before = bake.baseline(log, access_log.Window(NOON - 10, NOON), (CANARY,), bake.Limits())
    assert before.requests == 101
    before = bake.baseline(log, access_log.Window(NOON - 10, NOON), (CANARY,), bake.Limits(min_requests=1))
    assert before.requests == 1


# watching the log


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the bake."""
    fake = Clock(now=NOON)
    monkeypatch.setattr(bake, "time", fake)
    return fake


class Traffic:
    """Writes lines at each pause of the bake: good ones at first, and bad ones after `bad_after` seconds."""

    def __init__(self, path: pathlib.Path, clock: Clock, bad_after: float) -> None:
        self.path, self.lines = path, 0
        self._clock, self._bad_from = clock, clock.now + bad_after
        write(path, [line(clock.now - 20)] * 100)

    def __call__(self) -> None:
        with self.path.open("a") as file:
            moment = self._clock.now + 0.1
            file.write(line(moment, 500 if moment > self._bad_from else 200) * 5)
        self.lines += 5


def watch(path: str, seconds: float, clock: Any, checks: bake.Checks | None = None) -> dict[str, Any]:
    now = clock.time()
    evaluation = bake.Evaluation(NAMED, now, None, bake.Limits(), (CANARY,))
    with access_log.Log(path, now) as log:
        found: dict[str, Any] = bake.watch(log, evaluation, seconds, checks, clock.time)
    return found


def test_bad_release_ends_the_bake_immediately(clock: Clock, tmp_path: pathlib.Path) -> None:
    clock.at_pause = Traffic(tmp_path / "log", clock, bad_after=60)
    found = watch(str(tmp_path / "log"), 3600, clock)
    assert not found["ok"]
    # a few bad answers are needed for certainty
    assert 60 < found["seconds"] < 120


def test_good_release_is_watched_to_the_end(clock: Clock, tmp_path: pathlib.Path) -> None:
    traffic = clock.at_pause = Traffic(tmp_path / "log", clock, bad_after=36000)
    found = watch(str(tmp_path / "log"), 1.2, clock)
    assert found["ok"]
    assert found["seconds"] == 1.2
    assert found["requests"] == traffic.lines > 0


# active checks


class Site(http.server.BaseHTTPRequestHandler):
    hosts: list[str | None]

    def do_GET(self) -> None:
        self.hosts.append(self.headers["Host"])
        assert self.headers["User-Agent"] == access_log.CHECK_AGENT
        limited = self.path == "/limited" and len(self.hosts) > 6  # each request adds two entries
        self.send_response(429 if limited else 503 if self.path == "/broken" else 200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def edge(tmp_path: pathlib.Path) -> Iterator[Any]:
    """A TLS server that records the names that clients request by SNI and Host."""
    certificate, key = issue("other.example.org")
    pem = tmp_path / "pem"
    pem.write_text(key + certificate)
    handler = type("Handler", (Site,), {"hosts": []})
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    context.sni_callback = lambda _, sni, __: handler.hosts.append(sni)  # type: ignore[attr-defined]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_check_requests_the_site_by_sni_and_host(edge: Any) -> None:
    checks = bake.Checks(f"127.0.0.1:{edge.server_port}", "links.example.org", "/", 1)
    assert bake.ask(checks) == ""
    assert edge.RequestHandlerClass.hosts == ["links.example.org", "links.example.org"]


def test_answer_with_any_status_is_an_answer(edge: Any) -> None:
    assert bake.ask(bake.Checks(f"127.0.0.1:{edge.server_port}", "x", "/broken", 1)) == ""


class Checkers:
    """Waits in the bake's pause until all its checker threads have ended."""

    def __init__(self) -> None:
        self.seen: list[bake.Checker] = []

    def __call__(self) -> None:
        self.seen += [thread for thread in threading.enumerate() if isinstance(thread, bake.Checker)]
        for checker in self.seen:
            checker.join(60)
            assert not checker.is_alive()


def test_checks_are_spread_over_the_bake(edge: Any, clock: Clock, tmp_path: pathlib.Path) -> None:
    log = write(tmp_path / "log", [])
    checkers = clock.at_pause = Checkers()
    found = watch(log, 0.1, clock, bake.Checks(f"127.0.0.1:{edge.server_port}", "x", "/", 5))
    assert [checker._pause for checker in checkers.seen] == [0.1 / 5]
    assert (found["ok"], found["quiet"], found["checks"], found["checks_unanswered"]) == (True, True, 5, 0)
    assert "5 of 5 active checks were answered" in found["message"]


def test_rate_limited_checks_become_less_frequent(edge: Any, clock: Clock, tmp_path: pathlib.Path) -> None:
    log = write(tmp_path / "log", [])
    checkers = clock.at_pause = Checkers()
    found = watch(log, 0.03, clock, bake.Checks(f"127.0.0.1:{edge.server_port}", "x", "/limited", 6))
    assert found["ok"]
    assert "3 of 6 active checks were answered, 3 were rejected by a rate limit (429)" in found["message"]
    # the first three are answered; after that, the pause doubles each time
    assert [checker._pause for checker in checkers.seen] == [0.03 / 6 * 2**3]


def test_site_with_enough_traffic_is_not_checked(edge: Any, clock: Clock, tmp_path: pathlib.Path) -> None:
    traffic, checkers = Traffic(tmp_path / "log", clock, bad_after=36000), Checkers()

    def pause() -> None:
        if traffic.lines:
            # a checker that continued would wait for 100 s
            checkers()
            clock.now += 6000
        else:
            until(lambda: edge.RequestHandlerClass.hosts, "no check was sent")
        for _ in range(20):
            traffic()

    clock.at_pause = pause
    checks = bake.Checks(f"127.0.0.1:{edge.server_port}", "x", "/", 60)
    found = watch(str(tmp_path / "log"), 6000, clock, checks)
    assert not found["quiet"]
    assert found["checks"] <= 1


def test_edge_that_does_not_answer_is_bad(tmp_path: pathlib.Path) -> None:
    # the bake is far longer than this test may take
    found = watch(write(tmp_path / "log", []), 36000, time, bake.Checks("127.0.0.1:1", "x", "/health", 360_000))
    assert not found["ok"]
    assert "active checks got no response, the last one 127.0.0.1:1 for x/health: [Errno 111]" in found["message"]


def test_single_unanswered_check_is_bad_if_there_was_no_other() -> None:
    evaluation = bake.Evaluation(NAMED, NOON, None, bake.Limits())
    assert evaluation.verdict(NOON + 1, ["it hangs"], 1, over=False)["ok"]
    assert not evaluation.verdict(NOON + 1, ["it hangs"], 1, over=True)["ok"]
    assert evaluation.verdict(NOON + 1, ["it hangs"], 20, over=True)["ok"]


def test_answers_of_nginx_itself_do_not_count() -> None:
    maintenance = [
        json.loads(one) | {"upstream": "", "upstream_status": "", "upstream_header_time": ""}
        for one in during(300, 503)
    ]
    evaluation = bake.Evaluation(NAMED, NOON, None, bake.Limits())  # a host that is its own edge selects no servers
    for one in [*map(json.dumps, maintenance), *during(30)]:
        entry = access_log.parse(one.encode())
        assert entry is not None
        evaluation.add(entry)
    found = evaluation.verdict(NOON + 10)
    assert (found["ok"], found["requests"], found["failed"]) == (True, 30, 0)


# pure functions


def entries(lines: Iterable[str]) -> list[access_log.Entry]:
    found = [access_log.parse(one.encode()) for one in lines]
    assert None not in found
    return [one for one in found if one is not None]


def evaluation(lines: Iterable[str] = (), before: Iterable[str] | None = None, **limits: Any) -> bake.Evaluation:
    result = bake.Evaluation(NAMED, NOON, None if before is None else tally(before), bake.Limits(**limits), (CANARY,))
    for one in entries(lines):
        result.add(one)
    return result


def test_default_limits() -> None:
    assert bake.Limits() == bake.Limits(
        max_failed_percent=1.0,
        min_failed=3,
        max_p99_factor=3.0,
        p99_floor_ms=200.0,
        min_requests=20,
        settle_seconds=2.0,
    )
    assert (bake.POLL, bake.CHECK_TIMEOUT, bake.SIGNIFICANCE) == (0.2, 5.0, 4.0)


@pytest.mark.parametrize(
    ("servers", "words"), [([], ""), (["app1"], " to app1"), (["app1", "app2", "app3"], " to app1 and app2 and app3")]
)
def test_server_names_in_messages(servers: list[str], words: str) -> None:
    assert bake.Named("edge1", servers).to == words


def test_verdict_in_full() -> None:
    found = evaluation([*during(30), *during(2, 500)], GOOD_BEFORE).verdict(NOON + 12.4, ["it hangs"], 4)
    assert found == {
        "ok": True,
        "quiet": False,
        "message": "edge1: 32 requests to app1 in 12 s, 2 answered 5xx, p99 5 ms.",
        "requests": 32,
        "failed": 2,
        "checks": 4,
        "checks_unanswered": 1,
    }


@pytest.mark.parametrize(("count", "quiet"), [(19, True), (20, False)])
def test_site_is_quiet_below_the_minimum_of_requests(count: int, quiet: bool) -> None:
    assert evaluation(during(count)).verdict(NOON + 10)["quiet"] is quiet


def test_message_of_a_quiet_site_includes_the_checks() -> None:
    quiet = evaluation(during(1))
    message = quiet.verdict(NOON + 10, ["it hangs"], 9, limited=3)["message"]
    assert message == (
        "edge1: only 1 request to app1 in 10 s, too few to evaluate; 5 of 9 active checks were answered, "
        "3 were rejected by a rate limit (429)."
    )
    assert quiet.verdict(NOON + 10, [], 9)["message"].endswith("; 9 of 9 active checks were answered.")


def test_message_about_unanswered_checks() -> None:
    quiet = evaluation()
    assert quiet.unanswered(["a", "b", "c"], 5, False) == "3 of 5 active checks got no response, the last one c"
    assert quiet.unanswered(["a", "b", "c"], 6, True) == ""  # half of them isn't a majority
    assert quiet.unanswered(["a", "b"], 3, False) == ""  # too early to decide
    assert quiet.unanswered(["a", "b"], 3, True) != ""
    assert not quiet.verdict(NOON, ["a", "b", "c"], 5, False)["ok"]


def test_requests_count_from_the_start_of_the_bake() -> None:
    began = line(NOON + 1.0, request_time=1.0)
    assert evaluation([began]).all.requests == 1
    assert evaluation([line(NOON + 1.0, request_time=1.001)]).all.requests == 0
    # their latency counts only after the settling time
    assert evaluation([line(NOON + 3.0, request_time=1.0)]).settled.requests == 1
    assert evaluation([line(NOON + 3.0, request_time=1.002)]).settled.requests == 0


def test_significance_is_four_standard_deviations() -> None:
    # for a count with a mean of 100, four standard deviations are 40
    assert not bake._beyond(140, 10_000, 0.01)
    assert bake._beyond(141, 10_000, 0.01)
    assert not bake._beyond(0, 100, 0.0)
    assert bake._beyond(1, 100, 0.0)


def test_previous_failure_rate_is_added_to_the_limit() -> None:
    before = [*[line(NOON - 30)] * 90, *[line(NOON - 30, 500)] * 10]
    result = evaluation([], before, max_failed_percent=5.0)
    assert result.failed_before == 0.1
    # 15 % of 400 and four standard deviations of that: 60 and 30.98
    assert evaluation([*during(310), *during(90, 500)], before, max_failed_percent=5.0).failing() == ""
    failing = evaluation([*during(309), *during(91, 500)], before, max_failed_percent=5.0).failing()
    assert "(22.8 %; before the deploy 10.0 %)" in failing


def test_no_earlier_requests_yield_no_baseline() -> None:
    result = evaluation([], [])
    assert (result.failed_before, result.p99_before) == (None, None)


def test_latency_is_evaluated_from_a_minimum_of_settled_requests() -> None:
    slow = [line(NOON + 5, wait=0.9, request_time=0.9)]
    assert evaluation(slow * 19, GOOD_BEFORE).slow() == ""
    assert evaluation(slow * 20, GOOD_BEFORE).slow() == (
        "20 of 20 requests to app1 took longer than 200 ms (p99 882 ms; before the deploy 5 ms)"
    )
    # three times the previous latency, if that is above the floor
    before = [line(NOON - 30, wait=0.1)] * 100
    assert "took longer than 294 ms" in evaluation(slow * 20, before).slow()


def test_canary_with_enough_earlier_requests_is_its_own_baseline(tmp_path: pathlib.Path) -> None:
    window = access_log.Window(NOON - 10, NOON)
    others = [line(NOON - 8, upstream=OTHER)] * 5
    nginx = [line(NOON - 8, 503, upstream="", upstream_status="", wait="")] * 7
    enough = write(tmp_path / "enough", [*others, *nginx, *[line(NOON - 7)] * 20])
    assert bake.baseline(enough, window, (CANARY,), bake.Limits()).requests == 20
    few = write(tmp_path / "few", [*others, *nginx, *[line(NOON - 7)] * 19])
    assert bake.baseline(few, window, (CANARY,), bake.Limits()).requests == 24


class FakeNetwork:
    """Replaces the network and the clock: the answer of each check."""

    def __init__(self, checker: bake.Checker, answers: list[str | float], monkeypatch: pytest.MonkeyPatch) -> None:
        self.checker, self.answers, self.now, self.waits = checker, answers, 0.0, []  # type: ignore[var-annotated]
        monkeypatch.setattr(bake, "ask", self.ask)
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(checker.stopped, "wait", self.wait)

    def ask(self, _: bake.Checks) -> str:
        self.now += 0.25
        answer = self.answers.pop(0)
        if isinstance(answer, float):
            raise bake.LimitedError(answer)
        return answer

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        self.now += seconds
        return self.checker.stopped.is_set()


def test_checks_follow_their_interval_and_slow_down_when_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    checker = bake.Checker(bake.Checks("127.0.0.1:1", "x", "/", 5), 5.0)
    network = FakeNetwork(checker, ["", "no answer", 0.0, 9.0, ""], monkeypatch)
    checker.run()
    # every second, then every 2 s, then 4 s, and as late as Retry-After asks
    assert network.waits == [0.75, 0.75, 1.75, 9.0, 0.0]
    assert (checker.asked, checker.refused, checker.limited) == (5, ["no answer"], 2)


def test_check_answered_after_the_end_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    checker = bake.Checker(bake.Checks("127.0.0.1:1", "x", "/", 5), 5.0)
    network = FakeNetwork(checker, [], monkeypatch)

    def late(_: bake.Checks) -> str:
        checker.stopped.set()
        raise bake.LimitedError(1.0)

    monkeypatch.setattr(bake, "ask", late)
    checker.run()
    assert (checker.asked, checker.refused, checker.limited, network.waits) == (0, [], 0, [])


def test_bake_without_checks_sends_none() -> None:
    checker = bake.Checker(bake.Checks("127.0.0.1:1", "x", "/", 0), 5.0)
    checker.run()
    assert (checker.asked, checker.daemon) == (0, True)


def test_bake_without_checks_reports_none(clock: Clock, tmp_path: pathlib.Path) -> None:
    verdict = watch(write(tmp_path / "log", [line(clock.now + 0.1)] * 2), 0.4, clock)
    assert verdict["message"] == "edge1: only 2 requests to app1 in 0 s, too few to evaluate."
    assert (verdict["checks"], verdict["checks_unanswered"]) == (0, 0)
