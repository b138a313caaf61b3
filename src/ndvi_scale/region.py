"""One region, whole: `compute_region`, the function that batch and lazy both call. Plain numpy."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import shapely

from ndvi_scale.composite import Part, fill_of, is_fill, merged_into, start_reduction
from ndvi_scale.errors import ItemError, ReadError
from ndvi_scale.granule import GranuleReading, GranuleWindow, granule_ndvi, prefetch_granule, start_granule
from ndvi_scale.kernels import COUNTERS, FILL_CODE, MAX_DN, NODATA_DN
from ndvi_scale.kernels.morphology import plain_classes
from ndvi_scale.kernels.resample import repeated
from ndvi_scale.kernels.tally import count_classes
from ndvi_scale.lattice import centres_inside
from ndvi_scale.readers import Reader, Traffic, one_ahead
from ndvi_scale.sentinel2 import NO_DATA, scene_table

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from ndvi_scale.composite import Mosaic, Reduction
    from ndvi_scale.granules import Granule
    from ndvi_scale.lattice import Region
    from ndvi_scale.masks import SceneMask
    from ndvi_scale.plan import Plan


class DayCounts(NamedTuple):
    """Pixels of one solar day's mosaic.

    A pixel's class is that of the granule that its NDVI is of, or else of the first that sees it.
    """

    observed: int = 0
    """Of SCL class 1 to 11."""
    cloud: int = 0
    """Of these, 8, 9 or 10."""
    snow: int = 0
    """Of these, 11."""
    valid: int = 0
    """With NDVI."""

    def plus(self, other: DayCounts) -> DayCounts:
        """The sum of both."""
        return DayCounts(*(one + two for one, two in zip(self, other, strict=True)))


@dataclass(frozen=True)
class RegionRecord:
    """What computing a region brought to light; becomes a line of the ledger."""

    region: Region
    valid: int
    """Pixels with NDVI, of one day of a period at least, inside the AOI."""
    counters: dict[str, dict[str, int]]
    """Granule id → `kernels.COUNTERS`, over its window, before the AOI is cut out."""
    traffic: Traffic
    seconds: float
    """That it took to compute, and to write where it was written."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Granule id → why it was left out (``on_error="skip"``), or which older processing stands in for it."""
    days: dict[dt.date, DayCounts] = field(default_factory=dict)
    """Solar day → what was seen of it, over the pixels in the AOI."""
    inside: int = 0
    """Pixels whose centre lies in the AOI."""
    checksums: dict[str, str] = field(default_factory=dict)
    """Variable → kind and checksum of its pixels; set by whoever wrote them."""
    worker: str = ""
    """Host and process that wrote them."""

    def with_checksums(self, checksums: dict[str, str]) -> RegionRecord:
        """The record of the region after this process wrote it."""
        return replace(self, checksums=checksums, worker=this_process())


def compute_region(plan: Plan, region: Region, reader: Reader) -> tuple[dict[str, NDArray[Any]], RegionRecord]:
    """Every variable of one region, shape (y, x) of the region's grid, and the record.

    Reads each granule that touches the region, computes its NDVI, merges those of a solar day in (datetime, id)
    order, cuts the AOI out, and reduces the days of a period. Raises ReadError or ItemError unless the plan says to
    skip.
    """
    started = time.perf_counter()
    config, shape = plan.config, plan.region_geobox(region).shape.yx
    reduction = start_reduction(config.reducer, shape, config.dtype, len(set(_days_of(plan, region))))
    outside = _outside_aoi(plan, region)
    sums, scenes = _Sums(), scene_table(filtered=bool(config.mask_filters))
    for day, mosaic in _mosaics(plan, region, reader, reduction, sums):
        if outside is not None:
            mosaic.layer[outside] = fill_of(mosaic.layer.dtype.name)
        reduction.add(day)
        sums.days[day] = _count_day(mosaic, outside, scenes)
    data = reduction.result()
    record = RegionRecord(
        region=region,
        valid=_valid(data, sums.days.values()),
        counters=sums.counters,
        traffic=sums.traffic,
        seconds=time.perf_counter() - started,
        skipped=sums.skipped,
        days=sums.days,
        inside=plan.region_pixels(region) - (0 if outside is None else int(np.count_nonzero(outside))),
    )
    return data, record


