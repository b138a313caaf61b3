"""Measured rows → the `Calibration` of a forecast, and how well that foretells sizes it has not seen.

Only rows that count, of whole runs, of one series: the same cluster, store, workload, chunk and machine. What does
not suffice is refused with the reason, never filled in; what had to be assumed is a note of the calibration.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from ndvi_scale.errors import ConfigError
from ndvi_scale.forecast import Calibration, Forecast, Site, Work, forecast, makespan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ndvi_scale.bench.rows import Environment, Measured, Row

KINDS: Final = ("strong", "weak")
"""Studies that compare numbers of workers."""

LEAST_SIZES: Final = 2
LEAST_REPEATS: Final = 3
"""Fewer say nothing of how runs differ."""

CALM: Final = 0.5
"""Part of the shared cores in use up to which regions are taken not to wait for a processor."""

OTHER_SHAPE: Final = 1.5
"""Ratio of bytes a request between rows from which waiting is told apart into both; the same regions differ a
little with the workers, which share no cache."""

ASSUMED_SERIAL: Final = 1e-3
"""Seconds of a scheduler for a task, at least: Dask's own documentation says up to so many."""

PRIOR_RUNS: Final = 2
PRIOR_BETWEEN: Final = 0.05
"""What few repeats, one soon after another, cannot show: as if so many runs more had differed by so much. That is
half of the median of 369 cells that were measured ten times or more on CNES' HAL (11 %)."""

FITTED: Final = 3
"""Parameters that the wall was fitted with: the fixed part, a region, the gap."""

QUANTILES: Final = 101
"""Of region seconds, that a calibration keeps."""

Z90: Final = 1.645
"""Standard deviations from the middle to an end of an interval of 90 %."""


class Series(NamedTuple):
    """What rows have in common that may be compared by their number of workers."""

    cluster: str
    store: str
    workload: str
    threads: int
    chunk: int
    shard: int | None
    tile: int
    source: str
    seconds: float | None

    def __str__(self) -> str:
        """For a person."""
        shard = f" in shards of {self.shard}" if self.shard else ""
        tile = f" of tiles of {self.tile}" if self.tile != self.chunk else ""
        source = f", from {self.source}" if self.source != "origin" else ""
        emulated = ", emulated nodes" if self.seconds is not None else ""
        chunks = f"chunks of {self.chunk}{shard}{tile}"
        return f"{self.cluster}, {self.store}, {self.workload}, {chunks}{source}{emulated}"


def series_of(rows: Iterable[Row]) -> dict[Series, list[Row]]:
    """Rows that can be calibrated on, by what they have in common.

    Those of real work first, then those with most sizes, then with most regions.
    """
    found: dict[Series, list[Row]] = defaultdict(list)
    for row in rows:
        if row.cell.stage == "full" and row.cell.kind in KINDS and _tells(row):
            found[Series(*(getattr(row.cell, name) for name in Series._fields))].append(row)

    def rank(one: tuple[Series, list[Row]]) -> tuple[bool, int, int, str]:
        series, rows = one
        sizes, regions = {row.cell.workers for row in rows}, sum(row.cell.regions for row in rows)
        return series.seconds is not None, -len(sizes), -regions, str(series)

    return dict(sorted(found.items(), key=rank))


def _tells(row: Row) -> bool:
    """Whether it has what a calibration is made of."""
    measured = row.counts and row.wall and row.cell.regions > 0 and row.pixels > 0
    return bool(measured) and bool(row.region_seconds) and sum(row.region_seconds) > 0


def calibrate(measured: Measured, sizes: Sequence[int] | None = None, series: Series | None = None) -> Calibration:
    """What the rows of some sizes (all of them by default) say; by default of the first of `series_of`.

    Rows of more threads than cores are no base. Raises ConfigError where the others are too few, or of several
    machines; and by default for emulated nodes, whose
    waiting is invented: it foretells nothing of other work.
    """
    series, rows, environment = _chosen(measured, sizes, series)
    handed = [row for row in measured.rows if _only_handed_over(row, rows[0])]
    return _Fit(series, rows, environment, handed).calibration()


def _only_handed_over(row: Row, like: Row) -> bool:
    """Whether its regions did nothing, on a cluster and machine like another row's."""
    alike = (row.cell.cluster, row.environment) == (like.cell.cluster, like.environment)
    return alike and row.cell.stage == "submit" and row.counts and row.cell.regions > 0 and bool(row.wall)


