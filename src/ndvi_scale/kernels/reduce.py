"""Layers reduced along time: percentile, mean, extreme and count. Plain arrays in, plain arrays out.

A layer is (h, w), of int16 codes (`FILL_CODE` is no NDVI; any other value is one) or of floats (NaN is no NDVI).
A stack is (n, h, w). All arrays are C-contiguous; n is 1…`MAX_LAYERS`; a ValueError names what does not fit.
`count` is uint16: the layers that have NDVI, pixel by pixel. Where there is none, the result is fill.

`out` says what is wanted. From codes, int16: a code, rounded half to even; float32: NDVI, its fraction kept. From
floats: their own dtype. All is computed in double precision and rounded once. Sums of codes are exact, so that the
order of layers cannot matter; floats are summed in double in the order of the layers.

One thread, GIL released, compiled at the first call, cached on disk; no fastmath, which would lose NaN. The loops
over pixels are branch-free, so that LLVM makes vector code of them, in 16-bit lanes where codes are compared.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numba
import numpy as np

from ndvi_scale.kernels import CODE_SCALE, FILL_CODE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Codes = NDArray[np.int16]
    Floats = NDArray[np.float32] | NDArray[np.float64]
    Count = NDArray[np.uint16]

    Form = tuple[float, bool, float]
    """How a result is stored: what it is divided by, whether it is rounded to a whole number, the fill."""

MAX_LAYERS: Final = 32767
"""Layers are counted in 16 bits, and int32 holds the sum of 65,537 codes."""

SPAN: Final = 4096
"""Pixels that all layers are reduced over before the next: what is kept of them stays in the first-level cache."""

SORTED: Final = 1024
"""Pixels of which the layers are sorted at a time, unless `BUFFER` is too small: shorter reads from each layer take
longer, and longer ones leave the cache."""

BUFFER: Final = 1 << 20
"""Bytes of the buffer in which layers are sorted: about a second-level cache."""

LANES: Final = 64
"""Pixels that are sorted at a time however many layers there are."""

_PAD: Final = 32
"""Pixels between rows of the buffer, so that rows do not lie a multiple of 4 kB apart, where a load has to wait for
a store that it has nothing to do with."""


def percentile(stack: Codes | Floats, percent: int, out: Codes | Floats, count: Count) -> None:
    """Percentile `percent` (a whole number, 0…100) of each pixel's NDVI, between two values by numpy's "linear".

    With the values in order v0…v(m−1) and (m−1)·percent = 100·k + r: ((100 − r)·v[k] + r·v[k+1]) / 100, and v[k]
    itself where r is 0. 50 is the median. Zero never comes out as −0.0.
    """
    layers = _layers(stack)
    if isinstance(percent, bool) or not isinstance(percent, int | np.integer) or not 0 <= percent <= 100:  # noqa: PLR2004
        raise ValueError(f"percent {percent!r} is not a percentile; give a whole number from 0 to 100")
    form = _form(stack.dtype, out.dtype)
    planes = _plane("out", out, stack.shape[1:], out.dtype), _plane("count", count, stack.shape[1:], np.uint16)
    n, percent = len(layers), int(percent)
    rank, rest = divmod((n - 1) * percent, 100)
    width = max(LANES, min(SORTED, BUFFER // (n * layers.itemsize) // LANES * LANES))
    buffer = np.empty((n, width + _PAD), layers.dtype)
    _percentile(layers, (percent, rank, rest), _bounds(layers.dtype), _network(n, rank), buffer, form, *planes)


def mean(stack: Codes | Floats, out: Codes | Floats, count: Count) -> None:
    """Mean of each pixel's NDVI."""
    layers, form = _layers(stack), _form(stack.dtype, out.dtype)
    planes = _plane("out", out, stack.shape[1:], out.dtype), _plane("count", count, stack.shape[1:], np.uint16)
    _mean(layers, _fill(layers.dtype), np.empty(SPAN, _sum_dtype(layers.dtype)), form, *planes)


def extreme(stack: Codes | Floats, largest: bool, out: Codes | Floats, where: Codes, count: Count) -> None:  # noqa: FBT001
    """The largest (or smallest) of each pixel's NDVI; `where` is the first layer that has it, −1 for none."""
    layers, form, shape = _layers(stack), _form(stack.dtype, out.dtype), stack.shape[1:]
    best = out if out.dtype == stack.dtype else np.empty(shape, stack.dtype)
    planes = (
        _plane("out", best, shape, stack.dtype),
        _plane("where", where, shape, np.int16),
        _plane("count", count, shape, np.uint16),
    )
    target = _plane("out", out, shape, out.dtype)
    _extreme(layers, largest, _fill(layers.dtype), *planes)
    if best is not out:
        _encode(planes[0], None, planes[2], form, target)


