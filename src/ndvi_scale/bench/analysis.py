"""What the rows say, study by study: all that a report prints, and nothing that the rows do not bear out.

Pure: rows in, findings out. A study falls into series, rows alike but for what the study varies; a series into
points, rows alike but for the repeat. What is not said has its reason beside it.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeVar

from ndvi_scale.bench.findings import Findings, Gain, Law, Point, Series, Study
from ndvi_scale.bench.rows import ALONE, KINDS, STAGES
from ndvi_scale.bench.sieve import sift
from ndvi_scale.bench.wording import percent, point_name
from ndvi_scale.errors import ConfigError
from ndvi_scale.scaling import (
    LEAST_REPEATS,
    SUSPECT,
    advise,
    efficiency,
    fit_usl,
    gustafson_serial,
    karp_flatt,
    ratio_interval,
    speedup,
    speedup_interval,
    usl_interval,
    weak_efficiency,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from ndvi_scale.bench.rows import Cell, Measured, Row
    from ndvi_scale.bench.sieve import Sifted

K = TypeVar("K")

OVERSUBSCRIBED: Final = "oversubscription, not scaling"
EMULATED: Final = "emulated nodes"

UNEVEN: Final = 0.02
"""Part by which work that is to be the same may differ."""


EMULATED_CPU: Final = 0.05
"""Part of a core that an emulated node may use: with more, nodes wait for each other's processor."""

EMULATED_REGIONS: Final = 20
"""Regions that an emulated node should have: with fewer, the last ones leave too many idle."""


def analyse(measured: Measured, sifted: Sifted | None = None) -> Findings:
    """What the rows of a file say, which were `sifted` where that was done before."""
    sifted = sifted or sift(measured)
    dropped = sifted.reasons
    price = sifted.environment.price if sifted.environment else None
    rows = [_Judged(row, row not in dropped) for row in sorted(measured.rows, key=lambda row: row.order)]
    times = sorted(row.began for row in sifted.used)
    studies = [_study(name, judged, price) for name, judged in _grouped(rows, lambda one: one.row.cell.study)]
    return Findings(
        studies=tuple(sorted(studies, key=lambda study: (KINDS.index(study.kind), study.name))),
        environment=sifted.environment,
        rows=len(measured.rows),
        omitted=sifted.omitted,
        problems=sifted.problems,
        began=times[0] if times else "",
        ended=times[-1] if times else "",
    )


@dataclass(frozen=True)
class _Judged:
    row: Row
    used: bool


