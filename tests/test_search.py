"""Search: order, limits, footprints, sources by name and what is said when nothing fits."""

from __future__ import annotations

import contextlib
import logging
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ndvi_scale import search
from ndvi_scale.aoi import Aoi, parse_bbox
from ndvi_scale.errors import ConfigError, EmptySearchError, SearchError
from ndvi_scale.granules import choose_processings, granule_from_item
from ndvi_scale.item_files import load_items
from ndvi_scale.search import search_items
from ndvi_scale.sentinel2 import BANDS, find_asset_keys, item_datatake
from ndvi_scale.sources import Source, access_of
from replay import Replay, replaying
from stac import COLLECTION, HOME, Json, box, collection_of, days, item, says, scripted_api, write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import services


# Order and limits


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


def test_recorded_search_has_both_baselines_of_each_scene(real_data: Path) -> None:
    pages = [real_data / "stac/earth-search-v1" / f"search_lakeconstance_202003_p{page}.json" for page in (1, 2)]
    items = [found for page in pages for found in search_items(page, datetime="2020-03-01/2020-03-05")]
    assert len(items) == 16
    assert {found.properties["s2:processing_baseline"] for found in items} == {"02.14", "05.00"}


# Footprints


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
        ({"geometry": box(-1e9, -10, 1e9, 10)}, "the coordinate -1e+09 is not within 540 degrees of 0"),
        ({"geometry": box(-1e300, -10, 1e300, 10)}, "not within 540 degrees"),
        ({"geometry": box(0, -1e300, 1, 1e300)}, "not within 540 degrees"),
        ({"geometry": box(0, 40, math.inf, 50)}, "the coordinate inf is not"),
        ({"geometry": box(0, 40, math.nan, 50)}, "the coordinate nan is not"),
    ],
)
def test_item_without_a_place_is_named(tmp_path: Path, changes: Json, rule: str) -> None:
    path = write(tmp_path / "items.json", collection_of(item(1, **changes)))
    with pytest.raises(SearchError) as caught:
        search_items(path, aoi=HOME)
    says(caught, "item S2A_31TCJ_20230601_0_L2A", rule, "leave it out")


def test_real_item_across_the_antimeridian_is_found_on_both_sides(real_data: Path) -> None:
    path = next((real_data / "stac" / "stactools").glob("*T01WCP*"))
    west, south, east, north = Aoi(search.footprint(load_items(path)[0]), "").bbox  # type: ignore[arg-type]
    assert west > east
    assert len(search_items(path, aoi=parse_bbox((west, south, 180, north)))) == 1
    assert len(search_items(path, aoi=parse_bbox((-180, south, east, north)))) == 1


def test_a_footprint_that_is_given_anew_is_read_anew(june: Path) -> None:
    item = load_items(june)[0]
    before = search.footprint(item)
    assert search.footprint(item) is before  # a search asks, and the plan of what was found
    item.geometry = {"type": "Polygon", "coordinates": [[[2, 1], [3, 1], [3, 2], [2, 1]]]}
    assert search.footprint(item).bounds == (2, 1, 3, 2)


def test_footprints_that_are_the_same_are_read_once_and_share_their_memory(june: Path) -> None:
    one, other = load_items(june)[:2]
    assert one.geometry == other.geometry
    assert one.geometry is not other.geometry
    assert search.footprint(one) is search.footprint(other)


def test_a_footprint_that_is_none_is_refused_for_each_item_that_has_it(june: Path) -> None:
    for one in load_items(june)[:2]:
        one.geometry = box(0, 40, math.inf, 50)
        with pytest.raises(SearchError, match=f"item {one.id}: .*the coordinate inf is not"):
            search.footprint(one)


# Sources


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


