"""Search: dates, every kind of catalog, what a server applies and what the client does, and failures."""

from __future__ import annotations

import contextlib
import copy
import datetime as dt
import json
import logging
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import services
from hypothesis import assume, given
from hypothesis import strategies as st

from ndvi_scale import search
from ndvi_scale.aoi import Aoi, parse_bbox, read_aoi
from ndvi_scale.errors import ConfigError, EmptySearchError, SearchError
from ndvi_scale.search import Interval, load_items, parse_interval, save_items, search_items

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pystac

Json = dict[str, Any]
COLLECTION = "sentinel-2-l2a"
HOME = parse_bbox("1,43,2,44")


def utc(*parts: int) -> dt.datetime:
    return dt.datetime(*parts, tzinfo=dt.UTC)  # type: ignore[misc,arg-type]


def box(west: float, south: float, east: float, north: float) -> Json:
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {"type": "Polygon", "coordinates": [ring]}


def item(number: int, **changes: Any) -> Json:
    """An item of day `number` of June 2023 over HOME, with `number` percent of cloud."""
    properties = {"datetime": f"2023-06-{number:02}T10:50:00.024Z", "eo:cloud_cover": float(number)}
    whole: Json = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [],
        "id": f"S2A_31TCJ_202306{number:02}_0_L2A",
        "collection": COLLECTION,
        "geometry": box(1.0, 43.0, 2.0, 44.0),
        "bbox": [1.0, 43.0, 2.0, 44.0],
        "properties": properties | changes.pop("properties", {}),
        "links": [],
        "assets": {"red": {"href": f"./{number}/red.tif"}},
    }
    return whole | changes


def write(path: Path, document: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def collection_of(*items: Json) -> Json:
    return {"type": "FeatureCollection", "features": list(items)}


def days(items: list[pystac.Item]) -> list[int]:
    return [int(found.id[16:18]) for found in items]


def says(error: pytest.ExceptionInfo[Exception], *parts: str) -> None:
    assert all(part in str(error.value) for part in parts), str(error.value)


# Dates


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("2023", utc(2023, 1, 1), utc(2024, 1, 1)),
        ("2023-06", utc(2023, 6, 1), utc(2023, 7, 1)),
        ("2023-12", utc(2023, 12, 1), utc(2024, 1, 1)),
        ("2024-02", utc(2024, 2, 1), utc(2024, 3, 1)),
        ("2023-06-01", utc(2023, 6, 1), utc(2023, 6, 2)),
        ("2023/2023-06-15", utc(2023, 1, 1), utc(2023, 6, 16)),
        ("2023-06-15/2023-06", utc(2023, 6, 15), utc(2023, 7, 1)),
        ("2023-06-01/2023-06-01", utc(2023, 6, 1), utc(2023, 6, 2)),
        ("../2023-06", None, utc(2023, 7, 1)),
        ("/2023-06", None, utc(2023, 7, 1)),
        ("2023-06/..", utc(2023, 6, 1), None),
        ("2023-06/", utc(2023, 6, 1), None),
        (" 2023-06 / .. ", utc(2023, 6, 1), None),
        ("2023-06-01T10:50:22Z", utc(2023, 6, 1, 10, 50, 22), utc(2023, 6, 1, 10, 50, 22, 1)),
        ("2023-06-01t10:50:22.5z", utc(2023, 6, 1, 10, 50, 22, 500000), utc(2023, 6, 1, 10, 50, 22, 500001)),
        ("2023-06-01T00:30:00+02:00/..", utc(2023, 5, 31, 22, 30), None),
        ("9999", utc(9999, 1, 1), None),
        ("9999-12-31", utc(9999, 12, 31), None),
    ],
)
def test_interval(text: str, start: dt.datetime | None, end: dt.datetime | None) -> None:
    assert parse_interval(text) == Interval(start, end)


