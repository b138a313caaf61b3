"""Composites: the law (batch == lazy == oracle) with every reducer, their variables, and what is refused."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import composite_oracle
import oracle
from ndvi_scale import (
    RunConfig,
    build_plan,
    build_plans,
    load_bands,
    load_plan,
    open_cube,
    open_ndvi,
    open_store,
    parse_bbox,
    search_items,
)
from ndvi_scale.composite import outputs, start_reduction
from ndvi_scale.errors import ConfigError
from ndvi_scale.sandbox import make_sandbox
from ndvi_scale.write import object_names, read_attributes, store_digest
from runs import finished_store, plan_of, run
from test_law import COARSER, FILL, NATIVE, WARPED, area_of, boxes, grid_of, rules_of

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence

    import pystac

    from ndvi_scale.plan import Plan
    from ndvi_scale.sandbox import Sandbox

REDUCERS = ("median", "mean", "max", "min", "p10", "p75", "count")


@pytest.fixture(scope="module")
def season(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """Sixteen dates of 2021, two or three a month."""
    return make_sandbox(tmp_path_factory.mktemp("season") / "sandbox", size=128, dates=16)


def truth_of(plan: Plan, items: Sequence[pystac.Item]) -> dict[str, np.ndarray]:
    """Every variable of a plan's cube, from the whole-cube oracle of its days."""
    config, grid = plan.config, grid_of(plan)
    days = sorted({oracle._solar_day(item, grid) for item in items})
    cube = oracle.cube(items, grid, days, area_of(plan), rules_of(plan))
    layers = []
    for period in plan.layers:
        chosen = [place for place, day in enumerate(days) if period.start <= day < period.end]
        layers.append(layer_of(cube[chosen], [days[place] for place in chosen], config))
    return {name: np.stack([layer[name] for layer in layers]) for name in layers[0]}


def layer_of(codes: np.ndarray, days: Sequence[dt.date], config: RunConfig) -> dict[str, np.ndarray]:
    reducer = str(config.reducer)
    if reducer == "count":
        return {"observations": (codes != FILL).sum(axis=0)}
    ndvi, count = composite_oracle.reduced(codes, reducer, config.dtype)
    layer = {"ndvi": ndvi, "observations": count}
    return layer | (
        {"date": composite_oracle.first_days(codes, days, reducer)} if reducer in {"max", "min"} else {}
    )


def stored(plan: Plan, url: Path, workers: int = 2) -> dict[str, np.ndarray]:
    """Every variable that a run writes, as it is stored."""
    store = open_store(str(url))
    assert not run(plan, store, workers).failed
    group = zarr.open_group(store.zarr(read_only=True), mode="r")
    return {output.name: np.asarray(group[output.name]) for output in outputs(plan.config)}


def encoded(cube: xr.Dataset, dtype: str) -> dict[str, np.ndarray]:
    """The lazy way's variables as they would be stored."""
    found = {name: cube[name].values for name in cube}
    if "ndvi" in found and dtype == "int16":
        codes = np.rint(found["ndvi"].astype(np.float64) * 10_000)
        found["ndvi"] = np.where(np.isnan(codes), FILL, codes).astype(np.int16)
    if "date" in found:
        days = found["date"].astype("datetime64[D]")
        found["date"] = np.where(np.isnat(days), composite_oracle.NO_DATE, days.astype(int))
    return found


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert set(one) == set(other)
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("grids", [NATIVE, COARSER[:1] + WARPED[:1]], ids=["native", "other"])
def test_the_law_with_periods(season: Sandbox, grids: list[dict[str, Any]]) -> None:
    found = search_items(season.items)

    @settings(
        max_examples=8,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(data=st.data())
    def law(data: st.DataObject) -> None:
        config = RunConfig(
            aoi=parse_bbox(data.draw(boxes(season.bbox))),
            chunk=2 * data.draw(st.integers(16, 80)),
            mask=data.draw(st.sampled_from([(0, 1, 3, 8, 9, 10), (0, 3, 8, 9), (0, 1, 2, 3, 6, 7, 8, 9, 10, 11)])),
            mask_filters=data.draw(st.sampled_from([(), (), ("opening:1", "dilation:3"), ("closing:2",)])),
            clip=data.draw(st.booleans()),
            out_of_range=data.draw(st.sampled_from(["mask", "clip"])),
            period=data.draw(st.sampled_from(["month", "dekad", "season", "year", "all", "40d"])),
            reducer=data.draw(st.sampled_from(REDUCERS)),
            dtype=data.draw(st.sampled_from(["int16", "int16", "float32"])),
            **data.draw(st.sampled_from(grids)),
        )
        plan = build_plan(data.draw(st.permutations(found)), config)
        truth = truth_of(plan, found)
        with tempfile.TemporaryDirectory() as folder:
            assert_same(stored(plan, Path(folder) / "ndvi.zarr", data.draw(st.integers(1, 3))), truth)
        assert_same(encoded(open_cube(plan), config.dtype), truth)

    law()


@pytest.mark.parametrize(
    "reducer", [r if r in {"median", "max"} else pytest.param(r, marks=pytest.mark.slow) for r in REDUCERS]
)
def test_the_law_of_each_reducer(season: Sandbox, tmp_path: Path, reducer: str) -> None:
    items = search_items(season.items)
    plan = plan_of(season, period="month", reducer=reducer, chunk=96)
    assert plan.most_days > 1
    truth = truth_of(plan, items)
    assert (truth["observations"] == plan.most_days).any()
    assert (truth["observations"] == 0).any()
    assert_same(stored(plan, tmp_path / "ndvi.zarr"), truth)
    assert_same(encoded(open_cube(plan), "int16"), truth)
    if reducer != "count":
        floats = open_ndvi(plan)
        np.testing.assert_array_equal(floats.values, open_cube(plan)["ndvi"].values)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"zarr_format": 2}, {"chunk": 128, "shard": 256}], ids=["zarr 2", "shards"])
