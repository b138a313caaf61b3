"""Layers from granules: the mosaic of one solar day, and what the days of a period become. Plain arrays; no I/O.

Days of a period are reduced as codes, whatever the output's dtype: their sums, ranks and means are then exact, and
only the last step rounds (``docs/composites.md``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import numpy as np

from ndvi_scale.kernels import CODE_SCALE, FILL_CODE, reduce
from ndvi_scale.kernels.resample import repeated
from ndvi_scale.periods import days_since_epoch
from ndvi_scale.reducers import has_date, percent_of
from ndvi_scale.sentinel2 import NO_DATA

if TYPE_CHECKING:
    import datetime as dt

    from numpy.typing import NDArray

    from ndvi_scale.config import RunConfig
    from ndvi_scale.lattice import Window

NO_DATE: Final = -2_147_483_647
"""The date of a pixel without NDVI: the fill value of netCDF's int."""


def empty_layer(shape: tuple[int, int], dtype: str) -> NDArray[Any]:
    """A layer in which no pixel is valid yet: `FILL_CODE` for int16, NaN for float32."""
    return np.full(shape, fill_of(dtype), dtype)


def fill_of(dtype: str) -> int | float:
    """What a pixel without NDVI holds: `FILL_CODE` in int16, NaN in float32."""
    return FILL_CODE if dtype == "int16" else float("nan")


