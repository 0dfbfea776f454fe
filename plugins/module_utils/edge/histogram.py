"""Latencies, counted in bins: small to send, exact to add up, and good to 3 % when read."""

from __future__ import annotations

import collections
import functools
import math
from collections.abc import Iterable, Mapping

FINE = 20  # up to here each millisecond, which is all that nginx tells, has a bin of its own
_STEP = math.log(1.05)


@functools.cache
def bin_of(milliseconds: int) -> int:
    """The bin of a latency, named for the latency in its middle."""
    if milliseconds <= FINE:
        return max(0, milliseconds)
    return round(math.exp(round(math.log(milliseconds) / _STEP) * _STEP))


def merge(parts: Iterable[Mapping[int, int] | Mapping[str, int]]) -> dict[int, int]:
    """All of them together; the bins' names are strings where they came as JSON."""
    total: collections.Counter[int] = collections.Counter()
    for part in parts:
        for name, count in part.items():
            total[int(name)] += int(count)
    return dict(sorted(total.items()))


def percentile(histogram: Mapping[int, int], percent: float) -> int | None:
    """The latency that so many percent don't exceed; None when nothing was counted."""
    rank = math.ceil(sum(histogram.values()) * percent / 100)
    seen = 0
    for milliseconds in sorted(histogram):
        seen += histogram[milliseconds]
        if seen >= max(rank, 1):
            return milliseconds
    return None


def summary(histogram: Mapping[int, int], longest: int | None) -> dict[str, int | None]:
    """Percentiles and the longest latency; a bin's name may lie a little above what is in it, a percentile doesn't."""
    found = {f"p{percent}_ms": percentile(histogram, percent) for percent in (50, 99)}
    limited = {
        name: value if value is None or longest is None else min(value, longest) for name, value in found.items()
    }
    return {**limited, "max_ms": longest}


def above(histogram: Mapping[int, int], milliseconds: float) -> int:
    """How many took longer."""
    return sum(count for name, count in histogram.items() if name > milliseconds)
