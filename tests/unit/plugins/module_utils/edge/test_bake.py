"""Judging a release by the edge's log."""

from __future__ import annotations

import datetime
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
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.access_log import CANARY, NOON, OTHER, line, write
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
    judge = bake.Judge(NAMED, NOON, tally(before), bake.Limits(**limits), (CANARY,))
    for one in lines:
        entry = access_log.parse(one.encode())
        assert entry is not None
        judge.add(entry)
    found: dict[str, Any] = judge.verdict(NOON + 10)
    return found


def during(count: int, status: int = 200, wait: float = 0.005, **changed: Any) -> list[str]:
    """Requests spread over the ten seconds of the bake."""
    return [line(NOON + 0.1 + 9.8 * index / count, status, wait, **changed) for index in range(count)]


GOOD_BEFORE = [line(NOON - 30)] * 1000


def test_a_release_that_answers_as_before_is_good() -> None:
    found = verdict(during(400), GOOD_BEFORE)
    assert (found["ok"], found["quiet"]) == (True, False)
    assert found["message"] == "edge1: 400 requests to app1 in 10 s, 0 answered 5xx, p99 5 ms."


def test_the_sentence_names_edge_share_what_was_before_and_what_failed_most() -> None:
    before = [*GOOD_BEFORE[1:], line(NOON - 30, 500)]
    found = verdict([*during(375), *during(30, 500), *during(7, 502, path="/")], before)
    assert not found["ok"]
    assert found["message"] == (
        "edge1: 37 of 412 requests to app1 were answered 5xx (9.0 %; before the deploy 0.1 %), "
        "most often 500 on /api/links."
    )


def test_a_release_that_answers_nothing_but_500_is_bad_at_the_third_request() -> None:
    assert verdict(during(2, 500), GOOD_BEFORE)["ok"]
    assert not verdict(during(3, 500), GOOD_BEFORE)["ok"]
    assert "no earlier requests to compare" in verdict(during(3, 500))["message"]


@pytest.mark.parametrize("share", [0.002, 0.02, 0.05, 0.2])
def test_a_site_that_has_always_failed_a_little_is_not_blamed_for_it(share: float) -> None:
    chance = random.Random(11)
    good, bad = (access_log.parse(line(NOON + 1, status).encode()) for status in (200, 500))
    assert good is not None
    assert bad is not None
    before = access_log.Tally()
    for _ in range(3000):
        before.add(bad if chance.random() < share else good)
    for _ in range(100):
        judge = bake.Judge(NAMED, NOON, before, bake.Limits())
        for number in range(400):
            judge.add(bad if chance.random() < share else good)
            if number % 10 == 0:  # as often as a bake looks
                assert not judge.failing()
    for _ in range(60):
        judge.add(bad)
    assert judge.failing()


def test_failures_of_other_servers_are_not_the_canarys() -> None:
    assert verdict([*during(100), *during(100, 500, upstream=OTHER)], GOOD_BEFORE)["ok"]


def test_a_canary_whose_requests_others_must_answer_is_bad() -> None:
    saved = during(10, 200, upstream=f"{CANARY}, {OTHER}", upstream_status="502, 200",
                   upstream_header_time="-, 0.004", upstream_response_time="0.000, 0.004")  # fmt: skip
    found = verdict([*during(50), *saved], GOOD_BEFORE)
    assert not found["ok"]
    assert "most often 502 on /api/links" in found["message"]


def test_a_request_that_began_under_the_old_release_is_not_the_new_ones() -> None:
    old = [line(NOON + 1, 500, request_time=1.5)] * 10
    assert verdict([*old, *during(30)], GOOD_BEFORE)["requests"] == 30


def test_a_slow_release_is_bad() -> None:
    found = verdict([*during(370), *during(30, wait=0.7)], GOOD_BEFORE)
    assert not found["ok"]
    assert "took longer than 200 ms (p99 691 ms" in found["message"]
    assert "before the deploy 5 ms" in found["message"]


def test_what_is_quick_enough_is_never_bad() -> None:
    assert verdict(during(400, wait=0.15), GOOD_BEFORE)["ok"]
    assert not verdict(during(400, wait=0.15), GOOD_BEFORE, p99_floor_ms=100)["ok"]


def test_a_site_that_has_always_been_slow_is_not_blamed_for_it() -> None:
    slow = [line(NOON - 30, wait=0.4)] * 1000
    assert verdict(during(400, wait=0.45), slow)["ok"]
    assert not verdict(during(400, wait=1.5), slow)["ok"]


def test_cold_workers_first_requests_are_no_slowness() -> None:
    cold = [line(NOON + 1.9, wait=1.5, request_time=1.5)] * 10
    assert verdict([*cold, *during(100)], GOOD_BEFORE)["ok"]


