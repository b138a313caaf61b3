"""The BOA offset of every recorded item, and mutants of the resolver, all of which the table kills.

The table is the reference's (ESA's products specification; where each catalog hides the offset) applied to the
recorded responses by reading them, not by running the code: a change of the code changes no line of it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pystac
import pytest
import rustac

from mutants import Mutant, mutants_of
from ndvi_scale import sentinel2
from ndvi_scale.errors import ItemError
from ndvi_scale.granules import granule_from_item
from offset_rules import (
    BASELINE_NAMES,
    BASELINES,
    FLAG,
    FLAG_V0,
    IN_COG,
    IN_COG_V0,
    NOT_OF_JP2,
    OFFSETS,
    SHIFTED,
    UNSHIFTED,
    before,
    declared,
    number,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

Json = dict[str, Any]


@dataclass(frozen=True)
class Rule:
    """What the reference says of some of a file's items: those of one collection, baseline and flag."""

    items: int
    """How many there are."""
    collection: str | None
    baseline: str
    applied: bool | None
    """The flag; None where there is none."""
    expected: tuple[int, str]
    """Offset and reason of red and nir."""
    jp2: tuple[int, str] | None = None
    """Those of ``red-jp2`` and ``nir-jp2`` beside them; None where there are none."""


L2A = "sentinel-2-l2a"


def shifted(items: int, baseline: str) -> Rule:
    """Earth Search v1, flag true: 0 for the COG, although −0.1 is still declared, and −1000 for the JP2."""
    return Rule(items, L2A, baseline, SHIFTED, (0, IN_COG), declared(-1000, baseline, NOT_OF_JP2))


def unshifted(items: int, baseline: str) -> Rule:
    """Earth Search v1 before 04.00: 0 for the COG as for the JP2."""
    return Rule(items, L2A, baseline, UNSHIFTED, before(baseline), before(baseline))


def old(items: int, baseline: str, collection: str | None = L2A) -> Rule:
    """Before 04.00."""
    return Rule(items, collection, baseline, None, before(baseline))


def raw(items: int, baseline: str, collection: str | None = L2A) -> Rule:
    """From 04.00, nothing shifted, −0.1 declared with scale 0.0001."""
    return Rule(items, collection, baseline, None, declared(-1000, baseline))


def undeclared(items: int, baseline: str) -> Rule:
    """From 04.00 on Planetary Computer: nothing shifted, nothing declared."""
    return Rule(items, L2A, baseline, None, number(baseline))


RULES: dict[str, list[Rule]] = {
    "cdse-v1/items_sentinel-2-l2a_29LQG.json": [raw(10, "05.11")],
    "cdse-v1/items_sentinel-2-l2a_32VKR.json": [raw(10, "05.11")],
    "cdse-v1/search_belarus35U_202311.json": [raw(8, "05.09")],
    "earth-search-v0/search_sentinel-s2-l2a-cogs.json": [
        Rule(1, "sentinel-s2-l2a-cogs", "05.11", SHIFTED, (0, IN_COG_V0))
    ],
    "earth-search-v1/items_sentinel-2-c1-l2a.json": [raw(10, "05.11", "sentinel-2-c1-l2a")],
    "earth-search-v1/items_sentinel-2-l2a_18C_antarctic.json": [shifted(10, "05.11")],
    "earth-search-v1/items_sentinel-2-l2a_41K.json": [shifted(10, "05.11")],
    "earth-search-v1/items_sentinel-2-pre-c1-l2a.json": [raw(10, "04.00", "sentinel-2-pre-c1-l2a")],
    "earth-search-v1/openeo_item_S2A_32TPS_20230602_0_L2A_projcode.json": [shifted(1, "05.09")],
    "earth-search-v1/search_belarus35U_202311.json": [shifted(8, "05.09")],
    "earth-search-v1/search_cql2_cloud_lte40_p2.json": [
        shifted(4, "05.11"),
        raw(3, "05.11", "sentinel-2-c1-l2a"),
    ],
    "earth-search-v1/search_lakeconstance_202003_older_p1.json": [
        unshifted(7, "02.14"),
        shifted(3, "05.00"),
    ],
    "earth-search-v1/search_lakeconstance_202003_older_p2.json": [
        unshifted(1, "02.14"),
        shifted(1, "05.00"),
    ],
    "earth-search-v1/search_lakeconstance_202003_p1.json": [
        unshifted(5, "02.14"),
        shifted(5, "05.00"),
    ],
    "earth-search-v1/search_lakeconstance_202003_p2.json": [
        unshifted(3, "02.14"),
        shifted(3, "05.00"),
    ],
    "earth-search-v1/search_mixed_collections.json": [
        shifted(3, "05.11"),
        raw(3, "05.11", "sentinel-2-c1-l2a"),
    ],
    "planetary-computer/item_S2B_MSIL2A_20200705T101559_R065_T32TMT_20200825T083452.json": [old(1, "02.12")],
    "planetary-computer/odcstac_S2B_MSIL2A_20190629T212529_R043_T06VVN_20201006T080531.json": [old(1, "02.12")],
    "planetary-computer/odcstac_S2B_MSIL2A_20190629T212529_R043_T06VVN_20201006T080531_raster_ext.json": [
        old(1, "02.12")
    ],
    "planetary-computer/odcstac_site1-20200606-tall-strip-africa.geojson": [old(9, "02.12")],
    "planetary-computer/odcstac_site2-2020_jun_jul-35MNM.geojson": [old(13, "02.12")],
    "planetary-computer/stacgeoparquet_sentinel-2-l2a-pc.json": [undeclared(4, "05.10")],
    "planetary-computer/rustac_100-sentinel-2-items.parquet": [undeclared(49, "05.10"), undeclared(51, "05.11")],
    "stactools/S2A_MSIL2A_20190212T192651_N0212_R013_T07HFE_20201007T160857.SAFE.json": [old(1, "02.12", None)],
    "stactools/S2A_MSIL2A_20230625T234621_N0509_R073_T01WCP_20230626T022157.SAFE.json": [raw(1, "05.09", None)],
    "stactools/S2A_OPER_MSI_L2A_TL_SGS__20181231T210250_A018414_T10SDG.json": [old(1, "02.11", None)],
    "stactools/S2A_OPER_MSI_L2A_TL_VGS1_20220401T110010_A035382_T34LBP.json": [raw(1, "04.00", None)],
    "stactools/S2B_MSIL2A_20200914T231559_N0500_R087_T01VCG_20230315T224658.json": [raw(1, "05.00", None)],
    "stactools/S2B_MSIL2A_20220413T150759_N0400_R025_T33XWJ_20220414T082126.SAFE.json": [raw(1, "04.00", None)],
    "stactools/esa_S2B_MSIL2A_20210122T133229_N0214_R081_T22HBD_20210122T155500.SAFE.json": [old(1, "02.14", None)],
}

