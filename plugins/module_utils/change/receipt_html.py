"""The receipt as a page: one file, nothing loaded from elsewhere, no script."""

from __future__ import annotations

import html
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from . import receipt

WIDTH, LEFT, RIGHT = 1000, 58, 12  # of the chart, and of its margins
LATENCY_HEIGHT, REQUESTS_HEIGHT, GAP = 210, 84, 26
ROW = 16  # of a marker's name
GRID = (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000, 1_000_000)  # ms
STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)  # seconds
NEAR = 70  # markers that are closer have their names below each other

STYLE = """
:root { color-scheme: light dark; --page: #f6f5f2; --card: #fff; --ink: #1d2329; --soft: #616b76; --line: #e2e0da;
  --p50: #6ea3d8; --p99: #1f5fae; --max: #9aa4af; --bar: #c3cedb; --bad: #c9302c; --bad-soft: #fbe6e4; --good: #1c7c4a;
  --good-soft: #e1f3e8; --during: #f0ecdf; --mark: #8a5a00; --phase: #dfe6ee }
@media (prefers-color-scheme: dark) { :root { --page: #14171a; --card: #1c2024; --ink: #e7e9eb; --soft: #98a2ad;
  --line: #31373d; --p50: #4a7fb5; --p99: #8cc0ff; --max: #6b7580; --bar: #45505c; --bad: #ff7a70; --bad-soft: #42211f;
  --good: #6fd49b; --good-soft: #1a3526; --during: #302c20; --mark: #e2b04a; --phase: #2b343e } }
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif }
main { max-width: 1080px; margin: 0 auto; padding: 32px 20px 48px }
header { display: flex; flex-wrap: wrap; gap: 4px 14px; align-items: center }
h1 { font-size: 26px; line-height: 1.2; margin: 0 }
h2 { font-size: 15px; margin: 0 0 12px }
.badge { font-weight: 600; font-size: 14px; padding: 3px 12px; border-radius: 99px }
.good { color: var(--good) } .bad { color: var(--bad) } .soft { color: var(--soft) }
.badge.good { background: var(--good-soft) } .badge.bad { background: var(--bad-soft) }
.about { color: var(--soft); margin: 6px 0 0; overflow-wrap: anywhere }
.headline { font-size: 19px; margin: 18px 0 20px }
.reason { border-left: 4px solid var(--bad); padding: 2px 0 2px 14px; margin: -8px 0 20px }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(180px, 1fr)); gap: 12px; margin-bottom: 12px }
.card, section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 18px }
section { margin-bottom: 12px; overflow-x: auto }
.card b { display: block; font-size: 26px; line-height: 1.25; font-weight: 650; font-variant-numeric: tabular-nums }
.card span { color: var(--soft); font-size: 13px }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th { font-weight: 500; color: var(--soft); font-size: 13px }
th, td { padding: 6px 18px 6px 0; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line) }
tr:last-child td { border-bottom: 0 }
th:last-child, td:last-child { padding-right: 0 }
.left { text-align: left; white-space: normal; overflow-wrap: break-word }
code { font: 13px ui-monospace, "DejaVu Sans Mono", monospace }
ul { margin: 0; padding-left: 18px }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; color: var(--soft); font-size: 13px; margin: -6px 0 8px }
.legend i { display: inline-block; width: 14px; height: 3px; border-radius: 2px; margin-right: 6px;
  vertical-align: middle }
.legend i.box { height: 10px }
.bar { height: 8px; border-radius: 4px; background: var(--p99); min-width: 2px }
svg { display: block; width: 100%; min-width: 640px; height: auto; font: 12px system-ui, "DejaVu Sans", sans-serif }
svg text { fill: var(--soft) }
svg .name { fill: var(--mark); font-weight: 600 }
svg .mark { stroke: var(--mark); stroke-dasharray: 3 3 }
svg .phase { fill: var(--ink); font-size: 11px }
svg .grid { stroke: var(--line) }
svg .hover { fill: transparent }
svg .hover:hover { fill: var(--ink); fill-opacity: .07 }
"""


def page(document: Mapping[str, Any]) -> str:
    """The whole page."""
    deploy = document["deploy"]
    well = deploy["result"] in receipt.ENDED_WELL
    heading = " ".join(filter(None, (deploy["application"], deploy["version"])))
    parts = [
        f'<header><h1>{_text(heading)}</h1><span class="badge {"good" if well else "bad"}">{_text(deploy["result"])}'
        f"</span></header>",
        f'<p class="about">{_about(deploy)}</p>',
        f'<p class="headline">{_text(document["headline"])}</p>',
        f'<p class="reason">{_text(deploy["reason"])}</p>' if deploy["reason"] else "",
        _cards(document),
        _chart_section(document),
        _windows(document["windows"]),
        _hosts(document["hosts"]),
        _phases(document["phases"]),
        _failing(document["windows"].get("during")),
        _notes([note for note in document["notes"] if note != deploy["reason"]]),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{_text(receipt.title(document))}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(filter(None, parts))
        + "\n</main>\n</body>\n</html>\n"
    )


