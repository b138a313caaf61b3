"""One granule on the lattice: its bands for a region, and their NDVI."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ndvi_scale.catalog import shown
from ndvi_scale.errors import ItemError
from ndvi_scale.granules import Asset, Granule, scl_factor
from ndvi_scale.kernels import cpu
from ndvi_scale.lattice import native_window, pixel_place
from ndvi_scale.sentinel2 import scl_table

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox

    from ndvi_scale.config import RunConfig
    from ndvi_scale.readers import Reader, Traffic

T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True)
class GranuleWindow:
    """The part of a granule that lies in a region."""

    rows: slice
    """Where it lies in the region."""
    columns: slice
    red: NDArray[np.uint16]
    """DN, shape (h, w), 0 is nodata."""
    nir: NDArray[np.uint16]
    scl: NDArray[np.uint8]
    """Classes, shape (h / f, w / f): each stands for f x f pixels."""
    traffic: Traffic


def read_granule(granule: Granule, geobox: GeoBox, reader: Reader) -> GranuleWindow | None:
    """Red, nir and SCL of a granule over `geobox`, cropped, not resampled; None where they do not meet.

    `geobox` lies on the granule's pixel grid. Red, nir and SCL are of the same ground: the window is whole SCL
    pixels, which the lattice's snapping makes sure of. Raises ReadError from the reader and ItemError when an
    asset has another dtype than Sentinel-2's.
    """
    native = granule.red.geobox
    window = native_window(geobox, native)
    if window is None:
        return None
    coarse = window.coarser(scl_factor(native, granule.scl.geobox))
    red, red_traffic = reader.read(granule.id, granule.red, window)
    nir, nir_traffic = reader.read(granule.id, granule.nir, window)
    scl, scl_traffic = reader.read(granule.id, granule.scl, coarse)
    west, north = pixel_place(geobox, native)
    row, column = north + window.row, west + window.column
    return GranuleWindow(
        rows=slice(row, row + red.shape[0]),
        columns=slice(column, column + red.shape[1]),
        red=_expect(red, np.uint16, granule.id, granule.red),
        nir=_expect(nir, np.uint16, granule.id, granule.nir),
        scl=_expect(scl, np.uint8, granule.id, granule.scl),
        traffic=red_traffic + nir_traffic + scl_traffic,
    )


def _expect(data: NDArray[Any], dtype: type[T], item_id: str, asset: Asset) -> NDArray[T]:
    if data.dtype != dtype:
        raise ItemError(
            f"{shown(asset.href)} of item {item_id} holds {data.dtype}, Sentinel-2 L2A {np.dtype(dtype)}: "
            "the item points to another product",
            item_id=item_id,
            asset=shown(asset.href),
        )
    return data


def granule_ndvi(
    window: GranuleWindow, granule: Granule, config: RunConfig
) -> tuple[NDArray[np.int16] | NDArray[np.float32], dict[str, int]]:
    """NDVI of a window and its counters (`kernels.COUNTERS`): int16 codes, or float32 with NaN.

    The only place where offset, validity, SCL, ratio and encoding meet.
    """
    kernel = cpu.ndvi_codes if config.dtype == "int16" else cpu.ndvi_ratio
    return kernel(
        window.red,
        window.nir,
        window.scl,
        scl_table(config.mask),
        (granule.red.offset, granule.nir.offset),
        clip=config.out_of_range == "clip",
    )
