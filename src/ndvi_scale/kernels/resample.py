"""Other pixels than the native ones: coarser cells, and cells of another CRS. Plain arrays in, plain arrays out.

Both give DN and classes, so that `cpu` computes NDVI of them as of native pixels. What is masked or invalid never
mixes with what is not. All arithmetic is on integers: positions in parts of a pixel, weights that sum to a power
of two, means rounded to whole DN with halves to even. So any cut of the output into regions gives the same pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import numba
import numpy as np

from ndvi_scale.kernels import MAX_DN, SATURATED_DN, USE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bands = tuple[NDArray[np.uint16], NDArray[np.uint16], NDArray[np.uint8]]
    """Red and nir DN and classes, all of shape (h, w)."""

T = TypeVar("T", bound=np.generic)

NODE: Final = 64
"""Output pixels from one node of a warp to the next, along each axis; between them positions are bilinear. Over
640 m they miss the exact ones by 0.0001 pixel between UTM zones in France (measured: tests/test_placement.py)."""

NODE_UNITS: Final = 1 << 16
"""Parts of a source pixel in which positions of nodes are given."""

STEPS: Final = 256
"""Parts of a source pixel in which positions of pixels are rounded: 4 cm of 10 m."""

_SHIFT: Final = (NODE * NODE * NODE_UNITS // STEPS).bit_length() - 1
_HALF: Final = 1 << (_SHIFT - 1)


def repeated(band: NDArray[T], factor: int) -> NDArray[T]:
    """Each pixel of a band `factor` x `factor` times; the band itself where that is once."""
    return band if factor == 1 else band.repeat(factor, axis=0).repeat(factor, axis=1)


def coarsen(bands: Bands, table: NDArray[np.uint8], factor: int) -> Bands:
    """Cells of `factor` x `factor` pixels, shape (h / factor, w / factor).

    A cell is as usable as all of its pixels: its DN are the mean, its class that of the pixel at its middle. If one
    is nodata, saturated or wrapped, so is the cell (0, 65535, 32768), and if the class of one is not used (by
    `table`, the `USE` bits of each class), the cell gets that class.
    """
    shape = tuple(side // factor for side in bands[0].shape)
    out = (np.empty(shape, np.uint16), np.empty(shape, np.uint16), np.empty(shape, np.uint8))
    if out[0].size:
        _coarsen(bands, table, factor, out)
    return out


def warp(
    bands: Bands,
    table: NDArray[np.uint8],
    nodes: tuple[NDArray[np.int64], NDArray[np.int64]],
    start: tuple[int, int],
    shape: tuple[int, int],
) -> Bands:
    """Pixels of another grid, shape `shape`.

    `nodes`: rows and columns of every `NODE`-th output pixel in the source, in `NODE_UNITS`, 0 being the centre of
    the source's first pixel. `start`: row and column of the first output pixel, counted from the first node.

    A pixel is what the nearest source pixel is: its class, and, where that one is not usable (by DN or by `table`),
    its DN. Where it is usable, the DN are the bilinear mean of those of the four pixels around that are usable.
    Outside the source, DN and class are 0.
    """
    out = (np.empty(shape, np.uint16), np.empty(shape, np.uint16), np.empty(shape, np.uint8))
    if out[0].size:
        _warp(bands, table, nodes, start, out)
    return out


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _mean(total, count):
    """Rounded half to even. A mean DN is a half, or 2**-19 away from one: far more than a double's rounding."""
    return np.rint(np.float64(total) / np.float64(count))


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _is_usable(red, nir, scl, table):
    return 0 < red <= MAX_DN and 0 < nir <= MAX_DN and (table[scl] & USE) != 0


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _coarsen(bands, table, factor, out):
    red, nir, scl = bands
    for y in range(out[0].shape[0]):
        for x in range(out[0].shape[1]):
            red_sum = nir_sum = np.int64(0)
            nodata, highest = False, np.int64(0)
            middle = scl[y * factor + factor // 2, x * factor + factor // 2]
            for row in range(y * factor, (y + 1) * factor):
                for column in range(x * factor, (x + 1) * factor):
                    one, two = np.int64(red[row, column]), np.int64(nir[row, column])
                    nodata = nodata or one == 0 or two == 0
                    highest = max(highest, one, two)
                    red_sum += one
                    nir_sum += two
                    if (table[scl[row, column]] & USE) == 0 and (table[middle] & USE) != 0:
                        middle = scl[row, column]
            if nodata:
                out[0][y, x] = out[1][y, x] = 0
            elif highest > MAX_DN:
                out[0][y, x] = out[1][y, x] = SATURATED_DN if highest == SATURATED_DN else MAX_DN + 1
            else:
                out[0][y, x] = _mean(red_sum, factor * factor)
                out[1][y, x] = _mean(nir_sum, factor * factor)
            out[2][y, x] = middle


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _between(nodes, row, column):
    """Position of an output pixel in `STEPS` of a source pixel: the bilinear mean of the four nodes around it."""
    j, i = row // NODE, column // NODE
    y, x = row - j * NODE, column - i * NODE
    north = (NODE - x) * nodes[j, i] + x * nodes[j, i + 1]
    south = (NODE - x) * nodes[j + 1, i] + x * nodes[j + 1, i + 1]
    return ((NODE - y) * north + y * south + _HALF) >> _SHIFT


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _warp(bands, table, nodes, start, out):
    red, nir, scl = bands
    height, width = red.shape
    for y in range(out[0].shape[0]):
        for x in range(out[0].shape[1]):
            row = _between(nodes[0], start[0] + y, start[1] + x)
            column = _between(nodes[1], start[0] + y, start[1] + x)
            nearest_row, nearest_column = (row + STEPS // 2) // STEPS, (column + STEPS // 2) // STEPS
            out[0][y, x] = out[1][y, x] = out[2][y, x] = 0
            if not (0 <= nearest_row < height and 0 <= nearest_column < width):
                continue
            out[0][y, x] = red[nearest_row, nearest_column]
            out[1][y, x] = nir[nearest_row, nearest_column]
            out[2][y, x] = scl[nearest_row, nearest_column]
            if not _is_usable(out[0][y, x], out[1][y, x], out[2][y, x], table):
                continue
            top, left = row // STEPS, column // STEPS
            down, right = row - top * STEPS, column - left * STEPS
            red_sum = nir_sum = weights = np.int64(0)
            for j in range(2):
                for i in range(2):
                    r, c = top + j, left + i
                    weight = (down if j else STEPS - down) * (right if i else STEPS - right)
                    if not (0 <= r < height and 0 <= c < width) or weight == 0:
                        continue
                    if _is_usable(red[r, c], nir[r, c], scl[r, c], table):
                        red_sum += weight * red[r, c]
                        nir_sum += weight * nir[r, c]
                        weights += weight
            out[0][y, x] = _mean(red_sum, weights)
            out[1][y, x] = _mean(nir_sum, weights)
