"""Render the receipt as an HTML page with receipt_page.html.j2."""

from __future__ import annotations

import functools
import math
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jinja2

from ..change import receipt, table
from ..host import untrusted

WIDTH, LEFT, RIGHT = 1000, 58, 12  # width of the chart and of its margins, in px
LATENCY_HEIGHT, REQUESTS_HEIGHT, GAP = 210, 84, 26
ROW = 16  # height of a marker's name
GRID = (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000, 1_000_000)  # ms
STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)  # seconds
NEAR = 70  # px; names of closer markers are placed below each other


def page(document: Mapping[str, Any]) -> str:
    """Return the HTML page."""
    deploy = document["deploy"]
    text = _template().render(
        document,
        title=receipt.title(document),
        heading=" ".join(filter(None, (deploy["application"], deploy["version"]))),
        well=deploy["result"] in receipt.ENDED_WELL,
        began=table.utc(deploy["started"]),
        by=receipt.by(deploy),
        cards=_cards(document),
        chart=Chart(document).drawn() if document["timeline"]["points"] else None,
        notes=[note for note in document["notes"] if note != deploy["reason"]],
    )
    return untrusted.printable(text)


@functools.cache
def _template() -> jinja2.Template:
    path = pathlib.Path(__file__).with_suffix(".html.j2")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    environment.filters["duration"] = receipt.duration
    environment.filters["outcome"] = lambda host: receipt.outcome(host).replace("->", "\N{RIGHTWARDS ARROW}")
    environment.filters["ended"] = receipt.ended
    environment.filters["pids"] = lambda process: receipt.pids(process).replace("->", "\N{RIGHTWARDS ARROW}")
    environment.filters["px"] = "{:.1f}".format
    return environment.from_string(path.read_text(encoding="utf-8"))


