"""One granule on the lattice: its bands for a region, and their NDVI."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import numpy as np

from ndvi_scale.errors import ItemError
from ndvi_scale.kernels import cpu, resample
from ndvi_scale.kernels.morphology import filter_classes
from ndvi_scale.lattice import Window
from ndvi_scale.placement import band_window, cell_factor, has_margin, source_strips
from ndvi_scale.readers import Traffic, one_ahead
from ndvi_scale.web import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox

    from ndvi_scale.config import RunConfig
    from ndvi_scale.granules import Asset, Granule
    from ndvi_scale.masks import SceneMask
    from ndvi_scale.placement import Nodes, Strip
    from ndvi_scale.readers import Reader, Reading

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
    """Classes, shape (h / f, w / f): each stands for f x f pixels. Where there are mask filters, as
    `morphology.filter_classes` gives them."""
    traffic: Traffic

    @property
    def bands(self) -> resample.Bands:
        """Red, nir and SCL."""
        return self.red, self.nir, self.scl


def start_granule(
    granule: Granule, grid: GeoBox, window: Window, reader: Reader, mask: SceneMask
) -> GranuleReading | None:
    """Begin to read red, nir and SCL of a granule over a window of the lattice, whose whole grid is `grid`.

    `mask`: its filters need SCL around the window, which is read with their margin. None if granule and window lie
    apart. Of coarser pixels the first strip is begun, and each further one when its turn comes nearer, so that the
    pixels that they are made of never fill the memory.
    """
    strips = source_strips(grid, window, granule.grid)
    if not strips:
        return None
    factor = cell_factor(grid, granule.grid)
    started = one_ahead(_started(granule, strip, reader, mask.margin) for strip in strips)
    return GranuleReading(granule, window, factor, mask, started)


def prefetch_granule(granule: Granule, grid: GeoBox, window: Window, reader: Reader, mask: SceneMask) -> None:
    """Begin what `start_granule` will begin, where the reader can."""
    for strip in source_strips(grid, window, granule.grid)[:1]:
        for asset, part, shared in _parts(granule, strip, mask.margin):
            reader.prefetch(granule.id, asset, part, shared=shared)


class _Started(NamedTuple):
    """A strip whose bands are on their way."""

    strip: Strip
    red: Reading
    nir: Reading
    scl: Reading


def _started(granule: Granule, strip: Strip, reader: Reader, margin: int) -> _Started:
    parts = _parts(granule, strip, margin)
    return _Started(strip, *(reader.start(granule.id, asset, part, shared=shared) for asset, part, shared in parts))


def _parts(granule: Granule, strip: Strip, margin: int) -> list[tuple[Asset, Window, bool]]:
    """What is read of red, nir and SCL for a strip, and whether windows around it want the same pixels."""
    native = strip.placed.native
    return [
        (asset, band_window(granule, band, native, margin), has_margin(band, margin))
        for band, asset in granule.assets.items()
    ]


@dataclass(frozen=True)
class GranuleReading:
    """A granule over a window of the lattice, on its way. To be finished once."""

    granule: Granule
    window: Window
    """The lattice's."""
    factor: int
    """Pixels of the granule's grid along one of the lattice's."""
    mask: SceneMask
    """With the margin of its filters SCL is read around each strip."""
    strips: Iterator[_Started]

    def finish(self) -> GranuleWindow:
        """The pixels, their classes filtered where the mask has filters.

        Native ones are cropped, never touched. Coarser ones, and those of another CRS, are made as
        `kernels.resample` says; the mask tells which classes are used, so that others do not mix with them. Red,
        nir and SCL are of the same ground. Raises ReadError from the reader and ItemError when an asset has another
        dtype than Sentinel-2's.
        """
        if self.factor > 1:
            return self._cells()
        (started,) = self.strips
        if started.strip.placed.nodes is None:
            return self._native(started)
        return self._warped(started)

    def _native(self, started: _Started) -> GranuleWindow:
        """The pixels as they are; the lattice's snapping makes sure that they are whole SCL pixels."""
        return GranuleWindow(started.strip.placed.place, *self._bands(started))

    def _warped(self, started: _Started) -> GranuleWindow:
        """The pixels of another grid."""
        placed = started.strip.placed
        nodes = cast("Nodes", placed.nodes)
        bands, traffic = self._expanded(started)
        moved = nodes.moved(placed.native.row, placed.native.column)
        shape = placed.place.height, placed.place.width
        return GranuleWindow(
            placed.place, *resample.warp(bands, self.mask.table, moved, nodes.start, shape), traffic
        )

    def _cells(self) -> GranuleWindow:
        """Coarser pixels, strip after strip."""
        window = self.window
        cells = _nothing(window.height, window.width)
        traffic = Traffic()
        for started in self.strips:
            bands, cost = self._strip_bands(started)
            traffic += cost
            strip = started.strip.window
            first = strip.row - window.row
            for band, part in zip(cells, resample.coarsen(bands, self.mask.table, self.factor), strict=True):
                band[first : first + strip.height] = part
        return GranuleWindow(Window(0, 0, window.height, window.width), *cells, traffic)

    def _strip_bands(self, started: _Started) -> tuple[resample.Bands, Traffic]:
        """All pixels of the native size in a strip of cells."""
        placed, strip = started.strip
        if placed.nodes is not None:
            found = self._warped(started)
            return found.bands, found.traffic
        held, cost = self._expanded(started)
        pixels = strip.finer(self.factor)
        bands = _nothing(pixels.height, pixels.width)  # a cell that reaches beyond the granule has no mean
        for band, part in zip(bands, held, strict=True):
            band[placed.place.slices] = part
        return bands, cost

    def _expanded(self, started: _Started) -> tuple[resample.Bands, Traffic]:
        """Red, nir and SCL of any native window, the coarser of them repeated to the pixels of the finest."""
        red, nir, scl, traffic = self._bands(started)
        window = started.strip.placed.native
        classes = _repeated(scl, window, self.granule.spread["scl"])
        factor = self.granule.spread["red"]
        return (_repeated(red, window, factor), _repeated(nir, window, factor), classes), traffic

    def _bands(
        self, started: _Started
    ) -> tuple[NDArray[np.uint16], NDArray[np.uint16], NDArray[np.uint8], Traffic]:
        """Red and nir as they are stored, SCL filtered and without its margin, and what they cost."""
        red, red_traffic = started.red.result()
        nir, nir_traffic = started.nir.result()
        scl, scl_traffic = started.scl.result()
        granule = self.granule
        return (
            _expect(red, np.uint16, granule.id, granule.red),
            _expect(nir, np.uint16, granule.id, granule.nir),
            self._filtered(_expect(scl, np.uint8, granule.id, granule.scl), started),
            red_traffic + nir_traffic + scl_traffic,
        )

    def _filtered(self, scl: NDArray[np.uint8], started: _Started) -> NDArray[np.uint8]:
        """Classes of a strip, from those that were read around it as well."""
        if not self.mask.steps:
            return scl
        native = started.strip.placed.native
        read = band_window(self.granule, "scl", native, self.mask.margin)
        own = band_window(self.granule, "scl", native).moved(-read.row, -read.column)
        # A copy, or the margin would stay in memory with it.
        return filter_classes(scl, self.mask.table, self.mask.steps)[own.slices].copy()