@dataclass
class _Sums:
    """What a region's record gathers on the way."""

    counters: dict[str, dict[str, int]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    days: dict[dt.date, DayCounts] = field(default_factory=dict)
    traffic: Traffic = field(default_factory=Traffic)


def _days_of(plan: Plan, region: Region) -> list[dt.date]:
    """Solar day of each granule of a region."""
    return [plan.granule_days[row] for row in plan.index.get(region, ())]


def _mosaics(
    plan: Plan, region: Region, reader: Reader, reduction: Reduction, sums: _Sums
) -> Iterator[tuple[dt.date, Mosaic]]:
    """The solar days of a region, in order, each in the room of the reduction that it is for.

    Those of which nothing can be read are left out.
    """
    for day, seen in groupby(read_windows(plan, region, reader, sums.skipped), key=lambda found: found[0]):
        mosaic, room = None, reduction.room
        for _, granule, window in seen:
            free = room if mosaic is None else None
            ndvi, counts = granule_ndvi(window, granule, plan.config, free)
            sums.counters[granule.id] = counts
            sums.traffic += window.traffic
            mosaic = merged_into(mosaic, room, Part(window.place, ndvi, window.scl, counts["valid"]))
        if mosaic is not None:
            yield day, mosaic


def _count_day(mosaic: Mosaic, outside: NDArray[np.bool_] | None, table: NDArray[np.uint8]) -> DayCounts:
    """Integers of one solar day, over the pixels in the AOI; `table` tells what classes are."""
    alone = mosaic.alone if outside is None else None
    if alone is not None:
        area = alone.ndvi.size // alone.scl.size
        observed, cloud, snow = (number * area for number in count_classes(alone.scl, table))
        return DayCounts(observed, cloud, snow, alone.valid)
    classes = mosaic.classes()
    if outside is not None:
        classes[outside] = NO_DATA
    valid = mosaic.layer.size - int(np.count_nonzero(is_fill(mosaic.layer)))
    return DayCounts(*count_classes(classes, table), valid)


def prefetch_region(plan: Plan, region: Region, reader: Reader) -> None:
    """Begin to read the first granule of a region that is soon to be computed, where the reader can."""
    window = plan.lattice.window(region.iy, region.ix)
    for granule in plan.granules_of(region)[:1]:
        prefetch_granule(granule, plan.lattice.geobox, window, reader, plan.config.scene_mask)


def _valid(data: Mapping[str, NDArray[Any]], days: Collection[DayCounts]) -> int:
    """Pixels with NDVI, or with an observation: as counted of the day, where there is but one."""
    if len(days) == 1:
        return next(iter(days)).valid
    if "observations" in data:
        return int(np.count_nonzero(data["observations"]))
    return data["ndvi"].size - int(np.count_nonzero(is_fill(data["ndvi"])))


def merged_bands(plan: Plan, region: Region, reader: Reader) -> dict[str, NDArray[Any]]:
    """Red, nir and SCL of the granule that `compute_region` takes each pixel from.

    Red and nir: DN + offset, int16 (1e-4 of reflectance), `FILL_CODE` without a
    valid DN. SCL: uint8, 0 without data, as it was before mask filters; a value above 11 is then 255.
    A pixel that no granule has NDVI for shows the first granule that has data there, so clouds can be seen.
    """
    shape = plan.region_geobox(region).shape.yx
    bands = {
        "red": np.full(shape, FILL_CODE, np.int16),
        "nir": np.full(shape, FILL_CODE, np.int16),
        "scl": np.zeros(shape, np.uint8),
    }
    decided = np.zeros(shape, bool)
    for _, granule, window in read_windows(plan, region, reader, {}):
        place = window.place.slices
        ndvi, _ = granule_ndvi(window, granule, plan.config)
        valid = ~is_fill(ndvi)
        unseen = (bands["red"][place] == FILL_CODE) & _has_data(window)
        take = ~decided[place] & (valid | unseen)
        for band, values in _harmonised(window, granule, plan.config.scene_mask).items():
            np.copyto(bands[band][place], values, where=take)
        decided[place] |= valid
    outside = _outside_aoi(plan, region)
    if outside is not None:
        for band, values in bands.items():
            values[outside] = 0 if band == "scl" else FILL_CODE
    return bands


def read_windows(
    plan: Plan, region: Region, reader: Reader, skipped: dict[str, str]
) -> Iterator[tuple[dt.date, Granule, GranuleWindow]]:
    """Granules of a region with their pixels, one at a time, in mosaic order; notes those left out or replaced.

    Raises ReadError or ItemError unless the plan says to skip.
    """
    part, mask = plan.lattice.window(region.iy, region.ix), plan.config.scene_mask

    def start(granule: Granule) -> tuple[Granule, GranuleReading | None]:
        return granule, start_granule(granule, plan.lattice.geobox, part, reader, mask)

    def read(granule: Granule) -> GranuleWindow | None:
        return _finished(start(granule)[1])

    readings = one_ahead(map(start, plan.granules_of(region)))
    for day, (granule, reading) in zip(_days_of(plan, region), readings, strict=True):
        try:
            found = [(granule, _finished(reading))]
        except (ReadError, ItemError) as error:
            found, why = _from_spares(plan.spares.get(granule.id, ()), read, error)
            if not found and plan.config.on_error == "raise":
                raise
            skipped[granule.id] = why
        for used, window in found:
            if window is not None:
                yield day, used, window


def _finished(reading: GranuleReading | None) -> GranuleWindow | None:
    return reading and reading.finish()


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


def _harmonised(window: GranuleWindow, granule: Granule, mask: SceneMask) -> dict[str, NDArray[Any]]:
    scl = plain_classes(window.scl) if mask.steps else window.scl
    factor = window.red.shape[0] // window.scl.shape[0]
    return {
        "red": _add_offset(window.red, granule.red.offset),
        "nir": _add_offset(window.nir, granule.nir.offset),
        "scl": repeated(scl, factor),
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


def this_process() -> str:
    """Host and number of this process, as the ledger names it."""
    return f"{socket.gethostname()}:{os.getpid()}"


def total_counters(records: Iterable[RegionRecord]) -> dict[str, int]:
    """Counters summed over regions and granules."""
    totals: dict[str, int] = dict.fromkeys(COUNTERS, 0)
    for record in records:
        for counts in record.counters.values():
            for name, number in counts.items():
                totals[name] += number
    return totals