REFUSED: dict[str, Counter[tuple[str | None, str]]] = {
    "earth-search-v0/odcstac_S2A_28QCH_20200714_0_L2A.json": Counter(
        {("sentinel-s2-l2a-cogs", "no processing baseline"): 1}
    ),
    "earth-search-v1/search_cql2_cloud_lte40_p2.json": Counter({("sentinel-2-l1c", "no asset 'scl'"): 3}),
    "earth-search-v1/search_mixed_collections.json": Counter(
        {("sentinel-2-l1c", "no asset 'scl'"): 3, ("sentinel-1-grd", "no asset"): 1}
    ),
}
"""File → items that are no L2A or do not say their baseline: (collection, what is missing) → how many."""

NO_ITEMS = re.compile(r"(^|\.)collections?[._]|^landing|\.request\.")
"""Names of recorded documents other than items."""


def recorded(path: Path) -> list[Json]:
    """Items of a recorded answer: an item collection, a list, one item, or Parquet."""
    if path.suffix == ".parquet":
        return rustac.read_sync(str(path), format="parquet", set_self_link=False)["features"]
    document = json.loads(path.read_text(encoding="utf-8"))
    return document if isinstance(document, list) else document.get("features") or [document]


def item_files(folder: Path) -> set[str]:
    """Every recorded document with items."""
    paths = [path for path in (folder / "stac").rglob("*.*") if path.is_file()]
    return {str(path.relative_to(folder / "stac")) for path in paths if not NO_ITEMS.search(path.name)}


def rule_key(item: Json) -> tuple[str | None, str, bool | None]:
    """What tells the rules of a file apart, as it stands in the item."""
    told = item["properties"]
    baseline = next(told[key] for key in sentinel2.BASELINE_KEYS if key in told)
    return item.get("collection"), baseline, told.get(FLAG, told.get(FLAG_V0))


def is_refused(name: str, item: Json) -> bool:
    return item.get("collection") in {collection for collection, _ in REFUSED.get(name, ())}


def test_every_recorded_file_is_in_the_table(real_data: Path) -> None:
    assert item_files(real_data) == RULES.keys() | REFUSED.keys()


@pytest.mark.parametrize("name", sorted(RULES.keys() | REFUSED.keys()))
def test_every_recorded_item_is_in_the_table(real_data: Path, name: str) -> None:
    items = recorded(real_data / "stac" / name)
    found = Counter(rule_key(item) for item in items if not is_refused(name, item))
    table = {(rule.collection, rule.baseline, rule.applied): rule.items for rule in RULES.get(name, [])}
    assert found == table
    refused = Counter(item.get("collection") for item in items if is_refused(name, item))
    assert refused == Counter(collection for collection, _ in REFUSED.get(name, Counter()).elements())