def _repeated(band: NDArray[T], window: Window, factor: int) -> NDArray[T]:
    """A window of pixels from those `factor` times as wide that hold it."""
    if factor == 1:
        return band
    coarse = window.coarser(factor)
    top, left = window.row - coarse.row * factor, window.column - coarse.column * factor
    rows, columns = np.s_[top : top + window.height], np.s_[left : left + window.width]
    return band.repeat(factor, axis=0)[rows].repeat(factor, axis=1)[:, columns]


def _nothing(height: int, width: int) -> resample.Bands:
    """Bands without data."""
    shape = height, width
    return np.zeros(shape, np.uint16), np.zeros(shape, np.uint16), np.zeros(shape, np.uint8)


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
    window: GranuleWindow, granule: Granule, config: RunConfig, room: NDArray[Any] | None = None
) -> tuple[NDArray[Any], dict[str, int]]:
    """NDVI of a window and its counters (`kernels.COUNTERS`): int16 codes, or float32 with NaN.

    In `room`, where it has the window's shape, else in an array of its own.
    The only place where offset, validity, SCL, ratio and encoding meet.
    """
    coded = config.dtype == "int16" or config.period is not None  # days of a period are reduced as codes
    kernel = cpu.ndvi_codes if coded else cpu.ndvi_ratio
    return kernel(
        window.red,
        window.nir,
        window.scl,
        config.scene_mask.table,
        (granule.red.offset, granule.nir.offset),
        clip=config.out_of_range == "clip",
        out=room if room is not None and room.shape == window.red.shape else None,
    )