def test_stored_otherwise_it_is_the_same(season: Sandbox, tmp_path: Path, settings: dict[str, Any]) -> None:
    items = search_items(season.items)
    plan = plan_of(season, period="season", reducer="max", **settings)
    assert_same(stored(plan, tmp_path / "ndvi.zarr"), truth_of(plan, items))
    with xr.open_zarr(tmp_path / "ndvi.zarr") as cube:
        assert_same(encoded(cube, "int16"), truth_of(plan, items))
        assert cube["observations"].dtype == np.uint16


def test_what_xarray_opens_is_the_lazy_cube(season: Sandbox, tmp_path: Path) -> None:
    plan, store = finished_store(season, tmp_path, period="month", reducer="max")
    with xr.open_zarr(store.url) as opened:
        cube = open_cube(plan)
        xr.testing.assert_equal(cube.drop_vars("ndvi"), opened.drop_vars("ndvi"))
        xr.testing.assert_allclose(cube["ndvi"], opened["ndvi"], rtol=1e-6)  # codes times 0.0001, in double there
        assert opened["ndvi"].attrs["cell_methods"] == "time: maximum"
        assert opened["ndvi"].attrs["ancillary_variables"] == "observations date"
        assert opened["observations"].attrs["standard_name"] == "number_of_observations"
        assert opened.attrs["title"] == cube.attrs["title"] == "Sentinel-2 NDVI, maximum of each month"
        bounds = opened["time_bnds"].values.astype("datetime64[D]").astype(object)
        assert [tuple(pair) for pair in bounds] == [(layer.start, layer.end) for layer in plan.layers]
        # the day that the maximum is of lies in the period, wherever there is one
        days = opened["date"].values
        inside = (days >= opened["time_bnds"].values[:, :1, None]) & (
            days < opened["time_bnds"].values[:, 1:, None]
        )
        np.testing.assert_array_equal(inside, np.isfinite(opened["ndvi"].values))


def test_the_date_is_that_of_the_day_that_has_the_maximum(season: Sandbox) -> None:
    """Looked up in the daily cube, the maximum of a month is the NDVI of its date."""
    cube = open_cube(plan_of(season, period="month", reducer="max")).compute()
    daily = open_ndvi(plan_of(season)).compute()
    seen = cube["date"].notnull()
    found = daily.sel(time=cube["date"].where(seen, daily.time[0]))
    np.testing.assert_array_equal(found.values[seen.values], cube["ndvi"].values[seen.values])
    assert seen.sum() > 1000


def test_a_month_without_items_is_a_layer_without_data(season: Sandbox, tmp_path: Path) -> None:
    items = [item for item in search_items(season.items) if item.datetime.month != 6]
    config = RunConfig(crs="EPSG:32631", chunk=64, period="month", reducer="median")
    plan = build_plan(items, config)
    months = [layer.start.month for layer in plan.layers]
    assert 6 in months
    assert months == list(range(months[0], months[-1] + 1))
    empty = months.index(6)
    assert not any(region.layer == empty for region in plan.regions())
    found = stored(plan, tmp_path / "ndvi.zarr")
    assert (found["ndvi"][empty] == FILL).all()
    assert (found["observations"][empty] == 0).all()
    assert (found["observations"] > 0).any()
    assert np.isnan(open_cube(plan)["ndvi"].values[empty]).all()


