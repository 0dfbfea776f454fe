"""Histograms of latencies: small to transfer, exact to merge, and accurate to 3 %."""

from __future__ import annotations

import collections
import functools
import math
from collections.abc import Iterable, Mapping

FINE = 20  # ms; up to here each millisecond, nginx's resolution, has its own bin
_STEP = math.log(1.05)  # width of the other bins


@functools.cache
def bin_of(milliseconds: int) -> int:
    """Return the bin of a latency, which is the latency in its middle in ms."""
    if milliseconds <= FINE:
        return max(0, milliseconds)
    return round(math.exp(round(math.log(milliseconds) / _STEP) * _STEP))


def merge(parts: Iterable[Mapping[int, int] | Mapping[str, int]]) -> dict[int, int]:
    """Return the sum of histograms; keys may be strings, as in JSON."""
    total: collections.Counter[int] = collections.Counter()
    for part in parts:
        for name, count in part.items():
            total[int(name)] += int(count)
    return dict(sorted(total.items()))


def percentile(histogram: Mapping[int, int], percent: float) -> int | None:
    """Return a percentile in ms; None for an empty histogram."""
    rank = math.ceil(sum(histogram.values()) * percent / 100)
    seen = 0
    for milliseconds in sorted(histogram):
        seen += histogram[milliseconds]
        if seen >= max(rank, 1):
            return milliseconds
    return None


def summary(histogram: Mapping[int, int], longest: int | None) -> dict[str, int | None]:
    """Return p50, p99 and the longest latency in ms. Percentiles are limited to the longest, which bins may exceed."""
    found = {f"p{percent}_ms": percentile(histogram, percent) for percent in (50, 99)}
    limited = {
        name: value if value is None or longest is None else min(value, longest) for name, value in found.items()
    }
    return {**limited, "max_ms": longest}


def above(histogram: Mapping[int, int], milliseconds: float) -> int:
    """Return how many latencies are above a value."""
    return sum(count for name, count in histogram.items() if name > milliseconds)
