"""Composites of a person's own arrays: against numpy, xarray and flox, and against the plan's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rioxarray
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import ndvi_scale.accessor
from ndvi_scale import composite_by_period, open_cube, open_ndvi
from ndvi_scale.errors import ConfigError
from runs import plan_of

if TYPE_CHECKING:
    from ndvi_scale.sandbox import Sandbox

assert ndvi_scale.accessor  # registers `.s2`
assert rioxarray  # and `.rio`

FREQUENCIES = {"month": "MS", "year": "YS", "season": "QS-DEC"}


def made_up(
    days: list[int], dtype: Any = np.float32, seed: int = 0, shape: tuple[int, int] = (7, 9)
) -> xr.DataArray:
    """NDVI-like steps at days after 2021-01-01, a third of it missing."""
    draw = np.random.default_rng(seed)
    codes = draw.integers(-10_000, 10_001, (len(days), *shape))
    values = (codes / 10_000).astype(dtype) if np.dtype(dtype).kind == "f" else codes.astype(np.int16)
    values[draw.random(values.shape) < 0.3] = np.nan if values.dtype.kind == "f" else -32768
    time = np.datetime64("2021-01-01", "ns") + np.array(days) * np.timedelta64(1, "D")
    return xr.DataArray(values, dims=("time", "y", "x"), coords={"time": time}, name="ndvi", attrs={"units": "1"})


def by_xarray(ndvi: xr.DataArray, period: str, reducer: str) -> xr.DataArray:
    """What xarray's own resampling makes of it, in double."""
    with xr.set_options(use_flox=False, use_numbagg=False, use_bottleneck=False):
        groups = ndvi.sortby("time").astype(np.float64).resample(time=FREQUENCIES[period])
        if reducer.startswith("p"):
            return groups.quantile(int(reducer[1:]) / 100, skipna=True).drop_vars("quantile")
        if reducer == "count":
            return groups.count()
        return getattr(groups, reducer)(skipna=True)


@pytest.mark.slow
@pytest.mark.parametrize("reducer", ["median", "mean", "max", "min", "p20", "count"])
@pytest.mark.parametrize("period", FREQUENCIES)
@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")
def test_equals_xarray(period: str, reducer: str) -> None:
    ndvi = made_up([3, 400, 5, 17, 40, 41, 90, 91, 92, 93, 250, 330, 28, 399])
    theirs = by_xarray(ndvi, period, reducer)
    ours = composite_by_period(ndvi, period, reducer)
    assert list(ours["time"].values) == list(theirs["time"].values)
    found = ours["observations"] if reducer == "count" else ours["ndvi"]
    expected = theirs.fillna(0) if reducer == "count" else theirs
    np.testing.assert_allclose(found.values, expected.transpose("time", "y", "x").values, rtol=0, atol=1e-7)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The 'generic' unit for NumPy timedelta:DeprecationWarning:flox")
@pytest.mark.parametrize("method", ["mean", "max", "count"])
def test_equals_flox(method: str) -> None:
    flox = pytest.importorskip("flox.xarray", reason="no flox: uv sync has it")
    ndvi = made_up([1, 2, 3, 33, 34, 35, 60, 61])
    months = ndvi["time"].dt.month
    theirs = flox.xarray_reduce(
        ndvi.astype(np.float64), months, func=f"nan{method}" if method != "count" else method
    )
    ours = composite_by_period(ndvi, "month", method)
    found = ours["observations" if method == "count" else "ndvi"].values
    np.testing.assert_allclose(found, theirs.transpose("month", "y", "x").values, rtol=0, atol=1e-7)


@pytest.mark.slow
@settings(max_examples=40)
@given(
    days=st.lists(st.integers(0, 800), min_size=1, max_size=30),
    period=st.sampled_from(["month", "dekad", "season", "year", "all", "16d"]),
    reducer=st.sampled_from(["median", "mean", "max", "min", "p05", "count"]),
    dtype=st.sampled_from([np.int16, np.float32]),
    chunks=st.sampled_from([{"time": 1, "y": 3, "x": 4}, {"time": 5, "y": 7, "x": 9}]),
)
def test_lazy_equals_eager(days: list[int], period: str, reducer: str, dtype: Any, chunks: dict[str, int]) -> None:
    ndvi = made_up(days, dtype)
    eager, lazy = (
        composite_by_period(ndvi, period, reducer),
        composite_by_period(ndvi.chunk(chunks), period, reducer),
    )
    assert all(array.chunks is not None for array in lazy.data_vars.values())
    assert {name: array.dtype for name, array in lazy.items()} == {n: a.dtype for n, a in eager.items()}
    xr.testing.assert_identical(lazy.compute(), eager)


