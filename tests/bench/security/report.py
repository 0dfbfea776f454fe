"""The figures as JSON and as docs/security-figures.md, and those that miss their targets."""

from __future__ import annotations

import dataclasses
import datetime
import json
import pathlib
import string
from collections.abc import Callable, Iterator
from typing import Any

from tests.bench import tables

from . import load
from .measure import Grade, Judgement, Release, Scan

PAGE = pathlib.Path(__file__).with_name("page.md")
# the limits in docs/security.md
EXPOSURE = {"links": 1.5, "nginx": 4.0, "postgresql": 5.0}
PORTS = {"edge1": [22, 80, 443], "app1": [22], "data1": [22]}
# findings of testssl.sh that the page explains: a private authority's certificate names no revocation list (testssl.sh
# trusts the authority, so an incomplete chain is a fault), and responses are compressed
EXPLAINED = ("cert_revocation", "BREACH")
GRADE = "A+"
# seconds; the latency of normal requests after an overload compares with that before
REFUSAL_SECONDS, HEALTH_SECONDS = 1.0, 0.5
OVERLOAD = 2.0  # times what the application serves
NORMAL = 2.0, 0.1  # at most so many times the latency before, or so many seconds
OLD = ("SSL 2.0", "SSL 3.0", "TLS 1.0", "TLS 1.1")
REFUSAL, NONE, ACCEPTED, SEVERAL = KINDS = [
    "refused",
    "closed or left without an answer",
    "accepted",
    "accepted as several",
]
# the values of a part that wasn't measured
EMPTY: tuple[Any, ...] = ("", None, {}, [])
# statuses that refuse a request; all others answer it
REFUSED = (400, 408, 413, 414, 431, 494, 501, 505)


@dataclasses.dataclass(frozen=True)
class Document:
    """The results of a run, and its environment."""

    began: float
    seconds: int
    machine: dict[str, str]
    versions: dict[str, str]
    requests: str
    answer_seconds: float  # after which a connection without data counted as silent
    releases: list[Release]


def write(document: Document, path: pathlib.Path) -> None:
    path.write_text(json.dumps(dataclasses.asdict(document), indent=1) + "\n")


def merged(old: Document, new: Document) -> Document:
    """The figures of both documents. Parts that `new` contains are its own, also if it has only some of a release's."""
    releases = {release.name: release for release in old.releases}
    for release in new.releases:
        measured = {name: value for name, value in vars(release).items() if value not in EMPTY}
        before = releases.get(release.name, release)
        measured["versions"] = before.versions | release.versions
        releases[release.name] = dataclasses.replace(before, **measured)
    # the figures are those of all these versions
    versions = {
        name: ", ".join(dict.fromkeys([*old.versions.get(name, version).split(", "), version]))
        for name, version in new.versions.items()
    }
    return dataclasses.replace(
        new,
        seconds=old.seconds + new.seconds,
        versions=versions,
        releases=[releases[name] for name in sorted(releases)],
    )


def is_complete(document: Document, number: int) -> bool:
    """Whether each part of this number of releases was measured."""
    figures = [value for release in document.releases for value in vars(release).values()]
    return len(document.releases) == number and not any(value in EMPTY for value in figures)


def read(path: pathlib.Path) -> Document:
    figures = json.loads(path.read_text())
    figures["releases"] = [
        Release(
            **{
                **release,
                "judgements": [Judgement(**one) for one in release["judgements"]],
                "scans": [Scan(**one) for one in release["scans"]],
                "grade": release["grade"] and Grade(**release["grade"]),
                "slow": [load.Slow(**one | {"strangers": load.Asked(**one["strangers"])}) for one in release["slow"]],
                "overload": release["overload"] and _overload(release["overload"]),
            }
        )
        for release in figures["releases"]
    ]
    return Document(**figures)


def _overload(figures: dict[str, Any]) -> load.Overload:
    return load.Overload(**figures | {name: load.Asked(**figures[name]) for name in ("health", "before", "after")})


def shortfalls(document: Document) -> list[str]:
    """The figures that miss their targets, a sentence each."""
    return [f"{release.name}: {words}." for release in document.releases for words in _shortfalls(release)]