def _chosen(
    measured: Measured, sizes: Sequence[int] | None, series: Series | None
) -> tuple[Series, list[Row], Environment]:
    """The rows to calibrate on. Raises ConfigError where they do not suffice."""
    found = series_of(measured.rows)
    if not found or (series is not None and series not in found):
        raise ConfigError(
            f"no row of {series or 'a strong or weak study'} has a wall, seconds of its regions and pixels: "
            "measure such a study with `ndvi-scale bench`"
        )
    if series is None:
        series = next(iter(found))
        if series.seconds is not None:
            raise ConfigError(
                "nodes were emulated in every strong or weak study: their waiting is invented; measure one without "
                "`seconds`"
            )
    repeats: dict[int, list[Row]] = defaultdict(list)
    for row in found[series]:
        if (sizes is None or row.cell.workers in sizes) and not row.oversubscribed:
            repeats[row.cell.workers].append(row)
    _require_enough({size: len(rows) for size, rows in sorted(repeats.items())}, series)
    rows = [row for own in repeats.values() for row in own]
    names = sorted({row.environment for row in rows})
    if len(names) > 1 or names[0] not in measured.environments:
        raise ConfigError(
            f"rows of {series} are of the environments {', '.join(names)}: a calibration is of one machine and one "
            "set of versions, which the file holds; measure all sizes again"
        )
    return series, rows, measured.environments[names[0]]


def _require_enough(repeats: dict[int, int], series: Series) -> None:
    told = ", ".join(f"{count} of {size} workers" for size, count in repeats.items()) or "none"
    if len(repeats) < LEAST_SIZES:
        raise ConfigError(
            f"rows of {series}: {told}; a calibration needs {LEAST_SIZES} sizes, better 1 and 2 and more"
        )
    if min(repeats.values()) < LEAST_REPEATS:
        raise ConfigError(
            f"rows of {series}: {told}; a calibration needs {LEAST_REPEATS} repeats of each size, better five"
        )


