"""The benchmark of peers: what it counts, compares, infers and writes; and a small run of ours through it all."""

from __future__ import annotations

import dataclasses
import itertools
import re
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import numpy as np
import pystac
import pytest
import rasterio
import zarr
from benchmarks.peers import __main__ as command
from benchmarks.peers import bars, blocks, envs, pixels, table, workloads
from benchmarks.peers.fused import dropped_table, ndvi_codes
from benchmarks.peers.results import Results
from benchmarks.peers.stats import median_interval, ratios
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ndvi_scale import RunConfig, build_plan, open_ndvi
from ndvi_scale.bench import archive, origin
from ndvi_scale.kernels import reference
from ndvi_scale.sentinel2 import MASKS, scl_table

if TYPE_CHECKING:
    from pathlib import Path

OPEN = build_opener(ProxyHandler({})).open
times = st.lists(st.floats(0.01, 1000), min_size=1, max_size=30)


@given(times)
def test_interval_holds_the_median_and_lies_in_the_range(values: list[float]) -> None:
    found = median_interval(values)
    assert min(values) <= found.low <= found.median <= found.high <= max(values)
    assert found.median == statistics.median(values)


@given(st.permutations(range(9)))
def test_interval_depends_on_no_order(values: list[int]) -> None:
    found = median_interval(values)
    assert (found.low, found.median, found.high) == (1, 4, 7)


@pytest.mark.parametrize(("count", "coverage"), [(1, 0.0), (4, 0.875), (5, 0.9375), (9, 0.9609375)])
def test_interval_says_how_sure_it_is(count: int, coverage: float) -> None:
    assert median_interval(range(count)).coverage == coverage


@pytest.mark.parametrize("count", [5, 9, 20])
def test_interval_covers_as_often_as_it_says(count: int) -> None:
    random = np.random.default_rng(count)
    drawn = [median_interval(list(random.exponential(size=count))) for _ in range(2000)]
    hits = np.mean([found.low <= np.log(2) <= found.high for found in drawn])
    assert drawn[0].coverage >= 0.9
    assert abs(hits - drawn[0].coverage) < 0.03


def test_no_values_have_no_median() -> None:
    with pytest.raises(ValueError, match="at least one"):
        median_interval([])


def test_ratios_pair_rounds() -> None:
    assert ratios([2, 9], [1, 3]) == [2, 3]
    with pytest.raises(ValueError, match="longer"):
        ratios([1], [1, 2])


LOG = [
    "GET\t206\t100\tbytes=0-99\t/a-1/x.tif\n",
    "GET\t206\t50\tbytes=100-149\t/a-1/x.tif\n",
    "HEAD\t200\t0\t-\t/a-1/x.tif\n",
    "GET\t200\t900\t-\t/a-1/y.tif\n",
    "GET\t404\t7\tbytes=0-9\t/a-11/z.tif\n",
]


def test_log_is_counted_by_tag() -> None:
    assert origin.count_lines(iter(LOG), "a-1") == origin.Count(requests=4, bytes=1050, headers=2, failed=0)
    assert origin.count_lines(iter(LOG), "a-11").failed == 1
    assert origin.count_lines(iter(LOG), "a").requests == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nginx", "asyncio"])
def test_origin_delays_serves_ranges_and_counts(kind: str, tmp_path: Path, monkeypatch: Any) -> None:
    if kind == "asyncio":
        monkeypatch.setattr(origin, "_nginx_modules", list)
    elif not origin._nginx_modules():
        pytest.skip("nginx with lua is not installed")
    root = tmp_path / "root"
    root.mkdir()
    data = bytes(range(256)) * 400
    (root / "a.bin").write_bytes(data)
    with origin.serve(root, tmp_path / "origin") as server:
        assert server.kind == kind
        started = time.perf_counter()
        with OPEN(Request(f"{server.url}/one/a.bin", headers={"Range": "bytes=300-1299"})) as answer:  # noqa: S310
            assert answer.status == 206
            assert answer.headers["Content-Range"] == f"bytes 300-1299/{len(data)}"
            assert answer.read() == data[300:1300]
        assert time.perf_counter() - started >= origin.DELAY
        with OPEN(f"{server.url}/one/copy-7/a.bin") as answer:
            assert answer.read() == data
        with pytest.raises(HTTPError, match="404"):
            OPEN(f"{server.url}/two/b.bin")
        assert server.count("one") == origin.Count(2, 1000 + len(data), 1, 0)
        assert server.count("two").failed == 1
        assert server.count("three").requests == 0


