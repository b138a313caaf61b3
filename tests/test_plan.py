"""Plans: which items, which days, which regions; one plan whatever the order; and a plan as files."""

from __future__ import annotations

import copy
import dataclasses
import datetime as dt
import json
import math
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pystac
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Transformer

from ndvi_scale.aoi import parse_bbox, read_aoi
from ndvi_scale.config import RunConfig
from ndvi_scale.errors import ConfigError, EmptySearchError, ItemError, StoreError
from ndvi_scale.lattice import Region
from ndvi_scale.ledger import load_plan, save_plan
from ndvi_scale.plan import Plan, build_plan
from ndvi_scale.planfile import ITEMS, PLAN, REGIONS, decode_plan, encode_plan, table_names
from ndvi_scale.search import search_items
from ndvi_scale.store import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ndvi_scale.sandbox import Sandbox

ZONE_31 = "EPSG:32631"
SIZE = 200  # pixels of 10 m along a made-up granule


@pytest.fixture(scope="module")
def found(sandbox: Sandbox) -> list[pystac.Item]:
    return search_items(sandbox.items)


def granule_item(name: str = "a", **changes: Any) -> pystac.Item:
    """A made-up item of 2 km in zone 31; its files are nowhere."""
    place = {"left": 500_000, "top": 5_000_000, "pixel": 10, "epsg": 32631, "when": "2021-06-01T10:50:00Z"}
    place |= {key: changes.pop(key) for key in list(changes) if key in place}

    def asset(band: str, pixel: int) -> pystac.Asset:
        size = SIZE * place["pixel"] // pixel
        grid = {
            "proj:shape": [size, size],
            "proj:transform": [pixel, 0, place["left"], 0, -pixel, place["top"]],
        }
        return pystac.Asset(f"https://example.org/{name}/{band}.tif", media_type="image/tiff", extra_fields=grid)

    item = pystac.Item(
        id=name,
        geometry=None,
        bbox=None,
        datetime=dt.datetime.fromisoformat(place["when"]),
        properties={
            "proj:epsg": place["epsg"],
            "s2:processing_baseline": "03.01",
            "platform": "sentinel-2a",
            **changes,
        },
    )
    for band in ("red", "nir"):
        item.add_asset(band, asset(band, place["pixel"]))
    item.add_asset("scl", asset("scl", 2 * place["pixel"]))
    return item


def lonlat_box(
    epsg: int, left: float, bottom: float, right: float, top: float
) -> tuple[float, float, float, float]:
    return Transformer.from_crs(epsg, 4326, always_xy=True).transform_bounds(left, bottom, right, top)


def says(error: pytest.ExceptionInfo[Exception], *parts: str) -> None:
    assert all(part in str(error.value) for part in parts), str(error.value)


# Which items


def test_an_item_whose_footprint_is_no_place_is_an_item_error() -> None:
    wrong = granule_item("wrong")
    wrong.geometry = {"type": "Polygon", "coordinates": [[[-1e9, 0], [1e9, 0], [1e9, 9], [-1e9, 0]]]}
    with pytest.raises(ItemError, match=r"item wrong: .*not within 540 degrees") as caught:
        build_plan([granule_item("good"), wrong], RunConfig())
    assert caught.value.item_id == "wrong"
    plan = build_plan([granule_item("good"), wrong], RunConfig(on_error="skip"))
    assert [granule.id for granule in plan.granules] == ["good"]
    assert [dropped.id for dropped in plan.dropped] == ["wrong"]