def test_asked_months_without_items_are_there_too(season: Sandbox) -> None:
    plan = plan_of(season, datetime="2021-03/2021-12", period="month")
    assert [layer.start.month for layer in plan.layers] == list(range(3, 13))


def test_all_masked_is_written_as_nothing_and_is_done(season: Sandbox, tmp_path: Path) -> None:
    plan, store = finished_store(season, tmp_path, period="all", reducer="max", mask=tuple(range(12)))
    assert not [name for name in store.data_names() if "/c/" in name and name.split("/")[0] in {"ndvi", "date"}]
    with xr.open_zarr(store.url) as cube:
        assert np.isnan(cube["ndvi"].values).all()
        assert np.isnat(cube["date"].values).all()
        assert not cube["observations"].values.any()
    again = run(plan, store)
    assert again.computed == 0


def test_a_lost_object_of_any_variable_is_made_again(season: Sandbox, tmp_path: Path) -> None:
    plan, store = finished_store(season, tmp_path, period="all", reducer="max")
    before, region = store_digest(store), next(iter(plan.regions()))
    names = object_names(plan, region)
    assert [name.split("/")[0] for name in names] == ["ndvi", "observations", "date"]
    for name in names:
        (Path(store.url) / name).unlink()
        assert run(plan, store).computed == 1
        assert store_digest(store) == before


@pytest.mark.slow
def test_chunks_and_workers_change_nothing(season: Sandbox, tmp_path: Path) -> None:
    one = stored(plan_of(season, period="month", reducer="p75", chunk=2048), tmp_path / "one.zarr", 1)
    two = stored(plan_of(season, period="month", reducer="p75", chunk=34), tmp_path / "two.zarr", 3)
    assert_same(one, two)


def test_the_frozen_plan_keeps_its_periods(season: Sandbox, tmp_path: Path) -> None:
    plan, store = finished_store(season, tmp_path, period="20d", reducer="mean")
    assert load_plan(store) == plan
    assert read_attributes(store)["status"] == "complete"


def test_median_is_the_fiftieth_percentile(season: Sandbox, tmp_path: Path) -> None:
    median = stored(plan_of(season, period="all", reducer="median"), tmp_path / "a.zarr")
    assert_same(median, stored(plan_of(season, period="all", reducer="p50"), tmp_path / "b.zarr"))


# Integers of each date


@pytest.mark.slow
def test_day_counts_are_those_of_the_bands(season: Sandbox, tmp_path: Path) -> None:
    """Against the merged bands, class by class, inside an AOI with slanting edges."""
    west, south, east, north = season.bbox
    ring = [[west, south], [east, south + 0.002], [east - 0.003, north], [west + 0.001, north], [west, south]]
    path = tmp_path / "aoi.geojson"
    path.write_text(__import__("json").dumps({"type": "Polygon", "coordinates": [ring]}))
    from ndvi_scale import read_aoi

    daily = plan_of(season, aoi=read_aoi(path))
    scl = load_bands(daily)["scl"].values
    ndvi = open_ndvi(daily).values
    report = run(daily, open_store(str(tmp_path / "daily.zarr")))
    monthly = run(
        plan_of(season, aoi=read_aoi(path), period="month", reducer="mean"),
        open_store(str(tmp_path / "monthly.zarr")),
    )
    assert list(report.days) == list(daily.days)
    assert report.days == monthly.days
    assert report.inside == monthly.inside
    for layer, counts in enumerate(report.days.values()):
        assert counts.valid == np.isfinite(ndvi[layer]).sum()
        assert counts.cloud >= np.isin(scl[layer], [8, 9, 10]).sum() > 0 or not counts.cloud
        assert counts.snow >= (scl[layer] == 11).sum()
        assert counts.observed >= (scl[layer] > 0).sum()
        # what has a class but no valid DN (saturated) is observed, and load_bands does not show it
        assert counts.observed - (scl[layer] > 0).sum() < 0.001 * counts.observed + 10
        assert counts.observed <= report.inside


