"""What the command line shows: tables of items, plans and runs, and the progress bar. Text only; no logic."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, TypeVar

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ndvi_scale import guard
from ndvi_scale.doctor import PERCENTS
from ndvi_scale.interval import asked_days
from ndvi_scale.outside import as_markup
from ndvi_scale.periods import partial_periods, period_label
from ndvi_scale.reducers import reducer_name
from ndvi_scale.region import DayCounts
from ndvi_scale.search import item_cloud_cover
from ndvi_scale.sentinel2 import SCL_CLASSES

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import pystac
    from rich.console import Console

    from ndvi_scale.batch import RunReport
    from ndvi_scale.cluster.check import Checked
    from ndvi_scale.doctor import Diagnosis, Sample
    from ndvi_scale.estimate import Estimate
    from ndvi_scale.forecast import Outlook
    from ndvi_scale.plan import Plan
    from ndvi_scale.region import RegionRecord
    from ndvi_scale.sources import Source
    from ndvi_scale.verify import Verified

T = TypeVar("T")

_KILO: Final = 1000
_MINUTE: Final = 60

MOST_ROWS: Final = 40
"""Rows of a listing on the screen; `--json` and `--save` have them all."""


def size(count: float) -> str:
    """Bytes for people: ``1.2 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < _KILO - 0.5:  # 999.7 would read as 1e+03
            return f"{count:.3g} {unit}"
        count /= _KILO
    return f"{count:.3g} TB"


def _grid(title: str) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", show_header=False, box=None, pad_edge=False
    )
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def items_table(items: Sequence[pystac.Item]) -> Table:
    """One row an item, the first `MOST_ROWS`."""
    columns = {name: name == "cloud %" for name in ("item", "datetime", "tile", "cloud %", "baseline", "W,S,E,N")}
    return _listing(f"{len(items)} items", columns, items, _item_cells)