def test_what_the_sandbox_gives(sandbox: Sandbox, found: list[pystac.Item]) -> None:
    plan = build_plan(found, RunConfig(aoi=parse_bbox(sandbox.bbox), chunk=96))
    assert [granule.id for granule in plan.granules] == [
        "S2A_31TCJ_20210402_0_L2A",
        "S2A_31TCH_20210402_0_L2A",
        "S2B_31TCJ_20210420_0_L2A",
        "S2B_31TCH_20210420_0_L2A",  # both halves of the split datatake
        "S2B_31TCH_20210420_1_L2A",
        "S2A_31TCJ_20210505_1_L2A",  # the newer of two processings
        "S2A_31TCH_20210505_0_L2A",
    ]
    assert [granule.order for granule in plan.granules] == sorted(granule.order for granule in plan.granules)
    assert plan.days == (dt.date(2021, 4, 2), dt.date(2021, 4, 20), dt.date(2021, 5, 5))
    assert {granule.epsg for granule in plan.granules} == {32631}
    assert [granule.red.offset for granule in plan.granules] == [0, 0, -1000, -1000, -1000, 0, 0]
    reasons = {dropped.id: dropped.reason for dropped in plan.dropped}
    superseded = reasons.pop("S2A_31TCJ_20210505_0_L2A")
    assert superseded == "baseline 03.01 is superseded by S2A_31TCJ_20210505_1_L2A (05.00)"
    assert set(reasons) == {
        f"S2{x}_30TYP_{day}_0_L2A" for x, day in zip("ABA", (20210402, 20210420, 20210505), strict=True)
    }
    assert set(reasons.values()) == {"lies in EPSG:32630, the output in EPSG:32631"}


def test_every_item_is_used_or_dropped(sandbox: Sandbox, found: list[pystac.Item]) -> None:
    for crs in (ZONE_31, "EPSG:32630"):
        plan = build_plan(found, RunConfig(crs=crs))
        told = [granule.id for granule in plan.granules] + [dropped.id for dropped in plan.dropped]
        assert sorted(told) == sorted(item.id for item in found)


def test_items_beside_the_region_are_dropped() -> None:
    near, far = granule_item("near"), granule_item("far", left=560_000)
    plan = build_plan(
        [near, far], RunConfig(aoi=parse_bbox(lonlat_box(32631, 500_100, 4_998_100, 501_900, 4_999_900)))
    )
    assert [granule.id for granule in plan.granules] == ["near"]
    assert [(dropped.id, dropped.reason) for dropped in plan.dropped] == [
        ("far", "its pixels lie outside the region")
    ]


def test_a_day_that_only_outsiders_have_makes_no_layer() -> None:
    near, far = granule_item("near"), granule_item("far", left=560_000, when="2021-06-04T10:50:00Z")
    plan = build_plan(
        [near, far], RunConfig(aoi=parse_bbox(lonlat_box(32631, 500_100, 4_998_100, 501_900, 4_999_900)))
    )
    assert plan.days == (dt.date(2021, 6, 1),)


def test_an_item_that_comes_twice_counts_once() -> None:
    plan = build_plan([granule_item("a"), granule_item("a")], RunConfig())
    assert [granule.id for granule in plan.granules] == ["a"]
    assert [dropped.reason for dropped in plan.dropped] == ["the same id comes twice"]


def without(*assets: str) -> pystac.Item:
    item = granule_item("broken")
    for name in assets:
        del item.assets[name]
    return item


def with_asset_field(name: str, field: str, value: Any) -> pystac.Item:
    item = granule_item("broken")
    item.assets[name].extra_fields[field] = value
    return item


