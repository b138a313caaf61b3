"""AOI: boxes and GeoJSON files, the antimeridian, and what is refused."""

from __future__ import annotations

import contextlib
import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import shapely
from hypothesis import assume, given
from hypothesis import strategies as st
from shapely.geometry import mapping, shape

from ndvi_scale.aoi import Aoi, parse_bbox, read_aoi, split_antimeridian
from ndvi_scale.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

TOULOUSE = shapely.box(1.2, 43.5, 1.6, 43.7)
LON = st.floats(-180, 180)
LAT = st.floats(-90, 90)


def write(folder: Path, document: Any) -> Path:
    path = folder / "aoi.geojson"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def feature(geometry: Any) -> dict[str, Any]:
    return {"type": "Feature", "properties": {}, "geometry": geometry}


# Boxes


def test_bbox_is_west_south_east_north() -> None:
    aoi = parse_bbox("1.2, 43.5, 1.6, 43.7")
    assert aoi.geometry.equals(TOULOUSE)
    assert aoi.bbox == (1.2, 43.5, 1.6, 43.7)
    assert aoi.is_box
    assert parse_bbox([1.2, 43.5, 1.6, 43.7]).geometry == aoi.geometry


@given(LON, LAT, LON, LAT)
def test_bbox_encloses_what_it_says(west: float, south: float, east: float, north: float) -> None:
    width = east - west if west <= east else east - west + 360
    assume(north - south > 1e-6)
    assume(width > 1e-6)
    assume(abs(west - east) > 1e-6)
    aoi = parse_bbox((west, south, east, north))
    assert aoi.geometry.is_valid
    assert aoi.geometry.area == pytest.approx(width * (north - south), rel=1e-6, abs=1e-9)
    assert all(-180 <= x <= 180 for x in shapely.get_coordinates(aoi.geometry)[:, 0])
    if -180 < west < 180 and -180 < east < 180:
        assert aoi.bbox == (west, south, east, north)
        assert aoi.is_box == (west < east)
    # What is written and read again is the same region, however wide.
    assert split_antimeridian(shape(aoi.to_geojson())).equals(aoi.geometry)


@given(st.lists(st.floats() | st.integers(), max_size=6))
def test_bbox_never_fails_but_with_a_config_error(numbers: list[float]) -> None:
    with contextlib.suppress(ConfigError):
        aoi = parse_bbox(numbers)
        assert len(numbers) == 4
        assert aoi.geometry.area > 0


def test_bbox_crosses_the_antimeridian_when_west_exceeds_east() -> None:
    aoi = parse_bbox("177,-20,-178,-16")
    expected = shapely.MultiPolygon([shapely.box(177, -20, 180, -16), shapely.box(-180, -20, -178, -16)])
    assert aoi.geometry.equals(expected)
    assert aoi.bbox == (177, -20, -178, -16)
    assert not aoi.is_box


@pytest.mark.parametrize(
    ("text", "bbox"),
    [
        ("180,0,-170,1", (-180, 0, -170, 1)),
        ("170,0,-180,1", (170, 0, 180, 1)),
        ("-180,-90,180,90", (-180, -90, 180, 90)),
    ],
)
def test_bbox_that_only_touches_the_antimeridian_is_one_box(text: str, bbox: tuple[float, ...]) -> None:
    aoi = parse_bbox(text)
    assert aoi.is_box
    assert aoi.bbox == bbox


