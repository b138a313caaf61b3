"""A run's stages alone: what is read, computed, written or only handed over, on the workers of a whole run.

Reading reads all that a run reads. Computing takes the pixels of one region, which each process reads once, again
and again; writing takes the result of that region. So each stage does as much of its kind as the whole run does,
and nothing of the others; the first region of a process prepares, and belongs to the warm-up.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ndvi_scale import batch, ledger, write
from ndvi_scale.errand import Errand, held
from ndvi_scale.granule import granule_ndvi
from ndvi_scale.region import compute_region, read_windows
from ndvi_scale.search import search_items

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ndvi_scale.cluster.submit import DaskSubmit
    from ndvi_scale.lattice import Region
    from ndvi_scale.plan import Plan
    from ndvi_scale.readers import Reader
    from ndvi_scale.store import Store


@dataclass(frozen=True)
class StageErrand:
    """One stage of a region's work, on a worker; returns the seconds that it took there."""

    stage: str
    errand: Errand

    def __call__(self, region: Region) -> float:
        """Raises as `compute_region` and `write_region` do."""
        if self.stage == "submit":
            return 0.0
        plan, arrays, reader = held(self.errand)
        if self.stage != "read":
            ready(plan, reader, region)
        began = time.perf_counter()
        if self.stage == "read":
            read(plan, region, reader)
        elif self.stage == "kernel":
            compute(plan)
        else:
            write.write_region(arrays, plan, region, _ready[plan.id].data)
        return time.perf_counter() - began


@dataclass(frozen=True)
class _Ready:
    """What a process holds of one region."""

    windows: list[tuple[Any, Any]]
    data: Any


_lock = threading.Lock()
_ready: dict[str, _Ready] = {}


def ready(plan: Plan, reader: Reader, region: Region) -> None:
    """Have the pixels and the result of one region of a plan in this process. Raises ReadError."""
    with _lock:
        if plan.id not in _ready:
            _ready.clear()
            windows = [(granule, window) for _, granule, window in read_windows(plan, region, reader, {})]
            _ready[plan.id] = _Ready(windows, compute_region(plan, region, reader)[0])


def read(plan: Plan, region: Region, reader: Reader) -> None:
    """Read what a region needs, and throw it away. Raises ReadError."""
    for _ in read_windows(plan, region, reader, {}):
        pass


def compute(plan: Plan) -> None:
    """NDVI of the windows that are held, each as a run computes it."""
    for granule, window in _ready[plan.id].windows:
        granule_ndvi(window, granule, plan.config)


@dataclass(frozen=True)
class Staged:
    """How one stage of all regions went."""

    wall: float
    """Seconds, from the first region that is handed over to the last one that is finished."""
    seconds: list[float]
    """Of each region, on its worker, in the order in which they were finished."""


def run_stage(stage: str, plan: Plan, store: Store, submit: DaskSubmit, reader: Reader) -> Staged:
    """One stage of all regions. Raises as `run_batch` does."""
    ledger.save_plan(store, plan)
    write.create_template(store, plan)
    task: Any = StageErrand(stage, Errand(store, plan.id, reader.bare()))
    regions = list(plan.regions())
    began = time.perf_counter()
    finished: Any = batch.windowed(submit, task, regions, submit.capacity, batch.not_ahead)
    seconds = [future.result() for _, future in finished]
    return Staged(time.perf_counter() - began, seconds)


def timed_search(file: Path, days: Sequence[Any]) -> float:
    """Seconds to find the items of so many days in a file of items. Raises SearchError."""
    began = time.perf_counter()
    search_items(file, datetime=f"{min(days)}/{max(days)}")
    return time.perf_counter() - began
