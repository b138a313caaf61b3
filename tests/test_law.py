"""The one law: batch == lazy == integer oracle, code for code."""

from __future__ import annotations

import datetime as dt
import random
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pystac
import pytest
import rasterio
import xarray as xr
import zarr
from affine import Affine
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pyproj import Transformer

import oracle
from ndvi_scale import (
    RunConfig,
    build_plan,
    open_ndvi,
    open_reader,
    open_store,
    parse_bbox,
    run_batch,
    search_items,
    thread_pool,
)
from ndvi_scale.config import LEAST_IN_SHARD
from ndvi_scale.readers import DEFAULT_READER, READERS
from ndvi_scale.region import compute_region, merged_bands
from ndvi_scale.sentinel2 import MASKS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import shapely

    from ndvi_scale.plan import Plan
    from ndvi_scale.sandbox import Sandbox

FILL = -32768


def grid_of(plan: Plan) -> oracle.Grid:
    geobox = plan.lattice.geobox
    return oracle.Grid(
        x0=geobox.affine.c,
        y0=geobox.affine.f,
        step=geobox.affine.a,
        height=geobox.shape.y,
        width=geobox.shape.x,
        epsg=geobox.crs.to_epsg(),
    )


def rules_of(plan: Plan) -> oracle.Rules:
    config = plan.config
    return oracle.Rules(
        config.mask,
        clip_range=config.out_of_range == "clip",
        offset=config.offset,
        mask_filters=config.mask_filters,
        all_zones=not any("the output in" in dropped.reason for dropped in plan.dropped),
        overview=plan.granules[0].red.overview,
    )


def area_of(plan: Plan) -> shapely.Geometry | None:
    return plan.config.aoi.geometry if plan.config.aoi and plan.config.clip else None


def expected(plan: Plan, items: Sequence[pystac.Item]) -> np.ndarray:
    return oracle.cube(items, grid_of(plan), list(plan.days), area_of(plan), rules_of(plan))


def batch(plan: Plan, url: Path, workers: int = 2, reader: str = DEFAULT_READER) -> np.ndarray:
    store = open_store(str(url))
    with thread_pool(workers) as submit:
        report = run_batch(plan, store, submit, reader=open_reader(reader), in_flight=workers + 1)
    assert not report.failed
    return np.asarray(zarr.open_array(store.zarr(read_only=True), path="ndvi", mode="r")[:])


def lazy(plan: Plan, reader: str = DEFAULT_READER) -> np.ndarray:
    """Codes of the lazy way, from its floats."""
    floats = open_ndvi(plan, reader=open_reader(reader)).values
    return np.where(np.isnan(floats), FILL, np.rint(floats.astype(np.float64) * 10_000)).astype(np.int16)


def boxes(bounds: tuple[float, float, float, float]) -> st.SearchStrategy[str]:
    """Boxes that meet `bounds` and may reach beyond it."""
    west, south, east, north = bounds
    lon, lat = east - west, north - south

    def box(part: tuple[float, float, float, float]) -> str:
        w, s, e, n = part
        return f"{west + w * lon:.6f},{south + s * lat:.6f},{east + e * lon:.6f},{north + n * lat:.6f}"

    low, high = st.floats(-0.2, 0.45), st.floats(-0.45, 0.2)
    return st.tuples(low, low, high, high).map(box)


NATIVE: list[dict[str, Any]] = [{"crs": "EPSG:32631"}]
"""Native pixels; for a region beyond the zone, the other zone's warped."""

COARSER: list[dict[str, Any]] = [
    {"crs": "EPSG:32631", "resolution": 20},
    {"crs": "EPSG:32631", "resolution": 30},
    {"crs": "EPSG:32630", "resolution": 60},
]
WARPED: list[dict[str, Any]] = [
    {"crs": "EPSG:32630"},
    {"crs": "EPSG:2154"},
    {"crs": "EPSG:3035", "resolution": 20},
]


FILTERS = [(), ("dilation:3",), ("opening:1", "dilation:2"), ("closing:2",), ("erosion:1", "dilation:10")]


@st.composite
def configs(
    draw: st.DrawFn, bounds: tuple[float, float, float, float], grids: list[dict[str, Any]]
) -> dict[str, Any]:
    chunk = 2 * draw(st.integers(16, 200))
    chunks = draw(st.sampled_from([0, 2, 3])) if chunk >= LEAST_IN_SHARD else 0
    mask = tuple(sorted(MASKS[draw(st.sampled_from(sorted(MASKS)))]))
    return {
        "aoi": parse_bbox(draw(boxes(bounds))),
        "chunk": chunk,
        "shard": chunks * chunk or None,
        "mask": mask,
        "mask_filters": draw(st.sampled_from(FILTERS)) if mask else (),
        "out_of_range": draw(st.sampled_from(["mask", "clip"])),
        "clip": draw(st.booleans()),
        "offset": draw(st.sampled_from([None, None, -1000, 0])),
        **draw(st.sampled_from(grids)),
    }


