"""Medians, and an interval for the median that five rounds can carry."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

LEVEL: Final = 0.9


@dataclass(frozen=True)
class Interval:
    """A median with an interval around it."""

    median: float
    low: float
    high: float
    coverage: float
    """Chance that such an interval holds the true median; below `LEVEL` where there are too few values."""


def median_interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """The sign test's interval: from the k-th smallest to the k-th largest value, exact for any distribution.

    k is as large as `level` lets it be. Five values give their range, which holds the median in 94 % of cases (a
    bootstrap of the median of five gives the same range); nine give the second smallest to the second largest.
    """
    ordered, count = sorted(values), len(values)
    if not ordered:
        raise ValueError("no values: a median needs at least one")
    rank = 1
    while rank < (count + 1) // 2 and _coverage(count, rank + 1) >= level:
        rank += 1
    return Interval(statistics.median(ordered), ordered[rank - 1], ordered[-rank], _coverage(count, rank))


def _coverage(count: int, rank: int) -> float:
    """Chance that the median lies between the `rank`-th smallest and largest of `count` values."""
    tail = sum(math.comb(count, below) for below in range(rank)) / 2**count
    return 1 - 2 * tail


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Quotients of what was measured in the same round."""
    return [a / b for a, b in zip(above, below, strict=True)]