def _text(value: Any) -> str:
    return html.escape(str(value))


def _about(deploy: Mapping[str, Any]) -> str:
    release = f"release <code>{_text(deploy['release'])}</code>" if deploy["release"] else ""
    if release and deploy["previous"] not in ("", deploy["release"]):
        release += f" after <code>{_text(deploy['previous'])}</code>"
    by = " ".join(
        word for word in (deploy["who"] and f"by {deploy['who']}", deploy["where"] and f"on {deploy['where']}") if word
    )
    return " · ".join(filter(None, (_text(deploy["kind"]), release, receipt.utc(deploy["started"]), _text(by))))


def _cards(document: Mapping[str, Any]) -> str:
    cards = [(f"{document['deploy']['seconds']:.1f} s", "from beginning to end", "")]
    during, before = (document["windows"].get(name) for name in ("during", "before"))
    if during is not None:
        failures = during["failures"]
        compared = f"; {receipt.duration(before['p99_ms'])} before" if before else ""
        cards = [
            (f"{during['requests']:,}", "requests meanwhile", ""),
            (f"{failures:,}", "of them failed (5xx)", "bad" if failures else "good" if during["requests"] else ""),
            (receipt.duration(during["p99_ms"]), f"99 % answered within{compared}", ""),
            (receipt.duration(during["max_ms"]), "the slowest answer", ""),
            *cards,
        ]
    filled = (
        f'<div class="card"><b class="{kind}">{_text(figure)}</b><span>{_text(words)}</span></div>'
        for figure, words, kind in cards
    )
    return f'<div class="cards">{"".join(filled)}</div>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int) -> str:
    """A table; the cells are HTML, and the first `left` columns hold words."""

    def row(cells: Sequence[str], tag: str) -> str:
        filled = (f"<{tag}{' class=left' if column < left else ''}>{cell}</{tag}>" for column, cell in enumerate(cells))
        return f"<tr>{''.join(filled)}</tr>"

    return f"<table>{row(head, 'th')}{''.join(row(cells, 'td') for cells in rows)}</table>"


def _windows(windows: Mapping[str, Mapping[str, Any]]) -> str:
    if not windows:
        return ""
    head = ("", "seconds", "requests", "a second", "failed", "client left", "p50", "p99", "max")
    rows = []
    for name, window in windows.items():
        seconds = window["until"] - window["since"]
        failed = f"{window['failures']:,}"
        if window["failures"]:
            failed = f'<span class="bad">{failed} ({window["failures"] / window["requests"] * 100:.2f} %)</span>'
        rows.append(
            (
                _text(name),
                f"{seconds:.0f}",
                f"{window['requests']:,}",
                f"{window['requests'] / seconds:,.1f}" if seconds else "-",
                failed,
                f"{window['client_closed']:,}",
                *(_text(receipt.duration(window[key])) for key in ("p50_ms", "p99_ms", "max_ms")),
            )
        )
    return f"<section><h2>Traffic</h2>{_table(head, rows, 1)}</section>"


def _hosts(hosts: Mapping[str, Mapping[str, Any]]) -> str:
    if not hosts:
        return ""
    rows = []
    for name, host in hosts.items():
        bad = bool(host["error"] or host["reverted"])
        words = _text(receipt.outcome(host)).replace("-&gt;", "&rarr;")
        rows.append(
            (
                f"<b>{_text(name)}</b>",
                f'<span class="bad">{words}</span>' if bad else words,
                _text(host["way"] or "-"),
                f"{host['seconds']:.1f} s" if host["seconds"] else "-",
            )
        )
    return f"<section><h2>Hosts</h2>{_table(('host', 'outcome', 'handed over by', 'took'), rows, 3)}</section>"


def _phases(phases: Sequence[Mapping[str, Any]]) -> str:
    if not phases:
        return ""
    longest = max(phase["seconds"] for phase in phases) or 1
    rows = "".join(
        f"<tr><td class=left>{_text(phase['name'])}</td>"
        f'<td style="width: 75%"><div class="bar" style="width: {phase["seconds"] / longest * 100:.1f}%"></div></td>'
        f"<td>{phase['seconds']:.1f} s</td></tr>"
        for phase in phases
    )
    return f"<section><h2>Phases</h2><table>{rows}</table></section>"


