"""The integer oracle: NDVI codes by integer arithmetic alone, one rule a line. Slow, and right.

It is what `cpu` is tested against, and shares no arithmetic with it: no floating point anywhere, division
by integer quotient and remainder with halves to even.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ndvi_scale.kernels import (
    CODE_SCALE,
    COUNTERS,
    DARK_DN,
    FILL_CODE,
    LAND,
    MAX_DN,
    SATURATED_DN,
    USE,
    pixels_per_class,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray


def divide_half_even(numerator: NDArray[np.int64], denominator: NDArray[np.int64]) -> NDArray[np.int64]:
    """``numerator / denominator`` rounded to the nearest integer, halves to even; denominator > 0."""
    quotient, remainder = np.divmod(numerator, denominator)  # floor, so 0 <= remainder < denominator
    twice = 2 * remainder
    up = (twice > denominator) | ((twice == denominator) & (quotient % 2 == 1))
    return quotient + up


def ndvi_codes(
    red: NDArray[np.uint16],
    nir: NDArray[np.uint16],
    scl: NDArray[np.uint8],
    table: NDArray[np.uint8],
    offsets: tuple[int, int] = (0, 0),
    *,
    clip: bool = False,
) -> tuple[NDArray[np.int16], dict[str, int]]:
    """NDVI codes of one granule and what was counted.

    `red`, `nir`: DN, shape (h, w). `scl`: classes, shape (h / f, w / f), each class standing for f x f
    pixels. `table`: `USE` and `LAND` bits per class, shape (256,). `offsets`: BOA offset of red and nir in
    DN. `clip`: |NDVI| > 1 becomes ±1 instead of invalid. Returns int16 codes of shape (h, w) and the
    counters named in `COUNTERS`. Raises ValueError for shapes that do not fit.
    """
    factor = pixels_per_class(red.shape, nir.shape, scl.shape)
    bits = table[np.repeat(np.repeat(scl, factor, axis=0), factor, axis=1)]
    low = np.minimum(red, nir).astype(np.int64)
    high = np.maximum(red, nir).astype(np.int64)
    difference = (nir.astype(np.int64) + offsets[1]) - (red.astype(np.int64) + offsets[0])
    total = (nir.astype(np.int64) + offsets[1]) + (red.astype(np.int64) + offsets[0])
    outside = np.abs(difference) > total

    left = np.ones(red.shape, dtype=bool)
    counts = {}
    reasons = {
        "nodata": low == 0,
        "saturated": high == SATURATED_DN,
        "wrapped": high > MAX_DN,
        "masked": (bits & USE) == 0,
    }
    for name, reason in reasons.items():
        counts[name] = int(np.count_nonzero(left & reason))
        left &= ~reason
    land = left & ((bits & LAND) != 0)
    counts["land"] = int(np.count_nonzero(land))
    counts["land_dark"] = int(np.count_nonzero(land & (red < DARK_DN)))
    counts["not_positive"] = int(np.count_nonzero(left & (total <= 0)))
    left &= total > 0
    counts["out_of_range"] = int(np.count_nonzero(left & outside))
    if not clip:
        left &= ~outside
    counts["valid"] = int(np.count_nonzero(left))

    code = divide_half_even(CODE_SCALE * difference, np.where(total > 0, total, 1))
    code = np.clip(code, -CODE_SCALE, CODE_SCALE)
    return np.where(left, code, FILL_CODE).astype(np.int16), {name: counts[name] for name in COUNTERS}