BROKEN: dict[str, tuple[Callable[[], pystac.Item], str]] = {
    "asset": (lambda: without("nir"), "has no asset 'nir'"),
    "all assets": (lambda: without("red", "nir", "scl"), "it has none"),
    "baseline": (lambda: granule_item("broken", **{"s2:processing_baseline": None}), "no processing baseline"),
    "code": (lambda: granule_item("broken", epsg=None), "no proj:code"),
    "transform": (lambda: with_asset_field("red", "proj:transform", None), "no proj:transform"),
    "nesting": (lambda: with_asset_field("scl", "proj:shape", [SIZE // 2 - 1, SIZE // 2]), "does not nest"),
    "bands": (lambda: with_asset_field("nir", "proj:shape", [SIZE, SIZE - 2]), "different grids"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_item_stops_the_plan_or_is_left_out(kind: str) -> None:
    make, said = BROKEN[kind]
    with pytest.raises(ItemError, match=said) as caught:
        build_plan([granule_item("good"), make()], RunConfig())
    assert caught.value.item_id == "broken"
    plan = build_plan([make(), granule_item("good")], RunConfig(on_error="skip"))
    assert [granule.id for granule in plan.granules] == ["good"]
    (dropped,) = plan.dropped
    assert dropped.id == "broken"
    assert said in dropped.reason
    with pytest.raises(EmptySearchError, match=said):
        build_plan([make()], RunConfig(on_error="skip"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("proj:code", "EPSG:999999"),
        ("proj:code", "nonsense"),
        ("proj:transform", [10, 0, 500_000]),
        ("proj:transform", ["a", 0, 0, 0, -10, 0]),
        ("proj:shape", [SIZE]),
        ("proj:shape", "large"),
    ],
)
def test_projection_fields_that_make_no_sense_are_an_item_error(field: str, value: Any) -> None:
    item = granule_item("broken")
    for name in ("red", "nir", "scl"):
        item.assets[name].extra_fields[field] = value
    with pytest.raises(ItemError, match="broken"):
        build_plan([item, granule_item("good")], RunConfig())


def test_nothing_to_plan() -> None:
    with pytest.raises(EmptySearchError, match="no usable item"):
        build_plan([], RunConfig())


def test_a_region_outside_all_items_is_empty(found: list[pystac.Item]) -> None:
    with pytest.raises(EmptySearchError) as caught:
        build_plan(found, RunConfig(aoi=parse_bbox("2.5,43,2.6,43.1"), crs=ZONE_31))
    says(caught, "outside the pixels of all 7 items", "longitude first", "ndvi-scale search")


# Which grid


def test_granules_of_different_pixel_sizes() -> None:
    with pytest.raises(ConfigError) as caught:
        build_plan(
            [granule_item("fine"), granule_item("rough", pixel=60, when="2021-06-02T00:00:00Z")], RunConfig()
        )
    says(caught, "different pixel sizes", "10", "60", "rough", "plan them apart")


def test_without_a_region_the_union_of_items() -> None:
    items = [granule_item("a"), granule_item("b", left=501_000, top=5_000_500), granule_item("c", top=4_990_000)]
    plan = build_plan(items, RunConfig(chunk=2048))
    box = plan.lattice.geobox.boundingbox
    assert (box.left, box.bottom, box.right, box.top) == (500_000, 4_988_000, 503_000, 5_000_500)
    assert plan.shape == (1, 1250, 300)
    assert plan.aoi_geometry is None


def test_the_output_holds_the_region_and_little_more(sandbox: Sandbox, found: list[pystac.Item]) -> None:
    aoi = parse_bbox(sandbox.bbox)
    plan = build_plan(found, RunConfig(aoi=aoi))
    box = plan.lattice.geobox.boundingbox
    left, bottom, right, top = projected(aoi.geometry, 32631).bounds
    assert 0 <= left - box.left < 20.01
    assert 0 <= bottom - box.bottom < 20.01
    assert 0 <= box.right - right < 20.01
    assert 0 <= box.top - top < 20.01


# Which days


@pytest.mark.parametrize(
    ("epsg", "when", "day"),
    [
        (32660, "2021-06-01T12:59:59Z", dt.date(2021, 6, 1)),  # 177 E: 11 hours ahead
        (32660, "2021-06-01T13:00:00Z", dt.date(2021, 6, 2)),
        (32601, "2021-06-01T10:59:59Z", dt.date(2021, 5, 31)),  # 177 W: 11 hours behind
        (32601, "2021-06-01T11:00:00Z", dt.date(2021, 6, 1)),
        (32631, "2021-06-01T23:59:59Z", dt.date(2021, 6, 1)),  # 3 E
        (32630, "2021-06-01T00:00:00Z", dt.date(2021, 6, 1)),  # 3 W: truncated, so still UTC's
    ],
)
def test_days_are_solar_days(epsg: int, when: str, day: dt.date) -> None:
    assert build_plan([granule_item(epsg=epsg, when=when)], RunConfig()).days == (day,)


def test_one_pass_over_midnight_is_one_layer() -> None:
    items = [
        granule_item("before", epsg=32660, when="2021-06-01T23:59:50Z"),
        granule_item("after", epsg=32660, when="2021-06-02T00:00:10Z", top=4_999_000),
    ]
    plan = build_plan(items, RunConfig())
    assert plan.days == (dt.date(2021, 6, 2),)
    assert plan.granules_of(Region(0, 0, 0)) == list(plan.granules)
    assert [granule.id for granule in plan.granules] == ["before", "after"]


# Which regions


def projected(geometry: shapely.Geometry, epsg: int) -> shapely.Geometry:
    """By way of pieces of 100 m, finer than any that the package uses."""
    transform = Transformer.from_crs(4326, epsg, always_xy=True).transform
    return shapely.transform(shapely.segmentize(geometry, 0.001), transform, interleaved=False)


def brute_force(plan: Plan) -> tuple[dict[Region, tuple[int, ...]], set[Region]]:
    """The index by polygons, and those regions that are too close to call (a sliver of under 1 m)."""
    layers, height, width = plan.shape
    a, _, left, _, e, top = list(plan.lattice.geobox.affine)[:6]
    chunk = plan.config.chunk
    area = None if plan.config.aoi is None else projected(plan.config.aoi.geometry, 32631)
    index, close = {}, set()
    for layer in range(layers):
        for iy in range(math.ceil(height / min(chunk, height))):
            for ix in range(math.ceil(width / min(chunk, width))):
                rows, columns = (
                    (iy * chunk, min((iy + 1) * chunk, height)),
                    (ix * chunk, min((ix + 1) * chunk, width)),
                )
                ground = shapely.box(
                    left + a * columns[0], top + e * rows[1], left + a * columns[1], top + e * rows[0]
                )
                touching = tuple(
                    row
                    for row, granule in enumerate(plan.granules)
                    if granule.time.date() == plan.days[layer]
                    and shapely.box(*granule.red.geobox.boundingbox.bbox).intersection(ground).area > 0
                )
                region = Region(layer, iy, ix)
                if area is not None and area.intersects(ground.buffer(1)) != area.intersects(ground.buffer(-1)):
                    close.add(region)
                if touching and (area is None or not plan.config.clip or area.intersects(ground)):
                    index[region] = touching
    return index, close


@settings(max_examples=25)
@given(data=st.data())
def test_the_index_is_that_of_geometry(sandbox: Sandbox, found: list[pystac.Item], data: st.DataObject) -> None:
    west, south, east, north = sandbox.bbox
    part, rest = st.floats(-0.3, 0.5), st.floats(0.55, 1.3)
    lon = [west + data.draw(x) * (east - west) for x in (part, rest)]
    lat = [south + data.draw(x) * (north - south) for x in (part, rest)]
    lozenge = {
        "type": "Polygon",
        "coordinates": [
            [
                [lon[0], lat[0]],
                [lon[1], (lat[0] + lat[1]) / 2],
                [lon[0], lat[1]],
                [lon[0] - 0.002, (lat[0] + lat[1]) / 2],
                [lon[0], lat[0]],
            ]
        ],
    }
    aoi = data.draw(st.sampled_from([None, parse_bbox((lon[0], lat[0], lon[1], lat[1]))])) or parse_bbox(
        sandbox.bbox
    )
    if data.draw(st.booleans()):
        aoi = dataclasses.replace(aoi, geometry=shapely.from_geojson(json.dumps(lozenge)))
    config = RunConfig(
        aoi=aoi, crs=ZONE_31, chunk=2 * data.draw(st.integers(8, 200)), clip=data.draw(st.booleans())
    )
    plan = build_plan([item for item in found if "_31T" in item.id], config)
    expected, close = brute_force(plan)
    assert {k: v for k, v in plan.index.items() if k not in close} == {
        k: v for k, v in expected.items() if k not in close
    }
    assert list(plan.regions()) == sorted(plan.index)


def test_regions_only_where_granules_touch() -> None:
    plan = build_plan([granule_item("a"), granule_item("b", left=510_000, top=4_990_000)], RunConfig(chunk=100))
    assert plan.shape == (1, 1200, 1200)
    assert set(plan.index) == {Region(0, y, x) for d in (0, 10) for y in (d, d + 1) for x in (d, d + 1)}
    assert plan.granules_of(Region(0, 5, 5)) == []
    assert brute_force(plan)[0] == plan.index


def test_a_triangle_leaves_the_corners_out(tmp_path: Path, sandbox: Sandbox, found: list[pystac.Item]) -> None:
    west, south, east, north = sandbox.bbox
    file = tmp_path / "triangle.geojson"
    ring = [[west, south], [east, south], [west, north], [west, south]]
    file.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    aoi = read_aoi(file)
    plan = build_plan(found, RunConfig(aoi=aoi, chunk=32))
    rows, columns = plan.lattice.objects
    kept = {(region.iy, region.ix) for region in plan.regions()}
    assert (1, columns - 2) not in kept
    assert (rows - 2, 1) in kept
    assert 0.45 < len(kept) / (rows * columns) < 0.7
    whole = build_plan(found, RunConfig(aoi=aoi, chunk=32, clip=False))
    assert len({(region.iy, region.ix) for region in whole.regions()}) == rows * columns
    assert whole.aoi_geometry is None
    large = build_plan(found, RunConfig(aoi=aoi, chunk=2048))
    assert {(region.iy, region.ix) for region in large.regions()} == {(0, 0)}


def test_region_grids_tile_the_output(found: list[pystac.Item]) -> None:
    plan = build_plan(found, RunConfig(crs=ZONE_31, chunk=96))
    layer = [region for region in plan.regions() if region.layer == 0]
    assert sum(map(plan.region_pixels, layer)) == plan.shape[1] * plan.shape[2]
    for region in layer:
        grid = plan.region_geobox(region)
        assert grid.shape.y * grid.shape.x == plan.region_pixels(region)
        assert grid.affine.c == plan.lattice.geobox.affine.c + 960 * region.ix
        assert grid.affine.f == plan.lattice.geobox.affine.f - 960 * region.iy


# One plan, one id


@settings(max_examples=30)
@given(data=st.data())
def test_the_order_of_items_does_not_count(sandbox: Sandbox, found: list[pystac.Item], data: st.DataObject) -> None:
    config = RunConfig(aoi=parse_bbox(sandbox.bbox), chunk=data.draw(st.sampled_from([64, 128, 2048])))
    straight = build_plan(found, config)
    mixed = build_plan(data.draw(st.permutations(found)), config)
    assert mixed.id == straight.id
    assert mixed.granules == straight.granules
    assert mixed.index == straight.index
    assert mixed.lattice == straight.lattice
    assert sorted(mixed.dropped, key=lambda d: d.id) == sorted(straight.dropped, key=lambda d: d.id)


def changed(item: pystac.Item, change: Callable[[pystac.Item], None]) -> pystac.Item:
    other = copy.deepcopy(item)
    change(other)
    return other


def test_what_the_id_depends_on() -> None:
    item = granule_item("a", **{"s2:processing_baseline": "05.00"})
    plain = build_plan([item], RunConfig()).id

    def other_href(item: pystac.Item) -> None:
        item.assets["scl"].href = "https://example.org/b/scl.tif"

    def other_offset(item: pystac.Item) -> None:
        item.assets["nir"].extra_fields |= {"raster:offset": -0.05}

    def other_id(item: pystac.Item) -> None:
        item.id = "b"

    def same_pixels(item: pystac.Item) -> None:
        item.properties["eo:cloud_cover"] = 4

    assert (
        len(
            {plain, *(build_plan([changed(item, c)], RunConfig()).id for c in (other_href, other_offset, other_id))}
        )
        == 4
    )
    assert build_plan([item, granule_item("c")], RunConfig()).id != plain
    assert build_plan([item], RunConfig(chunk=64)).id != plain
    assert build_plan([item], RunConfig(offset=-1000)).id != plain
    assert build_plan([changed(item, same_pixels)], RunConfig()).id == plain


# A plan as files


def assert_same(one: Plan, other: Plan) -> None:
    assert other.id == one.id
    assert other.config.as_dict() == one.config.as_dict()
    for name in ("lattice", "days", "granules", "index", "spares", "dropped", "shape", "ancestors", "since"):
        assert getattr(other, name) == getattr(one, name), name
    assert list(other.index) == list(one.index)


PLANS: dict[str, Callable[[Sequence[pystac.Item], Sandbox], Plan]] = {
    "region": lambda items, sandbox: build_plan(items, RunConfig(aoi=parse_bbox(sandbox.bbox), chunk=64)),
    "whole": lambda items, _: build_plan(items, RunConfig(crs=ZONE_31, mask=(), cloud_cover=40.5)),
    "other zone": lambda items, _: build_plan(items, RunConfig(crs="EPSG:32630", dtype="float32")),
    "bare items": lambda *_: build_plan(
        [granule_item("é", **{"s2:processing_baseline": None, "platform": None})], RunConfig(offset=-1000)
    ),
    "odd origin": lambda *_: build_plan(
        [granule_item("a", left=500_000.1, top=4_999_999.7, when="2021-06-01T10:50:00.123456+02:00")], RunConfig()
    ),
    "some baselines": lambda *_: build_plan(
        [granule_item("a", **{"s2:processing_baseline": None}), granule_item("b", top=4_999_000)],
        RunConfig(offset=0, on_error="skip"),
    ),
}


@pytest.mark.parametrize("kind", PLANS)
def test_files_and_back(sandbox: Sandbox, found: list[pystac.Item], kind: str) -> None:
    plan = PLANS[kind](found, sandbox)
    files = encode_plan(plan)
    assert list(files) == [ITEMS, REGIONS, PLAN]  # plan.json last: where it is, the plan is whole
    assert_same(plan, decode_plan(files))
    assert encode_plan(decode_plan(files)) == files


def test_every_field_is_compared_above() -> None:
    assert {field.name for field in dataclasses.fields(Plan)} == {
        "config",
        "lattice",
        "layers",
        "granules",
        "index",
        "spares",
        "dropped",
        "ancestors",
        "since",
    }


def test_a_plan_that_took_anothers_place_has_tables_of_its_own(found: list[pystac.Item]) -> None:
    first = build_plan(found, RunConfig(crs=ZONE_31, chunk=64))
    region = next(first.regions())
    plan = dataclasses.replace(first, ancestors=("a", first.id), since={region: 2})
    files = encode_plan(plan)
    assert list(files) == ["items.2.parquet", "regions.2.parquet", PLAN]
    assert table_names(files[PLAN]) == ("items.2.parquet", "regions.2.parquet")
    assert_same(plan, decode_plan(files))
    assert len({plan.id, first.id, dataclasses.replace(plan, ancestors=("a",)).id}) == 3
    assert plan.as_first() == first


def test_what_another_algorithm_computed_counts_no_more(
    found: list[pystac.Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = encode_plan(dataclasses.replace(build_plan(found, RunConfig(crs=ZONE_31)), ancestors=("a",)))
    monkeypatch.setattr("ndvi_scale.config.ALGORITHM", 99)
    assert decode_plan(files).ancestors == ()


@pytest.mark.slow
def test_reading_a_plan_leaves_no_thread_behind(found: list[pystac.Item], tmp_path: Path) -> None:
    """One of Arrow's, alive when the interpreter ends, aborts the process: exit code 134 in place of ours."""
    for name, data in encode_plan(build_plan(found, RunConfig(crs=ZONE_31))).items():
        (tmp_path / name).write_bytes(data)
    script = """if True:
        import os, sys
        from pathlib import Path
        from ndvi_scale.planfile import decode_plan
        import odc.geo.geobox, shapely, pyarrow.parquet
        files = {path.name: path.read_bytes() for path in Path(sys.argv[1]).iterdir()}
        before = len(os.listdir("/proc/self/task"))
        decode_plan(files)
        print(len(os.listdir("/proc/self/task")) - before)
    """
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "0"


def test_the_files_can_be_read_without_us(found: list[pystac.Item]) -> None:
    plan = build_plan(found, RunConfig(crs=ZONE_31))
    files = encode_plan(plan)
    table = pq.read_table(pa.BufferReader(files[ITEMS]))
    used = [granule.id for granule in plan.granules]
    spares = [(newer, spare.id) for newer, older in plan.spares.items() for spare in older]
    assert spares
    assert table["id"].to_pylist() == [*used, *(older for _, older in spares)]
    assert table["stands_in_for"].to_pylist() == ["" for _ in used] + [newer for newer, _ in spares]
    assert table["red"].to_pylist()[2]["offset"] == -1000
    assert json.loads(files[PLAN])["id"] == plan.id


def edited(files: dict[str, bytes], change: Callable[[dict[str, Any]], Any]) -> dict[str, bytes]:
    head = json.loads(files[PLAN])
    change(head)
    return {**files, PLAN: json.dumps(head).encode()}


def other_hrefs(files: dict[str, bytes]) -> dict[str, bytes]:
    rows = pq.read_table(pa.BufferReader(files[ITEMS])).to_pylist()
    rows[0]["red"]["href"] += "?other"
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return {**files, ITEMS: buffer.getvalue().to_pybytes()}


DAMAGE: dict[str, Callable[[dict[str, bytes]], dict[str, bytes]]] = {
    "head cut": lambda files: {**files, PLAN: files[PLAN][:-20]},
    "head empty": lambda files: {**files, PLAN: b""},
    "head is no object": lambda files: {**files, PLAN: b"[]"},
    "items cut": lambda files: {**files, ITEMS: files[ITEMS][: len(files[ITEMS]) // 2]},
    "regions cut": lambda files: {**files, REGIONS: files[REGIONS][:-8]},
    "items gone": lambda files: {name: data for name, data in files.items() if name != ITEMS},
    "regions gone": lambda files: {name: data for name, data in files.items() if name != REGIONS},
    "another id": lambda files: edited(files, lambda head: head.update(id="0" * 64)),
    "another chunk": lambda files: edited(files, lambda head: head["config"].update(chunk=96)),
    "a wrong chunk": lambda files: edited(files, lambda head: head["config"].update(chunk=97)),
    "an unknown setting": lambda files: edited(files, lambda head: head["config"].update(colour="red")),
    "a setting gone": lambda files: edited(files, lambda head: head["config"].pop("mask")),
    "another grid": lambda files: edited(files, lambda head: head["lattice"].update(shape=[640, 640])),
    "a day gone": lambda files: edited(files, lambda head: head["days"].pop()),
    "another href": other_hrefs,
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_plan_is_refused(tmp_path: Path, sandbox: Sandbox, found: list[pystac.Item], kind: str) -> None:
    files = encode_plan(build_plan(found, RunConfig(aoi=parse_bbox(sandbox.bbox), chunk=64)))
    state = tmp_path / "ndvi.zarr.run"
    state.mkdir()
    for name, data in DAMAGE[kind](files).items():
        (state / name).write_bytes(data)
    with pytest.raises(StoreError):
        load_plan(open_store(str(tmp_path / "ndvi.zarr")))


def test_another_format_is_refused(found: list[pystac.Item]) -> None:
    files = encode_plan(build_plan(found, RunConfig(crs=ZONE_31)))
    with pytest.raises(StoreError) as caught:
        decode_plan(edited(files, lambda head: head.update(format=1)))
    says(caught, "format 1", "reads 2", "--overwrite")


def test_a_plan_beside_its_store(tmp_path: Path, found: list[pystac.Item]) -> None:
    plan = build_plan(found, RunConfig(crs=ZONE_31, chunk=64))
    store = open_store(str(tmp_path / "ndvi.zarr"))
    assert load_plan(store) is None
    save_plan(store, plan)
    again = load_plan(store)
    assert again is not None
    assert_same(plan, again)


# Real


def test_a_real_field(real_data: Path) -> None:
    aoi = parse_bbox((4.05, 50.74, 4.07, 50.75))
    items = search_items(real_data / "catalog" / "catalog.json", aoi=aoi)
    plan = build_plan(items, RunConfig(aoi=aoi))
    assert len(plan.granules) == len(plan.days) == 72
    assert {granule.tile for granule in plan.granules} == {"31UES"}
    assert {granule.red.offset for granule in plan.granules} == {0}
    assert plan.days == tuple(sorted({granule.time.date() for granule in plan.granules}))
    assert sorted(plan.index) == [Region(layer, 0, 0) for layer in range(72)]
    assert_same(plan, decode_plan(encode_plan(plan)))
