"""Saved items: every format comes back, hrefs move with the folder, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ndvi_scale.errors import ConfigError, SearchError, StoreError
from ndvi_scale.item_files import load_items, save_items
from ndvi_scale.search import search_items
from stac import collection_of, days, item, says, static_catalog, write

if TYPE_CHECKING:
    from pathlib import Path

    import services


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


@pytest.mark.parametrize("name", ["items.json", "items.parquet"])
def test_a_folder_that_does_not_exist_is_refused_alike(tmp_path: Path, name: str) -> None:
    found = search_items(write(tmp_path / "source.json", collection_of(item(1))))
    with pytest.raises(StoreError) as caught:
        save_items(found, tmp_path / "absent" / name)
    says(caught, f"{tmp_path}/absent/{name}", "does not exist", "Make it")
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("huge", [10**30, 10**400, "\ud800"])
def test_what_parquet_cannot_hold_is_one_error(tmp_path: Path, huge: Any) -> None:
    found = search_items(write(tmp_path / "source.json", collection_of(item(1, properties={"x:huge": huge}))))
    with pytest.raises(SearchError) as caught:
        save_items(found, tmp_path / "items.parquet")
    says(caught, "items.parquet", "1 items cannot be written", "Save them as .geojson")
    save_items(found, tmp_path / "items.geojson")
    assert load_items(tmp_path / "items.geojson")[0].properties["x:huge"] == huge


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