def test_day_counts_of_overlapping_granules_are_of_the_mosaic(sandbox: Sandbox, tmp_path: Path) -> None:
    plan = plan_of(sandbox)
    assert any(len(rows) > 1 for rows in plan.index.values())
    report = run(plan, open_store(str(tmp_path / "ndvi.zarr")))
    height, width = plan.shape[1:]
    assert report.inside == height * width
    assert all(counts.observed <= report.inside for counts in report.days.values())
    assert sum(counts.valid for counts in report.days.values()) == report.valid


# Memory, and what cannot be


def test_only_percentiles_hold_every_day() -> None:
    """A mean of a thousand days holds no more than one of two."""
    layer = np.full((64, 64), 5000, np.int16)
    for reducer, grows in (("mean", False), ("max", False), ("count", False), ("median", True)):
        sizes = [
            sum(
                v.nbytes
                for v in vars(start_reduction(reducer, layer.shape, "int16", n)).values()
                if hasattr(v, "nbytes")
            )
            for n in (2, 1000)
        ]
        assert (sizes[1] > sizes[0]) is grows


def test_the_memory_bound_counts_the_days(season: Sandbox) -> None:
    from ndvi_scale.estimate import region_memory

    daily, means, medians = (
        region_memory(plan_of(season, chunk=2048, **chosen))
        for chosen in ({}, {"period": "all", "reducer": "mean"}, {"period": "all", "reducer": "median"})
    )
    height, width = plan_of(season).shape[1:]
    assert daily < means < medians
    assert medians - daily >= 2 * 16 * height * width


def test_zones_have_the_same_periods(season: Sandbox, tmp_path: Path) -> None:
    """Though one is seen first on another day than the other; and each equals the oracle."""
    found = search_items(season.items)
    first = min(item.datetime for item in found if "30TYP" in item.id)
    items = [item for item in found if item.datetime > first or "30TYP" not in item.id]
    plans = build_plans(items, RunConfig(grid="per-zone", period="16d", reducer="mean", chunk=128))
    west, east = plans["EPSG_32630"], plans["EPSG_32631"]
    assert west.granule_days[0] != east.granule_days[0]
    assert west.layers == east.layers
    for name, plan in plans.items():
        own = [item for item in items if item.properties["proj:epsg"] == int(name[-5:])]
        assert_same(stored(plan, tmp_path / f"{name}.zarr"), truth_of(plan, own))


def test_more_layers_than_any_archive_has_are_refused(season: Sandbox) -> None:
    with pytest.raises(ConfigError, match="narrow datetime"):
        plan_of(season, datetime="0001/2021-12", period="1d")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"reducer": "median"}, ["reducer 'median' without a period", "period = month"]),
        ({"period": "month", "reducer": "medain"}, ["unknown reducer 'medain'", "did you mean 'median'"]),
        ({"period": "month", "reducer": "p101"}, ["p101", "0 to 100"]),
        ({"period": "month", "reducer": "p9.5"}, ["p9.5", "p90"]),
        ({"period": "month", "reducer": ""}, ["unknown reducer ''", "median"]),
        ({"period": "monthly"}, ["monthly", "month"]),
        ({"period": "0d"}, ["0d"]),
        ({"period": 16}, ["period 16 has the wrong type"]),
    ],
    ids=str,
)
def test_wrong_settings_are_refused(settings: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        RunConfig(**settings)
    for word in words:
        assert word in str(refused.value)


def test_a_period_longer_than_the_range_is_refused(season: Sandbox) -> None:
    with pytest.raises(ConfigError, match="all"):
        plan_of(season, datetime="2021-04-06/2021-06-30", period="year")
    assert len(plan_of(season, datetime="2021-04-06/2021-06-30", period="all").layers) == 1


def test_bands_of_a_composite_are_refused(season: Sandbox) -> None:
    with pytest.raises(ConfigError, match="without"):
        load_bands(plan_of(season, period="month"))
    with pytest.raises(ConfigError, match="open_cube"):
        open_ndvi(plan_of(season, period="month", reducer="count"))


def test_settings_without_a_period_are_the_same_run_as_before() -> None:
    assert "period" not in RunConfig().as_dict()
    assert RunConfig(period="month").reducer == "median"
    assert RunConfig(period="month").digest() != RunConfig(period="month", reducer="mean").digest()
    assert RunConfig(period=" Month", reducer="Median ") == RunConfig(period="month", reducer="median")
    again = RunConfig.from_dict(RunConfig(period="16d", reducer="p5").as_dict())
    assert (again.period, again.reducer) == ("16d", "p05")
