"""What a plan will cost, before it runs: bytes, requests, memory, output."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import psutil

from ndvi_scale.access import require_keys
from ndvi_scale.errors import ConfigError, ReadError
from ndvi_scale.placement import cell_factor, source_strips
from ndvi_scale.readers import (
    CACHE_BYTES,
    FILE_BYTES,
    OPEN_FILES,
    Layout,
    Reader,
    Traffic,
    block_runs,
    touched_blocks,
)
from ndvi_scale.sentinel2 import BANDS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from odc.geo.geobox import GeoBox

    from ndvi_scale.granules import Asset, Granule
    from ndvi_scale.lattice import Region, Window
    from ndvi_scale.plan import Plan

SAMPLE: Final = 8
"""Granules whose headers are read to learn how large a block is. Compressed sizes of one band vary by 20 to 30 %
from date to date (72 dates of 31UES), so that eight give the mean to about 10 %."""

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
    """NDVI before compression, without objects that no granule touches."""
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
    traffic = Traffic()
    pixels = 0
    for region in plan.regions():
        pixels += plan.region_pixels(region)
        for granule in plan.granules_of(region):
            traffic += _granule_traffic(plan, region, granule, layouts)
    headers = 3 * len(plan.granules)
    return Estimate(
        traffic=traffic + Traffic(requests=headers),
        output_bytes=pixels * np.dtype(plan.config.dtype).itemsize,
        region_memory=region_memory(plan),
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
    return Layout(layouts[0].block, sum(layout.block_bytes for layout in layouts) / len(layouts))


def _granule_traffic(plan: Plan, region: Region, granule: Granule, layouts: Mapping[str, Layout]) -> Traffic:
    total = Traffic()
    window = plan.lattice.window(region.iy, region.ix)
    for placed, _ in source_strips(plan.lattice.geobox, window, granule.grid):
        for band, asset in granule.assets.items():
            total += _asset_traffic(asset, placed.native.coarser(granule.spread[band]), layouts[band])
    return total


def _asset_traffic(asset: Asset, window: Window, layout: Layout) -> Traffic:
    rows, columns = touched_blocks(window, layout.block)
    requests = block_runs(window, layout.block, asset.geobox.shape.x)
    return Traffic(requests, round(len(rows) * len(columns) * layout.block_bytes))


def region_memory(plan: Plan) -> int:
    """Upper bound of the bytes one region takes while it is computed and written.

    A pixel: the layer, a granule's NDVI and the one before it (which Python has not let go yet); red, nir and
    SCL of both; two boolean masks. Writing takes less: the layer, its bytes and its compressed form. Where pixels
    are not native ones, the native ones that they are made of, too. Beside that, what the worker's open files keep.
    """
    height, width = plan.lattice.chunk_shape
    return math.ceil(height * width * _bytes_a_pixel(plan)) + _source_bytes(plan) + OPEN_FILES * FILE_BYTES


def _bytes_a_pixel(plan: Plan) -> float:
    item = np.dtype(plan.config.dtype).itemsize
    factor = plan.granules[0].spread["scl"] if _is_native(plan) else 1
    return 3 * item + 2 * (2 + 2 + 1 / factor**2) + 2


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
    lattice = plan.lattice
    windows = {
        (lattice.window(region.iy, region.ix), plan.granules[row].grid)
        for region, rows in plan.index.items()
        for row in rows
    }
    return max((_resampling_bytes(lattice.geobox, *pair) for pair in windows), default=0)


def _resampling_bytes(grid: GeoBox, window: Window, granule: GeoBox) -> int:
    """Red, nir and SCL (as stored and repeated) of the largest read; with coarser cells, twice a strip's pixels."""
    read = source_strips(grid, window, granule)
    source = max((strip.placed.native.height * strip.placed.native.width for strip in read), default=0)
    factor = cell_factor(grid, granule)
    cells = max((strip.window.height * strip.window.width for strip in read), default=0) if factor > 1 else 0
    return 6 * source + 10 * cells * factor**2


def parse_size(text: str) -> int:
    """``"4GB"``, ``"512 MiB"`` or ``"1e9"`` in bytes. Raises ConfigError."""
    match = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([kMGT]?)(i?)B?\s*", text, re.IGNORECASE)
    try:
        number = float(match[1]) if match else 0.0
    except ValueError:
        number = 0.0
    if match is None or not 0 < number < math.inf:
        raise ConfigError(f"memory {text!r} is not a size: give a number and a unit, such as 4GB or 512MiB")
    return int(number * (1024 if match[3] else 1000) ** " KMGT".index(match[2].upper() or " "))


def default_workers() -> int:
    """Regions to compute at once where nothing else is said.

    Reading waits for the network more than it computes, so twice the cores; each of more than eight threads would
    add its memory and hardly any speed, on origins that answer a few connections well.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, 2 * cores)


def regions_in_flight(plan: Plan, workers: int | None = None, limit: int | None = None) -> int:
    """How many regions may be computed at once within `limit` bytes; at most `workers`.

    By default `default_workers` and 80 % of the memory that is free. Raises ConfigError when not even one
    fits, naming the chunk that would.
    """
    workers = workers or default_workers()
    limit = limit or int(psutil.virtual_memory().available * FREE_SHARE)
    memory = region_memory(plan)
    fitting = (limit - READER_BYTES) // memory
    if fitting >= 1:
        return min(workers, fitting)
    height, width = plan.lattice.chunk_shape
    fixed = READER_BYTES + OPEN_FILES * FILE_BYTES
    per_pixel = (memory - OPEN_FILES * FILE_BYTES) / (height * width)
    side = math.sqrt(max(limit - fixed, 0) / per_pixel)
    smaller = int(side) // 256 * 256
    remedy = f"use chunk = {smaller}, or" if smaller else "give"
    raise ConfigError(
        f"one region of {height} x {width} pixels takes {math.ceil(memory / 2**20)} MiB and the reader's cache "
        f"{READER_BYTES >> 20} MiB, the memory limit is {limit / 2**20:.3g} MiB: {remedy} more memory"
    )