@pytest.mark.parametrize(
    ("text", "value", "rule", "remedy"),
    [
        ("1,2,3", "'1,2,3'", "four finite numbers", "Write W,S,E,N"),
        ("1,2,3,x", "'1,2,3,x'", "four finite numbers", "Write W,S,E,N"),
        ("", "''", "four finite numbers", "Write W,S,E,N"),
        ("1,2,3,nan", "nan", "four finite numbers", "Write W,S,E,N"),
        ("-inf,2,3,4", "-inf", "four finite numbers", "Write W,S,E,N"),
        ("181,2,3,4", "W = 181.0", "outside [-180, 180]", "Give degrees"),
        ("1,2,-180.5,4", "E = -180.5", "outside [-180, 180]", "Give degrees"),
        ("1,-91,3,4", "S = -91.0", "outside [-90, 90]", "Give degrees"),
        ("300000,4800000,400000,4900000", "W = 300000.0", "outside [-180, 180]", "EPSG:4326"),
        ("1,4,3,2", "S = 4.0", "must be below N = 2.0", "The order is W,S,E,N"),
        ("1,4,3,4", "S = 4.0", "must be below N = 4.0", "The order is W,S,E,N"),
        ("1,2,1,4", "W = 1.0 and E = 1.0", "no area", "Move them apart"),
        ("180,2,-180,4", "W = 180.0 and E = -180.0", "no area", "Move them apart"),
        ("0,0,5e-324,5e-324", "5e-324", "no area", "Move them apart"),
    ],
)
def test_bbox_refused(text: str, value: str, rule: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_bbox(text)
    assert all(part in str(caught.value) for part in (value, rule, remedy)), str(caught.value)


# Files


@pytest.mark.parametrize(
    "document",
    [
        mapping(TOULOUSE),
        mapping(shapely.MultiPolygon([TOULOUSE])),
        feature(mapping(TOULOUSE)),
        {"type": "FeatureCollection", "features": [feature(mapping(TOULOUSE)), feature(mapping(TOULOUSE))]},
        {"type": "GeometryCollection", "geometries": [mapping(TOULOUSE)]},
        feature({"type": "GeometryCollection", "geometries": [mapping(TOULOUSE)]}),
        mapping(shapely.force_3d(TOULOUSE, 120.0)),
        {
            **mapping(TOULOUSE),
            "crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"}},
        },
        {**mapping(TOULOUSE), "crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::4326"}}},
        {**mapping(TOULOUSE), "crs": {"type": "name", "properties": {"name": "EPSG:4326"}}},
        {**mapping(TOULOUSE), "crs": None},
    ],
)
def test_every_kind_of_geojson_is_read(tmp_path: Path, document: Any) -> None:
    path = write(tmp_path, document)
    aoi = read_aoi(path)
    assert aoi.geometry.equals(TOULOUSE)
    assert not aoi.geometry.has_z
    assert aoi.source == str(path)
    assert read_aoi(write(tmp_path, aoi.to_geojson())).geometry.equals(TOULOUSE)


def test_features_are_united(tmp_path: Path) -> None:
    boxes = [shapely.box(0, 0, 2, 2), shapely.box(1, 1, 3, 3), shapely.box(7, 7, 8, 8)]
    document = {"type": "FeatureCollection", "features": [feature(mapping(box)) for box in boxes]}
    aoi = read_aoi(write(tmp_path, document))
    assert aoi.geometry.area == pytest.approx(4 + 4 - 1 + 1)
    assert aoi.bbox == (0, 0, 8, 8)
    assert not aoi.is_box


def test_geometries_without_area_beside_polygons_are_left_out_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    point = {"type": "Point", "coordinates": [7, 7]}
    document = {
        "type": "FeatureCollection",
        "features": [feature(mapping(TOULOUSE)), feature(point), feature(None)],
    }
    assert read_aoi(write(tmp_path, document)).geometry.equals(TOULOUSE)
    assert "left out 1 geometries without area" in caplog.text


def test_rounding_beyond_the_antimeridian_is_no_error(tmp_path: Path) -> None:
    ring = [[179, 0], [180.0000000000001, 0], [180.0000000000001, 1], [179, 1], [179, 0]]
    aoi = read_aoi(write(tmp_path, {"type": "Polygon", "coordinates": [ring]}))
    assert aoi.bbox == (179, 0, 180, 1)