@pytest.mark.parametrize(
    ("text", "value", "rule", "remedy"),
    [
        ("2023-02-30", "2023-02-30", "does not exist", "Correct the date"),
        ("2023-13", "2023-13", "does not exist", "Correct the date"),
        ("2023-00-01", "2023-00-01", "does not exist", "Correct the date"),
        ("0000", "0000", "does not exist", "Correct the date"),
        ("2023-06-01T25:00:00Z", "T25:00:00Z", "does not exist", "Correct the date"),
        ("0001-01-01T00:00:00+01:00", "0001-01-01", "does not exist", "Correct the date"),
        ("2023-07/2023-06", "2023-07", "is after 2023-06", "Swap them"),
        ("2023-06-01T00:00:01Z/2023-06-01T00:00:00Z", "00:00:01Z", "is after", "Swap them"),
        ("../..", "../..", "one end must be given", "Leave datetime out"),
        ("/", "'/'", "one end must be given", "Leave datetime out"),
        ("", "''", "one end must be given", "Leave datetime out"),
        ("2023/2024/2025", "2023/2024/2025", "one '/'", "Write A/B"),
        ("June 2023", "'June 2023'", "neither a date nor", "Write 2023"),
        ("2023-6", "'2023-6'", "neither a date nor", "Write 2023"),
        ("20230601", "'20230601'", "neither a date nor", "Write 2023"),
        ("2023-06-01T10:00:00", "'2023-06-01T10:00:00'", "neither a date nor", "with Z or an offset"),
        ("٢٠٢٣", "'٢٠٢٣'", "neither a date nor", "Write 2023"),
    ],
)
def test_interval_refused(text: str, value: str, rule: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_interval(text)
    says(caught, f"datetime {text!r}", value, rule, remedy)


@given(st.dates(), st.dates(), st.sampled_from(["%Y", "%Y-%m", "%Y-%m-%d"]))
def test_interval_holds_its_ends_and_nothing_beside_them(first: dt.date, last: dt.date, form: str) -> None:
    def written(day: dt.date) -> str:
        return {"%Y": f"{day.year:04}", "%Y-%m": day.isoformat()[:7]}.get(form, day.isoformat())

    assume(first <= last)
    interval = parse_interval(f"{written(first)}/{written(last)}")
    noon = dt.time(12, tzinfo=dt.UTC)
    assert dt.datetime.combine(first, noon) in interval
    assert dt.datetime.combine(last, noon) in interval
    assert interval.start is not None
    assert interval.start == dt.datetime.combine(interval.start.date(), dt.time(0), dt.UTC)
    if interval.end is not None:
        assert interval.end not in interval
        assert interval.end - dt.timedelta(microseconds=1) in interval
        after = interval.end.date()
        assert written(after) != written(last)
        assert written(after - dt.timedelta(days=1)) == written(last)


@given(st.text(alphabet="0123456789-/.:TZ+ ", max_size=24))
def test_interval_never_fails_but_with_a_config_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        interval = parse_interval(text)
        assert interval.start is None or interval.end is None or interval.start < interval.end


@given(st.datetimes(timezones=st.just(dt.UTC)), st.datetimes(timezones=st.just(dt.UTC)))
def test_servers_are_asked_for_no_less_than_the_interval(one: dt.datetime, other: dt.datetime) -> None:
    start, end = sorted((one, other))
    assume(start < end < utc(9999, 12, 31))
    asked = [dt.datetime.fromisoformat(part) for part in search._closed(Interval(start, end)).split("/")]
    assert start - dt.timedelta(seconds=1) < asked[0] <= start
    assert end <= asked[1] < end + dt.timedelta(seconds=1)


# Files


@pytest.fixture
def june(tmp_path: Path) -> Path:
    """Ten days over HOME, in the wrong order."""
    return write(tmp_path / "june.json", collection_of(*(item(day) for day in range(10, 0, -1))))


def test_items_come_in_order_of_datetime_and_id(june: Path, tmp_path: Path) -> None:
    assert days(search_items(june)) == list(range(1, 11))
    same = [item(1, id=name) for name in ("b", "c", "a")]
    path = write(tmp_path / "same.json", collection_of(*same))
    assert [found.id for found in search_items(str(path))] == ["a", "b", "c"]


def test_limits_on_a_saved_collection(june: Path) -> None:
    assert days(search_items(june, datetime="2023-06-03/2023-06-05")) == [3, 4, 5]
    assert days(search_items(june, cloud_cover=2)) == [1, 2]
    assert days(search_items(june, aoi=HOME, datetime="../2023-06-02", cloud_cover=1.0)) == [1]
    assert days(search_items(june, collection=COLLECTION, datetime="2023-06-04T10:50:00.024Z")) == [4]


def test_an_instant_is_exact(june: Path) -> None:
    with pytest.raises(EmptySearchError, match="10 outside the dates 2023-06-04T10:50:00Z"):
        search_items(june, datetime="2023-06-04T10:50:00Z")


@pytest.mark.parametrize(
    ("bbox", "fits"),
    [
        ("1.2,43.2,1.3,43.3", True),
        ("0,40,5,50", True),
        ("1.99,43.99,3,45", True),
        ("2,43,3,44", False),  # shares an edge
        ("2,44,3,45", False),  # shares a corner
        ("5,43,6,44", False),
    ],
)
def test_footprint_must_share_area(june: Path, bbox: str, fits: bool) -> None:  # noqa: FBT001
    if fits:
        assert len(search_items(june, aoi=parse_bbox(bbox))) == 10
    else:
        with pytest.raises(EmptySearchError, match=f"10 outside the region {bbox}"):
            search_items(june, aoi=parse_bbox(bbox))


@pytest.mark.parametrize(
    "changes",
    [
        {"geometry": box(179.0, -17.0, -179.0, -16.0), "bbox": [179.0, -17.0, -179.0, -16.0]},
        {"geometry": None, "bbox": [179.0, -17.0, -179.0, -16.0]},
        {"geometry": None, "bbox": [179.0, -17.0, 0.0, -179.0, -16.0, 100.0]},
    ],
)
def test_footprint_across_the_antimeridian(tmp_path: Path, changes: Json) -> None:
    path = write(tmp_path / "fiji.json", collection_of(item(1, **changes)))
    for inside in ("179.5,-17,179.6,-16", "-179.6,-17,-179.5,-16", "179,-20,-179,-10"):
        assert days(search_items(path, aoi=parse_bbox(inside))) == [1]
    with pytest.raises(EmptySearchError):
        search_items(path, aoi=parse_bbox("0,-17,10,-16"))


def test_footprint_that_is_not_valid_still_has_its_area(tmp_path: Path) -> None:
    bowtie = {"type": "Polygon", "coordinates": [[[1, 43], [2, 44], [2, 43], [1, 44], [1, 43]]]}
    path = write(tmp_path / "bowtie.json", collection_of(item(1, geometry=bowtie)))
    assert days(search_items(path, aoi=parse_bbox("1.1,43.4,1.2,43.6"))) == [1]
    with pytest.raises(EmptySearchError):
        search_items(path, aoi=parse_bbox("1.45,43.9,1.55,43.95"))


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"geometry": None, "bbox": None}, "neither geometry nor bbox"),
        ({"geometry": None, "bbox": [1, 2]}, "not one"),
        ({"geometry": {"type": "Polygon", "coordinates": [[[1, "a"]]]}}, "not one"),
        ({"geometry": {"type": "Blob"}}, "not one"),
    ],
)
def test_item_without_a_place_is_named(tmp_path: Path, changes: Json, rule: str) -> None:
    path = write(tmp_path / "items.json", collection_of(item(1, **changes)))
    with pytest.raises(SearchError) as caught:
        search_items(path, aoi=HOME)
    says(caught, "item S2A_31TCJ_20230601_0_L2A", rule, "leave it out")


