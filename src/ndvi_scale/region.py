"""One region, whole: `compute_region`, the function that batch and lazy both call. Plain numpy."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from ndvi_scale.composite import empty_layer, fill_of, is_fill, merged_day
from ndvi_scale.errors import ItemError, ReadError
from ndvi_scale.granule import GranuleReading, GranuleWindow, granule_ndvi, prefetch_granule, start_granule
from ndvi_scale.kernels import COUNTERS, FILL_CODE, MAX_DN, NODATA_DN
from ndvi_scale.lattice import centres_inside
from ndvi_scale.readers import Reader, Traffic, one_ahead
from ndvi_scale.sentinel2 import scl_table

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from ndvi_scale.granules import Granule
    from ndvi_scale.lattice import Region
    from ndvi_scale.plan import Plan


@dataclass(frozen=True)
class RegionRecord:
    """What computing a region brought to light; becomes a line of the ledger."""

    region: Region
    valid: int
    """Pixels with NDVI inside the AOI."""
    counters: dict[str, dict[str, int]]
    """Granule id → `kernels.COUNTERS`, over its window, before the AOI is cut out."""
    traffic: Traffic
    seconds: float
    skipped: dict[str, str] = field(default_factory=dict)
    """Granule id → why it was left out (``on_error="skip"``), or which older processing stands in for it."""
    checksums: dict[str, str] = field(default_factory=dict)
    """Variable → kind and checksum of its pixels; set by whoever wrote them."""

    def with_checksums(self, checksums: dict[str, str]) -> RegionRecord:
        """The record of the region after it was written."""
        return replace(self, checksums=checksums)


def compute_region(plan: Plan, region: Region, reader: Reader) -> tuple[dict[str, NDArray[Any]], RegionRecord]:
    """Every variable of one region, shape (y, x) of the region's grid, and the record.

    Reads each granule that touches the region, computes its NDVI, merges in (datetime, id) order, cuts the AOI
    out. Raises ReadError or ItemError unless the plan says to skip.
    """
    started = time.perf_counter()
    geobox = plan.region_geobox(region)
    shape, layer = geobox.shape.yx, None
    counters: dict[str, dict[str, int]] = {}
    skipped: dict[str, str] = {}
    traffic = Traffic()
    for granule, window in _windows(plan, region, reader, skipped):
        ndvi, counters[granule.id] = granule_ndvi(window, granule, plan.config)
        layer = merged_day(layer, shape, window.place, ndvi)
        traffic += window.traffic
    if layer is None:
        layer = empty_layer(shape, plan.config.dtype)
    outside = _outside_aoi(plan, region)
    if outside is not None:
        layer[outside] = fill_of(plan.config.dtype)
    record = RegionRecord(
        region=region,
        valid=_valid(layer, counters.values() if outside is None else ()),
        counters=counters,
        traffic=traffic,
        seconds=time.perf_counter() - started,
        skipped=skipped,
    )
    return {"ndvi": layer}, record


def prefetch_region(plan: Plan, region: Region, reader: Reader) -> None:
    """Begin to read the first granule of a region that is soon to be computed, where the reader can."""
    window = plan.lattice.window(region.iy, region.ix)
    for granule in plan.granules_of(region)[:1]:
        prefetch_granule(granule, plan.lattice.geobox, window, reader)


def _valid(layer: NDArray[Any], counted: Collection[Mapping[str, int]]) -> int:
    """Pixels with NDVI: as the kernel counted them, where the layer is what it made of one granule."""
    if len(counted) == 1:
        return next(iter(counted))["valid"]
    return layer.size - int(np.count_nonzero(is_fill(layer)))


def merged_bands(plan: Plan, region: Region, reader: Reader) -> dict[str, NDArray[Any]]:
    """Red, nir and SCL of the granule that `compute_region` takes each pixel from.

    Red and nir: DN + offset, int16 (1e-4 of reflectance), `FILL_CODE` without a
    valid DN. SCL: uint8, 0 without data.
    A pixel that no granule has NDVI for shows the first granule that has data there, so clouds can be seen.
    """
    shape = plan.region_geobox(region).shape.yx
    bands = {
        "red": np.full(shape, FILL_CODE, np.int16),
        "nir": np.full(shape, FILL_CODE, np.int16),
        "scl": np.zeros(shape, np.uint8),
    }
    decided = np.zeros(shape, bool)
    for granule, window in _windows(plan, region, reader, {}):
        place = window.place.slices
        ndvi, _ = granule_ndvi(window, granule, plan.config)
        valid = ~is_fill(ndvi)
        unseen = (bands["red"][place] == FILL_CODE) & _has_data(window)
        take = ~decided[place] & (valid | unseen)
        for band, values in _harmonised(window, granule).items():
            np.copyto(bands[band][place], values, where=take)
        decided[place] |= valid
    outside = _outside_aoi(plan, region)
    if outside is not None:
        for band, values in bands.items():
            values[outside] = 0 if band == "scl" else FILL_CODE
    return bands


def _windows(
    plan: Plan, region: Region, reader: Reader, skipped: dict[str, str]
) -> Iterator[tuple[Granule, GranuleWindow]]:
    """Granules of a region with their pixels, one at a time, in mosaic order; notes those left out or replaced."""
    part, table = plan.lattice.window(region.iy, region.ix), scl_table(plan.config.mask)

    def start(granule: Granule) -> tuple[Granule, GranuleReading | None]:
        return granule, start_granule(granule, plan.lattice.geobox, part, reader)

    def read(granule: Granule) -> GranuleWindow | None:
        return _finished(start(granule)[1], table)

    for granule, reading in one_ahead(map(start, plan.granules_of(region))):
        try:
            found = [(granule, _finished(reading, table))]
        except (ReadError, ItemError) as error:
            found, why = _from_spares(plan.spares.get(granule.id, ()), read, error)
            if not found and plan.config.on_error == "raise":
                raise
            skipped[granule.id] = why
        for used, window in found:
            if window is not None:
                yield used, window


def _finished(reading: GranuleReading | None, table: NDArray[np.uint8]) -> GranuleWindow | None:
    return reading and reading.finish(table)


def _from_spares(
    spares: Sequence[Granule], read: Callable[[Granule], GranuleWindow | None], error: ReadError | ItemError
) -> tuple[list[tuple[Granule, GranuleWindow | None]], str]:
    """The newest older processing that can be read, whole, in place of what cannot; and what to say of it.

    Not where trying again may help: what a cube holds must not depend on an origin's bad hour.
    """
    lasting = not isinstance(error, ReadError) or error.permanent
    for _, halves in groupby(spares if lasting else (), key=lambda spare: spare.baseline):
        try:
            found = [(spare, read(spare)) for spare in halves]
        except (ReadError, ItemError):
            continue
        return found, f"{error}; {', '.join(spare.id for spare, _ in found)}, processed earlier, stands in"
    return [], str(error)


def _has_data(window: GranuleWindow) -> NDArray[np.bool_]:
    low, high = np.minimum(window.red, window.nir), np.maximum(window.red, window.nir)
    return (low != NODATA_DN) & (high <= MAX_DN)


def _harmonised(window: GranuleWindow, granule: Granule) -> dict[str, NDArray[Any]]:
    factor = window.red.shape[0] // window.scl.shape[0]
    return {
        "red": _add_offset(window.red, granule.red.offset),
        "nir": _add_offset(window.nir, granule.nir.offset),
        "scl": window.scl.repeat(factor, axis=0).repeat(factor, axis=1),
    }


def _add_offset(dn: NDArray[np.uint16], offset: int) -> NDArray[np.int16]:
    # Only valid DN (1…32767) are taken from this; an offset above 0 could still push one over the edge.
    return np.clip(dn.astype(np.int32) + offset, FILL_CODE + 1, MAX_DN).astype(np.int16)


def _outside_aoi(plan: Plan, region: Region) -> NDArray[np.bool_] | None:
    """True where a pixel's centre lies outside the AOI; None where the whole region is inside."""
    area = plan.aoi_geometry
    geobox = plan.region_geobox(region)
    if area is None or area.contains_properly(shapely.box(*geobox.boundingbox.bbox)):
        return None
    return ~centres_inside(geobox, area)


def total_counters(records: Iterable[RegionRecord]) -> dict[str, int]:
    """Counters summed over regions and granules."""
    totals: dict[str, int] = dict.fromkeys(COUNTERS, 0)
    for record in records:
        for counts in record.counters.values():
            for name, number in counts.items():
                totals[name] += number
    return totals