def _listing(
    title: str, columns: Mapping[str, bool], rows: Sequence[T], cells: Callable[[T], Iterable[str]]
) -> Table:
    """The first `MOST_ROWS` rows, and how many more there are. `columns`: name → whether it is of numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name, numbers in columns.items():
        table.add_column(name, justify="right" if numbers else "left", no_wrap=True)
    for row in rows[:MOST_ROWS]:
        table.add_row(*cells(row))
    if len(rows) > MOST_ROWS:
        table.add_row(f"… and {len(rows) - MOST_ROWS} more")
    return table


def _item_cells(item: pystac.Item) -> tuple[str, ...]:
    from ndvi_scale import sentinel2

    cloud = item_cloud_cover(item)
    baseline = sentinel2.item_baseline(item.properties)
    cells = (
        item.id,
        f"{item.datetime:%Y-%m-%d %H:%M}" if item.datetime else "?",
        sentinel2.item_tile(item.properties, item.id),
        "" if cloud is None else f"{cloud:.1f}",
        "" if baseline is None else "{:02}.{:02}".format(*baseline),
        _bbox_cell(item.bbox),
    )
    return tuple(as_markup(str(cell)) for cell in cells)


def _bbox_cell(bbox: Any) -> str:
    try:
        return ",".join(f"{degrees:.2f}" for degrees in bbox or ())
    except (TypeError, ValueError, OverflowError):  # text or nulls: a listing leaves them blank
        return ""


def sources_table(sources: Mapping[str, Source]) -> Table:
    """One row a known catalog; the first collection is the usual one."""
    table = Table(box=None, pad_edge=False)
    for name in ("name", "collections", "account", "BOA offset"):
        table.add_column(name, no_wrap=name == "name", overflow="fold")
    for name, source in sources.items():
        auto = ["auto"] if source.auto else []
        table.add_row(name, "\n".join([*source.collections, *auto]), source.account, source.offsets)
    return table


def plan_table(plan: Plan, estimate: Estimate | None, in_flight: int | None) -> Table:
    """What a plan will do and cost, with so many regions in flight here, or on a cluster (None)."""
    _, height, width = plan.shape
    geobox = plan.lattice.geobox
    table = _grid("Plan")
    spares = {spare.id for spares in plan.spares.values() for spare in spares}
    reserve = f", {len(spares)} of them in reserve" if spares else ""
    table.add_row("items", f"{len(plan.granules)} used, {len(plan.dropped)} dropped{reserve}")
    days = plan.granule_days
    table.add_row("days", f"{len(set(days))}, {days[0]} to {days[-1]}")
    if plan.config.period is not None:
        table.add_row("layers", _layers_cell(plan))
    table.add_row("grid", f"{height} x {width} pixels of {geobox.resolution.x:g} m, {plan_crs(plan)}")
    read = plan.granules[0].red
    if read.overview > 1:
        table.add_row("overviews", f"red and nir of {read.geobox.resolution.x:g} m, 1/{read.overview} of full size")
    table.add_row("regions", _regions_cell(plan))
    table.add_row("mask", ", ".join(SCL_CLASSES[number] for number in plan.config.mask) or "none")
    if plan.config.mask_filters:
        table.add_row("mask filters", f"{', '.join(plan.config.mask_filters)} (SCL pixels)")
    offsets = Counter((g.red.offset, g.red.evidence) for g in plan.granules)
    for (offset, evidence), count in sorted(offsets.items()):
        table.add_row("offset", f"{offset} DN for {count} items: {as_markup(evidence)}")
    if estimate is not None:
        table.add_row("to read", f"{size(estimate.traffic.bytes)} in {estimate.traffic.requests} requests")
        table.add_row("output", f"{size(estimate.output_bytes)} before compression")
        where = f"for {in_flight} regions in flight" if in_flight else "for a worker of one thread"
        table.add_row("memory", f"at most {size(estimate.memory(in_flight or 1))} {where}")
    return table


def _layers_cell(plan: Plan) -> str:
    """``7 (2023-04 to 2023-10): the median of up to 12 days``, and which are partly outside the dates asked for."""
    period, first, last = str(plan.config.period), plan.layers[0], plan.layers[-1]
    names = [period_label(layer, period) for layer in (first, last)]
    span = names[0] if first == last else " to ".join(names)
    of = f"{reducer_name(plan.config.reducer or '')} of up to {plan.most_days} days"
    partial = partial_periods(plan.layers, asked_days(plan.config.datetime))
    cut = ", ".join(period_label(layer, period) for layer in partial)
    return f"{len(plan.layers)} ({span}): {of}" + (
        f"; the dates asked for hold only a part of {cut}" if cut else ""
    )


def plan_crs(plan: Plan) -> str:
    """``EPSG:32631``."""
    crs = plan.lattice.geobox.crs
    return f"EPSG:{crs.to_epsg()}" if crs and crs.to_epsg() else str(crs)


def info_table(facts: dict[str, Any]) -> Table:
    """What an output is on disk."""
    table = _grid("Output")
    table.add_row("status", as_markup(str(facts["status"])))
    table.add_row("stored", f"{size(facts['stored_bytes'])} in {facts['objects']} objects")
    table.add_row("plan", as_markup(facts["plan"]))
    if "store_digest" in facts:
        table.add_row("digest", as_markup(facts["store_digest"]))
    return table


def outlook_tables(outlook: Outlook | None) -> Iterator[Table]:
    """How long a run would take on several numbers of workers, and what that takes for granted."""
    if outlook is None:
        return
    currency = outlook.calibration.currency
    priced = any(one.cost is not None for one in outlook.forecasts)
    table = Table(title="Forecast", title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name in ("workers", "wall", "90 % of runs", "start", *([currency] if priced else []), "limited by"):
        table.add_column(name, justify="left" if name == "limited by" else "right")
    for one in outlook.forecasts:
        interval = f"{duration(one.low)} to {duration(one.high)}"
        cost = [] if one.cost is None else [money(one.cost)]
        table.add_row(str(one.workers), duration(one.wall), interval, duration(one.startup), *cost, one.limit)
    yield table
    granted = _grid("Which takes for granted")
    limit = f"beyond {outlook.scheduler_limit:,} workers scheduler and driver are the limit"
    for text in (*outlook.assumptions, limit):
        granted.add_row("-", as_markup(text))
    yield granted


def money(amount: float) -> str:
    """Two decimals, or two digits of what is less than one: ``12.30``, ``0.0042``."""
    return f"{amount:.2f}" if amount >= 1 else f"{amount:.2g}"


def duration(seconds: float) -> str:
    """For people: ``12.3 s``, ``4 min 05 s``, ``2 h 10 min``."""
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{seconds:.1f} s"
    if whole < _MINUTE**2:
        return f"{whole // _MINUTE} min {whole % _MINUTE:02} s"
    minutes = round(seconds / _MINUTE)
    return f"{minutes // _MINUTE} h {minutes % _MINUTE:02} min"


def outlook_json(outlook: Outlook | None) -> dict[str, Any]:
    """The same for a program; nothing where nothing was asked for."""
    if outlook is None:
        return {}
    return {
        "forecast": {
            "sizes": [asdict(one) for one in outlook.forecasts],
            "scheduler_limit": outlook.scheduler_limit,
            "currency": outlook.calibration.currency,
            "assumptions": list(outlook.assumptions),
        }
    }


def dropped_table(plan: Plan) -> Table:
    """Items that take no part, with the reason."""
    table = _grid(f"{len(plan.dropped)} items dropped")
    for dropped in plan.dropped[:MOST_ROWS]:
        table.add_row(as_markup(dropped.id), as_markup(dropped.reason))
    return table


def run_table(report: RunReport, estimate: Estimate | None) -> Table:
    """How a run went."""
    table = _grid("Run")
    table.add_row("regions", f"{report.done} of {report.regions} done, {report.computed} now")
    table.add_row("pixels", f"{report.pixels:,}, {report.valid / max(report.pixels, 1):.1%} with NDVI")
    planned = f" (planned {size(estimate.traffic.bytes)})" if estimate else ""
    table.add_row("read", f"{size(report.traffic.bytes)}{planned} in {report.traffic.requests} requests")
    if report.seconds and report.computed:
        table.add_row("time", f"{report.seconds:.1f} s")
    judged = Counter(verdict.judgement for verdict in report.verdicts)
    if judged:
        table.add_row("offsets", ", ".join(f"{_JUDGED[name]} {judged[name]}" for name in _JUDGED if judged[name]))
    lost = {name: n for name, n in report.counters.items() if n and name in _LOST}
    if lost:
        table.add_row("unusable", ", ".join(f"{_LOST[name]} {n:,}" for name, n in lost.items()))
    for item, why in list(report.skipped.items())[:MOST_ROWS]:
        table.add_row("left out", as_markup(f"{item}: {why}"))
    for region, why in list(report.failed.items())[:MOST_ROWS]:
        table.add_row(f"failed {tuple(region)}", as_markup(why))
    return table


def conflict_lines(report: RunReport) -> list[str]:
    """A warning for each granule whose pixels contradict its offset, the first `MOST_ROWS`."""
    found = guard.conflicts(report.verdicts)
    lines = [
        f"item {verdict.item_id} (baseline {verdict.baseline}): {verdict.evidence}. Its NDVI follows that offset; "
        "see `ndvi-scale doctor`"
        for verdict in found[:MOST_ROWS]
    ]
    return lines + ([f"… and {len(found) - MOST_ROWS} more items"] if len(found) > MOST_ROWS else [])


def days_table(report: RunReport) -> Table:
    """How much of the AOI each solar day shows, as percentages of its pixels, the first `MOST_ROWS`."""
    unseen = "" if report.done == report.regions else "; what is not done yet counts as not observed"
    columns = {name: name != "day" for name in ("day", *DayCounts._fields)}

    def cells(row: tuple[dt.date, DayCounts]) -> list[str]:
        day, counts = row
        return [day.isoformat(), *(f"{100 * count / max(report.inside, 1):.1f}" for count in counts)]

    return _listing(f"Days, % of the region{unseen}", columns, list(report.days.items()), cells)


_JUDGED: Final = {"agrees": "pixels agree for", "conflict": "contradict for", "undecided": "tell nothing for"}

_LOST: Final = {
    "nodata": "nodata",
    "masked": "masked by SCL",
    "saturated": "saturated",
    "wrapped": "DN above 32767",
    "not_positive": "nir + red ≤ 0",
    "out_of_range": "|NDVI| > 1",
}


def doctor_tables(found: Diagnosis) -> Iterator[Table | str]:
    """All that is known of an item's offset: what is said, what is seen, what is decided."""
    said = _grid(as_markup(found.item_id))
    for evidence in found.evidence:
        said.add_row(as_markup(evidence.source), as_markup(evidence.says))
    yield said
    if found.sample is None:
        yield f"The pixels cannot be read: {as_markup(found.unreadable)}"
    else:
        sample = found.sample
        where = f"{sample.blocks} of {sample.of} blocks"
        yield f"[bold]DN of {sample.pixels:,} valid pixels in {where}, by percentile[/]"
        yield _percentile_table(sample)
    yield _decision_table(found)