BOWTIE = {"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [1, 0], [0, 1], [0, 0]]]}
UTM = {
    "type": "Polygon",
    "coordinates": [[[300000, 4800000], [310000, 4800000], [310000, 4810000], [300000, 4800000]]],
}


@pytest.mark.parametrize(
    ("document", "value", "rule", "remedy"),
    [
        ("{", "aoi.geojson", "not JSON", "ogr2ogr"),
        ("<kml/>", "aoi.geojson", "not JSON", "ogr2ogr"),
        ([1], "None", "no GeoJSON type", "Give a Polygon"),
        ({"a": 1}, "None", "no GeoJSON type", "Give a Polygon"),
        ({"type": "Topology"}, "'Topology'", "no GeoJSON type", "Give a Polygon"),
        (
            {"type": "FeatureCollection"},
            "'FeatureCollection'",
            "no GeoJSON type with its members",
            "Give a Polygon",
        ),
        ({"type": "Point", "coordinates": [1, 2]}, "Point", "no polygon", "buffer points and lines"),
        ({"type": "LineString", "coordinates": [[1, 2], [3, 4]]}, "LineString", "no polygon", "buffer"),
        ({"type": "FeatureCollection", "features": []}, "no geometry", "no polygon", "Give a Polygon"),
        (feature(None), "no geometry", "no polygon", "Give a Polygon"),
        ({"type": "Polygon", "coordinates": []}, "Polygon", "no polygon that has one", "Give a Polygon"),
        ({"type": "Polygon", "coordinates": [[1, 2]]}, "Polygon", "rings of [lon, lat] pairs", "again"),
        ({"type": "Polygon"}, "Polygon", "rings of [lon, lat] pairs", "again"),
        ({"type": "Polygon", "coordinates": "abc"}, "Polygon", "rings of [lon, lat] pairs", "again"),
        (
            {"type": "Polygon", "coordinates": [[[0, 0], [1e999, 0], [1, 1]]]},
            "inf",
            "outside lon",
            "EPSG:4326",
        ),
        (BOWTIE, "Self-intersection[0.5 0.5]", "not valid", "make_valid"),
        (UTM, "(300000.0, 4800000.0)", "probably projected", "EPSG:4326"),
        (
            '{"type":"Polygon","coordinates":[[[0,0],[1,NaN],[1,1],[0,0]]]}',
            "(1.0, nan)",
            "outside lon",
            "EPSG:4326",
        ),
        (
            {**UTM, "crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32631"}}},
            "EPSG::32631",
            "lon/lat on WGS84",
            "Reproject",
        ),
        ({**mapping(TOULOUSE), "crs": "EPSG:2154"}, "EPSG:2154", "lon/lat on WGS84", "Reproject"),
    ],
)
def test_file_refused(tmp_path: Path, document: Any, value: str, rule: str, remedy: str) -> None:
    path = write(tmp_path, document)
    with pytest.raises(ConfigError) as caught:
        read_aoi(path)
    assert all(part in str(caught.value) for part in (str(path), value, rule, remedy)), str(caught.value)


@pytest.mark.parametrize("opened", ["[", '{"type":"GeometryCollection","geometries":['])
def test_a_file_that_nests_too_deep_is_refused(tmp_path: Path, opened: str) -> None:
    closed = "".join({"[": "]", "{": "}"}[sign] for sign in reversed(opened) if sign in "[{")
    for depth in (900, 200_000):
        path = write(tmp_path, opened * depth + closed * depth)
        with pytest.raises(ConfigError, match=r"nested too deep|no GeoJSON type|no polygon"):
            read_aoi(path)


def test_a_polygon_that_nests_too_deep_is_refused(tmp_path: Path) -> None:
    text = '{"type":"Polygon","coordinates":' + "[" * 900 + "1" + "]" * 900 + "}"
    with pytest.raises(ConfigError, match="rings of"):
        read_aoi(write(tmp_path, text))


