"""How fast layers are reduced along time: against numpy, numbagg and flox, and against reading the block.

One thread for everybody. Every turn runs all sides one after another; ratios are taken within a turn, so that a
busy machine slows both of their sides. The pixels are compared before any time is.

Medians: the same NDVI for all, 40 % of it NaN. The peers get it as float32, in both orders of the axes, converted
before the clock starts; ours as int16 codes, and as the peers' float32. Mean and maximum: a block larger than most
caches, and the same bytes read by numpy's maximum, as one run of int32 without a look at what they mean; as float32
it has half as many layers.

    uv run python benchmarks/composite.py

Without flox, its rows are left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import time
import warnings
from typing import TYPE_CHECKING, Any

# One thread for every library, before any of them is loaded.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[variable] = "1"

import numbagg
import numpy as np
import xarray as xr

from ndvi_scale.kernels import CODE_SCALE, FILL_CODE, reduce

if TYPE_CHECKING:
    from collections.abc import Callable

    Sides = dict[str, Callable[[], Any]]
    Ratio = tuple[str, str, str, float | None]
    """What is compared, whose seconds are divided by whose, and the target."""

MEDIANS: list[Ratio] = [
    ("`numpy.nanmedian`, over codes", "numpy", "codes", 10),
    ("`numbagg.nanmedian`, over codes", "numbagg", "codes", 2),
    ("`numbagg.nanmedian` with time last, over codes", "numbagg, time last", "codes", None),
    ("`numpy.nanmedian`, over float32", "numpy", "float32", None),
    ("`numbagg.nanmedian`, over float32", "numbagg", "float32", None),
    ("`flox` by month, over codes by month", "flox by month", "codes by month", None),
]
READS: list[Ratio] = [
    ("reading, over mean of codes", "read codes", "mean of codes", 0.5),
    ("reading, over maximum of codes", "read codes", "max of codes", 0.5),
    ("reading, over count of codes", "read codes", "count of codes", None),
    ("reading, over mean of float32", "read float32", "mean of float32", None),
    ("reading, over maximum of float32", "read float32", "max of float32", None),
]


def made_up_codes(n: int, height: int, width: int) -> np.ndarray:
    """NDVI like that of fields over a year: a season, noise, and clouds in patches and pixels."""
    random = np.random.default_rng(0)
    season = 5000 - 3500 * np.cos(np.linspace(0, 2 * np.pi, n))
    stack = np.empty((n, height, width), np.int16)
    for layer, middle in zip(stack, season, strict=True):
        layer[...] = np.clip(random.normal(middle, 900, (height, width)), -10_000, 10_000)
        patches = np.kron(random.random((height // 32 + 1, width // 32 + 1)) < 0.35, np.ones((32, 32), bool))
        layer[patches[:height, :width] | (random.random((height, width)) < 0.08)] = FILL_CODE
    return stack


def decoded(codes: np.ndarray) -> np.ndarray:
    """The peers' NDVI: float32, NaN for fill."""
    ndvi = codes.astype(np.float32) / np.float32(CODE_SCALE)
    ndvi[codes == FILL_CODE] = np.nan
    return ndvi


def months_of(n: int) -> np.ndarray:
    """The month, 0…11, of each of n layers that are spread over a year."""
    return np.arange(n) * 12 // n


def median_sides(codes: np.ndarray) -> Sides:
    """All who make a median along time of the same pixels."""
    ndvi = decoded(codes)
    last = np.ascontiguousarray(np.moveaxis(ndvi, 0, -1))
    months = months_of(len(codes))
    groups = [slice(*np.searchsorted(months, [month, month + 1])) for month in range(12)]

    def ours(stack: np.ndarray) -> np.ndarray:
        out = np.empty(stack.shape[1:], stack.dtype)
        reduce.percentile(stack, 50, out, np.empty(stack.shape[1:], np.uint16))
        return out

    sides: Sides = {
        "codes": lambda: ours(codes),
        "float32": lambda: ours(ndvi),
        "numpy": lambda: np.nanmedian(ndvi, axis=0),
        "numbagg": lambda: numbagg.nanmedian(ndvi, axis=0),
        "numbagg, time last": lambda: numbagg.nanmedian(last, axis=-1),
    }
    if importlib.util.find_spec("flox"):
        from flox.xarray import xarray_reduce

        array = xr.DataArray(ndvi, dims=("time", "y", "x"), coords={"month": ("time", months)})
        sides["codes by month"] = lambda: np.stack([ours(codes[group]) for group in groups])
        sides["flox by month"] = lambda: (
            xarray_reduce(array, "month", func="nanmedian").transpose("month", ...).values
        )
    return sides


