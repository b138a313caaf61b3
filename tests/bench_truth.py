"""Rows of a machine that is known: a simulation, event by event, which shares no code with the model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ndvi_scale.bench.rows import Cell, Environment, Measured, Row

CELL = Cell("sizes", "weak", "slurm", 1, 1, 1024, None, "disk", "daily", 20)
PIXELS = 2_000_000
"""Of a region."""


@dataclass(frozen=True)
class Truth:
    """A machine that is known: seconds."""

    fixed: float = 1.5
    wait: float = 0.8
    compute: float = 0.2
    spread: float = 0.1
    between: float = 0.04
    serial: float = 0.004
    cores: int | None = None

    def run(self, cell: Cell, seed: int) -> Row:
        """One row: workers take the next region that is handed over as soon as they are free."""
        chance = np.random.default_rng([seed, cell.workers, cell.regions, cell.repeat])
        factor = float(np.exp(chance.normal(0, self.between)))
        slots = cell.workers * cell.threads
        alone = self.wait + self.compute
        crowd = max(alone, min(slots, cell.regions) * self.compute / self.cores) if self.cores else alone
        own = crowd * chance.lognormal(-(self.spread**2) / 2, self.spread, cell.regions) * factor
        done = [0.0] * slots
        for number, seconds in enumerate(own):
            first = done.index(min(done))
            done[first] = max(done[first], number * self.serial) + float(seconds)
        return Row(
            cell=cell,
            environment="e",
            began="2026-11-27T08:00:00Z",
            order=0,
            arrived=cell.workers,
            startup=4 + 0.5 * cell.workers,
            wall=self.fixed * factor + max(done),
            worker_seconds=float(own.sum()),
            region_seconds=tuple(own.tolist()[:1000]),
            pixels=PIXELS * cell.regions,
            bytes_read=3_000_000 * cell.regions,
            requests=12 * cell.regions,
            worker_cpu=self.compute * factor * cell.regions,
            scheduler_cpu=0.5 + self.serial * cell.regions,
            driver_cpu=0.2,
        )


def environment(**changes: Any) -> Environment:
    known = Environment(
        "e", "a machine of 4 cores", "h", 4, 8 << 30, {"ndvi-scale": "1"}, "2026-11-27", 0.12, "EUR"
    )
    return replace(known, **changes)


def measured(truth: Truth, sizes: tuple[int, ...], *, repeats: int = 5, seed: int = 0, **cell: Any) -> Measured:
    base = replace(CELL, **cell)
    cells = [
        replace(base, workers=size, regions=20 * (size if base.kind == "weak" else max(sizes)), repeat=repeat)
        for size in sizes
        for repeat in range(repeats)
    ]
    return Measured(tuple(truth.run(one, seed) for one in cells), {"e": environment()})


def changed(found: Measured, **changes: Any) -> Measured:
    return replace(found, rows=tuple(replace(row, **changes) for row in found.rows))