@pytest.fixture
def cog(tmp_path: Path) -> Path:
    """Four by four blocks of 256 pixels of 10 m, of noise, from 1000 east and 9000 north."""
    path = tmp_path / "x.tif"
    values = np.random.default_rng(0).integers(0, 9000, (1000, 1000), dtype=np.uint16)
    with rasterio.open(
        path, "w", driver="GTiff", width=1000, height=1000, count=1, dtype="uint16", crs=32631, tiled=True,
        transform=rasterio.Affine(10, 0, 1000, 0, -10, 9000), blockxsize=256, blockysize=256, compress="DEFLATE",
    ) as target:  # fmt: skip
        target.write(values, 1)
    return path


@pytest.mark.parametrize(
    ("box", "touched"),
    [
        ((1000, 9000 - 2560, 1000 + 2560, 9000), 1),
        ((1000, 9000 - 2560, 1000 + 2570, 9000), 2),
        ((1000 + 2550, 9000 - 2570, 1000 + 2570, 9000 - 2550), 4),
        ((-5000, -5000, 50000, 50000), 16),
        ((50000, 0, 60000, 9000), 0),
    ],
)
def test_needed_blocks_are_those_that_touch(cog: Path, box: tuple[float, ...], touched: int) -> None:
    found = blocks.needed_blocks([cog], box)  # pyright: ignore[reportArgumentType]
    assert (found.files, found.blocks) == (bool(touched), touched)
    # Noise compresses to about what it holds: 13 of 16 bits of each of a block's pixels.
    assert found.bytes == pytest.approx(touched * 256 * 256 * 2 * 0.87, rel=0.2)


def test_all_blocks_are_the_file_but_its_header(cog: Path) -> None:
    whole = blocks.needed_blocks([cog], (1000, -1000, 11000, 9000)).bytes
    assert 0 < cog.stat().st_size - whole < 2000


def output(path: Path, codes: np.ndarray, chunk: int = 4) -> Path:
    group = zarr.open_group(path, mode="w", zarr_format=3)
    array = group.create_array(
        "ndvi", shape=codes.shape, dtype="int16", chunks=(1, chunk, chunk), fill_value=-32768
    )
    array[...] = codes
    return path


@pytest.mark.parametrize(
    ("code", "expected", "equal"),
    [
        (500, pixels.Difference(0, 0, 0), True),
        (501, pixels.Difference(1, 1, 0), True),
        (498, pixels.Difference(1, 2, 0), False),
        (-32768, pixels.Difference(1, 0, 1), False),
    ],
)
def test_one_code_apart_is_rounding_and_more_is_not(
    code: int, expected: pixels.Difference, *, equal: bool, tmp_path: Path
) -> None:
    ours = np.full((2, 6, 7), 500, np.int16)
    theirs = ours.copy()
    theirs[1, 5, 6] = code
    found = pixels.compare(output(tmp_path / "a", ours), output(tmp_path / "b", theirs))
    assert found == expected
    assert found.equal is equal


def test_other_chunks_are_another_output(tmp_path: Path) -> None:
    codes = np.zeros((1, 6, 7), np.int16)
    with pytest.raises(ValueError, match="chunks"):
        pixels.compare(output(tmp_path / "a", codes), output(tmp_path / "b", codes, chunk=3))


HEADER = {
    "workload": "tile", "title": "A tile", "date": "2026-01-01", "commit": "abc", "machine": "m", "origin": "nginx",
    "needed": {"blocks": 10, "files": 3, "bytes": 1000},
}  # fmt: skip


def results_of(path: Path, **walls: list[float]) -> Results:
    held = Results.open(path, HEADER)
    for name, values in walls.items():
        for number, wall in enumerate(values):
            held.add({"round": number, "contender": name, "wall": wall, "bytes": 1040, "requests": 9, "headers": 3,
                      "different": 0})  # fmt: skip
    return held


def test_results_are_taken_up(tmp_path: Path) -> None:
    path = tmp_path / "tile.jsonl"
    results_of(path, ours=[9, 1, 2])
    later = Results.open(path, {**HEADER, "date": "2026-01-02"})
    assert later.has(2, "ours")
    assert not later.has(3, "ours")
    assert [run["wall"] for run in later.of("ours")] == [1, 2]  # without the round that warms up
    assert Results.open(path, {**HEADER, "commit": "def"}).runs == []


