"""How much driver and scheduler grow with the regions of a run, and what a run costs beside its regions.

Regions only sleep. All else is what a run does: its window, its ledger on disk, its sums, and tasks on a Dask
cluster whose scheduler has a process of its own, so that its memory can be told apart. The plan's index is there
whole before the first number is taken: compared is the memory after some regions and after ten times as many.

    uv run python -m benchmarks.growth --work DIR
    uv run python -m benchmarks.growth --work DIR --sleep 1 --regions 320 --first 32 --threads 32
"""

from __future__ import annotations

import argparse
import datetime as dt
import gc
import os
import random
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pystac
from benchmarks.plan_size import EPSG, features

from ndvi_scale import RunConfig, batch, build_plan, ledger, open_store
from ndvi_scale.cluster.submit import DaskSubmit
from ndvi_scale.kernels import COUNTERS
from ndvi_scale.lattice import Region
from ndvi_scale.readers import Traffic
from ndvi_scale.region import DayCounts, RegionRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ndvi_scale.plan import Plan

DAY = dt.date(2023, 1, 1)


def plan_of(regions: int) -> Plan:
    """A plan of a day's tiles whose index has so many regions, a hundred a layer."""
    items = [pystac.Item.from_dict(feature) for feature in islice(features(1), 100)]
    plan = build_plan(items, RunConfig(crs=f"EPSG:{EPSG}", chunk=3584))
    return replace(plan, index={Region(i // 100, i % 10, i // 10 % 10): (i % 100,) for i in range(regions)})


def asleep(names: list[str], seconds: float, region: Region) -> RegionRecord:
    """A record of the usual size: two granules, one day, one variable."""
    # None takes as long as another: equal ones would end all at once, and wait for one another to be handed on.
    time.sleep(seconds * (0.75 + random.Random(repr(region)).random() / 2))  # noqa: S311 - not for secrets
    own = [names[(region.layer + number) % len(names)] for number in range(2)]
    return RegionRecord(
        region,
        9_000_000,
        {name: dict.fromkeys(COUNTERS, 4_500_000 + region.layer) for name in own},
        Traffic(100, 20_000_000),
        seconds,
        days={DAY + dt.timedelta(days=region.layer): DayCounts(9_000_000, 1, 1, 7)},
        inside=12_845_056,
        checksums={"ndvi": f"crc32c:{hash(region) & 0xFFFFFFFF:08x}"},
    )


@contextmanager
def cluster(folder: Path, workers: int, threads: int) -> Iterator[tuple[DaskSubmit, psutil.Process]]:
    """A scheduler and workers, each a process of its own; nothing is left of them."""
    from distributed import Client

    file = folder / "scheduler.json"
    file.unlink(missing_ok=True)
    dask = [sys.executable, "-m", "dask"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    place = ["--scheduler-file", str(file)]
    commands = [[*dask, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", *place]]
    commands += workers * [
        [*dask, "worker", "--host", "127.0.0.1", "--nthreads", str(threads), "--no-nanny", *place]
    ]
    running = []
    try:
        for command in commands:
            running.append(subprocess.Popen(command, env=environment, **quiet))
            while not file.exists():
                time.sleep(0.1)
        with Client(scheduler_file=str(file)) as client:
            client.wait_for_workers(workers)
            yield DaskSubmit(client), psutil.Process(running[0].pid)
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait(60)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--regions", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=10_000, help="regions after which memory is noted first")
    parser.add_argument("--sleep", type=float, default=0.001)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=8)
    chosen = parser.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    out = chosen.work / "growth.zarr"
    shutil.rmtree(f"{out}.run", ignore_errors=True)
    plan, store = plan_of(chosen.regions), open_store(str(out))
    names = [granule.id for granule in plan.granules]
    with cluster(chosen.work, chosen.workers, chosen.threads) as (submit, scheduler):
        done, book, driver = batch._Done(plan), ledger.Ledger(store, plan.id), psutil.Process()  # noqa: SLF001
        submit.client.run(asleep, names, 0.0, Region(0, 0, 0))  # what a worker imports with its first task
        started, noted = time.perf_counter(), []
        task = partial(asleep, names, chosen.sleep)
        pending = ledger.pending(plan, done.regions)
        for region, future in batch.windowed(submit, task, pending, submit.capacity, batch.not_ahead):
            record = future.result()
            book.add(record)
            done.add(region, record)
            if len(done.regions) in {chosen.first, chosen.regions}:
                gc.collect()
                noted.append((driver.memory_info().rss, scheduler.memory_info().rss))
                print(
                    f"{len(done.regions)} regions, {time.perf_counter() - started:.1f} s, {noted[-1]}", flush=True
                )
        book.flush()
        wall = time.perf_counter() - started
    grown = [(last - first) / (chosen.regions - chosen.first) for first, last in zip(*noted, strict=True)]
    ideal = chosen.sleep * chosen.regions / (chosen.workers * chosen.threads)
    print(f"bytes a region: driver {grown[0]:.0f}, scheduler {grown[1]:.0f}")
    print(f"wall {wall:.2f} s, {wall / ideal - 1:.1%} above {ideal:.2f} s; load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    from benchmarks.growth import main as run  # what is sent to workers is then a name, as in a run

    run()