def _percentile_table(sample: Sample) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("", style="dim", no_wrap=True)
    for percent in PERCENTS:
        table.add_column(f"{percent} %", justify="right")
    for name, values in sample.percentiles.items():
        table.add_row(name, *(f"{value:.0f}" for value in values))
    return table


def _decision_table(found: Diagnosis) -> Table:
    table = _grid("Decision")
    for band, decision in found.decisions.items():
        offset = "refused" if decision.offset is None else f"{decision.offset} DN"
        table.add_row(band, f"[bold]{offset}[/]: {as_markup(decision.why)}")
    if found.sample is not None:
        sample = found.sample
        share = f"; {sample.vegetation / sample.verdict.land:.0%} of them vegetation" if sample.verdict.land else ""
        table.add_row("pixels", f"[bold]{sample.verdict.judgement}[/]: {as_markup(sample.verdict.evidence)}{share}")
        medians = ", ".join(f"{value:.3f} with {offset} DN" for offset, value in sample.median_ndvi.items())
        table.add_row("NDVI", f"median over SCL 4 and 5: {medians or 'no such pixel'}")
    return table


def clusters_table(profiles: Mapping[str, Mapping[str, Any]], file: str) -> Table:
    """Profiles of clusters, and where they are from."""
    table = Table(title=f"Clusters (profiles of your own: {as_markup(file)})", title_justify="left", box=None)
    for name in ("name", "kind", "settings"):
        table.add_column(name, overflow="fold")
    for name, settings in profiles.items():
        told = ", ".join(f"{key} = {value}" for key, value in settings.items() if key != "kind")
        table.add_row(as_markup(name), as_markup(str(settings.get("kind", "none"))), as_markup(told))
    return table


