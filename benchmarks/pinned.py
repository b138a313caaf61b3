"""Two workers pinned to a core each against one, on work that keeps the processor busy: files, no network.

Each size computes as many equal regions a worker; speed-up is the ratio of regions a second within a turn.
The order of sizes changes from turn to turn; regions that two sizes have in common must have the same checksums.
Emulated nodes, and all that is measured through a cluster profile: `ndvi-scale bench`.

    uv run python -m benchmarks.pinned --work DIR
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from ndvi_scale import RunConfig, build_plan, ledger, open_cluster, open_store, run_batch
from ndvi_scale.bench.archive import equal_blocks, make_archive
from ndvi_scale.bench.measure import first_regions
from ndvi_scale.bench.workload import days_of, items_of
from ndvi_scale.cluster.spec import LocalSpec
from ndvi_scale.cluster.submit import DaskSubmit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ndvi_scale.lattice import Region
    from ndvi_scale.plan import Plan

SIZE = 6144
"""Pixels along the side of the tile: nine regions a date, each of whole blocks."""
BLOCK, CHUNK = 1024, 2048


@dataclass(frozen=True)
class Row:
    """One size in one turn."""

    workers: int
    regions: int
    seconds: float
    cores: float
    """Of a core that a worker used, on average."""
    checksums: Mapping[Region, Mapping[str, str]]

    @property
    def rate(self) -> float:
        """Regions a second."""
        return self.regions / self.seconds


def busy(dask_worker: Any = None) -> float:
    """Processor seconds of this process so far; it keeps to one core from now on, by its worker's name."""
    cores = sorted(os.sched_getaffinity(0))
    core = cores[int(dask_worker.name) % len(cores)]
    for thread in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})
    times = psutil.Process().cpu_times()
    return times.user + times.system


def measured(plan: Plan, workers: int, out: Path) -> Row:
    """A run, on workers that are there and have computed a region each before it begins."""
    with ExitStack() as stack:
        submit: Any = stack.enter_context(open_cluster(LocalSpec(workers=workers, threads=1)))
        assert isinstance(submit, DaskSubmit)
        run(first_regions(plan, 2 * workers), out.with_name("warm.zarr"), submit)
        before = submit.client.run(busy)
        began = time.perf_counter()
        run(plan, out, submit)
        seconds = time.perf_counter() - began
        after = submit.client.run(busy)
    used = [(after[name] - before[name]) / seconds for name in after]
    done = ledger.finished(open_store(str(out)), plan)
    return Row(workers, len(plan.index), seconds, statistics.mean(used), {r: x.checksums for r, x in done.items()})


def run(plan: Plan, out: Path, submit: DaskSubmit) -> None:
    """A whole run to a new store. Raises SystemExit where a region failed."""
    for folder in (out, Path(f"{out}.run")):
        shutil.rmtree(folder, ignore_errors=True)
    report = run_batch(plan, open_store(str(out)), submit)
    if report.failed or len(ledger.finished(open_store(str(out)), plan)) != len(plan.index):
        raise SystemExit(f"{report.failed} regions failed")


def turns(plan: Plan, sizes: list[int], chosen: argparse.Namespace) -> Iterator[dict[int, Row]]:
    """Rows by size, turn by turn. Raises SystemExit where two sizes have other pixels."""
    for turn in range(chosen.turns):
        order = sizes if turn % 2 == 0 else sizes[::-1]
        rows = {
            size: measured(first_regions(plan, size * chosen.regions), size, chosen.work / "pinned.zarr")
            for size in order
        }
        one = rows[min(rows)]
        for row in rows.values():
            if any(row.checksums[region] != own for region, own in one.checksums.items()):
                raise SystemExit(f"{row.workers} workers have written other pixels than {one.workers}")
            print(
                f"turn {turn + 1}: {row.workers} workers, {row.regions} regions in {row.seconds:.1f} s, "
                f"{row.rate / one.rate:.2f} x, {row.cores:.1%} of a core each; load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
        yield rows


def table(found: list[dict[int, Row]], aim: str) -> str:
    """Markdown: speed-up of each size over the smallest, median and extremes of the turns."""
    first = min(found[0])
    lines = ["| workers | speed-up | of a core, each | aim |", "|---|---|---|---|"]
    for size in sorted(found[0]):
        ups = sorted(rows[size].rate / rows[first].rate for rows in found)
        cores = statistics.median(rows[size].cores for rows in found)
        spread = f"{statistics.median(ups):.2f} ({ups[0]:.2f}–{ups[-1]:.2f})"
        lines.append(f"| {size} | {spread} | {cores:.1%} | {aim if size == max(found[0]) else ''} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--regions", type=int, default=36, help="a worker")
    parser.add_argument("--turns", type=int, default=5)
    chosen = parser.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    archive = make_archive(chosen.work / "archives", equal_blocks(SIZE, BLOCK), print)
    dates = -(-2 * chosen.regions // (SIZE // CHUNK) ** 2)
    items = items_of(archive, archive.parent.resolve().as_uri(), days_of("daily", dates))
    print(table(list(turns(build_plan(items, RunConfig(chunk=CHUNK)), [1, 2], chosen)), "at least 1.6"))


if __name__ == "__main__":
    from benchmarks.pinned import main as run_main  # what is sent to workers is then a name

    run_main()
