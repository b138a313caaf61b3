"""What a plan will cost, before it runs: bytes, requests, memory, output."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from dataclasses import dataclass, replace
from heapq import nlargest
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import psutil

from ndvi_scale.access import require_keys
from ndvi_scale.composite import pixel_bytes, reduction_bytes
from ndvi_scale.errors import ConfigError, ReadError
from ndvi_scale.lattice import COG_BLOCK, Window, in_strips
from ndvi_scale.placement import band_window, cell_factor, has_margin, source_strips
from ndvi_scale.readers import (
    CACHE_BYTES,
    DEFAULT_READER,
    FILE_BYTES,
    OPEN_FILES,
    Layout,
    Reader,
    Traffic,
    block_pixels,
    block_runs,
    touched_blocks,
)
from ndvi_scale.readers.patience import RUN_BYTES
from ndvi_scale.sentinel2 import BANDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from odc.geo.geobox import GeoBox

    from ndvi_scale.granules import Granule
    from ndvi_scale.plan import Plan

SAMPLE: Final = 8
"""Granules whose headers are read to learn how large a block is. Compressed sizes of one band vary by 20 to 30 %
from date to date (72 dates of 31UES), so that eight give the mean to about 10 %."""

_FILTER_BYTES: Final = 4
"""For a pixel of SCL, margin and all, while it is filtered: its class before and after, its label, a distance."""

READER_BYTES: Final = CACHE_BYTES
"""What a reader keeps for the whole process, beside the windows."""


FREE_SHARE: Final = 0.8
"""Part of the free memory that a run may take by itself; the rest is for what the system caches."""


@dataclass(frozen=True)
class Estimate:
    """Cost of a plan."""

    traffic: Traffic
    """Requests and compressed bytes to read."""
    output_bytes: int
    """All variables before compression, without objects that no granule touches."""
    region_memory: int
    """Bytes that computing and writing one region takes at most."""

    def memory(self, regions: int) -> int:
        """Upper bound of the bytes that so many regions in flight take, beside the interpreter itself."""
        return READER_BYTES + regions * self.region_memory


def estimate_plan(plan: Plan, reader: Reader) -> Estimate:
    """Cost of a plan, from its geometry and from the headers of at most `SAMPLE` granules.

    Raises ReadError when none of those can be read, ConfigError where keys are missing.
    """
    require_keys(plan.hrefs())
    layouts = _sample_layouts(plan, reader)
    headers = Traffic(requests=3 * len(plan.granules))
    return Estimate(
        traffic=sum(_traffic(plan, layouts), headers),
        output_bytes=sum(map(plan.region_pixels, plan.regions())) * pixel_bytes(plan.config),
        region_memory=region_memory(plan, reader.name),
    )


def _sample_layouts(plan: Plan, reader: Reader) -> dict[str, Layout]:
    """Layout of each band: block shape of the first sampled granule, mean block size of them all.

    A granule that cannot be read is left out: whether that matters is for the run to say.
    """
    step = math.ceil(len(plan.granules) / SAMPLE)
    sampled: list[dict[str, Layout]] = []
    failure: ReadError | None = None
    for granule in plan.granules[step // 2 :: step]:
        for candidate in (granule, *plan.spares.get(granule.id, ())):
            try:
                sampled.append({b: reader.layout(candidate.id, asset) for b, asset in candidate.assets.items()})
            except ReadError as error:
                failure = failure or error
                if not error.permanent:
                    break  # nothing stands in for what may come back
            else:
                break
    if failure is not None and not sampled:
        raise failure
    return {band: _mean_layout([layouts[band] for layouts in sampled]) for band in BANDS}


def _mean_layout(layouts: Sequence[Layout]) -> Layout:
    return replace(layouts[0], block_bytes=sum(layout.block_bytes for layout in layouts) / len(layouts))


def _traffic(plan: Plan, layouts: Mapping[str, Layout]) -> Iterator[Traffic]:
    """What each granule costs; worked out once for all dates of a tile."""
    places: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for region in in_strips(plan.regions(), plan.lattice):
        for row in plan.index[region]:
            places[row].append((region.iy, region.ix))
    known: dict[Any, Traffic] = {}
    for row, own in places.items():
        granule = plan.granules[row]
        key = granule.red.geobox, granule.scl.geobox, tuple(own)
        if key not in known:
            known[key] = _granule_traffic(plan, granule, own, layouts)
        yield known[key]


def _granule_traffic(
    plan: Plan, granule: Granule, places: Iterable[tuple[int, int]], layouts: Mapping[str, Layout]
) -> Traffic:
    grid, own = plan.lattice.geobox, granule.grid
    strips = (strip for place in places for strip in source_strips(grid, plan.lattice.window(*place), own))
    places_of_bands = [_band_windows(plan, granule, strip.placed.native) for strip in strips]
    total = Traffic()
    for band, asset in granule.assets.items():
        read = [windows[band] for windows in places_of_bands]
        if layouts[band].kept:
            shared = has_margin(band, plan.config.scene_mask.margin)
            total += _kept_traffic(asset.geobox, read, layouts[band], shared=shared)
        else:
            total += _window_traffic(asset.geobox, read, layouts[band])
    return total


def _window_traffic(image: GeoBox, windows: Iterable[Window], layout: Layout) -> Traffic:
    """Of windows of an image that are read each by itself."""
    total = Traffic()
    for window in windows:
        rows, columns = touched_blocks(window, layout.block)
        requests = block_runs(window, layout.block, image.shape.x)
        total += Traffic(requests, round(len(rows) * len(columns) * layout.block_bytes))
    return total


def _kept_traffic(image: GeoBox, windows: Iterable[Window], layout: Layout, *, shared: bool = False) -> Traffic:
    """Of windows of an image one after another, by a reader that keeps blocks until all their pixels are read.

    Where windows overlap (`shared`) it keeps them, as long as there is room: as if until the end.
    """
    whole, across = Window(0, 0, *image.shape), math.ceil(image.shape.x / layout.block[1])
    left: dict[tuple[int, int], float] = {}
    requests = blocks = 0
    for window in windows:
        rows, columns = touched_blocks(window, layout.block)
        touched = [(row, column) for row in rows for column in columns]
        missing = [row * across + column for row, column in touched if left.get((row, column), 0) <= 0]
        requests += _runs(missing, layout.block_bytes)
        blocks += len(missing)
        for block in touched:
            unread = left.get(block, 0)
            begun = unread if unread > 0 else math.inf if shared else block_pixels(block, layout.block, whole)
            left[block] = begun - block_pixels(block, layout.block, window)
    return Traffic(requests, round(blocks * layout.block_bytes))


def _runs(numbers: Sequence[int], block_bytes: float) -> int:
    """Requests for blocks of these numbers (ascending): neighbours at once, up to `RUN_BYTES`."""
    most = max(1, int(RUN_BYTES // max(block_bytes, 1)))
    requests = length = 0
    for number, before in zip(numbers, [None, *numbers], strict=False):
        length = length + 1 if before is not None and number == before + 1 and length < most else 1
        requests += length == 1
    return requests


def region_memory(plan: Plan, reader: str = DEFAULT_READER) -> int:
    """Upper bound of the bytes one region takes while it is read (by a reader of that name), computed and written.

    A pixel: the layer, a granule's NDVI and the one before it, if any (which Python has not let go yet); red, nir
    and SCL of both; masks and classes (`_MASKS`); what the days of a period are reduced in. Writing takes less: the
    layer, its compressed chunks, and the shard that is made of them. Where pixels are not native ones, the native
    ones that they are made of, too; with mask filters, what these work on. Beside that, blocks still packed, or
    what the worker's open files keep.
    """
    packed = _packed_bytes(plan) if reader == DEFAULT_READER else 0
    return _pixel_bytes(plan) + _filter_bytes(plan) + _files_bytes(plan, reader) + packed


def _pixel_bytes(plan: Plan) -> int:
    height, width = plan.lattice.object_shape
    return math.ceil(height * width * _bytes_a_pixel(plan)) + _source_bytes(plan)


def _files_bytes(plan: Plan, reader: str) -> int:
    """What files that a worker keeps open take; the reader of COGs has none of its own, but JP2 is read by GDAL."""
    return 0 if reader == DEFAULT_READER and not any(map(_is_jp2, plan.granules)) else OPEN_FILES * FILE_BYTES


def _is_jp2(granule: Granule) -> bool:
    return "jp2" in granule.red.media_type


def _packed_bytes(plan: Plan) -> int:
    """Most bytes of blocks that wait for one region to unpack them, as if packing made them no smaller.

    Those of the reads that may be on their way at once, of the region that is read ahead, and the block in work.
    """
    grids = {granule.red.geobox: granule for granule in plan.granules if not _is_jp2(granule)}
    numbers = {grid: number for number, grid in enumerate(grids)}
    of_row = [numbers.get(granule.red.geobox) for granule in plan.granules]
    read = {(r.iy, r.ix, tuple(of_row[row] for row in rows)) for r, rows in plan.index.items()}
    granules, most = list(grids.values()), 0
    for iy, ix, own in read:
        sizes = [
            _blocks_bytes(_band_windows(plan, granules[number], strip.placed.native), granules[number])
            for number in own
            if number is not None
            for strip in source_strips(plan.lattice.geobox, plan.lattice.window(iy, ix), granules[number].grid)
        ]
        most = max(most, sum(nlargest(_reads_at_once(plan), sizes)) + max(sizes, default=0))
    return most + 2 * COG_BLOCK**2


def _reads_at_once(plan: Plan) -> int:
    """A granule and the next; where granules are read in strips, two of these and the next granule's first."""
    return 2 if plan.lattice.geobox.resolution == plan.granules[0].grid.resolution else 3


