"""A region's work as it is sent to another process: where the run is, not what it holds."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from ndvi_scale import ledger, write
from ndvi_scale.errors import StoreError
from ndvi_scale.region import compute_region

if TYPE_CHECKING:
    from ndvi_scale.lattice import Region
    from ndvi_scale.plan import Plan
    from ndvi_scale.readers import Reader
    from ndvi_scale.region import RegionRecord
    from ndvi_scale.store import Store

KEPT: Final = 2
"""Runs whose plan a process keeps: the one that it works for, and the one before."""


@dataclass(frozen=True)
class Errand:
    """Computes and writes regions of a run from its store alone; a few hundred bytes when pickled.

    The plan is read from the run's state once a process. So a task weighs the same whatever the size of the plan,
    and one that comes late, when the output has another plan already, finds that out and writes nothing.
    """

    store: Store
    plan_id: str
    reader: Reader

    def __call__(self, region: Region) -> RegionRecord:
        """Raises as `compute_region` does, and StoreError where plan or output cannot be used."""
        plan, arrays, reader = held(self)
        if region not in plan.index:  # it would be written as empty
            raise StoreError(
                f"plan {plan.id[:12]} of {self.store.url} has no region layer {region.layer}, row {region.iy}, "
                f"column {region.ix} as this process read it: it was made of another part of the same items; write "
                "that to another output, or on workers that are started anew"
            )
        return compute_and_write(plan, reader, arrays, region)


def compute_and_write(plan: Plan, reader: Reader, arrays: Any, region: Region) -> RegionRecord:
    """One region, from files to objects. Raises as `compute_region` does, and StoreError."""
    began = time.perf_counter()
    data, record = compute_region(plan, region, reader)
    written = record.with_checksums(write.write_region(arrays, plan, region, data))
    return replace(written, seconds=time.perf_counter() - began)


_lock = threading.Lock()
_kept: dict[tuple[str, str, str], tuple[Plan, Any, Reader]] = {}


def held(errand: Errand) -> tuple[Plan, Any, Reader]:
    """The plan of a run, its arrays, open, and a reader that keeps what it knows of files from region to region.

    Made by the first thread that asks.
    """
    store, plan_id = errand.store.patient(), errand.plan_id
    key = store.url, plan_id, errand.reader.name
    with _lock:
        if key not in _kept:
            plan = ledger.load_plan(store)
            if plan is None or plan.id != plan_id:
                raise StoreError(
                    f"{store.url} holds {'no plan' if plan is None else 'another plan'} now: this region was of "
                    f"plan {plan_id[:12]} and is not written; stop the run that began it"
                )
            while len(_kept) >= KEPT:
                del _kept[next(iter(_kept))]
            _kept[key] = plan, write.open_arrays(store, plan), errand.reader
        return _kept[key]
