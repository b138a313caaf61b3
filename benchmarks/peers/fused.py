"""NDVI codes of whole arrays in one pass, for the peers at their best. Frozen, and no part of ours."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

FILL = -32768


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _codes(red, nir, scl, offset, dropped, factor, out):  # noqa: ANN001, ANN202
    height, width = red.shape
    for row in range(height):
        for column in range(width):
            r, n = np.int32(red[row, column]), np.int32(nir[row, column])
            code = np.int16(-32768)
            usable = 0 < r <= 32767 and 0 < n <= 32767 and not dropped[scl[row // factor, column // factor]]
            total, difference = r + n + 2 * offset, n - r
            if usable and total > 0 and abs(difference) <= total:
                code = np.int16(np.rint(np.float64(10_000 * difference) / np.float64(total)))
            out[row, column] = code


def dropped_table(classes: list[int]) -> np.ndarray:
    """256 booleans: True where a class has no NDVI; classes above 11 are none."""
    table = np.zeros(256, np.bool_)
    table[classes] = True
    table[12:] = True
    return table


def ndvi_codes(red: Any, nir: Any, scl: Any, offset: Any, dropped: Any) -> np.ndarray:
    """Codes, int16, in the shape (..., y, x) of `red`; `scl` as fine, or at half the resolution."""
    out = np.empty(red.shape, np.int16)
    planes = [band.reshape(-1, *band.shape[-2:]) for band in (red, nir, scl, out)]
    factor = red.shape[-1] // scl.shape[-1]
    for r, n, s, o in zip(*planes, strict=True):
        _codes(r, n, s, np.int32(np.ravel(offset)[0]), dropped, factor, o)
    return out