def _band_windows(plan: Plan, granule: Granule, native: Window) -> dict[str, Window]:
    """What is read of each band for a window of a granule's grid."""
    margin = plan.config.scene_mask.margin
    return {band: band_window(granule, band, native, margin) for band in BANDS}


def _blocks_bytes(windows: Mapping[str, Window], granule: Granule) -> int:
    """Unpacked bytes of the blocks that a window of each band touches."""
    return sum(
        (1 if band == "scl" else 2) * _blocks_area(windows[band], asset.geobox)
        for band, asset in granule.assets.items()
    )


def _blocks_area(window: Window, image: GeoBox) -> int:
    rows, columns = touched_blocks(window, (COG_BLOCK, COG_BLOCK))
    height = min(rows.stop * COG_BLOCK, image.shape.y) - rows.start * COG_BLOCK
    return height * (min(columns.stop * COG_BLOCK, image.shape.x) - columns.start * COG_BLOCK)


def _bytes_a_pixel(plan: Plan) -> float:
    config = plan.config
    item = np.dtype(config.dtype if config.period is None else np.int16).itemsize
    reduced = reduction_bytes(config, plan.most_days)
    factor = plan.granules[0].spread["scl"] if _is_native(plan) else 1
    held = min(2, max(map(len, plan.index.values())))
    return item + held * (item + 2 + 2 + 1 / factor**2) + _MASKS + reduced


