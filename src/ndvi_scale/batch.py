"""The batch way: every region of a plan computed and written, a bounded number at a time, resumable."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Protocol

from ndvi_scale import guard, ledger, write
from ndvi_scale.access import require_keys
from ndvi_scale.config import config_differences
from ndvi_scale.errors import NdviScaleError, OffsetConflictError, PlanMismatchError, StoreError
from ndvi_scale.estimate import default_workers, regions_in_flight
from ndvi_scale.readers import Reader, Traffic, open_reader
from ndvi_scale.region import DayCounts, RegionRecord, compute_region, prefetch_region, total_counters

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Iterable, Iterator

    from ndvi_scale.lattice import Region
    from ndvi_scale.plan import Plan
    from ndvi_scale.store import Store


class Submit(Protocol):
    """What a run needs of an executor: that of a thread pool, or of anything with futures like it."""

    def __call__(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Run a function somewhere and return its future."""
        ...


@dataclass(frozen=True)
class RunReport:
    """How a run went. Counts are of the whole output, whatever earlier runs did of it."""

    regions: int
    done: int
    failed: dict[Region, str]
    """Region → why it could not be computed; running again tries it again."""
    valid: int
    """Pixels with NDVI."""
    pixels: int
    """Pixels of the regions that are done."""
    traffic: Traffic
    counters: dict[str, int]
    """`kernels.COUNTERS` summed over granules."""
    skipped: dict[str, str]
    """Granules left out and why (``on_error="skip"`` only)."""
    seconds: float
    """Wall time of this run."""
    computed: int
    """Regions that this run computed."""
    days: dict[dt.date, DayCounts] = field(default_factory=dict)
    """Solar day → what was seen of it, over the pixels in the AOI that some granule touches."""
    inside: int = 0
    """Pixels in the AOI, where any granule of any day touches it."""
    verdicts: tuple[guard.Verdict, ...] = ()
    """Whether the pixels agree with the offset, for each granule that a region saw, in mosaic order."""

    @property
    def named_days(self) -> dict[str, dict[str, int]]:
        """`days` as JSON has them."""
        return {day.isoformat(): counts._asdict() for day, counts in self.days.items()}