def test_without_a_time_before_slowness_is_not_judged() -> None:
    assert verdict(during(400, wait=3.0))["ok"]


def test_a_quiet_site_is_said_to_be_quiet() -> None:
    found = verdict(during(3), GOOD_BEFORE)
    assert (found["ok"], found["quiet"]) == (True, True)
    assert found["message"] == "edge1: only 3 requests to app1 in 10 s, too few to judge."
    assert verdict([])["message"] == "edge1: only 0 requests to app1 in 10 s, too few to judge."


def test_active_checks_are_judged_but_make_no_site_busy() -> None:
    ours: dict[str, Any] = {"client": "127.0.0.1", "user_agent": "baton-check"}
    found = verdict(during(30, **ours))
    assert (found["ok"], found["quiet"], found["requests"]) == (True, True, 0)
    assert not verdict(during(3, 503, **ours))["ok"]


def test_a_server_that_was_hardly_asked_before_is_compared_with_all(tmp_path: pathlib.Path) -> None:
    failing = [line(NOON - 9, 500, upstream=OTHER)] * 50
    log = write(tmp_path / "log", [*failing, *[line(NOON - 8, upstream=OTHER)] * 50, line(NOON - 7)])
    before = bake.baseline(log, access_log.Window(NOON - 10, NOON), (CANARY,), bake.Limits())
    assert before.requests == 101
    before = bake.baseline(log, access_log.Window(NOON - 10, NOON), (CANARY,), bake.Limits(min_requests=1))
    assert before.requests == 1


# watching


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of what watches."""
    stands = Clock(now=NOON)
    monkeypatch.setattr(bake, "time", stands)
    return stands


class Traffic:
    """Writes a line at each pause of who watches: good ones until so many seconds have gone by, then bad ones."""

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
    judge = bake.Judge(NAMED, now, None, bake.Limits(), (CANARY,))
    with access_log.Log(path, now) as log:
        found: dict[str, Any] = bake.watch(log, judge, seconds, checks, clock.time)
    return found


def test_a_bad_release_ends_the_bake_at_once(clock: Clock, tmp_path: pathlib.Path) -> None:
    clock.at_pause = Traffic(tmp_path / "log", clock, bad_after=60)
    found = watch(str(tmp_path / "log"), 3600, clock)
    assert not found["ok"]
    # some bad answers are needed to be sure
    assert 60 < found["seconds"] < 120


def test_a_good_release_is_watched_to_the_end(clock: Clock, tmp_path: pathlib.Path) -> None:
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
        limited = self.path == "/limited" and len(self.hosts) > 6  # each request is noted twice
        self.send_response(429 if limited else 503 if self.path == "/broken" else 200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def edge(tmp_path: pathlib.Path) -> Iterator[Any]:
    """A TLS server; says the names that clients asked for by SNI and by Host."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "other.example.org")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1)).sign(key, hashes.SHA256())
    )  # fmt: skip
    pem = tmp_path / "pem"
    pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
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


def test_a_check_asks_for_the_site_by_sni_and_host(edge: Any) -> None:
    checks = bake.Checks(f"127.0.0.1:{edge.server_port}", "links.example.org", "/", 1)
    assert bake.ask(checks) == ""
    assert edge.RequestHandlerClass.hosts == ["links.example.org", "links.example.org"]


def test_an_answer_of_whatever_status_is_one_that_the_log_judges(edge: Any) -> None:
    assert bake.ask(bake.Checks(f"127.0.0.1:{edge.server_port}", "x", "/broken", 1)) == ""


class Checkers:
    """Those that ask the edge while it is watched; the pause ends when they have ended."""

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


def test_a_site_that_is_asked_too_often_is_asked_less(edge: Any, clock: Clock, tmp_path: pathlib.Path) -> None:
    log = write(tmp_path / "log", [])
    checkers = clock.at_pause = Checkers()
    found = watch(log, 0.03, clock, bake.Checks(f"127.0.0.1:{edge.server_port}", "x", "/limited", 6))
    assert found["ok"]
    assert "3 of 6 active checks were answered, 3 refused as too many (429)" in found["message"]
    # the first three are answered; then the pause doubles each time
    assert [checker._pause for checker in checkers.seen] == [0.03 / 6 * 2**3]


