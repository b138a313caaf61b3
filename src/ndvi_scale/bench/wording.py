"""Findings in words: what a study is, what it answers, how it was measured. Plain text; the pages escape it."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ndvi_scale.scaling import DRAWS, NEAR, SUSPECT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ndvi_scale.bench.findings import Findings, Law, Point, Series, Study
    from ndvi_scale.bench.rows import Cell, Row

MISSING: Final = "–"

WITH_HAND_OVER: Final = ("read", "kernel", "write")
"""Stages whose regions are handed over to workers."""

STAGE_NAMES: Final = {
    "search": "search",
    "plan": "plan",
    "submit": "hand over",
    "read": "read only",
    "kernel": "compute only",
    "write": "write only",
    "full": "full run",
}

_PURPOSES: Final = {
    "strong": "The same work on more workers; chunks stay as they are.",
    "weak": "Work grows with the workers: each has the same share.",
    "granularity": "The same work in smaller and larger chunks, on the same workers.",
    "stages": "Each part of a run alone, and all of it.",
    "storage": "The same run into different stores.",
}

_METHOD: Final = (
    "Rows ran in random order, each into a fresh output. Start-up and a warm-up run are not in the times.",
    f"Intervals are 95 %, by resampling the repeats {DRAWS:,} times; of three repeats they are a hint, not more.",
    f"Efficiency above {SUSPECT:g} puts the baseline in doubt.",
    f"A serial fraction (Karp–Flatt; Gustafson of growing work) that would be negative is none: {MISSING}.",
    "The scalability law is fitted by least squares to speed-ups: S(1) = 1, σ ≥ 0, κ ≥ 0, four sizes or more.",
    "Outputs of rows that compute the same are compared by digest: one that differs is a failure, not a time.",
)

_EMULATED: Final = (
    "Emulated nodes: each worker is one process with one region in flight, and the source holds its connection "
    "down, so that workers wait as they would for a far archive, and many fit one machine. What they say of "
    "waiting and scheduling holds for real nodes; what they say of processors does not."
)


@dataclass(frozen=True)
class Answer:
    """What a series says, as short as it can be said."""

    figure: str
    """A number, or a name."""
    claim: str
    """What it is: reads on from the figure."""
    detail: str
    """What it rests on."""
    also: str = ""
    """The second answer, where there are two."""


def purpose(study: Study) -> str:
    """What a study asks."""
    return _PURPOSES.get(study.kind, "")


def shared_facts(study: Study) -> list[str]:
    """What all series of a study have in common."""
    return [facts[0] for facts in _facts_by_name(study).values() if len(set(facts)) == 1 and facts[0]]


def series_name(study: Study, series: Series) -> str:
    """What tells a series from the others of its study; empty where it is the only one."""
    place = study.series.index(series)
    own = [facts[place] for facts in _facts_by_name(study).values() if len(set(facts)) > 1 and facts[place]]
    return ", ".join(own)


def _facts_by_name(study: Study) -> dict[str, list[str]]:
    each = [_facts(study.kind, series.cell) for series in study.series]
    return {name: [facts[name] for facts in each] for name in each[0]}


def _facts(kind: str, cell: Cell) -> dict[str, str]:
    """What holds of all points of a series."""
    found = {"cluster": cell.cluster, "workload": cell.workload, "tile": f"{cell.tile} × {cell.tile} px a day"}
    found["source"] = "" if cell.source == "origin" else f"from {cell.source}"
    if kind not in {"strong", "weak"}:
        found["workers"] = workers(cell.workers)
    found["threads"] = f"{cell.threads} thread{'s'[: cell.threads > 1]} a worker"
    if kind != "granularity":
        found["chunk"] = f"chunks of {cell.chunk} px"
        found["shard"] = f"shards of {cell.shard} px" if cell.shard else ""
    if kind != "storage":
        found["store"] = f"to {cell.store}"
    if kind == "weak":
        found["regions"] = f"{cell.regions / cell.workers:g} regions a worker"
    elif kind != "granularity":
        found["regions"] = f"{cell.regions} region{'s'[: cell.regions > 1]}"
    found["nodes"] = "emulated nodes" if cell.emulated else ""
    return found


def moment(text: str) -> str:
    """A time of ISO 8601, to the minute; what is none stays as it is."""
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{found:%Y-%m-%d}" if len(text) <= len("2026-01-01") else f"{found:%Y-%m-%d %H:%M} {found:%Z}".strip()


def workers(count: int) -> str:
    """``1 worker``, ``8 workers``."""
    return f"{count:,} worker" if count == 1 else f"{count:,} workers"


def rows_of(count: int) -> str:
    """``1 row``, ``8 rows``."""
    return f"{count:,} row" if count == 1 else f"{count:,} rows"


def percent(share: float) -> str:
    """``85 %``, ``7.5 %``."""
    number = share * 100
    return f"{number:.1f}".removesuffix(".0") + " %" if abs(number) < 10 else f"{number:.0f} %"  # noqa: PLR2004 - two digits


def decimals(values: Iterable[float | None]) -> int:
    """Digits after the point of a column: the smallest has some that tell something, the largest not too many."""
    there = [value for value in values if value] or [1]
    return min(_decimals(min(there)), _decimals(max(there)) + 1)


def _decimals(value: float) -> int:
    if value >= 100:  # noqa: PLR2004 - three digits are before the point
        return 1
    return 2 if value >= 1 else min(8, 2 - math.floor(math.log10(value)))


def seconds(value: float) -> str:
    """A time for a sentence."""
    return f"{value:,.{decimals([value])}f} s"


def point_name(kind: str, cell: Cell) -> str:
    """What a point is in its series."""
    match kind:
        case "granularity":
            return f"{cell.chunk} px" + (f" (shards of {cell.shard})" if cell.shard else "")
        case "stages":
            return STAGE_NAMES[cell.stage]
        case "storage":
            return cell.store
        case _:
            return f"{cell.workers}"


def answer(study: Study, series: Series, currency: str = "") -> Answer | None:
    """What a series answers; None where it answers nothing, and its reasons say why."""
    match study.kind:
        case "strong":
            return _strong_answer(series, currency)
        case "weak":
            return _weak_answer(series)
        case "stages":
            return _stage_answer(series)
        case _:
            return _best_answer(study.kind, series)


def _strong_answer(series: Series, currency: str) -> Answer | None:
    advice = series.advice
    if advice is None:
        return None
    times = {point.cell.workers: point for point in series.points if point.counts}
    enough, cheapest = times[advice.enough], times[advice.cheapest]
    fastest = series.fastest or enough
    place = f"within {percent(NEAR)} of the fastest, {fastest.cell.workers}"
    if fastest is enough:
        place = "the fastest of all" if len(times) == len(series.points) else "the fastest of those that count"
    largest = max(point.cell.workers for point in series.points)
    more = "" if advice.enough < largest else " More were not measured, and may be faster."
    detail = f"{_took(enough, currency)}, {place}.{more}"
    claim = ("worker is" if advice.enough == 1 else "workers are") + " enough"
    also = f"Cheapest: {workers(advice.cheapest)}, {_took(cheapest, currency)}."
    return Answer(f"{advice.enough}", claim, detail, also)


def _took(point: Point, currency: str) -> str:
    time = point.median or 0
    price = "" if point.cost is None else f", {point.cost:.{decimals([point.cost])}f} {currency}"
    spent = point.cell.workers * time
    return f"{seconds(time)} ({spent:,.{0 if spent >= 10 else 2}f} worker-seconds{price})"  # noqa: PLR2004 - digits


def _weak_answer(series: Series) -> Answer | None:
    if len(series.gains) < 2:  # noqa: PLR2004 - one is no comparison
        return None
    counted = [point.cell.workers for point in series.points if point.counts]
    if len(counted) < 2:  # noqa: PLR2004
        return None
    most, gain = max(counted), series.gains[max(counted)]
    base = workers(series.baseline or 1)
    detail = f"{workers(most)} do {gain.speedup:.2f} times as much in the same time as {base}."
    return Answer(f"{percent(gain.efficiency)}", f"weak efficiency at {workers(most)}", detail)


def _stage_answer(series: Series) -> Answer | None:
    full = series.point("full")
    parts = [point for point in series.points if point.counts and point.cell.stage != "full"]
    if not parts or full is None or not full.median:
        return None
    handed = next((point.median or 0 for point in parts if point.cell.stage == "submit"), 0.0)

    def own(point: Point) -> float:
        """Seconds without those of handing over, which is in all that workers do."""
        return max(0.0, (point.median or 0) - (handed if point.cell.stage in WITH_HAND_OVER else 0))

    longest = max(parts, key=own)
    share = own(longest) / full.median
    beside = f" beside handing over ({seconds(handed)})" if longest.cell.stage in WITH_HAND_OVER and handed else ""
    detail = f"{seconds(own(longest))} alone{beside}; a full run takes {seconds(full.median)}."
    return Answer(f"{percent(share)}", f"of a full run: {STAGE_NAMES[longest.cell.stage]}", detail)


def _best_answer(kind: str, series: Series) -> Answer | None:
    best = series.fastest
    counted = [point for point in series.points if point.counts]
    if best is None or best.median is None or len(counted) < 2:  # noqa: PLR2004 - one is no comparison
        return None
    near = [point_name(kind, point.cell) for point in series.near if point is not best]
    slowest = max(counted, key=lambda point: point.median or 0)
    ratio = (slowest.median or 0) / best.median
    beside = f" {', '.join(near)} within {percent(NEAR)}." if near else ""
    detail = f"{seconds(best.median)}; {point_name(kind, slowest.cell)} takes {ratio:.2f} times as long.{beside}"
    claim = {"granularity": "chunks are the fastest", "storage": "is the fastest store"}.get(kind, "is the fastest")
    return Answer(point_name(kind, best.cell), claim, detail)


def law_lines(law: Law) -> list[tuple[str, str]]:
    """Name and value of what a fitted law says."""
    spread = law.interval
    sigma = f"{law.usl.sigma:.3f}" + (_span(*spread.sigma, ".3f") if spread else "")
    kappa = f"{law.usl.kappa:.3g}" + (_span(*spread.kappa, ".2g") if spread else "")
    return [("contention σ", sigma), ("coherence κ", kappa), ("peak", _peak(law))]


def _peak(law: Law) -> str:
    if math.isinf(law.peak):
        said = "none: by this law more workers never make it slower"
    else:
        said = f"{law.peak:,.1f} workers" if law.peak < 1e4 else f"{law.peak:.1e} workers"  # noqa: PLR2004
    interval = law.peak_interval
    said += _span(*interval, ",.1f" if interval[0] < 1e4 else ".1e") if interval else ""  # noqa: PLR2004
    beyond = law.peak > law.largest and not math.isinf(law.peak)
    return said + (f"; beyond the {law.largest} measured, so a guess" if beyond else "")


def _span(low: float, high: float, form: str) -> str:
    ends = ["∞" if math.isinf(end) else f"{end:{form}}" for end in (low, high)]
    return f" (95 %: {ends[0]} to {ends[1]})"


def method(findings: Findings) -> list[str]:
    """How it was measured and reckoned."""
    points = [point for study in findings.studies for series in study.series for point in series.points]
    counts = sorted({len(point.walls) for point in points if point.walls})
    lines = [*_repeats(counts), *_METHOD]
    if any(point.cell.emulated for point in points):
        lines.append(_EMULATED)
    if any(point.oversubscribed for point in points):
        lines.append(
            "Rows with more threads than the machine has cores are shown, and nothing is concluded from them."
        )
    return lines


def _repeats(counts: list[int]) -> list[str]:
    """What figures are medians of."""
    if not counts:
        return []
    if counts[-1] == 1:
        return ["Each figure is of a single run that counts."]
    number = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return [f"Each figure is the median of {number} repeats that count."]


def describe(cell: Cell) -> str:
    """A row's name for a person."""
    parts = [cell.study, cell.cluster, f"{cell.workers} x {cell.threads} workers x threads", f"chunk {cell.chunk}"]
    parts += [f"shard {cell.shard}"] if cell.shard else []
    parts += [cell.store, cell.workload, f"{cell.regions} regions", cell.stage, f"repeat {cell.repeat}"]
    return ", ".join(parts)


def omitted_by_reason(findings: Findings) -> dict[str, list[Row]]:
    """Reason → rows that are left out for it."""
    found: dict[str, list[Row]] = {}
    for one in findings.omitted:
        found.setdefault(one.reason, []).append(one.row)
    return found


def omitted_names(findings: Findings) -> dict[str, list[str]]:
    """Reason → rows that are left out for it, by their names and times."""
    return {
        reason: [describe(row.cell) + (f" ({seconds(row.wall)})" if row.wall else "") for row in rows]
        for reason, rows in omitted_by_reason(findings).items()
    }


def headline(findings: Findings) -> str:
    """Where and when, in a line."""
    environment = findings.environment
    if environment is None:
        return f"None of {findings.rows} rows can be used."
    used = findings.rows - len(findings.omitted)
    return f"{environment.machine}. {moment(environment.date)}. {used} of {findings.rows} rows used."


def progress_line(row: Row) -> str:
    """A row as it is told when it is there."""
    took = "" if row.wall is None else f"  {row.wall:.2f} s"
    why = "" if row.status == "ok" else f"  {row.status}: {row.reason}"
    return f"{describe(row.cell)}{took}{why}"
