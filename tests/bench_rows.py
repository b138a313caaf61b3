"""Rows of the benchmark suite that were not measured here: published ones, and ones drawn from a known law."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ndvi_scale.bench.rows import STAGES, Cell, Environment, Measured, Row
from ndvi_scale.scaling import Usl

HAL = {1: 62.13, 2: 46.03, 4: 32.33, 8: 16.16, 16: 26.64}
"""Seconds of the spatial anomaly on CNES' HAL, by nodes."""

CELL = Cell("strong", "strong", "local", 1, 1, 1024, None, "disk", "daily", 320)

HERE = Environment(
    id="e1",
    machine="2 × Example CPU at 2.1 GHz, 8 GB, Linux 6.1",
    host="h1",
    cores=2,
    memory=8_000_000_000,
    versions={"python": "3.13.0", "ndvi-scale": "0.1.0 (abc1234)", "dask": "2026.7.1", "zarr": "3.4.2"},
    date="2026-11-27",
    price=0.05,
)


def row(cell: Cell, wall: float | None, **facts: Any) -> Row:
    """A row that counts, unless told otherwise."""
    usual: dict[str, Any] = {"environment": "e1", "began": "2026-11-27T08:00:00+00:00", "order": 0}
    usual |= {"arrived": cell.workers, "wall": wall, "digest": f"digest-{cell.chunk}-{cell.regions}-{cell.stage}"}
    return Row(cell=cell, **usual | facts)


def measured(*rows: Row, environments: tuple[Environment, ...] = (HERE,)) -> Measured:
    """What a file with these rows holds; their order is that of the arguments."""
    ordered = tuple(replace(one, order=place) for place, one in enumerate(rows))
    return Measured(ordered, {one.id: one for one in environments})


def repeats(cell: Cell, walls: list[float], **facts: Any) -> list[Row]:
    """A row for each time."""
    return [row(replace(cell, repeat=number), wall, **facts) for number, wall in enumerate(walls)]


def hal(count: int = 1) -> Measured:
    """HAL's rows, each as often as wanted."""
    found = [one for nodes, wall in HAL.items() for one in repeats(replace(CELL, workers=nodes), [wall] * count)]
    return measured(*found)


def full_suite(seed: int = 7) -> Measured:
    """Rows of all studies, drawn from known laws with noise, and some of each thing that may go wrong."""
    noise = np.random.default_rng(seed)

    def noisy(seconds: float, count: int = 5) -> list[float]:
        return [float(seconds * noise.normal(1, 0.02)) for _ in range(count)]

    facts = {
        "startup": 1.83,
        "submit": 0.21,
        "busy": 0.87,
        "worker_cpu": 2.1,
        "scheduler_cpu": 1.4,
    }
    facts |= {"peak_memory": 412_000_000, "memory_limit": 2_000_000_000, "pixels": 335_544_320}
    rows: list[Row] = []
    for cluster, law in {
        "local": Usl(0.02, 0.0006),
        "slurm": Usl(0.05, 0.0011),
        "kubernetes": Usl(0.1, 0.002),
    }.items():
        for workers in (1, 2, 4, 8, 16, 32):
            cell = replace(CELL, cluster=cluster, workers=workers, regions=640, seconds=0.5)
            spent = facts | {"worker_cpu": 3.2}
            rows += repeats(cell, noisy(160 / law.at(workers)), **spent)
    for workers in (1, 2, 4, 8, 16):
        cell = replace(CELL, study="weak", kind="weak", workers=workers, regions=20 * workers, seconds=0.5)
        grown = facts | {"pixels": 20_971_520 * workers, "worker_cpu": 0.3 * workers}
        rows += repeats(cell, noisy(10 * (1 + 0.012 * (workers - 1))), **grown)
    for workers in (1, 2, 4):
        cell = replace(CELL, study="cores", workers=workers, regions=32)
        rows += repeats(cell, noisy(12 / min(workers, 1.9)), **facts, oversubscribed=workers > 2)
    for chunk, seconds in {512: 15.1, 1024: 9.2, 2048: 8.8, 4096: 11.9}.items():
        cell = replace(
            CELL, study="chunk size", kind="granularity", workers=2, chunk=chunk, regions=4096**2 // chunk**2
        )
        rows += repeats(cell, noisy(seconds, 3), **facts)
    for stage, seconds in zip(STAGES, (0.31, 0.12, 0.45, 6.1, 2.2, 1.1, 8.9), strict=True):
        cell = replace(CELL, study="stages", kind="stages", workers=2, stage=stage, regions=64)
        rows += repeats(cell, noisy(seconds, 3), **facts)
    for store, seconds in {"disk": 8.9, "s3": 10.4}.items():
        cell = replace(CELL, study="storage", kind="storage", workers=2, store=store, regions=64)
        rows += repeats(cell, noisy(seconds), **facts)
    return _with_faults(rows)


def _with_faults(rows: list[Row]) -> Measured:
    """A row that differs, one without all workers, one that failed, and one from another machine."""
    by_place = {(one.cell.cluster, one.cell.workers, one.cell.repeat): place for place, one in enumerate(rows[:90])}
    odd = {("local", 8, 2): {"digest": "ffff0000aaaa1111"}, ("slurm", 16, 1): {"status": "degraded", "arrived": 15}}
    odd |= {
        ("kubernetes", 32, n): {"status": "failed", "reason": "no worker came within 120 s", "wall": None}
        for n in range(5)
    }
    odd |= {("local", 1, 4): {"environment": "e2"}}
    for place, facts in odd.items():
        rows[by_place[place]] = replace(rows[by_place[place]], **facts)
    there = replace(HERE, id="e2", machine="64 × Another CPU", date="2026-11-20")
    scripts = {
        "slurm": "#!/usr/bin/env bash\n#SBATCH -J ndvi-scale\n#SBATCH --mem=2G\n",
        "kubernetes": "kind: DaskCluster\n",
    }
    return measured(*rows, environments=(replace(HERE, scripts=scripts), there))
