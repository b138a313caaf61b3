"""Composites of the sandbox, from its catalog to the stored cube, against numpy over its known NDVI."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio
import zarr

from ndvi_scale import build_plan, open_store, run_batch, search_items, thread_pool
from ndvi_scale.config import make_config
from ndvi_scale.kernels import FILL_CODE

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from ndvi_scale.plan import Plan
    from ndvi_scale.sandbox import Sandbox

NUMPY = {
    "median": np.median,
    "mean": np.mean,
    "max": np.max,
    "min": np.min,
    "p25": lambda values, axis: np.percentile(values, 25, axis),
    "count": None,
}
MONTHS = {"month": [(4,), (5,)], "all": [(4, 5)]}


def test_a_plan_with_a_period_covers_all_dates(sandbox: Sandbox) -> None:
    plan = plan_of(sandbox, period="month")
    assert [layer.start.isoformat() for layer in plan.layers] == ["2021-04-01", "2021-05-01"]


@pytest.mark.parametrize("reducer", NUMPY)
@pytest.mark.parametrize("period", MONTHS)
def test_the_stored_composite_is_that_of_the_truth_code_for_code(
    sandbox: Sandbox, tmp_path: Path, period: str, reducer: str
) -> None:
    plan = plan_of(sandbox, period=period, reducer=reducer)
    store = open_store(tmp_path / "ndvi.zarr")
    with thread_pool(2) as submit:
        report = run_batch(plan, store, submit, in_flight=2)
    assert not report.failed
    stored = zarr.open_group(store.zarr(read_only=True), mode="r")
    known = known_ndvi(sandbox, plan_of(sandbox))
    assert stored["observations"].shape[0] == len(MONTHS[period])
    for layer, months in enumerate(MONTHS[period]):
        stack = np.stack([codes for day, codes in known.items() if day.month in months])
        observations = np.isfinite(stack).sum(axis=0)
        assert (observations > 0).mean() > 0.5
        np.testing.assert_array_equal(stored["observations"][layer], observations)
        if reducer != "count":
            np.testing.assert_array_equal(stored["ndvi"][layer], reduced(stack, observations, NUMPY[reducer]))


def reduced(stack: NDArray[np.float64], observations: NDArray[np.int64], function: Any) -> NDArray[np.int16]:
    """By numpy, over the pixels that have as many observations at a time."""
    codes = np.full(observations.shape, FILL_CODE, np.int16)
    first = np.sort(stack, axis=0)  # NaN last
    for number in range(1, len(stack) + 1):
        here = observations == number
        codes[here] = np.rint(function(first[:number, here], axis=0))
    return codes


def plan_of(sandbox: Sandbox, **settings: Any) -> Plan:
    """The whole rectangle around the sandbox's region."""
    items = search_items(sandbox.catalog)
    return build_plan(items, make_config({"bbox": sandbox.bbox, "clip": False, "chunk": 64, **settings}))


def known_ndvi(sandbox: Sandbox, plan: Plan) -> dict[Any, NDArray[np.float64]]:
    """Codes of each day where its granules show the ground, else NaN."""
    known = {}
    for day in plan.days:
        truth, valid = (read(sandbox.truth / f"{name}_{day:%Y%m%d}.tif", plan) for name in ("ndvi", "valid"))
        known[day] = np.where((valid == 1) & (truth != FILL_CODE), truth, np.nan)
    return known


def read(path: Path, plan: Plan) -> NDArray[Any]:
    """A raster on the plan's grid, whose objects reach beyond it: 0 there."""
    grid = plan.lattice.geobox
    with rasterio.open(path) as source:
        values, corner = source.read(1), (source.transform.f, source.transform.c)
    row, column = round((corner[0] - grid.affine.f) / -10), round((corner[1] - grid.affine.c) / 10)
    height, width = grid.shape
    around = np.pad(values, ((max(row, 0), height), (max(column, 0), width)))
    top, left = max(-row, 0), max(-column, 0)
    return around[top : top + height, left : left + width]
