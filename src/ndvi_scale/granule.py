"""One granule on the lattice: its bands for a region, and their NDVI."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from ndvi_scale.errors import ItemError
from ndvi_scale.granules import Asset, Granule, scl_factor
from ndvi_scale.kernels import cpu, resample
from ndvi_scale.lattice import Window
from ndvi_scale.placement import cell_factor, finer_grid, place_granule, source_windows
from ndvi_scale.readers import Traffic
from ndvi_scale.sentinel2 import scl_table
from ndvi_scale.web import shown

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox

    from ndvi_scale.config import RunConfig
    from ndvi_scale.placement import Nodes, Placement
    from ndvi_scale.readers import Reader

T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True)
class GranuleWindow:
    """The part of a granule that lies in a region, in the region's pixels."""

    place: Window
    """Which pixels of the region it fills."""
    red: NDArray[np.uint16]
    """DN, shape (h, w), 0 is nodata."""
    nir: NDArray[np.uint16]
    scl: NDArray[np.uint8]
    """Classes, shape (h / f, w / f): each stands for f x f pixels."""
    traffic: Traffic

    @property
    def bands(self) -> resample.Bands:
        """Red, nir and SCL."""
        return self.red, self.nir, self.scl


def read_granule(
    granule: Granule, grid: GeoBox, window: Window, reader: Reader, table: NDArray[np.uint8]
) -> GranuleWindow | None:
    """Red, nir and SCL of a granule over a window of the lattice, whose whole grid is `grid`; None if apart.

    Native pixels are cropped, never touched. Coarser ones, and those of another CRS, are made as
    `kernels.resample` says; `table` tells which classes are used, so that others do not mix with them. Red, nir and
    SCL are of the same ground. Raises ReadError from the reader and ItemError when an asset has another dtype than
    Sentinel-2's.
    """
    native = granule.red.geobox
    factor = cell_factor(grid, native)
    if factor > 1:
        return _read_cells(granule, grid, window, reader, table)
    placed = place_granule(grid, window, native)
    if placed is None:
        return None
    if placed.nodes is None:
        return _read_native(granule, placed, reader)
    return _read_warped(granule, placed, reader, table)


def _read_native(granule: Granule, placed: Placement, reader: Reader) -> GranuleWindow:
    """The pixels as they are; the lattice's snapping makes sure that they are whole SCL pixels."""
    factor = scl_factor(granule.red.geobox, granule.scl.geobox)
    red, red_traffic = _read(granule, granule.red, placed.native, reader, np.uint16)
    nir, nir_traffic = _read(granule, granule.nir, placed.native, reader, np.uint16)
    scl, scl_traffic = _read(granule, granule.scl, placed.native.coarser(factor), reader, np.uint8)
    return GranuleWindow(placed.place, red, nir, scl, red_traffic + nir_traffic + scl_traffic)


def _read_warped(granule: Granule, placed: Placement, reader: Reader, table: NDArray[np.uint8]) -> GranuleWindow:
    """The pixels of another grid."""
    nodes = cast("Nodes", placed.nodes)
    bands, traffic = _read_expanded(granule, placed.native, reader)
    moved = nodes.moved(placed.native.row, placed.native.column)
    shape = placed.place.height, placed.place.width
    return GranuleWindow(placed.place, *resample.warp(bands, table, moved, nodes.start, shape), traffic)


def _read_cells(
    granule: Granule, grid: GeoBox, window: Window, reader: Reader, table: NDArray[np.uint8]
) -> GranuleWindow | None:
    """Coarser pixels, strip after strip, so that those that they are made of never fill the memory."""
    native = granule.red.geobox
    factor = cell_factor(grid, native)
    fine = finer_grid(grid, factor)
    cells = _nothing(window.height, window.width)
    traffic = Traffic()
    strips = [strip for _, strip in source_windows(grid, window, native)]
    for strip in strips:
        pixels = strip.finer(factor)
        placed = cast("Placement", place_granule(fine, pixels, native))
        if placed.nodes is not None:
            found = _read_warped(granule, placed, reader, table)
            bands, cost = found.bands, found.traffic
        else:
            held, cost = _read_expanded(granule, placed.native, reader)
            bands = _nothing(pixels.height, pixels.width)  # a cell that reaches beyond the granule has no mean
            for band, part in zip(bands, held, strict=True):
                band[placed.place.slices] = part
        traffic += cost
        first = strip.row - window.row
        for band, part in zip(cells, resample.coarsen(bands, table, factor), strict=True):
            band[first : first + strip.height] = part
    return GranuleWindow(Window(0, 0, window.height, window.width), *cells, traffic) if strips else None


def _nothing(height: int, width: int) -> resample.Bands:
    """Bands without data."""
    shape = height, width
    return np.zeros(shape, np.uint16), np.zeros(shape, np.uint16), np.zeros(shape, np.uint8)


def _read_expanded(granule: Granule, window: Window, reader: Reader) -> tuple[resample.Bands, Traffic]:
    """Red, nir and SCL of any native window, SCL repeated to the pixels of red."""
    factor = scl_factor(granule.red.geobox, granule.scl.geobox)
    coarse = window.coarser(factor)
    red, red_traffic = _read(granule, granule.red, window, reader, np.uint16)
    nir, nir_traffic = _read(granule, granule.nir, window, reader, np.uint16)
    scl, scl_traffic = _read(granule, granule.scl, coarse, reader, np.uint8)
    top, left = window.row - coarse.row * factor, window.column - coarse.column * factor
    rows, columns = np.s_[top : top + window.height], np.s_[left : left + window.width]
    classes = scl.repeat(factor, axis=0)[rows].repeat(factor, axis=1)[:, columns]
    return (red, nir, classes), red_traffic + nir_traffic + scl_traffic


def _read(
    granule: Granule, asset: Asset, window: Window, reader: Reader, dtype: type[T]
) -> tuple[NDArray[T], Traffic]:
    data, traffic = reader.read(granule.id, asset, window)
    return _expect(data, dtype, granule.id, asset), traffic


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
