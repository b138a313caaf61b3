"""Outputs that go on with what a new search finds: items processed again, dates after the last, dates between."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import xarray as xr
import zarr

import runs
from ndvi_scale import (
    RunConfig,
    build_plan,
    lease,
    ledger,
    open_reader,
    open_store,
    parse_bbox,
    search_items,
    store_digest,
)
from ndvi_scale.errand import Errand
from ndvi_scale.errors import ConfigError, PlanMismatchError, StoreError
from ndvi_scale.output import check_ours
from ndvi_scale.refresh import Changes, Wish, lines, renew
from ndvi_scale.write import TIMES_IN_CHUNK, consolidate, is_complete, read_attributes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    import pystac

    import services
    from ndvi_scale.batch import RunReport
    from ndvi_scale.plan import Plan
    from ndvi_scale.sandbox import Sandbox
    from ndvi_scale.store import Store

DAYS = ["2021-04-02", "2021-04-20", "2021-05-05"]
APPEND, REFRESH = Wish(append=True), Wish(refresh=True)
ALL = Wish(refresh=True, append=True, rebuild_axis=True)
OLDER, NEWER = "S2A_31TCJ_20210505_0_L2A", "S2A_31TCJ_20210505_1_L2A"
"""Two processings of one acquisition of the last day."""


@cache
def everything(sandbox: Sandbox) -> list[pystac.Item]:
    return [item for item in search_items(sandbox.items) if "30TYP" not in item.id]


def plan_of(sandbox: Sandbox, *days: str, without: Iterable[str] = (), **settings: Any) -> Plan:
    """What a search would find of some days, but for some items."""
    items = [i for i in everything(sandbox) if str(i.datetime)[:10] in days and i.id not in without]
    asked = {"crs": "EPSG:32631", "chunk": 128, "aoi": parse_bbox(sandbox.bbox), "datetime": "2021-04/2021-05"}
    return build_plan(items, RunConfig(**(asked | settings)))


def begun(plan: Plan, folder: Path) -> Store:
    store = open_store(folder / "ndvi.zarr")
    runs.run(plan, store)
    return store


def go_on(store: Store, found: Plan, wish: Wish) -> tuple[Changes, RunReport]:
    plan, changes = renew(store, found.config, lambda: found, wish)
    return changes, runs.run(plan, store)


def in_one_go(plan: Plan, folder: Path) -> str:
    store = open_store(folder / "whole.zarr")
    runs.run(plan, store)
    return store_digest(store)


def dates_of(store: Store) -> list[str]:
    with xr.open_zarr(store.url, chunks=None) as cube:
        return [str(day)[:10] for day in cube["time"].values]


def test_a_processing_again_is_computed_where_it_is_and_nowhere_else(sandbox: Sandbox, tmp_path: Path) -> None:
    store = begun(plan_of(sandbox, *DAYS, without=[NEWER]), tmp_path)
    found = plan_of(sandbox, *DAYS)
    touched = [r for r in found.regions() if NEWER in {g.id for g in found.granules_of(r)}]
    changes, report = go_on(store, found, REFRESH)
    assert changes.again == ((OLDER, NEWER),)
    assert (changes.redone, changes.added, changes.removed) == (len(touched), 0, 0)
    assert report.computed == len(touched) < report.regions == report.done
    assert store_digest(store) == in_one_go(found, tmp_path)
    assert (read_attributes(store) or {})["status"] == "complete"
    assert f"Processed again: {OLDER} → {NEWER}" in lines(changes, REFRESH)


def test_where_nothing_has_changed_nothing_happens(sandbox: Sandbox, tmp_path: Path) -> None:
    plan = plan_of(sandbox, *DAYS)
    store = begun(plan, tmp_path)
    before = {name: store.get_state(name) for name in store.state_names() if "lease" not in name}
    same, changes = renew(store, plan.config, lambda: plan, Wish(refresh=True, append=True))
    assert same == plan
    assert lines(changes, REFRESH) == ["Nothing is to be changed."]
    assert {name: store.get_state(name) for name in store.state_names() if "lease" not in name} == before


def test_what_goes_back_to_what_it_was_is_computed_again(sandbox: Sandbox, tmp_path: Path) -> None:
    """Even where the plan between died before it noted what it wrote."""
    first, second = plan_of(sandbox, *DAYS, without=[NEWER]), plan_of(sandbox, *DAYS)
    store = begun(first, tmp_path)
    digest = store_digest(store)
    before = set(store.state_names("ledger/"))
    go_on(store, second, REFRESH)
    store.delete_state([name for name in store.state_names("ledger/") if name not in before])
    assert store_digest(store) != digest
    changes, report = go_on(store, first, REFRESH)
    assert report.computed == changes.redone > 0
    assert store_digest(store) == digest


def test_a_file_in_the_same_place_with_another_baseline_counts_as_another(sandbox: Sandbox, tmp_path: Path) -> None:
    plan = plan_of(sandbox, *DAYS)
    store = begun(plan, tmp_path)
    first, *others = plan.granules
    made_again = dataclasses.replace(plan, granules=(dataclasses.replace(first, generation="N0500 later"), *others))
    changes, report = go_on(store, made_again, REFRESH)
    assert changes.again == ((first.id, first.id),)
    assert report.computed == sum(0 in rows for rows in plan.index.values())


def test_a_verified_region_that_was_forgotten_is_computed_again(sandbox: Sandbox, tmp_path: Path) -> None:
    store = begun(plan_of(sandbox, *DAYS[:2]), tmp_path)
    go_on(store, plan_of(sandbox, *DAYS), APPEND)
    plan = ledger.load_plan(store)
    assert plan is not None
    ledger.forget(store, plan.id, [next(plan.regions())])
    assert runs.run(plan, store).computed == 1


SHAPES: list[dict[str, Any]] = [
    {},
    {"zarr_format": 2},
    {"dtype": "float32", "chunk": 64},
    {"chunk": 128, "shard": 256},
    {"period": "month", "reducer": "max"},
    {"period": "10d", "reducer": "mean", "zarr_format": 2},
    {"period": "all", "reducer": "count"},
]


@pytest.mark.slow
@pytest.mark.parametrize("settings", SHAPES, ids=str)
def test_appended_is_made_in_one_go(sandbox: Sandbox, tmp_path: Path, settings: dict[str, Any]) -> None:
    def of(*days: str, until: str) -> Plan:
        return plan_of(sandbox, *days, datetime=f"2021-03-20/{until}", **settings)

    store = begun(of(DAYS[0], until="2021-04-12"), tmp_path)
    for count, until in ((2, "2021-04-21"), (3, "2021-06-30")):
        found = of(*DAYS[:count], until=until)
        changes, report = go_on(store, found, APPEND)
        assert not report.failed
        assert changes.after == (dt.date.fromisoformat(DAYS[count - 1]),)
        assert report.computed == changes.added + changes.redone
    whole = open_store(tmp_path / "whole.zarr")
    runs.run(found, whole)
    assert store_digest(store) == store_digest(whole)
    with xr.open_zarr(store.url) as one, xr.open_zarr(whole.url) as other:
        xr.testing.assert_equal(one, other)
    assert (read_attributes(store) or {})["status"] == "complete"


def test_days_that_are_there_stay_as_they_are_without_refresh(sandbox: Sandbox, tmp_path: Path) -> None:
    """A whole archive may be processed again between two months; that is for its owner to decide."""
    late = "S2A_31TCH_20210402_0_L2A"
    store = begun(plan_of(sandbox, *DAYS[:2], without=[late]), tmp_path)
    changes, report = go_on(store, plan_of(sandbox, *DAYS), APPEND)
    assert changes.joined == (late,)
    assert (changes.redone, report.computed) == (0, changes.added)
    assert any(late in line and "--refresh takes them up" in line for line in lines(changes, APPEND))
    plan = ledger.load_plan(store)
    assert plan is not None
    assert late not in {granule.id for granule in plan.granules}
    assert store_digest(store) == in_one_go(plan_of(sandbox, *DAYS, without=[late]), tmp_path)
    go_on(store, plan_of(sandbox, *DAYS), REFRESH)
    assert store_digest(store) == in_one_go(plan_of(sandbox, *DAYS), tmp_path / "all")


def test_refresh_leaves_new_dates_out_and_says_so(sandbox: Sandbox, tmp_path: Path) -> None:
    store = begun(plan_of(sandbox, *DAYS[:2]), tmp_path)
    changes, report = go_on(store, plan_of(sandbox, *DAYS), REFRESH)
    assert report.computed == 0
    assert lines(changes, REFRESH)[0] == f"New dates: {DAYS[2]}. They are left out; --append takes them up"
    assert dates_of(store) == DAYS[:2]


def test_a_date_between_is_left_out_of_a_refresh_of_days(sandbox: Sandbox, tmp_path: Path) -> None:
    store, found = begun(plan_of(sandbox, DAYS[0], DAYS[2]), tmp_path), plan_of(sandbox, *DAYS)
    plan, changes = renew(store, found.config, lambda: found, REFRESH)
    assert not plan.ancestors
    assert any(f"Left out: {DAYS[1]}; --rebuild-axis takes them up" in line for line in lines(changes, REFRESH))


def test_a_date_between_joins_its_period(sandbox: Sandbox, tmp_path: Path) -> None:
    settings = {"period": "month", "reducer": "median"}
    store = begun(plan_of(sandbox, DAYS[0], DAYS[2], **settings), tmp_path)
    found = plan_of(sandbox, *DAYS, **settings)
    changes, report = go_on(store, found, REFRESH)
    assert not changes.left
    assert report.computed == changes.redone == sum(region.layer == 0 for region in found.index)
    assert store_digest(store) == in_one_go(found, tmp_path)


def test_an_append_that_is_not_over_is_told_from_the_cube_that_is_seen(sandbox: Sandbox, tmp_path: Path) -> None:
    store = begun(plan_of(sandbox, *DAYS[:2]), tmp_path)
    found = plan_of(sandbox, *DAYS)
    plan, _ = renew(store, found.config, lambda: found, APPEND)
    assert not is_complete(store, plan)
    assert (read_attributes(store) or {})["status"] == "complete"
    runs.run(plan, store)
    assert is_complete(store, plan)
    check_ours(store)


@pytest.mark.slow
def test_append_in_a_bucket(sandbox: Sandbox, tmp_path: Path, seaweed_s3: services.S3Endpoint) -> None:
    store = open_store(f"s3://{seaweed_s3.bucket}/append.zarr", dict(seaweed_s3.options))
    runs.run(plan_of(sandbox, DAYS[0], DAYS[2]), store)
    found = plan_of(sandbox, *DAYS)
    go_on(store, found, ALL)
    assert store_digest(store) == in_one_go(found, tmp_path)


def test_a_date_between_is_refused_and_the_axis_made_anew_when_asked(sandbox: Sandbox, tmp_path: Path) -> None:
    store = begun(plan_of(sandbox, DAYS[0], DAYS[2]), tmp_path)
    found = plan_of(sandbox, *DAYS)
    with pytest.raises(PlanMismatchError, match=rf"{DAYS[1]} would come before .*--rebuild-axis"):
        renew(store, found.config, lambda: found, APPEND)
    assert dates_of(store) == [DAYS[0], DAYS[2]]
    _, report = go_on(store, found, Wish(append=True, rebuild_axis=True))
    assert report.computed == sum(region.layer > 0 for region in found.index)
    assert store_digest(store) == in_one_go(found, tmp_path)


def test_a_date_before_all_others_moves_them_all(sandbox: Sandbox, tmp_path: Path) -> None:
    store = begun(plan_of(sandbox, *DAYS[1:]), tmp_path)
    found = plan_of(sandbox, *DAYS)
    _, report = go_on(store, found, Wish(append=True, rebuild_axis=True))
    assert report.computed == report.regions
    assert store_digest(store) == in_one_go(found, tmp_path)


def test_a_date_that_is_gone_is_kept_unless_the_axis_may_change(sandbox: Sandbox, tmp_path: Path) -> None:
    store = begun(plan_of(sandbox, *DAYS), tmp_path)
    found = plan_of(sandbox, DAYS[0], DAYS[2])
    with pytest.raises(PlanMismatchError, match=rf"no item of {DAYS[1]} is found.*--rebuild-axis"):
        renew(store, found.config, lambda: found, REFRESH)
    assert not renew(store, found.config, lambda: found, APPEND)[1].changed
    go_on(store, found, Wish(refresh=True, rebuild_axis=True))
    assert store_digest(store) == in_one_go(found, tmp_path)
    assert not [name for name in store.data_names() if name.startswith("ndvi/c/2")]


def test_regions_of_an_item_that_is_gone_are_deleted(sandbox: Sandbox, tmp_path: Path) -> None:
    store = begun(plan_of(sandbox, *DAYS, chunk=64), tmp_path)
    found = plan_of(sandbox, *DAYS, without=["S2A_31TCH_20210402_0_L2A"], chunk=64)
    changes, _ = go_on(store, found, REFRESH)
    assert changes.withdrawn == ("S2A_31TCH_20210402_0_L2A",)
    assert changes.removed > 0
    assert store_digest(store) == in_one_go(found, tmp_path)


class DyingError(Exception):
    """The process ends here."""


def dying_after(store: Store, monkeypatch: pytest.MonkeyPatch, method: str, count: int) -> None:
    """Let the store take so many more objects, and then none."""
    real, left = getattr(type(store), method), [count]

    def put(self: Store, *args: Any, **options: Any) -> Any:
        if self.url == store.url and not str(args[0]).startswith("lease/"):
            if not left[0]:
                raise DyingError
            left[0] -= 1
        return real(self, *args, **options)

    monkeypatch.setattr(type(store), method, put)


@pytest.mark.parametrize("count", range(3))
def test_the_old_plan_stays_whole_until_the_new_one_is(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    plan, found = plan_of(sandbox, *DAYS[:2]), plan_of(sandbox, *DAYS)
    store = begun(plan, tmp_path)
    with monkeypatch.context() as patch:
        dying_after(store, patch, "put_state", count)
        with pytest.raises(DyingError):
            renew(store, found.config, lambda: found, APPEND)
    assert ledger.load_plan(store) == plan
    assert runs.run(plan, store).computed == 0
    go_on(store, found, APPEND)
    assert store_digest(store) == in_one_go(found, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("wish", [APPEND, ALL])
def test_a_death_between_any_two_objects_shows_whole_dates_only(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wish: Wish, zarr_format: int
) -> None:
    """Of a date between, the dates from there on are gone until all are there."""
    before = DAYS[:2] if wish is APPEND else [DAYS[0], DAYS[2]]
    plan, found = (
        plan_of(sandbox, *before, zarr_format=zarr_format),
        plan_of(sandbox, *DAYS, zarr_format=zarr_format),
    )
    whole = open_store(tmp_path / "whole.zarr")
    runs.run(found, whole)
    truth = xr.open_zarr(whole.url).load()
    shown, count = set(), 0
    while True:
        store = open_store(tmp_path / f"{count}.zarr")
        runs.run(plan, store)
        new, _ = renew(store, found.config, lambda: found, wish)
        with monkeypatch.context() as patch:
            dying_after(store, patch, "put_data", count)
            try:
                runs.run(new, store)
            except DyingError:
                died = True
            else:
                died = False
        with xr.open_zarr(store.url, consolidated=True) as seen:
            days = tuple(str(day)[:10] for day in seen["time"].values)
            xr.testing.assert_equal(seen["ndvi"].load(), truth["ndvi"].sel(time=seen["time"]))
        shown.add(days)
        runs.run(new, store)
        assert store_digest(store) == store_digest(whole)
        if not died:
            break
        count += 1
    assert count > 4
    assert shown == ({tuple(before), tuple(DAYS)} | (set() if wish is APPEND else {(DAYS[0],)}))


APPENDED = """
import json
import sys
from ndvi_scale import RunConfig, build_plan, open_reader, open_store, parse_bbox, search_items
from ndvi_scale.batch import run_batch, thread_pool
from ndvi_scale.refresh import Wish, renew

