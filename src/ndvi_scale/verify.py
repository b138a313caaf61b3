"""Whether an output is what its run wrote: every finished region read again, and its checksums compared."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ndvi_scale import ledger, write
from ndvi_scale.errors import StoreError
from ndvi_scale.estimate import default_workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ndvi_scale.lattice import Region
    from ndvi_scale.plan import Plan
    from ndvi_scale.region import RegionRecord
    from ndvi_scale.store import Store


@dataclass(frozen=True)
class Verified:
    """What a verification found."""

    checked: int
    """Finished regions that were read."""
    damaged: dict[Region, str]
    """Regions whose pixels are not those that were written, and how."""
    missing: tuple[Region, ...]
    """Regions of the plan that no run has finished."""

    def __str__(self) -> str:
        """For people."""
        first = next(iter(self.damaged.items()), None)
        parts = [f"{len(self.damaged)} are damaged, the first {tuple(first[0])}: {first[1]}"] if first else []
        parts += [f"{len(self.missing)} are not done"] if self.missing else []
        return f"of {self.checked + len(self.missing)} regions {'; '.join(parts) or 'all are as they were written'}"

    @property
    def sound(self) -> bool:
        """Whether every region of the plan is there as it was written."""
        return not self.damaged and not self.missing


def verify(plan: Plan, store: Store, *, on_done: Callable[[Region], None] | None = None) -> Verified:
    """Read every finished region of a run again and compare its pixels with the ledger's checksums.

    Nothing is written; `discard` of the damaged ones makes the next run compute them again. `on_done` is
    called in this thread after each region. Raises StoreError where the arrays cannot be opened.
    """
    done = ledger.finished(store, plan)
    damaged = {}
    with ThreadPoolExecutor(default_workers(), thread_name_prefix="verify") as pool:
        for region, why in pool.map(partial(_examine, plan, store), done.values()):
            if why:
                damaged[region] = why
            if on_done is not None:
                on_done(region)
    missing = tuple(region for region in plan.regions() if region not in done)
    return Verified(len(done), damaged, missing)


def discard(plan: Plan, store: Store, regions: Iterable[Region]) -> None:
    """Make regions undone, so that the next run computes them again. Raises StoreError.

    Their objects go, too: of a shard that is damaged not even what is to be overwritten can be read.
    """
    gone = list(regions)
    ledger.forget(store, plan.id, gone)
    store.delete_data([name for region in gone for name in write.object_names(plan, region)])


def _examine(plan: Plan, store: Store, record: RegionRecord) -> tuple[Region, str]:
    """What is wrong with a region; nothing where it is as it was written."""
    try:
        found = write.read_region(store, plan, record.region)
    except StoreError as error:
        return record.region, str(error)
    wrong = [name for name, values in found.items() if not write.is_as_written(values, record.checksums[name])]
    return record.region, f"{', '.join(wrong)}: other pixels than were written" if wrong else ""
