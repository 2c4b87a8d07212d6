from __future__ import annotations

import numpy as np

from vitral_export import histogram


def test_errors_are_counted_in_half_octaves() -> None:
    gap = np.random.default_rng(5).standard_normal((3, 40, 50)) * 1e-6
    counts = histogram.count(gap, 0.25)
    edges = [histogram.edges(place)[0] for place in range(histogram.BINS)]
    expected = np.histogram(np.abs(gap) / 0.25, [*edges, np.inf])[0]

    assert sum(counts) == gap.size
    assert np.abs(np.subtract(counts, expected)).max() <= 1  # float32 may round one over an edge
    assert histogram.total([counts, counts]) == tuple(2 * number for number in counts)
    assert [histogram.edges(place)[1] for place in range(histogram.BINS - 1)] == edges[1:]


def test_what_cannot_be_scaled_is_counted_too() -> None:
    gap = np.array([0.0, -0.0, np.nan, -np.nan, np.inf, -np.inf, 2.0, -1e-300])
    scaled, bare = histogram.count(gap, 1.0), histogram.count(gap, 0.0)

    assert (scaled[0], scaled[-1], sum(scaled)) == (3, 5, 8)
    assert (bare[0], bare[-1], sum(bare)) == (2, 6, 8)


def test_bins_in_use_have_no_empty_ends() -> None:
    counts = [0] * histogram.BINS
    assert list(histogram.occupied(counts)) == []
    counts[3] = counts[6] = 2
    assert list(histogram.occupied(counts)) == [3, 4, 5, 6]
