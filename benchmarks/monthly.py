"""What a composite costs beside reading: the monthly median of one tile over 30 dates, from an origin with latency.

Both sides read and mask every granule of every region through the same threads, reading ahead alike. One reduces
the days and writes a Zarr store, the other throws each day away. They take turns, several times; what is compared
are ratios within a turn. The days' valid pixels must be the same on both sides.

    uv run python -m benchmarks.monthly --work DIR
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from benchmarks.pages import PAGE, write_between

from ndvi_scale import RunConfig, build_plan, open_reader, open_store, run_batch, thread_pool
from ndvi_scale.batch import windowed  # the same window of regions in flight as a run has
from ndvi_scale.bench.archive import TILE, make_archive, whole_tile
from ndvi_scale.bench.origin import serve
from ndvi_scale.bench.workload import days_of, items_of
from ndvi_scale.estimate import default_workers, region_memory, regions_in_flight
from ndvi_scale.granule import granule_ndvi
from ndvi_scale.ledger import pending
from ndvi_scale.region import prefetch_region, read_windows  # all that a run does before it reduces

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pystac

    from ndvi_scale.batch import Submit
    from ndvi_scale.lattice import Region
    from ndvi_scale.plan import Plan
    from ndvi_scale.readers import Reader


def monthly_items(archive: Path, base: str, dates: int) -> list[pystac.Item]:
    """Items on the first days of June, each with files of its own to the reader."""
    return items_of(archive, f"{base}/copy-{{}}", days_of("daily", dates))


@contextmanager
def prepared(plan: Plan) -> Iterator[tuple[Reader, int, Submit]]:
    """A new reader, how many regions are in flight, and threads for them, as the command line has them."""
    reader = open_reader()
    in_flight = regions_in_flight(plan, default_workers(reader.name), reader=reader.name)
    with thread_pool(in_flight) as submit:
        yield reader, in_flight, submit


def composite(plan: Plan, folder: Path) -> tuple[float, int]:
    """Seconds of a run, and valid pixels of all days."""
    shutil.rmtree(folder, ignore_errors=True)
    started = time.perf_counter()
    with prepared(plan) as (reader, in_flight, submit):
        report = run_batch(plan, open_store(str(folder / "ndvi.zarr")), submit, reader=reader, in_flight=in_flight)
    seconds = time.perf_counter() - started
    if report.failed:
        raise SystemExit(f"regions failed: {report.failed}")
    return seconds, sum(counts.valid for counts in report.days.values())


def read_only(plan: Plan) -> tuple[float, int]:
    """The same without reducing and writing."""
    started = time.perf_counter()
    with prepared(plan) as (reader, in_flight, submit):
        ahead = partial(prefetch_region, plan, reader=reader)
        regions = pending(plan, {})
        for region in regions[:in_flight]:
            ahead(region)
        task: Any = partial(masked_days, plan, reader)
        valid = sum(future.result() for _, future in windowed(submit, task, regions, in_flight, ahead))
    return time.perf_counter() - started, valid


def masked_days(plan: Plan, reader: Reader, region: Region) -> int:
    """Valid pixels of a region's days, one granule each."""
    valid = 0
    for _, seen in groupby(read_windows(plan, region, reader, {}), key=lambda found: found[0]):
        for _, granule, window in seen:
            valid += granule_ndvi(window, granule, plan.config)[1]["valid"]
    return valid


def main() -> None:
    """Measure, and print and write a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the archive (0.6 GB) and the outputs")
    parser.add_argument("--size", type=int, default=TILE, help="pixels along the tile's side")
    parser.add_argument("--dates", type=int, default=30)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--page", action="store_true", help="write the table into docs/benchmarks.md")
    chosen = parser.parse_args()
    archives = chosen.work / "archives"
    archive = make_archive(archives, whole_tile(chosen.size), print)
    (chosen.work / "origin").mkdir(parents=True, exist_ok=True)
    with serve(archives, chosen.work / "origin") as origin:
        items = monthly_items(archive, f"{origin.url}/monthly", chosen.dates)
        plan = build_plan(items, RunConfig(period="month", reducer="median"))
        turns = measure(plan, chosen)
    text = table(plan, turns, f"{chosen.dates} dates of {chosen.size} x {chosen.size} pixels")
    print(text)
    if chosen.page:
        write_between(PAGE, "monthly", text)


def measure(plan: Plan, chosen: argparse.Namespace) -> list[tuple[float, float]]:
    """Seconds of both sides, turn by turn, the order changing; compiled on one region before."""
    region = next(iter(plan.regions()))
    small = replace(plan, index={region: plan.index[region][:2]})
    composite(small, chosen.work / "monthly")
    read_only(small)
    turns = []
    for turn in range(chosen.turns):
        sides: list[Any] = [partial(composite, plan, chosen.work / "monthly"), partial(read_only, plan)]
        order = sides if turn % 2 == 0 else sides[::-1]
        found = {side: side() for side in order}
        (whole, valid), (read, counted) = (found[side] for side in sides)
        if valid != counted:
            raise SystemExit(f"valid pixels differ: {valid} of the run, {counted} of reading alone")
        print(
            f"turn {turn + 1}: {whole:.1f} s, reading and masking alone {read:.1f} s: {whole / read:.3f}",
            flush=True,
        )
        turns.append((whole, read))
    return turns


def table(plan: Plan, turns: list[tuple[float, float]], what: str) -> str:
    """Markdown."""
    ratios = sorted(whole / read for whole, read in turns)
    peak = psutil.Process().memory_info().rss >> 20
    bound = region_memory(plan) >> 20
    return "\n".join(
        [
            f"Median of a month, {what}, {len(plan.index)} regions of {plan.most_days} days, {len(turns)} turns:",
            "",
            "| composite and write / read and mask alone | aim |",
            "|---|---|",
            f"| {statistics.median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f}) | at most 1.3 |",
            "",
            f"A region is bound by {bound} MiB; the whole process had {peak} MiB at the end.",
        ]
    )


if __name__ == "__main__":
    main()
