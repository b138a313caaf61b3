"""One row after another on a cluster that is open: a warm-up, the run or the stage, and what it took."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import time
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from ndvi_scale import ledger
from ndvi_scale.batch import run_batch
from ndvi_scale.bench import probe
from ndvi_scale.bench.rows import Row
from ndvi_scale.bench.stages import run_stage, timed_search
from ndvi_scale.bench.workload import dates_of, days_of, plan_of
from ndvi_scale.cluster.submit import DaskSubmit, workers_of
from ndvi_scale.errors import NdviScaleError
from ndvi_scale.readers import open_reader
from ndvi_scale.search import search_items
from ndvi_scale.store import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from concurrent.futures import Future
    from pathlib import Path

    import pystac

    from ndvi_scale.bench.conditions import Conditions
    from ndvi_scale.bench.factors import Table
    from ndvi_scale.bench.rows import Cell
    from ndvi_scale.bench.workload import Sources
    from ndvi_scale.plan import Plan
    from ndvi_scale.region import RegionRecord
    from ndvi_scale.store import Store

KEPT: Final = 1000
"""Seconds of regions that a row keeps, evenly chosen."""


@dataclass(frozen=True)
class Clocked(DaskSubmit):
    """A `DaskSubmit` that notes when it was first handed anything, and how much."""

    notes: dict[str, float] = field(default_factory=dict, repr=False, compare=False)

    def __call__(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """See `DaskSubmit`."""
        self.notes.setdefault("first", time.perf_counter())
        self.notes["tasks"] = self.notes.get("tasks", 0) + 1
        return super().__call__(function, *args)


@dataclass(frozen=True)
class Bench:
    """What rows have in common."""

    table: Table
    sources: Sources
    environment: str
    """Its id."""
    folder: Path
    """Where outputs on disk go, each row's deleted after it."""
    run_id: str
    """Of this call: makes the files of each row new to whoever reads them."""
    conditions: Conditions

    def store(self, cell: Cell, name: str) -> Store:
        """A new output of a row. Raises StoreError."""
        if cell.store == "disk":
            return open_store(str(self.folder / "outputs" / name))
        place = self.table.stores[cell.store]
        return open_store(f"{place.url.rstrip('/')}/{name}", dict(place.options))


@dataclass
class _Gauges:
    """What is read before and after a row."""

    submit: DaskSubmit
    workers: Mapping[str, probe.Used] = field(default_factory=dict)
    scheduler: float = 0.0
    driver: float = 0.0

    def begin(self) -> None:
        """Remember what was used until now."""
        self.submit.client.run(probe.forget_peak)
        self.workers = self._of_workers()
        self.scheduler = self._scheduler()
        self.driver = probe.own_cpu()

    def read(self) -> dict[str, Any]:
        """Fields of a row: what was used since."""
        now = self._of_workers()
        before = {name: self.workers.get(name, probe.Used(0.0, 0)) for name in now}
        limits = [info["memory_limit"] for info in workers_of(self.submit.client).values()]
        return {
            "worker_cpu": sum(one.cpu - before[name].cpu for name, one in now.items()),
            "peak_memory": max((one.peak for one in now.values()), default=None),
            "memory_limit": min((limit for limit in limits if limit), default=None),
            "spilled": sum(one.spilled for one in now.values()),
            "transferred": sum(one.transferred - before[name].transferred for name, one in now.items()),
            "scheduler_cpu": self._scheduler() - self.scheduler,
            "driver_cpu": probe.own_cpu() - self.driver,
        }

    def _of_workers(self) -> dict[str, probe.Used]:
        told: Any = self.submit.client.run(probe.used)
        return told

    def _scheduler(self) -> float:
        told: Any = self.submit.client.run_on_scheduler(probe.own_cpu)
        return told


@dataclass(frozen=True)
class Opened:
    """A cluster that came, and how."""

    submit: DaskSubmit
    startup: float
    arrived: int
    crowded: bool
    """Whether more threads compute than there are cores: sizes then tell how cores are shared."""

    @classmethod
    def of(cls, submit: DaskSubmit, startup: float) -> Opened:
        """Look who is there."""
        workers = workers_of(submit.client)
        machines: Any = submit.client.run(probe.machine_here)
        threads = {address: worker["nthreads"] for address, worker in workers.items()}
        return cls(submit, startup, len(workers), probe.crowded(machines, threads))


def measured(bench: Bench, cell: Cell, opened: Opened, order: int) -> Row:
    """A row. What goes wrong in it is told in the row, and keeps no other from being measured."""
    short = opened.arrived < cell.workers
    row = Row(
        cell=cell,
        environment=bench.environment,
        began=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        order=order,
        status="degraded" if short else "ok",
        reason=f"{opened.arrived} of {cell.workers} workers came: {opened.submit.note}" if short else "",
        arrived=opened.arrived,
        startup=opened.startup,
        oversubscribed=opened.crowded and not cell.emulated,
        conditions=bench.conditions.of(cell),
    )
    try:
        found = _timed(bench, cell, opened.submit)
    except NdviScaleError as error:
        return replace(row, status="failed", reason=str(error))
    return replace(row, **found)