def count_valid(stack: Codes | Floats, count: Count) -> None:
    """How many layers have NDVI, pixel by pixel."""
    layers = _layers(stack)
    _count_valid(layers, _fill(layers.dtype), _plane("count", count, stack.shape[1:], np.uint16))


def add_to_sum(layer: Codes | Floats, total: NDArray[np.int32] | NDArray[np.float64], count: Count) -> None:
    """Add a layer's NDVI to `total` (int32 for codes, float64 for floats) and `count`, which begin as zeros."""
    values = _layer(layer)
    sums = _plane("total", total, layer.shape, _sum_dtype(layer.dtype))
    _add(values, _fill(values.dtype), sums, _plane("count", count, layer.shape, np.uint16))


def mean_of_sum(total: NDArray[np.int32] | NDArray[np.float64], count: Count, out: Codes | Floats) -> None:
    """The mean, from what `add_to_sum` left, as `mean` gives it."""
    if total.dtype not in (np.int32, np.float64):
        raise ValueError(f"total is {total.dtype}; give int32 sums of codes or float64 sums of floats")
    layers = np.dtype(np.int16) if total.dtype == np.int32 else np.result_type(out.dtype, np.float32)
    form = _form(layers, out.dtype)
    planes = _plane("count", count, total.shape, np.uint16), _plane("out", out, total.shape, out.dtype)
    _encode(_plane("total", total, total.shape, total.dtype), planes[0], planes[0], form, planes[1])


def keep_extreme(
    layer: Codes | Floats,
    index: int,
    largest: bool,  # noqa: FBT001
    best: Codes | Floats,
    where: Codes,
    count: Count,
) -> None:
    """Keep what is larger (smaller) in layer number `index` than in those before, as `extreme` does.

    `best`, of the layer's dtype, begins as fill, `where` as −1, `count` as 0.
    """
    if not 0 <= index < MAX_LAYERS:
        raise ValueError(f"layer {index} cannot be counted in 16 bits; give an index from 0 to {MAX_LAYERS - 1}")
    values = _layer(layer)
    planes = (
        _plane("best", best, layer.shape, layer.dtype),
        _plane("where", where, layer.shape, np.int16),
        _plane("count", count, layer.shape, np.uint16),
    )
    _keep(values, index, largest, _fill(values.dtype), *planes)


def add_to_count(layer: Codes | Floats, count: Count) -> None:
    """Count where a layer has NDVI."""
    values = _layer(layer)
    _count(values, _fill(values.dtype), _plane("count", count, layer.shape, np.uint16))


def _layers(stack: NDArray[Any]) -> NDArray[Any]:
    """The stack as (n, h·w), if it is one."""
    if stack.ndim != 3 or not 1 <= len(stack) <= MAX_LAYERS:  # noqa: PLR2004
        raise ValueError(f"stack of shape {stack.shape} must be (n, h, w) with n from 1 to {MAX_LAYERS}")
    return _known("stack", stack).reshape(len(stack), stack.shape[1] * stack.shape[2])


def _layer(layer: NDArray[Any]) -> NDArray[Any]:
    return _known("layer", layer).reshape(-1)


