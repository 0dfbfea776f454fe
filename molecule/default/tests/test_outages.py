"""Outages of what the application depends on: Redis, PostgreSQL, another site. All under light traffic."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import pathlib
import re
import secrets
import shlex
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest

from tests.support.wait import until

from .conftest import APP_SERVERS, NAME, Edge, enqueue_pauses, journal, other, status

pytestmark = pytest.mark.hosts("edge1")

LONG = "BATON_TEST_LONG" in os.environ
SECONDS = 20 if LONG else 1  # that a service is stopped, at least
SITE_PORT = 8099
SITE_FOLDER = "/run/third-party"
SITE = (pathlib.Path(__file__).parent / "on_host/third_party.py").read_text()
# on an app server: request a title four times on one connection, so of one worker; with `recover`, let the site answer
# then, and request it until it does. Prints each status and reason, and how often the site had been asked.
FETCH = """
import http.client, json, pathlib, sys, time
address, name, folder, path, *recover = sys.argv[1:]
connection = http.client.HTTPConnection(address, 8000, timeout=600)
seen = []
def fetch():
    connection.request("GET", path, headers={"Host": name})
    answer = connection.getresponse()
    body = json.loads(answer.read())
    seen.append([answer.status, body.get("detail"), int((pathlib.Path(folder) / "asked").read_text())])
for _ in range(4):
    fetch()
if recover:
    (pathlib.Path(folder) / "next").write_text("answer")
    (pathlib.Path(folder) / "next").rename(pathlib.Path(folder) / "mode")
    while seen[-1][0] != 200:
        # shorter than the server's keep-alive
        time.sleep(0.5)
        fetch()
print(json.dumps(seen))
"""
# on an app server: its own readiness
READY = """
import json, sys, urllib.error, urllib.request
request = urllib.request.Request(f"http://{sys.argv[1]}:8000/readyz", headers={"Host": sys.argv[2]})
try:
    answer = urllib.request.urlopen(request, timeout=600)
except urllib.error.HTTPError as error:
    answer = error
print(json.dumps([answer.status, json.load(answer)["checks"]]))
"""
WELL = [200, {"database": "ok", "schema": "ok", "redis": "ok"}]


class Service(NamedTuple):
    """A service that the application needs."""

    unit: str
    checks: dict[str, str]  # of /readyz while it is stopped
    affected: set[str]  # the pages that need it, besides /readyz


SERVICES = {
    "Redis": Service(
        "redis-server@links.service",
        {"database": "ok", "schema": "ok", "redis": "unreachable"},
        {"POST /api/reports"},
    ),
    "PostgreSQL": Service(
        "postgresql@17-main.service",
        {"database": "unreachable", "schema": "unknown", "redis": "ok"},
        {"GET /", "GET /api/links", "GET /{slug}"},
    ),
}
# the status of each page that needs no third party
OTHERS = {"/": 200, "/api/links": 200, "/{slug}": 307, "/healthz": 200, "/readyz": 200}
CLIENTS, ROUNDS = 10, 3
PAGES = ["GET /", "GET /api/links", "GET /{slug}", "GET /healthz", "GET /readyz", "POST /api/reports"]


def ready(name: str) -> Any:
    """The status and the checks of an app server's readiness page."""
    address = other(name).ansible.get_variables()["fleet_address"]
    return json.loads(other(name).check_output("python3 -c %s %s %s", READY, address, NAME))


def until_ready(expected: list[Any]) -> None:
    until(lambda: [ready(name) for name in APP_SERVERS] == [expected] * 2, f"not both app servers report {expected}")


def processes() -> list[Any]:
    """The pids of all masters and workers, and how often systemd has restarted Celery's."""
    restarts = "systemctl show --property=MainPID --property=NRestarts links.service 'links-worker@*'"
    web = [sorted(worker["pid"] for worker in status(name)["workers"]) for name in APP_SERVERS]
    return [*web, *(other(name).check_output(restarts) for name in APP_SERVERS)]


