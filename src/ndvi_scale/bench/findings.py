"""Findings: what rows say, as values. Made by `analysis`, shown by `page`."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ndvi_scale.bench.rows import MOVING
from ndvi_scale.scaling import LEAST_REPEATS, NEAR

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ndvi_scale.bench.rows import Cell, Environment
    from ndvi_scale.bench.sieve import Omitted
    from ndvi_scale.scaling import Advice, Usl, UslInterval


@dataclass(frozen=True)
class Point:
    """Rows alike but for the repeat. Medians of those that are used; None where nothing was noted."""

    cell: Cell
    """Of repeat 0."""
    walls: tuple[float, ...]
    """Seconds of each row that is used, in the order of the run."""
    arrived: int | None
    """Fewest workers that were there in a row that ran; None where none did."""
    left_out: int
    """Rows that are not used."""
    startup: float | None = None
    submit: float | None = None
    pixels: float | None = None
    busy: float | None = None
    worker_cpu: float | None = None
    """Part of a core that a worker used."""
    scheduler_cpu: float | None = None
    """Part of a core that the scheduler's process used."""
    peak_memory: int | None = None
    """The most of any row, bytes."""
    memory_limit: int | None = None
    cost: float | None = None
    oversubscribed: bool = False

    @property
    def median(self) -> float | None:
        """Seconds."""
        return statistics.median(self.walls) if self.walls else None

    @property
    def rate(self) -> float | None:
        """Mpx/s of the median; None of stages that move no pixels."""
        moved = self.pixels if self.cell.stage in MOVING else None
        return moved / self.median / 1e6 if moved and self.median else None

    @property
    def quartiles(self) -> tuple[float, float] | None:
        """Seconds; None for fewer than three repeats."""
        if len(self.walls) < LEAST_REPEATS:
            return None
        first, _, third = statistics.quantiles(self.walls, n=4, method="inclusive")
        return first, third

    @property
    def counts(self) -> bool:
        """Whether conclusions may rest on it."""
        return bool(self.walls) and not self.oversubscribed


@dataclass(frozen=True)
class Gain:
    """What a number of workers is to the smallest one."""

    speedup: float
    """Of fixed work; of work that grows with workers, how much more was done in the same time."""
    interval: tuple[float, float] | None
    """Of `speedup`, 95 %; None of the baseline, and for fewer than three repeats."""
    efficiency: float
    serial: float | None = None
    """Karp and Flatt's, of growing work Gustafson's; None of the baseline, of oversubscription, where negative."""


@dataclass(frozen=True)
class Law:
    """The Universal Scalability Law of a series."""

    usl: Usl
    interval: UslInterval | None
    base: int
    """Workers of the baseline, which the law counts in."""
    largest: int
    """Workers up to which was measured."""

    @property
    def peak(self) -> float:
        """Workers beyond which it gets slower."""
        return self.usl.peak * self.base

    @property
    def peak_interval(self) -> tuple[float, float] | None:
        """Of `peak`, 95 %."""
        if self.interval is None:
            return None
        low, high = self.interval.peak
        return low * self.base, high * self.base


@dataclass(frozen=True)
class Series:
    """Points alike but for what the study varies, in its order."""

    points: tuple[Point, ...]
    gains: Mapping[int, Gain] = field(default_factory=dict)
    """By workers; empty where workers are not varied, or nothing can be compared."""
    slower: Mapping[Cell, tuple[float, float]] = field(default_factory=dict)
    """Point → interval, 95 %, of its time over that of the fastest; of chunks and stores with repeats enough."""
    law: Law | None = None
    advice: Advice | None = None
    flags: tuple[str, ...] = ()
    """What to doubt."""
    reasons: tuple[str, ...] = ()
    """Why something is not said."""
    labels: tuple[str, ...] = ()
    """What kind of measurement it is."""

    @property
    def cell(self) -> Cell:
        """Of its first point."""
        return self.points[0].cell

    @property
    def baseline(self) -> int | None:
        """The smallest number of workers that counts."""
        return min(self.gains, default=None)

    @property
    def fastest(self) -> Point | None:
        """The point with the least median."""
        counted = [point for point in self.points if point.counts]
        return min(counted, key=lambda point: point.median or 0, default=None)

    @property
    def near(self) -> tuple[Point, ...]:
        """Points whose median is within a tenth of the fastest one's."""
        best = self.fastest
        if best is None or best.median is None:
            return ()
        limit = best.median * (1 + NEAR)
        return tuple(point for point in self.points if point.counts and (point.median or 0) <= limit)

    def point(self, stage: str) -> Point | None:
        """Of a stage."""
        return next((point for point in self.points if point.cell.stage == stage), None)


@dataclass(frozen=True)
class Study:
    """A study of the factor table."""

    name: str
    kind: str
    series: tuple[Series, ...]


@dataclass(frozen=True)
class Findings:
    """All that a report prints."""

    studies: tuple[Study, ...]
    environment: Environment | None
    rows: int
    """In the file."""
    omitted: tuple[Omitted, ...]
    problems: tuple[str, ...]
    began: str = ""
    """When the first row began, UTC."""
    ended: str = ""
    """When the last one began."""