def _known(name: str, array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype not in (np.int16, np.float32, np.float64):
        raise ValueError(f"{name} is {array.dtype}; give int16 codes, or float32 or float64 with NaN for no NDVI")
    return _contiguous(name, array)


def _contiguous(name: str, array: NDArray[Any]) -> NDArray[Any]:
    if not array.flags.c_contiguous:
        raise ValueError(f"{name} is strided {array.strides}; give a C-contiguous array")
    return array


def _plane(name: str, array: NDArray[Any], shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """An array of one value a pixel as (h·w), if its shape and dtype are these."""
    if array.shape != shape or array.dtype != dtype:
        wanted = f"{np.dtype(dtype)} {shape}"
        raise ValueError(f"{name} is {array.dtype} {array.shape} but must be {wanted}, as the layers are")
    return _contiguous(name, array).reshape(-1)


def _form(source: np.dtype[Any], out: np.dtype[Any]) -> Form:
    """How results from layers of that dtype are stored in an array of this one."""
    if source == np.int16 and out == np.int16:
        return 1.0, True, float(FILL_CODE)
    if source == np.int16 and out == np.float32:
        return float(CODE_SCALE), False, np.nan
    if source == out and out in (np.float32, np.float64):
        return 1.0, False, np.nan
    wanted = (
        "int16 (codes) or float32 (NDVI)" if source == np.int16 else "the dtype of the layers, float32 or float64"
    )
    raise ValueError(f"out is {out} but the layers are {source}; give an out of {wanted}")


def _sum_dtype(dtype: np.dtype[Any]) -> type[np.int32 | np.float64]:
    return np.int32 if dtype == np.int16 else np.float64


def _fill(dtype: np.dtype[Any]) -> Any:
    """What no NDVI is, as a scalar of that dtype; a NaN never equals it, and is tested for besides."""
    return dtype.type(FILL_CODE if dtype == np.int16 else np.nan)


def _bounds(dtype: np.dtype[Any]) -> tuple[Any, Any, Any]:
    """Fill, and values that no other of that dtype is below or above."""
    if dtype == np.int16:
        return _fill(dtype), np.int16(-32768), np.int16(32767)
    return _fill(dtype), dtype.type(-np.inf), dtype.type(np.inf)


@lru_cache(maxsize=32)
def _network(n: int, rank: int) -> NDArray[np.uint16]:
    """Comparators (i, j), i < j, in order, that bring the values of rank `rank` and the next into those two rows.

    Batcher's merge exchange (Knuth, TAOCP 5.2.2, algorithm M), less what cannot reach the two rows. The comparators
    of a stage touch no row twice, so a stage is pruned as a whole.
    """
    stages = []
    half = 1 << max(n - 1, 1).bit_length() - 1
    step = half
    while step:
        reach, bit, distance = half, 0, step
        while distance:
            low = np.arange(max(n - distance, 0))
            low = low[(low & step) == bit]
            stages.append(np.stack([low, low + distance], axis=1))
            distance, reach, bit = (reach - step, reach // 2, step) if reach != step else (0, reach, bit)
        step //= 2
    needed = np.zeros(n, np.bool_)
    needed[rank : rank + 2] = True
    kept = [np.empty((0, 2), np.int64)]
    for stage in reversed(stages):
        pairs = stage[needed[stage].any(axis=1)]
        needed[pairs] = True
        kept.append(pairs)
    return np.concatenate(kept[::-1]).astype(np.uint16)


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _percentile(layers, position, bounds, network, buffer, form, out, count):
    # A pixel without NDVI sorts below all others in some layers and above them in the rest, in such a proportion
    # that the percentile is at the same two ranks in every pixel, however many of its layers are valid.
    n, size = layers.shape
    percent, rank, rest = position
    width = buffer.shape[1] - _PAD
    rests = np.empty(width, np.int16)
    for start in range(0, size, width):
        stop = min(start + width, size)
        seen = count[start:stop]
        seen[:] = 0
        rests[:] = rest
        for i in range(n):
            _place(layers[i, start:stop], percent, bounds, buffer[i], rests, seen)
        for k in range(network.shape[0]):
            _exchange(buffer[network[k, 0]], buffer[network[k, 1]], stop - start)
        _interpolate(buffer[rank], buffer[min(rank + 1, n - 1)], rests, seen, form, out[start:stop])


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _place(values, percent, bounds, row, rests, seen):
    # With c of n layers missing, ⌊(n−1)p/100⌋ − ⌊(n−1−c)p/100⌋ of them have to be low. Each more that is missing
    # takes p from the rest of (n−1)p by 100, and is low where that borrows; so what is left is the rest of (m−1)p.
    fill, low, high = bounds
    for x in range(values.size):
        value = values[x]
        valid = _is_valid(value, fill)
        less = np.int16(rests[x] - (np.int16(0) if valid else np.int16(percent)))
        borrows = less < 0
        row[x] = value if valid else (low if borrows else high)
        rests[x] = np.int16(less + (np.int16(100) if borrows else np.int16(0)))
        seen[x] = np.uint16(seen[x] + np.uint16(valid))


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _exchange(one, two, width):
    # Written so that it is the processor's own minimum and maximum, of floats too: 0.0 and −0.0 both stay.
    for x in range(width):
        a, b = one[x], two[x]
        one[x] = min(b, a)
        two[x] = max(a, b)


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _interpolate(lower, upper, rests, seen, form, out):
    unit, whole, blank = form
    for x in range(out.size):
        rest = np.float64(rests[x])
        below, above = np.float64(lower[x]), np.float64(upper[x])
        between = rests[x] != 0  # else the upper may be an infinity that stands for no NDVI
        number = (100.0 - rest) * below + rest * above if between else below
        value = (
            number / (100.0 * unit if between else unit) + 0.0
        )  # −0.0 becomes 0.0, or the layers' order would show
        value = np.rint(value) if whole else value
        out[x] = value if seen[x] != 0 else blank


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _mean(layers, fill, total, form, out, count):
    n, size = layers.shape
    for start in range(0, size, SPAN):
        stop = min(start + SPAN, size)
        sums, seen = total[: stop - start], count[start:stop]
        sums[:] = 0
        seen[:] = 0
        for i in range(0, n - 3, 4):
            _add_four(_four(layers, i, start, stop), fill, sums, seen)
        for i in range(n - n % 4, n):
            _add(layers[i, start:stop], fill, sums, seen)
        _encode(sums, seen, seen, form, out[start:stop])


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _extreme(layers, largest, fill, best, where, count):
    n, size = layers.shape
    for start in range(0, size, SPAN):
        stop = min(start + SPAN, size)
        kept, at, seen = best[start:stop], where[start:stop], count[start:stop]
        kept[:] = fill
        at[:] = -1
        seen[:] = 0
        for i in range(0, n - 3, 4):
            _keep_four(_four(layers, i, start, stop), i, largest, fill, kept, at, seen)
        for i in range(n - n % 4, n):
            _keep(layers[i, start:stop], i, largest, fill, kept, at, seen)


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _count_valid(layers, fill, count):
    n, size = layers.shape
    for start in range(0, size, SPAN):
        stop = min(start + SPAN, size)
        seen = count[start:stop]
        seen[:] = 0
        for i in range(n):
            _count(layers[i, start:stop], fill, seen)


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _four(layers, i, start, stop):
    # Each cut by itself: rows of layers[:, start:stop] would not be known to be contiguous.
    return layers[i, start:stop], layers[i + 1, start:stop], layers[i + 2, start:stop], layers[i + 3, start:stop]


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _is_valid(value, fill):
    return (value == value) & (value != fill)  # noqa: PLR0124 - a NaN is not


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _one_more(value, fill, seen):
    return np.uint16(seen + np.uint16(_is_valid(value, fill)))


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _plus(total, value, fill):
    # Numba widens what it adds; LLVM narrows it again where the result is cut at once.
    added = value if _is_valid(value, fill) else type(value)(0)
    return type(total)(total + type(total)(added))


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _better(best, layer, value, largest, fill):
    kept, at = best
    beats = value > kept if largest else value < kept
    taken = _is_valid(value, fill) & (beats | (at < 0))
    return value if taken else kept, np.int16(layer) if taken else at


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _add(values, fill, total, count):
    for x in range(values.size):
        total[x] = _plus(total[x], values[x], fill)
        count[x] = _one_more(values[x], fill, count[x])


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _add_four(layers, fill, total, count):
    # Four layers for one pass over the sums: twice as fast.
    one, two, three, four = layers
    for x in range(total.size):
        a, b, c, d = one[x], two[x], three[x], four[x]
        total[x] = _plus(_plus(_plus(_plus(total[x], a, fill), b, fill), c, fill), d, fill)
        count[x] = _one_more(d, fill, _one_more(c, fill, _one_more(b, fill, _one_more(a, fill, count[x]))))


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _keep(values, index, largest, fill, best, where, count):
    for x in range(values.size):
        best[x], where[x] = _better((best[x], where[x]), index, values[x], largest, fill)
        count[x] = _one_more(values[x], fill, count[x])


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _keep_four(layers, index, largest, fill, best, where, count):
    one, two, three, four = layers
    for x in range(best.size):
        a, b, c, d = one[x], two[x], three[x], four[x]
        kept = _better((best[x], where[x]), index, a, largest, fill)
        kept = _better(kept, index + 1, b, largest, fill)
        kept = _better(kept, index + 2, c, largest, fill)
        best[x], where[x] = _better(kept, index + 3, d, largest, fill)
        count[x] = _one_more(d, fill, _one_more(c, fill, _one_more(b, fill, _one_more(a, fill, count[x]))))


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _count(values, fill, count):
    for x in range(values.size):
        count[x] = _one_more(values[x], fill, count[x])


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _encode(number, parts, seen, form, out):
    # The quotient of two integers below 2**31 and 2**16 is a half or further from it than a double's rounding.
    unit, whole, blank = form
    for x in range(out.size):
        share = unit if parts is None else np.float64(parts[x]) * unit
        value = np.float64(number[x]) / share
        value = np.rint(value) if whole else value
        out[x] = value if seen[x] != 0 else blank