def test_a_site_that_others_ask_enough_is_not_asked(edge: Any, clock: Clock, tmp_path: pathlib.Path) -> None:
    traffic, checkers = Traffic(tmp_path / "log", clock, bad_after=36000), Checkers()

    def pause() -> None:
        if traffic.lines:
            # who would go on to ask has 100 s to wait
            checkers()
            clock.now += 6000
        else:
            until(lambda: edge.RequestHandlerClass.hosts, "nobody has asked")
        for _ in range(20):
            traffic()

    clock.at_pause = pause
    checks = bake.Checks(f"127.0.0.1:{edge.server_port}", "x", "/", 60)
    found = watch(str(tmp_path / "log"), 6000, clock, checks)
    assert not found["quiet"]
    assert found["checks"] <= 1


def test_an_edge_that_does_not_answer_is_bad(tmp_path: pathlib.Path) -> None:
    # it ends long before its time, or not within this test's
    found = watch(write(tmp_path / "log", []), 36000, time, bake.Checks("127.0.0.1:1", "x", "/health", 360_000))
    assert not found["ok"]
    assert "active checks got no answer, the last one 127.0.0.1:1 for x/health: [Errno 111]" in found["message"]


def test_a_single_check_without_an_answer_is_bad_when_there_was_no_other() -> None:
    judge = bake.Judge(NAMED, NOON, None, bake.Limits())
    assert judge.verdict(NOON + 1, ["it hangs"], 1, over=False)["ok"]
    assert not judge.verdict(NOON + 1, ["it hangs"], 1, over=True)["ok"]
    assert judge.verdict(NOON + 1, ["it hangs"], 20, over=True)["ok"]


def test_what_nginx_answers_by_itself_says_nothing_of_the_release() -> None:
    maintenance = [
        json.loads(one) | {"upstream": "", "upstream_status": "", "upstream_header_time": ""}
        for one in during(300, 503)
    ]
    judge = bake.Judge(NAMED, NOON, None, bake.Limits())  # a host that is its own edge has no names of servers
    for one in [*map(json.dumps, maintenance), *during(30)]:
        entry = access_log.parse(one.encode())
        assert entry is not None
        judge.add(entry)
    found = judge.verdict(NOON + 10)
    assert (found["ok"], found["requests"], found["failed"]) == (True, 30, 0)


# without a clock


def entries(lines: Iterable[str]) -> list[access_log.Entry]:
    found = [access_log.parse(one.encode()) for one in lines]
    assert None not in found
    return [one for one in found if one is not None]


def judge(lines: Iterable[str] = (), before: Iterable[str] | None = None, **limits: Any) -> bake.Judge:
    made = bake.Judge(NAMED, NOON, None if before is None else tally(before), bake.Limits(**limits), (CANARY,))
    for one in entries(lines):
        made.add(one)
    return made


def test_what_is_bad_unless_told_otherwise() -> None:
    assert bake.Limits() == bake.Limits(
        max_failed_percent=1.0,
        min_failed=3,
        max_p99_factor=3.0,
        p99_floor_ms=200.0,
        min_requests=20,
        settle_seconds=2.0,
    )
    assert (bake.POLL, bake.CHECK_TIMEOUT, bake.SURE) == (0.2, 5.0, 4.0)


@pytest.mark.parametrize(
    ("servers", "words"), [([], ""), (["app1"], " to app1"), (["app1", "app2", "app3"], " to app1 and app2 and app3")]
)
def test_whom_the_requests_went_to(servers: list[str], words: str) -> None:
    assert bake.Named("edge1", servers).to == words


def test_a_verdict_in_full() -> None:
    found = judge([*during(30), *during(2, 500)], GOOD_BEFORE).verdict(NOON + 12.4, ["it hangs"], 4)
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
def test_from_so_many_requests_on_a_site_is_not_quiet(count: int, quiet: bool) -> None:
    assert judge(during(count)).verdict(NOON + 10)["quiet"] is quiet


def test_a_quiet_site_tells_of_the_checks_in_full() -> None:
    quiet = judge(during(1))
    told = quiet.verdict(NOON + 10, ["it hangs"], 9, limited=3)["message"]
    assert told == (
        "edge1: only 1 request to app1 in 10 s, too few to judge; 5 of 9 active checks were answered, "
        "3 refused as too many (429)."
    )
    assert quiet.verdict(NOON + 10, [], 9)["message"].endswith("; 9 of 9 active checks were answered.")


def test_checks_that_got_no_answer_are_counted_in_words() -> None:
    quiet = judge()
    assert quiet.unanswered(["a", "b", "c"], 5, False) == "3 of 5 active checks got no answer, the last one c"
    assert quiet.unanswered(["a", "b", "c"], 6, True) == ""  # a half is not most
    assert quiet.unanswered(["a", "b"], 3, False) == ""  # too early to say
    assert quiet.unanswered(["a", "b"], 3, True) != ""
    assert not quiet.verdict(NOON, ["a", "b", "c"], 5, False)["ok"]


