"""Blocks of a TIFF put into their place: undoes the horizontal predictor and crops, in one pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba

if TYPE_CHECKING:
    from numpy.typing import NDArray

DIFFERENCES = 2
"""TIFF's number of the predictor that stores each pixel as its difference from the one left of it."""


def place(block: NDArray[Any], predictor: int, start: tuple[int, int], out: NDArray[Any]) -> None:
    """Write the pixels of a block, from row and column `start` on, into `out`, as many as that has.

    `block`: uint8 or uint16, unpacked but still as the predictor (1: none, 2: differences) left it; unchanged.
    """
    row, column = start
    if predictor == DIFFERENCES:
        _add_up(block, row, column, out)
    else:
        out[...] = block[row : row + out.shape[0], column : column + out.shape[1]]


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _add_up(block, row, column, out):
    height, width = out.shape
    for y in range(height):
        line = block[row + y]
        value = line[0] - line[0]  # 0 of the block's own type, which wraps as TIFF's differences do
        for x in range(column):
            value = block.dtype.type(value + line[x])
        for x in range(width):
            value = block.dtype.type(value + line[column + x])
            out[y, x] = value
