"""The output grid: which zone, which granules, which pixels; other CRSs, coarser pixels, tiles, odd places."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import shapely
from pyproj import Transformer

from ndvi_scale.aoi import parse_bbox, read_aoi, tile_aoi
from ndvi_scale.config import RunConfig, make_config
from ndvi_scale.errors import ConfigError, EmptySearchError
from ndvi_scale.grid import ground_of, middle_longitude
from ndvi_scale.plan import Plan, build_plan, build_plans
from ndvi_scale.search import search_items
from ndvi_scale.sentinel2 import tile_corner
from test_plan import ZONE_31, granule_item, lonlat_box, says

if TYPE_CHECKING:
    from pathlib import Path

    import pystac

    from ndvi_scale.sandbox import Sandbox


@pytest.fixture(scope="module")
def found(sandbox: Sandbox) -> list[pystac.Item]:
    return search_items(sandbox.items)


def zones(plan: Plan) -> set[int]:
    return {granule.epsg for granule in plan.granules}


def crs_of(plan: Plan) -> int | None:
    crs = plan.lattice.geobox.crs
    return crs.to_epsg() if crs else None


# Zones


def test_several_zones_and_none_covers(sandbox: Sandbox, found: list[pystac.Item]) -> None:
    west, south, east, north = sandbox.bbox
    for aoi in (None, parse_bbox((west - 1, south, east + 1, north))):
        with pytest.raises(ConfigError) as caught:
            build_plan(found, RunConfig(aoi=aoi))
        says(caught, "EPSG:32630, EPSG:32631", "none covers", "give crs", "per-zone")


def seam(overlap: float) -> tuple[list[pystac.Item], tuple[float, float, float, float]]:
    """A granule each side of a seam, the western one in zone 30, and a box of 1 km around the middle.

    The eastern one ends `overlap` metres west of the middle, the western one as far east of it.
    """
    x, y = 167_000, 4_999_000
    there, up = Transformer.from_crs(32631, 32630, always_xy=True).transform(x, y)
    east = granule_item("east", left=round(x - overlap, -1), top=5_000_000)
    west = granule_item("west", epsg=32630, left=round(there + overlap - 2_000, -1), top=round(up + 1_000, -1))
    return [east, west], lonlat_box(32631, x - 500, y - 500, x + 500, y + 500)


def test_the_zone_that_covers_is_taken_and_the_lower_of_two() -> None:
    items, (west, south, east, north) = seam(300)
    middle = (west + east) / 2
    for box, zone in (((middle + 0.004, south, east, north), 32631), ((west, south, middle - 0.004, north), 32630)):
        plan = build_plan(items, RunConfig(aoi=parse_bbox(box)))
        assert crs_of(plan) == zone
        assert zones(plan) == {zone}
        assert [d.reason for d in plan.dropped] == [
            f"lies in EPSG:{32630 + 32631 - zone}, the output in EPSG:{zone}"
        ]
    both = parse_bbox((middle - 0.001, south, middle + 0.001, north))
    assert crs_of(build_plan(items, RunConfig(aoi=both))) == 32630


def test_a_region_beyond_all_granules_does_not_stop_the_choice() -> None:
    """No granule covers what none has."""
    items, (_, south, east, north) = seam(300)
    plan = build_plan(items, RunConfig(aoi=parse_bbox((east - 0.003, south, east + 0.1, north))))
    assert crs_of(plan) == 32631


def test_a_crs_warps_what_its_own_zone_lacks() -> None:
    items, box = seam(300)
    for crs in (32630, 32631):
        plan = build_plan(items, RunConfig(aoi=parse_bbox(box), crs=f"EPSG:{crs}"))
        assert crs_of(plan) == crs
        assert zones(plan) == {32630, 32631}
        assert not plan.dropped
        assert set(plan.index.values()) == {(0, 1)}


def test_a_crs_whose_zone_covers_needs_no_other() -> None:
    items, (west, south, east, north) = seam(300)
    plan = build_plan(
        items, RunConfig(aoi=parse_bbox(((west + east) / 2 + 0.004, south, east, north)), crs=ZONE_31)
    )
    assert zones(plan) == {32631}
    assert len(plan.dropped) == 1


def test_without_a_region_a_crs_of_granules_is_their_zone(found: list[pystac.Item]) -> None:
    assert zones(build_plan(found, RunConfig(crs="EPSG:32630"))) == {32630}


def test_any_crs_in_metres_takes_all(sandbox: Sandbox, found: list[pystac.Item]) -> None:
    plan = build_plan(found, RunConfig(aoi=parse_bbox(sandbox.bbox), crs="EPSG:2154"))
    assert crs_of(plan) == 2154
    assert zones(plan) == {32630, 32631}
    left, bottom, right, top = plan.lattice.geobox.boundingbox.bbox
    assert all(side % 10 == 0 for side in (left, bottom, right, top))
    area = plan.aoi_geometry
    assert area is not None
    inner = area.bounds
    gaps = (inner[0] - left, inner[1] - bottom, right - inner[2], top - inner[3])
    assert all(0 <= gap < 10.01 for gap in gaps), gaps
    whole = build_plan(found, RunConfig(crs="EPSG:2154"))
    assert whole.shape[1] > 350


def test_a_crs_without_a_code(sandbox: Sandbox, found: list[pystac.Item], tmp_path: Path) -> None:
    from ndvi_scale import open_store, run_batch, thread_pool
    from ndvi_scale.ledger import load_plan
    from ndvi_scale.write import read_attributes

    laea = "+proj=laea +lat_0=43 +lon_0=1 +datum=WGS84 +units=m"
    plan = build_plan(found, RunConfig(aoi=parse_bbox(sandbox.bbox), crs=laea, resolution=40))
    store = open_store(tmp_path / "ndvi.zarr")
    with thread_pool(2) as submit:
        assert not run_batch(plan, store, submit).failed
    attributes = read_attributes(store) or {}
    assert "proj:code" not in attributes
    assert "Azimuthal" in attributes["proj:wkt2"]
    stored = load_plan(store)
    assert stored is not None
    assert (stored.id, stored.lattice, stored.index) == (plan.id, plan.lattice, plan.index)


@pytest.mark.parametrize(
    ("crs", "parts"),
    [
        ("EPSG:4326", ("EPSG:4326", "not projected in metres", "EPSG:32631")),
        ("EPSG:2263", ("not projected in metres", "EPSG:32631")),  # New York, in feet
        ("EPSG:5698", ("not projected in metres", "EPSG:32631")),  # with heights
        ("EPSG:99999", ("unknown", "EPSG:32631")),
        ("nonsense", ("unknown", "EPSG:32631")),
    ],
)
def test_what_is_no_crs_for_a_map(crs: str, parts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig(crs=crs)
    says(caught, crs, *parts)


def test_a_crs_for_another_part_of_the_world(found: list[pystac.Item], sandbox: Sandbox) -> None:
    with pytest.raises(ConfigError) as caught:
        build_plan(found, RunConfig(aoi=parse_bbox((1, -50, 2, -49)), crs="+proj=gnom +lat_0=90 +units=m"))
    says(caught, "no place for")


# One grid a zone


def test_a_plan_of_every_zone(sandbox: Sandbox, found: list[pystac.Item]) -> None:
    aoi = parse_bbox(sandbox.bbox)
    plans = build_plans(found, RunConfig(aoi=aoi, grid="per-zone"))
    assert list(plans) == ["EPSG_32630", "EPSG_32631"]
    for name, plan in plans.items():
        assert zones(plan) == {crs_of(plan)} == {int(name[5:])}
        assert plan.config == RunConfig(aoi=aoi, grid="per-zone", crs=name.replace("_", ":"))
        native = plan.granules[0].red.geobox
        assert (plan.lattice.geobox.affine.c - native.affine.c) % 20 == 0
    seen = [granule.id for plan in plans.values() for granule in plan.granules]
    dropped = [item.id for plan in plans.values() for item in plan.dropped]
    assert sorted(seen + dropped) == sorted(item.id for item in found)


def test_a_drop_is_told_with_its_zone(sandbox: Sandbox, found: list[pystac.Item]) -> None:
    plans = build_plans(found, RunConfig(aoi=parse_bbox(sandbox.bbox), grid="per-zone"))
    assert not plans["EPSG_32630"].dropped
    assert [item.id for item in plans["EPSG_32631"].dropped] == ["S2A_31TCJ_20210505_0_L2A"]


def test_a_crs_and_zones_contradict(found: list[pystac.Item]) -> None:
    with pytest.raises(ConfigError) as caught:
        build_plans(found, RunConfig(crs="EPSG:2154", grid="per-zone"))
    says(caught, "EPSG:2154", "every zone has its own CRS", "leave crs out")


def test_a_zone_s_grid_holds_what_it_has_of_the_region() -> None:
    items, (west, south, east, north) = seam(300)
    plans = build_plans(items, RunConfig(aoi=parse_bbox((west - 0.01, south, east + 0.5, north)), grid="per-zone"))
    assert {name: len(plan.granules) for name, plan in plans.items()} == {"EPSG_32630": 1, "EPSG_32631": 1}
    assert all(plan.shape[2] <= 210 for plan in plans.values())


def test_zones_without_ground_of_the_region_are_left_out() -> None:
    items, (_, south, east, north) = seam(300)
    plans = build_plans(items, RunConfig(aoi=parse_bbox((east, south, east + 0.002, north)), grid="per-zone"))
    assert list(plans) == ["EPSG_32631"]
    with pytest.raises(EmptySearchError, match="outside the pixels"):
        build_plans(items, RunConfig(aoi=parse_bbox((10, 10, 11, 11)), grid="per-zone"))
    with pytest.raises(ConfigError, match="use build_plans"):
        build_plan(items, RunConfig(grid="per-zone"))


# Pixel sizes


@pytest.mark.parametrize("resolution", [20, 30, 60, 100])
def test_coarser_pixels_lie_on_the_native_ones(found: list[pystac.Item], resolution: float) -> None:
    native, plan = (build_plan(found, RunConfig(crs=ZONE_31, resolution=r)) for r in (None, resolution))
    assert plan.lattice.geobox.resolution.x == resolution
    anchor = plan.granules[0].red.geobox.affine
    assert (plan.lattice.geobox.affine.c - anchor.c) % resolution == 0
    assert (plan.lattice.geobox.affine.f - anchor.f) % resolution == 0
    for fine, coarse in zip(native.lattice.geobox.boundingbox, plan.lattice.geobox.boundingbox, strict=True):
        assert abs(fine - coarse) < resolution
    assert native.shape[0] == plan.shape[0]


@pytest.mark.parametrize("resolution", [5, 15, 10.4, 6000])
def test_pixel_sizes_that_are_no_multiple(found: list[pystac.Item], resolution: float) -> None:
    with pytest.raises(ConfigError) as caught:
        build_plan(found, RunConfig(crs=ZONE_31, resolution=resolution))
    says(caught, f"resolution {resolution:g} m", "whole multiple", "10 m", "give 10, 20, 30")


# Tiles


@pytest.mark.parametrize(
    ("tile", "corner"),
    [  # recorded items' own origins
        ("31TCJ", (32631, 300_000, 4_900_020)),
        ("31TCH", (32631, 300_000, 4_800_000)),
        ("30TYP", (32630, 699_960, 4_900_020)),
        ("07HFE", (32707, 600_000, 6_500_020)),
        ("01WCP", (32601, 300_000, 7_400_040)),
        ("22HBD", (32722, 199_980, 5_900_020)),
        ("01VCG", (32601, 300_000, 6_700_020)),
        ("34LBP", (32734, 199_980, 8_900_020)),
        ("33XWJ", (32633, 499_980, 8_900_040)),
        ("10SDG", (32610, 399_960, 4_200_000)),
        ("20EPT", (32720, 600_000, 3_300_040)),
        ("32TMT", (32632, 399_960, 5_300_040)),
        ("35UPU", (32635, 600_000, 5_900_040)),
    ],
)
def test_where_a_tile_begins(tile: str, corner: tuple[int, int, int]) -> None:
    assert tile_corner(tile) == corner


def test_tiles_are_those_of_every_recorded_item(real_data: Path) -> None:
    """Wherever a response gives a tile and the grid of a 10 m band, both agree."""
    seen = set()
    for path in sorted((real_data / "stac").rglob("*.json")):
        document = json.loads(path.read_text())
        for item in document.get("features", [document]) if isinstance(document, dict) else document:
            code = str(item.get("properties", {}).get("grid:code", ""))
            for key in ("red", "B04_10m", "B04"):
                transform = item.get("assets", {}).get(key, {}).get("proj:transform")
                if code.startswith("MGRS-") and transform:
                    assert tile_corner(code[5:])[1:] == (transform[2], transform[5]), (path.name, item["id"])
                    seen.add(code[5:])
    assert len(seen) > 40


def test_the_ground_of_tiles_is_that_of_their_footprints(real_data: Path) -> None:
    """MGRS footprints drawn by others, with straight edges from corner to corner; across the antimeridian, too."""
    drawn: dict[str, list[shapely.Geometry]] = {}
    for feature in json.loads((real_data / "aoi" / "s2_mgrs_tiles_subset.geojson").read_text())["features"]:
        part = shapely.force_2d(shapely.from_geojson(json.dumps(feature["geometry"])))
        drawn.setdefault(feature["properties"]["name"], []).append(part)
    assert len(drawn) > 35
    for tile, parts in drawn.items():
        footprint, area = shapely.union_all(parts), tile_aoi([tile]).geometry
        assert area.symmetric_difference(footprint).area < 2e-2 * footprint.area, tile


def test_a_tile_is_its_own_grid() -> None:
    items = [
        granule_item("in", left=399_960, top=4_900_020, **{"grid:code": "MGRS-31TDJ"}),
        granule_item("other", left=400_960, top=4_900_020, **{"grid:code": "MGRS-31TCJ"}),
    ]
    plan = build_plan(items, make_config({"tile": "31tdj"}))
    box = plan.lattice.geobox.boundingbox
    assert (box.left, box.top, box.right, box.bottom) == (399_960, 4_900_020, 509_760, 4_790_220)
    assert [granule.id for granule in plan.granules] == ["in"]
    assert [d.reason for d in plan.dropped] == ["is of tile 31TCJ, not 31TDJ"]
    both = build_plan(items, make_config({"tile": "31TDJ, T31TCJ"}))
    assert len(both.granules) == 2
    assert 300_000 - 10_240 < both.lattice.geobox.boundingbox.left <= 300_000  # on a block of 31TDJ
    part = build_plan(
        items, make_config({"tile": "31TDJ", "bbox": lonlat_box(32631, 400_100, 4_899_000, 401_900, 4_899_900)})
    )
    assert max(part.shape[1:]) < 250
    with pytest.raises(EmptySearchError, match="none of 2 items is of tile 31TEJ"):
        build_plan(items, make_config({"tile": "31TEJ"}))


@pytest.mark.parametrize("tile", ["31", "31TC", "31TIJ", "99TCJ", "31TCJ1", "31TZZ", "61TCJ", "00TCJ", "Toulouse"])
def test_what_is_no_tile(tile: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_config({"tile": tile})
    says(caught, "is no MGRS tile", "31TCJ")


@pytest.mark.parametrize("tile", ["", " , "])
def test_no_tile_at_all(tile: str) -> None:
    with pytest.raises(ConfigError, match="names none"):
        make_config({"tile": tile})


def test_commas_too_many_are_forgiven() -> None:
    assert make_config({"tile": "31TDJ,,T31TCJ,"}).tiles == ("31TCJ", "31TDJ")


def test_a_square_that_a_zone_does_not_have() -> None:
    with pytest.raises(ConfigError, match="zone 31 has squares A to H"):
        make_config({"tile": "31TSJ"})


# Odd places


def test_a_southern_zone() -> None:
    item = granule_item("south", epsg=32741, left=399_960, top=7_500_040)
    aoi = parse_bbox(lonlat_box(32741, 400_400, 7_498_500, 401_300, 7_499_500))
    plan = build_plan([item], RunConfig(aoi=aoi, chunk=64))
    assert crs_of(plan) == 32741
    assert len(plan.index) > 1
    box = plan.lattice.geobox.boundingbox
    assert 399_960 <= box.left < 400_400
    assert 7_499_500 < box.top <= 7_500_040


def fiji() -> list[pystac.Item]:
    """Granules each side of 180 degrees."""
    items = []
    for tile in ("60KXF", "60KYF", "01KAB", "01KBB"):
        epsg, left, top = tile_corner(tile)
        item = granule_item(tile, epsg=epsg, left=left, top=top, when="2021-06-01T22:20:00Z")
        for asset, size in (("red", 10_980), ("nir", 10_980), ("scl", 5_490)):
            item.assets[asset].extra_fields["proj:shape"] = [size, size]
        items.append(item)
    return items


def test_across_the_antimeridian() -> None:
    """Fiji lies on both sides: one lattice in its own CRS or in zone 60 holds its islands side by side."""
    aoi = parse_bbox("178.5,-17.3,-179,-16")
    for crs in ("EPSG:32760", "EPSG:3460"):
        plan = build_plan(fiji(), RunConfig(aoi=aoi, crs=crs))
        assert zones(plan) == {32760, 32701}
        assert 250_000 < plan.shape[2] * 10 < 300_000
        assert 178 < abs(middle_longitude(plan.lattice.geobox)) <= 180
        used = {row for rows in plan.index.values() for row in rows}
        assert used == set(range(len(plan.granules)))
    with pytest.raises(ConfigError, match="several UTM zones"):
        build_plan(fiji(), RunConfig(aoi=aoi))


@pytest.mark.slow
def test_a_region_that_spans_the_globe_by_mistake_is_refused(real_data: Path) -> None:
    """Fiji as make_valid leaves it: slivers from one edge of the map to the other."""
    aoi = read_aoi(real_data / "aoi" / "ne10m_fiji_valid.geojson")
    with pytest.raises(ConfigError) as caught:
        build_plan(fiji(), RunConfig(aoi=aoi, crs="EPSG:3832", chunk=512))
    says(caught, "the region spans", "other side of the world", "larger chunk")


def test_the_ground_of_a_granule_in_another_zone_lies_where_it_is() -> None:
    """Round its whole edge, between the points where it was cut, too."""
    grid = build_plan([granule_item("a")], RunConfig()).granules[0].red.geobox
    there = ground_of(grid, build_plan([granule_item("b", epsg=32632)], RunConfig()).lattice.geobox.crs)
    edge = shapely.segmentize(shapely.box(*grid.boundingbox.bbox).exterior, 7)
    exact = shapely.transform(edge, Transformer.from_crs(32631, 32632, always_xy=True).transform, interleaved=False)
    assert shapely.distance(there.exterior, shapely.points(exact.coords)).max() < 0.01
    assert np.isfinite(there.area)


def test_islands_holes_and_exclaves(real_data: Path) -> None:
    """Vaucluse has an exclave in Drome, which therefore has a hole: both keep their pixels and no others."""
    epsg = 32631
    exclave = read_aoi(real_data / "aoi" / "fr_departement_84-vaucluse.geojson").geometry
    drome = read_aoi(real_data / "aoi" / "fr_departement_26-drome.geojson").geometry
    parts = shapely.get_parts(exclave)
    assert len(parts) > 1
    small = min(parts, key=lambda part: part.area)
    assert small.within(shapely.box(*drome.bounds))
    x, y = Transformer.from_crs(4326, epsg, always_xy=True).transform(*small.representative_point().coords[0])
    item = granule_item("a", left=round(x / 20) * 20 - 1000, top=round(y / 20) * 20 + 1000)
    import dataclasses

    for geometry, inside in ((exclave, True), (drome, False)):
        aoi = dataclasses.replace(parse_bbox("0,0,1,1"), geometry=geometry)
        plan = build_plan([item], RunConfig(aoi=aoi))
        area = plan.aoi_geometry
        assert area is not None
        assert area.contains(shapely.Point(x, y)) is inside