items, url, bbox, settings = sys.argv[1:]
config = RunConfig(**json.loads(settings), aoi=parse_bbox(json.loads(bbox)))
found = [item for item in search_items(items) if "30TYP" not in item.id]
plan, _ = renew(open_store(url), config, lambda: build_plan(found, config), Wish(append=True))
print("started", flush=True)
with thread_pool(2) as submit:
    run_batch(plan, open_store(url), submit, reader=open_reader(), in_flight=2)
"""


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_killed_at_any_moment_a_reader_never_sees_half_a_date(sandbox: Sandbox, tmp_path: Path, seed: int) -> None:
    settings: dict[str, Any] = {"crs": "EPSG:32631", "chunk": 64, "datetime": "2021-04/2021-05"}
    store, whole = begun(plan_of(sandbox, DAYS[0], **settings), tmp_path), open_store(tmp_path / "whole.zarr")
    runs.run(plan_of(sandbox, *DAYS, **settings), whole)
    words = [str(sandbox.items), store.url, json.dumps(sandbox.bbox), json.dumps(settings)]
    command = [sys.executable, "-c", APPENDED, *words]
    chance = random.Random(seed)  # noqa: S311 - a moment, not a secret
    truth = xr.open_zarr(whole.url).load()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        with watched(store.url, truth) as shown:
            time.sleep(chance.uniform(0, 2))
            process.send_signal(signal.SIGKILL)
    plan = ledger.load_plan(store)
    assert plan is not None
    with watched(store.url, truth) as later:
        runs.run(plan, store)
    assert {*shown, *later} <= {1, 3}
    assert store_digest(store) == store_digest(whole)


@contextmanager
def watched(url: str, truth: xr.Dataset) -> Iterator[list[int]]:
    """Read a cube over and over meanwhile; how many dates it had each time."""
    shown: list[int] = []
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            with xr.open_zarr(url, chunks=None) as seen:
                xr.testing.assert_equal(seen["ndvi"].load(), truth["ndvi"].isel(time=slice(seen.sizes["time"])))
                shown.append(seen.sizes["time"])
            over.wait(0.1)  # for a machine of two processors

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        try:
            yield shown
        finally:
            over.set()
        looking.result()
    assert shown


def test_a_worker_that_holds_the_old_plan_is_refused(sandbox: Sandbox, tmp_path: Path) -> None:
    plan, found = plan_of(sandbox, *DAYS[:2]), plan_of(sandbox, *DAYS)
    store = begun(plan, tmp_path)
    late = Errand(store, plan.id, open_reader())
    renew(store, found.config, lambda: found, APPEND)
    with pytest.raises(StoreError, match="another plan now"):
        late(next(plan.regions()))


def test_a_plan_is_not_replaced_while_another_driver_runs(sandbox: Sandbox, tmp_path: Path) -> None:
    plan, found = plan_of(sandbox, *DAYS[:2]), plan_of(sandbox, *DAYS)
    store = begun(plan, tmp_path)
    with lease.hold(store), pytest.raises(StoreError, match="is being written by"):
        renew(store, found.config, lambda: found, APPEND)
    assert ledger.load_plan(store) == plan


def test_only_the_tables_of_two_plans_are_kept(sandbox: Sandbox, tmp_path: Path) -> None:
    store = open_store(tmp_path / "ndvi.zarr")
    ledger.save_plan(store, plan_of(sandbox, DAYS[0]))
    for count in (2, 3):
        found = plan_of(sandbox, *DAYS[:count])
        renew(store, found.config, lambda found=found: found, APPEND)
    tables = [name for name in store.state_names() if name.endswith(".parquet")]
    assert tables == ["items.1.parquet", "items.2.parquet", "regions.1.parquet", "regions.2.parquet"]
    assert len((ledger.load_plan(store) or found).ancestors) == 2


def test_an_output_of_the_first_kind_grows_only_unread(sandbox: Sandbox, tmp_path: Path) -> None:
    """Its times lie in a chunk as long as the axis."""
    store, found = begun(plan_of(sandbox, *DAYS[:2]), tmp_path), plan_of(sandbox, *DAYS)
    group = zarr.open_group(store.zarr(), mode="r+", use_consolidated=False)
    for name, chunks in (("time", (2,)), ("time_bnds", (2, 2))):
        old: Any = group[name]
        values, attributes, dims = old[:], dict(old.attrs), old.metadata.dimension_names
        made = group.create_array(
            name, data=values, chunks=chunks, overwrite=True, attributes=attributes, dimension_names=dims
        )
        assert made.chunks != old.chunks == (TIMES_IN_CHUNK, *chunks[1:])
    consolidate(store.zarr(), 3)
    with pytest.raises(StoreError, match=r"chunk that cannot grow.*--rebuild-axis"):
        renew(store, found.config, lambda: found, APPEND)
    go_on(store, found, Wish(append=True, rebuild_axis=True))
    assert store_digest(store) == in_one_go(found, tmp_path)


def test_another_grid_is_refused(sandbox: Sandbox, tmp_path: Path) -> None:
    tile = "31TCH"
    items = [item for item in everything(sandbox) if tile not in item.id]
    config = RunConfig(crs="EPSG:32631", chunk=128)
    store = begun(build_plan(items, config), tmp_path)
    with pytest.raises(PlanMismatchError, match=r"makes another grid .*--bbox"):
        renew(store, config, lambda: build_plan(everything(sandbox), config), REFRESH)


def test_nothing_to_go_on_with_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no run yet: leave --append"):
        renew(open_store(tmp_path / "ndvi.zarr"), RunConfig(), lambda: pytest.fail("searched"), APPEND)


def test_to_rebuild_the_axis_alone_means_nothing() -> None:
    with pytest.raises(ConfigError, match="--rebuild-axis alone changes nothing"):
        Wish(rebuild_axis=True)