def checked_table(found: Checked) -> Table:
    """What was looked at on a cluster, what was found, and what to do about it."""
    table = Table(title=f"{found.workers} workers", title_justify="left", box=None)
    for name in ("", "looked at", "found", "remedy"):
        table.add_column(name, overflow="fold")
    for one in found.findings:
        mark = "[green]ok[/]" if one.ok else "[bold red]wrong[/]"
        table.add_row(mark, as_markup(one.what), as_markup(one.value), as_markup(one.remedy))
    return table


@contextmanager
def counting(console: Console, total: int) -> Iterator[Callable[[Any], None]]:
    """A bar with regions; yields what to call with each."""
    columns = (BarColumn(bar_width=30), TextColumn("{task.completed}/{task.total} regions"), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total)
        yield lambda _: bar.update(task, advance=1)


def verified_table(found: Verified) -> Table:
    """What a verification found."""
    table = _grid("Verified")
    table.add_row("regions", f"{found.checked - len(found.damaged)} of {found.checked + len(found.missing)} sound")
    if found.missing:
        table.add_row("not done", str(len(found.missing)))
    for region, why in list(found.damaged.items())[:MOST_ROWS]:
        table.add_row(f"damaged {tuple(region)}", as_markup(why))
    return table


def verified_json(found: Verified) -> dict[str, Any]:
    """The same for programs."""
    return {
        "sound": found.sound,
        "checked": found.checked,
        "damaged": [{"region": list(region), "why": why} for region, why in found.damaged.items()],
        "missing": [list(region) for region in found.missing],
    }