def test_null_datetime_means_start_datetime(tmp_path: Path) -> None:
    times = {
        "datetime": None,
        "start_datetime": "2023-06-01T00:00:00Z",
        "end_datetime": "2023-06-03T00:00:00Z",
    }
    path = write(tmp_path / "items.json", collection_of(item(2), item(1, properties=times)))
    assert days(search_items(path, datetime="2023-06")) == [1, 2]
    assert days(search_items(path, datetime="2023-06-01")) == [1]


def test_cloud_limit_needs_a_cloud_cover(tmp_path: Path) -> None:
    items = [item(1), item(2, properties={"eo:cloud_cover": None}), item(30)]
    del items[2]["properties"]["eo:cloud_cover"]
    path = write(tmp_path / "items.json", collection_of(*items, item(5)))
    assert days(search_items(path, cloud_cover=4)) == [1]
    assert days(search_items(path, cloud_cover=100)) == [1, 5]
    with pytest.raises(EmptySearchError) as caught:
        search_items(path, cloud_cover=0.5)
    says(caught, "4 items in the catalog", "2 without eo:cloud_cover", "2 above 0.5 % cloud cover", "Change")


@pytest.mark.parametrize("cloud_cover", [-1, 100.1, float("nan")])
def test_cloud_limit_is_a_percentage(june: Path, cloud_cover: float) -> None:
    with pytest.raises(ConfigError) as caught:
        search_items(june, cloud_cover=cloud_cover)
    says(caught, f"cloud_cover {cloud_cover}", "percentage", "from 0 to 100")


def test_empty_search_says_what_removed_the_items(june: Path) -> None:
    with pytest.raises(EmptySearchError) as caught:
        search_items(june, aoi=HOME, datetime="2023-06-08/..", cloud_cover=7)
    says(
        caught,
        str(june),
        "10 items in the catalog; 7 outside the dates 2023-06-08/.., 3 above 7 % cloud cover",
        "Change what removed the last ones: above 7 % cloud cover",
    )
    with pytest.raises(EmptySearchError, match="10 not of collection other"):
        search_items(june, collection="other")
    with pytest.raises(EmptySearchError, match=r"no item came back.*Widen"):
        search_items(write(june.parent / "none.json", collection_of()))


def test_duplicates_are_kept_once_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ndvi_scale.search")
    path = write(tmp_path / "items.json", collection_of(item(1), item(2), item(1)))
    assert days(search_items(path)) == [1, 2]
    assert "1 items came more than once" in caplog.text


