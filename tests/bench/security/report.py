"""The figures as JSON and as docs/security-figures.md, and those that miss their targets."""

from __future__ import annotations

import dataclasses
import datetime
import json
import pathlib
import string
from collections.abc import Callable, Iterator

from tests.bench import tables

from .measure import Judgement, Release, Scan

PAGE = pathlib.Path(__file__).with_name("page.md")
# the limits in docs/security.md
EXPOSURE = {"links": 1.5, "nginx": 4.0, "postgresql": 5.0}
PORTS = {"edge1": [22, 80, 443], "app1": [22], "data1": [22]}
OLD = ("SSL 2.0", "SSL 3.0", "TLS 1.0", "TLS 1.1")
REFUSAL, NONE, ACCEPTED, SEVERAL = KINDS = [
    "refused",
    "closed or left without an answer",
    "accepted",
    "accepted as several",
]
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


def read(path: pathlib.Path) -> Document:
    figures = json.loads(path.read_text())
    figures["releases"] = [
        Release(
            **{
                **release,
                "judgements": [Judgement(**one) for one in release["judgements"]],
                "scans": [Scan(**one) for one in release["scans"]],
            }
        )
        for release in figures["releases"]
    ]
    return Document(**figures)


def shortfalls(document: Document) -> list[str]:
    """The figures that miss their targets, a sentence each."""
    return [f"{release.name}: {words}." for release in document.releases for words in _shortfalls(release)]


def _shortfalls(release: Release) -> Iterator[str]:
    for judgement in release.judgements:
        yield from (f"{judgement.profile}: {issue.rstrip('.')}" for issue in judgement.issues)
    for version in OLD:
        if release.tls_versions[version]:
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
        answers=_table(releases, KINDS, _counted),
        taken=_taken(releases),
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


def _counted(release: Release, kind: str) -> str:
    return str(sum(_kind(answers) == kind for answers in release.answers.values()))


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