@contextmanager
def progress(console: Console, total: int, done: int) -> Iterator[Callable[[RegionRecord, int], None]]:
    """A bar with regions, pixels and bytes per second; yields what to call with each record and its pixels."""
    import time

    columns = (
        BarColumn(bar_width=30),
        TextColumn("{task.completed}/{task.total} regions"),
        TextColumn("[green]{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    started = time.perf_counter()
    seen = {"pixels": 0, "bytes": 0}
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total, completed=done, rate="")

        def advance(record: RegionRecord, pixels: int) -> None:
            seen["pixels"] += pixels
            seen["bytes"] += record.traffic.bytes
            seconds = max(time.perf_counter() - started, 1e-3)
            rate = f"{seen['pixels'] / seconds / 1e6:.1f} Mpx/s  {size(seen['bytes'] / seconds)}/s"
            bar.update(task, advance=1, rate=rate)

        yield advance


def _regions_cell(plan: Plan) -> str:
    height, width = plan.lattice.object_shape
    chunks = " in chunks of {} x {}".format(*plan.chunk_shape) if plan.shard_shape else ""
    return f"{len(plan.index)} of {height} x {width} pixels{chunks}"


def plan_json(plan: Plan, estimate: Estimate | None) -> dict[str, Any]:
    """The plan's facts for a program."""
    facts = {
        "plan": plan.id,
        "items": [granule.id for granule in plan.granules],
        "dropped": {dropped.id: dropped.reason for dropped in plan.dropped},
        "days": [day.isoformat() for day in sorted(set(plan.granule_days))],
        "layers": [[layer.start.isoformat(), layer.end.isoformat()] for layer in plan.layers],
        "shape": list(plan.shape),
        "crs": plan_crs(plan),
        "transform": list(plan.lattice.geobox.affine)[:6],
        "chunk": list(plan.chunk_shape),
        "shard": list(plan.shard_shape) if plan.shard_shape else None,
        "regions": len(plan.index),
    }
    if estimate is not None:
        facts |= {
            "bytes": estimate.traffic.bytes,
            "requests": estimate.traffic.requests,
            "output_bytes": estimate.output_bytes,
            "region_memory": estimate.region_memory,
        }
    return facts


def offsets_json(plan: Plan) -> dict[str, Any]:
    """Offsets of every item in DN and why, by item id."""
    return {
        granule.id: {
            "red": granule.red.offset,
            "nir": granule.nir.offset,
            "evidence": granule.red.evidence,
            "evidence_nir": granule.nir.evidence,
        }
        for granule in plan.granules
    }


def report_json(report: RunReport) -> dict[str, Any]:
    """The run's facts for a program."""
    return {
        "complete": report.done == report.regions,
        "regions": report.regions,
        "done": report.done,
        "failed": {str(tuple(region)): why for region, why in report.failed.items()},
        "pixels": report.pixels,
        "valid": report.valid,
        "bytes": report.traffic.bytes,
        "requests": report.traffic.requests,
        "counters": report.counters,
        "skipped": report.skipped,
        "inside": report.inside,
        "days": report.named_days,
        "offset_guard": guard_json(report),
    }


def guard_json(report: RunReport) -> dict[str, Any]:
    """Verdicts on the offsets by item id."""
    return {
        verdict.item_id: {key: value for key, value in asdict(verdict).items() if key != "item_id"}
        for verdict in report.verdicts
    }