@pytest.mark.parametrize("name", ["absent.geojson", "."])
def test_unreadable_file_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read \(.+\)\. Check the path"):
        read_aoi(tmp_path / name)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "aoi.gpkg"
    path.write_bytes(b"\xff\xfe\x00binary")
    with pytest.raises(ConfigError, match="not JSON"):
        read_aoi(path)


# The antimeridian


@given(st.floats(-180, 180), st.floats(0.1, 170), st.floats(-89, 80), st.floats(0.1, 9))
def test_a_polygon_anywhere_keeps_its_area_when_split(
    west: float, width: float, south: float, height: float
) -> None:
    """A box drawn across the antimeridian with wrapped longitudes is the box that was meant."""
    east = west + width
    wrapped = east - 360 if east > 180 else east
    assume(abs(wrapped - west) > 1e-6)
    assume(abs(east - 180) > 1e-6)
    assume(west == 180 or 180 - west > 1e-6)  # a sliver of one rounding may vanish in the cut
    ring = [(west, south), (wrapped, south), (wrapped, south + height), (west, south + height)]
    split = split_antimeridian(shapely.Polygon(ring))
    assert split.is_valid
    assert split.area == pytest.approx(width * height, rel=1e-6)
    assert Aoi(split, "").bbox == pytest.approx((west if west < 180 else -180, south, wrapped, south + height))
    assert split_antimeridian(split).equals(split)


def test_an_edge_along_the_antimeridian_in_place_is_no_world_box() -> None:
    ring = [(179, 0), (180, 0), (-180, 0), (-179, 0), (-179, 1), (-180, 1), (180, 1), (179, 1)]
    assert split_antimeridian(shapely.Polygon(ring)).area == pytest.approx(2)
    world = shapely.box(-180, -90, 180, 90)
    assert split_antimeridian(world).equals(world)


@pytest.mark.parametrize("name", ["split", "multi-split", "complex-split", "one-hole", "two-holes"])
def test_real_pairs_are_split_as_expected(real_data: Path, name: str) -> None:
    folder = real_data / "aoi" / "antimeridian"
    expected = shape(json.loads((folder / f"{name}_out.json").read_text()))
    assert read_aoi(folder / f"{name}_in.json").geometry.equals(expected)
    assert read_aoi(folder / f"{name}_out.json").geometry.equals(expected)


@pytest.mark.parametrize("name", ["north-pole", "south-pole", "extra-crossing"])
def test_rings_around_a_pole_are_refused(real_data: Path, name: str) -> None:
    path = real_data / "aoi" / "antimeridian" / f"{name}_in.json"
    with pytest.raises(ConfigError, match=re.escape(str(path)) + ".*goes round a pole.*Cut it"):
        read_aoi(path)


# Real regions


def test_real_regions_are_read(real_data: Path) -> None:
    paths = sorted((real_data / "aoi").glob("fr_*.geojson"))
    assert len(paths) >= 8
    for path in paths:
        aoi = read_aoi(path)
        west, south, east, north = aoi.bbox
        assert -2 < west < east < 6, path
        assert 42 < south < north < 46, path
        assert aoi.geometry.is_valid


def test_real_tiles_beyond_the_antimeridian_have_one_narrow_bbox(real_data: Path, tmp_path: Path) -> None:
    document = json.loads((real_data / "aoi" / "s2_mgrs_tiles_subset.geojson").read_text())
    document["features"] = document["features"][:2]
    west, _, east, _ = read_aoi(write(tmp_path, document)).bbox
    assert (west, east) == pytest.approx((176.8646, -179.6274), abs=1e-3)


def test_real_invalid_fiji_is_refused_and_repaired_fiji_is_told(
    real_data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConfigError, match=r"Self-intersection.*make_valid"):
        read_aoi(real_data / "aoi" / "ne10m_fiji.geojson")
    aoi = read_aoi(real_data / "aoi" / "ne10m_fiji_valid.geojson")
    # make_valid kept its slivers that go the long way round; read as written, and told.
    assert aoi.geometry.is_valid
    assert "spans the globe" in caplog.text
