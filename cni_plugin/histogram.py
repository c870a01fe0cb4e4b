"""Durations counted in fixed buckets: constant memory, about a microsecond a look, and percentiles good to a bucket.

    Histogram().observe(0.0034)   counts in the bucket "up to 5 ms"
    quantile(counts, 0.99)        the duration that 99 % of them were within

The bounds suit what a CNI request and its steps take, from half a millisecond to ten seconds.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

BOUNDS = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)
"""Upper bounds in seconds, each included; what took longer than the last is counted behind it."""


class Histogram:
    """How often something took how long. `counts` has one more entry than BOUNDS; `total` is in seconds."""

    __slots__ = ("counts", "longest", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0
        self.longest = 0.0

    @property
    def count(self) -> int:
        """How many were observed."""
        return sum(self.counts)

    def observe(self, seconds: float) -> None:
        """Count one; a clock that went back counts as no time."""
        seconds = max(seconds, 0.0)
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds
        self.longest = max(self.longest, seconds)

    def snapshot(self) -> dict[str, object]:
        """Plain values for JSON: `buckets` beside `histogram.BOUNDS`, and what they say."""
        return {
            "count": self.count,
            "seconds": self.total,
            "longest": self.longest,
            "buckets": list(self.counts),
            "p50": quantile(self.counts, 0.5),
            "p90": quantile(self.counts, 0.9),
            "p99": quantile(self.counts, 0.99),
        }


def quantile(counts: Sequence[int], share: float) -> float:
    """The seconds that this share (0 to 1) stayed within, linear inside a bucket; 0 of nothing.

    For what took longer than the last bound there is no better answer than that bound.
    """
    wanted = sum(counts) * share
    below, lower = 0, 0.0
    for count, upper in zip(counts, BOUNDS, strict=False):
        if count and below + count >= wanted:
            return lower + (upper - lower) * (wanted - below) / count
        below, lower = below + count, upper
    return BOUNDS[-1] if below < wanted else 0.0