def test_failed_runs_are_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "tile.jsonl"
    results_of(path, ours=[9, 1]).add({"round": 2, "contender": "ours", "error": "exit 1"})
    assert Results.load(path).failure("ours") == "exit 1"
    later = Results.open(path, HEADER)
    assert later.has(1, "ours")
    assert not later.has(2, "ours")
    assert Results.load(path).failure("ours") is None


def test_a_failed_contender_has_no_time(tmp_path: Path) -> None:
    held = results_of(tmp_path / "tile.jsonl", ours=[9, 1, 1], odc=[9, 4, 6])
    assert held.ratio("odc", "ours").median == 5  # pyright: ignore[reportOptionalMemberAccess]
    held.add({"round": 3, "contender": "odc", "error": "pixels: 7 valid in one only | x"})
    assert held.interval("odc", "wall") is None
    assert held.ratio("odc", "ours") is None
    text = table.section(held, workloads.EVERYBODY)
    row = next(line for line in text.splitlines() if "odc-stac, usual" in line)
    assert "FAILED: pixels: 7 valid in one only / x" in row
    assert "5.00" not in row


def test_rows_have_a_cell_a_column(tmp_path: Path) -> None:
    held = results_of(tmp_path / "tile.jsonl", ours=[9, 1, 1], odc=[9, 4, 6], floor=[9, 0.5, 0.5])
    held.add({"round": 1, "contender": "lazycogs", "error": "exit 1"})
    lines = [line for line in table.section(held, workloads.EVERYBODY).splitlines() if line.startswith("|")]
    assert len(lines) == 6
    assert {line.count("|") for line in lines} == {lines[0].count("|")}
    assert "5.00× (4.00–6.00)" in table.section(held, workloads.EVERYBODY)


def test_bars_take_the_worse_end(tmp_path: Path) -> None:
    held = results_of(
        tmp_path / "tile.jsonl",
        **{"ours": [9, 1, 1, 1], "stackstac": [9, 3.4, 5, 5], "odc-8": [9, 1.9, 2, 2], "floor": [9, 0.9, 0.9, 0.7]},
    )
    found = {bar.what: bar for bar in bars.bars({"tile": held})}
    assert not found["tile: faster than stackstac's usual expression"].met  # 5 x, but 3.4 x in one round
    assert found["tile: faster than odc-stac at its best"].met
    assert not found["tile: over the processor floor"].met
    assert found["one aligned tile: bytes over those needed"].met
    assert found["one aligned tile: requests over blocks"].met
    assert len(bars.bar_rows(list(found.values()))) == len(found) + 2


def test_tables_stand_between_their_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- peers:tile -->\nold\n<!-- /peers:tile -->\nafter\n", encoding="utf-8")
    table.write_docs(page, {"tile": r"new \1"})
    text = page.read_text(encoding="utf-8")
    assert text == "before\n<!-- peers:tile -->\n\nnew \\1\n\n<!-- /peers:tile -->\nafter\n"
    with pytest.raises(ValueError, match="no place for 'nine'"):
        table.write_docs(page, {"nine": ""})


def test_page_has_a_place_for_every_table() -> None:
    text = command.PAGE.read_text(encoding="utf-8")
    for name in ("aims", *workloads.specs()):
        assert f"<!-- peers:{name} -->" in text
        assert f"<!-- /peers:{name} -->" in text


def test_nine_tiles_lie_as_mgrs_tiles_do() -> None:
    crops = archive.nine_tiles().crops
    assert len({crop.name for crop in crops}) == 9
    for one, other in itertools.pairwise(crops[:3]):
        step = (other.left - one.left) // 10
        assert step % 1024 in (9996 % 1024, 10002 % 1024)
        assert 977 <= one.size - step <= 984
        assert step % 2 == 0