def _timed(bench: Bench, cell: Cell, submit: DaskSubmit) -> dict[str, Any]:
    """Fields of a row that went well. Raises as `run_batch` does."""
    tag = f"{bench.run_id}-{hashlib.sha256(cell.key.encode()).hexdigest()[:12]}"
    items = bench.sources.items(cell, tag)
    if cell.stage in {"search", "plan"}:
        return _without_workers(bench, cell, items)
    began = time.perf_counter()
    warm = first_regions(plan_of(cell, bench.sources.items(cell, f"{tag}-warm")), 2 * cell.workers * cell.threads)
    with _fresh(bench, cell, f"{tag}-warm") as store:
        _work(cell, warm, store, submit)
    warmup = time.perf_counter() - began
    plan, gauges = plan_of(cell, items), _Gauges(submit)
    clock = Clocked(submit.client, submit.expected, submit.look_after, submit.note)
    with _fresh(bench, cell, tag) as store:
        gauges.begin()
        began = time.perf_counter()
        done = _work(cell, plan, store, clock)
        found = gauges.read()
        _, written = store.data_size()
        digest = digest_of(done.checksums)
    slots = max(1, len(workers_of(submit.client)) * cell.threads)
    return found | {
        "warmup": warmup,
        "wall": done.wall,
        "submit": clock.notes.get("first", began) - began,
        "tasks": int(clock.notes.get("tasks", 0)),
        "retries": clock.shared.retried,
        "worker_seconds": sum(done.seconds),
        "busy": sum(done.seconds) / (done.wall * slots),
        "region_seconds": tuple(_evenly(done.seconds, KEPT)),
        "pixels": dates_of(cell) * cell.tile**2,
        "bytes_read": done.bytes_read,
        "requests": done.requests,
        "bytes_written": written,
        "digest": digest,
    }


@dataclass(frozen=True)
class _Done:
    """What came of a run or a stage."""

    wall: float
    seconds: list[float]
    """Of each region, on its worker."""
    bytes_read: int = 0
    requests: int = 0
    checksums: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def _work(cell: Cell, plan: Plan, store: Store, submit: DaskSubmit) -> _Done:
    """The whole run, or one stage of it. Raises as `run_batch` does, and NdviScaleError where a region failed."""
    if cell.stage != "full":
        staged = run_stage(cell.stage, plan, store, submit, open_reader())
        return _Done(staged.wall, staged.seconds)
    records: list[RegionRecord] = []
    began = time.perf_counter()
    report = run_batch(plan, store, submit, on_done=records.append)
    wall = time.perf_counter() - began
    if report.failed:
        region, why = next(iter(report.failed.items()))
        raise NdviScaleError(f"{len(report.failed)} of {report.regions} regions failed; {tuple(region)}: {why}")
    written = ledger.finished(store, plan)
    return _Done(
        wall,
        [record.seconds for record in records],
        report.traffic.bytes,
        report.traffic.requests,
        {str(tuple(region)): record.checksums for region, record in written.items()},
    )


def _without_workers(bench: Bench, cell: Cell, items: list[pystac.Item]) -> dict[str, Any]:
    """Fields of what the driver does alone: finding the items, and planning."""
    if cell.stage == "search":
        file = bench.folder / "items.json"
        collection = {"type": "FeatureCollection", "features": [item.to_dict() for item in items]}
        file.write_text(json.dumps(collection), encoding="utf-8")
        search_items(file)  # loads what a first search would else wait for
        wall = timed_search(file, days_of(cell.workload, dates_of(cell)))
    else:
        plan_of(cell, items)
        began = time.perf_counter()
        plan_of(cell, items)
        wall = time.perf_counter() - began
    return {"wall": wall, "pixels": dates_of(cell) * cell.tile**2}


class _fresh:  # noqa: N801 - reads as what it gives
    """An output that is not there before, and not afterwards."""

    def __init__(self, bench: Bench, cell: Cell, name: str) -> None:
        self._store = bench.store(cell, f"{name}.zarr")

    def __enter__(self) -> Store:
        self._store.delete()
        return self._store

    def __exit__(self, *_: object) -> None:
        self._store.delete()


def first_regions(plan: Plan, count: int) -> Plan:
    """The plan of its first regions alone."""
    return replace(plan, index=dict(islice(plan.index.items(), count)))


def digest_of(checksums: Mapping[str, Mapping[str, str]]) -> str:
    """Digest of what was written: of every region's checksums of its variables; empty where nothing was."""
    if not checksums:
        return ""
    return hashlib.sha256(
        json.dumps({k: dict(v) for k, v in checksums.items()}, sort_keys=True).encode()
    ).hexdigest()


def _evenly(values: list[float], most: int) -> Iterator[float]:
    step = max(1, len(values) / most)
    return (values[int(number * step)] for number in range(min(len(values), most)))
