"""What an item is: baselines, offsets, masks, solar days, tiles, datatakes, asset names.

Expected values are those of the providers' documents and of recorded items, written down here by hand.
"""

from __future__ import annotations

import datetime as dt
import itertools
import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndvi_scale.errors import ConfigError
from ndvi_scale.kernels import LAND, USE
from ndvi_scale.sentinel2 import (
    MASKS,
    SCL_CLASSES,
    baseline_rank,
    find_asset_keys,
    item_baseline,
    item_datatake,
    item_tile,
    parse_baseline,
    parse_mask,
    resolve_offset,
    scl_table,
    solar_day,
)
from offset_rules import BASELINES, FLAG, OFFSETS, Case

if TYPE_CHECKING:
    from pathlib import Path

Json = dict[str, Any]


def recorded(folder: Path, name: str) -> list[Json]:
    """Items of a recorded answer: a collection, a list, or one item."""
    document = json.loads((folder / "stac" / name).read_text())
    if isinstance(document, list):
        return document
    return document.get("features") or [document]


# Baselines


@pytest.mark.parametrize(
    ("text", "baseline"),
    [("05.11", (5, 11)), ("04.00", (4, 0)), ("4.0", (4, 0)), ("5.1", (5, 1)), ("N0511", None), ("99.99", (99, 99))],
)
def test_baseline_is_a_pair_of_numbers(text: str, baseline: tuple[int, int] | None) -> None:
    if baseline is None:
        with pytest.raises(ValueError, match=re.escape(repr(text))):
            parse_baseline(text)
    else:
        assert parse_baseline(text) == baseline


@pytest.mark.parametrize("text", ["", "5", "05", "05.11.1", "five", "05,11", "-1.00", "2023-06-01"])
def test_what_is_no_baseline_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not of the form"):
        parse_baseline(text)


def test_baselines_order_as_numbers_and_99_99_below_all() -> None:
    ordered = ["99.99", "02.04", "02.14", "03.01", "4.0", "04.01", "05.00", "05.09", "05.10", "05.11", "10.00"]
    ranks = [baseline_rank(parse_baseline(text)) for text in ordered]
    assert all(low < high for low, high in itertools.pairwise(ranks))
    assert parse_baseline("4.0") == parse_baseline("04.00")


@pytest.mark.parametrize(("properties", "baseline"), BASELINES)
def test_baseline_of_an_item(properties: Json, baseline: tuple[int, int] | None) -> None:
    assert item_baseline(properties) == baseline


# Offsets


@pytest.mark.parametrize("case", OFFSETS.values(), ids=OFFSETS.keys())
def test_offset(case: Case) -> None:
    if case.expected == "refused":
        with pytest.raises(ValueError, match=r"0|float"):
            resolve_offset(case.properties, case.asset, case.override)
        return
    offset = resolve_offset(case.properties, case.asset, case.override)
    assert (offset and (offset.dn, offset.evidence)) == case.expected


@pytest.mark.parametrize("name", ["flag that says neither", "flags that contradict", "a positive offset"])
def test_what_makes_no_sense_is_named_with_the_remedy(name: str) -> None:
    case = OFFSETS[name]
    with pytest.raises(ValueError, match=r"give\s+the offset \(0 or -1000\)") as caught:
        resolve_offset(case.properties, case.asset)
    assert any(part in str(caught.value) for part in (FLAG, "offset 0.1 with scale 0.0001"))


@given(baseline=st.tuples(st.integers(0, 99), st.integers(0, 99)), dn=st.integers(-2000, 0), known=st.booleans())
def test_offset_follows_from_baseline_and_declaration(baseline: tuple[int, int], dn: int, *, known: bool) -> None:
    asset = {"raster:bands": [{"scale": 1e-4, "offset": dn / 10_000}]} if known else {}
    offset = resolve_offset({"s2:processing_baseline": "{:02}.{:02}".format(*baseline)}, asset)
    if baseline < (4, 0):
        assert offset is not None
        assert offset.dn == 0
    elif known:
        assert offset is not None
        assert offset.dn == dn
    else:
        assert (offset and offset.dn) == (None if baseline == (99, 99) else -1000)


# Scene classes


def test_there_are_twelve_classes_in_the_order_of_the_product() -> None:
    assert len(SCL_CLASSES) == 12
    assert SCL_CLASSES[0] == "no_data"
    assert [SCL_CLASSES.index(name) for name in ("vegetation", "not_vegetated", "water", "thin_cirrus")] == [
        4,
        5,
        6,
        10,
    ]
    assert SCL_CLASSES[3] == "cloud_shadow"
    assert SCL_CLASSES[11] == "snow_or_ice"


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("default", {2, 4, 5, 6, 7, 11}),
        ("clear-sky", {4, 5, 6, 7, 11}),
        ("land", {4, 5}),
        ("snow-free", {2, 4, 5, 6, 7}),
        ("openeo", {2, 4, 5, 6, 7}),
        ("none", set(range(12))),
    ],
)
def test_preset_keeps_its_classes_and_nothing_above_eleven(name: str, kept: set[int]) -> None:
    table = scl_table(parse_mask(name))
    assert table.shape == (256,)
    assert table.dtype == np.uint8
    assert set(np.flatnonzero(table & USE).tolist()) == kept
    assert set(np.flatnonzero(table & LAND).tolist()) == kept & {4, 5}


