"""Mask filters where granules meet regions and each other: what crosses a border, and what does not."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import numpy as np
import pystac
import pytest
import rasterio
from affine import Affine

from ndvi_scale import RunConfig, build_plan, load_bands, open_reader
from ndvi_scale.lattice import Region, Window
from ndvi_scale.placement import band_window
from ndvi_scale.region import compute_region, merged_bands

if TYPE_CHECKING:
    from pathlib import Path

    from ndvi_scale.plan import Plan

FILL, LAND, CLOUD = -32768, 4, 9
SIDE = 60
"""SCL pixels of a granule."""


def granule(folder: Path, tile: str, scl: np.ndarray, left: int = 300_000, step: int = 10) -> pystac.Item:
    """An item with NDVI 0.5 wherever its classes are used."""
    bands = {
        "red": (np.full((2 * SIDE, 2 * SIDE), 1000, np.uint16), step),
        "nir": (np.full((2 * SIDE, 2 * SIDE), 3000, np.uint16), step),
        "scl": (scl.astype(np.uint8), 2 * step),
    }
    item = pystac.Item(
        f"S2A_{tile}_20210601_0_L2A",
        None,
        None,
        dt.datetime(2021, 6, 1, 10, 50, tzinfo=dt.UTC),
        {"proj:epsg": 32631, "s2:processing_baseline": "03.00", "grid:code": f"MGRS-{tile}"},
    )
    for band, (data, size) in bands.items():
        transform, path = Affine(size, 0, left, 0, -size, 4_900_020), folder / f"{tile}-{band}.tif"
        profile = {"driver": "GTiff", "height": data.shape[0], "width": data.shape[1], "count": 1}
        with rasterio.open(path, "w", **profile, dtype=data.dtype, crs=32631, transform=transform) as file:
            file.write(data, 1)
        extra = {"proj:shape": list(data.shape), "proj:transform": list(transform)[:6]}
        item.add_asset(band, pystac.Asset(str(path), media_type="image/tiff", extra_fields=extra))
    return item


def land() -> np.ndarray:
    return np.full((SIDE, SIDE), LAND)


def unused(plan: Plan, region: tuple[int, int, int]) -> np.ndarray:
    """Pixels of a region without NDVI, in SCL pixels."""
    codes = compute_region(plan, Region(*region), open_reader())[0]["ndvi"]
    return (codes == FILL).reshape(codes.shape[0] // 2, 2, -1, 2).all(axis=(1, 3))


@pytest.mark.parametrize("reader", ["cog", "rasterio"])
def test_cloud_grows_across_the_border_of_a_chunk(tmp_path: Path, reader: str) -> None:
    scl = land()
    scl[10, 28] = CLOUD  # chunks are 30 SCL pixels wide
    plan = build_plan([granule(tmp_path, "31TCJ", scl)], RunConfig(chunk=60, mask_filters=("dilation:5",)))
    assert plan.lattice.objects == (2, 2)
    west, east = (unused(plan, (0, 0, ix)) for ix in (0, 1))
    rows, columns = np.indices((30, 60))
    disk = (rows - 10) ** 2 + (columns - 28) ** 2 <= 25
    np.testing.assert_array_equal(np.hstack([west, east]), disk)
    assert east.sum() > 20
    counters = compute_region(plan, Region(0, 0, 1), open_reader(reader))[1].counters
    assert counters["S2A_31TCJ_20210601_0_L2A"]["masked"] == 4 * east.sum()


def test_cloud_at_a_border_is_not_taken_for_small(tmp_path: Path) -> None:
    """Opening would take away what lies alone in a chunk, but it goes on in the next."""
    scl = land()
    scl[5:25, 29:45] = CLOUD
    plan = build_plan([granule(tmp_path, "31TCJ", scl)], RunConfig(chunk=60, mask_filters=("opening:2",)))
    assert unused(plan, (0, 0, 0))[10:20, 29].all()


def test_cloud_does_not_grow_from_one_granule_into_another(tmp_path: Path) -> None:
    """Beyond its own edge a granule has no data; the other's pixels there are judged by its own classes."""
    scl = land()
    scl[:, -3:] = CLOUD
    items = [granule(tmp_path, "31TCJ", scl), granule(tmp_path, "31TDJ", land(), left=300_000 + SIDE * 20)]
    plan = build_plan(items, RunConfig(mask_filters=("dilation:5",)))
    found = unused(plan, (0, 0, 0))
    assert found.shape == (SIDE, 2 * SIDE)
    assert found[:, SIDE - 8 : SIDE].all()
    assert found.sum() == 8 * SIDE


@pytest.mark.parametrize("filters", ["dilation:100", "erosion:100", "opening:9,dilation:20", "closing:50"])
@pytest.mark.parametrize("scl", [LAND, CLOUD, 0])
def test_a_granule_of_one_kind(tmp_path: Path, filters: str, scl: int) -> None:
    item = granule(tmp_path, "31TCJ", np.full((SIDE, SIDE), scl))
    plan = build_plan([item], RunConfig(chunk=60, mask_filters=filters))  # type: ignore[arg-type]
    assert unused(plan, (0, 1, 1)).all() == (scl != LAND)
    assert unused(plan, (0, 1, 1)).any() == (scl != LAND)


def test_a_radius_counts_pixels_of_the_granule_s_own_scl(tmp_path: Path) -> None:
    """Of 40 m here, as if a provider had made everything coarser."""
    scl = land()
    scl[10, 10] = CLOUD
    plan = build_plan([granule(tmp_path, "31TCJ", scl, step=20)], RunConfig(mask_filters=("dilation:3",)))
    assert unused(plan, (0, 0, 0)).sum() == 29


def test_bands_show_the_classes_before_filters(tmp_path: Path) -> None:
    scl = land()
    scl[10, 10], scl[30:40, 30:40], scl[50, 50] = CLOUD, 8, 77
    items = [granule(tmp_path, "31TCJ", scl)]
    plain, filtered = (build_plan(items, RunConfig(**more)) for more in ({}, {"mask_filters": "opening:1"}))
    seen = [merged_bands(plan, Region(0, 0, 0), open_reader()) for plan in (plain, filtered)]
    for band in ("red", "nir"):
        np.testing.assert_array_equal(seen[0][band], seen[1][band])
    np.testing.assert_array_equal(seen[0]["scl"], scl.repeat(2, axis=0).repeat(2, axis=1))
    np.testing.assert_array_equal(seen[1]["scl"], np.where(seen[0]["scl"] == 77, 255, seen[0]["scl"]))
    assert not unused(filtered, (0, 0, 0))[10, 10]
    assert unused(filtered, (0, 0, 0))[50, 50]
    np.testing.assert_array_equal(load_bands(filtered)["scl"][0], seen[1]["scl"])


def test_only_scl_is_read_with_a_margin_and_no_further_than_the_file_goes(tmp_path: Path) -> None:
    plan = build_plan([granule(tmp_path, "31TCJ", land())], RunConfig())
    (one,) = plan.granules
    native = Window(20, 61, 40, 21)
    found: dict[str, Any] = {band: band_window(one, band, native, 12) for band in ("red", "nir", "scl")}
    assert found["red"] == found["nir"] == native
    assert found["scl"] == Window(0, 18, 42, 35)
    assert band_window(one, "scl", native) == Window(10, 30, 20, 11)
    assert band_window(one, "scl", Window(0, 0, 120, 120), 100) == Window(0, 0, SIDE, SIDE)