_MASKS: Final = 6
"""Masks and classes of a byte a pixel, with which granules are merged and the AOI is cut out."""


def _is_native(plan: Plan) -> bool:
    """Whether every pixel of the output is one of a granule, or of its overview."""
    grid = plan.lattice.geobox
    return all((g.crs, g.resolution) == (grid.crs, grid.resolution) for g in _grids(plan))


def _grids(plan: Plan) -> set[GeoBox]:
    return {granule.grid for granule in plan.granules}


def _source_bytes(plan: Plan) -> int:
    """Most bytes of native pixels, and of what is made of them on the way, for one granule of one region."""
    if _is_native(plan):
        return 0
    read = _read_at_all(plan)
    return max(
        (_resampling_bytes(plan.lattice.geobox, window, granule.grid) for window, granule in read), default=0
    )


def _read_at_all(plan: Plan) -> list[tuple[Window, Granule]]:
    """Every window of the lattice with each granule, but of granules on the same grids with one."""
    keys = [(id(granule.red.geobox), id(granule.scl.geobox)) for granule in plan.granules]
    grids = dict(zip(keys, plan.granules, strict=True))
    numbers = {key: number for number, key in enumerate(grids)}
    of_row = [numbers[key] for key in keys]
    places = {(region.iy, region.ix, of_row[row]) for region, rows in plan.index.items() for row in rows}
    granules = list(grids.values())
    return [(plan.lattice.window(iy, ix), granules[number]) for iy, ix, number in places]