def test_known_source_brings_its_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted_api() as api:
        monkeypatch.setitem(search.SOURCES, "scripted", Source(api.url, (COLLECTION,), "a test"))
        api.collections = ["a", "b", COLLECTION]
        for catalog in ("scripted", api.url, f"{api.url}/"):
            assert days(search_items(catalog)) == [1, 2, 3, 4, 5]
        assert all(body["collections"] == [COLLECTION] for body in api.bodies)
        assert search.SOURCES["earth-search"].collection == COLLECTION


# Recorded answers


@pytest.fixture
def replayed(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Replay]]:
    """The known sources, each at the address of its recorded answers."""
    folders = {"earth-search": "earth-search-v1", "cdse": "cdse-v1"}
    with contextlib.ExitStack() as stack:
        servers = {}
        for name, source in list(search.SOURCES.items()):
            folder = real_data / "stac" / folders.get(name, name)
            servers[name] = stack.enter_context(replaying(folder))
            monkeypatch.setitem(search.SOURCES, name, replace(source, url=servers[name].url))
        yield servers


@pytest.mark.parametrize(
    ("name", "collection", "count"),
    [
        ("earth-search", None, 10),
        ("earth-search", "sentinel-2-l2a", 10),
        ("earth-search", "sentinel-2-c1-l2a", 10),
        ("earth-search", "sentinel-2-pre-c1-l2a", 10),
        ("earth-search-v0", None, 1),
        ("cdse", None, 10),
    ],
)
def test_every_source_is_searched_by_its_name(
    replayed: dict[str, Replay], name: str, collection: str | None, count: int
) -> None:
    items = search_items(name, collection=collection)
    source = search.SOURCES[name]
    assert len(items) == count
    assert {one.collection_id for one in items} == {collection or source.collection}
    for one in items:
        assert not find_asset_keys(one.assets)[1]
        assert find_asset_keys(one.assets)[0] == dict(zip(BANDS, source.assets, strict=True))
        assert item_datatake(one.properties)
        access = access_of(one.assets[source.assets[0]].href)
        assert access is not None
        assert access.name == source.access


def test_planetary_computer_knows_its_collection(replayed: dict[str, Replay]) -> None:
    with pytest.raises(EmptySearchError, match="no item came back"):  # no search of it was recorded
        search_items("planetary-computer", aoi=HOME)
    with pytest.raises(SearchError, match=r"no collection 'sentinel-2-l1c'.*sentinel-2-l2a"):
        search_items("planetary-computer", collection="sentinel-2-l1c")


def test_two_providers_select_the_same_products(replayed: dict[str, Replay]) -> None:
    aoi, dates = parse_bbox("29.387,53.1624,29.389,53.1636"), "2023-11-01/2023-11-10"
    selected = {}
    for name in ("earth-search", "cdse"):
        granules = [granule_from_item(one) for one in search_items(name, aoi=aoi, datetime=dates)]
        processings = choose_processings(granules)
        selected[name] = {(one.tile, one.datatake, one.baseline) for one in processings.chosen}
        assert not processings.dropped
        assert {one.epsg for one in processings.chosen} == {32635}  # proj:epsg there, proj:code here
    assert selected["earth-search"] == selected["cdse"]
    assert len(selected["cdse"]) == 8


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


@pytest.mark.slow  # the service takes 3 s to start
def test_seaweed_keeps_objects(seaweed_s3: services.S3Endpoint) -> None:
    obstore = pytest.importorskip("obstore")
    store = obstore.store.S3Store(seaweed_s3.bucket, config=seaweed_s3.options)
    obstore.put(store, "search/a.bin", b"x" * 100_000)
    assert len(bytes(obstore.get(store, "search/a.bin").bytes())) == 100_000
    assert [meta["path"] for meta in obstore.list(store, "search").collect()] == ["search/a.bin"]


def test_a_cloud_cover_that_no_float_holds_is_none(tmp_path: Path) -> None:
    huge = item(2, properties={"eo:cloud_cover": 10**400})
    assert days(search_items(write(tmp_path / "items.json", collection_of(item(1), huge)), cloud_cover=50)) == [1]
