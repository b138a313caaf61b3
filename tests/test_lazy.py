"""The lazy way: the values and coordinates of the stored cube; NDVI of a person's own arrays."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cloudpickle
import dask
import dask.array as da
import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401 - registers `.rio`
import shapely
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import ndvi_scale
import ndvi_scale.accessor
import oracle
import runs
from ndvi_scale import cf
from ndvi_scale.aoi import parse_bbox
from ndvi_scale.errors import ConfigError, ReadError
from ndvi_scale.granules import granule_from_item
from ndvi_scale.kernels import reference
from ndvi_scale.lazy import compute_ndvi, load_bands, open_ndvi
from ndvi_scale.readers import BlockingReader, Traffic
from ndvi_scale.search import search_items
from ndvi_scale.sentinel2 import MASKS, scl_table

if TYPE_CHECKING:
    from pathlib import Path

    from ndvi_scale.granules import Asset
    from ndvi_scale.lattice import Window
    from ndvi_scale.plan import Plan
    from ndvi_scale.readers import Layout
    from ndvi_scale.sandbox import Sandbox


def field_plan(sandbox: Sandbox, **changes: Any) -> Plan:
    west, south, east, north = sandbox.bbox
    inner = parse_bbox((west + 0.003, south + 0.003, east - 0.002, north - 0.004))
    return runs.plan_of(sandbox, **{"aoi": inner, "chunk": 128, **changes})


# The cube


@pytest.mark.parametrize(("dtype", "zarr_format"), [("int16", 3), ("float32", 2)])
def test_values_and_coordinates_are_those_of_the_store(
    sandbox: Sandbox, tmp_path: Path, dtype: str, zarr_format: int
) -> None:
    plan = field_plan(sandbox, dtype=dtype, zarr_format=zarr_format)
    runs.run(plan, ndvi_scale.open_store(str(tmp_path / "ndvi.zarr")))
    lazy = open_ndvi(plan)
    with xr.open_zarr(tmp_path / "ndvi.zarr") as cube:
        stored = cube["ndvi"]
        assert lazy.dims == stored.dims == ("time", "y", "x")
        assert lazy.shape == stored.shape == plan.shape
        assert lazy.dtype == lazy.values.dtype == np.float32
        np.testing.assert_array_equal(lazy.values, stored.values.astype(np.float32))
        assert np.isfinite(lazy.values).any()
        assert np.isnan(lazy.values).any()
        assert set(lazy.coords) == set(stored.coords) == {"time", "y", "x", "spatial_ref"}
        for name in lazy.coords:
            xr.testing.assert_equal(lazy[name].variable, stored[name].variable)
        assert lazy.rio.crs == stored.rio.crs == rasterio.CRS.from_epsg(32631)
        assert lazy.rio.transform() == stored.rio.transform() == plan.lattice.geobox.affine
        for name in ("standard_name", "long_name", "units"):
            assert lazy.attrs[name] == stored.attrs[name]


def test_coordinates_are_pixel_centres_and_solar_days(sandbox: Sandbox) -> None:
    plan = field_plan(sandbox)
    lazy, box = open_ndvi(plan), plan.lattice.geobox.boundingbox
    assert (lazy.x[0], lazy.x[-1]) == (box.left + 5, box.right - 5)
    assert (lazy.y[0], lazy.y[-1]) == (box.top - 5, box.bottom + 5)
    assert lazy.time.dtype == "datetime64[ns]"
    assert [str(day)[:10] for day in lazy.time.values] == [day.isoformat() for day in plan.days]


def test_a_selection_is_that_of_the_whole(sandbox: Sandbox) -> None:
    lazy = open_ndvi(field_plan(sandbox))
    whole = lazy.compute()
    xr.testing.assert_identical(lazy.isel(time=1, y=slice(10, 90)).compute(), whole.isel(time=1, y=slice(10, 90)))
    day = whole.time.values[2]
    xr.testing.assert_allclose(lazy.sel(time=day).mean(), whole.sel(time=day).mean())


def test_what_is_lazy_can_be_saved_again(sandbox: Sandbox, tmp_path: Path) -> None:
    lazy, bands = open_ndvi(field_plan(sandbox)), load_bands(field_plan(sandbox))
    for dataset, name in ((lazy.to_dataset(), "ndvi"), (bands, "bands")):
        dataset.to_zarr(tmp_path / name, zarr_format=2)
        with xr.open_zarr(tmp_path / name) as again:
            xr.testing.assert_equal(again.load(), dataset.compute())
        dataset.to_netcdf(tmp_path / f"{name}.nc", engine="netcdf4")


# Bands


@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [
        ({"dtype": "float32", "offset": -1000}, 1e-6),
        ({"dtype": "float32", "mask": tuple(sorted(MASKS["land"])), "clip": False}, 1e-6),
        ({"dtype": "float32", "mask": (), "out_of_range": "clip", "chunk": 2048}, 1e-6),
        ({}, 0.501e-4),
    ],
    ids=str,
)
def test_ndvi_of_the_bands_is_ndvi(sandbox: Sandbox, changes: dict[str, Any], tolerance: float) -> None:
    """To a millionth; where a plan is stored as codes, to the half of one."""
    plan = field_plan(sandbox, **changes)
    bands = load_bands(plan)
    ndvi = compute_ndvi(bands, mask=plan.config.mask, out_of_range=plan.config.out_of_range)
    expected = open_ndvi(plan)
    np.testing.assert_array_equal(np.isnan(ndvi.values), np.isnan(expected.values))
    np.testing.assert_allclose(ndvi.values, expected.values, rtol=0, atol=tolerance)
    assert ndvi.dims == expected.dims
    assert ndvi.chunks == expected.chunks
    assert np.isfinite(expected.values).any()


def test_ndvi_of_the_bands_knows_its_place(sandbox: Sandbox) -> None:
    bands = load_bands(field_plan(sandbox))
    ndvi = compute_ndvi(bands)
    assert bands["red"].rio.crs == ndvi.rio.crs == rasterio.CRS.from_epsg(32631)
    for name in ndvi.coords:
        xr.testing.assert_identical(ndvi[name].variable, bands[name].variable)


def test_bands_are_what_the_files_hold(sandbox: Sandbox) -> None:
    """A day with one granule a pixel: reflectance is (DN + offset) / 10000, SCL pixels come four times."""
    granule = granule_from_item(
        next(item for item in search_items(sandbox.items) if item.id == "S2B_31TCJ_20210420_0_L2A")
    )
    plan = runs.plan_of(sandbox)
    bands = load_bands(plan).sel(time="2021-04-20").compute()
    alone = slice(0, 150)  # rows of 31TCJ that 31TCH does not share
    files = [rasterio.open(asset.href) for asset in granule.assets.values()]
    dn, nir, classes = (file.read(1) for file in files)
    for file in files:
        file.close()
    dn, nir, classes = dn[alone], nir[alone], classes.repeat(2, 0).repeat(2, 1)[alone]
    good = (np.minimum(dn, nir) > 0) & (np.maximum(dn, nir) <= 32767)
    assert not good.all()
    reflectance = bands["red"].values[alone]
    np.testing.assert_allclose(reflectance[good], (dn[good].astype(float) - 1000) / 10_000, atol=1e-7)
    np.testing.assert_array_equal(bands["scl"].values[alone], np.where(good, classes, 0))
    assert np.isnan(reflectance[~good]).all()
    assert bands["red"].dtype == bands["nir"].dtype == np.float32
    assert bands["scl"].dtype == np.uint8


@pytest.mark.slow
def test_bands_show_what_a_mask_hides_but_no_bad_dn(sandbox: Sandbox) -> None:
    plan = runs.plan_of(sandbox)
    bands, ndvi = load_bands(plan).compute(), open_ndvi(plan).compute()
    cloudy = np.isin(bands["scl"], [8, 9, 10])
    assert cloudy.any()
    assert np.isfinite(bands["red"].values[cloudy]).mean() > 0.9
    assert np.isnan(ndvi.values[cloudy]).all()
    nothing = np.isnan(bands["red"].values)
    np.testing.assert_array_equal(nothing, np.isnan(bands["nir"].values))
    assert nothing.any()
    assert np.isnan(ndvi.values[nothing]).all()


def test_bands_outside_the_region_are_empty(sandbox: Sandbox) -> None:
    plan = field_plan(sandbox)
    area = plan.aoi_geometry
    bands = load_bands(plan).compute()
    y, x = np.meshgrid(bands.y, bands.x, indexing="ij")
    outside = ~shapely.contains_xy(area, x, y)
    assert outside.any()
    assert np.isnan(bands["red"].values[:, outside]).all()
    assert np.isnan(bands["nir"].values[:, outside]).all()
    assert not bands["scl"].values[:, outside].any()


class Disagreeing(BlockingReader):
    """A reader for which every granule sees another NDVI, and the first one of a day clouds in its even columns."""

    name = "disagreeing"

    def __init__(self, plan: Plan) -> None:
        self.rank = {granule.id: rank for rank, granule in enumerate(plan.granules)}
        self.first = {next(g.id for g in plan.granules if g.time.date() == day) for day in plan.days}

    def nir(self, item_id: str) -> int:
        return 2000 + 100 * self.rank[item_id]

    def read(self, item_id: str, asset: Asset, window: Window) -> tuple[np.ndarray, Traffic]:
        shape = window.height, window.width
        if asset.href.endswith("scl.tif"):
            classes = np.full(shape, 4, np.uint8)
            if item_id in self.first:
                classes[:, (window.column + np.arange(window.width)) % 2 == 0] = 8
            return classes, Traffic(1, 1)
        return np.full(shape, 1000 if asset.href.endswith("red.tif") else self.nir(item_id), np.uint16), Traffic(
            1, 1
        )

    def layout(self, item_id: str, asset: Asset) -> Layout:
        raise NotImplementedError


def test_the_first_valid_granule_gives_a_pixel_whole(sandbox: Sandbox) -> None:
    """In the sandbox granules agree where they overlap; here they do not, so the order shows."""
    plan = runs.plan_of(sandbox, offset=0, dtype="float32")
    reader = Disagreeing(plan)
    granules = [granule for granule in plan.granules if granule.time.date() == plan.days[1]]
    assert len(granules) == 3
    nir, scl = np.zeros(plan.shape[1:]), np.zeros(plan.shape[1:], int)
    corner = plan.lattice.geobox.affine
    for granule in granules:
        box = granule.red.geobox
        row, column = round((corner.f - box.affine.f) / 10), round((box.affine.c - corner.c) / 10)
        place = np.s_[row : row + box.shape.y, column : column + box.shape.x]
        cloudy = np.zeros(box.shape.yx, bool)
        if granule.id in reader.first:
            cloudy[:, np.arange(box.shape.x) // 2 % 2 == 0] = True
        take = (scl[place] != 4) & ~cloudy | (scl[place] == 0)
        nir[place] = np.where(take, reader.nir(granule.id), nir[place])
        scl[place] = np.where(take, np.where(cloudy, 8, 4), scl[place])
    assert {reader.nir(granule.id) for granule in granules[:2]} <= set(np.unique(nir))
    bands = load_bands(plan, reader=reader).isel(time=1).compute()
    seen = scl > 0
    np.testing.assert_array_equal(bands["scl"], scl)
    np.testing.assert_allclose(bands["nir"].values[seen], nir[seen] / 1e4, rtol=1e-6)
    ndvi = open_ndvi(plan, reader=reader).isel(time=1).values
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(ndvi, np.where(scl == 4, (nir - 1000) / (nir + 1000), np.nan), rtol=1e-6)


# Elsewhere


def test_a_graph_can_be_sent(sandbox: Sandbox) -> None:
    plan = field_plan(sandbox)
    for array in (open_ndvi(plan), load_bands(plan)):
        sent = cloudpickle.dumps(array)
        xr.testing.assert_identical(cloudpickle.loads(sent).compute(), array.compute())


def test_a_graph_holds_the_plan_once(sandbox: Sandbox) -> None:
    few, many = (field_plan(sandbox, chunk=chunk) for chunk in (2048, 32))
    assert len(many.index) > 20 * len(few.index)
    size = [len(cloudpickle.dumps(open_ndvi(plan))) for plan in (few, many)]
    assert size[1] - size[0] < 400 * len(many.index)  # a task each, not a plan each


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_schedulers_agree(sandbox: Sandbox, scheduler: str) -> None:
    lazy = open_ndvi(field_plan(sandbox))
    with dask.config.set(scheduler=scheduler):
        found = lazy.compute()
    with dask.config.set(scheduler="threads"):
        xr.testing.assert_identical(found, lazy.compute())


@pytest.mark.slow
def test_another_process_computes_the_same(sandbox: Sandbox) -> None:
    from distributed import Client, LocalCluster

    lazy = open_ndvi(field_plan(sandbox))
    expected = lazy.compute(scheduler="synchronous")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of distributed's own sockets and event loops at its end
        with (
            LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address="127.0.0.1:0") as cluster,
            Client(cluster) as client,
        ):
            found = client.compute(lazy).result(timeout=50)
            bands = client.compute(load_bands(field_plan(sandbox))["scl"]).result(timeout=50)
    xr.testing.assert_identical(found, expected)
    np.testing.assert_array_equal(bands, load_bands(field_plan(sandbox))["scl"])


def test_a_file_that_cannot_be_read(sandbox: Sandbox) -> None:
    plan = field_plan(sandbox)
    broken = tuple(
        replace(g, nir=replace(g.nir, href="/nowhere/nir.tif")) if row == 0 else g
        for row, g in enumerate(plan.granules)
    )
    with pytest.raises(ReadError, match=r"/nowhere/nir.tif"):
        open_ndvi(replace(plan, granules=broken)).isel(time=0).compute()
    skipping = replace(plan, granules=broken, config=replace(plan.config, on_error="skip"))
    without = open_ndvi(skipping).compute()
    whole = open_ndvi(plan).compute()
    xr.testing.assert_identical(without.isel(time=slice(1, None)), whole.isel(time=slice(1, None)))
    assert np.isfinite(without.values[0]).sum() < np.isfinite(whole.values[0]).sum()


# A person's own arrays


def bands_of(red: Any, nir: Any, scl: Any = None, dims: tuple[str, ...] = ("y", "x")) -> xr.Dataset:
    given = {"red": red, "nir": nir, "scl": scl}
    return xr.Dataset({name: (dims, values) for name, values in given.items() if values is not None})


DN = st.one_of(
    st.integers(0, 3000), st.integers(0, 65535), st.sampled_from([0, 1, 999, 1000, 1001, 32767, 32768, 65535])
)


@settings(max_examples=60)
@given(
    data=st.data(),
    shape=hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=7),
    offset=st.sampled_from([0, -1000]),
    out_of_range=st.sampled_from(["mask", "clip"]),
    mask=st.sampled_from(["default", "clear-sky", "land", "0,3,8", (4,)]),
)
def test_dn_as_the_reference_has_it(
    data: st.DataObject, shape: tuple[int, ...], offset: int, out_of_range: Any, mask: Any
) -> None:
    red, nir = (data.draw(hnp.arrays(np.uint16, shape, elements=DN)) for _ in range(2))
    scl = data.draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 13)))
    dims = ("time", "y", "x")[-len(shape) :]
    ndvi = compute_ndvi(bands_of(red, nir, scl, dims), offset=offset, mask=mask, out_of_range=out_of_range)
    dropped = ndvi_scale.RunConfig().mask if mask == "default" else MASKS.get(mask, mask)
    dropped = (0, 3, 8) if dropped == "0,3,8" else dropped
    flat = [band.reshape(-1, shape[-1]) for band in (red, nir, scl)]
    codes, _ = reference.ndvi_codes(*flat, scl_table(dropped), (offset, offset), clip=out_of_range == "clip")
    codes = codes.reshape(shape)
    np.testing.assert_array_equal(np.isnan(ndvi.values), codes == -32768)
    valid = codes != -32768
    np.testing.assert_allclose(ndvi.values[valid], codes[valid] / 10_000, rtol=0, atol=0.501e-4)
    assert ndvi.dims == dims
    assert ndvi.dtype == np.float32


def test_reflectance() -> None:
    red = np.array([[0.1, 0.0, 0.3, np.nan, 0.2, -0.01, 0.0, -0.2]], np.float32)
    nir = np.array([[0.3, 0.2, 0.1, 0.3, np.nan, 0.2, 0.0, 0.1]], np.float32)
    ndvi = compute_ndvi(bands_of(red, nir), mask="none")
    np.testing.assert_allclose(ndvi[0], [0.5, 1, -0.5, *[np.nan] * 5], rtol=1e-6)
    clipped = compute_ndvi(bands_of(red, nir), mask="none", out_of_range="clip")
    np.testing.assert_allclose(clipped[0], [0.5, 1, -0.5, np.nan, np.nan, 1, np.nan, np.nan], rtol=1e-6)


def test_infinite_reflectance_is_no_ndvi() -> None:
    bands = bands_of(np.array([[np.inf, 0.1, -np.inf]]), np.array([[0.3, np.inf, 0.3]]))
    assert np.isnan(compute_ndvi(bands, mask="none")).all()


def test_scene_classes_are_dropped() -> None:
    classes = np.arange(16, dtype=np.uint8)[np.newaxis]
    dn, reflectance = np.full((1, 16), 1000, np.uint16), np.full((1, 16), 0.1)
    for mask, dropped in ((None, MASKS["default"]), ("land", MASKS["land"]), ([5], {5}), ("none", None)):
        seen = [
            compute_ndvi(bands_of(dn, 3 * dn, classes), offset=0, mask=mask),
            compute_ndvi(bands_of(reflectance, 3 * reflectance, classes), mask=mask),
        ]
        expected = [dropped is None or (k not in dropped and k < 12) for k in range(16)]
        for ndvi in seen:
            np.testing.assert_array_equal(np.isfinite(ndvi[0]), expected)
            np.testing.assert_allclose(ndvi.values[np.isfinite(ndvi)], 0.5)


def test_the_offset_is_applied() -> None:
    bands = bands_of(np.array([[1500]], np.uint16), np.array([[4500]], np.uint16), np.array([[4]], np.uint8))
    assert compute_ndvi(bands, offset=0).item() == pytest.approx(0.5)
    assert compute_ndvi(bands, offset=-1000).item() == pytest.approx(0.75)


@pytest.mark.parametrize("kind", ["dn", "reflectance"])
def test_dask_and_numpy_agree(kind: str) -> None:
    draw = np.random.default_rng(3)
    red, nir = (draw.integers(0, 5000, (3, 40, 50)).astype(np.uint16) for _ in range(2))
    scl = draw.integers(0, 12, (3, 40, 50)).astype(np.uint8)
    options: dict[str, Any] = {"offset": -1000}
    if kind == "reflectance":
        options = {}
        red, nir = (np.where(band == 0, np.nan, band / 1e4) for band in (red, nir))
    plain = bands_of(red, nir, scl, ("time", "y", "x"))
    chunked = plain.chunk({"time": 1, "y": 16, "x": 50})
    found = compute_ndvi(chunked, **options)
    assert isinstance(found.data, da.Array)
    assert found.chunks == chunked["red"].chunks
    eager = compute_ndvi(plain, **options)
    assert isinstance(eager.data, np.ndarray)
    xr.testing.assert_identical(found.compute(), eager)
    xr.testing.assert_identical(compute_ndvi(plain.assign(nir=chunked["nir"]), **options).compute(), eager)


def cloudy(shape: tuple[int, ...], seed: int = 3) -> xr.Dataset:
    """DN under small clouds and single pixels of it, some without data."""
    draw = np.random.default_rng(seed)
    red, nir = (draw.integers(1, 5000, shape).astype(np.uint16) for _ in range(2))
    scl = draw.choice(np.array([0, 4, 5, 6], np.uint8), shape, p=[0.02, 0.5, 0.4, 0.08])
    scl[..., 10:17, 12:30] = 9
    scl[..., 30:33, 3:40] = 3
    scl[draw.random(shape) < 0.01] = 8
    return bands_of(red, nir, scl, ("time", "y", "x")[-len(shape) :])


@pytest.mark.parametrize("filters", ["opening:1,dilation:3", "dilation:20", "closing:2"])
@pytest.mark.parametrize("chunks", [{"y": 16, "x": 50}, {"y": 40, "x": 7}, {"y": 5, "x": 5}, {"time": 1}])
def test_filters_give_the_same_in_any_chunks(filters: str, chunks: dict[str, int]) -> None:
    """A margin larger than the chunks, too."""
    plain = cloudy((2, 40, 50))
    eager = compute_ndvi(plain, offset=0, mask_filters=filters)
    chunked = plain.chunk(chunks)
    found = compute_ndvi(chunked, offset=0, mask_filters=filters)
    assert found.chunks == chunked["red"].chunks
    xr.testing.assert_identical(found.compute(), eager)
    assert (np.isnan(eager) != np.isnan(compute_ndvi(plain, offset=0))).any()


@pytest.mark.parametrize("kind", ["dn", "reflectance"])
def test_filters_are_those_of_the_oracle(kind: str) -> None:
    bands = cloudy((3, 40, 50))
    classes = [
        oracle.filtered(layer, MASKS["snow-free"], ("opening:2", "dilation:4")) for layer in bands["scl"].values
    ]
    used = (np.array(classes) <= 11) & ~np.isin(classes, sorted(MASKS["snow-free"]))
    options: dict[str, Any] = {"mask": "snow-free", "mask_filters": ["opening:2", "dilation:4"]}
    if kind == "dn":
        found = compute_ndvi(bands, offset=0, **options)
    else:
        found = compute_ndvi(bands.assign(red=bands["red"] / 1e4, nir=bands["nir"] / 1e4), **options)
    np.testing.assert_array_equal(np.isfinite(found.values), used)


def test_a_preset_s_filters_apply_to_arrays_too() -> None:
    bands = cloudy((40, 50))
    found = compute_ndvi(bands, offset=0, mask="openeo")
    xr.testing.assert_identical(
        found, compute_ndvi(bands, offset=0, mask="snow-free", mask_filters="erosion:1,dilation:21")
    )
    bare = compute_ndvi(bands, offset=0, mask="openeo", mask_filters="none")
    xr.testing.assert_identical(bare, compute_ndvi(bands, offset=0, mask="snow-free"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mask_filters": "dilate:2"}, "did you mean 'dilation'"),
        ({"mask_filters": "dilation:2", "mask": "none"}, "nothing to act on"),
        ({"mask_filters": "dilation:101"}, "margin of 100"),
    ],
)
def test_filters_that_arrays_cannot_have(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        compute_ndvi(cloudy((40, 50)), offset=0, **change)


@pytest.mark.parametrize("dims", [("y", "x", "time"), ("x", "y", "time"), ("time", "lat", "lon")])
def test_filters_need_y_and_x_last(dims: tuple[str, ...]) -> None:
    bands = cloudy((3, 40, 50)).rename(dict(zip(("time", "y", "x"), dims, strict=True)))
    with pytest.raises(ConfigError, match=r"act along y and x, the last two: transpose or rename"):
        compute_ndvi(bands, offset=0, mask_filters="dilation:1")


def test_coordinates_stay_and_attributes_are_ndvi_s() -> None:
    bands = bands_of(*(np.full((2, 3), value, np.uint16) for value in (1000, 3000)), np.full((2, 3), 4, np.uint8))
    bands = bands.assign_coords(y=[20.0, 10.0], x=[1.0, 2.0, 3.0], sensor="MSI")
    bands["red"].attrs["long_name"] = "red"
    before = bands.copy(deep=True)
    ndvi = compute_ndvi(bands, offset=0)
    assert ndvi.name == "ndvi"
    assert set(ndvi.coords) == {"y", "x", "sensor"}
    xr.testing.assert_identical(ndvi.x, bands.x)
    assert ndvi.attrs["standard_name"] == "normalized_difference_vegetation_index"
    assert "scale_factor" not in ndvi.attrs
    xr.testing.assert_identical(bands, before)


@pytest.mark.parametrize("turned", ["nir", "scl"])
def test_dimensions_in_another_order_are_put_right_or_refused(turned: str) -> None:
    draw = np.random.default_rng(0)
    red, nir = (draw.integers(1, 5000, (2, 4, 6)).astype(np.uint16) for _ in range(2))
    bands = bands_of(red, nir, draw.integers(0, 12, (2, 4, 6)).astype(np.uint8), ("time", "y", "x"))
    expected = compute_ndvi(bands, offset=0)
    bands[turned] = bands[turned].transpose("x", "time", "y")
    try:
        found = compute_ndvi(bands, offset=0)
    except ConfigError as error:
        assert turned in str(error)  # noqa: PT017 - either will do
    else:
        xr.testing.assert_identical(found, expected)


ONE = np.full((4, 4), 1000, np.uint16)
LAND = np.full((4, 4), 4, np.uint8)


@pytest.mark.parametrize(
    ("bands", "options", "said"),
    [
        (bands_of(ONE, None, LAND), {"offset": 0}, ("'nir'", "red, scl", "rename yours")),
        (xr.Dataset(), {"offset": 0}, ("'red'", "none")),
        (bands_of(ONE, ONE), {"offset": 0}, ("'scl'", 'mask="none"')),
        (bands_of(ONE, ONE), {"offset": 0, "mask": "default"}, ("'scl'", 'mask="none"')),
        (bands_of(ONE, ONE, LAND), {}, ("offset not given", "-1000")),
        (bands_of(ONE / 1e4, ONE / 1e4, LAND), {"offset": -1000}, ("offset -1000", "reflectance")),
        (bands_of(ONE.astype(np.int32), ONE, LAND), {"offset": 0}, ("int32", "uint16", "reflectance")),
        (bands_of(ONE, ONE, LAND), {"offset": 0, "mask": "cloud"}, ("'cloud'", "clear-sky")),
        (bands_of(ONE, ONE, LAND), {"offset": 0, "mask": [12]}, ("SCL class 12",)),
        (
            bands_of(ONE, ONE).assign(scl=(("y2", "x2"), LAND[:2, :2])),
            {"offset": 0},
            ("scl has", "repeat", "20 m pixels"),
        ),
    ],
)
def test_bands_that_are_refused(bands: xr.Dataset, options: dict[str, Any], said: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        compute_ndvi(bands, **options)
    assert all(part in str(caught.value) for part in said), str(caught.value)


MISFITS = {
    # What the kernel would read beyond the end of.
    "nir without time": xr.Dataset(
        {
            "red": (("time", "y", "x"), [ONE, ONE]),
            "nir": (("y", "x"), ONE),
            "scl": (("time", "y", "x"), [LAND, LAND]),
        }
    ),
    "nir of another shape": xr.Dataset(
        {"red": (("y", "x"), ONE), "nir": (("y2", "x2"), ONE[:2, :2]), "scl": (("y", "x"), LAND)}
    ),
    # What would be silently wrong, or a traceback of numba's.
    "nir in reflectance": bands_of(ONE, ONE / 1e4, LAND),
    "nir in another integer": bands_of(ONE, ONE.astype(np.int64), LAND),
    "scl as floats": bands_of(ONE, ONE, LAND.astype(np.float32)),
    "scl beyond 255": bands_of(ONE, ONE, LAND.astype(np.int64) + 900),
}


@pytest.mark.parametrize("kind", MISFITS)
def test_bands_that_do_not_fit_each_other_are_refused(kind: str) -> None:
    with pytest.raises(ConfigError):
        compute_ndvi(MISFITS[kind], offset=0)


def test_nir_as_dn_beside_red_as_reflectance_is_refused() -> None:
    with pytest.raises(ConfigError):
        compute_ndvi(bands_of(ONE / 1e4, 3 * ONE, LAND))


def test_an_unknown_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigError, match="out-of-range"):
        compute_ndvi(bands_of(ONE, ONE, LAND), offset=0, out_of_range="drop")  # type: ignore[arg-type]


def test_a_mask_as_an_array() -> None:
    plain = compute_ndvi(bands_of(ONE, 3 * ONE, LAND), offset=0, mask=[4, 5])
    xr.testing.assert_identical(compute_ndvi(bands_of(ONE, 3 * ONE, LAND), offset=0, mask=np.array([4, 5])), plain)


# The accessor


def test_the_accessor_forwards() -> None:
    bands = bands_of(ONE, 3 * ONE, LAND)
    xr.testing.assert_identical(bands.s2.ndvi(offset=0), compute_ndvi(bands, offset=0))
    xr.testing.assert_identical(
        bands.drop_vars("scl").s2.ndvi(offset=-1000, mask="none"),
        compute_ndvi(bands, offset=-1000, mask="none"),
    )
    with pytest.raises(ConfigError, match="offset not given"):
        bands.s2.ndvi()


def test_the_accessor_hides_no_variable() -> None:
    """`ds.ndvi` must stay the variable of a cube, and `ds.red` that of bands."""
    cube = compute_ndvi(bands_of(ONE, 3 * ONE, LAND), offset=0).to_dataset()
    assert isinstance(cube.ndvi, xr.DataArray)
    for name in ("ndvi", "red", "nir", "scl", "time", "x", "y", cf.GRID_MAPPING):
        assert not hasattr(xr.Dataset, name)
        assert not hasattr(xr.DataArray, name)
