"""Items as granules, and which of several processings of one datatake is used."""

from __future__ import annotations

import copy
import datetime as dt
import json
import random
import warnings
from typing import TYPE_CHECKING, Any

import pystac
import pytest
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox

from ndvi_scale import search_items
from ndvi_scale.errors import ItemError
from ndvi_scale.granules import Processings, choose_processings, granule_from_item, scl_factor
from ndvi_scale.search import footprint

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ndvi_scale.granules import Dropped, Granule

Json = dict[str, Any]
COG, JP2 = "image/tiff; application=geotiff; profile=cloud-optimized", "image/jp2"


def feature(item_id: str = "S2A_31TCJ_20230605_0_L2A", **properties: Any) -> Json:
    """An item as Earth Search v1 gives it, cut down to what matters; a property of None is left out."""

    def asset(name: str, step: int, kind: str = COG) -> Json:
        return {
            "href": f"https://example.org/{item_id}/{name}",
            "type": kind,
            "proj:shape": [109_800 // step, 109_800 // step],
            "proj:transform": [step, 0, 300_000, 0, -step, 4_900_020],
        }

    told = {
        "datetime": "2023-06-05T10:56:09.000Z",
        "platform": "sentinel-2a",
        "proj:epsg": 32631,
        "grid:code": "MGRS-31TCJ",
        "s2:processing_baseline": "05.09",
        "s2:datatake_id": "GS2A_20230605T105031_041532_N05.09",
        "s2:generation_time": "2023-06-05T17:00:00Z",
    } | {key.replace("__", ":"): value for key, value in properties.items()}
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [],
        "id": item_id,
        "collection": "sentinel-2-l2a",
        "geometry": None,
        "properties": {key: value for key, value in told.items() if value is not None},
        "links": [],
        "assets": {
            "red": asset("red.tif", 10),
            "nir": asset("nir.tif", 10),
            "scl": asset("scl.tif", 20),
            "red-jp2": asset("B04.jp2", 10, JP2),
        },
    }


def to_item(document: Json) -> pystac.Item:
    return pystac.Item.from_dict(copy.deepcopy(document), migrate=False)


def granule(item_id: str = "S2A_31TCJ_20230605_0_L2A", **properties: Any) -> Granule:
    return granule_from_item(to_item(feature(item_id, **properties)))


def recorded(folder: Path, *names: str) -> list[pystac.Item]:
    """Items of recorded answers."""
    items = []
    for name in names:
        document = json.loads((folder / "stac" / name).read_text())
        features = document if isinstance(document, list) else document.get("features") or [document]
        items += [to_item(one) for one in features]
    return items


def grid(step: int, x0: int, y0: int, epsg: int, pixels: int) -> GeoBox:
    return GeoBox((pixels, pixels), Affine(step, 0, x0, 0, -step, y0), f"EPSG:{epsg}")


# What is taken from an item


def test_granule_says_what_the_item_says() -> None:
    found = granule()
    assert found.id == "S2A_31TCJ_20230605_0_L2A"
    assert found.time == dt.datetime(2023, 6, 5, 10, 56, 9, tzinfo=dt.UTC)
    assert found.time.utcoffset() == dt.timedelta(0)
    assert (found.platform, found.tile, found.datatake) == ("sentinel-2a", "31TCJ", "S2A_20230605T105031")
    assert found.baseline == (5, 9)
    assert found.generation == "2023-06-05T17:00:00Z"
    assert found.epsg == 32631
    assert found.order == (found.time, found.id)
    assert list(found.assets) == ["red", "nir", "scl"]
    assert found.red.href.endswith("/red.tif")
    assert found.nir.href.endswith("/nir.tif")
    assert found.scl.href.endswith("/scl.tif")
    assert found.red.media_type == COG
    assert found.red.geobox == found.nir.geobox == grid(10, 300_000, 4_900_020, 32631, 10_980)
    assert found.scl.geobox == grid(20, 300_000, 4_900_020, 32631, 5490)
    assert (found.red.offset, found.nir.offset, found.scl.offset) == (-1000, -1000, 0)


