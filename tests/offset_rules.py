"""What the BOA offset of an asset is and why, case by case: section 2 of the reference, written out by hand.

`BASELINES` are for `item_baseline`, `OFFSETS` for `resolve_offset`. None: nothing tells it, so the item is
refused. "refused": what is told makes no sense, which is an error too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Json = dict[str, Any]

COG, JP2 = "image/tiff; application=geotiff; profile=cloud-optimized", "image/jp2"
FLAG, FLAG_V0 = "earthsearch:boa_offset_applied", "sentinel:boa_offset_applied"
SHIFTED, UNSHIFTED = True, False  # the flags' values, as JSON has them
MINUS_TENTH = {"raster:bands": [{"scale": 0.0001, "offset": -0.1}]}

IN_COG = f"{FLAG} is true: it is in this COG already"
IN_COG_V0 = f"{FLAG_V0} is true: it is in this COG already"
NOT_OF_JP2 = f"; {FLAG} speaks of the COG, not of this JP2"


def before(baseline: str) -> tuple[int, str]:
    return 0, f"baseline {baseline} is before 04.00"


def declared(dn: int, baseline: str = "05.11", aside: str = "") -> tuple[int, str]:
    return dn, f"declared by the asset, baseline {baseline}{aside}"


def number(baseline: str = "05.11", aside: str = "") -> tuple[int, str]:
    return -1000, f"baseline {baseline}, nothing declared{aside}"


@dataclass(frozen=True)
class Case:
    """An asset of an item, and what its offset is."""

    properties: Json
    asset: Json
    expected: tuple[int, str] | Literal["refused"] | None
    override: int | None = None


def told(baseline: str | float = "05.11", flag: Any = None, key: str = FLAG, **more: Any) -> Json:
    """Properties of an item that tells its baseline and, if given, the flag."""
    return {"s2:processing_baseline": baseline, **({} if flag is None else {key: flag}), **more}


def cog(offset: Any = None, scale: Any = None) -> Json:
    """A COG, with what its one band declares."""
    band = {name: value for name, value in (("scale", scale), ("offset", offset)) if value is not None}
    declares = {"raster:bands": [band]} if band else {}
    return {"type": COG, "href": "https://example.org/B04.tif", **declares}


OFFSETS: dict[str, Case] = {
    # The catalogs as they are
    "Earth Search v1, applied, -0.1 still advertised": Case(told("05.00", SHIFTED), cog(-0.1, 1e-4), (0, IN_COG)),
    "Earth Search v1, the JP2 beside it": Case(
        told("05.00", SHIFTED), {"type": JP2, **MINUS_TENTH}, declared(-1000, "05.00", NOT_OF_JP2)
    ),
    "Earth Search v1, the JP2 beside it, nothing declared": Case(
        told("05.00", SHIFTED), {"type": JP2}, number("05.00", NOT_OF_JP2)
    ),
    "Earth Search v1, flag false, 04.00": Case(told("04.00", UNSHIFTED), cog(-0.1, 1e-4), declared(-1000, "04.00")),
    "Earth Search v1, flag false, 02.14": Case(told("02.14", UNSHIFTED), cog(-0.1, 1e-4), before("02.14")),
    "Earth Search v0, applied": Case(
        {"sentinel:processing_baseline": "05.11", FLAG_V0: True}, {"type": COG}, (0, IN_COG_V0)
    ),
    "Earth Search v0, not applied": Case(
        {"sentinel:processing_baseline": "04.00", FLAG_V0: False}, {"type": COG}, number("04.00")
    ),
    "Earth Search v0 of February 2022, before there was a flag": Case(
        {"sentinel:processing_baseline": "04.00"}, {"type": COG}, number("04.00")
    ),
    "Earth Search c1": Case(told(), cog(-0.1, 1e-4), declared(-1000)),
    "Earth Search pre-c1": Case(told("04.00"), cog(-0.1, 1e-4), declared(-1000, "04.00")),
    "CDSE, on the asset": Case(
        {"processing:version": "05.11"},
        {"type": JP2, "raster:scale": 0.0001, "raster:offset": -0.1, "bands": [{"name": "B04"}]},
        declared(-1000),
    ),
    "Planetary Computer 05.10, nothing declared": Case(told("05.10"), {"type": COG}, number("05.10")),
    "Planetary Computer 02.12, nothing declared": Case(told("02.12"), {"type": COG}, before("02.12")),
    # The baseline
    "4.0 is 04.00": Case(told("4.0"), {"type": COG}, number("04.00")),
    "a baseline that is a number": Case(told(5.1), {"type": COG}, number("05.01")),
    "04.00 is the first with": Case(told("04.00"), {"type": COG}, number("04.00")),
    "03.99 would be the last without": Case(told("03.99"), cog(-0.1, 1e-4), before("03.99")),
    "03.01 is the last without, whatever is declared": Case(told("03.01"), cog(-0.1, 1e-4), before("03.01")),
    "below 04.00 the flag is not asked": Case(told("02.14", "nonsense"), cog(), before("02.14")),
    "below 04.00 a JP2 has none either": Case(
        told("02.14", SHIFTED), {"type": JP2, **MINUS_TENTH}, before("02.14")
    ),
    "reprocessed 2017 counts by baseline, not by date": Case(
        told("05.00", datetime="2017-07-01T10:00:00Z"), {"type": COG}, number("05.00")
    ),
    "unknown baseline": Case({}, {"type": COG}, None),
    "unknown baseline, though declared": Case({"platform": "sentinel-2a"}, cog(-0.1, 1e-4), None),
    "unknown baseline, though flagged": Case({FLAG: True}, {"type": COG}, None),
    "99.99 means nothing": Case(told("99.99"), {"type": COG}, None),
    "99.99 with a declared offset": Case(told("99.99"), cog(-0.1, 1e-4), declared(-1000, "99.99")),
    "99.99 with a declared nought": Case(told("99.99"), cog(0, 1e-4), declared(0, "99.99")),
    "99.99 with the flag": Case(told("99.99", SHIFTED), cog(), (0, IN_COG)),
    "99.98 and 99.00 are numbers": Case(told("99.98"), cog(), number("99.98")),
    "two fields, the same": Case(told("05.11", **{"processing:version": "05.11"}), cog(), number()),
    "two fields, written otherwise": Case(told("4.0", **{"processing:version": "N04.00"}), cog(), number("04.00")),
    "two fields that contradict": Case(told("02.14", **{"processing:version": "05.00"}), cog(), "refused"),
    "a version of something else": Case(told(**{"processing:version": "v2024.02.01"}), cog(), number()),
    # The flag
    "flag as text": Case(told("05.00", "True"), cog(-0.1, 1e-4), (0, IN_COG)),
    "flag as text, padded": Case(told("05.00", " true "), cog(-0.1, 1e-4), (0, IN_COG)),
    "flag as text that says false": Case(told("05.00", "false"), {"type": COG}, number("05.00")),
    "flag that says neither": Case(told("05.00", "unknown"), {"type": COG}, "refused"),
    "both flags, the same": Case(told("05.00", SHIFTED, **{FLAG_V0: True}), cog(), (0, IN_COG)),
    "both flags, both false": Case(told("05.00", UNSHIFTED, **{FLAG_V0: False}), cog(), number("05.00")),
    "flags that contradict": Case(told("05.00", SHIFTED, **{FLAG_V0: False}), cog(), "refused"),
    "null is no flag": Case(told("05.00", **{FLAG: None, FLAG_V0: True}), cog(), (0, IN_COG_V0)),
    # The media type
    "JP2, odd spelling": Case(told("05.00", SHIFTED), {"type": " Image/JP2 ; x=y"}, number("05.00", NOT_OF_JP2)),
    "JP2 known by its name": Case(
        told("05.00", SHIFTED), {"href": "s3://b/T31TCJ_B04.JP2"}, number("05.00", NOT_OF_JP2)
    ),
    "JP2 known by its name, signed": Case(
        told("05.00", SHIFTED), {"type": None, "href": "https://h/B04.jp2?sig=a%2Ftif"}, number("05.00", NOT_OF_JP2)
    ),
    "a COG with jp2 in its query": Case(
        told("05.00", SHIFTED), {"href": "https://h/B04.tif?of=B04.jp2"}, (0, IN_COG)
    ),
    "a COG without a type": Case(told("05.00", SHIFTED), {}, (0, IN_COG)),
    # What is declared, and where
    "STAC 1.1, on the band": Case(
        told(), {"type": COG, "bands": [{"raster:scale": 0.0001, "raster:offset": -0.1}]}, declared(-1000)
    ),
    "STAC 1.1, offset on the band, scale on the asset": Case(
        told(), {"raster:scale": 0.0002, "bands": [{"raster:offset": -0.1}]}, declared(-500)
    ),
    "STAC 1.1, the band's own before the asset's": Case(
        told(), {"raster:offset": -0.1, "bands": [{"raster:offset": -0.05}]}, declared(-500)
    ),
    "STAC 1.0, before 1.1 in one item": Case(
        told(), {"raster:bands": [{"offset": -0.05}], "bands": [{"raster:offset": -0.1}]}, declared(-500)
    ),
    "STAC 1.0 names and says nothing, 1.1 does": Case(
        told(), {"raster:bands": [{"nodata": 0}], "bands": [{"raster:offset": -0.05}]}, declared(-500)
    ),
    "on eo:bands": Case(told(), {"eo:bands": [{"name": "B04", "offset": -0.05}]}, declared(-500)),
    "on bands before eo:bands": Case(
        told(), {"bands": [{"offset": -0.05}], "eo:bands": [{"offset": -0.1}]}, declared(-500)
    ),
    "on eo:bands before the asset": Case(told(), {"offset": -0.1, "eo:bands": [{"offset": -0.05}]}, declared(-500)),
    "on the asset, without a prefix": Case(told(), {"offset": -0.05, "scale": 0.0001}, declared(-500)),
    "with and without a prefix": Case(told(), {"raster:offset": -0.05, "offset": -0.1}, declared(-500)),
    "empty lists and nulls": Case(
        told(), {"raster:bands": [{"scale": None, "offset": None}], "bands": [], "eo:bands": None}, number()
    ),
    "another value for this band": Case(told(), cog(-0.05, 1e-4), declared(-500)),
    "of several bands the first": Case(
        told(), {"raster:bands": [{"offset": -0.05}, {"offset": -0.1}]}, declared(-500)
    ),
    "another quantification": Case(told(), cog(-0.1, 2e-4), declared(-500)),
    "an offset without a scale": Case(told(), cog(-0.1), declared(-1000)),
    "a scale without an offset": Case(told(), cog(None, 2e-4), number()),
    "already in DN": Case(told(), cog(-1000, 1), declared(-1000)),
    "numbers as text": Case(told(), cog("-0.1", "0.0001"), declared(-1000)),
    "declared as nought": Case(told(), cog(0, 1e-4), declared(0)),
    "rounded, not cut": Case(told(), cog(-0.09999, 1e-4), declared(-1000)),
    "a positive offset": Case(told(), cog(0.1, 1e-4), "refused"),
    "the smallest positive offset": Case(told(), cog(1e-4, 1e-4), "refused"),
    "a scale of nought": Case(told(), cog(-0.1, 0), "refused"),
    "a scale below nought": Case(told(), cog(-0.1, -1e-4), "refused"),
    "not a number": Case(told(), cog("nan", 1e-4), "refused"),
    "a scale that is true": Case(told(), cog(-1000, scale=True), "refused"),
    "an offset that is false": Case(told(), cog(offset=False, scale=1e-4), "refused"),
    "an offset of reflectance with a scale of 1": Case(told(), cog(-0.1, 1), "refused"),
    "less than one DN": Case(told(), cog(-4e-5, 1e-4), "refused"),
    "one DN": Case(told(), cog(-1e-4, 1e-4), declared(-1)),
    "no number at all": Case(told(), cog("-10 %", 1e-4), "refused"),
    # The user
    "override 0": Case(told(), cog(-0.1, 1e-4), (0, "given by the user"), 0),
    "override -1000 against the flag": Case(told(flag=True), cog(), (-1000, "given by the user"), -1000),
    "override of an old baseline": Case(told("02.14"), cog(), (-500, "given by the user"), -500),
    "override of an unknown baseline": Case({}, cog(), (0, "given by the user"), 0),
    "override of two baselines": Case(
        told("02.14", **{"processing:version": "05.00"}), cog(), (0, "given by the user"), 0
    ),
    "override of nonsense": Case(told(flag="?"), cog(7), (-1000, "given by the user"), -1000),
}

BASELINES: list[tuple[Json, tuple[int, int] | None]] = [
    ({"s2:processing_baseline": "05.11"}, (5, 11)),
    ({"sentinel:processing_baseline": "05.11"}, (5, 11)),
    ({"processing:version": "05.09"}, (5, 9)),
    ({"s2:processing_baseline": "02.14", "processing:version": "05.09"}, (2, 14)),
    ({"s2:processing_baseline": "02.14", "sentinel:processing_baseline": "05.09"}, (2, 14)),
    ({"sentinel:processing_baseline": "02.14", "processing:version": "05.09"}, (2, 14)),
    ({"s2:processing_baseline": None, "processing:version": "05.09"}, (5, 9)),
    ({"s2:processing_baseline": " N05.09 "}, (5, 9)),
    ({"s2:product_uri": "S2A_MSIL2A_20190212T192651_N0212_R013_T07HFE_20201007T160857.SAFE"}, (2, 12)),
    (
        {
            "s2:processing_baseline": "05.00",
            "s2:product_uri": "S2A_MSIL2A_X_N0212_R013",
        },
        (5, 0),
    ),
    ({"s2:processing_baseline": "unknown", "s2:product_uri": "S2A_MSIL2A_X_N0500_R013"}, (5, 0)),
    ({"s2:processing_baseline": "unknown", "processing:version": "05.11"}, (5, 11)),
    ({"processing:version": "v2024.02.01"}, None),
    ({"s2:processing_baseline": None}, None),
    ({"s2:product_uri": "S2A_MSIL2A_X_N05_R013"}, None),
    ({}, None),
]
"""Properties of an item → its baseline."""

BASELINE_NAMES = {(5, 11): "05.11", (4, 0): "04.00", None: "unknown"}
