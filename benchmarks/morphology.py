"""How fast mask filters are: against scipy.ndimage with the same disks, in one run.

1024 x 1024 SCL pixels, those of a region of 2048 x 2048, one thread. Every turn runs both sides one after another;
ratios are taken within a turn, so that a busy machine slows both. The pixels are compared before any time is.

    uv run python benchmarks/morphology.py
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import TYPE_CHECKING, Any

# One thread for every library, before any of them is loaded.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np
from scipy import ndimage

from ndvi_scale.kernels import ADDED, REMOVED
from ndvi_scale.kernels.morphology import filter_classes
from ndvi_scale.masks import scene_mask

if TYPE_CHECKING:
    from collections.abc import Callable

    from ndvi_scale.masks import SceneMask

SIDE = 1024
FILTERS = ("opening:2,dilation:5", "erosion:1,dilation:21", "dilation:100")


def made_up_classes(side: int) -> np.ndarray:
    """Clouds of all sizes over fields, with their shadows; an edge without data."""
    random = np.random.default_rng(0)
    smooth = sum(ndimage.gaussian_filter(random.standard_normal((side, side)), s) * s for s in (1, 6, 30))
    high, low = np.quantile(smooth, [0.8, 0.1])
    scl = np.where(random.random((side, side)) < 0.3, 5, 4).astype(np.uint8)
    scl[smooth < low] = 3
    scl[smooth > high] = 9
    scl[:, : side // 16] = 0
    return scl


def by_transform(scl: np.ndarray, mask: SceneMask) -> np.ndarray:
    """Where cloud is in the end, by scipy's exact distances: its fastest way to a disk of any size."""
    data = scl > 0
    cloud = np.isin(scl, sorted(mask.dropped)) & data
    for grows, radius in mask.steps:
        source = cloud if grows else data & ~cloud
        near = data & (ndimage.distance_transform_edt(~source) <= radius)
        cloud = cloud | near if grows else cloud & ~near
    return cloud


def by_footprint(scl: np.ndarray, mask: SceneMask) -> np.ndarray:
    """The same by scipy's binary morphology, as odc-algo and most scripts have it."""
    data = scl > 0
    cloud = np.isin(scl, sorted(mask.dropped)) & data
    for grows, radius in mask.steps:
        y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
        source = cloud if grows else data & ~cloud
        near = data & ndimage.binary_dilation(source, x * x + y * y <= radius**2)
        cloud = cloud | near if grows else cloud & ~near
    return cloud


def ours(scl: np.ndarray, mask: SceneMask) -> np.ndarray:
    """Filtered classes."""
    return filter_classes(scl, mask.table, mask.steps)


def check_same_pixels(scl: np.ndarray, mask: SceneMask) -> None:
    """All sides agree in every pixel."""
    found = ours(scl, mask)
    was = np.isin(scl, sorted(mask.dropped)) & (scl > 0)
    cloud = (was & (found & REMOVED == 0)) | (found & ADDED != 0)
    assert np.array_equal(cloud, by_transform(scl, mask)), "distances give other pixels"
    if mask.margin < 50:  # beyond, this takes minutes
        assert np.array_equal(cloud, by_footprint(scl, mask)), "footprints give other pixels"


def seconds(function: Callable[..., Any], *arguments: Any) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - started


def row(filters: str, turns: int) -> str:
    """A line of the table."""
    scl, mask = made_up_classes(SIDE), scene_mask("default", filters)
    check_same_pixels(scl, mask)
    times, ratios, footprints = [], [], []
    for _ in range(turns):
        times.append(min(seconds(ours, scl, mask) for _ in range(5)))
        ratios.append(seconds(by_transform, scl, mask) / times[-1])
        if mask.margin < 50:
            footprints.append(seconds(by_footprint, scl, mask) / times[-1])
    mine = f"{1000 * statistics.median(times):.1f} ({1000 * min(times):.1f} to {1000 * max(times):.1f})"
    return f"| {filters} | {mine} | {spread(ratios)} | {spread(footprints)} |"


def spread(ratios: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(ratios):.0f} ({min(ratios):.0f} to {max(ratios):.0f})" if ratios else "–"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=7)
    turns = parser.parse_args().turns
    print(f"{SIDE} x {SIDE} SCL pixels, one thread, {turns} turns, median (range); pixels equal\n")
    print("| filters | ms | times as fast as scipy's distances | as its footprints |")
    print("|---|---|---|---|")
    for filters in FILTERS:
        print(row(filters, turns))


if __name__ == "__main__":
    main()