def test_what_began_before_the_bake_is_not_counted_and_what_began_with_it_is() -> None:
    began = line(NOON + 1.0, request_time=1.0)
    assert judge([began]).all.requests == 1
    assert judge([line(NOON + 1.0, request_time=1.001)]).all.requests == 0
    # for the latency it counts from the end of the settling on
    assert judge([line(NOON + 3.0, request_time=1.0)]).settled.requests == 1
    assert judge([line(NOON + 3.0, request_time=1.002)]).settled.requests == 0


def test_more_than_chance_explains() -> None:
    # four standard deviations of a count whose mean is 100 are 40
    assert not bake._beyond(140, 10_000, 0.01)
    assert bake._beyond(141, 10_000, 0.01)
    assert not bake._beyond(0, 100, 0.0)
    assert bake._beyond(1, 100, 0.0)


def test_what_failed_before_is_allowed_besides_the_limit() -> None:
    before = [*[line(NOON - 30)] * 90, *[line(NOON - 30, 500)] * 10]
    made = judge([], before, max_failed_percent=5.0)
    assert made.failed_before == 0.1
    # 15 % of 400 and four standard deviations of that: 60 and 30.98
    assert judge([*during(310), *during(90, 500)], before, max_failed_percent=5.0).failing() == ""
    failing = judge([*during(309), *during(91, 500)], before, max_failed_percent=5.0).failing()
    assert "(22.8 %; before the deploy 10.0 %)" in failing


def test_without_a_request_before_there_is_nothing_to_compare_with() -> None:
    made = judge([], [])
    assert (made.failed_before, made.p99_before) == (None, None)


def test_slowness_is_judged_from_so_many_settled_requests_on() -> None:
    slow = [line(NOON + 5, wait=0.9, request_time=0.9)]
    assert judge(slow * 19, GOOD_BEFORE).slow() == ""
    assert judge(slow * 20, GOOD_BEFORE).slow() == (
        "20 of 20 requests to app1 took longer than 200 ms (p99 882 ms; before the deploy 5 ms)"
    )
    # three times what it was before, where that is more than the floor
    before = [line(NOON - 30, wait=0.1)] * 100
    assert "took longer than 294 ms" in judge(slow * 20, before).slow()


def test_a_server_that_was_asked_enough_before_is_compared_with_itself(tmp_path: pathlib.Path) -> None:
    window = access_log.Window(NOON - 10, NOON)
    others = [line(NOON - 8, upstream=OTHER)] * 5
    nginx = [line(NOON - 8, 503, upstream="", upstream_status="", wait="")] * 7
    enough = write(tmp_path / "enough", [*others, *nginx, *[line(NOON - 7)] * 20])
    assert bake.baseline(enough, window, (CANARY,), bake.Limits()).requests == 20
    few = write(tmp_path / "few", [*others, *nginx, *[line(NOON - 7)] * 19])
    assert bake.baseline(few, window, (CANARY,), bake.Limits()).requests == 24


class Asked:
    """Takes the place of the network: what each check gets."""

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


def test_checks_are_asked_at_their_times_and_less_often_when_they_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    checker = bake.Checker(bake.Checks("127.0.0.1:1", "x", "/", 5), 5.0)
    asked = Asked(checker, ["", "no answer", 0.0, 9.0, ""], monkeypatch)
    checker.run()
    # one a second, then one in two, then in four, and as late as it wishes
    assert asked.waits == [0.75, 0.75, 1.75, 9.0, 0.0]
    assert (checker.asked, checker.refused, checker.limited) == (5, ["no answer"], 2)


def test_a_check_that_is_answered_after_the_end_counts_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    checker = bake.Checker(bake.Checks("127.0.0.1:1", "x", "/", 5), 5.0)
    asked = Asked(checker, [], monkeypatch)

    def late(_: bake.Checks) -> str:
        checker.stopped.set()
        raise bake.LimitedError(1.0)

    monkeypatch.setattr(bake, "ask", late)
    checker.run()
    assert (checker.asked, checker.refused, checker.limited, asked.waits) == (0, [], 0, [])


def test_a_bake_of_no_checks_asks_nothing() -> None:
    checker = bake.Checker(bake.Checks("127.0.0.1:1", "x", "/", 0), 5.0)
    checker.run()
    assert (checker.asked, checker.daemon) == (0, True)


def test_bake_without_checks_tells_of_none(clock: Clock, tmp_path: pathlib.Path) -> None:
    found = watch(write(tmp_path / "log", [line(clock.now + 0.1)] * 2), 0.4, clock)
    assert found["message"] == "edge1: only 2 requests to app1 in 0 s, too few to judge."
    assert (found["checks"], found["checks_unanswered"]) == (0, 0)