@dataclass(frozen=True)
class _Fit:
    """Rows of one series on their way to a calibration."""

    series: Series
    rows: list[Row]
    environment: Environment
    handed: list[Row]
    """Of which the regions did nothing: all that took time is scheduler and driver."""

    def calibration(self) -> Calibration:
        """All of it; what differs from run to run last, for it is what the rest leaves."""
        found = self._region()
        fixed, gap = self._beside(found.serial)
        found = replace(found, fixed=fixed, gap=gap)
        between, freedom = _between(found, self.rows)
        return replace(found, between=between, freedom=freedom)

    def _region(self) -> Calibration:
        """What a region takes, and what each adds."""
        latency, bandwidth, unexplained = self._waiting()
        mpx = [row.pixels / row.cell.regions / 1e6 for row in self.calm]
        computing = [
            (_mean(row) - _waited(row) + unexplained) / own for row, own in zip(self.calm, mpx, strict=True)
        ]
        sizes = sorted({row.cell.workers for row in self.rows})
        most = [row for row in self.rows if row.cell.workers == sizes[-1]]  # nearest to what is foretold
        return Calibration(
            name=f"{self.series} ({self.environment.machine})",
            sizes=tuple(sizes),
            repeats=min(sum(row.cell.workers == size for row in self.rows) for size in sizes),
            fixed=0.0,
            latency=latency,
            compute=statistics.median(computing),
            cpu=statistics.median(_cpu(row) * row.cell.regions / (row.pixels / 1e6) for row in most),
            serial=self._serial(),
            spread=self._spread(),
            between=0.0,
            bandwidth=bandwidth,
            startup=self._startup(),
            threads=self.series.threads,
            cores=self.cores,
            price=self.environment.price,
            currency=self.environment.currency,
            notes=self._notes(),
        )

    @property
    def cores(self) -> int | None:
        """That the workers share; None where each has a machine, or a share of one, of its own."""
        local = self.series.cluster in {"local", "threads"} or self.series.seconds is not None
        return self.environment.cores if local or any(row.oversubscribed for row in self.rows) else None

    @property
    def calm(self) -> list[Row]:
        """Rows whose regions did not wait for a processor; those of the smallest size where all did."""
        if self.cores is None:
            return self.rows
        found = [row for row in self.rows if _used(row) < CALM * (row.wall or 0) * self.cores]
        smallest = min(row.cell.workers for row in self.rows)
        return found or [row for row in self.rows if row.cell.workers == smallest]

    def _waiting(self) -> tuple[float, float | None, float]:
        """Seconds a request, bytes a second, and seconds that go with neither."""
        shapes = [_shape(rows) for rows in _cells(self.calm).values()]
        counts, sizes, waited = (statistics.median(values) for values in zip(*shapes, strict=True))
        if waited == 0:
            return 0.0, None, 0.0
        if not all(size for _, size, _ in shapes):
            return (waited / counts, None, 0.0) if counts else (0.0, None, waited)
        ratios = [count / size for count, size, _ in shapes]
        if min(ratios) * OTHER_SHAPE >= max(ratios):
            return 0.0, sizes / waited, 0.0
        a_request, a_byte = nonnegative([shape[:2] for shape in shapes], [shape[2] for shape in shapes])
        return a_request, 1 / a_byte if a_byte else None, 0.0

    def _serial(self) -> float:
        """Seconds of scheduler or driver that come with each region: the least of what bounds it from above.

        Processor seconds hold what both do while nothing happens, seconds of idle regions hold messages.
        """
        spent = [(row, own) for row in self.rows if (own := _serial_cpu(row)) is not None]
        bounds = [statistics.median(own / row.cell.regions for row, own in spent)] if spent else []
        if spent:
            columns = [[row.cell.regions, 1, row.wall or 0] for row, _ in spent]
            bounds.append(nonnegative(columns, [own for _, own in spent])[0])
        if self.handed:
            bounds.append(min(((row.wall or 0) - (row.submit or 0)) / row.cell.regions for row in self.handed))
        return max(ASSUMED_SERIAL, min((bound for bound in bounds if bound > 0), default=0))

    def _spread(self) -> tuple[float, ...]:
        runs = [np.array(row.region_seconds) for row in self.calm]
        ratios = np.concatenate([own / own.mean() for own in runs])
        return tuple(map(float, np.quantile(ratios, np.linspace(0, 1, QUANTILES))))

    def _startup(self) -> tuple[float, float]:
        """Of the medians of sizes: one cluster serves several rows."""
        by_size: dict[int, list[float]] = defaultdict(list)
        for row in self.rows:
            if row.startup is not None:
                by_size[row.cell.workers].append(row.startup)
        if not by_size:
            return 0.0, 0.0
        fitted = nonnegative([[1, size] for size in by_size], [statistics.median(own) for own in by_size.values()])
        return fitted[0], fitted[1]

    def _beside(self, serial: float) -> tuple[float, float]:
        """Seconds of a run, and of a worker's turn, that its own regions do not explain as they were scheduled."""
        walls = np.array([row.wall or 0 for row in self.rows])
        left = np.clip(walls - [_own_makespan(row, serial) for row in self.rows], 0, None)
        terms = np.array([[1, row.cell.regions / _slots(row)] for row in self.rows])
        fixed, gap = nonnegative((terms.T / walls).T.tolist(), (left / walls).tolist())  # long runs vary by more
        return fixed, gap

    def _notes(self) -> tuple[str, ...]:
        missing: dict[str, Callable[[Row], object]] = {
            "processor seconds of workers were not measured: their regions count as computing all the while": (
                lambda row: row.worker_cpu
            ),
            f"scheduler and driver were not measured: {ASSUMED_SERIAL * 1000:g} ms a region assumed": _serial_cpu,
            "start-up was not measured: none is counted": lambda row: row.startup,
        }
        notes = [text for text, value in missing.items() if all(value(row) is None for row in self.rows)]
        if not self.handed and any(_serial_cpu(row) for row in self.rows):
            notes.append(
                "what scheduler and driver do while nothing happens counts as of the regions: measure the stage "
                "`submit` to know their limit better"
            )
        if self.series.seconds is not None:
            notes.append("nodes were emulated: processes of one machine that wait for a slow source")
        return tuple(notes)


def _cells(rows: Iterable[Row]) -> dict[tuple[int, int], list[Row]]:
    """Rows that repeat each other: by workers and regions."""
    found: dict[tuple[int, int], list[Row]] = defaultdict(list)
    for row in rows:
        found[row.cell.workers, row.cell.regions].append(row)
    return found


def _shape(rows: list[Row]) -> tuple[float, float, float]:
    """Requests, bytes and waiting of a region: medians, for the first row of a cluster reads headers too."""
    works = [work_of_row(row) for row in rows]
    return (
        statistics.median(work.requests for work in works),
        statistics.median(work.bytes for work in works),
        statistics.median(map(_waited, rows)),
    )


def _slots(row: Row) -> int:
    return row.cell.workers * row.cell.threads


def _mean(row: Row) -> float:
    """Seconds of a region."""
    return (row.worker_seconds or 0) / row.cell.regions or statistics.mean(row.region_seconds)


def _cpu(row: Row) -> float:
    """Processor seconds of a worker for a region."""
    return _mean(row) if row.worker_cpu is None else row.worker_cpu / row.cell.regions


def _waited(row: Row) -> float:
    """Seconds of a region without a processor at work: for bytes, where the cores are not short."""
    return max(0.0, _mean(row) - _cpu(row))