def _shortfalls(release: Release) -> Iterator[str]:
    for judgement in release.judgements:
        yield from (f"{judgement.profile}: {issue.rstrip('.')}" for issue in judgement.issues)
    for version in OLD:
        if release.tls_versions.get(version):
            yield f"{version} is accepted"
    for unit, exposure in release.exposure.items():
        most = _most(unit)
        if most is not None and exposure > most:
            yield f"{unit} has an exposure of {exposure}, above the limit of {most}"
    for scan in release.scans:
        target = PORTS[scan.host]
        if scan.open != target:
            yield f"{scan.host} has {_ports(scan.open)} open over {scan.protocol}, instead of {_ports(target)}"
        if scan.closed:
            yield f"{scan.host} answers on closed ports over {scan.protocol}: {_ports(scan.closed)}"
    for name, answers in release.answers.items():
        if _kind(answers) == SEVERAL:
            yield f"the invalid request {name} was accepted as several: {', '.join(map(str, answers))}"
    for kind, requests in (("invalid request", release.answers), ("HTTP/2 request", release.http2_answers)):
        for name, answers in requests.items():
            if any(status >= 500 and status not in REFUSED for status in answers):
                yield f"the {kind} {name} was answered {', '.join(map(str, answers))}"
    for name, answers in release.http2_answers.items():
        if len(answers) > 1:
            yield f"the HTTP/2 request {name} had several answers: {', '.join(map(str, answers))}"
    if release.http2_injected:
        yield f"the application got {release.http2_injected} injected requests over HTTP/2"
    if release.grade:
        if release.grade.grade != GRADE:
            yield f"testssl.sh grades {release.grade.grade}, instead of {GRADE}"
        for name, severity, text in _remarkable(release.grade):
            yield f"testssl.sh: {name} {severity}: {text.rstrip('.')}"
    for one in release.slow:
        if one.strangers.failed:
            yield f"{one.strangers.failed} of {one.strangers.number} strangers' requests failed during {one.kind}"
    if release.overload:
        yield from _overloaded(release.overload)


def _remarkable(grade: Grade) -> list[list[str]]:
    return [finding for finding in grade.findings if not finding[0].startswith(EXPLAINED)]


def _overloaded(figures: load.Overload) -> Iterator[str]:
    if figures.offered < OVERLOAD * figures.capacity:
        yield f"the overload was only {figures.offered:.0f} requests/s, of a capacity of {figures.capacity:.0f}"
    if figures.other:
        yield f"{figures.other} requests of the overload were answered neither 200 nor 503"
    if not figures.refused:
        yield "no request of the overload was refused"
    if figures.without_retry_after:
        yield f"{figures.without_retry_after} refusals had no Retry-After"
    slowest = max(figures.refused_slowest, figures.stranger_refused_slowest)
    if slowest > REFUSAL_SECONDS:
        yield f"a refusal took {slowest:.2f} s, more than {REFUSAL_SECONDS:g} s"
    if figures.health.failed:
        yield f"{figures.health.failed} of {figures.health.number} requests for {load.HEALTH} failed under overload"
    if figures.health.slowest > HEALTH_SECONDS:
        yield (
            f"{load.HEALTH} took up to {figures.health.slowest:.2f} s under overload, more than {HEALTH_SECONDS:g} s"
        )
    if figures.workers_lost:
        yield f"{figures.workers_lost} workers ended under overload"
    times, seconds = NORMAL
    if figures.after.p95 > max(times * figures.before.p95, seconds):
        yield f"requests took {figures.after.p95:.2f} s after the overload, {figures.before.p95:.2f} s before it"
    if figures.after.failed:
        yield f"{figures.after.failed} of {figures.after.number} requests failed after the overload"


def _most(unit: str) -> float | None:
    return next((most for start, most in EXPOSURE.items() if unit.startswith(start)), None)


def _ports(ports: list[int]) -> str:
    return ", ".join(map(str, ports)) or "none"


def markdown(document: Document) -> str:
    """The page docs/security-figures.md."""
    releases = document.releases
    short = shortfalls(document)
    return string.Template(PAGE.read_text()).substitute(
        date=f"{datetime.datetime.fromtimestamp(document.began, datetime.UTC):%Y-%m-%d}",
        minutes=f"{document.seconds / 60:.0f}",
        verdict="\n".join(f"- {words}" for words in short) or "None: all figures meet their targets.",
        tls=_table(releases, [judgement.profile for judgement in releases[0].judgements], _judged),
        groups=tables.markdown(
            ("", *(release.name for release in releases)),
            [("key exchange with OpenSSL's own client", *(release.key_exchange for release in releases))],
        ),
        suites=_table(releases, list(releases[0].tls_versions), _suites),
        grades=tables.markdown(
            ("", "target", *(release.name for release in releases)),
            [("grade", GRADE, *(release.grade.grade if release.grade else "" for release in releases))],
        ),
        findings=_findings(releases),
        exposure=_table(
            releases,
            list(dict.fromkeys(unit for release in releases for unit in release.exposure)),
            lambda release, unit: f"{release.exposure[unit]:.1f}" if unit in release.exposure else "",
            lambda unit: str(_most(unit) or ""),
        ),
        ports=_table(
            releases,
            [f"{scan.host} from {scan.seen_from}, {scan.protocol}" for scan in releases[0].scans],
            _scanned,
            lambda row: _ports(PORTS[row.split()[0]]),
        ),
        count=len(releases[0].answers),
        answers=_table(releases, KINDS, lambda release, kind: _counted(release.answers, kind)),
        taken=_taken(releases),
        http2_count=len(releases[0].http2_answers),
        http2=_table(
            releases, [REFUSAL, NONE, ACCEPTED, SEVERAL], lambda release, kind: _counted(release.http2_answers, kind)
        ),
        injected=_injected(releases),
        overload=_overload_table(releases),
        slow=_slow_table(releases),
        requests=document.requests,
        seconds=f"{document.answer_seconds:.0f}",
        machine=f"{document.machine['os']}, Linux {document.machine['kernel']}",
        versions=tables.markdown(
            ("", *(release.name for release in releases)),
            [
                *((name, *[version] * len(releases)) for name, version in document.versions.items()),
                *(
                    (name, *(release.versions.get(name, "") for release in releases))
                    for name in dict.fromkeys(name for release in releases for name in release.versions)
                ),
            ],
        ),
    )