@pytest.mark.parametrize("name", RULES)
def test_offset_of_every_recorded_item(real_data: Path, name: str) -> None:
    rules = {(rule.collection, rule.baseline, rule.applied): rule for rule in RULES[name]}
    seen = 0
    for document in recorded(real_data / "stac" / name):
        if is_refused(name, document):
            continue
        rule = rules[rule_key(document)]
        granule = granule_from_item(pystac.Item.from_dict(document, migrate=False))
        for asset in (granule.red, granule.nir):
            assert (asset.offset, asset.evidence) == rule.expected, document["id"]
        assert (granule.scl.offset, granule.scl.evidence) == (0, "a class, not a reflectance")
        twins = [document["assets"].get(f"{band}-jp2") for band in ("red", "nir")]
        for twin in twins:
            assert (twin is None) == (rule.jp2 is None)
            if twin is not None:
                offset = sentinel2.resolve_offset(document["properties"], twin)
                assert offset is not None
                assert (offset.dn, offset.evidence) == rule.jp2, document["id"]
        seen += 1
    assert seen == sum(rule.items for rule in RULES[name])


@pytest.mark.parametrize("name", REFUSED)
def test_refused_items_say_why(real_data: Path, name: str) -> None:
    found: Counter[tuple[str | None, str]] = Counter()
    reasons = dict(REFUSED[name].keys())
    for document in recorded(real_data / "stac" / name):
        if is_refused(name, document):
            with pytest.raises(ItemError) as caught:
                granule_from_item(pystac.Item.from_dict(document, migrate=False))
            reason = reasons[document["collection"]]
            assert reason in str(caught.value)
            found[document["collection"], reason] += 1
    assert found == REFUSED[name]


# Mutants

WHERE = (
    "OFFSET_BASELINE",
    "BOA_OFFSET_DN",
    "OFF_LINE_BASELINE",
    "_DEFAULT_SCALE",
    "BASELINE_KEYS",
    "APPLIED_KEYS",
    "parse_baseline",
    "item_baseline",
    "baseline_name",
    "_check_baselines",
    "resolve_offset",
    "applied_flag",
    "is_jp2",
    "declared_offset",
    "raster_field",
)
"""`resolve_offset` and all that it calls."""

EQUIVALENT = {
    "OFFSET_BASELINE: (4, 0) -> (4,)": "of two tuples that begin alike the shorter is less: (3, 99) < (4,)",
    "OFFSET_BASELINE: 0 -> -1": "no baseline lies between 04.-1 and 04.00",
}
"""Mutants that decide as the original does → why."""


def violated(names: Mapping[str, Any], assets: list[tuple[Json, Json, tuple[int, str] | None]]) -> str | None:
    """The first line of the tables that a (mutated) module breaks, or None."""
    for properties, baseline in BASELINES:
        if _outcome(names["item_baseline"], properties) != baseline:
            return f"baseline of {properties}"
    for baseline, name in BASELINE_NAMES.items():
        if _outcome(names["baseline_name"], baseline) != name:
            return f"name of {baseline}"
    for name, case in OFFSETS.items():
        if _outcome(_offset(names), case.properties, case.asset, case.override) != case.expected:
            return name
    for properties, asset, expected in assets:
        if _outcome(_offset(names), properties, asset) != expected:
            return f"recorded: {properties}"
    return None


def _offset(names: Mapping[str, Any]) -> Callable[..., tuple[int, str] | None]:
    def resolve(*arguments: Any) -> tuple[int, str] | None:
        offset = names["resolve_offset"](*arguments)
        return offset and (offset.dn, offset.evidence)

    return resolve


def _outcome(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except ValueError:
        return "refused"
    except Exception as error:  # noqa: BLE001 - a mutant may fail in any way
        return type(error).__name__


@pytest.fixture(scope="module")
def recorded_assets(real_data: Path) -> list[tuple[Json, Json, tuple[int, str] | None]]:
    """Properties, red asset and expected offset of one recorded item a rule, and of its JP2."""
    assets = []
    for name, rules in RULES.items():
        items = {rule_key(item): item for item in recorded(real_data / "stac" / name) if not is_refused(name, item)}
        for rule in rules:
            item = items[rule.collection, rule.baseline, rule.applied]
            keys, _ = sentinel2.find_asset_keys(item["assets"])
            assets.append((item["properties"], item["assets"][keys["red"]], rule.expected))
            if rule.jp2:
                assets.append((item["properties"], item["assets"]["red-jp2"], rule.jp2))
    return assets


def test_the_original_breaks_no_line(recorded_assets: list[tuple[Json, Json, tuple[int, str] | None]]) -> None:
    assert violated(vars(sentinel2), recorded_assets) is None


@pytest.mark.slow
def test_every_mutant_of_the_resolver_dies(
    recorded_assets: list[tuple[Json, Json, tuple[int, str] | None]],
) -> None:
    mutants = list(mutants_of(sentinel2, WHERE))
    survivors = {mutant.name for mutant in mutants if _survives(mutant, recorded_assets)}
    assert survivors == EQUIVALENT.keys()
    assert len(mutants) > 200


def _survives(mutant: Mutant, assets: list[tuple[Json, Json, tuple[int, str] | None]]) -> bool:
    try:
        names = mutant.namespace(sentinel2)
    except Exception:  # noqa: BLE001 - it does not even import
        return False
    return violated(names, assets) is None