def _serial_cpu(row: Row) -> float | None:
    """Of the busier of scheduler and driver; on a local cluster they are one."""
    return max((own for own in (row.scheduler_cpu, row.driver_cpu) if own is not None), default=None)


def _used(row: Row) -> float:
    """Processor seconds of all that took part."""
    return _cpu(row) * row.cell.regions + (_serial_cpu(row) or 0)


def _own_makespan(row: Row, serial: float) -> float:
    """When the regions as they were measured would have been done; those not kept repeat the kept ones."""
    seconds = np.resize(np.array(row.region_seconds), row.cell.regions)
    return makespan((seconds * _mean(row) / seconds.mean()).tolist(), _slots(row), serial)


def _between(calibration: Calibration, rows: list[Row]) -> tuple[float, int]:
    """Standard deviation of a run about the model, what the draw of regions explains taken out; and its freedom."""
    known: dict[tuple[int, int], Forecast] = {}
    squares, within = [], []
    for row in rows:
        key = _slots(row), row.cell.regions
        found = known.setdefault(key, forecast(calibration, work_of_row(row), site_of(row, calibration)))
        squares.append(math.log((row.wall or found.wall) / found.wall) ** 2)
        within.append((math.log(found.high / found.low) / 2 / Z90) ** 2)
    known_runs = max(1, len(rows) - FITTED)
    freedom = known_runs + PRIOR_RUNS
    seen = max(sum(squares) - known_runs * statistics.mean(within), sum(squares) / 4)
    variance = (seen + PRIOR_RUNS * PRIOR_BETWEEN**2) / freedom
    return math.sqrt(variance * (1 + 1 / len(rows))), freedom  # of a new run, about a middle known from few


def work_of_row(row: Row) -> Work:
    """What a row had to do."""
    count = row.cell.regions
    return Work(count, row.pixels / count, row.bytes_read / count, row.requests / count)


def site_of(row: Row, calibration: Calibration) -> Site:
    """Where it did it, by the machine of a calibration."""
    return Site(row.cell.workers, row.cell.threads, calibration.cores, calibration.price)


def nonnegative(columns: Sequence[Sequence[float]], wanted: Sequence[float]) -> list[float]:
    """Least squares with no negative coefficient, for a few columns; of equal fits the first with the fewest."""
    matrix, target = np.array(columns, float), np.array(wanted, float)
    scale = np.where(np.abs(matrix).max(axis=0) > 0, np.abs(matrix).max(axis=0), 1.0)
    width = matrix.shape[1]
    best, least = np.zeros(width), float((target**2).sum())
    for chosen in (picked for count in range(1, width + 1) for picked in combinations(range(width), count)):
        own = np.linalg.lstsq(matrix[:, chosen] / scale[list(chosen)], target, rcond=None)[0]
        error = float(((matrix[:, chosen] / scale[list(chosen)] @ own - target) ** 2).sum())
        if (own >= 0).all() and error < least * (1 - 1e-9) - 1e-15:
            best, least = np.zeros(width), error
            best[list(chosen)] = own / scale[list(chosen)]
    return best.tolist()


@dataclass(frozen=True)
class Held:
    """Rows of one size, measured, beside what a calibration without them says."""

    workers: int
    regions: int
    walls: tuple[float, ...]
    """Seconds of each repeat."""
    forecast: Forecast

    @property
    def measured(self) -> float:
        """Their median."""
        return statistics.median(self.walls)

    @property
    def error(self) -> float:
        """Of the forecast, relative; above 0 where it says more than was measured."""
        return self.forecast.wall / self.measured - 1

    @property
    def contained(self) -> bool:
        """Whether the interval contains the median."""
        return self.forecast.holds(self.measured)

    @property
    def repeats_contained(self) -> int:
        """Repeats within the interval."""
        return sum(map(self.forecast.holds, self.walls))


def held_out(rows: Iterable[Row], calibration: Calibration) -> list[Held]:
    """What a calibration says of rows of its series with other sizes. Raises ConfigError where there are none."""
    others = _cells(row for row in rows if row.cell.workers not in calibration.sizes)
    if not others:
        told = ", ".join(map(str, calibration.sizes))
        raise ConfigError(f"no size beside {told} was measured: a forecast is proved on sizes it has not seen")
    return [
        Held(
            workers,
            regions,
            tuple(row.wall or 0 for row in rows),
            forecast(calibration, work_of_row(rows[0]), site_of(rows[0], calibration)),
        )
        for (workers, regions), rows in sorted(others.items())
    ]


def median_error(held: Sequence[Held]) -> float:
    """Of the absolute relative errors."""
    return statistics.median(abs(one.error) for one in held)