def _filter_bytes(plan: Plan) -> int:
    """Most bytes that mask filters take for one granule of one region."""
    if not plan.config.mask_filters:
        return 0
    read = (
        _band_windows(plan, granule, strip.placed.native)["scl"]
        for window, granule in _read_at_all(plan)
        for strip in source_strips(plan.lattice.geobox, window, granule.grid)
    )
    return _FILTER_BYTES * max((scl.height * scl.width for scl in read), default=0)


def _resampling_bytes(grid: GeoBox, window: Window, granule: GeoBox) -> int:
    """Red, nir and SCL (as stored and repeated) of the largest read; with coarser cells, twice a strip's pixels."""
    read = source_strips(grid, window, granule)
    source = max((strip.placed.native.height * strip.placed.native.width for strip in read), default=0)
    factor = cell_factor(grid, granule)
    cells = max((strip.window.height * strip.window.width for strip in read), default=0) if factor > 1 else 0
    return 6 * source + 10 * cells * factor**2


def default_workers(reader: str = DEFAULT_READER) -> int:
    """Regions to compute at once where nothing else is said; at most eight, for each adds its memory.

    One a core where what comes next is read ahead (a whole tile then takes 0.91 of the time of two a core, on two
    cores); two a core for readers that wait for the network themselves.
    """
    cores = own_cores()
    return min(8, max(2, cores) if reader == DEFAULT_READER else 2 * cores)


def own_cores() -> int:
    """Cores of this machine that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def regions_in_flight(
    plan: Plan, workers: int | None = None, limit: int | None = None, reader: str = DEFAULT_READER
) -> int:
    """How many regions may be computed at once within `limit` bytes; at most `workers`.

    By default `default_workers` and 80 % of the memory that is free. Raises ConfigError when not even one
    fits, naming the chunk that would.
    """
    workers = workers or default_workers(reader)
    limit = limit or int(psutil.virtual_memory().available * FREE_SHARE)
    memory = region_memory(plan, reader)
    fitting = (limit - READER_BYTES) // memory
    if fitting >= 1:
        return min(workers, fitting)
    height, width = plan.lattice.object_shape
    step = plan.config.chunk if plan.config.shard else 256
    smaller = _fitting_side(plan, limit - READER_BYTES, reader, step)
    named = f"shard = {smaller}" if plan.config.shard else f"chunk = {smaller}"
    remedy = f"use {named}, or" if smaller > (step if plan.config.shard else 0) else "give"
    raise ConfigError(
        f"one region of {height} x {width} pixels takes {math.ceil(memory / 2**20)} MiB and the reader's cache "
        f"{READER_BYTES >> 20} MiB, the memory limit is {limit / 2**20:.3g} MiB: {remedy} more memory"
    )


def _fitting_side(plan: Plan, limit: int, reader: str, step: int) -> int:
    """The largest object, in steps, of which one region takes no more than `limit` bytes; 0 if none does."""
    height, width = plan.lattice.object_shape
    a_pixel = _pixel_bytes(plan) / (height * width)
    fixed, packed = _files_bytes(plan, reader), reader == DEFAULT_READER
    native = plan.lattice.geobox.resolution.x / plan.granules[0].red.geobox.resolution.x
    for side in range(min(math.isqrt(height * width), plan.lattice.side - 1) // step * step, 0, -step):
        read = math.ceil(side * native)
        waiting = _reads_at_once(plan) * max(
            _blocks_bytes(_dearest_windows(plan, granule, read), granule) for granule in plan.granules
        )
        filtered = _FILTER_BYTES * max(_scl_side(plan, granule, read) for granule in plan.granules) ** 2
        if side**2 * a_pixel + filtered + fixed + packed * (waiting + 2 * COG_BLOCK**2) <= limit:
            return side
    return 0


def _dearest_windows(plan: Plan, granule: Granule, side: int) -> dict[str, Window]:
    """Windows of each band for so many native pixels a side, where they touch most blocks."""
    sides = {band: math.ceil(side / granule.spread[band]) for band in BANDS}
    if plan.config.mask_filters:
        sides["scl"] = _scl_side(plan, granule, side)
    return {band: Window(COG_BLOCK - 1, COG_BLOCK - 1, wide, wide) for band, wide in sides.items()}


def _scl_side(plan: Plan, granule: Granule, side: int) -> int:
    """Side of what filters take of SCL for so many native pixels a side; 0 without filters."""
    margin = plan.config.scene_mask.margin
    return math.ceil(side / granule.spread["scl"]) + 2 * margin if margin else 0