def test_offsets_are_per_asset() -> None:
    document = feature()
    document["assets"]["nir"]["raster:bands"] = [{"scale": 0.0001, "offset": -0.05}]
    found = granule_from_item(to_item(document))
    assert (found.red.offset, found.nir.offset, found.scl.offset) == (-1000, -500, 0)
    assert "declared" in found.nir.evidence
    assert "nothing declared" in found.red.evidence


@pytest.mark.parametrize(
    ("properties", "declared", "parts"),
    [
        (
            {"s2__processing_baseline": "99.99"},
            {},
            ("baseline 99.99", "an off-line processing", "declares no offset"),
        ),
        ({"s2__processing_baseline": None}, {}, ("gives no processing baseline", "s2:processing_baseline")),
        (
            {"earthsearch__boa_offset_applied": "perhaps"},
            {},
            ("boa_offset_applied is 'perhaps'", "neither true nor"),
        ),
        (
            {"earthsearch__boa_offset_applied": True, "sentinel__boa_offset_applied": False},
            {},
            ("earthsearch:boa_offset_applied and sentinel:boa_offset_applied contradict",),
        ),
        ({}, {"offset": 0.1}, ("offset 0.1 with scale 0.0001", "at most 0")),
        ({}, {"offset": -0.1, "scale": 0}, ("scale 0 ", "above 0")),
        ({}, {"offset": -0.1, "scale": True}, ("scale True", "a number above 0")),
        ({}, {"offset": -0.1, "scale": 1}, ("offset -0.1 with scale 1 is declared", "less than one DN")),
        (
            {"s2__processing_baseline": "02.14", "processing__version": "05.00"},
            {},
            ("s2:processing_baseline 02.14 and processing:version 05.00 contradict each other",),
        ),
        ({}, {"offset": -1000}, ("an offset of -10000000 DN", "declared by the asset")),
    ],
)
def test_an_offset_that_cannot_be_known_is_refused_until_it_is_given(
    properties: Json, declared: Json, parts: tuple[str, ...]
) -> None:
    document = feature(**properties)
    document["assets"]["red"]["raster:bands"] = [declared]
    with pytest.raises(ItemError) as caught:
        granule_from_item(to_item(document))
    for part in (document["id"], "give the offset (0 or -1000)", *parts):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert granule_from_item(to_item(document), -1000).red.offset == -1000


def test_a_jp2_without_a_type_is_known_by_its_name() -> None:
    document = feature(earthsearch__boa_offset_applied=True)
    for band in ("red", "nir"):
        asset = document["assets"][band]
        del asset["type"]
        asset["href"] = f"https://example.org/{band}.JP2?sig=a"
    found = granule_from_item(to_item(document))
    assert (found.red.media_type, found.red.offset, found.scl.media_type) == (JP2, -1000, COG)


@pytest.mark.parametrize("offset", [0, -1000, -500])
def test_override_reaches_red_and_nir_and_leaves_scl_alone(offset: int) -> None:
    for baseline in ("05.09", "02.14", None):
        found = granule_from_item(to_item(feature(s2__processing_baseline=baseline)), offset)
        assert (found.red.offset, found.nir.offset, found.scl.offset) == (offset, offset, 0)


def test_time_falls_back_to_the_start_and_is_utc() -> None:
    document = feature(
        datetime="2023-06-05T12:56:09+02:00",
        start_datetime="2023-06-05T10:00:00Z",
        end_datetime="2023-06-05T10:01:00Z",
    )
    assert granule_from_item(to_item(document)).time == dt.datetime(2023, 6, 5, 10, 56, 9, tzinfo=dt.UTC)
    document["properties"]["datetime"] = None
    assert granule_from_item(to_item(document)).time == dt.datetime(2023, 6, 5, 10, tzinfo=dt.UTC)


def test_projection_is_found_on_the_item_or_on_the_asset_as_code_or_as_number() -> None:
    wanted = grid(10, 300_000, 4_900_020, 32631, 10_980)
    plain, coded, on_asset, nine = feature(), feature(proj__epsg=None), feature(proj__epsg=None), feature()
    coded["properties"]["proj:code"] = "EPSG:32631"
    for key in ("red", "nir", "scl"):
        on_asset["assets"][key]["proj:code"] = "EPSG:32631"
        nine["assets"][key]["proj:transform"] += [0, 0, 1]
    for document in (plain, coded, on_asset, nine):
        assert granule_from_item(to_item(document)).red.geobox == wanted