@dataclass(frozen=True)
class ThreadSubmit:
    """Submits to threads of this process, which share the driver's reader."""

    pool: ThreadPoolExecutor

    def __call__(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """See `Submit`."""
        return self.pool.submit(function, *args)


@contextmanager
def thread_pool(workers: int | None = None) -> Iterator[Submit]:
    """A `Submit` on threads of this process, `default_workers` of them if no number is given.

    What waits is dropped when the block is left by an error.
    """
    pool = ThreadPoolExecutor(workers or default_workers(), thread_name_prefix="region")
    try:
        yield ThreadSubmit(pool)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def run_batch(
    plan: Plan,
    store: Store,
    submit: Submit,
    *,
    reader: Reader | None = None,
    in_flight: int | None = None,
    on_done: Callable[[RegionRecord], None] | None = None,
    strict: bool = False,
) -> RunReport:
    """Compute and write what is not done yet, `in_flight` regions at a time, and finalise the store.

    `reader`: what reads the assets, `cog` by default. `in_flight`: by default what fits the free memory.
    Freezes the plan if the store has none; resumes from the ledger if it has. A region that fails is reported
    and the others go on; the store is then left ``incomplete``. `on_done` is called in this thread after each
    region. Raises ConfigError where keys to read with are missing, before anything is written, StoreError when the
    store itself fails, and with `strict` OffsetConflictError as soon as the pixels of a granule contradict its
    offset; both after noting what is done.
    """
    started = time.perf_counter()
    require_keys(plan.hrefs())
    reader = reader or open_reader()
    in_flight = in_flight or regions_in_flight(plan, reader=reader.name)
    _freeze(plan, store)
    done = _still_there(plan, store, ledger.finished(store, plan.id))
    before = len(done)
    failed: dict[Region, str] = {}
    tally = _tally(plan, done)
    if strict:
        _stop_at_conflict(tally.verdicts())
    pending = ledger.pending(plan, done)
    ahead = partial(prefetch_region, plan, reader=reader) if isinstance(submit, ThreadSubmit) else _not_ahead
    for region in pending[:in_flight]:
        ahead(region)  # their bytes are on the way while the template is written
    write.create_template(store, plan)
    task = partial(_compute_and_write, plan, reader, write.open_arrays(store, plan))
    book = ledger.Ledger(store, plan.id)
    try:
        for region, future in _windowed(submit, task, pending, in_flight, ahead):
            try:
                record = future.result()
            except StoreError:
                raise
            except NdviScaleError as error:
                failed[region] = str(error)
                continue
            book.add(record)
            done[region] = record
            tally.add(record.counters)
            if on_done is not None:
                on_done(record)
            if strict:
                _stop_at_conflict(tally.verdicts(record.counters))
    finally:
        book.flush()
    report = _report(plan, done, failed, computed=len(done) - before, seconds=time.perf_counter() - started)
    if not failed:
        write.finalise(store, plan, _summary(report))
    return report


def _tally(plan: Plan, done: dict[Region, RegionRecord]) -> guard.LandTally:
    tally = guard.LandTally(chain(plan.granules, *plan.spares.values()))
    for record in done.values():
        tally.add(record.counters)
    return tally


def _stop_at_conflict(verdicts: Iterable[guard.Verdict]) -> None:
    for verdict in guard.conflicts(verdicts):
        raise OffsetConflictError(
            f"item {verdict.item_id} (baseline {verdict.baseline}): {verdict.evidence}. Leave the item out of what "
            "`search --save` writes, or compute it in a run of its own with --offset 0 (or without the --offset "
            "given); without --strict this run goes on with that offset",
            item_id=verdict.item_id,
            land=verdict.land,
            dark=verdict.dark,
        )


def _freeze(plan: Plan, store: Store) -> None:
    """Store the plan, or make sure that it is the one that is stored."""
    stored = ledger.load_plan(store)
    if stored is None:
        ledger.save_plan(store, plan)
    elif stored != plan:
        differences = config_differences(stored.config, plan.config) or ("the items or the grid differ",)
        raise PlanMismatchError(
            f"{store.url} holds a run of another plan ({'; '.join(differences)}): give another output, or delete "
            "this one",
            differences=differences,
        )


def _still_there(plan: Plan, store: Store, done: dict[Region, RegionRecord]) -> dict[Region, RegionRecord]:
    """Records of the regions whose objects are there; one without a valid pixel has none. Asks with one listing."""
    names = set(store.data_names()) if done else set()
    return {
        region: record
        for region, record in done.items()
        if not record.valid or names.issuperset(write.object_names(plan, region))
    }


def _compute_and_write(plan: Plan, reader: Reader, arrays: Any, region: Region) -> RegionRecord:
    data, record = compute_region(plan, region, reader)
    return record.with_checksums(write.write_region(arrays, plan, region, data))


def _not_ahead(_: Region) -> None:
    """Other processes have readers of their own."""


def _windowed(
    submit: Submit,
    task: Callable[[Region], RegionRecord],
    regions: Iterable[Region],
    in_flight: int,
    ahead: Callable[[Region], None],
) -> Iterator[tuple[Region, Future[RegionRecord]]]:
    """Submit regions, never more than `in_flight` unfinished ones, and yield each when it is finished.

    `ahead` is called of regions shortly before they are submitted: of as many as are in flight.
    """
    queue = deque(regions)
    running = {submit(task, region): region for region in _taken(queue, in_flight)}
    for region in islice(queue, in_flight):
        ahead(region)
    while running:
        finished, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in finished:
            region = running.pop(future)
            for following in _taken(queue, 1):
                running[submit(task, following)] = following
            if len(queue) >= in_flight:
                ahead(queue[in_flight - 1])
            yield region, future


def _taken(queue: deque[Region], count: int) -> list[Region]:
    return [queue.popleft() for _ in range(min(count, len(queue)))]


def read_report(plan: Plan, store: Store) -> RunReport:
    """How far a run has come, from its ledger alone. Raises StoreError."""
    return _report(plan, ledger.finished(store, plan.id), {}, computed=0, seconds=0.0)


def _report(
    plan: Plan,
    done: dict[Region, RegionRecord],
    failed: dict[Region, str],
    *,
    computed: int,
    seconds: float,
) -> RunReport:
    records = list(done.values())
    return RunReport(
        regions=len(plan.index),
        done=len(done),
        failed=failed,
        valid=sum(record.valid for record in records),
        pixels=sum(map(plan.region_pixels, done)),
        traffic=sum((record.traffic for record in records), Traffic()),
        counters=total_counters(records),
        skipped={item: why for record in records for item, why in record.skipped.items()},
        seconds=seconds,
        computed=computed,
        days=_days(records),
        inside=sum({(r.region.iy, r.region.ix): r.inside for r in records}.values()),
        verdicts=_tally(plan, done).verdicts(),
    )


def _days(records: Iterable[RegionRecord]) -> dict[dt.date, DayCounts]:
    """Integers of each solar day, summed over regions; ascending."""
    found: dict[dt.date, DayCounts] = {}
    for record in records:
        for day, counts in record.days.items():
            found[day] = found.get(day, DayCounts()).plus(counts)
    return dict(sorted(found.items()))


def _summary(report: RunReport) -> dict[str, Any]:
    return {
        "valid": report.valid,
        "counters": report.counters,
        "skipped": report.skipped,
        "inside": report.inside,
        "days": report.named_days,
        "offset_guard": guard.summary(report.verdicts),
    }
