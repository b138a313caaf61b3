"""`--collection auto`: which collection a product comes from, and what is said of holes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndvi_scale import search
from ndvi_scale.auto import join_collections
from ndvi_scale.catalog import to_item
from ndvi_scale.errors import ConfigError
from ndvi_scale.search import search_items
from ndvi_scale.sources import SOURCES, Source
from stac import HOME, Json, ScriptedApi, collection_of, item, says, scripted_api, write

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import pystac

C1, L2A = "sentinel-2-c1-l2a", "sentinel-2-l2a"


def product(day: int, collection: str, baseline: str = "05.00", part: str = "120000", **properties: Any) -> Json:
    """A product of tile 31TCJ as Earth Search tells it; `part` is when it was generated."""
    datatake = f"202306{day:02}T105031"
    named = f"S2A_MSIL2A_{datatake}_N{baseline.replace('.', '')}_R051_T31TCJ_202306{day:02}T{part}.SAFE"
    told = {
        "grid:code": "MGRS-31TCJ",
        "s2:datatake_id": f"GS2A_{datatake}_041346_N{baseline}",
        "s2:processing_baseline": baseline,
        "s2:product_uri": named,
    }
    return item(
        day, id=f"{collection[11:13]}-{day}-{baseline}-{part}", collection=collection, properties=told | properties
    )


def join(c1: Sequence[Json], l2a: Sequence[Json]) -> tuple[list[str], dict[str, tuple[str, ...]]]:
    joined = join_collections({C1: [to_item(one, "") for one in c1], L2A: [to_item(one, "") for one in l2a]})
    return sorted(one.id for one in joined.items), joined.holes


def names(*documents: Json) -> list[str]:
    return sorted(document["id"] for document in documents)


def test_c1_is_preferred_and_holes_are_filled() -> None:
    c1, l2a = [product(1, C1), product(3, C1)], [product(1, L2A, "02.14"), product(2, L2A)]
    chosen, holes = join(c1, l2a)
    assert chosen == names(*c1, l2a[1])
    assert holes == {C1: (l2a[1]["id"],), L2A: (c1[1]["id"],)}


def test_a_newer_baseline_does_not_win_over_the_preferred_collection() -> None:
    c1, l2a = product(1, C1, "05.00"), product(1, L2A, "05.11")
    assert join([c1], [l2a]) == (names(c1), {C1: (), L2A: ()})


def test_processings_of_one_product_are_one_part() -> None:
    c1 = product(1, C1, "05.00")
    again = [product(1, L2A, "02.14"), product(1, L2A, "05.00", "130000")]
    assert join([c1], again) == (names(c1), {C1: (), L2A: ()})
    assert join([], again)[0] == names(*again)  # which of them is chosen later, as without auto


def test_the_same_product_under_two_ids_is_one_part() -> None:
    c1, once = product(1, C1), product(1, L2A)
    assert join([c1], [once, once | {"id": "twin"}])[0] == names(c1)


def test_a_split_datatake_comes_whole_from_one_collection() -> None:
    half, other = product(1, C1), product(1, C1, part="130000")
    halves = [product(1, L2A), product(1, L2A, part="130000")]
    assert join([half], halves) == (names(*halves), {C1: tuple(one["id"] for one in halves), L2A: ()})
    assert join([half, other], halves) == (names(half, other), {C1: (), L2A: ()})
    assert join([half, other], halves[:1]) == (names(half, other), {C1: (), L2A: (half["id"], other["id"])})


def test_other_tiles_and_datatakes_are_other_products() -> None:
    here, elsewhere = product(1, C1), product(1, L2A, **{"grid:code": "MGRS-31TDJ"})
    later = product(1, L2A, **{"s2:datatake_id": "GS2B_20230601T105631_041346_N05.00"})
    assert join([here], [elsewhere, later])[0] == names(here, elsewhere, later)


def test_what_tells_no_product_stays() -> None:
    nameless = [item(day, id=f"x{day}", collection=L2A) for day in (1, 2)]
    assert join([product(1, C1)], nameless)[0] == names(product(1, C1), *nameless)
    other = item(1, id="y1", collection=C1)
    assert join([other], nameless)[0] == names(other, *nameless)


@given(
    st.lists(st.tuples(st.integers(1, 4), st.sampled_from([C1, L2A]), st.sampled_from(["a", "b"]))),
    st.randoms(use_true_random=False),
)
def test_each_product_comes_from_one_collection(held: list[tuple[int, str, str]], order: random.Random) -> None:
    documents = [product(day, collection, part=part) for day, collection, part in dict.fromkeys(held)]
    order.shuffle(documents)
    by_collection = {
        name: [to_item(one, "") for one in documents if one["collection"] == name] for name in (C1, L2A)
    }
    joined = join_collections(by_collection)
    days: dict[int, set[str | None]] = {}
    for one in joined.items:
        days.setdefault(one.datetime.day, set()).add(one.collection_id)  # type: ignore[union-attr]
    assert set(days) == {day for day, _, _ in held}
    assert all(len(collections) == 1 for collections in days.values())
    assert joined.products == len(days)
    for day, (collection,) in days.items():
        parts = {name: len({part for d, c, part in held if (d, c) == (day, name)}) for name in (C1, L2A)}
        assert collection == (C1 if parts[C1] >= parts[L2A] else L2A)


def test_recorded_items_tell_their_product(real_data: Path) -> None:
    folder = real_data / "stac" / "earth-search-v1"
    found = {name: search_items(folder / f"items_{name}.json") for name in (C1, "sentinel-2-pre-c1-l2a")}
    joined = join_collections(found)
    assert joined.products == 20
    assert len(joined.holes[C1]) == len(joined.holes["sentinel-2-pre-c1-l2a"]) == 10


# Searching


@pytest.fixture
def two_collections(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedApi]:
    held = {
        C1: [product(1, C1, **{"eo:cloud_cover": 22}), product(3, C1), product(8, C1)],
        L2A: [product(day, L2A) for day in range(1, 8)],
    }
    with scripted_api() as api:
        api.collections = [C1, L2A]
        api.search = lambda body: collection_of(*held[body["collections"][0]])
        monkeypatch.setitem(search.SOURCES, "scripted", Source(api.url, (L2A, C1), "a test", auto=(C1, L2A)))
        yield api


def found(items: list[pystac.Item]) -> list[tuple[int, str | None]]:
    return [(one.datetime.day, one.collection_id) for one in items if one.datetime]


def test_auto_joins_and_warns_of_holes(two_collections: ScriptedApi, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ndvi_scale")
    expected = [(1, C1), (2, L2A), (3, C1), *((day, L2A) for day in (4, 5, 6, 7)), (8, C1)]
    for catalog in ("scripted", two_collections.url):
        caplog.clear()
        assert found(search_items(catalog, collection="auto")) == expected
        (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert f"{C1} lacks 5 of 8 products; used from elsewhere: l2-2-05.00" in warning.getMessage()
        assert f"{L2A} lacks 1 of 8 products; used from elsewhere: c1-8-05.00-120000" in caplog.text


def test_holes_are_those_of_region_and_dates(
    two_collections: ScriptedApi, caplog: pytest.LogCaptureFixture
) -> None:
    assert found(search_items("scripted", collection="auto", aoi=HOME, datetime="2023-06-03")) == [(3, C1)]
    assert not caplog.records
    search_items("scripted", collection="auto", datetime="2023-06-03/2023-06-04")
    assert "lacks 1 of 2 products" in caplog.text


def test_many_holes_are_counted_and_all_told_to_who_asks(
    two_collections: ScriptedApi, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_HOLES_TOLD", 2)
    caplog.set_level(logging.INFO, "ndvi_scale")
    search_items("scripted", collection="auto")
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.endswith("lacks 5 of 8 products; used from elsewhere: l2-2-05.00-120000, l2-4-05.00-120000, …")
    assert f"{C1} lacks: l2-2-05.00-120000, l2-4-05.00-120000, l2-5-05.00-120000" in caplog.text


def test_cloud_is_judged_of_the_chosen_processing(two_collections: ScriptedApi) -> None:
    two_collections.conforms.append("https://api.stacspec.org/v1.0.0/item-search#query")
    chosen = found(search_items("scripted", collection="auto", cloud_cover=6))
    assert chosen == [(2, L2A), (3, C1), (4, L2A), (5, L2A), (6, L2A)]  # of day 1, c1 has 22 %, l2a 1 %
    assert not any("query" in body for body in two_collections.bodies)


def test_auto_is_refused_where_nothing_is_known(two_collections: ScriptedApi, tmp_path: Path) -> None:
    path = write(tmp_path / "items.json", collection_of(item(1)))
    for catalog in (path, "cdse", "planetary-computer", "http://127.0.0.1:9/stac"):
        with pytest.raises(ConfigError) as caught:
            search_items(catalog, collection="auto")
        says(caught, "collection 'auto'", "is not known to hold", "by its id", "earth-search")
    assert [name for name, source in SOURCES.items() if source.auto] == ["earth-search", "scripted"]
