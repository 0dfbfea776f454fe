"""The page of `make security`: shows the tools' results unchanged, and lists results that miss their targets."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import pytest

from tests.bench.controller import BenchError
from tests.bench.security import injection, load, measure, report
from tests.bench.security.hosts import NAME
from tests.support import ports

FOUND = (
    "# Nmap 7.95 scan initiated\nHost: 10.0.0.11 ()\tStatus: Up\nHost: 10.0.0.11 ()\tPorts: 22/open/tcp//ssh///, "
    "80/open/tcp//http///, 443/open/tcp//https///, 8081/{}/tcp/////\tIgnored State: filtered (1024)\n# Nmap done\n"
)


ASKED = load.Asked(number=50, failed=0, median=0.01, p95=0.02, slowest=0.03)
OVERLOAD = load.Overload(
    capacity=200.0,
    offered=410.0,
    connections=720,
    answered=6000,
    refused=6000,
    refused_by_application=12,
    other=0,
    without_retry_after=0,
    refused_slowest=0.2,
    stranger_refused_slowest=0.4,
    health=ASKED,
    workers_lost=0,
    before=ASKED,
    after=ASKED,
)


def release(name: str = "Debian 13.2", **changed: Any) -> measure.Release:
    suites = {"SSL 2.0": [], "SSL 3.0": [], "TLS 1.0": [], "TLS 1.1": [], "TLS 1.2": ["A"], "TLS 1.3": ["B", "C"]}
    given: dict[str, Any] = {
        "name": name,
        "versions": {"nginx": "1.26.3-3"},
        "tls_versions": suites,
        "key_exchange": "X25519MLKEM768",
        "judgements": [measure.Judgement("Mozilla 6.0 intermediate", [])],
        "exposure": {"links.service": 1.4, "nginx.service": 3.9},
        "scans": [measure.Scan("edge1", "data1", protocol, [22, 80, 443], [], 1025) for protocol in ("IPv4", "IPv6")],
        "answers": {"chunked_01": [400], "trailer": [404, 400], "relative": []},
        "grade": measure.Grade("A+", [["cert_revocation", "HIGH", "Neither CRL nor OCSP URI provided"]]),
        "http2_answers": {"CRLF in a value": [400], "te": [200], "NUL in a name": []},
        "http2_injected": 0,
        "overload": OVERLOAD,
        "slow": [load.Slow("500 slow readers", 200, ASKED)],
    }
    return measure.Release(**given | changed)


def overloaded(**changed: Any) -> dict[str, Any]:
    return {"overload": dataclasses.replace(OVERLOAD, **changed)}


def document(*releases: measure.Release) -> report.Document:
    machine = {"os": "Debian GNU/Linux 12", "kernel": "6.1"}
    return report.Document(0.0, 600, machine, {"sslyze": "6.3.1"}, "elsewhere", 3.0, list(releases))


def test_each_figure_is_shown_beside_that_of_the_other_release() -> None:
    older = release(
        "Debian 12.12",
        key_exchange="X25519",
        exposure={"links.service": 1.3},
        answers={"chunked_01": [400], "trailer": [400], "relative": []},
    )
    page = report.markdown(document(older, release()))
    for line in (
        "|  | Debian 12.12 | Debian 13.2 |",
        "| Mozilla 6.0 intermediate | compliant | compliant |",
        "| TLS 1.1 | refused | refused |",
        "| TLS 1.3 | B, C | B, C |",
        "| key exchange with OpenSSL's own client | X25519 | X25519MLKEM768 |",
        "| links.service | 1.5 | 1.3 | 1.4 |",
        "| nginx.service | 4.0 |  | 3.9 |",
        "| edge1 from data1, IPv6 | 22, 80, 443 | 22, 80, 443 (1025 dropped) | 22, 80, 443 (1025 dropped) |",
        "| refused | 2 | 1 |",
        "| closed or left without an answer | 1 | 1 |",
        "| accepted | 0 | 1 |",
        "| `trailer` | 400 | 404, 400 |",
        "| sslyze | 6.3.1 | 6.3.1 |",
        "| nginx | 1.26.3-3 | 1.26.3-3 |",
        "| grade | A+ | A+ | A+ |",
        "- `cert_revocation` HIGH: Neither CRL nor OCSP URI provided",
        "| refused with 503 |  | 50% | 50% |",
        "| of these by the application itself |  | 12 | 12 |",
        "| `/readyz` failed | 0 | 0 of 50 | 0 of 50 |",
        "| 500 slow readers | all | 50 of 50, 200 connections | 50 of 50, 200 connections |",
        "None: all figures meet their targets.",
    ):
        assert line in page.splitlines()
    assert "A connection without data for 3 s" in page
    assert "1970-01-01 in 10 minutes" in page
    assert "`chunked_01`" not in page


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (
            {"judgements": [measure.Judgement("Mozilla 6.0", ["ciphers: X is supported."])]},
            "Mozilla 6.0: ciphers: X is supported",
        ),
        ({"tls_versions": release().tls_versions | {"TLS 1.1": ["A"]}}, "TLS 1.1 is accepted"),
        ({"exposure": {"nginx.service": 4.1}}, "nginx.service has an exposure of 4.1, above the limit of 4.0"),
        (
            {"exposure": {"links-worker@.service": 1.6}},
            "links-worker@.service has an exposure of 1.6, above the limit of 1.5",
        ),
        (
            {"scans": [measure.Scan("app1", "data1", "IPv6", [22, 8000], [], 0)]},
            "app1 has 22, 8000 open over IPv6, instead of 22",
        ),
        (
            {"scans": [measure.Scan("app1", "data1", "IPv4", [22], [8081], 0)]},
            "app1 answers on closed ports over IPv4: 8081",
        ),
        ({"answers": {"chunked_01": [502]}}, "the invalid request chunked_01 was answered 502"),
        ({"http2_answers": {"te": [500]}}, "the HTTP/2 request te was answered 500"),
        ({"http2_answers": {"te": [200, 400]}}, "the HTTP/2 request te had several answers: 200, 400"),
        ({"http2_injected": 1}, "the application got 1 injected requests over HTTP/2"),
        ({"grade": measure.Grade("A", [])}, "testssl.sh grades A, instead of A+"),
        (
            {"grade": measure.Grade("A+", [["BEAST", "MEDIUM", "vulnerable."]])},
            "testssl.sh: BEAST MEDIUM: vulnerable",
        ),
        (
            # testssl.sh trusts the fleet's authority
            {"grade": measure.Grade("A+", [["cert_chain_of_trust", "CRITICAL", "failed (chain incomplete)."]])},
            "testssl.sh: cert_chain_of_trust CRITICAL: failed (chain incomplete)",
        ),
        (
            {"slow": [load.Slow("500 slow readers", 500, dataclasses.replace(ASKED, failed=3))]},
            "3 of 50 strangers' requests failed during 500 slow readers",
        ),
        (overloaded(offered=399.0), "the overload was only 399 requests/s, of a capacity of 200"),
        (overloaded(other=2), "2 requests of the overload were answered neither 200 nor 503"),
        (overloaded(refused=0), "no request of the overload was refused"),
        (overloaded(without_retry_after=1), "1 refusals had no Retry-After"),
        (overloaded(refused_slowest=1.5), "a refusal took 1.50 s, more than 1 s"),
        (overloaded(stranger_refused_slowest=1.5), "a refusal took 1.50 s, more than 1 s"),
        (
            overloaded(health=dataclasses.replace(ASKED, failed=1)),
            "1 of 50 requests for /readyz failed under overload",
        ),
        (
            overloaded(health=dataclasses.replace(ASKED, slowest=0.6)),
            "/readyz took up to 0.60 s under overload, more than 0.5 s",
        ),
        (overloaded(workers_lost=1), "1 workers ended under overload"),
        (
            overloaded(after=dataclasses.replace(ASKED, p95=0.2)),
            "requests took 0.20 s after the overload, 0.02 s before it",
        ),
        (overloaded(after=dataclasses.replace(ASKED, failed=2)), "2 of 50 requests failed after the overload"),
        ({"answers": {"chunked_01": [404, 200]}}, "the invalid request chunked_01 was accepted as several: 404, 200"),
    ],
)
def test_missed_targets_are_reported(changed: dict[str, Any], expected: str) -> None:
    page = document(release(**changed))
    assert report.shortfalls(page) == [f"Debian 13.2: {expected}."]
    assert f"- Debian 13.2: {expected}." in report.markdown(page).splitlines()


def test_parts_that_were_not_measured_miss_no_target() -> None:
    assert report.shortfalls(document(measure.Release("Debian 13.2"))) == []


def test_parts_that_are_measured_again_replace_their_figures() -> None:
    first = document(release("Debian 12.12", overload=None), release())
    assert not report.is_complete(first, 2)
    again = measure.Release("Debian 12.12", versions={"wrk": "4.1"}, http2_injected=1, overload=OVERLOAD)
    both = report.merged(first, dataclasses.replace(document(again), versions={"sslyze": "6.4"}))
    assert report.is_complete(both, 2)
    assert both.releases == [
        release("Debian 12.12", versions={"nginx": "1.26.3-3", "wrk": "4.1"}, http2_injected=1),
        release(),
    ]
    assert (both.seconds, both.versions) == (1200, {"sslyze": "6.3.1, 6.4"})
    assert not report.is_complete(document(release()), 2)
    # a release that is measured for the first time
    assert report.merged(document(release()), document(again)).releases == [again, release()]


def test_figures_round_trip_through_the_file(tmp_path: pathlib.Path) -> None:
    written = document(release())
    report.write(written, tmp_path / "security.json")
    assert report.read(tmp_path / "security.json") == written


def test_scan_reads_open_closed_and_filtered_ports() -> None:
    assert ports.read(FOUND.format("filtered")) == ports.Found([22, 80, 443], [], 1025)
    assert ports.read(FOUND.format("closed")) == ports.Found([22, 80, 443], [8081], 1024)
    with pytest.raises(ValueError, match="nmap reports no ports"):
        ports.read("# Nmap done: 0 hosts up\n")


@pytest.mark.parametrize(
    ("output", "group"),
    [
        ("Protocol version: TLSv1.3\nServer Temp Key: X25519, 253 bits\nDONE\n", "X25519"),
        ("Peer Temp Key: X25519, 253 bits\nNegotiated TLS1.3 group: X25519MLKEM768\n", "X25519MLKEM768"),
    ],
)
def test_key_exchange_is_read_from_openssl_output(output: str, group: str) -> None:
    assert measure.key_exchange(output) == group


def test_answer_statuses_are_read_from_status_lines() -> None:
    output = b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 400 Bad Request\r\n\r\n<html>"
    assert measure.statuses(output) == [404, 400]
    assert measure.statuses(b"") == []


@pytest.mark.parametrize(
    ("request_", "sent"),
    [
        (b"GET / HTTP/1.1\r\nX: 1\r\n\r\n", b"GET / HTTP/1.1\r\nHost: links.baton.test\r\nX: 1\r\n\r\n"),
        # a second Host header stays, because it is what makes the request invalid
        (
            b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: links.baton.test\r\nHost: b\r\n\r\n",
        ),
    ],
)
def test_first_host_header_becomes_the_site(request_: bytes, sent: bytes) -> None:
    assert measure.for_site(request_) == sent


def test_all_invalid_requests_are_read_and_distinct() -> None:
    found = measure.requests()
    assert len(found) == len(set(found.values())) == 61
    assert all(b"Host: links.baton.test" in request for request in found.values())


def test_everything_with_a_target_is_measured() -> None:
    units = [unit for units in measure.UNITS.values() for unit in units.split()]
    assert all(any(unit.startswith(start) for unit in units) for start in report.EXPOSURE)
    assert set(report.PORTS) == {"edge1", "app1", "data1"}
    assert {field.name for field in dataclasses.fields(measure.Release)} >= {"judgements", "scans", "exposure"}


def test_http2_injections_are_distinct_and_can_be_sent() -> None:
    listed = injection.requests(NAME)
    assert len(listed) >= 60
    sent = [injection.written(*request) for request in listed.values()]
    assert len(set(sent)) == len(sent)
    assert all(one.startswith(injection.PREFACE) for one in sent)


def test_slowhttptest_output_shows_most_connections() -> None:
    output = "\x1b[1minitializing:\x1b[0m 0\nconnected:           \x1b[32m870\x1b[0m\nerror: 0\nconnected: 12\n"
    assert load.most_connected(output) == 870
    with pytest.raises(BenchError, match="reports no connections"):
        load.most_connected("unreachable")
    with pytest.raises(BenchError, match="reports no connections"):
        load.most_connected("connected: 0\nerror: 0\n")


def test_answers_are_summarized() -> None:
    answers = [("/readyz", float(number), 200 if number else 503, False) for number in range(100)]
    assert load.summary(answers) == load.Asked(number=100, failed=1, median=50.0, p95=94.0, slowest=99.0)
    with pytest.raises(BenchError, match="no answers"):
        load.summary([])