def is_fill(layer: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a layer has no NDVI."""
    return np.isnan(layer) if layer.dtype.kind == "f" else layer == FILL_CODE


@dataclass(frozen=True)
class Part:
    """What one granule shows of a region."""

    place: Window
    """Which pixels of the region it fills."""
    ndvi: NDArray[Any]
    """Codes or NDVI, shape (h, w) of the place."""
    scl: NDArray[np.uint8]
    """Classes, shape (h / f, w / f): each stands for f x f pixels."""
    valid: int
    """Its pixels with NDVI."""


@dataclass
class Mosaic:
    """One solar day of a region: NDVI, and of which classes its pixels are. Grows by `merged_into`."""

    layer: NDArray[Any]
    """Shape (y, x) of the region."""
    alone: Part | None
    """The only granule so far."""
    merged: NDArray[np.uint8] | None = None
    """Classes of the pixels, where there is more than one granule."""

    def classes(self) -> NDArray[np.uint8]:
        """Class of every pixel: of the granule that it has NDVI from, else of the first that sees it; 0 of none."""
        if self.merged is None:
            self.merged = np.zeros(self.layer.shape, np.uint8)
            if self.alone is not None:
                self.merged[self.alone.place.slices] = _spread(self.alone)
        return self.merged


def merged_into(mosaic: Mosaic | None, room: NDArray[Any], part: Part) -> Mosaic:
    """The mosaic (None at first; changed in place) with one more granule: first valid wins.

    `room`: array of the region's shape and of the part's dtype, for the first granule's NDVI, unless that is the
    array itself already.

    Called in (datetime, id) order. NDVI is computed a granule and merged after masking, so a cloud in one
    granule does not hide the other, and red and nir never come from two.
    """
    if mosaic is None:
        # The usual case, of one granule that holds it all, needs no second look at each pixel.
        if room is not part.ndvi:
            room[...] = fill_of(room.dtype.name)
            room[part.place.slices] = part.ndvi
        return Mosaic(room, part)
    classes, layer = mosaic.classes()[part.place.slices], mosaic.layer[part.place.slices]
    taken = is_fill(layer)
    np.copyto(layer, part.ndvi, where=taken)
    taken &= ~is_fill(part.ndvi)
    taken |= classes == NO_DATA
    np.copyto(classes, _spread(part), where=taken)
    mosaic.alone = None
    return mosaic


def _spread(part: Part) -> NDArray[np.uint8]:
    """Classes of a part, one a pixel."""
    return repeated(part.scl, part.ndvi.shape[0] // part.scl.shape[0])


# Days of a period


class Output(NamedTuple):
    """A variable of the output that regions fill."""

    name: str
    dtype: str
    fill: int | float
    """What a pixel without NDVI on any day holds, and what an object that is not there reads as."""


def outputs(config: RunConfig) -> tuple[Output, ...]:
    """The variables that `compute_region` makes, the main one first: ``ndvi``; ``observations``; ``date``.

    Observations are the days of a period with NDVI. Date is the first of the days whose NDVI is the maximum (or
    minimum), in days since 1970-01-01.
    """
    ndvi = Output("ndvi", config.dtype, fill_of(config.dtype))
    observations = Output("observations", "uint16", 0)
    if config.reducer is None:
        return (ndvi,)
    if config.reducer == "count":
        return (observations,)
    return ndvi, observations, *([Output("date", "int32", NO_DATE)] if has_date(config.reducer) else [])


def pixel_bytes(config: RunConfig) -> int:
    """Bytes of a pixel in all variables of the output."""
    return sum(np.dtype(output.dtype).itemsize for output in outputs(config))


class Reduction(Protocol):
    """The days of one region's layer, taken in one after the other, become its variables."""

    @property
    def room(self) -> NDArray[Any]:
        """An array (y, x) to compute the next day in, of codes (or of NDVI, where one day is all)."""
        ...

    def add(self, day: dt.date) -> None:
        """Take in the solar day that is in `room`, in ascending order, each once."""
        ...

    def result(self) -> dict[str, NDArray[Any]]:
        """Variable → array (y, x). To be called once, last."""
        ...


def start_reduction(reducer: str | None, shape: tuple[int, int], dtype: str, days: int) -> Reduction:
    """What takes in at most `days` days of a layer of that shape, for an output of that dtype.

    No reducer: the one day as it is.
    """
    if reducer is None:
        return _OneDay(shape, dtype)
    if reducer == "count":
        return _Count(shape)
    if reducer == "mean":
        return _Mean(shape, dtype)
    percent = percent_of(reducer)
    if percent is None:
        return _Extreme(shape, dtype, largest=reducer == "max")
    return _Percentile((max(days, 1), *shape), dtype, percent)


def reduction_bytes(config: RunConfig, days: int) -> int:
    """Bytes a pixel that a reduction of so many days holds at most, its results included."""
    if config.reducer in {None, "count"}:
        return 0 if config.reducer is None else pixel_bytes(config)  # the day itself is counted where it is read
    if config.reducer == "mean":
        return pixel_bytes(config) + 4
    if has_date(config.reducer):
        return pixel_bytes(config) + 2 + 2  # the best code, and its place among the days
    return pixel_bytes(config) + 2 * days


def reduced_stack(
    stack: NDArray[Any], reducer: str
) -> tuple[NDArray[Any] | None, NDArray[np.uint16], NDArray[np.int16] | None]:
    """Layers (time, y, x), codes or floats with NaN, reduced at once.

    Returns values (y, x) of the same dtype, None of a count; how many layers have data; and for max and min the
    index of the first layer that has the value, -1 of none.
    """
    shape = stack.shape[1:]
    values, count = empty_layer(shape, stack.dtype.name), np.zeros(shape, np.uint16)
    where = np.full(shape, -1, np.int16) if has_date(reducer) else None
    percent = percent_of(reducer)
    if percent is not None:
        reduce.percentile(stack, percent, values, count)
    elif where is not None:
        reduce.extreme(stack, reducer == "max", values, where, count)
    elif reducer == "mean":
        reduce.mean(stack, values, count)
    else:
        reduce.count_valid(stack, count)
    return (None if reducer == "count" else values), count, where


class _OneDay:
    """The solar day itself: what a plan without periods makes."""

    def __init__(self, shape: tuple[int, int], dtype: str) -> None:
        self.room, self._dtype, self._days = np.empty(shape, dtype), dtype, 0

    def add(self, day: dt.date) -> None:
        """See `Reduction`."""
        if self._days:
            raise ValueError(f"{day} is the second day of a layer of one")
        self._days += 1

    def result(self) -> dict[str, NDArray[Any]]:
        """See `Reduction`."""
        return {"ndvi": self.room if self._days else empty_layer(self.room.shape, self._dtype)}


class _Count:
    """How many days have NDVI."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.room, self._count = np.empty(shape, np.int16), np.zeros(shape, np.uint16)

    def add(self, day: dt.date) -> None:  # noqa: ARG002 - of the protocol
        """See `Reduction`."""
        reduce.add_to_count(self.room, self._count)

    def result(self) -> dict[str, NDArray[Any]]:
        """See `Reduction`."""
        return {"observations": self._count}


class _Mean:
    """A sum and a count are all that a mean needs to hold."""

    def __init__(self, shape: tuple[int, int], dtype: str) -> None:
        self.room, self._total = np.empty(shape, np.int16), np.zeros(shape, np.int32)
        self._count, self._dtype = np.zeros(shape, np.uint16), dtype

    def add(self, day: dt.date) -> None:  # noqa: ARG002 - of the protocol
        """See `Reduction`."""
        reduce.add_to_sum(self.room, self._total, self._count)

    def result(self) -> dict[str, NDArray[Any]]:
        """See `Reduction`."""
        out = np.empty(self._count.shape, self._dtype)
        reduce.mean_of_sum(self._total, self._count, out)
        return {"ndvi": out, "observations": self._count}


class _Extreme:
    """The largest or smallest code of each pixel, and the first day that has it."""

    def __init__(self, shape: tuple[int, int], dtype: str, *, largest: bool) -> None:
        self.room, self._best = np.empty(shape, np.int16), empty_layer(shape, "int16")
        self._where, self._count = np.full(shape, -1, np.int16), np.zeros(shape, np.uint16)
        self._dtype, self._largest = dtype, largest
        self._days: list[int] = []

    def add(self, day: dt.date) -> None:
        """See `Reduction`."""
        found = self._best, self._where, self._count
        reduce.keep_extreme(self.room, len(self._days), self._largest, *found)
        self._days.append(days_since_epoch(day))

    def result(self) -> dict[str, NDArray[Any]]:
        """See `Reduction`."""
        dates = np.array([*self._days, NO_DATE], np.int32)[self._where]  # -1, where none is, is the last
        best = self._best if self._dtype == "int16" else decoded(self._best)
        return {"ndvi": best, "observations": self._count, "date": dates}


class _Percentile:
    """Percentiles need every day at once: they are held as codes, two bytes each."""

    def __init__(self, shape: tuple[int, int, int], dtype: str, percent: int) -> None:
        self._stack = np.empty(shape, np.int16)
        self._dtype, self._percent, self._held = dtype, percent, 0

    @property
    def room(self) -> NDArray[Any]:
        """See `Reduction`."""
        return self._stack[self._held]

    def add(self, day: dt.date) -> None:  # noqa: ARG002 - of the protocol
        """See `Reduction`."""
        self._held += 1

    def result(self) -> dict[str, NDArray[Any]]:
        """See `Reduction`."""
        shape = self._stack.shape[1:]
        out, count = empty_layer(shape, self._dtype), np.zeros(shape, np.uint16)
        if self._held:
            reduce.percentile(self._stack[: self._held], self._percent, out, count)
        return {"ndvi": out, "observations": count}


def decoded(values: NDArray[Any]) -> NDArray[np.float32]:
    """Codes, or DN + offset, as float32 with NaN; floats as they are."""
    if values.dtype.kind == "f":
        return values
    return np.where(values == FILL_CODE, np.nan, values / CODE_SCALE).astype(np.float32)
