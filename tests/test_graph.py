"""The dask graph of a large plan: a task a chunk, the plan once, nothing for what no granule touches."""

from __future__ import annotations

import itertools
import pickle
import threading
from dataclasses import replace
from typing import Any

import cloudpickle
import dask
import numpy as np
import pytest
from dask._task_spec import Alias
from dask.order import order

from archive import granule_items
from ndvi_scale import graph
from ndvi_scale.config import RunConfig
from ndvi_scale.graph import RIDES
from ndvi_scale.lattice import Region
from ndvi_scale.lazy import load_bands, open_ndvi
from ndvi_scale.plan import Plan, build_plan
from ndvi_scale.readers import BlockingReader, Layout, Traffic

TASK_BYTES = 1000


class Idle(BlockingReader):
    """A reader that is never asked."""

    name = "idle"

    def read(self, item_id: str, *_: Any) -> tuple[np.ndarray, Traffic]:
        raise AssertionError(f"{item_id} was read")

    def layout(self, item_id: str, _: Any) -> Layout:
        raise AssertionError(f"the header of {item_id} was read")


@pytest.fixture(scope="module")
def large() -> Plan:
    """25 tiles on 20 dates: 12,500 chunks."""
    return build_plan(granule_items(5, 20), RunConfig())


@pytest.fixture(scope="module")
def small() -> Plan:
    return build_plan(granule_items(1, 2), RunConfig(chunk=4096))


def nodes(collection: Any) -> dict[Any, Any]:
    return dict(collection.__dask_graph__())


def chunk_tasks(collection: Any) -> dict[Any, Any]:
    return {key: task for key, task in nodes(collection).items() if isinstance(key, tuple)}


def test_a_large_plan_is_sent_once(large: Plan) -> None:
    (ready,) = dask.optimize(open_ndvi(large, reader=Idle()))
    tasks = chunk_tasks(ready)
    plan_bytes = len(pickle.dumps(large))
    assert plan_bytes * len(large.index) > RIDES
    assert len(tasks) == ready.data.npartitions == len(large.index) == 12_500
    assert len(nodes(ready)) == len(tasks) + 1
    assert max(len(cloudpickle.dumps(task)) for task in list(tasks.values())[::97]) < TASK_BYTES
    assert len(cloudpickle.dumps(nodes(ready))) < plan_bytes + 200 * len(tasks)


def test_a_small_plan_rides_along(small: Plan) -> None:
    lazy = open_ndvi(small, reader=Idle())
    for collection in (lazy, *dask.optimize(lazy)):
        assert set(nodes(collection)) == set(chunk_tasks(collection))
        assert len(nodes(collection)) == lazy.data.npartitions


def test_one_variable_of_the_bands_is_one_task_a_chunk(small: Plan) -> None:
    bands = load_bands(small, reader=Idle())
    (red,) = dask.optimize(bands["red"])
    names = [node for node in nodes(red).values() if isinstance(node, Alias)]
    assert len(nodes(red)) - len(names) == bands["red"].data.npartitions
    assert len(nodes(bands)) == 4 * bands["red"].data.npartitions


def test_what_is_selected_leaves_the_rest_out(large: Plan) -> None:
    (part,) = dask.optimize(open_ndvi(large, reader=Idle()).isel(time=3, y=slice(0, 3000), x=slice(0, 3000)))
    assert len(chunk_tasks(part)) <= 2 * 2 * 2  # with the slicing


def without(plan: Plan, *regions: Region) -> Plan:
    return replace(plan, index={region: rows for region, rows in plan.index.items() if region not in regions})


@pytest.mark.parametrize("rides", [RIDES, 0])
def test_a_chunk_without_granules_needs_neither_plan_nor_reader(
    small: Plan, rides: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "RIDES", rides)
    empty = Region(1, 2, 1)
    plan = without(small, empty)
    lazy, bands = open_ndvi(plan, reader=Idle()), load_bands(plan, reader=Idle())
    for array, fill in ((lazy, np.nan), (bands["red"], np.nan), (bands["nir"], np.nan), (bands["scl"], 0)):
        layer, row, column = empty
        block = array.data.blocks[layer, row, column]
        (ready,) = dask.optimize(block)
        tasks = chunk_tasks(ready)
        assert 1 <= len(tasks) <= 3
        assert len(cloudpickle.dumps(tasks)) < TASK_BYTES
        found = block.compute()
        assert found.shape == (1, *plan.region_geobox(empty).shape)
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, np.full(found.shape, fill))
        assert found.flags.writeable


def test_nothing_is_left_out_of_the_array(small: Plan) -> None:
    plan = without(small, Region(0, 0, 0))
    lazy = open_ndvi(plan, reader=Idle())
    assert lazy.shape == plan.shape
    assert set(chunk_tasks(lazy)) == {key for keys in lazy.data.__dask_keys__() for row in keys for key in row}


def test_a_plan_has_the_same_keys_every_time(small: Plan, large: Plan) -> None:
    """So that a cluster knows again what it holds."""
    again = build_plan(granule_items(1, 2), RunConfig(chunk=4096))
    assert open_ndvi(small, reader=Idle()).data.name == open_ndvi(again, reader=Idle()).data.name
    assert open_ndvi(small, reader=Idle()).data.name != open_ndvi(large, reader=Idle()).data.name


def test_arrays_of_two_readers_or_plans_are_two(small: Plan) -> None:
    """Dask would else run the graph of the one for the other."""
    one, other = Stubborn(), Stubborn()
    names = {
        open_ndvi(plan, reader=reader).data.name
        for plan in (small, without(small, Region(0, 0, 0)))
        for reader in (one, other)
    }
    assert len(names) == 4


class Stubborn(Idle):
    """A reader that no other process can have."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


def test_dask_runs_a_row_of_regions_together(large: Plan) -> None:
    """Not the order of a run, but near enough for a cache of blocks: no task of another row comes in between."""
    tasks = chunk_tasks(open_ndvi(large, reader=Idle()))
    places = order(nodes(open_ndvi(large, reader=Idle())))
    rows = [key[1:3] for key in sorted(tasks, key=lambda key: places[key])]
    changes = sum(one != other for one, other in itertools.pairwise(rows))
    assert changes == len(set(rows)) - 1