def _grouped(rows: Iterable[_Judged], key: Callable[[_Judged], K]) -> list[tuple[K, list[_Judged]]]:
    groups: dict[K, list[_Judged]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return list(groups.items())


def _study(name: str, rows: Sequence[_Judged], price: float | None) -> Study:
    kind = rows[0].row.cell.kind
    series = [_series(kind, judged, price) for _, judged in _grouped(rows, _series_key)]
    return Study(name, kind, tuple(sorted(series, key=lambda one: _name(one.cell))))


def _name(cell: Cell) -> tuple[object, ...]:
    """Where a series stands in its study: rows ran in random order."""
    return cell.cluster, cell.workload, cell.threads, cell.chunk, cell.shard or 0, cell.store, *_place(cell)


def _series_key(judged: _Judged) -> tuple[object, ...]:
    """A cell without what its study varies, and without what has to change along with that."""
    cell = replace(judged.row.cell, repeat=0)
    match cell.kind:
        case "strong":
            varied, kept = replace(cell, workers=1), ()
        case "weak":
            varied, kept = replace(cell, workers=1, regions=1), (cell.regions / cell.workers,)
        case "granularity":
            varied, kept = replace(cell, chunk=1, shard=None, regions=1, seconds=None), (cell.emulated,)
        case "stages":
            varied, kept = replace(cell, stage="full"), ()
        case _:
            varied, kept = replace(cell, store=""), ()
    return varied, *kept


def _place(cell: Cell) -> tuple[object, ...]:
    """Where a point stands in its series."""
    return cell.workers, cell.chunk, cell.shard or 0, STAGES.index(cell.stage), cell.store, cell.regions


def _series(kind: str, rows: Sequence[_Judged], price: float | None) -> Series:
    groups = _grouped(rows, lambda one: replace(one.row.cell, repeat=0))
    points = tuple(
        sorted((_point(cell, judged, price) for cell, judged in groups), key=lambda one: _place(one.cell))
    )
    found = _by_workers(points, kind) if kind in {"strong", "weak"} else _compared(points, kind)
    return replace(
        found,
        flags=(*found.flags, *_emulation_doubts(points)),
        labels=_labels(points),
        reasons=(*_unmeasured(points, kind), *found.reasons),
    )


def _point(cell: Cell, rows: Sequence[_Judged], price: float | None) -> Point:
    used = [one.row for one in rows if one.used]
    came = [one.row.arrived for one in rows if one.row.status in {"ok", "degraded"}]
    limits = [row.memory_limit for row in used if row.memory_limit]
    peaks = [row.peak_memory for row in used if row.peak_memory]
    return Point(
        cell=cell,
        walls=tuple(row.wall for row in used if row.wall),
        arrived=min(came, default=None),
        left_out=len(rows) - len(used),
        startup=_median(row.startup for row in used),
        submit=_median(row.submit for row in used),
        pixels=_median(row.pixels for row in used if row.pixels),
        busy=_median(row.busy for row in used),
        worker_cpu=_median(_share(row.worker_cpu, (row.wall or 0) * max(row.arrived, 1)) for row in used),
        scheduler_cpu=_median(_share(row.scheduler_cpu, row.wall) for row in used),
        peak_memory=max(peaks, default=None),
        memory_limit=min(limits, default=None),
        cost=_median(row.cost(price) for row in used if cell.stage not in ALONE),
        oversubscribed=any(row.oversubscribed for row in used),
    )


def _median(values: Iterable[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return statistics.median(there) if there else None


def _share(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


def _by_workers(points: Sequence[Point], kind: str) -> Series:
    """A series whose workers are varied."""
    counted = {point.cell.workers: point.walls for point in points if point.counts}
    gains = _gains(points, counted, kind)
    found = Series(tuple(points), gains=gains)
    if len(counted) < 2:  # noqa: PLR2004 - one is not a comparison
        return replace(found, reasons=(_one_size(counted),))
    doubts = (*_few_repeats(counted.values()), *_uneven(points, kind))
    without = _without_serial(gains, counted)
    if kind == "weak":
        return replace(found, flags=(*_weak_flags(gains, counted), *doubts), reasons=tuple(without))
    advice = advise(counted)
    law, refusals = _law(counted)
    flags = (*advice.flags, *doubts)
    return replace(found, advice=advice, law=law, flags=flags, reasons=(*refusals, *without))


def _one_size(counted: Mapping[int, Sequence[float]]) -> str:
    if not counted:
        return "no number of workers has a row that counts: nothing can be said of scaling"
    return (
        f"only {_workers(min(counted))} can be used: scaling is told from two sizes or more, a law from four; "
        "measure more, such as 1, 2, 4, 8"
    )


def _gains(points: Sequence[Point], counted: Mapping[int, tuple[float, ...]], kind: str) -> dict[int, Gain]:
    """Of every number of workers with times, those that do not count too, over the smallest one that counts."""
    if not counted:
        return {}
    walls = {one.cell.workers: one.walls for one in points if one.walls and one.cell.workers >= min(counted)}
    make = _weak_gain if kind == "weak" else _strong_gain
    gains = {workers: make(walls, workers) for workers in sorted(walls)}
    return {workers: gain if workers in counted else replace(gain, serial=None) for workers, gain in gains.items()}


def _strong_gain(walls: Mapping[int, Sequence[float]], workers: int) -> Gain:
    seconds, base = _medians(walls), min(walls)
    gain = speedup(seconds)[workers]
    serial = karp_flatt(gain, workers / base) if workers > base else None
    return Gain(gain, _interval(walls, workers), efficiency(seconds)[workers], serial)


def _weak_gain(walls: Mapping[int, Sequence[float]], workers: int) -> Gain:
    share, more = weak_efficiency(_medians(walls))[workers], workers / min(walls)
    interval = _interval(walls, workers)
    grown = (interval[0] * more, interval[1] * more) if interval else None
    return Gain(share * more, grown, share, gustafson_serial(share * more, more) if more > 1 else None)


def _without_serial(gains: Mapping[int, Gain], counted: Mapping[int, Sequence[float]]) -> list[str]:
    """Sizes whose serial fraction would be negative."""
    above = [str(workers) for workers in sorted(counted)[1:] if gains[workers].serial is None]
    return [f"no serial fraction at {', '.join(above)} workers: more than the ideal speed-up"] if above else []


def _interval(walls: Mapping[int, Sequence[float]], workers: int) -> tuple[float, float] | None:
    """None of the baseline, which is 1 by definition, and for too few repeats, which the table shows."""
    try:
        return speedup_interval(walls, workers) if workers != min(walls) else None
    except ConfigError:
        return None


def _medians(walls: Mapping[int, Sequence[float]]) -> dict[int, float]:
    return {workers: statistics.median(times) for workers, times in walls.items()}


def _law(counted: Mapping[int, Sequence[float]]) -> tuple[Law | None, list[str]]:
    seconds = _medians(counted)
    try:
        usl = fit_usl(seconds)
    except ConfigError as error:
        return None, [f"no scalability law: {error}"]
    law = Law(usl, None, min(counted), max(counted))
    try:
        return replace(law, interval=usl_interval(counted)), []
    except ConfigError as error:
        return law, [f"no interval of the law: {error}"]


def _weak_flags(gains: Mapping[int, Gain], counted: Iterable[int]) -> Iterator[str]:
    """Where growing work is done faster than workers explain, or not demonstrably any faster."""
    base, *larger = sorted(counted)
    for workers in larger:
        if gains[workers].efficiency > SUSPECT:
            yield f"efficiency {gains[workers].efficiency:.2f} at {_workers(workers)}: the baseline is suspect"
    for workers in larger:
        low, high = gains[workers].interval or (math.inf, math.inf)
        if low <= 1:
            yield f"no demonstrated gain of {_workers(workers)} over {base} ({low:.2f} to {high:.2f})"


def _few_repeats(walls: Iterable[Sequence[float]]) -> list[str]:
    """Where the repeats do not suffice for an interval."""
    fewest = min(map(len, walls))
    if fewest >= LEAST_REPEATS:
        return []
    return [f"{fewest} of {LEAST_REPEATS} repeats that it takes: no difference is demonstrated"]


def _uneven(points: Sequence[Point], kind: str) -> list[str]:
    """Work that is not the same, where it has to be: of each worker in a weak study, of all in the others."""
    work = [
        point.pixels / (point.cell.workers if kind == "weak" else 1)
        for point in points
        if point.counts and point.pixels
    ]
    if not work or max(work) <= min(work) * (1 + UNEVEN):
        return []
    whose = "of a worker" if kind == "weak" else "of the points"
    return [f"the work {whose} differs by {percent(max(work) / min(work) - 1)}: times are not quite comparable"]


def _compared(points: Sequence[Point], kind: str) -> Series:
    """A series whose chunk, stage or store is varied."""
    found = Series(tuple(points))
    counted = [point for point in points if point.counts]
    if len(counted) > 1:
        flags = _few_repeats(point.walls for point in counted)
        return replace(found, flags=tuple(flags)) if kind == "stages" else _ranked(found, kind, flags)
    varied = {"granularity": "chunk size", "stages": "stage", "storage": "store"}.get(kind, kind)
    return replace(found, reasons=(f"at most one {varied} can be used: nothing to compare",))


def _ranked(series: Series, kind: str, flags: Sequence[str]) -> Series:
    """With how much slower than the fastest point the others are; where that is not demonstrated, it is said."""
    best = series.fastest
    others = [point for point in series.points if point.counts and point is not best]
    if best is None or flags:
        return replace(series, flags=(*flags, *_uneven(series.points, kind)))
    slower = {point.cell: ratio_interval(point.walls, best.walls) for point in others}
    alike = [
        f"no demonstrated difference of {point_name(kind, point.cell)} to {point_name(kind, best.cell)} "
        f"({slower[point.cell][0]:.2f} to {slower[point.cell][1]:.2f} times as long)"
        for point in others
        if slower[point.cell][0] <= 1
    ]
    return replace(series, slower=slower, flags=(*alike, *_uneven(series.points, kind)))


def _labels(points: Sequence[Point]) -> tuple[str, ...]:
    cell = points[0].cell
    found = []
    if cell.emulated:
        each = {f"{point.cell.seconds:g}" for point in points}
        found.append(f"{EMULATED}: each waits about {' or '.join(sorted(each))} s for the bytes of a region")
    if any(point.oversubscribed for point in points):
        sizes = ", ".join(dict.fromkeys(str(point.cell.workers) for point in points if point.oversubscribed))
        found.append(f"{OVERSUBSCRIBED}: more threads than cores at {sizes} workers; no conclusion rests on these")
    return tuple(found)


def _emulation_doubts(points: Sequence[Point]) -> list[str]:
    """Where emulated nodes are not what they stand for."""
    nodes = [point for point in points if point.cell.emulated and point.counts]
    busy = max((point.worker_cpu or 0 for point in nodes), default=0)
    together = max(((point.worker_cpu or 0) * point.cell.workers for point in nodes), default=0)
    few = min((point.cell.regions / point.cell.workers for point in nodes), default=EMULATED_REGIONS)
    found = []
    if busy > EMULATED_CPU:
        found.append(
            f"an emulated node used {percent(busy)} of a core, more than {percent(EMULATED_CPU)} "
            f"(all together {percent(together)} of one): nodes may have waited for this machine's processors"
        )
    if few < EMULATED_REGIONS:
        found.append(
            f"only {few:g} regions an emulated node, fewer than {EMULATED_REGIONS}: the last ones leave nodes idle"
        )
    return found


def _unmeasured(points: Sequence[Point], kind: str) -> list[str]:
    """Points without a row that can be used, which a table would else pass over in silence."""
    cells = [one.cell for one in points if not one.walls]
    match kind:
        case "granularity":
            names = [f"chunks of {cell.chunk}" for cell in cells]
        case "stages":
            names = [f"the stage {cell.stage}" for cell in cells]
        case "storage":
            names = [f"the store {cell.store}" for cell in cells]
        case _:
            names = [_workers(cell.workers) for cell in cells]
    return [f"nothing can be used of {', '.join(dict.fromkeys(names))}: see the rows left out"] if names else []


def _workers(count: int) -> str:
    return f"{count} worker" if count == 1 else f"{count} workers"