def _cards(document: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the cards: a figure, its label, and the CSS class `good`, `bad` or empty."""
    cards = [(f"{document['deploy']['seconds']:.1f} s", "from beginning to end", "")]
    during, before = (document["windows"].get(name) for name in ("during", "before"))
    if during is not None:
        failures = during["failures"]
        compared = f"; {receipt.duration(before['p99_ms'])} before" if before else ""
        cards = [
            (f"{during['requests']:,}", "requests during the change", ""),
            (f"{failures:,}", "of them failed (5xx)", "bad" if failures else "good" if during["requests"] else ""),
            (receipt.duration(during["p99_ms"]), f"99 % answered within{compared}", ""),
            (receipt.duration(during["max_ms"]), "slowest response", ""),
            *cards,
        ]
    return cards


class Chart:
    """Chart of latency and requests over time, with markers for each host's handover, and the phases."""

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
        self.base = self.top + LATENCY_HEIGHT  # zero line of the latencies
        self.floor = self.base + GAP + REQUESTS_HEIGHT  # zero line of the requests
        self.height = self.floor + 24

    def x(self, moment: float) -> float:
        """Return the x coordinate of a time."""
        part: float = (moment - self.since) / (self.until - self.since)
        return LEFT + part * (WIDTH - LEFT - RIGHT)

    def y(self, milliseconds: float) -> float:
        """Return the y coordinate of a latency, on a logarithmic scale."""
        part: float = math.log10(max(milliseconds, 1)) / math.log10(self.highest)
        return self.base - LATENCY_HEIGHT * part

    def _marker_rows(self) -> list[int]:
        rows: list[int] = []
        ends: list[float] = []  # where each row's last name ends
        for moment, name in self.markers:
            at = self.x(moment)
            row = next((row for row, end in enumerate(ends) if end < at), len(ends))
            ends[row : row + 1] = [at + max(NEAR, 8 * len(name))]
            rows.append(row)
        return rows

    def drawn(self) -> dict[str, Any]:
        """Return the coordinates of everything that the template draws."""
        most = max(point["requests"] for point in self.points.values())
        return {
            "width": WIDTH,
            "left": LEFT,
            "margin": RIGHT,
            "height": self.height,
            "top": self.top,
            "floor": self.floor,
            "ceiling": self.floor - REQUESTS_HEIGHT,
            "most": f"{most / self.step:,.0f}/s",
            "during": self._during(),
            "phases": self._phases(),
            "latency_lines": [
                {"y": self.y(value), "words": f"{value} ms" if value < 1000 else f"{value // 1000} s"}
                for value in GRID
                if value <= self.highest
            ],
            "ticks": self._ticks(),
            "bars": self._bars(max(1, most)),
            "slowest": [
                {"x": self._middle(second), "y": self.y(point["max_ms"])}
                for second, point in self.points.items()
                if point["max_ms"] is not None
            ],
            "curves": [("--p50", 1.8, self._curve("p50_ms")), ("--p99", 2, self._curve("p99_ms"))],
            "marks": self._marks(),
            "hovers": self._hovers(),
        }

    def _during(self) -> dict[str, float] | None:
        during = self.document["windows"].get("during")
        if not during:
            return None
        left, right = self.x(during["since"]), self.x(during["until"])
        return {"x": left, "y": self.top, "width": right - left, "height": self.floor - self.top}

    def _phases(self) -> list[dict[str, Any]]:
        found = []
        for phase in self.document["phases"]:
            left = self.x(max(phase["started"], self.since))
            right = self.x(min(phase["started"] + phase["seconds"], self.until))
            if right - left < 0.5:
                continue
            found.append(
                {
                    "x": left,
                    "y": 0,
                    "width": max(right - left - 1, 0.5),
                    "height": ROW + 2,
                    "middle": (left + right) / 2,
                    "words": f"{phase['name']}: {phase['seconds']:.1f} s",
                    "name": phase["name"] if right - left > 6 * len(phase["name"]) + 6 else "",
                }
            )
        return found

    def _ticks(self) -> list[dict[str, Any]]:
        began = self.document["deploy"]["started"]
        step = next((step for step in STEPS if (self.until - self.since) / step <= 12), STEPS[-1])
        found = []
        for tick in range(math.ceil((self.since - began) / step), math.floor((self.until - began) / step) + 1):
            x = self.x(began + tick * step)
            anchor = "start" if x < LEFT + 10 else "end" if x > WIDTH - RIGHT - 16 else "middle"
            words = f"{tick * step:+d} s".replace("-", "\N{MINUS SIGN}") if tick else "0"
            found.append({"x": x, "words": words, "anchor": anchor})
        return found

    def _bars(self, most: int) -> list[dict[str, Any]]:
        width = self._step_width()
        found: list[dict[str, Any]] = []
        for second, point in self.points.items():
            x, bar = self.x(max(second, self.since)), width - (1 if width > 4 else 0)
            height = point["requests"] / most * REQUESTS_HEIGHT
            found.append({"x": x, "y": self.floor - height, "width": bar, "height": height, "colour": "--bar"})
            if point["failures"]:
                height = max(4.0, point["failures"] / most * REQUESTS_HEIGHT)
                bar = max(bar, 2)
                found.append({"x": x, "y": self.floor - height, "width": bar, "height": height, "colour": "--bad"})
        return found

    def _step_width(self) -> float:
        return max(self.x(self.since + self.step) - LEFT, 1)

    def _middle(self, second: int) -> float:
        return self.x(min(second + self.step / 2, self.until))

    def _curve(self, key: str) -> str:
        path, last = [], None
        for second, point in self.points.items():
            if point[key] is None:
                continue
            # seconds without requests are gaps; a single point between two gaps is drawn as a dash
            joined = last is not None and second - last <= self.step
            at = f"{self._middle(second):.1f},{self.y(point[key]):.1f}"
            path.append(f"L{at}" if joined else f"M{at}h.1")
            last = second
        return "".join(path)

    def _marks(self) -> list[dict[str, Any]]:
        first = self.top - 8 - ROW * (max(self.rows, default=0) + 1) + 12
        found = []
        for (moment, name), row in zip(self.markers, self.rows, strict=True):
            host = self.document["hosts"][name]
            words = f"{name}, {table.utc(moment)}: {receipt.outcome(host)} ({host['method'] or 'no handover'})"
            found.append({"x": self.x(moment), "y": first + ROW * row, "name": name, "words": words})
        return found

    def _hovers(self) -> list[dict[str, Any]]:
        found = []
        for second, point in self.points.items():
            clock = time.strftime("%H:%M:%S UTC", time.gmtime(second))
            latencies = ", ".join(f"{key[:3]} {receipt.duration(point[key])}" for key in ("p50_ms", "p99_ms", "max_ms"))
            words = f"{clock}: {point['requests']:,} requests, {point['failures']:,} failed; {latencies}"
            found.append({"x": self.x(max(second, self.since)), "width": self._step_width(), "words": words})
        return found
