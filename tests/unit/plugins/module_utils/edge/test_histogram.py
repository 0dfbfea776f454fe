"""The bins of latency histograms."""

from __future__ import annotations

import json
import math
import random

import pytest
from ansible_collections.baton.web.plugins.module_utils.edge import histogram


def test_short_latencies_have_exact_bins() -> None:
    assert [histogram.bin_of(ms) for ms in range(21)] == list(range(21))


@pytest.mark.parametrize("ms", [21, 99, 250, 1000, 4321, 60_000, 3_600_000])
def test_bin_is_within_three_percent_of_the_latency(ms: int) -> None:
    assert histogram.bin_of(ms) == pytest.approx(ms, rel=0.03)


def test_bin_contains_its_own_name() -> None:
    names = {histogram.bin_of(ms) for ms in range(100_000)}
    assert {histogram.bin_of(name) for name in names} == names
    assert len(names) < 200


def test_percentiles_of_a_sum_are_those_of_all_requests() -> None:
    chance = random.Random(7)
    edges = [[round(chance.lognormvariate(3, 1)) for _ in range(5000)] for _ in range(3)]
    parts = []
    for edge in edges:
        counts: dict[str, int] = {}
        for ms in edge:
            name = str(histogram.bin_of(ms))
            counts[name] = counts.get(name, 0) + 1
        parts.append(json.loads(json.dumps(counts)))
    merged = histogram.merge(parts)
    everything = sorted(ms for edge in edges for ms in edge)
    assert sum(merged.values()) == 15000
    for percent in (50, 90, 99):
        exact = everything[math.ceil(15000 * percent / 100) - 1]
        assert histogram.percentile(merged, percent) == pytest.approx(exact, rel=0.03, abs=0.5)


def test_percentile_of_an_empty_histogram_is_none() -> None:
    assert histogram.percentile({}, 99) is None
    assert histogram.percentile({7: 1}, 50) == 7


def test_above_counts_longer_latencies() -> None:
    assert histogram.above({5: 10, 200: 3, 210: 2}, 200) == 2


def test_no_percentile_exceeds_the_maximum() -> None:
    assert histogram.bin_of(33_900) > 33_900
    assert histogram.summary({histogram.bin_of(33_900): 1}, 33_900) == {
        "p50_ms": 33_900,
        "p99_ms": 33_900,
        "max_ms": 33_900,
    }
    assert histogram.summary({}, None) == {"p50_ms": None, "p99_ms": None, "max_ms": None}
