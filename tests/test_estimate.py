"""What a plan is said to cost, against what it costs: bytes, requests, memory, output."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from ndvi_scale.aoi import parse_bbox
from ndvi_scale.config import RunConfig
from ndvi_scale.errors import ConfigError
from ndvi_scale.estimate import READER_BYTES, estimate_plan, region_memory, regions_in_flight
from ndvi_scale.granules import Asset, Granule
from ndvi_scale.lattice import Lattice, Region, coarser_grid, in_strips
from ndvi_scale.periods import one_day, periods_of
from ndvi_scale.plan import Plan, build_plan
from ndvi_scale.readers import BlockingReader, Layout, Reader, Traffic, open_reader
from ndvi_scale.readers.patience import RUN_BYTES
from ndvi_scale.region import compute_region
from ndvi_scale.sandbox import make_sandbox
from ndvi_scale.search import search_items

if TYPE_CHECKING:
    from ndvi_scale.lattice import Window
    from ndvi_scale.sandbox import Sandbox

MB = 1_000_000
SPARE = 8 * MB
"""What one more thread, and the modules that only a real write imports, may take: the bound leaves the interpreter
out. Small against the 277 MB of a region of 4096 x 4096."""


# Bytes, requests, output


def counted(plan: Plan, reader: Reader) -> tuple[Traffic, int]:
    """What computing every region asked for, and the bytes that came out."""
    traffic, size = Traffic(), 0
    for region in in_strips(plan.regions(), plan.lattice):
        data, record = compute_region(plan, region, reader)
        traffic += record.traffic
        size += data["ndvi"].nbytes
    return traffic, size


def assert_close(plan: Plan) -> None:
    for name in ("cog", "rasterio"):
        estimate = estimate_plan(plan, open_reader(name))
        traffic, size = counted(plan, open_reader(name))
        assert estimate.traffic.bytes == pytest.approx(traffic.bytes, rel=0.25), name
        assert estimate.traffic.requests == pytest.approx(traffic.requests, rel=0.25), name
        assert estimate.output_bytes == size


@pytest.mark.parametrize(
    ("chunk", "dtype"), [(48, "int16"), (64, "float32"), (96, "int16"), (2048, "int16"), (2048, "float32")]
)
def test_the_sandbox(sandbox: Sandbox, chunk: int, dtype: Any) -> None:
    items = search_items(sandbox.items)
    assert_close(build_plan(items, RunConfig(aoi=parse_bbox(sandbox.bbox), chunk=chunk, dtype=dtype)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"chunk": 48, "mask_filters": "opening:2,dilation:5"},
        {"chunk": 64, "mask": "openeo"},
        {"chunk": 2048, "mask_filters": "dilation:100"},
        {"chunk": 32, "resolution": 20, "mask_filters": "dilation:30"},
        {"chunk": 64, "crs": "EPSG:2154", "mask_filters": "dilation:30"},
    ],
    ids=str,
)
def test_the_sandbox_with_mask_filters(sandbox: Sandbox, settings: dict[str, Any]) -> None:
    items = search_items(sandbox.items)
    assert_close(build_plan(items, RunConfig(**{"crs": "EPSG:32631", **settings})))


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [512, 2048])
def test_several_blocks_a_file_with_mask_filters(large: Sandbox, chunk: int) -> None:
    settings = {"crs": "EPSG:32631", "chunk": chunk, "mask_filters": "opening:2,dilation:5"}
    assert_close(build_plan(search_items(large.items), RunConfig(**settings)))


def test_the_whole_sandbox(sandbox: Sandbox) -> None:
    assert_close(build_plan(search_items(sandbox.items), RunConfig(crs="EPSG:32631", chunk=128)))


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [512, 2048])
def test_several_blocks_a_file(large: Sandbox, chunk: int) -> None:
    assert_close(build_plan(search_items(large.items), RunConfig(crs="EPSG:32631", chunk=chunk)))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    return make_sandbox(tmp_path_factory.mktemp("large") / "archive", size=2304, dates=1)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [32, 2048])
def test_a_real_field(real_data: Path, chunk: int) -> None:
    aoi = parse_bbox((4.05, 50.74, 4.07, 50.75))
    items = search_items(real_data / "catalog" / "catalog.json", aoi=aoi)
    assert_close(build_plan(items, RunConfig(aoi=aoi, chunk=chunk)))


def test_few_headers_are_read(sandbox: Sandbox) -> None:
    plan = synthetic(granules=40)
    reader = Flat()
    estimate_plan(plan, reader)
    assert 3 <= len({href for href, _ in reader.layouts}) <= 3 * 8
    assert len(reader.layouts) <= 3 * 8


def test_an_exact_case() -> None:
    """Two granules of 400 x 400 in blocks of 100, four regions of 200: every number by hand."""
    plan = synthetic(granules=2, shape=(400, 400), chunk=200)
    estimate = estimate_plan(plan, Flat())
    regions, bands = 4, 2 * 3
    # 10 m bands: 2 x 2 blocks of a region, in two runs; SCL: the one block of 100 x 100 pixels of 20 m.
    assert estimate.traffic.requests == bands + regions * 2 * (2 + 2 + 1)
    assert estimate.traffic.bytes == regions * 2 * (4 + 4 + 1) * 1000
    assert estimate.output_bytes == 400 * 400 * 2
    assert estimate.memory(3) - estimate.memory(2) == estimate.region_memory == region_memory(plan, "flat")


def test_an_exact_case_with_a_margin() -> None:
    """As before: SCL in blocks of 100 is one block a region; with 10 pixels around it, all four of the file."""
    settings = {"granules": 2, "shape": (400, 400), "chunk": 200}
    plain, plan = synthetic(**settings), synthetic(**settings, mask_filters="dilation:10")
    one, other = (estimate_plan(made, Flat()) for made in (plain, plan))
    assert other.traffic.bytes - one.traffic.bytes == 4 * 2 * 3 * 1000
    assert other.traffic.requests == one.traffic.requests  # rows that are read whole are one
    assert other.region_memory - one.region_memory == 4 * 110**2  # as far as the file goes


def kept_case(block_bytes: float, **plan: Any) -> Traffic:
    """What a reader that keeps blocks of 100 x 100 is said to ask for, without headers."""
    made = synthetic(**plan)
    reader = Flat(kept=True, block_bytes=block_bytes)
    return estimate_plan(made, reader).traffic + Traffic(requests=-3 * len(made.granules))


def test_kept_blocks_are_counted_once() -> None:
    """400 x 400 in regions of 160: 16 blocks of red and of nir, 4 of SCL, each once.

    Columns 0 to 159 want block columns 0 and 1, then 2 and 3 are missing, then none; rows likewise. So 4 of the
    9 regions ask, for two rows of two blocks each, and of SCL (blocks 200 pixels of red wide) for one block.
    """
    assert kept_case(1000.0, shape=(400, 400), chunk=160) == Traffic(2 * 8 + 4, (2 * 16 + 4) * 1000)


def test_a_request_is_no_longer_than_the_reader_makes_it() -> None:
    """Ten rows of ten blocks lie one after another: 100 at once, or as many as a request may take."""
    whole = {"shape": (1000, 1000), "chunk": 1000}
    assert kept_case(1000.0, **whole).requests == 3
    by_four = kept_case(RUN_BYTES / 4, **whole)
    assert by_four.requests == 2 * 25 + 7
    assert by_four.bytes == (2 * 100 + 25) * RUN_BYTES // 4


class Flat(BlockingReader):
    """A reader of made-up pixels, in blocks of 100 x 100 and 1000 bytes."""

    name = "flat"

    def __init__(self, *, kept: bool = False, block_bytes: float = 1000.0) -> None:
        self.layouts: list[tuple[str, str]] = []
        self._layout = Layout((100, 100), block_bytes, kept)

    def read(self, _: str, asset: Asset, window: Window) -> tuple[np.ndarray, Traffic]:
        shape = window.height, window.width
        if asset.href.endswith("scl"):
            scl = np.full(shape, 4, np.uint8)
            scl[::50] = 9
            return scl, Traffic(1, 1)
        pixels = np.full(shape, 3000 if asset.href.endswith("nir") else 1000, np.uint16)
        pixels[::3] = 0
        return pixels, Traffic(1, 1)

    def layout(self, item_id: str, asset: Asset) -> Layout:
        self.layouts.append((asset.href, item_id))
        return self._layout


def synthetic(
    *, granules: int = 1, shape: tuple[int, int] = (400, 400), chunk: int = 400, layers: int = 1, **settings: Any
) -> Plan:
    """A plan of granules that all cover the whole grid, `granules` of them in each of the layers."""
    geobox = GeoBox(shape, Affine(10, 0, 300_000, 0, -10, 4_900_020), "EPSG:32631")
    return plan_of(geobox, chunk, lambda number, band: f"{number}-{band}", granules, layers, settings)


def plan_of(geobox: GeoBox, chunk: int, href: Any, granules: int, layers: int, settings: dict[str, Any]) -> Plan:
    coarse = GeoBox((geobox.shape.y // 2, geobox.shape.x // 2), geobox.affine @ Affine.scale(2), geobox.crs)

    def asset(number: int, band: str) -> Asset:
        return Asset(href(number, band), coarse if band == "scl" else geobox, "image/tiff", 0, "for a test")

    found = []
    for number in range(granules * layers):
        day, minute = divmod(number, granules)
        time = dt.datetime(2021, 1, 1, 10, tzinfo=dt.UTC) + dt.timedelta(days=day, minutes=minute)
        bands = {band: asset(number, band) for band in ("red", "nir", "scl")}
        found.append(Granule(f"g{number:03}", time, "sentinel-2a", "31TCJ", "", (3, 1), "", **bands))
    config = RunConfig(chunk=chunk, **settings)
    lattice = Lattice(geobox, config.object_side)
    rows, columns = lattice.objects
    days = [dt.date(2021, 1, 1) + dt.timedelta(days=layer) for layer in range(layers)]
    daily = tuple(map(one_day, days))
    made = daily if config.period is None else periods_of(days, config.period)
    each = granules * layers // len(made)
    return Plan(
        config=config,
        lattice=lattice,
        layers=made,
        granules=tuple(found),
        index={
            Region(layer, iy, ix): tuple(range(layer * each, (layer + 1) * each))
            for layer in range(len(made))
            for iy in range(rows)
            for ix in range(columns)
        },
    )


# Memory


def resident(key: str) -> int:
    """VmRSS or VmHWM of this process, bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def run_all(plan: Plan, reader: Any, workers: int, url: Path) -> None:
    from ndvi_scale.batch import run_batch, thread_pool
    from ndvi_scale.store import open_store

    with thread_pool(workers) as submit:
        report = run_batch(plan, open_store(str(url)), submit, reader=reader, in_flight=workers)
    assert not report.failed, report.failed


