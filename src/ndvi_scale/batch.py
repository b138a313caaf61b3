"""The batch way: every region of a plan computed and written, a bounded number at a time, resumable."""

from __future__ import annotations

import time
from collections import Counter, deque
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

from ndvi_scale import axis, guard, lease, ledger, rates, write
from ndvi_scale.access import require_keys, signed_places
from ndvi_scale.config import config_differences
from ndvi_scale.errand import Errand, compute_and_write
from ndvi_scale.errors import ClusterError, NdviScaleError, OffsetConflictError, PlanMismatchError, StoreError
from ndvi_scale.estimate import default_workers, regions_in_flight
from ndvi_scale.fit import Roomy, check_fits
from ndvi_scale.readers import Reader, Traffic, open_reader
from ndvi_scale.region import DayCounts, RegionRecord, prefetch_region, total_counters

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from ndvi_scale.lattice import Region
    from ndvi_scale.plan import Plan
    from ndvi_scale.store import Store


class Submit(Protocol):
    """What a run needs of an executor: that of a thread pool, or of anything with futures like it.

    It may have a method ``capacity() -> int``, the regions that it takes at once just now, which is asked again
    whenever a region is finished: workers of a cluster come and go.
    """

    def __call__(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Run a function somewhere and return its future."""
        ...


@runtime_checkable
class Flexible(Protocol):
    """A `Submit` that knows how much it takes."""

    def capacity(self) -> int:
        """Regions that it takes at once just now."""
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


LOOK_AGAIN: Final = 2.0
"""Seconds after which the limit is asked for again though no region was finished: workers may have come."""


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

    `reader`: what reads the assets, `cog` by default. `in_flight`: at most the capacity of `submit`, or what
    fits the free memory where it has none.
    Freezes the plan if the store has none; resumes from the ledger if it has. A region that fails is reported
    and the others go on; the store is then left ``incomplete``. `on_done` is called in this thread after each
    region. Raises ConfigError where keys to read with are missing, before anything is written, StoreError when the
    store itself fails, and with `strict` OffsetConflictError as soon as the pixels of a granule contradict its
    offset; both after noting what is done. One driver at a time: StoreError names another one that writes there.
    """
    started = time.perf_counter()
    require_keys(plan.hrefs())
    if isinstance(submit, Flexible):
        store.require_sendable()
    reader = reader or open_reader()
    if isinstance(submit, Roomy):
        check_fits(plan, submit, reader.name)
    store.state_names(lease.FOLDER)  # a wrong address is told at once; what answered once is waited for
    store = store.patient()
    with lease.hold(store) as held:
        plan = _frozen(plan, store)
        done = _Done.of(plan, _still_there(plan, store, ledger.finished(store, plan)))
        ledger.compact(store, held)
        before = len(done.regions)
        if isinstance(submit, rates.Sharing):
            signed = signed_places(plan.hrefs())
            submit = rates.SharedSubmit(submit, rates.fewest_connections(plan), in_flight, signed)
        limit = _limit(plan, submit, reader, in_flight)
        run = _Run(plan, store, submit, reader, limit, on_done=on_done, strict=strict)
        failed = run.compute(done, ledger.Ledger(store, plan.id, held))
        computed = len(done.regions) - before
        report = _report(plan, done, failed, computed=computed, seconds=time.perf_counter() - started)
        if not failed:
            axis.commit(store, plan, _summary(report))
    return report


def _limit(plan: Plan, submit: Submit, reader: Reader, in_flight: int | None) -> Callable[[], int]:
    """How many regions may be in flight, each time it is asked."""
    if isinstance(submit, Flexible):
        capacity = submit.capacity  # asked in any case: it is also where a cluster says that it is gone
        return capacity if in_flight is None else lambda: min(in_flight, capacity())
    fixed = in_flight or regions_in_flight(plan, reader=reader.name)
    return lambda: fixed


@dataclass(frozen=True)
class _Run:
    """What does not change while a run computes."""

    plan: Plan
    store: Store
    submit: Submit
    reader: Reader
    limit: Callable[[], int]
    on_done: Callable[[RegionRecord], None] | None
    strict: bool

    def compute(self, done: _Done, book: ledger.Ledger) -> dict[Region, str]:
        """Compute what is not done, and note it; returns what failed and why."""
        failed: dict[Region, str] = {}
        if self.strict:
            _stop_at_conflict(done.tally.verdicts())
        try:
            for region, future in self._regions(ledger.pending(self.plan, done.regions)):
                try:
                    record = future.result()
                except (ClusterError, StoreError):
                    raise
                except NdviScaleError as error:
                    failed[region] = str(error)
                    continue
                book.add(record)
                done.add(region, record)
                if self.on_done is not None:
                    self.on_done(record)
                if self.strict:
                    _stop_at_conflict(done.tally.verdicts(record.counters))
        finally:
            book.flush()
        return failed

    def _regions(self, pending: list[Region]) -> Iterator[tuple[Region, Future[RegionRecord]]]:
        """Regions as they are finished, a bounded number in flight, those of this process read ahead."""
        if not isinstance(self.submit, ThreadSubmit):
            self._make_ready(pending)
            task: Callable[[Region], RegionRecord] = Errand(self.store, self.plan.id, self.reader.bare())
            return windowed(self.submit, task, pending, self.limit, not_ahead)
        ahead = partial(prefetch_region, self.plan, reader=self.reader)
        for region in pending[: self.limit()]:
            ahead(region)  # their bytes are on the way while the template is written
        self._make_ready(pending)
        task = partial(compute_and_write, self.plan, self.reader, write.open_arrays(self.store, self.plan))
        return windowed(self.submit, task, pending, self.limit, ahead)

    def _make_ready(self, pending: list[Region]) -> None:
        write.create_template(self.store, self.plan)
        axis.settle(self.store, self.plan, pending)


@dataclass
class _Done:
    """What is done, summed as it comes in: records kept whole would fill 2 kB a region."""

    plan: Plan
    regions: set[Region] = field(default_factory=set)
    valid: int = 0
    pixels: int = 0
    traffic: Traffic = field(default_factory=Traffic)
    counters: Counter[str] = field(default_factory=Counter)
    skipped: dict[str, str] = field(default_factory=dict)
    days: dict[dt.date, DayCounts] = field(default_factory=dict)
    inside: dict[tuple[int, int], int] = field(default_factory=dict)
    """Place of an object → pixels in the AOI."""
    tally: guard.LandTally = field(init=False)

    def __post_init__(self) -> None:
        """Nothing seen yet."""
        self.tally = guard.LandTally(chain(self.plan.granules, *self.plan.spares.values()))

    @classmethod
    def of(cls, plan: Plan, records: Mapping[Region, RegionRecord]) -> _Done:
        """Of records of a ledger."""
        done = cls(plan)
        for region, record in records.items():
            done.add(region, record)
        return done

    def add(self, region: Region, record: RegionRecord) -> None:
        """Count a region in; `region` is the plan's own, so that no other copy of it is kept."""
        self.regions.add(region)
        self.valid += record.valid
        self.pixels += self.plan.region_pixels(region)
        self.traffic += record.traffic
        self.counters.update(total_counters([record]))
        self.skipped.update(record.skipped)
        for day, counts in record.days.items():
            self.days[day] = self.days.get(day, DayCounts()).plus(counts)
        self.inside[region.iy, region.ix] = record.inside
        self.tally.add(record.counters)


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


def _frozen(plan: Plan, store: Store) -> Plan:
    """Store the plan, or make sure that it is the one that is stored; which knows what was before it."""
    stored = ledger.load_plan(store)
    if stored is None:
        ledger.save_plan(store, plan)
    elif stored != plan and stored.as_first() != plan:
        differences = config_differences(stored.config, plan.config) or ("the items or the grid differ",)
        raise PlanMismatchError(
            f"{store.url} holds a run of another plan ({'; '.join(differences)}): give another output, or delete "
            "this one",
            differences=differences,
        )
    return stored or plan


def _still_there(plan: Plan, store: Store, done: dict[Region, RegionRecord]) -> dict[Region, RegionRecord]:
    """Records of the regions whose objects are there; one without a valid pixel has none. Asks with one listing."""
    names = set(store.data_names()) if done else set()
    return {
        region: record
        for region, record in done.items()
        if not record.valid or names.issuperset(write.object_names(plan, region))
    }


def not_ahead(_: Region) -> None:
    """Other processes have readers of their own."""


def windowed(
    submit: Submit,
    task: Callable[[Region], RegionRecord],
    regions: Iterable[Region],
    limit: Callable[[], int],
    ahead: Callable[[Region], None],
) -> Iterator[tuple[Region, Future[RegionRecord]]]:
    """Submit regions, never more than the limit of unfinished ones, and yield each when it is finished.

    The limit is asked for again each time. `ahead` is called of regions shortly before they are submitted: of as
    many as are in flight.
    """
    queue = deque(regions)
    in_flight = limit()
    running = {submit(task, region): region for region in _taken(queue, in_flight)}
    for region in islice(queue, in_flight):
        ahead(region)
    while running:
        finished, _ = wait(running, LOOK_AGAIN, return_when=FIRST_COMPLETED)
        in_flight = limit()
        over = [(running.pop(future), future) for future in finished]
        for following in _taken(queue, in_flight - len(running)):
            running[submit(task, following)] = following
            if len(queue) >= in_flight:
                ahead(queue[in_flight - 1])
        yield from over


def _taken(queue: deque[Region], count: int) -> list[Region]:
    return [queue.popleft() for _ in range(min(count, len(queue)))]


def left_to_do(plan: Plan, store: Store) -> int:
    """How many regions a run would compute, from its ledger alone; where that is none, objects are looked for, too.

    Raises StoreError.
    """
    done = ledger.finished(store, plan)
    if len(done) == len(plan.index):
        done = _still_there(plan, store, done)
    return len(plan.index) - len(done)


def read_report(plan: Plan, store: Store) -> RunReport:
    """How far a run has come, from its ledger alone. Raises StoreError."""
    done = _Done.of(plan, ledger.finished(store, plan))
    return _report(plan, done, {}, computed=0, seconds=0.0)


def _report(
    plan: Plan,
    done: _Done,
    failed: dict[Region, str],
    *,
    computed: int,
    seconds: float,
) -> RunReport:
    return RunReport(
        regions=len(plan.index),
        done=len(done.regions),
        failed=failed,
        valid=done.valid,
        pixels=done.pixels,
        traffic=done.traffic,
        counters=total_counters([]) | done.counters,
        skipped=done.skipped,
        seconds=seconds,
        computed=computed,
        days=dict(sorted(done.days.items())),
        inside=sum(done.inside.values()),
        verdicts=done.tally.verdicts(),
    )


def _summary(report: RunReport) -> dict[str, Any]:
    return {
        "valid": report.valid,
        "counters": report.counters,
        "skipped": report.skipped,
        "inside": report.inside,
        "days": report.named_days,
        "offset_guard": guard.summary(report.verdicts),
    }
