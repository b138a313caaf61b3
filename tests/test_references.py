"""Agreement with what other implementations computed from real pixels.

Each tolerance stands beside its reason. The float32 step in [0.5, 1) is 2**-24 = 6e-8, half of it the error of one
rounding.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import rasterio
import xarray as xr

from ndvi_scale import (
    RunConfig,
    build_plan,
    composite_by_period,
    compute_region,
    open_reader,
    parse_bbox,
    search_items,
)
from ndvi_scale.kernels import COUNTERS, cpu, reference
from ndvi_scale.lattice import pixel_place
from ndvi_scale.sentinel2 import MASKS, scl_table

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

FILL = -32768
EPSILON = 2.0**-24

# openEO


@pytest.fixture(scope="module")
def meadow(real_data: Path) -> dict[str, NDArray[np.float32]]:
    with xr.open_dataset(real_data / "reference" / "openeo_meadow" / "s2_meadow.nc") as data:
        return {name: data[name].values for name in ("B04", "B08", "SCL", "NDVI")}


def as_dn(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """DN from floats that hold whole numbers, NaN as nodata."""
    whole = np.nan_to_num(values.astype(np.float64), nan=0.0)
    np.testing.assert_array_equal(whole, np.rint(whole))
    return whole.astype(np.uint16)


def test_openeo_meadow(meadow: dict[str, NDArray[np.float32]]) -> None:
    """58 dates, 87,798 valid pixels of 2021: NDVI of the same DN, with offset 0, before baseline 04.00.

    openEO has masked all four variables alike, and of the classes left (2, 4, 5, 7) the default mask keeps every
    one: so its NaN must be ours. Both sides round to float32 once, each by at most half a step: together one step.
    """
    days, height, width = meadow["NDVI"].shape
    red, nir, scl = (as_dn(meadow[name]).reshape(days * height, width) for name in ("B04", "B08", "SCL"))
    theirs = meadow["NDVI"].reshape(days * height, width)
    given = (red, nir, scl.astype(np.uint8), scl_table(MASKS["default"]))

    ours, counts = cpu.ndvi_ratio(*given)
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
    valid = ~np.isnan(theirs)
    assert counts["valid"] == valid.sum() == 87_798
    assert np.abs(ours[valid].astype(np.float64) - theirs[valid]).max() <= EPSILON

    codes, _ = cpu.ndvi_codes(*given)
    np.testing.assert_array_equal(codes, reference.ndvi_codes(*given)[0])
    # half a code of quantisation, and one float32 step in units of codes
    assert np.abs(codes[valid] - theirs[valid].astype(np.float64) * 10_000).max() <= 0.5 + 10_000 * EPSILON


def test_openeo_meadow_has_no_offset(meadow: dict[str, NDArray[np.float32]]) -> None:
    """With −1000 the same pixels are far off: the agreement above is evidence that 0 is right."""
    red, nir, scl = (as_dn(meadow[name])[0] for name in ("B04", "B08", "SCL"))
    ours, _ = cpu.ndvi_ratio(red, nir, scl.astype(np.uint8), scl_table(()), (-1000, -1000), clip=True)
    assert np.nanmedian(np.abs(ours - meadow["NDVI"][0])) > 0.1


# eo-learn


def test_eolearn_scenes(real_data: Path) -> None:
    """Five L1C scenes of 101 x 100 pixels, reflectance in float32; scene k is frame (2, 1, 4, 3, 0)[k].

    Their bands are whole DN / 10000 but for float32, their NDVI is a float32 difference, sum and quotient, ours is
    rounded to float32 once. Each of these six roundings moves NDVI, which is at most 1, by EPSILON or less, most
    of them by less than half of it: 4 EPSILON = 2.4e-7. Measured: 1.3e-7.
    """
    folder = real_data / "reference" / "eolearn_ndvi_ts"
    scenes = np.load(folder / "REFERENCE_SCENES.npy").astype(np.float64) * 10_000
    theirs = np.load(folder / "NDVI.npy")[..., 0].astype(np.float64)
    tolerance = 4 * EPSILON
    for scene, frame in zip(scenes, (2, 1, 4, 3, 0), strict=True):
        red, nir = (np.rint(scene[..., band]) for band in (3, 7))
        assert np.abs(scene[..., 3] - red).max() < 1e-3
        assert np.abs(scene[..., 7] - nir).max() < 1e-3
        scl = np.full(red.shape, 4, np.uint8)
        given = (red.astype(np.uint16), nir.astype(np.uint16), scl, scl_table(()))
        ours, counts = cpu.ndvi_ratio(*given)
        assert counts["valid"] == 10_100
        assert np.abs(ours.astype(np.float64) - theirs[frame]).max() <= tolerance
        others = [np.abs(ours - theirs[other]).max() for other in range(5) if other != frame]
        assert min(others) > 0.01, "the frames differ, so that the order matters"
        codes, _ = cpu.ndvi_codes(*given)
        assert np.abs(codes - theirs[frame] * 10_000).max() <= 0.5 + 10_000 * tolerance


# QGIS


def test_qgis_raster_calculator(real_data: Path) -> None:
    """8 x 4 pixels, one 0/0 and NaN in either band; written as float32 with eight decimals: one step below 0.5."""
    document = json.loads((real_data / "reference" / "xrspatial_qgis" / "qgis_reference.json").read_text())
    red, nir, theirs = (np.array(document[key], np.float64) for key in ("red_data", "nir_data", "qgis_ndvi"))
    scl = np.full(red.shape, 4, np.uint8)
    ours, counts = cpu.ndvi_ratio(as_dn(red.astype(np.float32)), as_dn(nir.astype(np.float32)), scl, scl_table(()))
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
    assert counts["nodata"] == np.isnan(theirs).sum() == 2
    valid = ~np.isnan(theirs)
    assert np.abs(ours[valid] - theirs[valid]).max() <= EPSILON / 2


# Real pixels, our own two kernels


def test_worldcereal_cpu_equals_reference_on_every_date(real_data: Path) -> None:
    table = scl_table(MASKS["default"])
    valid = dark = 0
    with np.load(real_data / "rasters" / "worldcereal" / "wc_31UES_72dates_B04_B08_10m_SCL_20m.npz") as data:
        bands = data["B04"], data["B08"], data["SCL"]
    assert [len(band) for band in bands] == [72, 72, 72]
    for red, nir, scl in zip(*bands, strict=True):
        for offset in (0, -1000):
            codes, counts = cpu.ndvi_codes(red, nir, scl, table, (offset, offset))
            right, counted = reference.ndvi_codes(red, nir, scl, table, (offset, offset))
            np.testing.assert_array_equal(codes, right)
            assert counts == counted
            assert tuple(counts) == COUNTERS
            valid += counts["valid"] if offset == 0 else 0
            dark += counts["land_dark"] if offset == 0 else 0
    # counted by numpy alone, from the bands
    classes = bands[2].repeat(2, axis=1).repeat(2, axis=2)
    data_there = (bands[0] > 0) & (bands[1] > 0)
    assert valid == (data_there & np.isin(classes, [2, 4, 5, 6, 7, 11])).sum() == 164_483
    assert dark == (data_there & np.isin(classes, [4, 5]) & (bands[0] < 1000)).sum() == 104_962


@pytest.mark.parametrize(
    ("offset", "classes", "median"),
    [
        (None, [4, 5], 0.842),
        (0, [4, 5], 0.571),
        (None, [4], 0.844),
        (0, [4], 0.574),
    ],
    ids=["land", "land, offset ignored", "vegetation", "vegetation, offset ignored"],
)
@pytest.mark.parametrize("chunk", [2048, 512])
def test_median_ndvi_of_a_real_tile(
    real_data: Path, offset: int | None, classes: list[int], median: float, chunk: int
) -> None:
    """29UNU of 2022-10-05, baseline 04.00, where the offset moves the median by 0.27.

    The numbers were computed from the files by numpy alone. The data's README gives 0.842 and 0.571 for class 4:
    they are those of classes 4 and 5.
    """
    aoi = parse_bbox("-9.1,52.2,-7.3,53.3")
    items = search_items(real_data / "catalog" / "catalog.json", aoi=aoi)
    assert [item.id for item in items] == ["S2A_29UNU_20221005_0_L2A"]
    plan = build_plan(items, RunConfig(aoi=aoi, offset=offset, chunk=chunk))
    reader = open_reader()
    layer = np.full(plan.shape[1:], FILL, np.int16)
    for region in plan.regions():
        layer[plan.lattice.window(region.iy, region.ix).slices] = compute_region(plan, region, reader)[0]["ndvi"]

    with rasterio.open(items[0].assets["scl"].get_absolute_href()) as file:
        scl = file.read(1)
    column, row = pixel_place(plan.lattice.geobox, plan.granules[0].red.geobox)
    tile = layer[row : row + 1830, column : column + 1830]
    assert tile.shape == scl.shape == (1830, 1830), "the region covers the tile"
    assert (layer != FILL).sum() == (tile != FILL).sum() > 500_000
    wanted = tile[np.isin(scl, classes) & (tile != FILL)]
    assert round(float(np.median(wanted)) / 10_000, 3) == median


def test_eolearn_maximum_and_valid_count(real_data: Path) -> None:
    """68 dates of NDVI, 101 x 100 pixels: their maximum over all frames, unmasked, and how many are valid."""
    folder = real_data / "reference" / "eolearn_ndvi_ts"
    ndvi, valid, maximum, count = (
        np.load(folder / f"{name}.npy") for name in ("NDVI", "IS_VALID", "MAX_NDVI", "VALID_COUNT")
    )
    days = np.datetime64("2015-01-01", "ns") + 10 * np.arange(len(ndvi)) * np.timedelta64(1, "D")
    frames = xr.DataArray(ndvi[..., 0], dims=("time", "y", "x"), coords={"time": days})
    largest = composite_by_period(frames, "all", "max")
    np.testing.assert_array_equal(largest["ndvi"].values[0], maximum[..., 0])
    assert (largest["observations"] == len(ndvi)).all()
    first = np.argmax(ndvi[..., 0] == maximum[..., 0], axis=0)
    np.testing.assert_array_equal(largest["date"].values[0], days[first])
    seen = composite_by_period(frames.where(valid[..., 0] > 0), "all", "count")
    np.testing.assert_array_equal(seen["observations"].values[0], count[..., 0])
