"""What is lazy stays lazy: building reads nothing, and computing a part reads that part."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import runs
from ndvi_scale.aoi import parse_bbox
from ndvi_scale.lattice import Region
from ndvi_scale.lazy import compute_ndvi, load_bands, open_ndvi
from ndvi_scale.readers import BlockingReader, Traffic

if TYPE_CHECKING:
    from collections.abc import Callable

    from ndvi_scale.granules import Asset
    from ndvi_scale.lattice import Window
    from ndvi_scale.plan import Plan
    from ndvi_scale.readers import Layout
    from ndvi_scale.sandbox import Sandbox


@dataclass
class Watched(BlockingReader):
    """A reader of made-up pixels that notes what it is asked for, and refuses until it is told to go on."""

    name: str = "watched"
    open: bool = False
    read_windows: list[tuple[str, Asset, Window]] = field(default_factory=list)
    lock: Any = field(default_factory=threading.Lock)

    def read(self, item_id: str, asset: Asset, window: Window) -> tuple[np.ndarray, Traffic]:
        assert self.open, f"{asset.href} was read while the graph was built"
        with self.lock:
            self.read_windows.append((item_id, asset, window))
        scl = asset.href.endswith("scl.tif")
        rows, columns = np.ogrid[: window.height, : window.width]
        if scl:
            return np.full((window.height, window.width), 4, np.uint8), Traffic(1, 1)
        dn = 2000 + (window.row + rows) % 500 + (window.column + columns) % 300
        return (dn + 1500 * asset.href.endswith("nir.tif")).astype(np.uint16), Traffic(1, 1)

    def layout(self, item_id: str, asset: Asset) -> Layout:
        raise AssertionError(f"the header of {asset.href} of {item_id} was read")


def plan_of(sandbox: Sandbox, **changes: Any) -> Plan:
    return runs.plan_of(sandbox, **{"aoi": parse_bbox(sandbox.bbox), **changes})


def tasks(collection: Any) -> int:
    return len(dict(collection.__dask_graph__()))


BUILDERS: dict[str, Callable[[Plan, Watched], Any]] = {
    "open_ndvi": lambda plan, reader: open_ndvi(plan, reader=reader),
    "load_bands": lambda plan, reader: load_bands(plan, reader=reader),
    "compute_ndvi": lambda plan, reader: compute_ndvi(load_bands(plan, reader=reader)),
}


@pytest.mark.parametrize("kind", BUILDERS)
def test_building_reads_nothing(sandbox: Sandbox, kind: str) -> None:
    reader = Watched()
    built = BUILDERS[kind](plan_of(sandbox), reader)
    repr(built)
    built._repr_html_()
    built.isel(time=0, y=slice(3, 70)).mean("x")
    dask.optimize(built)
    assert reader.read_windows == []
    reader.open = True
    built.isel(time=0, y=0, x=0).compute()
    assert reader.read_windows != []


@pytest.mark.parametrize(("chunk", "shard"), [(32, None), (64, None), (2048, None), (128, 256)])
def test_one_task_a_region(sandbox: Sandbox, chunk: int, shard: int | None) -> None:
    plan = plan_of(sandbox, chunk=chunk, shard=shard)
    lazy = open_ndvi(plan, reader=Watched())
    layers, (rows, columns) = len(plan.days), plan.lattice.objects
    assert lazy.data.numblocks == (layers, rows, columns)
    assert lazy.data.npartitions == layers * rows * columns
    assert tasks(lazy) == layers * rows * columns
    assert tasks(dask.optimize(lazy)[0]) == layers * rows * columns


def test_chunks_are_the_regions_of_the_plan(sandbox: Sandbox) -> None:
    plan = plan_of(sandbox, chunk=96)
    lazy = open_ndvi(plan, reader=Watched())
    _, ys, xs = lazy.chunks
    rows, columns = plan.lattice.objects
    for iy in range(rows):
        for ix in range(columns):
            assert (ys[iy], xs[ix]) == plan.region_geobox(Region(0, iy, ix)).shape.yx
    assert set(lazy.chunks[0]) == {1}


def test_bands_read_a_region_once(sandbox: Sandbox) -> None:
    """One task reads the three bands, one a band takes its own out: four a region, optimised or not."""
    plan, reader = plan_of(sandbox, chunk=96), Watched(open=True)
    bands = load_bands(plan, reader=reader)
    regions = np.prod(plan.lattice.objects) * len(plan.days)
    assert tasks(bands) <= 4 * regions
    assert tasks(dask.optimize(bands)[0]) <= 4 * regions
    bands.compute()
    windows = Counter((item, asset.href, window) for item, asset, window in reader.read_windows)
    assert set(windows.values()) == {1}
    assert len(windows) == 3 * sum(map(len, plan.index.values()))


def test_ndvi_of_bands_reads_a_region_once(sandbox: Sandbox) -> None:
    plan, reader = plan_of(sandbox, chunk=96), Watched(open=True)
    compute_ndvi(load_bands(plan, reader=reader)).compute()
    assert set(Counter((item, asset.href, w) for item, asset, w in reader.read_windows).values()) == {1}


def test_the_whole_is_read_once(sandbox: Sandbox) -> None:
    plan, reader = plan_of(sandbox, chunk=64), Watched(open=True)
    found = open_ndvi(plan, reader=reader).compute()
    assert len(reader.read_windows) == 3 * sum(map(len, plan.index.values()))
    assert np.isfinite(found).any()


def overlapped(plan: Plan, layer: int, rows: range, columns: range) -> dict[str, set[tuple[int, int, int, int]]]:
    """Bounds in metres of what must be read of each granule for some pixels of the output, by its id."""
    _, height, width = plan.shape
    chunk, (x0, y0) = plan.config.chunk, (plan.lattice.geobox.affine.c, plan.lattice.geobox.affine.f)
    found: dict[str, set[tuple[int, int, int, int]]] = {}
    for iy in range(rows.start // chunk, (rows.stop - 1) // chunk + 1):
        for ix in range(columns.start // chunk, (columns.stop - 1) // chunk + 1):
            left, right = x0 + 10 * ix * chunk, x0 + 10 * min((ix + 1) * chunk, width)
            top, bottom = y0 - 10 * iy * chunk, y0 - 10 * min((iy + 1) * chunk, height)
            for granule in plan.granules:
                box = granule.red.geobox.boundingbox
                part = max(left, box.left), max(bottom, box.bottom), min(right, box.right), min(top, box.top)
                if granule.time.date() == plan.days[layer] and part[0] < part[2] and part[1] < part[3]:
                    found.setdefault(granule.id, set()).add(tuple(map(int, part)))
    return found


def as_bounds(asset: Asset, window: Window) -> tuple[int, int, int, int]:
    a, c, f = asset.geobox.affine.a, asset.geobox.affine.c, asset.geobox.affine.f
    left, top = c + a * window.column, f - a * window.row
    return int(left), int(top - a * window.height), int(left + a * window.width), int(top)


@settings(max_examples=30)
@given(data=st.data())
def test_only_what_overlaps_is_read(sandbox: Sandbox, data: st.DataObject) -> None:
    plan = plan_of(sandbox, chunk=data.draw(st.sampled_from([48, 64, 200])), clip=False)
    layers, height, width = plan.shape
    layer = data.draw(st.integers(0, layers - 1))
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    bottom, right = data.draw(st.integers(top + 1, height)), data.draw(st.integers(left + 1, width))
    reader = Watched(open=True)
    lazy = open_ndvi(plan, reader=reader)
    lazy.isel(time=layer, y=slice(top, bottom), x=slice(left, right)).compute(scheduler="synchronous")
    expected = overlapped(plan, layer, range(top, bottom), range(left, right))
    for band in ("red", "nir", "scl"):
        read: dict[str, list[tuple[int, int, int, int]]] = {}
        for item, asset, window in reader.read_windows:
            if asset.href.endswith(f"{band}.tif"):
                read.setdefault(item, []).append(as_bounds(asset, window))
        assert {item: set(bounds) for item, bounds in read.items()} == expected
        assert sum(map(len, read.values())) == sum(map(len, expected.values()))


def test_a_chunk_outside_the_region_reads_nothing(sandbox: Sandbox) -> None:
    west, south, east, north = sandbox.bbox
    small = parse_bbox((west, south, west + (east - west) / 8, south + (north - south) / 8))
    whole = plan_of(sandbox, chunk=32, aoi=None)
    plan = plan_of(sandbox, chunk=32, aoi=small)
    assert len(plan.index) < len(whole.index) / 8
    reader = Watched(open=True)
    lazy = open_ndvi(whole, reader=reader)
    empty = next(
        Region(0, iy, ix)
        for iy in range(whole.lattice.objects[0])
        for ix in range(whole.lattice.objects[1])
        if Region(0, iy, ix) in whole.index
    )
    lazy.data.blocks[tuple(empty)].compute()
    assert len(reader.read_windows) == 3 * len(whole.index[empty])
    reader.read_windows.clear()
    emptied = type(whole)(
        whole.config,
        whole.lattice,
        whole.layers,
        whole.granules,
        {region: rows for region, rows in whole.index.items() if region != empty},
    )
    block = open_ndvi(emptied, reader=reader).data.blocks[tuple(empty)].compute()
    assert np.isnan(block).all()
    assert reader.read_windows == []


def test_own_arrays_stay_lazy() -> None:
    def refuse() -> np.ndarray:
        raise AssertionError("computed while the graph was built")

    delayed = dask.delayed(refuse)()
    import dask.array as da

    band = da.from_delayed(delayed, (4, 6), np.uint16)
    bands = xr.Dataset(dict.fromkeys(("red", "nir"), (("y", "x"), band)))
    bands["scl"] = (("y", "x"), da.from_delayed(delayed, (4, 6), np.uint8))
    for lazy in (compute_ndvi(bands, offset=0), compute_ndvi(bands.drop_vars("scl"), offset=0, mask="none")):
        with pytest.raises(AssertionError, match="computed while"):
            lazy.compute()


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import ndvi_scale, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    heavy = {
        "numpy",
        "xarray",
        "dask",
        "zarr",
        "numba",
        "rasterio",
        "pystac",
        "pyproj",
        "matplotlib",
        "distributed",
    }
    assert "ndvi_scale" in loaded
    assert heavy.isdisjoint(loaded)


def test_every_public_name_is_there() -> None:
    import ndvi_scale

    assert set(ndvi_scale.__all__) == set(dir(ndvi_scale))
    for name in ndvi_scale.__all__:
        assert getattr(ndvi_scale, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = ndvi_scale.no_such_name