def test_order_and_hours_of_steps_do_not_matter() -> None:
    ndvi = made_up([9, 3, 40, 31, 12])
    shifted = ndvi.assign_coords(time=ndvi["time"] + np.timedelta64(11, "h"))
    one, other = composite_by_period(ndvi, "month", "max"), composite_by_period(shifted[::-1], "month", "max")
    xr.testing.assert_equal(one, other)


def test_codes_stay_codes_and_halves_go_to_even() -> None:
    pair = xr.DataArray(
        np.array([[[1, 2, -3, -32768]], [[2, 3, -2, -32768]]], np.int16),
        dims=("time", "y", "x"),
        coords={"time": np.array(["2021-01-01", "2021-01-02"], "datetime64[ns]")},
    )
    for reducer in ("median", "mean"):
        made = composite_by_period(pair, "month", reducer)
        assert made["ndvi"].dtype == np.int16
        assert made["ndvi"].values.tolist() == [[[2, 2, -2, -32768]]]
        assert made["observations"].values.tolist() == [[[2, 2, 2, 0]]]


@pytest.mark.slow
def test_is_what_a_plan_with_a_period_makes(sandbox: Sandbox) -> None:
    """Maximum and count of the lazy days, grouped here, are those of the plan; the median to half a code."""
    daily = open_ndvi(plan_of(sandbox))
    for reducer in ("max", "count", "median"):
        ours = composite_by_period(daily, "month", reducer).compute()
        plans = open_cube(plan_of(sandbox, period="month", reducer=reducer)).compute()
        assert set(ours) == set(plans)
        np.testing.assert_array_equal(ours["time"].values, plans["time"].values)
        np.testing.assert_array_equal(ours["time_bnds"].values, plans["time_bnds"].values)
        for name in ours:
            if reducer == "median" and name == "ndvi":
                np.testing.assert_allclose(ours[name].values, plans[name].values, atol=5.1e-5)
            else:
                np.testing.assert_array_equal(ours[name].values, plans[name].values)
        assert ours.rio.crs == plans.rio.crs


def test_the_accessor_forwards() -> None:
    ndvi = made_up([1, 40])
    xr.testing.assert_identical(
        ndvi.to_dataset(name="ndvi").s2.composite(period="month", reducer="mean"),
        composite_by_period(ndvi, "month", "mean"),
    )


def test_a_name_and_other_dimensions_are_kept() -> None:
    evi = made_up([1, 2]).rename("evi")
    evi = evi.rename({"y": "latitude", "x": "longitude"})
    made = composite_by_period(evi, "all", "mean")
    assert made["evi"].dims == ("time", "latitude", "longitude")
    assert made["evi"].attrs == {"units": "1"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (made_up([1]).to_dataset(), ["Dataset", "one variable"]),
        (made_up([1]).transpose("y", "x", "time"), ["dimensions", "transpose"]),
        (made_up([1], np.int16).astype(np.int32), ["int32", "int16"]),
        (made_up([1]).assign_coords(time=[5]), ["int64", "datetime64"]),
        (made_up([1]).isel(time=slice(0)), ["no time step"]),
        (made_up([1]).assign_coords(time=[np.datetime64("NaT", "ns")]), ["NaT"]),
    ],
    ids=["dataset", "order", "dtype", "time", "empty", "NaT"],
)
def test_what_cannot_be_reduced_is_refused(given: Any, words: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        composite_by_period(given)
    for word in words:
        assert word in str(refused.value)


def test_wrong_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="fortnight"):
        composite_by_period(made_up([1]), "fortnight")
    with pytest.raises(ConfigError, match="mode"):
        composite_by_period(made_up([1]), "month", "mode")