@pytest.mark.slow
@pytest.mark.parametrize("grids", [NATIVE, COARSER, WARPED], ids=["native", "coarser", "warped"])
def test_batch_lazy_and_oracle_agree(sandbox: Sandbox, grids: list[dict[str, Any]]) -> None:
    found = search_items(sandbox.items)

    # No shrinking: an example takes a second, and the drawn numbers are few enough to read as they are.
    @settings(
        max_examples=8 if grids is WARPED else 12,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(data=st.data())
    def law(data: st.DataObject) -> None:
        config = RunConfig(**data.draw(configs(sandbox.bbox, grids)))
        items = list(found)
        random.Random(data.draw(st.integers(0, 99))).shuffle(items)  # noqa: S311 - an order, not a secret
        plan = build_plan(items, config)
        truth = expected(plan, found)
        with tempfile.TemporaryDirectory() as folder:
            stored = batch(plan, Path(folder) / "ndvi.zarr", workers=data.draw(st.integers(1, 3)))
        np.testing.assert_array_equal(stored, truth)
        np.testing.assert_array_equal(lazy(plan), truth)

    law()


def island(folder: Path, tile: str, epsg: int, corner: tuple[int, int], seed: int) -> pystac.Item:
    """A granule of 300 x 300 pixels with its files: fields of 5 pixels, some nodata, some cloud."""
    draw, side = np.random.default_rng(seed), 300
    fields = [draw.integers(1050, 6000, (side // 5, side // 5)).astype(np.uint16) for _ in range(2)]
    red, nir = (np.kron(field, np.ones((5, 5), np.uint16)) for field in fields)
    red[draw.random(red.shape) < 0.02] = 0
    scl = draw.choice(np.array([4, 4, 5, 6, 8], np.uint8), (side // 2, side // 2))
    item = pystac.Item(
        f"S2A_{tile}_20210601_0_L2A",
        None,
        None,
        dt.datetime(2021, 6, 1, 22, 20, seed, tzinfo=dt.UTC),
        {"proj:epsg": epsg, "s2:processing_baseline": "05.00", "grid:code": f"MGRS-{tile}"},
    )
    for band, data, step in (("red", red, 10), ("nir", nir, 10), ("scl", scl, 20)):
        transform = Affine(step, 0, corner[0], 0, -step, corner[1])
        path, shape = folder / f"{tile}-{band}.tif", data.shape
        profile = {"driver": "GTiff", "height": shape[0], "width": shape[1], "count": 1, "dtype": data.dtype}
        with rasterio.open(path, "w", **profile, crs=epsg, transform=transform) as file:
            file.write(data, 1)
        extra = {"proj:shape": list(shape), "proj:transform": list(transform)[:6]}
        item.add_asset(band, pystac.Asset(str(path), media_type="image/tiff", extra_fields=extra))
    return item


@pytest.mark.parametrize(
    ("crs", "resolution"), [("EPSG:32760", None), ("EPSG:32701", 20), ("EPSG:3460", None), ("EPSG:3832", 30)]
)
def test_the_law_across_the_antimeridian(tmp_path: Path, crs: str, resolution: float | None) -> None:
    """South of the equator, one granule each side of 180 degrees, whose zones are the last and the first."""
    to_west, to_east = (Transformer.from_crs(4326, epsg, always_xy=True) for epsg in (32760, 32701))
    x, y = to_west.transform(180, -16.5)
    west = island(tmp_path, "60KYF", 32760, (round(x / 20) * 20 - 2_600, round(y / 20) * 20 + 1_500), 1)
    x, y = to_east.transform(-180, -16.5)
    east = island(tmp_path, "01KAB", 32701, (round(x / 20) * 20 - 400, round(y / 20) * 20 + 1_500), 2)
    aoi = parse_bbox("179.98,-16.51,-179.98,-16.49")
    plan = build_plan([west, east], RunConfig(aoi=aoi, crs=crs, resolution=resolution, chunk=130))
    assert len(plan.granules) == 2
    assert not plan.dropped
    truth = expected(plan, [west, east])
    seen = truth != FILL
    middle = seen.shape[2] // 2
    assert seen[:, :, :middle].any()
    assert seen[:, :, middle:].any()
    assert (seen & (truth != 0)).mean() > 0.1
    np.testing.assert_array_equal(batch(plan, tmp_path / "ndvi.zarr"), truth)
    np.testing.assert_array_equal(lazy(plan), truth)


@pytest.mark.slow
@pytest.mark.parametrize("grid", [*COARSER, *WARPED], ids=str)
def test_readers_agree_across_the_seam(sandbox: Sandbox, grid: dict[str, Any]) -> None:
    """Whatever becomes of the pixels, every reader gives the same: in NDVI, in counters, in bands."""
    west, south, east, north = sandbox.bbox
    aoi = parse_bbox((west - 0.01, south, east, north))
    plan = build_plan(search_items(sandbox.items), RunConfig(aoi=aoi, chunk=200, **grid))
    assert {granule.epsg for granule in plan.granules} == {32630, 32631}
    readers = [open_reader(name) for name in READERS]
    assert len(readers) > 1
    for region in list(plan.regions())[:3]:
        first, *others = [compute_region(plan, region, reader) for reader in readers]
        for other in others:
            np.testing.assert_array_equal(first[0]["ndvi"], other[0]["ndvi"])
            assert first[1].counters == other[1].counters
        bands = [merged_bands(plan, region, reader) for reader in readers]
        for name, band in bands[0].items():
            np.testing.assert_array_equal(band, bands[1][name])


def test_the_law_on_one_window(sandbox: Sandbox, tmp_path: Path) -> None:
    items = search_items(sandbox.items)
    west, south, east, north = sandbox.bbox
    plan = build_plan(items, RunConfig(aoi=parse_bbox((west, south, east, north)), chunk=96))
    truth = expected(plan, items)
    assert (truth != FILL).any()
    np.testing.assert_array_equal(batch(plan, tmp_path / "ndvi.zarr"), truth)
    np.testing.assert_array_equal(lazy(plan), truth)


def test_the_law_in_shards(sandbox: Sandbox, tmp_path: Path) -> None:
    items = search_items(sandbox.items)
    plan = build_plan(items, RunConfig(aoi=parse_bbox(sandbox.bbox), crs="EPSG:32631", chunk=128, shard=256))
    assert plan.lattice.objects == (2, 1)  # the second reaches over the edge
    truth = expected(plan, items)
    np.testing.assert_array_equal(batch(plan, tmp_path / "ndvi.zarr"), truth)
    np.testing.assert_array_equal(lazy(plan), truth)


def test_any_window_is_the_crop_of_the_whole(sandbox: Sandbox, tmp_path: Path) -> None:
    items = search_items(sandbox.items)
    whole = build_plan(items, RunConfig(crs="EPSG:32631"))
    west, south, east, north = sandbox.bbox
    inner = parse_bbox((west + 0.003, south + 0.003, east - 0.002, north - 0.004))
    part = build_plan(items, RunConfig(aoi=inner, clip=False, crs="EPSG:32631", chunk=64))
    crop = cropped(batch(whole, tmp_path / "whole.zarr"), whole, part)
    np.testing.assert_array_equal(batch(part, tmp_path / "part.zarr"), crop)


FILTERED: list[dict[str, Any]] = [
    {"crs": "EPSG:32631", "chunk": 64},
    {"crs": "EPSG:32631", "chunk": 128, "shard": 256},
    {"crs": "EPSG:32631", "chunk": 50, "resolution": 20},
    {"crs": "EPSG:2154", "chunk": 96},
    {"crs": "EPSG:32630", "chunk": 30, "resolution": 60},
]


@pytest.mark.slow
@pytest.mark.parametrize("filters", [("opening:2", "dilation:5"), ("erosion:1", "dilation:21")], ids=str)
@pytest.mark.parametrize("grid", FILTERED, ids=str)
def test_the_law_with_mask_filters(
    sandbox: Sandbox, tmp_path: Path, grid: dict[str, Any], filters: tuple[str, ...]
) -> None:
    items = search_items(sandbox.items)
    plain = build_plan(items, RunConfig(**grid))
    plan = build_plan(items, RunConfig(mask_filters=filters, **grid))
    truth = expected(plan, items)
    assert (truth != FILL).any()
    assert ((truth == FILL) != (expected(plain, items) == FILL)).any()
    np.testing.assert_array_equal(batch(plan, tmp_path / "ndvi.zarr"), truth)
    np.testing.assert_array_equal(lazy(plan), truth)


@pytest.mark.parametrize("filters", ["opening:2,dilation:5", "closing:9"])
def test_any_window_is_the_crop_of_the_whole_with_mask_filters(
    sandbox: Sandbox, tmp_path: Path, filters: str
) -> None:
    items = search_items(sandbox.items)
    settings = {"crs": "EPSG:32631", "mask_filters": filters}
    whole = build_plan(items, RunConfig(**settings))
    west, south, east, north = sandbox.bbox
    inner = parse_bbox((west + 0.003, south + 0.003, east - 0.002, north - 0.004))
    part = build_plan(items, RunConfig(aoi=inner, clip=False, chunk=64, **settings))
    np.testing.assert_array_equal(
        batch(part, tmp_path / "part.zarr"), cropped(batch(whole, tmp_path / "whole.zarr"), whole, part)
    )


def cropped(cube: np.ndarray, whole: Plan, part: Plan) -> np.ndarray:
    """What a cube of the whole holds of a part."""
    large, small = grid_of(whole), grid_of(part)
    row, column = round((large.y0 - small.y0) / 10), round((small.x0 - large.x0) / 10)
    days = [whole.days.index(day) for day in part.days]
    return cube[days, row : row + small.height, column : column + small.width]


def test_codes_are_those_of_the_sandbox_truth(sandbox: Sandbox, tmp_path: Path) -> None:
    """The generator's own integer NDVI, which has seen neither files nor masks."""
    items = search_items(sandbox.items)
    plan = build_plan(items, RunConfig(crs="EPSG:32631"))
    stored = batch(plan, tmp_path / "ndvi.zarr")
    grid = grid_of(plan)
    seen = 0
    for codes, day in zip(stored, plan.days, strict=True):
        with (
            rasterio.open(sandbox.truth / f"ndvi_{day:%Y%m%d}.tif") as truth,
            rasterio.open(sandbox.truth / f"valid_{day:%Y%m%d}.tif") as valid,
        ):
            assert (truth.transform.c, truth.transform.f, *truth.shape) == (
                grid.x0,
                grid.y0,
                grid.height,
                grid.width,
            )
            wanted = np.where(valid.read(1) == 1, truth.read(1), FILL)
        np.testing.assert_array_equal(codes, wanted)
        seen += int((wanted != FILL).sum())
    assert seen > 50_000


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [2048, 32])
def test_real_fields_equal_the_oracle_in_every_pixel(real_data: Path, tmp_path: Path, chunk: int) -> None:
    aoi = parse_bbox("4.05,50.74,4.07,50.75")
    items = search_items(real_data / "catalog" / "catalog.json", aoi=aoi)
    plan = build_plan(items, RunConfig(aoi=aoi, chunk=chunk))
    truth = expected(plan, items)
    stored = batch(plan, tmp_path / "ndvi.zarr")
    assert stored.shape[0] == 72
    np.testing.assert_array_equal(stored, truth)
    np.testing.assert_array_equal(lazy(plan), truth)
    with xr.open_zarr(tmp_path / "ndvi.zarr") as cube:
        np.testing.assert_array_equal(np.isnan(cube["ndvi"].values), truth == FILL)


@pytest.mark.slow
def test_a_real_tile_with_offset_equals_the_oracle(real_data: Path, tmp_path: Path) -> None:
    items = search_items(real_data / "catalog" / "catalog.json", datetime="2022-10-05")
    plan = build_plan(items, RunConfig(chunk=1024))
    assert plan.days == (dt.date(2022, 10, 5),)
    truth = expected(plan, items)
    np.testing.assert_array_equal(batch(plan, tmp_path / "ndvi.zarr"), truth)
    np.testing.assert_array_equal(lazy(plan), truth)


def test_the_law_where_granules_disagree(sandbox: Sandbox, tmp_path: Path) -> None:
    """Two granules of a day agree where they overlap; with one's bands swapped, the order of the mosaic shows."""
    items = search_items(sandbox.items)
    for item in items:
        if "31TCH" in item.id:
            red, nir = item.assets["red"], item.assets["nir"]
            red.href, nir.href = nir.href, red.href
    plan = build_plan(items, RunConfig(crs="EPSG:32631", chunk=96, offset=0))
    truth = expected(plan, items)
    np.testing.assert_array_equal(batch(plan, tmp_path / "ndvi.zarr"), truth)
    np.testing.assert_array_equal(lazy(plan), truth)
    turned = oracle.cube(items, grid_of(plan), list(plan.days), None, oracle.Rules(offset=0), latest_first=True)
    assert (turned != truth).any()