def test_copies_are_other_acquisitions_of_the_same_pixels(tmp_path: Path) -> None:
    recipe = archive.Recipe("small", (archive.Crop("31TCJ", archive.EPSG, archive.LEFT, archive.TOP, 64),), 2)
    folder = archive.make_archive(tmp_path, recipe, print)
    box = (archive.LEFT, archive.TOP - 640, archive.LEFT + 640, archive.TOP)
    spec = workloads.Spec("s", "", recipe, box, 2, (), copies=10)
    features = workloads.features_of(spec, folder, "http://127.0.0.1:1/tag")
    plan = build_plan(map(pystac.Item.from_dict, features), RunConfig(clip=False))
    assert len(plan.days) == 20
    assert not plan.dropped
    assert len(set(plan.hrefs())) == 60
    assert {granule.red.geobox for granule in plan.granules} == {plan.lattice.geobox}
    assert sorted({workloads.offset_of(feature) for feature in features}) == [-1000, 0]
    assert [int(granule.assets["red"].offset) for granule in plan.granules] == [
        workloads.offset_of(feature) for feature in features
    ]


def test_invented_items_make_the_graph_that_is_asked_for() -> None:
    spec = dataclasses.replace(workloads.specs()["graph"], dates=2)
    features = workloads.features_of(spec, None, "http://127.0.0.1:1/tag")
    assert len(features) == 50
    plan = build_plan(map(pystac.Item.from_dict, features), RunConfig(clip=False))
    assert not plan.dropped
    assert abs(np.subtract(plan.shape, spec.shape)).max() <= 40
    assert len(dict(open_ndvi(plan).data.__dask_graph__())) <= 1.01 * 2 * 25 * 25


def test_peers_are_pinned_and_no_address_is_named() -> None:
    for name in {contender.env for contender in workloads.EVERYBODY} - {envs.OWN}:
        lines = (envs.HERE / f"env-{name}.txt").read_text(encoding="ascii").splitlines()
        assert lines
        for line in lines:
            assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line), line
    for peer, package in (("stackstac", "stackstac"), ("odc", "odc-stac"), ("lazycogs", "lazycogs")):
        assert envs.pinned_version(peer, package)


def test_the_command_s_own_environment_is_ours(tmp_path: Path) -> None:
    assert str(envs.interpreter(envs.OWN, tmp_path, "python", print)) == sys.executable


dns = st.sampled_from([0, 1, 999, 1000, 1001, 5000, 32767, 32768, 65535]) | st.integers(0, 65535)
planes = hnp.arrays(np.uint16, (4, 6), elements=dns)


@given(planes, planes, hnp.arrays(np.uint8, (2, 3), elements=st.integers(0, 13)), st.sampled_from([0, -1000]))
def test_peers_kernel_is_right(red: np.ndarray, nir: np.ndarray, scl: np.ndarray, offset: int) -> None:
    dropped = sorted(MASKS["default"])
    expected, _ = reference.ndvi_codes(red, nir, scl, scl_table(dropped), (offset, offset))
    table_of = dropped_table(dropped)
    assert np.array_equal(ndvi_codes(red, nir, scl, offset, table_of), expected)
    fine = scl.repeat(2, axis=0).repeat(2, axis=1)
    found = ndvi_codes(red[None], nir[None], fine[None], np.array([[[offset]]]), table_of)
    assert np.array_equal(found, expected[None])


@pytest.mark.slow
@pytest.mark.timeout(150)  # three fresh processes, one after another; 10 s on a machine that is not busy
def test_ours_runs_through_all_of_it(tmp_path: Path) -> None:
    recipe = archive.Recipe("small", (archive.Crop("31TCJ", archive.EPSG, archive.LEFT, archive.TOP, 256),), 1)
    folder = archive.make_archive(tmp_path / "archives", recipe, print)
    box = (archive.LEFT, archive.TOP - 2560, archive.LEFT + 2560, archive.TOP)
    ours = dataclasses.replace(workloads.BATCH, options={"reader": "rasterio"})
    spec = workloads.Spec("tile", "small", recipe, box, 1, (ours,))
    with origin.serve(tmp_path / "archives", tmp_path / "origin") as server:
        pythons = {envs.OWN: envs.interpreter(envs.OWN, tmp_path, "", print)}
        bench = command.Bench(tmp_path, server, pythons, repeats=1, seed=0, reader=None, again=False)
        command._measure(bench, spec, folder)
    held = Results.load(tmp_path / "results" / "tile.jsonl")
    assert held.failure("ours") is None
    (run,) = held.of("ours")
    assert run["different"] == 0
    assert run["tasks"] == 1
    assert run["failed"] == 0
    assert run["headers"] == held.header["needed"]["files"] == 3
    assert run["requests"] >= 3
    assert run["wall"] < run["process_wall"]
    assert run["processor"] <= run["process_processor"] + 0.05
    assert run["memory_imported"] <= run["memory"] <= run["allowed"]