@contextlib.contextmanager
def visitors(edge: Edge, slug: str) -> Iterator[dict[str, list[httpx.Response]]]:
    """Clients that request all pages again and again during the block: the answers of each."""
    answers: dict[str, list[httpx.Response]] = {page: [] for page in PAGES}
    ended = threading.Event()

    def visit(page: str) -> None:
        method, path = page.split()
        while not ended.wait(0.3):
            answers[page].append(edge(path.format(slug=slug), method))

    with concurrent.futures.ThreadPoolExecutor(len(PAGES)) as pool:
        visiting = [pool.submit(visit, page) for page in PAGES]
        try:
            yield answers
        finally:
            ended.set()
        for one in visiting:
            one.result()


def all_visited(answers: dict[str, list[httpx.Response]]) -> None:
    """Wait until each page has been requested and answered from now on."""
    before = {page: len(found) for page, found in answers.items()}
    # the first of them may have been sent before
    until(lambda: all(len(found) > before[page] + 1 for page, found in answers.items()), "a page isn't answered")


def reasons(since: float, request_id: str) -> list[str]:
    """The logged reasons for which a request wasn't served."""

    def found() -> list[str]:
        lines = [one["MESSAGE"] for one in journal("links.service", since, request_id)]
        return [line for line in lines if re.search("needs the database|can't be enqueued", line)]

    return list(until(found, f"no reason is logged for the request {request_id}"))


def ended_pauses(since: float) -> set[str]:
    """The ids of the pauses that have ended."""
    lines = [one["MESSAGE"] for one in journal("links-worker@*", since, "pause.* succeeded in")]
    return {line.partition("[")[2].partition("]")[0] for line in lines}


@pytest.fixture(params=list(SERVICES.values()), ids=list(SERVICES))
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    found: Service = request.param
    yield found
    # if the test has failed
    other("data1").check_output(f"systemctl start {found.unit}")


def test_outage_costs_only_explained_503s(edge: Edge, service: Service) -> None:
    data1 = other("data1")
    slug = edge("/api/links", "POST", json={"url": "https://example.org/"}).json()["slug"]
    begin = time.time()
    # a number of seconds that no other test uses: each worker runs one of these jobs when the service is interrupted
    jobs = enqueue_pauses(23, times=2)
    until(lambda: len(journal("links-worker@*", begin, "Pausing for 23 s")) >= 2, "the jobs don't start")
    before = processes()
    with visitors(edge, slug) as answers:
        all_visited(answers)
        data1.check_output(f"systemctl restart {service.unit}")
        until_ready(WELL)
        data1.check_output(f"systemctl stop {service.unit}")
        until_ready([503, service.checks])
        all_visited(answers)
        # not to wait for something: it is the length of the outage
        time.sleep(SECONDS)
        data1.check_output(f"systemctl start {service.unit}")
        until_ready(WELL)
        back = {page: len(found) for page, found in answers.items()}
        all_visited(answers)
    assert processes() == before
    failed = {
        page: [answer for answer in found if answer.status_code not in (200, 202, 307)]
        for page, found in answers.items()
    }
    assert {page for page, found in failed.items() if found} == {*service.affected, "GET /readyz"}
    for page, found in failed.items():
        wanted = (503, "application/json", None if page == "GET /readyz" else "5")
        assert {
            (answer.status_code, answer.headers["content-type"], answer.headers.get("retry-after")) for answer in found
        } <= {wanted}
        assert all(answer.headers["x-request-id"] for answer in found)
        # the last ones were sent after the end of the outage
        assert answers[page][-1] not in found
        assert len(answers[page]) > back[page]
    # the reason is logged with the request's id
    for page in service.affected:
        answer = failed[page][0]
        assert "detail" in answer.json()
        assert len(reasons(begin, answer.headers["x-request-id"])) == 1, page

    def details() -> str:
        logged = "\n".join(one["MESSAGE"] for one in journal("links-worker@*", begin, "."))
        return f": {jobs - ended_pauses(begin)}\n{logged}"

    until(lambda: jobs <= ended_pauses(begin), "jobs that ran at the restart don't end", details)