def read_sides(codes: np.ndarray) -> Sides:
    """Mean, maximum and count of a block, as codes and as float32, and reading its bytes."""
    shape = codes.shape[1:]
    count, where = np.empty(shape, np.uint16), np.empty(shape, np.int16)
    sides: Sides = {"count of codes": lambda: reduce.count_valid(codes, count)}
    for name, stack in (("codes", codes), ("float32", decoded(codes[: len(codes) // 2]))):
        out = np.empty(shape, stack.dtype)
        sides |= {
            f"read {name}": lambda stack=stack: stack.view(np.int32).max(),
            f"mean of {name}": lambda stack=stack, out=out: reduce.mean(stack, out, count),
            f"max of {name}": lambda stack=stack, out=out: reduce.extreme(stack, True, out, where, count),  # noqa: FBT003
        }
    return sides


def check_same_medians(sides: Sides) -> None:
    """Every side's NDVI is where ours is, and differs by no more than half a code and float32's rounding."""
    made = {name: side() for name, side in sides.items()}
    for name, result in made.items():
        ours = made["codes by month" if "month" in name else "codes"]
        theirs = decoded(result) if result.dtype == np.int16 else result
        assert np.array_equal(np.isnan(theirs), ours == FILL_CODE), f"{name}: the masks differ"
        off = np.abs(theirs * CODE_SCALE - ours)[ours != FILL_CODE]
        assert off.max() <= 0.501, f"{name}: the values differ"


def check_same_reductions(codes: np.ndarray) -> None:
    """Mean and maximum are numpy's, on a part of the block."""
    part = np.ascontiguousarray(codes[:, :16])
    values = np.where(part == FILL_CODE, np.nan, part.astype(np.float64))
    some = (part != FILL_CODE).any(axis=0)
    out, where, count = (np.empty(some.shape, dtype) for dtype in (np.int16, np.int16, np.uint16))
    reduce.mean(part, out, count)
    assert np.array_equal(out[some], np.rint(np.nanmean(values[:, some], axis=0)))
    reduce.extreme(part, True, out, where, count)  # noqa: FBT003
    assert np.array_equal(out, part.max(axis=0))
    assert np.array_equal(count, (part != FILL_CODE).sum(axis=0))


def seconds(function: Callable[[], Any], least: float) -> float:
    """Wall time of one call: the shortest of those that are made until `least` seconds are over."""
    taken: list[float] = []
    while sum(taken) < least:
        started = time.perf_counter()
        function()
        taken.append(time.perf_counter() - started)
    return min(taken)


def measured(sides: Sides, turns: int) -> dict[str, list[float]]:
    """Seconds of every side, turn by turn; each has run once before."""
    for side in sides.values():
        side()
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(turns):
        for name, side in sides.items():
            taken[name].append(seconds(side, 0.1))
    return taken


def print_rows(n: int, pixels: int, ratios: list[Ratio], taken: dict[str, list[float]]) -> None:
    """A row a ratio: median and range, with the target if it has one, and what ours takes for a pixel."""
    for name, theirs, ours, target in ratios:
        if theirs not in taken:
            continue
        each = [one / other for one, other in zip(taken[theirs], taken[ours], strict=True)]
        middle = statistics.median(each)
        verdict = "" if target is None else "met" if middle >= target else "NOT met"
        nanoseconds = statistics.median(taken[ours]) / pixels * 1e9
        row = f"| {n} | {name} | {middle:.2f} | {min(each):.2f} to {max(each):.2f} | {nanoseconds:.1f} "
        print(row + f"| {target or ''} | {verdict} |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--side", type=int, default=384, help="pixels along one side of the blocks of the medians")
    parser.add_argument("--megabytes", type=int, default=256, help="of codes, for mean and maximum")
    parser.add_argument("--layers", type=int, nargs="+", default=[30, 146])
    given = parser.parse_args()
    warnings.filterwarnings("ignore", "All-NaN|Mean of empty slice")
    print(
        f"Medians of {given.side} x {given.side}, others of {given.megabytes} MB; one thread, {given.turns} turns;"
    )
    print(f"numpy {np.__version__}, numbagg {numbagg.__version__}; pixels equal.\n")
    print("| layers | seconds of | median | range | ours, ns a pixel | target | |")
    print("|---|---|---|---|---|---|---|")
    for n in given.layers:
        sides = median_sides(made_up_codes(n, given.side, given.side))
        check_same_medians(sides)
        print_rows(n, given.side**2, MEDIANS, measured(sides, given.turns))
        codes = made_up_codes(n, given.megabytes * 500_000 // n // 2048, 2048)
        check_same_reductions(codes)
        print_rows(n, codes[0].size, READS, measured(read_sides(codes), given.turns))


if __name__ == "__main__":
    main()