def growth(plan: Plan, warm: Plan, reader: Any, workers: int, folder: Path) -> int:
    """By how much the memory of this process peaked above what it had after a small run."""
    run_all(warm, reader, workers, folder / "warm.zarr")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident("VmRSS:")
    run_all(plan, reader, workers, folder / "ndvi.zarr")
    return resident("VmHWM:") - before


def in_a_process(case: dict[str, Any], folder: Path) -> dict[str, int]:
    """Run `main` below with a case, in a fresh interpreter."""
    path = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-c", "import sys, test_estimate; test_estimate.main(*sys.argv[1:])"]
    done = subprocess.run(
        [*command, json.dumps(case), str(folder)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def main(text: str, folder: str) -> None:
    """Print the growth and what bounds it."""
    case = json.loads(text)
    plan, warm, reader = (made_up_case if case["reader"] == "flat" else stored_case)(case, Path(folder))
    grown = growth(plan, warm, reader, case["workers"], Path(folder))
    print(json.dumps({"growth": grown, "region": region_memory(plan, reader.name)}))  # noqa: T201 - its way to answer


def made_up_case(case: dict[str, Any], _: Path) -> tuple[Plan, Plan, Any]:
    settings = {"granules": 3, "layers": case["workers"] + 1, "dtype": case["dtype"]}
    if "reducer" in case:
        settings |= {"granules": 1, "layers": case["days"], "period": "all", "reducer": case["reducer"]}
    settings["mask_filters"] = case.get("filters", ())
    side, grid = case["chunk"], case.get("grid", "native")
    plans = synthetic(shape=(side, side), chunk=side, **settings), synthetic(**settings)
    return *(resampled(plan, **GRIDS[grid]) if grid in GRIDS else plan for plan in plans), Flat()


GRIDS: dict[str, dict[str, Any]] = {
    "coarser": {"crs": "EPSG:32631", "factor": 3},
    "warped": {"crs": "EPSG:2154", "factor": 1},
    "coarser and warped": {"crs": "EPSG:3035", "factor": 2},
    "of overviews": {"crs": "EPSG:32631", "factor": 2, "overview": 2},
    "of overviews coarser than SCL": {"crs": "EPSG:32631", "factor": 4, "overview": 4},
}


def resampled(plan: Plan, crs: str, factor: int, overview: int = 1) -> Plan:
    """The same regions in other pixels, of granules that are wide enough to fill them."""
    step, side = 10 * factor, plan.lattice.geobox.shape.y
    wide = math.ceil(1.5 * side) // 2 * 2 * factor
    native = GeoBox((wide, wide), Affine(10, 0, 300_000, 0, -10, 4_900_020), "EPSG:32631")
    middle = 300_000 + 5 * wide, 4_900_020 - 5 * wide
    x, y = Transformer.from_crs(32631, crs, always_xy=True).transform(*middle)
    left, top = round((x - side * step / 2) / step) * step, round((y + side * step / 2) / step) * step
    lattice = Lattice(GeoBox((side, side), Affine(step, 0, left, 0, -step, top), crs), plan.lattice.side)
    small, read = coarser_grid(native, 2), coarser_grid(native, overview)
    granules = tuple(
        dataclasses.replace(
            granule,
            **{b: dataclasses.replace(a, geobox=small if b == "scl" else read) for b, a in granule.assets.items()},
        )
        for granule in plan.granules
    )
    return dataclasses.replace(plan, lattice=lattice, granules=granules)


def stored_case(case: dict[str, Any], folder: Path) -> tuple[Plan, Plan, Any]:
    """8 granules, one a layer, all links to the same three files."""

    def href(number: int, band: str) -> str:
        return str(folder / f"{number}-{band}.tif")

    geobox = GeoBox((case["size"],) * 2, Affine(10, 0, 300_000, 0, -10, 4_900_020), "EPSG:32631")
    plan = plan_of(geobox, case["chunk"], href, 1, 8, {"shard": case["shard"]})
    corner = plan_of(geobox, 64, href, 1, 4, {})
    few = {region: rows for region, rows in corner.index.items() if region.iy == region.ix == 0}
    warm = Plan(corner.config, corner.lattice, corner.layers, corner.granules, few)
    return plan, warm, open_reader(case["reader"])


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_a_region_takes_no_more_than_its_bound(tmp_path: Path, dtype: str, workers: int) -> None:
    """Without a reader's own memory, so that nothing hides what compute and write take."""
    case = {"reader": "flat", "chunk": 4096, "dtype": dtype, "workers": workers}
    found = in_a_process(case, tmp_path)
    assert found["growth"] <= workers * found["region"] + SPARE
    assert found["growth"] >= 0.5 * workers * found["region"]  # else the bound would be no help in choosing


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["int16", "float32"])
@pytest.mark.parametrize("reducer", ["median", "mean", "max"])
def test_146_days_of_a_composite_take_no_more_than_their_bound(tmp_path: Path, reducer: str, dtype: str) -> None:
    case = {"reader": "flat", "chunk": 2048, "dtype": dtype, "workers": 1, "reducer": reducer, "days": 146}
    found = in_a_process(case, tmp_path)
    assert found["growth"] <= found["region"] + SPARE
    assert found["growth"] >= 0.3 * found["region"]
    assert (found["region"] > 146 * 2 * 2048**2) is (reducer == "median")


@pytest.mark.slow
@pytest.mark.parametrize("grid", GRIDS)
def test_a_region_of_other_pixels_takes_no_more_than_its_bound(tmp_path: Path, grid: str) -> None:
    case = {"reader": "flat", "chunk": 3000, "dtype": "int16", "workers": 2, "grid": grid}
    found = in_a_process(case, tmp_path)
    assert found["growth"] <= 2 * found["region"] + SPARE
    assert found["growth"] >= 0.4 * 2 * found["region"]


@pytest.mark.slow
@pytest.mark.parametrize("grid", ["native", "coarser", "warped", "of overviews"])
def test_a_region_with_a_margin_takes_no_more_than_its_bound(tmp_path: Path, grid: str) -> None:
    case = {
        "reader": "flat",
        "chunk": 2000,
        "dtype": "int16",
        "workers": 2,
        "grid": grid,
        "filters": "dilation:100",
    }
    found = in_a_process(case, tmp_path)
    assert found["growth"] <= 2 * found["region"] + SPARE
    assert found["growth"] >= 0.4 * 2 * found["region"]


@pytest.fixture(scope="module")
def stored_bands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three COGs of 3072 x 3072 in blocks of 1024, as noisy as real ones, under 8 names each."""
    import rasterio
    import rasterio.shutil

    folder, draw = tmp_path_factory.mktemp("bands"), np.random.default_rng(0)
    for band, side, pixel, top in (("red", 3072, 10, 6000), ("nir", 3072, 10, 9000), ("scl", 1536, 20, 12)):
        dtype = "uint8" if band == "scl" else "uint16"
        profile = {"driver": "GTiff", "height": side, "width": side, "count": 1, "dtype": dtype, "crs": 32631}
        transform = Affine(pixel, 0, 300_000, 0, -pixel, 4_900_020)
        with rasterio.open(folder / "draft.tif", "w", **profile, transform=transform) as file:
            file.write(draw.integers(1, top, (side, side)).astype(dtype), 1)
        options = {"BLOCKSIZE": 1024, "COMPRESS": "DEFLATE", "PREDICTOR": "YES", "NUM_THREADS": "ALL_CPUS"}
        rasterio.shutil.copy(folder / "draft.tif", folder / f"0-{band}.tif", driver="COG", **options)
        for number in range(1, 8):
            (folder / f"{number}-{band}.tif").hardlink_to(folder / f"0-{band}.tif")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("chunk", "shard", "workers"), [(2048, None, 1), (2048, None, 3), (1024, None, 3), (256, 3072, 2)]
)
@pytest.mark.parametrize("reader", ["cog", "rasterio"])
def test_a_run_takes_no_more_than_its_bound(
    stored_bands: Path, reader: str, chunk: int, shard: int | None, workers: int
) -> None:
    """What `--memory` promises: files, GDAL, packed blocks and all."""
    case = {"reader": reader, "size": 3072, "chunk": chunk, "shard": shard, "workers": workers}
    for left in stored_bands.glob("*.zarr*"):
        shutil.rmtree(left)
    found = in_a_process(case, stored_bands)
    assert found["growth"] <= READER_BYTES + workers * found["region"] + SPARE


# How many at once


def test_as_many_as_fit_and_no_more_than_workers() -> None:
    plan = synthetic(shape=(4096, 4096), chunk=2048)
    one = region_memory(plan)
    for fitting in (1, 2, 5):
        assert regions_in_flight(plan, 100, READER_BYTES + fitting * one) == fitting
        assert regions_in_flight(plan, 100, READER_BYTES + (fitting + 1) * one - 1) == fitting
        assert regions_in_flight(plan, 1, READER_BYTES + fitting * one) == 1


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_what_is_let_through_is_within_the_limit(dtype: Any) -> None:
    plan = synthetic(shape=(3000, 3000), chunk=1024, dtype=dtype)
    estimate = estimate_plan(plan, Flat())
    for limit in range(200 * MB, 1000 * MB, 50 * MB):
        assert estimate.memory(regions_in_flight(plan, 10_000, limit, "flat")) <= limit


def refused(plan: Plan, limit: int) -> str:
    with pytest.raises(ConfigError) as caught:
        regions_in_flight(plan, 4, limit)
    return str(caught.value)


def test_a_chunk_that_does_not_fit() -> None:
    message = refused(synthetic(shape=(9000, 9000), chunk=8192), 512 << 20)
    assert all(part in message for part in ("8192", "MiB", "the memory limit is 512 MiB", "use chunk = "))


def test_a_shard_that_does_not_fit() -> None:
    plan = synthetic(shape=(9000, 9000), chunk=1024, shard=8192)
    message = refused(plan, 512 << 20)
    named = int(message.split("use shard = ")[1].split(",")[0])
    assert "chunk = " not in message
    assert named % 1024 == 0
    assert regions_in_flight(synthetic(shape=(9000, 9000), chunk=named), 1, 512 << 20) == 1
    one_chunk = READER_BYTES + region_memory(synthetic(shape=(9000, 9000), chunk=1024))
    assert "give more memory" in refused(plan, one_chunk)


def test_a_limit_that_no_chunk_fits() -> None:
    for limit in (1, READER_BYTES - 1, READER_BYTES + 1000):
        message = refused(synthetic(shape=(4096, 4096), chunk=2048), limit)
        assert "give more memory" in message
        assert "chunk = " not in message


@pytest.mark.slow
@given(
    height=st.integers(500, 12_000),
    width=st.integers(500, 12_000),
    chunk=st.integers(256, 6_000),
    part=st.floats(0.01, 0.999),
    filters=st.sampled_from([(), (), ("dilation:30",), ("dilation:100",)]),
)
def test_the_chunk_that_a_refusal_names_does_fit(
    height: int, width: int, chunk: int, part: float, filters: tuple[str, ...]
) -> None:
    shape = (2 * (height // 2), 2 * (width // 2))
    plan = synthetic(shape=shape, chunk=2 * (chunk // 2), mask_filters=filters)
    limit = READER_BYTES + int(part * region_memory(plan))
    message = refused(plan, limit)
    if "use chunk = " not in message:
        return
    named = int(message.split("use chunk = ")[1].split(",")[0])
    assert 0 < named < plan.config.chunk
    assert regions_in_flight(synthetic(shape=shape, chunk=named, mask_filters=filters), 1, limit) == 1