def _failing(during: Mapping[str, Any] | None) -> str:
    if not during or not during["failing"]:
        return ""
    rows = [
        (f"<code>{_text(one['path'])}</code>", _text(one["status"]), f"{one['count']:,}") for one in during["failing"]
    ]
    return f"<section><h2>What failed most</h2>{_table(('path', 'status', 'requests'), rows, 1)}</section>"


def _notes(notes: Sequence[str]) -> str:
    items = "".join(f"<li>{_text(note)}</li>" for note in notes)
    return f"<section><h2>Notes</h2><ul>{items}</ul></section>" if notes else ""


def _chart_section(document: Mapping[str, Any]) -> str:
    if not document["timeline"]["points"]:
        return ""
    legend = (
        ("--p50", "", "half of the requests were quicker (p50)"),
        ("--p99", "", "99 of 100 were quicker (p99)"),
        ("--max", "", "the slowest"),
        ("--bar", "box", "requests"),
        ("--bad", "box", "failed (5xx)"),
        ("--during", "box", "the deploy"),
    )
    swatches = "".join(
        f'<span><i class="{kind}" style="background: var({colour})"></i>{words}</span>'
        for colour, kind, words in legend
    )
    return f'<section><h2>Timeline</h2><div class="legend">{swatches}</div>{Chart(document).svg()}</section>'