@given(dropped=st.frozensets(st.integers(0, 11)))
def test_table_drops_exactly_what_it_is_told(dropped: frozenset[int]) -> None:
    table = scl_table(dropped)
    for scl in range(256):
        used = scl <= 11 and scl not in dropped
        assert bool(table[scl] & USE) == used
        assert bool(table[scl] & LAND) == (used and scl in (4, 5))


@given(classes=st.frozensets(st.integers(0, 11), min_size=1))
def test_mask_is_the_same_as_text_and_as_numbers(classes: frozenset[int]) -> None:
    assert parse_mask(classes) == classes
    assert parse_mask(",".join(map(str, classes))) == classes
    assert parse_mask(" , ".join(map(str, sorted(classes)))) == classes


def test_preset_names_are_those_promised() -> None:
    assert set(MASKS) == {"default", "clear-sky", "land", "snow-free", "openeo", "none"}
    assert all(parse_mask(name) == dropped for name, dropped in MASKS.items())
    assert parse_mask([]) == frozenset()


@pytest.mark.parametrize(
    ("mask", "parts"),
    [
        ("defualt", ["'defualt'", "did you mean 'default'", "clear-sky", "0,1,3,8,9,10"]),
        ("clouds", ["'clouds'", "default, clear-sky, land, snow-free, openeo, none"]),
        ("", ["''", "default"]),
        ("3,x", ["'3,x'", "SCL classes like"]),
        ("-1", ["'-1'", "SCL classes like"]),
        ("3,12", ["12", "0 to 11"]),
        ([3, -1], ["-1", "0 to 11"]),
        ([256], ["256", "0 to 11"]),
    ],
)
def test_wrong_mask_is_refused_with_value_rule_and_remedy(mask: Any, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_mask(mask)
    for part in parts:
        assert part in str(caught.value)


# Solar days


@pytest.mark.parametrize(
    ("utc", "longitude", "day"),
    [
        ("2023-01-09T22:25", 170.6, "2023-01-10"),
        ("2023-01-31T22:25", 170.6, "2023-02-01"),
        ("2023-01-01T21:05", -155.5, "2023-01-01"),
        ("2023-06-10T23:59", 14.9, "2023-06-10"),
        ("2023-06-10T23:59", 15.0, "2023-06-11"),
        # truncation toward zero: floor would take 11 hours and reach the day before
        ("2023-01-01T10:30", -155.5, "2023-01-01"),
        ("2023-01-01T09:59", -155.5, "2022-12-31"),
        ("2023-06-10T00:10", -14.9, "2023-06-10"),
        ("2023-06-10T00:10", -15.0, "2023-06-09"),
        ("2024-02-29T12:00", 180.0, "2024-03-01"),
        ("2024-03-01T11:59", -180.0, "2024-02-29"),
        ("2023-06-10T10:56", 1.4, "2023-06-10"),
    ],
)
def test_solar_day(utc: str, longitude: float, day: str) -> None:
    time = dt.datetime.fromisoformat(utc)
    assert solar_day(time.replace(tzinfo=dt.UTC), longitude) == dt.date.fromisoformat(day)
    assert solar_day(time, longitude) == dt.date.fromisoformat(day), "a naive time is UTC"
    elsewhere = time.replace(tzinfo=dt.UTC).astimezone(dt.timezone(dt.timedelta(hours=9)))
    assert solar_day(elsewhere, longitude) == dt.date.fromisoformat(day), "an instant has one solar day"


@given(
    time=st.datetimes(dt.datetime(2015, 6, 23), dt.datetime(2035, 1, 1)),  # noqa: DTZ001 - naive is UTC here
    longitude=st.floats(-180, 180),
)
def test_solar_day_shifts_by_whole_hours_alike_east_and_west(time: dt.datetime, longitude: float) -> None:
    hours = int(abs(longitude) // 15)
    shift = dt.timedelta(hours=hours if longitude > 0 else -hours)
    assert solar_day(time, longitude) == (time + shift).date()


# Tiles and datatakes


@pytest.mark.parametrize(
    ("properties", "item_id", "tile"),
    [
        ({"grid:code": "MGRS-31TCJ"}, "x", "31TCJ"),
        ({"s2:mgrs_tile": "32TMT"}, "x", "32TMT"),
        ({"grid:code": "MGRS-1UBT"}, "x", "01UBT"),
        ({"mgrs:utm_zone": 7, "mgrs:latitude_band": "H", "mgrs:grid_square": "FE"}, "x", "07HFE"),
        ({}, "S2B_MSIL2A_20200705T101559_R065_T32TMT_20200825T083452", "32TMT"),
        ({}, "S2A_28QCH_20200714_0_L2A", "28QCH"),
        ({}, "no-tile-here", ""),
    ],
)
def test_tile(properties: Json, item_id: str, tile: str) -> None:
    assert item_tile(properties, item_id) == tile


RECORDED_PASSES = [
    ("earth-search-v1/search_belarus35U_202311.json", "S2B_35UPU_20231109_0_L2A", "35UPU", "S2B_20231109T092119"),
    (
        "cdse-v1/search_belarus35U_202311.json",
        "S2B_MSIL2A_20231109T092119_N0509_R093_T35UPU_20231109T104845",
        "35UPU",
        "S2B_20231109T092119",
    ),
    (
        "earth-search-v1/items_sentinel-2-c1-l2a.json",
        "S2B_T33RYP_20250204T093106_L2A",
        "33RYP",
        "S2B_20250204T093109",
    ),
    (
        "earth-search-v0/search_sentinel-s2-l2a-cogs.json",
        "S2B_20EPT_20250731_0_L2A",
        "20EPT",
        "S2B_20250731T131909",
    ),
    (
        "planetary-computer/item_S2B_MSIL2A_20200705T101559_R065_T32TMT_20200825T083452.json",
        "S2B_MSIL2A_20200705T101559_R065_T32TMT_20200825T083452",
        "32TMT",
        "S2B_20200705T101559",
    ),
    (
        "planetary-computer/odcstac_S2B_MSIL2A_20190629T212529_R043_T06VVN_20201006T080531.json",
        "S2B_MSIL2A_20190629T212529_R043_T06VVN_20201006T080531",
        "06VVN",
        "S2B_20190629T212529",
    ),
    (
        "stactools/S2A_MSIL2A_20230625T234621_N0509_R073_T01WCP_20230626T022157.SAFE.json",
        "S2A_T01WCP_20230625T234624_L2A",
        "01WCP",
        "S2A_20230625T234621",
    ),
]


@pytest.mark.parametrize(("name", "item_id", "tile", "datatake"), RECORDED_PASSES)
def test_tile_and_datatake_of_recorded_items(
    real_data: Path, name: str, item_id: str, tile: str, datatake: str
) -> None:
    (item,) = [item for item in recorded(real_data, name) if item["id"] == item_id]
    assert item_tile(item["properties"], item_id) == tile
    assert item_datatake(item["properties"]) == datatake


def test_two_providers_agree_on_tiles_and_datatakes(real_data: Path) -> None:
    """The same place and dates from Earth Search and from CDSE: the same passes, told in other fields."""
    found = []
    for provider in ("earth-search-v1", "cdse-v1"):
        items = recorded(real_data, f"{provider}/search_belarus35U_202311.json")
        found.append({(item_tile(i["properties"], i["id"]), item_datatake(i["properties"])) for i in items})
        assert len(found[-1]) == len(items) == 8
    assert found[0] == found[1]


def test_datatake_does_not_depend_on_the_processing() -> None:
    old = item_datatake({"s2:datatake_id": "GS2A_20200305T103021_024556_N02.14"})
    new = item_datatake({"s2:datatake_id": "GS2A_20200305T103021_024556_N05.00"})
    uri = item_datatake({"s2:product_uri": "S2A_MSIL2A_20200305T103021_N0500_R108_T32TMT_20230616T081253.SAFE"})
    assert old == new == uri == "S2A_20200305T103021"
    assert item_datatake({"s2:datatake_id": "GS2B_20200305T103021_024556_N05.00"}) != old
    assert item_datatake({"eopf:datatake_id": "GS2C_20250305T103021_024556_N05.11"}) == "S2C_20250305T103021"
    assert item_datatake({}) == ""


# Asset names


@pytest.mark.parametrize(
    ("keys", "names", "missing"),
    [
        (["red", "nir", "scl", "red-jp2", "B04x"], {"red": "red", "nir": "nir", "scl": "scl"}, ()),
        (["B02", "B04", "B08", "SCL", "visual"], {"red": "B04", "nir": "B08", "scl": "SCL"}, ()),
        (
            ["B04_10m", "B08_10m", "SCL_20m", "B04_20m", "SCL_60m"],
            {"red": "B04_10m", "nir": "B08_10m", "scl": "SCL_20m"},
            (),
        ),
        (["B04", "SCL"], {"red": "B04", "nir": "B08", "scl": "SCL"}, ("nir",)),
        (["SCL_20m"], {"red": "B04_10m", "nir": "B08_10m", "scl": "SCL_20m"}, ("red", "nir")),
        (["red", "nir", "cirrus"], {"red": "red", "nir": "nir", "scl": "scl"}, ("scl",)),
        ([], {"red": "red", "nir": "nir", "scl": "scl"}, ("red", "nir", "scl")),
    ],
)
def test_asset_keys(keys: list[str], names: dict[str, str], missing: tuple[str, ...]) -> None:
    assert find_asset_keys(keys) == (names, missing)
    assert find_asset_keys(reversed(keys)) == (names, missing)