class ThirdParty:
    """A site on each app server, at the same local address, that hangs, fails or answers."""

    def set(self, mode: str) -> None:
        """`hang`, `fail` or `answer`; requests that hang are then answered in this way."""
        for name in APP_SERVERS:
            other(name).check_output(f"cd {SITE_FOLDER} && echo {mode} > next && mv next mode")

    def asked(self) -> int:
        """How many requests it has received."""
        return sum(int(other(name).check_output(f"cat {SITE_FOLDER}/asked")) for name in APP_SERVERS)


@pytest.fixture
def third_party() -> Iterator[ThirdParty]:
    words = shlex.join(["python3", "-c", SITE, SITE_FOLDER, str(SITE_PORT)])
    for name in APP_SERVERS:
        other(name).check_output(f"mkdir -p {SITE_FOLDER} && cd {SITE_FOLDER} && echo hang > mode && echo 0 > asked")
        other(name).check_output(f"systemd-run --quiet --collect --unit=third-party {words}")
    yield ThirdParty()
    for name in APP_SERVERS:
        other(name).check_output(f"systemctl stop third-party; rm -r {SITE_FOLDER}")


def link_to_third_party(edge: Edge) -> str:
    # an address of its own, as titles are cached
    url = f"http://127.0.0.1:{SITE_PORT}/{secrets.token_hex(4)}"
    return str(edge("/api/links", "POST", json={"url": url}).json()["slug"])


def visit_others(edge: Edge, slug: str) -> None:
    """Let several clients request the pages that need no third party, so that they reach all workers."""

    def visit(_: int) -> None:
        for path, expected in [*OTHERS.items()] * ROUNDS:
            assert edge(path.format(slug=slug)).status_code == expected, path

    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(visit, range(CLIENTS)))


def test_hanging_third_party_does_not_affect_other_pages(edge: Edge, third_party: ThirdParty) -> None:
    slug, fetches = link_to_third_party(edge), 12
    with concurrent.futures.ThreadPoolExecutor(fetches) as pool:
        fetching = [pool.submit(edge, f"/api/links/{slug}/title") for _ in range(fetches)]

        def settled() -> bool:
            return third_party.asked() + sum(one.done() for one in fetching) >= fetches

        try:
            until(settled, "not all titles are fetched or refused")
            hanging = [one for one in fetching if not one.done()]
            visit_others(edge, slug)
            # the visits have ended before any of these requests: none waited for the third party
            still = [one for one in hanging if not one.done()]
        finally:
            third_party.set("answer")
    # at least as many as one worker fetches at the same time
    assert len(hanging) >= 4
    assert still == hanging
    assert [one.result().json() for one in hanging] == [{"title": "A third party"}] * len(hanging)
    refused = [one.result() for one in fetching if one not in hanging]
    assert {(one.status_code, one.headers["retry-after"]) for one in refused} <= {(503, "30")}


def test_breaker_opens_for_failing_third_party_and_closes(edge: Edge, third_party: ThirdParty) -> None:
    """`make test` doesn't wait until it closes."""
    third_party.set("fail")
    app1 = other("app1")
    path = f"/api/links/{link_to_third_party(edge)}/title"
    words = [app1.ansible.get_variables()["fleet_address"], NAME, SITE_FOLDER, path, *(["recover"] if LONG else [])]
    seen = json.loads(app1.check_output(shlex.join(["python3", "-c", FETCH, *words])))
    assert [code for code, *_ in seen[:4]] == [503] * 4
    expected = ["doesn't answer correctly"] * 3 + ["has failed several times"]
    assert all(reason in detail for reason, (_, detail, _) in zip(expected, seen[:4], strict=True)), seen
    asked = [count for *_, count in seen]
    assert asked[3] == asked[2] > asked[1] > asked[0]
    if LONG:
        # skipped for a while, then asked once
        assert {code for code, *_ in seen[3:-1]} == {503}
        assert ({*asked[3:-1]}, asked[-1]) == ({asked[3]}, asked[3] + 1)