class Chart:
    """Latency above requests, by time; when each host was handed over, and the phases."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document
        self.step = document["timeline"]["step"]
        self.points = {int(second): point for second, point in document["timeline"]["points"].items()}
        windows = document["windows"].values()
        self.since = min([*self.points, *(window["since"] for window in windows)])
        self.until = max([max(self.points) + self.step, *(window["until"] for window in windows)])
        slowest = max([point["max_ms"] or 0 for point in self.points.values()])
        self.highest = next((value for value in GRID[2:] if value >= slowest * 1.05), GRID[-1])
        self.markers = sorted(
            (host["started"], name)
            for name, host in document["hosts"].items()
            if host["started"] is not None and self.since <= host["started"] <= self.until
        )
        self.rows = self._marker_rows()
        self.top = (ROW + 8 if document["phases"] else 0) + ROW * (max(self.rows, default=-1) + 1) + 8
        self.base = self.top + LATENCY_HEIGHT  # of the latencies
        self.floor = self.base + GAP + REQUESTS_HEIGHT  # of the requests
        self.height = self.floor + 24

    def x(self, moment: float) -> float:
        """Where a moment stands."""
        part: float = (moment - self.since) / (self.until - self.since)
        return LEFT + part * (WIDTH - LEFT - RIGHT)

    def y(self, milliseconds: float) -> float:
        """Where a latency stands; each tenfold is as high as the next."""
        part: float = math.log10(max(milliseconds, 1)) / math.log10(self.highest)
        return self.base - LATENCY_HEIGHT * part

    def _marker_rows(self) -> list[int]:
        rows: list[int] = []
        ends: list[float] = []  # of each row's last name
        for moment, name in self.markers:
            at = self.x(moment)
            row = next((row for row, end in enumerate(ends) if end < at), len(ends))
            ends[row : row + 1] = [at + max(NEAR, 8 * len(name))]
            rows.append(row)
        return rows

    def svg(self) -> str:
        """The picture."""
        return (
            f'<svg viewBox="0 0 {WIDTH} {self.height}" role="img" aria-label="Latency and requests by time">'
            + "".join(
                (*self._deploy(), *self._grid(), *self._requests(), *self._latencies(), *self._marks(), *self._hover())
            )
            + "</svg>"
        )

    def _deploy(self) -> Iterable[str]:
        during = self.document["windows"].get("during")
        if during:
            left, right = self.x(during["since"]), self.x(during["until"])
            yield _rectangle(left, self.top, right - left, self.floor - self.top, "--during")
        for phase in self.document["phases"]:
            left = self.x(max(phase["started"], self.since))
            right = self.x(min(phase["started"] + phase["seconds"], self.until))
            if right - left < 0.5:
                continue
            words = f"{phase['name']}: {phase['seconds']:.1f} s"
            band = _rectangle(left, 0, max(right - left - 1, 0.5), ROW + 2, "--phase", 3)
            shown = phase["name"] if right - left > 6 * len(phase["name"]) + 6 else ""
            name = f'<text class="phase" x="{(left + right) / 2:.1f}" y="13" text-anchor="middle">{_text(shown)}</text>'
            yield f"<g><title>{_text(words)}</title>{band}{name}</g>"

    def _grid(self) -> Iterable[str]:
        for value in (value for value in GRID if value <= self.highest):
            y = self.y(value)
            yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            words = f"{value} ms" if value < 1000 else f"{value // 1000} s"
            yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{words}</text>'
        most = max(point["requests"] for point in self.points.values())
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{self.floor}" y2="{self.floor}"/>'
        words = f"{most / self.step:,.0f}/s"
        yield f'<text x="{LEFT - 8}" y="{self.floor - REQUESTS_HEIGHT + 10}" text-anchor="end">{words}</text>'
        yield f'<text x="{LEFT - 8}" y="{self.floor}" text-anchor="end">0</text>'
        began = self.document["deploy"]["started"]
        step = next((step for step in STEPS if (self.until - self.since) / step <= 12), STEPS[-1])
        for tick in range(math.ceil((self.since - began) / step), math.floor((self.until - began) / step) + 1):
            x = self.x(began + tick * step)
            words = f"{tick * step:+d} s".replace("-", "&minus;") if tick else "0"
            anchor = "start" if x < LEFT + 10 else "end" if x > WIDTH - RIGHT - 16 else "middle"
            yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{self.floor}" y2="{self.floor + 5}"/>'
            yield f'<text x="{x:.1f}" y="{self.floor + 19}" text-anchor="{anchor}">{words}</text>'

    def _requests(self) -> Iterable[str]:
        most = max(1, *(point["requests"] for point in self.points.values()))
        width = max(self.x(self.since + self.step) - LEFT, 1)
        for second, point in self.points.items():
            height = point["requests"] / most * REQUESTS_HEIGHT
            x, bar = self.x(max(second, self.since)), width - (1 if width > 4 else 0)
            yield _rectangle(x, self.floor - height, bar, height, "--bar")
            if point["failures"]:
                failed = max(4.0, point["failures"] / most * REQUESTS_HEIGHT)
                yield _rectangle(x, self.floor - failed, max(bar, 2), failed, "--bad")

    def _latencies(self) -> Iterable[str]:
        middle = self.step / 2
        for second, point in self.points.items():
            if point["max_ms"] is not None:
                x = self.x(min(second + middle, self.until))
                yield f'<circle cx="{x:.1f}" cy="{self.y(point["max_ms"]):.1f}" r="1.8" fill="var(--max)"/>'
        for key, colour, width in (("p50_ms", "--p50", 1.8), ("p99_ms", "--p99", 2)):
            path, last = [], None
            for second, point in self.points.items():
                if point[key] is None:
                    continue
                # a time without requests is a gap, and a second alone between two such a dash
                joined = last is not None and second - last <= self.step
                x = self.x(min(second + middle, self.until))
                path.append(f"{'L' if joined else 'M'}{x:.1f},{self.y(point[key]):.1f}{'' if joined else 'h.1'}")
                last = second
            yield (
                f'<path d="{"".join(path)}" fill="none" stroke="var({colour})" stroke-width="{width}" '
                'stroke-linejoin="round" stroke-linecap="round"/>'
            )

    def _marks(self) -> Iterable[str]:
        first = self.top - 8 - ROW * (max(self.rows, default=0) + 1) + 12
        for (moment, name), row in zip(self.markers, self.rows, strict=True):
            x, y = self.x(moment), first + ROW * row
            host = self.document["hosts"][name]
            words = f"{name}, {receipt.utc(moment)}: {receipt.outcome(host)} ({host['way'] or 'no handover'})"
            line = f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 10}" y2="{self.floor}"/>'
            name = f'<text class="name" x="{x + 4:.1f}" y="{y}">{_text(name)}</text>'
            yield f"<g><title>{_text(words)}</title>{line}{name}</g>"

    def _hover(self) -> Iterable[str]:
        width = max(self.x(self.since + self.step) - LEFT, 1)
        for second, point in self.points.items():
            clock = time.strftime("%H:%M:%S UTC", time.gmtime(second))
            latencies = ", ".join(f"{key[:3]} {receipt.duration(point[key])}" for key in ("p50_ms", "p99_ms", "max_ms"))
            words = f"{clock}: {point['requests']:,} requests, {point['failures']:,} failed; {latencies}"
            yield (
                f'<rect class="hover" x="{self.x(max(second, self.since)):.1f}" y="{self.top}" width="{width:.1f}" '
                f'height="{self.floor - self.top}"><title>{_text(words)}</title></rect>'
            )


def _rectangle(x: float, y: float, width: float, height: float, colour: str, radius: float = 0) -> str:
    rounded = f' rx="{radius}"' if radius else ""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="var({colour})"{rounded}/>'