def test_removed_items_are_counted_in_the_log(june: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ndvi_scale.search")
    search_items(june, cloud_cover=4)
    assert "10 items seen; on the client, 6 above 4 % cloud cover" in caplog.text


def static_catalog(folder: Path) -> Path:
    """A catalog with a collection, an item beside the collection, an item below, and links in a circle."""
    link = {"rel": "item", "href": "./a/1.json"}
    child = {
        "type": "Collection",
        "id": COLLECTION,
        "stac_version": "1.0.0",
        "links": [link, {"rel": "item", "href": "2.json"}, {"rel": "child", "href": "../catalog.json"}],
    }
    root = {"type": "Catalog", "id": "root", "stac_version": "1.0.0", "links": []}
    root["links"] = [
        {"rel": "self", "href": "./catalog.json"},
        {"rel": "child", "href": "./s2/collection.json"},
    ]
    write(folder / "s2" / "collection.json", child)
    write(
        folder / "s2" / "a" / "1.json", item(1, links=[{"rel": "collection", "href": "../collection.json"}])
    )
    write(folder / "s2" / "2.json", item(2, assets={"red": {"href": "s3://bucket/2.tif"}}))
    return write(folder / "catalog.json", root)


def test_static_catalog_is_walked_once_with_absolute_hrefs(tmp_path: Path) -> None:
    items = search_items(static_catalog(tmp_path))
    assert days(items) == [1, 2]
    assert items[0].assets["red"].href == str(tmp_path / "s2" / "a" / "1" / "red.tif")
    assert items[0].self_href == str(tmp_path / "s2" / "a" / "1.json")
    assert items[0].get_single_link("collection").href == str(tmp_path / "s2" / "collection.json")  # type: ignore[union-attr]
    assert items[1].assets["red"].href == "s3://bucket/2.tif"
    assert items[0].get_root() is None


def test_relative_paths_and_file_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = static_catalog(tmp_path)
    monkeypatch.chdir(tmp_path)
    expected = [found.assets["red"].href for found in search_items(path)]
    for catalog in ("catalog.json", Path("s2/../catalog.json"), path.as_uri()):
        assert [found.assets["red"].href for found in search_items(catalog)] == expected


def test_single_item(tmp_path: Path) -> None:
    path = write(tmp_path / "item.json", item(3))
    assert search_items(path)[0].assets["red"].href == str(tmp_path / "3" / "red.tif")


@pytest.mark.parametrize(
    ("name", "document", "value", "rule", "remedy"),
    [
        ("bad.json", "{", "bad.json", "not JSON", "Give the JSON"),
        ("bad.json", "[1]", "bad.json", "a JSON list", "Give a catalog"),
        ("bad.json", {"type": "Polygon", "coordinates": []}, "'Polygon'", "not STAC", "Give a catalog"),
        ("bad.json", {"type": "FeatureCollection"}, "bad.json", "list of features", "Write it again"),
        ("bad.json", collection_of({"type": "Feature", "id": "x"}), "'x'", "not a STAC item", "leave it out"),
        ("bad.json", {"type": "FeatureCollection", "features": [3]}, "3", "not a STAC item", "leave it out"),
        (
            "bad.json",
            collection_of(item(1, properties={"datetime": None})),
            "20230601",
            "datetime is None",
            "leave",
        ),
        (
            "bad.json",
            collection_of(item(1, properties={"datetime": "x"})),
            "20230601",
            "not a STAC item",
            "leave",
        ),
        ("bad.json", collection_of(item(1, assets={"red": {}})), "20230601", "not a STAC item", "leave"),
        (
            "bad.json",
            item(1, links=[{"rel": "x"}]),
            "bad.json",
            "does not answer as STAC",
            "Check the address",
        ),
        (
            "bad.json",
            {"type": "Catalog", "stac_version": "1.0.0", "links": [{"rel": "item", "href": "gone.json"}]},
            "gone.json",
            "cannot be read (No such file or directory)",
            "Check the path",
        ),
        ("bad.parquet", "PAR", "bad.parquet", "stac-geoparquet", "Check the address"),
    ],
)
def test_bad_files_are_told(  # noqa: PLR0913, PLR0917
    tmp_path: Path, name: str, document: Any, value: str, rule: str, remedy: str
) -> None:
    path = write(tmp_path / name, document)
    with pytest.raises(SearchError) as caught:
        search_items(path)
    says(caught, value, rule, remedy)


@pytest.mark.parametrize(
    ("catalog", "parts"),
    [
        (
            "earth-serch",
            ("'earth-serch'", "neither a known source nor a file", "'earth-search'?", "path or URL"),
        ),
        ("nonsense", ("'nonsense'", "Known sources: earth-search", "path or URL")),
        ("absent.json", ("absent.json", "cannot be read", "Check the path")),
        ("absent.parquet", ("absent.parquet", "stac-geoparquet", "Check the address")),
        ("s3://user:pw@bucket/c.json?key=secret", ("s3://bucket/c.json", "over http(s)", "Download")),
    ],
)
def test_unknown_catalogs_are_told(catalog: str, parts: tuple[str, ...]) -> None:
    with pytest.raises(SearchError) as caught:
        search_items(catalog)
    says(caught, *parts)
    assert "secret" not in str(caught.value)


# Saved searches


@pytest.mark.parametrize("name", ["items.json", "items.geojson", "items.parquet", "items.geoparquet"])
def test_saved_items_come_back(tmp_path: Path, name: str) -> None:
    only_here = {"s2:processing_baseline": "05.11", "s2:list": [1, 2], "earthsearch:boa_offset_applied": True}
    items = [item(1), item(2, properties=only_here), item(3, assets={"red": {"href": "https://h/3.tif"}})]
    found = search_items(write(tmp_path / "in" / "source.json", collection_of(*items)))
    target = tmp_path / "out" / name
    target.parent.mkdir()
    save_items(found, target)
    back = load_items(target)
    for one, other in zip(found, back, strict=True):
        for part in ("id", "collection_id", "geometry", "bbox", "datetime"):
            assert getattr(one, part) == getattr(other, part), part
        assert one.properties | {"datetime": ""} == other.properties | {"datetime": ""}
        assert one.assets["red"].to_dict() == other.assets["red"].to_dict()
    assert days(search_items(target, cloud_cover=2)) == [1, 2]


@pytest.mark.parametrize("name", ["items.json", "items.parquet"])
def test_saved_hrefs_are_relative_below_the_folder_only(tmp_path: Path, name: str) -> None:
    source = tmp_path / "archive"
    items = search_items(static_catalog(source))
    save_items(items, source / name)
    source.rename(tmp_path / "moved")
    moved = load_items(tmp_path / "moved" / name)
    assert moved[0].assets["red"].href == str(tmp_path / "moved" / "s2" / "a" / "1" / "red.tif")
    assert moved[1].assets["red"].href == "s3://bucket/2.tif"
    save_items(moved, tmp_path / name)
    (tmp_path / "elsewhere").mkdir()
    save_items(moved, tmp_path / "elsewhere" / name)
    (tmp_path / "elsewhere" / name).rename(
        tmp_path / "again.json" if name.endswith("json") else tmp_path / "a.parquet"
    )
    again = load_items(tmp_path / "again.json" if name.endswith("json") else tmp_path / "a.parquet")
    assert again[0].assets["red"].href == moved[0].assets["red"].href


def test_save_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        save_items([], tmp_path / "items.csv")
    says(caught, "items.csv", "saved as .json, .geojson or .parquet", "Give one")
    with pytest.raises(SearchError) as caught_too:
        save_items([], tmp_path / "items.parquet")
    says(caught_too, "0 items", "stac-geoparquet", "Save them as .geojson")


# Real catalogs and recorded answers


def test_real_static_catalog(real_data: Path) -> None:
    catalog = real_data / "catalog" / "catalog.json"
    items = search_items(catalog)
    assert len(items) == 73
    assert all(Path(asset.href).is_file() for found in items for asset in found.assets.values())
    field = parse_bbox("4.06,50.744,4.066,50.748")
    chosen = search_items(
        catalog, aoi=field, datetime="2019-04/2019-06", cloud_cover=20, collection=COLLECTION
    )
    assert all(found.id.startswith("S2_31UES_2019") for found in chosen)
    assert chosen == sorted(chosen, key=lambda found: found.id)
    with pytest.raises(EmptySearchError, match="73 items in the catalog; 73 outside the region"):
        search_items(catalog, aoi=parse_bbox("1,43,2,44"))


def recorded(folder: Path) -> list[Path]:
    paths = sorted((folder / "stac").rglob("*json")) + sorted((folder / "stac").rglob("*.parquet"))
    kinds = ("request.json", "landing.json", "collections.json", "stacgeoparquet_sentinel-2-l2a-pc.json")
    return [
        path for path in paths if not path.name.endswith(kinds) and "collection" not in path.stem.split(".")
    ]


def test_recorded_answers_are_read(real_data: Path, tmp_path: Path) -> None:
    read = 0
    for path in recorded(real_data):
        if path.name.startswith("collection_"):
            with pytest.raises(SearchError, match=r"page of a STAC API.*landing page"):
                load_items(path)
            continue
        items = load_items(path)
        read += len(items)
        for found in items:
            west, _, east, _ = Aoi(search._footprint(found), "").bbox  # type: ignore[arg-type]
            assert (east - west) % 360 < 9, found.id  # a tile near a pole spans some degrees
        save_items(items, tmp_path / "copy.json")
        copied = load_items(tmp_path / "copy.json")
        assert [found.to_dict()["assets"] for found in copied] == [
            found.to_dict()["assets"] for found in items
        ]
    assert read > 200


def test_recorded_search_has_both_baselines_of_each_scene(real_data: Path) -> None:
    pages = [
        real_data / "stac/earth-search-v1" / f"search_lakeconstance_202003_p{page}.json" for page in (1, 2)
    ]
    items = [found for page in pages for found in search_items(page, datetime="2020-03-01/2020-03-05")]
    assert len(items) == 16
    assert {found.properties["s2:processing_baseline"] for found in items} == {"02.14", "05.00"}


def test_real_item_across_the_antimeridian_is_found_on_both_sides(real_data: Path) -> None:
    path = next((real_data / "stac" / "stactools").glob("*T01WCP*"))
    west, south, east, north = Aoi(search._footprint(load_items(path)[0]), "").bbox  # type: ignore[arg-type]
    assert west > east
    assert len(search_items(path, aoi=parse_bbox((west, south, 180, north)))) == 1
    assert len(search_items(path, aoi=parse_bbox((-180, south, east, north)))) == 1


# A real STAC API


@pytest.fixture(scope="module")
def rustac_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if services.binary("rustac") is None:
        pytest.skip("no rustac program: pip install rustac")
    items = [item(day) for day in range(1, 26)]
    items += [item(26, geometry=box(179, -17, 180, -16), bbox=[179, -17, 180, -16])]
    items += [item(27, geometry=box(-180, -17, -179, -16), bbox=[-180, -17, -179, -16])]
    path = write(tmp_path_factory.mktemp("rustac") / "items.json", collection_of(*items))
    with services.stac_api(path) as url:
        yield url


def test_api_pages_are_followed(rustac_api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_PAGE_ITEMS", 4)
    assert days(search_items(rustac_api)) == list(range(1, 28))
    assert days(search_items(rustac_api, aoi=HOME, datetime="2023-06-03/2023-06-11")) == list(range(3, 12))


def test_api_that_knows_no_query_is_filtered_here(
    rustac_api: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ndvi_scale.search")
    monkeypatch.setattr(search, "_PAGE_ITEMS", 4)
    assert days(search_items(f"{rustac_api}/", aoi=HOME, cloud_cover=6.5)) == [1, 2, 3, 4, 5, 6]
    assert "declares neither query nor filter: cloud cover <= 6.5 % is applied on the client" in caplog.text
    assert "25 items seen; on the client, 19 above 6.5 % cloud cover" in caplog.text


def test_api_search_across_the_antimeridian(rustac_api: str) -> None:
    assert days(search_items(rustac_api, aoi=parse_bbox("179.5,-17,-179.5,-16"))) == [26, 27]
    assert days(search_items(rustac_api, aoi=parse_bbox("-179.9,-17,-179.5,-16"))) == [27]


def test_api_search_with_a_real_polygon(rustac_api: str, real_data: Path) -> None:
    region = read_aoi(real_data / "aoi" / "fr_departement_31-haute-garonne.geojson")
    assert len(search_items(rustac_api, aoi=region)) == 25


def test_api_relative_assets_belong_to_their_item(rustac_api: str) -> None:
    found = search_items(rustac_api, datetime="2023-06-03")[0]
    assert found.assets["red"].href == f"{rustac_api}/collections/{COLLECTION}/items/3/red.tif"


def test_api_without_the_collection_or_a_fitting_item(rustac_api: str) -> None:
    with pytest.raises(SearchError) as caught:
        search_items(rustac_api, collection="sentinel-2-l1c")
    says(caught, rustac_api, "no collection 'sentinel-2-l1c'", f"looks like Sentinel-2 L2A: {COLLECTION}")
    with pytest.raises(EmptySearchError, match="no item came back"):
        search_items(rustac_api, datetime="1999")


# An API that does what a test wants


class ScriptedApi:
    """A STAC API over HTTP whose every answer is a function of (path, body); it keeps what it was asked."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: list[tuple[str, str, Any]] = []
        self.conforms = ["https://api.stacspec.org/v1.0.0/item-search"]
        self.methods = ["GET", "POST"]
        self.collections = [COLLECTION]
        self.search: Callable[[Json], Any] = lambda _: collection_of(*(item(day) for day in range(1, 6)))
        self.other: dict[str, Any] = {}

    def answer(self, path: str, body: Json) -> Any:
        if path in self.other:
            return self.other[path]
        if path == "/search":
            return self.search(body)
        if path == "/collections":
            return {"collections": [{"id": name} for name in self.collections], "links": []}
        links = [{"rel": "search", "href": f"{self.url}/search", "method": name} for name in self.methods]
        return {
            "type": "Catalog",
            "id": "scripted",
            "stac_version": "1.0.0",
            "description": "",
            "conformsTo": self.conforms,
            "links": [*links, {"rel": "data", "href": "./collections"}],
        }

    @property
    def bodies(self) -> list[Any]:
        return [body for _, path, body in self.asked if path.startswith("/search")]


class _ScriptedHandler(BaseHTTPRequestHandler):
    api: ScriptedApi

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def do_GET(self) -> None:
        self._answer({})

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def _answer(self, body: Json) -> None:
        self.api.asked.append((self.command, self.path, body))
        answer = self.api.answer(self.path.partition("?")[0], body)
        status, text = answer if isinstance(answer, tuple) else (200, json.dumps(answer))
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())


@contextlib.contextmanager
def _served(api_handler: type[_ScriptedHandler]) -> Iterator[ScriptedApi]:
    with services.QuietServer(("127.0.0.1", 0), api_handler) as server:
        api_handler.api = ScriptedApi(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield api_handler.api
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedApi]:
    monkeypatch.setattr(search, "_RETRIES", 0)
    with _served(type("Handler", (_ScriptedHandler,), {})) as scripted:
        yield scripted


def test_what_is_sent_to_an_api(api: ScriptedApi) -> None:
    search_items(api.url, aoi=HOME, datetime="2023-06", cloud_cover=50, collection=COLLECTION)
    (body,) = api.bodies
    assert body == {
        "collections": [COLLECTION],
        "limit": 100,
        "bbox": [1.0, 43.0, 2.0, 44.0],
        "datetime": "2023-06-01T00:00:00Z/2023-07-01T00:00:00Z",
    }


def test_open_dates_and_polygons_are_sent(api: ScriptedApi, tmp_path: Path) -> None:
    triangle = {"type": "Polygon", "coordinates": [[[1, 43], [2, 43], [2, 44], [1, 43]]]}
    search_items(api.url, aoi=read_aoi(write(tmp_path / "a.json", triangle)), datetime="2023-06/..")
    (body,) = api.bodies
    assert body["intersects"]["type"] == "Polygon"
    assert "bbox" not in body
    assert body["datetime"] == "2023-06-01T00:00:00Z/.."


@pytest.mark.parametrize(
    ("conformance", "sent"),
    [
        ("v1.0.0/item-search#query", {"query": {"eo:cloud_cover": {"lte": 3}}}),
        (
            "v1.0.0-rc.2/item-search#filter",
            {"filter-lang": "cql2-json", "filter": {"op": "<=", "args": [{"property": "eo:cloud_cover"}, 3]}},
        ),
        ("v1.0.0/ogcapi-features#query", {}),
    ],
)
def test_cloud_cover_is_sent_where_it_is_known_and_applied_here_always(
    api: ScriptedApi, conformance: str, sent: Json
) -> None:
    api.conforms.append(f"https://api.stacspec.org/{conformance}")
    assert days(search_items(api.url, cloud_cover=3)) == [1, 2, 3]
    (body,) = api.bodies
    assert {key: body.get(key) for key in ("query", "filter", "filter-lang") if key in body} == sent


def test_server_that_applies_nothing_changes_nothing(api: ScriptedApi) -> None:
    elsewhere = item(6, geometry=box(5, 43, 6, 44), bbox=[5, 43, 6, 44])
    api.search = lambda _: collection_of(
        *(item(day) for day in range(1, 6)), elsewhere, item(7, collection="other")
    )
    found = search_items(api.url, aoi=HOME, datetime="2023-06-02/..", cloud_cover=4, collection=COLLECTION)
    assert days(found) == [2, 3, 4]


def test_api_that_takes_only_get(api: ScriptedApi) -> None:
    api.methods = ["GET"]
    api.conforms.append("https://api.stacspec.org/v1.0.0/item-search#query")
    assert days(search_items(api.url, aoi=HOME, cloud_cover=3)) == [1, 2, 3]
    (asked,) = [path for command, path, _ in api.asked if path.startswith("/search") and command == "GET"]
    assert "bbox=1.0%2C43.0%2C2.0%2C44.0" in asked
    assert f"collections={COLLECTION}" in asked
    assert "query=%7B%22eo%3Acloud_cover" in asked


def paged(*pages: Json) -> Callable[[Json], Json]:
    """Answers page after page; each but where told otherwise links the next."""

    def answer(body: Json) -> Json:
        at = body.get("page", 0)
        page = copy.deepcopy(pages[min(at, len(pages) - 1)])
        page["links"] = [
            {"rel": "next", "href": "REPLACED", "method": "POST", "body": {"page": at + 1}, "merge": True},
        ]
        return page

    return answer


def script_pages(api: ScriptedApi, *pages: Json) -> None:
    answer = paged(*pages)

    def search_page(body: Json) -> Json:
        page = answer(body)
        page["links"][0]["href"] = f"{api.url}/search"
        return page

    api.search = search_page


def test_duplicates_across_pages(api: ScriptedApi, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ndvi_scale.search")
    script_pages(api, collection_of(item(1), item(2)), collection_of(item(2), item(3)), collection_of())
    assert days(search_items(api.url)) == [1, 2, 3]
    assert len(api.bodies) == 3
    assert "1 items came more than once" in caplog.text


def test_last_page_that_links_on_for_ever(api: ScriptedApi, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ndvi_scale.search")
    script_pages(api, collection_of(item(1), item(2)), collection_of(item(3)))
    assert days(search_items(api.url)) == [1, 2, 3]
    assert len(api.bodies) == 3
    assert "a page without new items ends the search" in caplog.text


def test_recorded_pages_of_earth_search_end(api: ScriptedApi, real_data: Path) -> None:
    folder = real_data / "stac" / "earth-search-v1"
    pages = [
        json.loads((folder / f"search_lakeconstance_202003_p{page}.json").read_text()) for page in (1, 2)
    ]
    script_pages(api, *pages, collection_of())
    landing = json.loads((folder / "landing.json").read_text())
    api.conforms = landing["conformsTo"]
    found = search_items(
        api.url, aoi=parse_bbox("9,47,10,48"), datetime="2020-03-01/2020-03-05", cloud_cover=100
    )
    assert len(found) == 16
    assert api.bodies[0]["query"] == {"eo:cloud_cover": {"lte": 100}}
    assert found[0].assets["red"].href.startswith("https://")
    assert [found_.datetime for found_ in found] == sorted(found_.datetime for found_ in found)  # type: ignore[type-var]


def test_known_source_brings_its_collection(api: ScriptedApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(search.SOURCES, "scripted", search.Source(api.url, COLLECTION, "a test"))
    api.collections = ["a", "b", COLLECTION]
    for catalog in ("scripted", api.url, f"{api.url}/"):
        assert days(search_items(catalog)) == [1, 2, 3, 4, 5]
    assert all(body["collections"] == [COLLECTION] for body in api.bodies)
    assert search.SOURCES["earth-search"].collection == COLLECTION


@pytest.mark.parametrize(
    ("collections", "offer"),
    [
        (
            ["landsat-c2-l2", COLLECTION, "sentinel-2-c1-l2a"],
            f"Sentinel-2 L2A: {COLLECTION}, sentinel-2-c1-l2a.",
        ),
        (["sentinel-s2-l2a-cogs", "sentinel-s2-l1c"], "Sentinel-2 L2A: sentinel-s2-l2a-cogs."),
        (["naip", "cop-dem"], "None looks like Sentinel-2 L2A; it offers naip, cop-dem"),
        ([], "it offers none"),
    ],
)
def test_collection_must_be_clear(api: ScriptedApi, collections: list[str], offer: str) -> None:
    api.collections = collections
    with pytest.raises(SearchError) as caught:
        search_items(api.url)
    says(caught, api.url, "a collection must be given", f"offers {len(collections)}", offer)


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        ((401, "{}"), ("HTTP 401", "access denied", "credentials")),
        ((403, "{}"), ("HTTP 403", "access denied", "sign the URL again")),
        ((404, "gone"), ("HTTP 404", "not found", "Check the address")),
        ((400, '{"code": "BadRequest"}'), ("HTTP 400", "refuses", "Check")),
        ((500, "oops"), ("HTTP 500", "fails", "Try again later")),
        ((503, "busy"), ("HTTP 503", "fails", "Try again later")),
        ((200, "<html>"), ("not JSON", "Give the JSON")),
        ((200, "\ufffd"), ("not JSON", "Give the JSON")),
        ((200, "[]"), ("STAC",)),
    ],
)
@pytest.mark.parametrize("path", ["/v1", "/search", "/v1/items.parquet"])
def test_what_a_server_may_answer(api: ScriptedApi, path: str, answer: Any, parts: tuple[str, ...]) -> None:
    api.other[path] = answer
    catalog = api.url.replace("http://", "http://user:secret@") + ("" if path == "/search" else path)
    with pytest.raises(SearchError) as caught:
        search_items(f"{catalog}?sig=secret")
    if answer[0] == 200 and path.endswith("parquet"):
        parts = ("stac-geoparquet", "Check the address")
    elif answer[1] == "[]":
        parts = (
            ("STAC", "Give a catalog") if path == "/v1" else ("does not answer as STAC", "Check the address")
        )
    says(caught, api.url, *parts)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("page", "parts"),
    [
        ({"features": [3]}, ("does not answer as STAC", "Check the address")),
        ({"features": [{"id": "x"}]}, ("'x' is not a STAC item", "leave it out")),
        ({"collections": [1]}, ("does not answer as STAC", "Check the address")),
        (
            collection_of(item(1)) | {"links": [{"href": "x"}]},
            ("does not answer as STAC", "Check the address"),
        ),
    ],
)
def test_pages_that_are_not_stac(api: ScriptedApi, page: Json, parts: tuple[str, ...]) -> None:
    api.search = lambda _: page
    with pytest.raises(SearchError) as caught:
        search_items(api.url)
    says(caught, api.url, *parts)


def test_landing_page_without_search(api: ScriptedApi) -> None:
    api.methods = []
    with pytest.raises(SearchError, match=r"links no item search.*Give another"):
        search_items(api.url)


def test_busy_server_is_asked_again(api: ScriptedApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_RETRIES", 3)
    answers = iter([(503, "busy"), (429, "slow down"), collection_of(item(1))])
    api.search = lambda _: next(answers)
    assert days(search_items(api.url)) == [1]


def test_time_out(api: ScriptedApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_TIMEOUT_S", (0.2, 0.2))
    done = threading.Event()
    api.search = lambda _: done.wait(5) and collection_of()
    with pytest.raises(SearchError, match=r"timed out after 0\.2 s.*Try later"):
        search_items(api.url)
    done.set()


def test_no_server(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_RETRIES", 1)
    (port,) = services.free_ports(1)
    with pytest.raises(SearchError) as caught:
        search_items(f"http://me:secret@127.0.0.1:{port}/v1?token=secret")
    says(caught, f"http://127.0.0.1:{port}/v1", "cannot be reached", "Check the address and the network")
    assert "secret" not in str(caught.value)
    assert "Retrying" in caplog.text
    assert "secret" not in caplog.text


# Files over HTTP


def test_static_catalog_over_http(range_http: services.RangeServer) -> None:
    range_http.reset()
    static_catalog(range_http.directory / "static")
    items = search_items(f"{range_http.url}/static/catalog.json")
    assert days(items) == [1, 2]
    assert items[0].assets["red"].href == f"{range_http.url}/static/s2/a/1/red.tif"
    assert items[1].assets["red"].href == "s3://bucket/2.tif"
    assert range_http.count() == 4
    range_http.fail("/static/s2/2.json", 404)
    with pytest.raises(SearchError, match=r"/static/s2/2.json: HTTP 404"):
        search_items(f"{range_http.url}/static/catalog.json")
    range_http.reset()


@pytest.mark.parametrize("name", ["items.json", "items.parquet"])
def test_saved_items_over_http(range_http: services.RangeServer, name: str) -> None:
    range_http.reset()
    folder = range_http.directory / name.replace(".", "-")
    static_catalog(folder)
    save_items(search_items(folder / "catalog.json"), folder / name)
    items = search_items(f"{range_http.url}/{folder.name}/{name}", cloud_cover=1)
    assert [found.assets["red"].href for found in items] == [f"{range_http.url}/{folder.name}/s2/a/1/red.tif"]
    with pytest.raises(SearchError) as caught:
        search_items(f"{range_http.url}/absent/{name}?sig=secret")
    says(caught, f"{range_http.url}/absent/{name}", "Check the address")
    assert "secret" not in str(caught.value)


def test_one_page_of_a_search_over_http_is_refused(range_http: services.RangeServer) -> None:
    range_http.reset()
    page = collection_of(item(1)) | {"links": [{"rel": "next", "href": "x"}]}
    write(range_http.directory / "page.json", page)
    with pytest.raises(SearchError, match=r"one page of a search.*landing page"):
        search_items(f"{range_http.url}/page.json")


def test_collection_of_an_api_is_not_walked(api: ScriptedApi) -> None:
    links = [{"rel": "items", "href": "./items"}, {"rel": "root", "href": api.url}]
    api.other["/collections/x"] = {"type": "Collection", "id": "x", "stac_version": "1.0.0", "links": links}
    with pytest.raises(SearchError, match=r"page of a STAC API.*landing page"):
        search_items(f"{api.url}/collections/x")


# The services themselves


def test_range_server_counts_ranges_and_fails_on_demand(range_http: services.RangeServer) -> None:
    obstore = pytest.importorskip("obstore")
    range_http.reset()
    (range_http.directory / "data.bin").write_bytes(bytes(range(256)) * 4)
    store = obstore.store.HTTPStore(
        range_http.url, client_options={"allow_http": True}, retry_config={"max_retries": 0}
    )
    assert bytes(obstore.get_range(store, "data.bin", start=256, length=3)) == b"\x00\x01\x02"
    assert obstore.head(store, "data.bin")["size"] == 1024
    parts = obstore.get_ranges(store, "data.bin", starts=[1, 900], lengths=[2, 2], coalesce=0)
    assert [bytes(part) for part in parts] == [b"\x01\x02", b"\x84\x85"]
    assert range_http.bytes_sent("/data.bin") == 7
    assert range_http.count("/data.bin") == 4
    assert {served.status for served in range_http.requests if served.method == "GET"} == {206}
    range_http.fail("/data.bin", 503)
    with pytest.raises(Exception, match="503"):
        obstore.get_range(store, "data.bin", start=0, length=1)
    range_http.reset()
    range_http.truncate("/data.bin", 10)
    with pytest.raises(Exception, match=r".+"):
        bytes(obstore.get(store, "data.bin").bytes())
    range_http.reset()
    assert len(bytes(obstore.get(store, "data.bin").bytes())) == 1024


def test_seaweed_keeps_objects(seaweed_s3: services.S3Endpoint) -> None:
    obstore = pytest.importorskip("obstore")
    store = obstore.store.S3Store(seaweed_s3.bucket, config=seaweed_s3.options)
    obstore.put(store, "search/a.bin", b"x" * 100_000)
    assert len(bytes(obstore.get(store, "search/a.bin").bytes())) == 100_000
    assert [meta["path"] for meta in obstore.list(store, "search").collect()] == ["search/a.bin"]
