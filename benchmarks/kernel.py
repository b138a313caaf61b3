"""How fast the kernel is: against the usual xarray expression and against copying memory, in one run.

4096 x 4096 uint16 with SCL at 20 m, one thread. Every turn runs all sides one after another; ratios are taken
within a turn, so that a busy machine slows both of their sides. The pixels are compared before any time is.

    uv run python benchmarks/kernel.py
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
import xarray as xr

from ndvi_scale.kernels import FILL_CODE, cpu
from ndvi_scale.sentinel2 import MASKS, scl_table

if TYPE_CHECKING:
    from collections.abc import Callable

SIDE = 4096
OFFSET = -1000
DROPPED = sorted(MASKS["default"])


def made_up_granule(side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """DN like those of fields under some cloud: red and nir of texture, SCL in patches, a nodata edge."""
    random = np.random.default_rng(0)
    red = (1000 + random.gamma(4, 200, (side, side))).astype(np.uint16)
    nir = (1500 + random.gamma(8, 350, (side, side))).astype(np.uint16)
    patches = random.choice([4, 4, 4, 5, 5, 6, 8, 9, 3, 10], (side // 64, side // 64)).astype(np.uint8)
    scl = np.kron(patches, np.ones((32, 32), np.uint8))
    red[:, : side // 16] = nir[:, : side // 16] = 0
    scl[:, : side // 32] = 0
    return red, nir, scl


def seconds(function: Callable[[], Any]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def expression(red: xr.DataArray, nir: xr.DataArray, scl: xr.DataArray) -> xr.DataArray:
    """The usual way, frozen."""
    return ((nir - red) / (nir + red)).where(~scl.isin([0, 1, 3, 8, 9, 10]))


def prepared(red: xr.DataArray, nir: xr.DataArray, scl: xr.DataArray) -> tuple[xr.DataArray, ...]:
    """What the expression needs of the same input: float32 with the offset subtracted, SCL repeated to 10 m."""
    fine = xr.DataArray(scl.values.repeat(2, axis=0).repeat(2, axis=1), dims=scl.dims)
    return red.astype(np.float32) + OFFSET, nir.astype(np.float32) + OFFSET, fine


def check_same_pixels(granule: tuple[np.ndarray, ...], codes: np.ndarray, ndvi: xr.DataArray) -> None:
    """The two sides agree to a code wherever the expression gives an NDVI that can be one."""
    red, nir, _ = granule
    usable = (red > 0) & (nir > 0) & np.isfinite(ndvi.values) & (np.abs(ndvi.values) <= 1)
    usable &= nir.astype(np.int32) + red + 2 * OFFSET > 0
    assert np.array_equal(codes != FILL_CODE, usable), "the masks differ"
    off = np.abs(codes[usable] - np.rint(ndvi.values[usable] * 10_000))
    assert off.max() <= 1, "a code is off by more than float32 explains"


def line(name: str, ratios: list[float], target: float | None) -> str:
    """Median and spread of a ratio, with the target if it has one."""
    middle = statistics.median(ratios)
    verdict = "" if target is None else "met" if middle >= target else "NOT met"
    return f"| {name} | {middle:.2f} | {min(ratios):.2f} to {max(ratios):.2f} | {target or ''} | {verdict} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=7)
    turns = parser.parse_args().turns
    red, nir, scl = granule = made_up_granule(SIDE)
    table = scl_table(DROPPED)
    dn = {name: xr.DataArray(band, dims=("y", "x")) for name, band in (("red", red), ("nir", nir))}
    classes = xr.DataArray(scl, dims=("y", "x"))
    ready = prepared(dn["red"], dn["nir"], classes)
    copies = [np.zeros_like(band) for band in granule]
    out = np.zeros(red.shape, np.int16)

    def kernel() -> np.ndarray:
        return cpu.ndvi_codes(red, nir, scl, table, (OFFSET, OFFSET), out=out)[0]

    def usual() -> xr.DataArray:
        return expression(*prepared(dn["red"], dn["nir"], classes))

    def arithmetic() -> xr.DataArray:
        return expression(*ready)

    def copy() -> None:
        for target, band in zip(copies, granule, strict=True):
            np.copyto(target, band)

    check_same_pixels(granule, kernel(), usual())
    copy()
    ratios: dict[str, list[float]] = {"usual": [], "arithmetic": [], "copy": []}
    for _ in range(turns):
        one = min(seconds(kernel) for _ in range(3))
        ratios["usual"].append(seconds(usual) / one)
        ratios["arithmetic"].append(seconds(arithmetic) / one)
        ratios["copy"].append(min(seconds(copy) for _ in range(3)) / one)
    print(f"{SIDE} x {SIDE} uint16, SCL at 20 m, one thread, {turns} turns; pixels equal\n")
    print("| speed of the kernel over | median | range | target | |")
    print("|---|---|---|---|---|")
    print(line("the xarray expression, from the same DN and SCL", ratios["usual"], 20))
    print(line("its arithmetic alone, float32 and 10 m SCL at hand", ratios["arithmetic"], None))
    print(line("np.copyto of the bytes that it reads", ratios["copy"], 0.3))


if __name__ == "__main__":
    main()
