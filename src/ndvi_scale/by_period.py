"""Composites over time of a person's own arrays: what a plan with a period makes, on any xarray with a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from ndvi_scale.composite import fill_of, reduced_stack
from ndvi_scale.errors import ConfigError
from ndvi_scale.kernels import FILL_CODE
from ndvi_scale.periods import parse_period, period_index, periods_of
from ndvi_scale.reducers import has_date, parse_reducer

if TYPE_CHECKING:
    import datetime as dt

    from numpy.typing import NDArray

    from ndvi_scale.periods import Period


def composite_by_period(ndvi: xr.DataArray, period: str = "month", reducer: str = "median") -> xr.Dataset:
    """One layer a period of NDVI, or of anything else that is NaN where it is masked.

    `ndvi`: dimensions ``time`` (datetime64, each step one observation, in any order) and two more; float32 or
    float64 with NaN, or int16 codes with −32768. Returns a dataset of the same dtype and chunks in space: the name
    of the array, ``ndvi`` if it has none; ``observations`` (uint16, steps with data; alone with the reducer
    ``count``); with max and min ``date`` (datetime64, NaT without data), the first day that has the value. ``time``
    is the first day of each period, ``time_bnds`` the first and the one after the last; periods without a step are
    there, empty. Codes are rounded half to even; floats are computed in double and rounded once.

    `period`: month, dekad (days 1-10, 11-20, 21 to the month's end), season, year, all, or such as 16d (counted
    from the first day). `reducer`: median, mean, max, min, count, or a percentile such as p90. Lazy where the array
    is dask-backed: the steps of a period become one chunk, and one task a chunk of the result is added.
    Raises ConfigError.
    """
    _check(ndvi)
    period, reducer = parse_period(period), parse_reducer(reducer)
    days = ndvi["time"].values.astype("datetime64[D]")
    nothing = xr.full_like(ndvi.isel(time=[0]), fill_of(ndvi.dtype.name))
    order = np.argsort(ndvi["time"].values, kind="stable")
    periods = periods_of(days.astype(object).tolist(), period)
    steps: list[list[int]] = [[] for _ in periods]
    for step in order.tolist():
        steps[period_index(periods, days[step].item())].append(step)
    layers = [
        _layer(ndvi.isel(time=chosen) if chosen else nothing, days[chosen or [0]], reducer) for chosen in steps
    ]
    result = xr.concat(layers, xr.DataArray(_as_times([p.start for p in periods]), dims="time", name="time"))
    result["time"].attrs.update(ndvi["time"].attrs)
    return result.assign_coords(time_bnds=(("time", "bnds"), _bounds(periods)))


def _check(ndvi: xr.DataArray) -> None:
    if not isinstance(ndvi, xr.DataArray):
        raise ConfigError(f"composite_by_period takes a DataArray, not a {type(ndvi).__name__}: give one variable")
    if ndvi.dims[:1] != ("time",) or ndvi.ndim != 3:  # noqa: PLR2004 - time and two of space
        raise ConfigError(
            f"{ndvi.name or 'the array'} has dimensions {ndvi.dims}: composites need time and two more, in this "
            "order; transpose it"
        )
    if ndvi.sizes["time"] == 0:
        raise ConfigError(f"{ndvi.name or 'the array'} has no time step: there is nothing to make a composite of")
    if ndvi["time"].dtype.kind != "M":
        raise ConfigError(f"time is {ndvi['time'].dtype}: decode it to datetime64 first (xarray.decode_cf)")
    if np.isnat(ndvi["time"].values).any():
        raise ConfigError("time has steps without a date (NaT): drop them first")
    if ndvi.dtype not in (np.int16, np.float32, np.float64):
        raise ConfigError(
            f"{ndvi.name or 'the array'} is {ndvi.dtype}: give float32 or float64 with NaN, or int16 codes "
            f"with {FILL_CODE}"
        )


def _layer(steps: xr.DataArray, days: NDArray[np.datetime64], reducer: str) -> xr.Dataset:
    """One period, without a time."""
    names = [] if reducer == "count" else [str(steps.name or "ndvi")]
    names += ["observations"] + (["date"] if has_date(reducer) else [])
    dtypes = {"observations": np.dtype(np.uint16), "date": np.dtype("datetime64[ns]")}
    found = xr.apply_ufunc(
        _reduced,
        steps.chunk(time=-1) if steps.chunks is not None else steps,
        input_core_dims=[["time"]],
        output_core_dims=[[] for _ in names],
        kwargs={"days": days.astype("datetime64[ns]"), "reducer": reducer},
        dask="parallelized",
        output_dtypes=[dtypes.get(name, steps.dtype) for name in names],
    )
    arrays = dict(zip(names, found if len(names) > 1 else (found,), strict=True))
    for name, array in arrays.items():
        array.attrs = {} if name in dtypes else dict(steps.attrs)
    return xr.Dataset(arrays).drop_vars("time", errors="ignore")


def _reduced(stack: NDArray[Any], *, days: NDArray[np.datetime64], reducer: str) -> Any:
    """Arrays (y, x) of the variables, from steps (y, x, time), as xarray hands them over."""
    values, count, where = reduced_stack(np.ascontiguousarray(np.moveaxis(stack, -1, 0)), reducer)
    found: list[NDArray[Any]] = [count] if values is None else [values, count]
    if where is not None:
        found.append(np.append(days, np.datetime64("NaT", "ns"))[where])
    return tuple(found) if len(found) > 1 else found[0]


def _bounds(periods: tuple[Period, ...]) -> NDArray[np.datetime64]:
    return _as_times([day for period in periods for day in (period.start, period.end)]).reshape(-1, 2)


def _as_times(days: list[dt.date]) -> NDArray[np.datetime64]:
    return np.array(days, "datetime64[ns]")
