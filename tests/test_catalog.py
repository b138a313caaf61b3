"""Static catalogs, item collections, single items and Parquet, from paths and URLs, and what is refused."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pyarrow import parquet

import stac
from ndvi_scale import search
from ndvi_scale.aoi import Aoi, parse_bbox
from ndvi_scale.errors import EmptySearchError, SearchError
from ndvi_scale.item_files import load_items, save_items
from ndvi_scale.search import search_items
from replay import recordings
from stac import COLLECTION, collection_of, days, item, says, scripted_api, static_catalog, write

if TYPE_CHECKING:
    import services


def without(document: stac.Json, field: str) -> stac.Json:
    return {key: value for key, value in document.items() if key != field}


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


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


def test_list_of_items(tmp_path: Path) -> None:
    path = write(tmp_path / "items.json", [item(4), item(2)])
    assert days(search_items(path)) == [2, 4]
    assert search_items(path)[0].assets["red"].href == str(tmp_path / "2" / "red.tif")


@pytest.mark.parametrize(
    ("name", "document", "value", "rule", "remedy"),
    [
        ("bad.json", "{", "bad.json", "not JSON", "Give the JSON"),
        ("bad.json", "[1]", "bad.json", "a JSON list", "Give a catalog"),
        ("bad.json", "[]", "bad.json", "a JSON list", "Give a catalog"),
        ("bad.json", [item(1), {"type": "Catalog"}], "bad.json", "a JSON list", "Give a catalog"),
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
        ("bad.json", "[" * 200_000, "bad.json", "nested too deep", "Check the address"),
        ("bad.json", collection_of(without(item(1), "type")), "20230601", "not a STAC item", "leave"),
        ("bad.json", collection_of(item(1, type="Catalog")), "20230601", "not a STAC item", "leave"),
        ("bad.json", collection_of(without(item(1), "stac_version")), "20230601", "not a STAC item", "leave"),
        ("bad.json", collection_of(item(1, id=5)), "5", "not text", "leave"),
        ("bad.json", collection_of(item(1, geometry=nested(900))), "20230601", "nested more than 100", "leave"),
        (
            "bad.json",
            collection_of(item(1, properties={"x": nested(900)})),
            "20230601",
            "nested more than 100",
            "leave",
        ),
        (
            "bad.json",
            {"type": "Catalog", "stac_version": "1.0.0", "links": [{"rel": ["item"], "href": "a.json"}]},
            "bad.json",
            "rel of a link are text",
            "Check the address",
        ),
        ("bad.parquet", "PAR", "bad.parquet", "stac-geoparquet", "Check the address"),
    ],
)
def test_bad_files_are_told(tmp_path: Path, name: str, document: Any, value: str, rule: str, remedy: str) -> None:
    path = write(tmp_path / name, document)
    with pytest.raises(SearchError) as caught:
        search_items(path)
    says(caught, value, rule, remedy)


@pytest.mark.parametrize("address", ["http://[::1/", "http://me:secret@[::1/?sig=secret", "file://[::1/a.json"])
def test_addresses_that_are_no_url(address: str) -> None:
    with pytest.raises(SearchError, match=r"\[::1/.*: no URL .*https://host/path") as caught:
        search_items(address)
    assert "secret" not in str(caught.value)


# Over HTTP


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


def test_one_page_of_a_search_over_http_is_refused(range_http: services.RangeServer) -> None:
    range_http.reset()
    page = collection_of(item(1)) | {"links": [{"rel": "next", "href": "x"}]}
    write(range_http.directory / "page.json", page)
    with pytest.raises(SearchError, match=r"one page of a search.*landing page"):
        search_items(f"{range_http.url}/page.json")


def test_collection_of_an_api_is_not_walked() -> None:
    with scripted_api() as api:
        links = [{"rel": "items", "href": "./items"}, {"rel": "root", "href": api.url}]
        api.other["/collections/x"] = {"type": "Collection", "id": "x", "stac_version": "1.0.0", "links": links}
        with pytest.raises(SearchError, match=r"page of a STAC API.*landing page"):
            search_items(f"{api.url}/collections/x")


# Real catalogs and recorded answers


def test_real_static_catalog(real_data: Path) -> None:
    catalog = real_data / "catalog" / "catalog.json"
    items = search_items(catalog)
    assert len(items) == 73
    assert all(Path(asset.href).is_file() for found in items for asset in found.assets.values())
    field = parse_bbox("4.06,50.744,4.066,50.748")
    chosen = search_items(catalog, aoi=field, datetime="2019-04/2019-06", cloud_cover=20, collection=COLLECTION)
    assert all(found.id.startswith("S2_31UES_2019") for found in chosen)
    assert chosen == sorted(chosen, key=lambda found: found.id)
    with pytest.raises(EmptySearchError, match="73 items in the catalog; 73 outside the region"):
        search_items(catalog, aoi=parse_bbox("1,43,2,44"))


def test_there_are_recorded_answers_of_all_kinds(real_data: Path) -> None:
    kinds = Counter(path.suffix for path in recordings(real_data / "stac"))
    assert kinds == {".json": 28, ".geojson": 2, ".parquet": 1}


@pytest.mark.slow
def test_recorded_answers_are_read(real_data: Path, tmp_path: Path) -> None:
    """Single items, pages, item collections, a list of items, Parquet; STAC 1.0.0-beta.1 to 1.1.0."""
    read = 0
    mentioned: set[str] = set()
    for path in recordings(real_data / "stac"):
        items = load_items(path)
        assert sorted(found.id for found in items) == sorted(_ids(path)), path
        read += len(items)
        for found in items:
            west, _, east, _ = Aoi(search.footprint(found), "").bbox  # type: ignore[arg-type]
            assert (east - west) % 360 < 9, found.id  # a tile near a pole spans some degrees
            mentioned |= set(found.properties).union(*(one.extra_fields for one in found.assets.values()))
        save_items(items, tmp_path / "copy.json")
        copied = load_items(tmp_path / "copy.json")
        assert [found.to_dict()["assets"] for found in copied] == [found.to_dict()["assets"] for found in items]
    assert mentioned >= {"proj:code", "proj:epsg"}  # both versions of the extension
    assert read > 200


def _ids(path: Path) -> list[str]:
    if path.suffix == ".parquet":
        return parquet.read_table(path, columns=["id"])["id"].to_pylist()
    document = json.loads(path.read_text())
    features = document if isinstance(document, list) else document.get("features") or [document]
    return [feature["id"] for feature in features]


def test_recorded_collections_are_pages_of_an_api(real_data: Path) -> None:
    paths = sorted((real_data / "stac").glob("*/collection_*.json"))
    assert len(paths) == 2
    for path in paths:
        with pytest.raises(SearchError, match=r"page of a STAC API.*landing page"):
            load_items(path)


@pytest.mark.parametrize(
    ("name", "why"),
    [(5, "its id is a int, not text"), (None, "NoneType, not text"), ("S2A\ud800", "half a surrogate pair")],
)
def test_an_id_that_is_no_text_is_refused(tmp_path: Path, name: Any, why: str) -> None:
    with pytest.raises(SearchError) as caught:
        search_items(write(tmp_path / "items.json", collection_of(item(1), item(2, id=name))))
    says(caught, repr(name), "is not a STAC item", why, "leave it out")
