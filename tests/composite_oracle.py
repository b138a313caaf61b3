"""The oracle of composites: layers of days reduced in plain integers, by other means than the kernels.

Valid codes are sorted upward with what is missing last, and divided by `oracle.half_even`.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from oracle import FILL, half_even

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence

NO_DATE = -2_147_483_647
_LAST = 1 << 20


def quotient(codes: np.ndarray, reducer: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numerator and denominator of each pixel's code, and on how many days it has one; codes: (days, y, x)."""
    valid = codes != FILL
    count = valid.sum(axis=0)
    if reducer == "mean":
        return np.where(valid, codes.astype(np.int64), 0).sum(axis=0), count, count
    percent = {"median": 50, "max": 100, "min": 0}.get(reducer) if reducer[1:].isalpha() else int(reducer[1:])
    ascending = np.sort(np.where(valid, codes.astype(np.int64), _LAST), axis=0)
    ascending = np.concatenate([ascending, np.full((2, *codes.shape[1:]), _LAST)])
    place = np.maximum(count - 1, 0) * percent
    below = np.take_along_axis(ascending, place[None] // 100, axis=0)[0]
    above = np.take_along_axis(ascending, place[None] // 100 + 1, axis=0)[0]
    part = place % 100
    return np.where(part > 0, (100 - part) * below + part * above, 100 * below), np.full(count.shape, 100), count


def reduced(codes: np.ndarray, reducer: str, dtype: str = "int16") -> tuple[np.ndarray, np.ndarray]:
    """Codes (or NDVI as float32) and observations of one period, from its days in codes (days, y, x)."""
    over, under, count = quotient(codes, reducer)
    some, under = count > 0, np.maximum(under, 1)
    if dtype == "int16":
        return np.where(some, half_even(over, under), FILL).astype(np.int16), count
    exact = [float(Fraction(int(a), int(b) * 10_000)) for a, b in zip(over.flat, under.flat, strict=True)]
    return np.where(some, np.array(exact).reshape(over.shape), np.nan).astype(np.float32), count


def first_days(codes: np.ndarray, days: Sequence[dt.date], reducer: str) -> np.ndarray:
    """Days since 1970-01-01 of the first day that has the maximum or minimum; `NO_DATE` of none."""
    found = np.full(codes.shape[1:], NO_DATE)
    best = reduced(codes, reducer)[0]
    for layer, day in reversed(list(zip(codes, days, strict=True))):
        found[(layer == best) & (layer != FILL)] = np.datetime64(day, "D").astype(int)
    return found