def _table(
    releases: list[Release],
    rows: list[str],
    cell: Callable[[Release, str], str],
    target: Callable[[str], str] | None = None,
) -> str:
    """A table with a row for each name and a column for each release, preceded by the targets."""
    header = ("", *(["target"] if target else []), *(release.name for release in releases))
    filled = [(row, *([target(row)] if target else []), *(cell(release, row) for release in releases)) for row in rows]
    return tables.markdown(header, filled)


def _judged(release: Release, profile: str) -> str:
    (issues,) = (judgement.issues for judgement in release.judgements if judgement.profile == profile)
    return f"{len(issues)} issues" if issues else "compliant"


def _suites(release: Release, version: str) -> str:
    return ", ".join(release.tls_versions.get(version, [])) or "refused"


def _scanned(release: Release, row: str) -> str:
    (scan,) = (scan for scan in release.scans if f"{scan.host} from {scan.seen_from}, {scan.protocol}" == row)
    closed = f", {len(scan.closed)} answered as closed" if scan.closed else ""
    return f"{_ports(scan.open)} ({scan.filtered} dropped{closed})"


def _kind(answers: list[int]) -> str:
    accepted = [status for status in answers if status not in REFUSED]
    if accepted:
        return SEVERAL if len(accepted) > 1 else ACCEPTED
    return REFUSAL if answers else NONE


def _counted(requests: dict[str, list[int]], kind: str) -> str:
    return str(sum(_kind(answers) == kind for answers in requests.values()))


def _injected(releases: list[Release]) -> str:
    return ", ".join(f"{release.http2_injected or 0} ({release.name})" for release in releases)


def _findings(releases: list[Release]) -> str:
    """All findings above LOW."""
    listed = {tuple(finding) for release in releases if release.grade for finding in release.grade.findings}
    return "\n".join(f"- `{name}` {severity}: {text}" for name, severity, text in sorted(listed)) or "None."


def _overload_table(releases: list[Release]) -> str:
    columns = [_overload_rows(release.overload) for release in releases if release.overload]
    return tables.markdown(
        ("", "target", *(release.name for release in releases if release.overload)),
        [(name, target, *(rows[name, target] for rows in columns)) for name, target in (columns[0] if columns else {})],
    )


def _overload_rows(figures: load.Overload) -> dict[tuple[str, str], str]:
    """The values by name and target."""
    refusal, health = f"{REFUSAL_SECONDS:g}", f"{HEALTH_SECONDS:g}"
    return {
        ("requests/s that the application serves", ""): f"{figures.capacity:.0f}",
        ("requests/s of the crowd", f"{OVERLOAD:g} times that"): f"{figures.offered:.0f}",
        ("its connections", ""): f"{figures.connections:,}",
        ("refused with 503", ""): f"{figures.refused / (figures.answered + figures.refused):.0%}",
        ("of these by the application itself", ""): f"{figures.refused_by_application:,}",
        ("without `Retry-After`", "0"): str(figures.without_retry_after),
        ("other answers and errors", "0"): str(figures.other),
        ("slowest refusal, s", refusal): _seconds(figures.refused_slowest),
        ("seen by another client, s", refusal): _seconds(figures.stranger_refused_slowest),
        (f"`{load.HEALTH}` failed", "0"): f"{figures.health.failed} of {figures.health.number}",
        (f"`{load.HEALTH}` median / 95 % / slowest, s", health): _times(figures.health),
        ("processes of application and edge that ended", "0"): str(figures.workers_lost),
        ("normal requests before, s", ""): _times(figures.before),
        (f"{load.RECOVERY_SECONDS} s after, s", "95 %: as before"): _times(figures.after),
    }


def _slow_table(releases: list[Release]) -> str:
    def cell(release: Release, kind: str) -> str:
        found = [one for one in release.slow if one.kind == kind]
        return "; ".join(
            f"{one.strangers.number - one.strangers.failed} of {one.strangers.number}, {one.most_connected} connections"
            for one in found
        )

    return _table(releases, list(load.SLOW), cell, lambda _: "all")


def _times(asked: load.Asked) -> str:
    return " / ".join(map(_seconds, (asked.median, asked.p95, asked.slowest)))


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f}"


def _taken(releases: list[Release]) -> str:
    """The requests that any of the releases accepted, with the statuses of the answers."""
    names = [
        name
        for name in releases[0].answers
        if any(_kind(release.answers[name]) in (ACCEPTED, SEVERAL) for release in releases)
    ]
    return tables.markdown(
        ("request", *(release.name for release in releases)),
        [
            (f"`{name}`", *(", ".join(map(str, release.answers[name])) or "none" for release in releases))
            for name in names
        ],
    )