def test_asset_goes_before_item_where_both_say_a_grid() -> None:
    document = feature(proj__shape=[5, 5], proj__transform=[60, 0, 0, 0, -60, 0])
    assert granule_from_item(to_item(document)).red.geobox == grid(10, 300_000, 4_900_020, 32631, 10_980)


# Recorded items


@pytest.mark.parametrize(
    ("name", "item_id", "offset", "media", "geobox"),
    [
        (
            "earth-search-v1/search_belarus35U_202311.json",
            "S2B_35UPU_20231109_0_L2A",
            0,
            COG,
            (10, 600_000, 5_900_040, 32635, 10_980),
        ),
        (
            "cdse-v1/search_belarus35U_202311.json",
            "S2B_MSIL2A_20231109T092119_N0509_R093_T35UPU_20231109T104845",
            -1000,
            JP2,
            (10, 600_000, 5_900_040, 32635, 10_980),
        ),
        (
            "cdse-v1/items_sentinel-2-l2a_29LQG.json",
            "S2B_MSIL2A_20250202T105429_N0511_R108_T29LQG_20250202T125712",
            -1000,
            JP2,
            (10, 699_960, 8_700_040, 32729, 10_980),
        ),
        (
            "planetary-computer/item_S2B_MSIL2A_20200705T101559_R065_T32TMT_20200825T083452.json",
            "S2B_MSIL2A_20200705T101559_R065_T32TMT_20200825T083452",
            0,
            COG,
            (10, 399_960, 5_300_040, 32632, 10_980),
        ),
        (
            "earth-search-v1/openeo_item_S2A_32TPS_20230602_0_L2A_projcode.json",
            "S2A_32TPS_20230602_0_L2A",
            0,
            COG,
            (10, 600_000, 5_200_020, 32632, 10_980),
        ),
    ],
)
def test_recorded_item(
    real_data: Path, name: str, item_id: str, offset: int, media: str, geobox: tuple[int, int, int, int, int]
) -> None:
    (item,) = [item for item in recorded(real_data, name) if item.id == item_id]
    found = granule_from_item(item)
    step, x0, y0, epsg, pixels = geobox
    assert (found.red.offset, found.nir.offset, found.scl.offset) == (offset, offset, 0)
    assert found.red.media_type == found.nir.media_type == media
    assert found.red.geobox == found.nir.geobox == grid(*geobox)
    assert found.scl.geobox == grid(2 * step, x0, y0, epsg, pixels // 2)
    assert found.platform == f"sentinel-2{item_id[2].lower()}"
    assert found.time == item.datetime
    assert "://" in found.red.href
    assert found.generation


L2A_FILES = [
    "earth-search-v1/items_sentinel-2-l2a_41K.json",
    "earth-search-v1/items_sentinel-2-l2a_18C_antarctic.json",
    "earth-search-v1/items_sentinel-2-c1-l2a.json",
    "earth-search-v1/items_sentinel-2-pre-c1-l2a.json",
    "earth-search-v0/search_sentinel-s2-l2a-cogs.json",
    "cdse-v1/items_sentinel-2-l2a_29LQG.json",
    "cdse-v1/items_sentinel-2-l2a_32VKR.json",
    "planetary-computer/stacgeoparquet_sentinel-2-l2a-pc.json",
    "planetary-computer/odcstac_site1-20200606-tall-strip-africa.geojson",
    "planetary-computer/odcstac_site2-2020_jun_jul-35MNM.geojson",
    "stactools/S2A_OPER_MSI_L2A_TL_VGS1_20220401T110010_A035382_T34LBP.json",
    "stactools/S2A_MSIL2A_20230625T234621_N0509_R073_T01WCP_20230626T022157.SAFE.json",
]


@pytest.mark.parametrize("name", L2A_FILES)
def test_every_recorded_item_is_a_granule_of_one_tile(real_data: Path, name: str) -> None:
    for item in recorded(real_data, name):
        found = granule_from_item(item)
        assert found.tile.lstrip("0") in item.id
        assert len(found.tile) == 5
        zone = int(found.tile[:2])
        assert found.epsg == (32600 if found.tile[2] >= "N" else 32700) + zone
        assert found.red.geobox.shape.yx == (10_980, 10_980)
        assert found.red.geobox.resolution.x == 10
        assert scl_factor(found.red.geobox, found.scl.geobox) == 2


@pytest.mark.parametrize("name", [*L2A_FILES[:4], L2A_FILES[5], L2A_FILES[7]])
def test_items_brought_to_the_newest_stac_give_the_same_granule(real_data: Path, name: str) -> None:
    """pystac can move fields (proj:epsg to proj:code, raster:bands to bands): nothing may hang on that."""
    document = json.loads((real_data / "stac" / name).read_text())
    for one in document if isinstance(document, list) else document["features"]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of pystac's storage extension
            migrated = pystac.Item.from_dict(copy.deepcopy(one), migrate=True)
        assert granule_from_item(migrated) == granule_from_item(to_item(one))


def test_two_providers_agree_on_place_and_pass(real_data: Path) -> None:
    found = {}
    for provider in ("earth-search-v1", "cdse-v1"):
        granules = [granule_from_item(i) for i in recorded(real_data, f"{provider}/search_belarus35U_202311.json")]
        found[provider] = {(g.tile, g.datatake, g.platform, g.baseline): g.red.geobox for g in granules}
        assert len(found[provider]) == 8
    assert found["earth-search-v1"] == found["cdse-v1"]


def test_real_catalog(real_data: Path) -> None:
    granules = [granule_from_item(item) for item in search_items(real_data / "catalog" / "catalog.json")]
    fields = [g for g in granules if g.tile == "31UES"]
    assert len(fields) == 72
    assert {g.red.offset for g in fields} == {0}
    assert {g.red.geobox for g in fields} == {grid(10, 574_680, 5_622_440, 32631, 64)}
    assert {g.scl.geobox for g in fields} == {grid(20, 574_680, 5_622_440, 32631, 32)}
    (tile,) = [g for g in granules if g.tile == "29UNU"]
    assert len(granules) == 73
    assert (tile.red.offset, tile.nir.offset, tile.scl.offset) == (-1000, -1000, 0)
    assert tile.red.geobox == tile.nir.geobox == tile.scl.geobox
    assert tile.red.geobox.shape.yx == (1830, 1830)
    assert tile.red.geobox.resolution.x == 60
    assert tile.epsg == 32629


# What is refused


@pytest.mark.parametrize("band", ["red", "nir", "scl"])
def test_missing_asset_is_named(band: str) -> None:
    document = feature()
    del document["assets"][band]
    with pytest.raises(ItemError) as caught:
        granule_from_item(to_item(document))
    assert (caught.value.item_id, caught.value.asset) == (document["id"], band)
    for part in (document["id"], repr(band), "red-jp2", "on-error = skip"):
        assert part in str(caught.value)


def test_item_without_assets_is_refused() -> None:
    document = {**feature(), "assets": {}}
    with pytest.raises(ItemError, match="it has none"):
        granule_from_item(to_item(document))


@pytest.mark.parametrize(
    ("absent", "named"),
    [
        (["proj:epsg"], "no proj:code for"),
        (["proj:transform"], "no proj:transform for"),
        (["proj:shape"], "no proj:shape for"),
        (["proj:epsg", "proj:transform", "proj:shape"], "no proj:code and no proj:transform and no proj:shape"),
    ],
)
def test_missing_projection_is_named(absent: list[str], named: str) -> None:
    document = feature()
    for field in absent:
        document["properties"].pop(field, None)
        for asset in document["assets"].values():
            asset.pop(field, None)
    with pytest.raises(ItemError, match=named) as caught:
        granule_from_item(to_item(document))
    assert (caught.value.item_id, caught.value.asset) == (document["id"], "red")


@pytest.mark.parametrize("baseline", [None, "unknown"])
def test_unknown_baseline_is_an_error_and_says_what_to_give(baseline: str | None) -> None:
    document = feature(s2__processing_baseline=baseline)
    with pytest.raises(ItemError, match="no processing baseline") as caught:
        granule_from_item(to_item(document))
    assert caught.value.item_id == document["id"]
    assert "0 or -1000" in str(caught.value)


def test_recorded_item_without_baseline_needs_an_offset(real_data: Path) -> None:
    (item,) = recorded(real_data, "earth-search-v0/odcstac_S2A_28QCH_20200714_0_L2A.json")
    with pytest.raises(ItemError, match="S2A_28QCH_20200714_0_L2A gives no processing baseline"):
        granule_from_item(item)
    assert granule_from_item(item, 0).red.offset == 0


def test_recorded_items_of_other_products_are_refused(real_data: Path) -> None:
    items = recorded(real_data, "earth-search-v1/search_mixed_collections.json")
    other = [item for item in items if not (item.collection_id or "").endswith("l2a")]
    assert {item.collection_id for item in other} == {"sentinel-2-l1c", "sentinel-1-grd"}
    for item in other:
        with pytest.raises(ItemError, match="has no asset") as caught:
            granule_from_item(item)
        assert caught.value.item_id == item.id


def test_assets_of_any_name_are_used_when_they_are_given() -> None:
    document = feature()
    renamed = {"red": "B4", "nir": "B5", "scl": "QA"}
    known = granule_from_item(to_item(document))
    document["assets"] = {renamed.get(key, key): asset for key, asset in document["assets"].items()}
    with pytest.raises(ItemError, match=r"no asset 'red'.*--asset red=KEY"):
        granule_from_item(to_item(document))
    assert granule_from_item(to_item(document), None, tuple(renamed.items())) == known
    with pytest.raises(ItemError, match=r"no asset 'Red' for band 'red' \(it has B4, B5, QA, red-jp2\)") as caught:
        granule_from_item(to_item(document), None, (("red", "Red"), ("nir", "B5"), ("scl", "QA")))
    assert caught.value.asset == "Red"


def test_one_band_may_be_named_and_the_others_found() -> None:
    document = feature()
    document["assets"]["B5"] = document["assets"]["nir"] | {"href": "s3://other/B5.tif"}
    found = granule_from_item(to_item(document), None, (("nir", "B5"),))
    assert (found.nir.href, found.red.href) == ("s3://other/B5.tif", document["assets"]["red"]["href"])


@pytest.mark.parametrize(
    "change",
    [
        {"proj:shape": [5490, 5490], "proj:transform": [20, 0, 300_000, 0, -20, 4_900_020]},
        {"proj:transform": [10, 0, 300_010, 0, -10, 4_900_020]},
        {"proj:code": "EPSG:32632"},
    ],
    ids=["pixel size", "origin", "CRS"],
)
def test_red_and_nir_on_different_grids_are_refused(change: Json) -> None:
    document = feature()
    document["assets"]["nir"] |= change
    with pytest.raises(ItemError, match="red and nir lie on different grids") as caught:
        granule_from_item(to_item(document))
    assert (caught.value.item_id, caught.value.asset) == (document["id"], "nir")


@pytest.mark.parametrize(
    "change",
    [
        {"proj:transform": [20, 0, 300_010, 0, -20, 4_900_020]},
        {"proj:transform": [20, 0, 300_000, 0, -20, 4_900_030]},
        {"proj:transform": [15, 0, 300_000, 0, -15, 4_900_020]},
        {"proj:transform": [5, 0, 300_000, 0, -5, 4_900_020], "proj:shape": [21_960, 21_960]},
        {"proj:shape": [5489, 5490]},
        {"proj:shape": [5490, 5491]},
        {"proj:code": "EPSG:32632"},
    ],
    ids=["half a pixel east", "half a pixel north", "factor 1.5", "finer", "too short", "too wide", "CRS"],
)
def test_scl_that_does_not_nest_is_refused(change: Json) -> None:
    document = feature()
    document["assets"]["scl"] |= change
    with pytest.raises(ItemError, match="does not nest in red") as caught:
        granule_from_item(to_item(document))
    assert (caught.value.item_id, caught.value.asset) == (document["id"], "scl")


def test_item_without_time_is_refused() -> None:
    item = to_item(feature())
    item.datetime = None
    with pytest.raises(ItemError, match="neither datetime nor start_datetime"):
        granule_from_item(item)


@pytest.mark.parametrize(("step", "factor"), [(10, 1), (20, 2), (60, 6), (15, 0), (25, 0), (5, 0)])
def test_scl_factor(step: int, factor: int) -> None:
    red = grid(10, 300_000, 4_900_020, 32631, 60)
    assert scl_factor(red, grid(step, 300_000, 4_900_020, 32631, 10)) == factor


# Which processing


def ids(granules: Sequence[Granule]) -> list[str]:
    return [granule.id for granule in granules]


def chosen_of(granules: Sequence[Granule]) -> tuple[list[Granule], list[Dropped]]:
    processings = choose_processings(granules)
    return processings.chosen, processings.dropped


def test_lake_constance_keeps_the_second_processing_of_every_scene(real_data: Path) -> None:
    items = recorded(
        real_data,
        "earth-search-v1/search_lakeconstance_202003_p1.json",
        "earth-search-v1/search_lakeconstance_202003_p2.json",
    )
    assert len(items) == 16
    granules = [granule_from_item(item) for item in items]
    for seed in range(5):
        random.Random(seed).shuffle(granules)  # noqa: S311 - an order, not a secret
        kept, dropped = chosen_of(granules)
        assert len(kept) == len(dropped) == 8
        assert all(one.id.endswith("_1_L2A") and one.baseline == (5, 0) for one in kept)
        assert kept == sorted(kept, key=lambda one: (one.time, one.id))
        assert {one.id for one in dropped} == {one.id.replace("_1_L2A", "_0_L2A") for one in kept}
        for one in dropped:
            winner = one.id.replace("_0_L2A", "_1_L2A")
            assert one.reason == f"baseline 02.14 is superseded by {winner} (05.00)"


@pytest.mark.parametrize(
    "name",
    [
        "cdse-v1/search_belarus35U_202311.json",
        "earth-search-v1/search_belarus35U_202311.json",
        "planetary-computer/odcstac_site2-2020_jun_jul-35MNM.geojson",
    ],
)
def test_what_was_processed_once_is_kept_whole(real_data: Path, name: str) -> None:
    granules = [granule_from_item(item) for item in recorded(real_data, name)]
    kept, dropped = chosen_of(granules)
    assert set(ids(kept)) == set(ids(granules))
    assert dropped == []


def test_footprints_of_both_processings_hold_the_same_ground(real_data: Path) -> None:
    """Those of 02.14 and 05.00 differ a little along the edge of the swath, which does not make halves of them."""
    pages = (
        "earth-search-v1/search_lakeconstance_202003_p1.json",
        "earth-search-v1/search_lakeconstance_202003_p2.json",
    )
    items = recorded(real_data, *pages)
    found = choose_processings(map(granule_from_item, items), {item.id: footprint(item) for item in items})
    assert len(found.chosen) == len(found.dropped) == 8
    for one in found.chosen:
        assert ids(found.spares[one.id]) == [one.id.replace("_1_L2A", "_0_L2A")]


WEST, EAST, WHOLE = shapely.box(1, 43, 1.5, 44), shapely.box(1.5, 43, 2, 44), shapely.box(1, 43, 2, 44)
SHAKY = shapely.box(1.001, 43.002, 2.001, 44.001)


@pytest.mark.parametrize(
    ("grounds", "kept", "spares"),
    [
        ({"new": WHOLE, "old": WHOLE}, {"new"}, {"new": ["old"]}),
        ({"new": SHAKY, "old": WHOLE}, {"new"}, {"new": ["old"]}),
        ({"new": WEST, "old-a": WEST, "old-b": EAST}, {"new", "old-b"}, {"new": ["old-a"]}),
        ({"new": WEST, "old": WHOLE}, {"new", "old"}, {}),
        ({"new": WHOLE, "old-a": WEST, "old-b": EAST}, {"new"}, {"new": ["old-a", "old-b"]}),
        (
            {"new-a": WEST, "new-b": EAST, "old": WHOLE},
            {"new-a", "new-b"},
            {"new-a": ["old"], "new-b": ["old"]},
        ),
        ({"new-a": WEST, "new-b": EAST, "old": WEST}, {"new-a", "new-b"}, {"new-a": ["old"]}),
        ({"new": WEST, "old": None}, {"new"}, {"new": ["old"]}),
        ({"new": None, "old": WEST}, {"new"}, {"new": ["old"]}),
        ({"new": WHOLE, "old": WHOLE, "mid": WHOLE}, {"new"}, {"new": ["mid", "old"]}),
    ],
)
def test_an_older_half_stays_where_the_newer_do_not_hold_its_ground(
    grounds: dict[str, shapely.Geometry | None], kept: set[str], spares: dict[str, list[str]]
) -> None:
    baselines = {"new": "05.10", "mid": "04.00", "old": "02.14"}
    granules = [granule(name, s2__processing_baseline=baselines[name.split("-")[0]]) for name in grounds]
    found = choose_processings(granules, {name: ground for name, ground in grounds.items() if ground is not None})
    assert set(ids(found.chosen)) == kept
    assert {one.id for one in found.dropped} == set(grounds) - kept
    assert {name: ids(older) for name, older in found.spares.items()} == spares


def test_a_copy_under_another_id_counts_once() -> None:
    made = {"s2__generation_time": "2023-06-05T17:00:00Z"}
    one, copy_ = granule("one", **made), granule("two", **made)
    half = granule("half", **made)
    found = choose_processings([copy_, one, half], {"one": WHOLE, "two": SHAKY, "half": EAST})
    assert set(ids(found.chosen)) == {"one", "half"}
    assert [dropped.reason for dropped in found.dropped] == ["is the same product as one (05.09)"]
    assert ids(found.spares["one"]) == ["two"]


def test_of_one_id_the_one_made_last_is_used_whatever_the_order() -> None:
    first = granule("a", s2__generation_time="2023-06-05T17:00:00Z")
    later = granule("a", s2__generation_time="2023-06-06T17:00:00Z")
    for pair in ([first, later], [later, first]):
        kept, dropped = chosen_of(pair)
        assert [one.generation for one in kept] == ["2023-06-06T17:00:00Z"]
        assert [one.reason for one in dropped] == ["the same id comes twice"]


@pytest.mark.parametrize(
    "change",
    [
        {"proj:transform": [0, 0, 0, 0, 0, 0]},
        {"proj:transform": [10, 0, 300_000, 0, 10, 4_900_020]},
        {"proj:transform": [10, 1, 300_000, 1, -10, 4_900_020]},
        {"proj:transform": [10, 0, 300_000, 0, -20, 4_900_020]},
        {"proj:transform": [10, 0, float("inf"), 0, -10, 4_900_020]},
        {"proj:epsg": 32600},
        {"proj:epsg": 4326},
        {"proj:code": "EPSG:0"},
    ],
    ids=str,
)
def test_projection_fields_that_make_no_map_of_squares_are_refused(change: Json) -> None:
    document = feature()
    for band in ("red", "nir", "scl"):
        document["assets"][band].update({key: value for key, value in change.items() if key != "proj:epsg"})
    document["properties"].update({key: value for key, value in change.items() if key == "proj:epsg"})
    with pytest.raises(ItemError, match="its projection fields make no grid"):
        granule_from_item(to_item(document))


def test_a_media_type_that_is_no_text() -> None:
    document = feature()
    document["assets"]["red"]["type"] = 5
    assert granule_from_item(to_item(document)).red.media_type == "5"


def test_both_halves_of_a_split_datatake_stay() -> None:
    first = granule("half-a", s2__generation_time="2023-06-05T17:00:00Z")
    second = granule("half-b", s2__generation_time="2023-06-05T18:30:00Z")
    kept, dropped = chosen_of([second, first])
    assert ids(kept) == ["half-a", "half-b"]
    assert dropped == []


def test_a_split_datatake_processed_again_keeps_both_new_halves() -> None:
    takes = [
        granule(name, s2__processing_baseline=baseline)
        for name, baseline in [("a-old", "02.14"), ("b-old", "02.14"), ("a-new", "05.10"), ("b-new", "05.10")]
    ]
    kept, dropped = chosen_of(takes)
    assert ids(kept) == ["a-new", "b-new"]
    assert {one.id for one in dropped} == {"a-old", "b-old"}


def test_the_highest_baseline_wins_by_number() -> None:
    texts = ["05.09", "05.10", "4.0", "02.14"]
    kept, dropped = chosen_of([granule(f"n{text}", s2__processing_baseline=text) for text in texts])
    assert ids(kept) == ["n05.10"]
    assert {one.id for one in dropped} == {"n05.09", "n4.0", "n02.14"}


@pytest.mark.parametrize("other", ["02.04", "05.11"])
def test_99_99_never_wins_by_its_number(other: str) -> None:
    off_line = granule("off-line", s2__processing_baseline="99.99", earthsearch__boa_offset_applied=True)
    kept, dropped = chosen_of([off_line, granule("regular", s2__processing_baseline=other)])
    assert ids(kept) == ["regular"]
    assert [one.id for one in dropped] == ["off-line"]
    assert "99.99" in dropped[0].reason
    assert chosen_of([off_line]) == ([off_line], [])


def test_an_id_that_comes_twice_counts_once() -> None:
    kept, dropped = chosen_of([granule("twice"), granule("twice"), granule("once", grid__code="MGRS-31TDJ")])
    assert sorted(ids(kept)) == ["once", "twice"]
    assert [(one.id, one.reason) for one in dropped] == [("twice", "the same id comes twice")]


@pytest.mark.parametrize(
    "other",
    [
        {"grid__code": "MGRS-31TDJ"},
        {"s2__datatake_id": "GS2A_20230615T105031_041675_N02.14"},
        {"s2__datatake_id": "GS2B_20230605T105031_032523_N02.14"},
    ],
    ids=["tile", "start of sensing", "platform"],
)
def test_other_tiles_and_datatakes_do_not_compete(other: dict[str, str]) -> None:
    kept, dropped = chosen_of([granule("new"), granule("old", s2__processing_baseline="02.14", **other)])
    assert sorted(ids(kept)) == ["new", "old"]
    assert dropped == []


@pytest.mark.parametrize(
    ("seconds", "platform", "kept_ids"),
    [
        (0, "sentinel-2a", ["new"]),
        (59, "sentinel-2a", ["new"]),
        (60, "sentinel-2a", ["new"]),
        (61, "sentinel-2a", ["old", "new"]),
        (6000, "sentinel-2a", ["old", "new"]),
        (0, "sentinel-2b", ["new", "old"]),
    ],
)
def test_without_datatake_ids_the_time_decides(seconds: int, platform: str, kept_ids: list[str]) -> None:
    start = dt.datetime(2023, 6, 5, 10, 56, 9, tzinfo=dt.UTC)
    later = (start + dt.timedelta(seconds=seconds)).isoformat()
    old = granule("old", s2__datatake_id=None, s2__processing_baseline="02.14", platform=platform)
    new = granule("new", s2__datatake_id=None, datetime=later)
    kept, dropped = chosen_of([new, old])
    assert ids(kept) == kept_ids
    assert len(dropped) == 2 - len(kept_ids)


def test_nothing_in_nothing_out() -> None:
    assert choose_processings([]) == Processings([], [], {})


@pytest.mark.parametrize("field", ["s2:generation_time", "platform"])
def test_text_that_no_file_holds_is_refused(field: str) -> None:
    with pytest.raises(ItemError, match=r"makes no sense.*surrogates not allowed"):
        granule_from_item(to_item(feature(**{field.replace(":", "__"): "\ud800"})))


def test_an_id_that_no_file_holds_is_refused() -> None:
    with pytest.raises(ItemError, match=r"makes no sense.*surrogates not allowed"):
        granule_from_item(to_item({**feature(), "id": "S2A\ud800"}))
