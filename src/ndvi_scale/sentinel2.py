"""What a Sentinel-2 L2A item *is*: asset keys, scene classes, processing baseline, BOA offset, solar day.

Tables and pure functions; no I/O. Sources: ESA PSD 15 (DN, SCL, baseline 04.00), the Earth Search, CDSE and
Planetary Computer item metadata as recorded, odc-stac for the solar day. ``docs/correctness.md`` gives the
reasons.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import numpy as np

from ndvi_scale.errors import ConfigError
from ndvi_scale.kernels import ADDED, CLOUD, CLOUDY, LAND, OBSERVED, REMOVED, SNOWY, USE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

BANDS: Final = ("red", "nir", "scl")
"""The bands NDVI needs: B04, B08 and the scene classification."""

ASSET_KEYS: Final[tuple[dict[str, str], ...]] = (
    {"red": "red", "nir": "nir", "scl": "scl"},
    {"red": "B04", "nir": "B08", "scl": "SCL"},
    {"red": "B04_10m", "nir": "B08_10m", "scl": "SCL_20m"},
)
"""Names of the bands' assets: Earth Search v1; Earth Search v0 and Planetary Computer; CDSE."""

AssetKeys = tuple[tuple[str, str], ...]
"""(band, asset key) pairs that the user gives, for catalogs that name assets otherwise."""

NO_DATA: Final = 0
"""The class of a pixel without data."""

SCL_CLASSES: Final = (
    "no_data",
    "saturated_or_defective",
    "dark_area",
    "cloud_shadow",
    "vegetation",
    "not_vegetated",
    "water",
    "unclassified",
    "cloud_medium_probability",
    "cloud_high_probability",
    "thin_cirrus",
    "snow_or_ice",
)

MASKS: Final[dict[str, frozenset[int]]] = {
    "default": frozenset({0, 1, 3, 8, 9, 10}),
    "clear-sky": frozenset({0, 1, 2, 3, 8, 9, 10}),
    "land": frozenset(range(12)) - {4, 5},
    "snow-free": frozenset({0, 1, 3, 8, 9, 10, 11}),
    "openeo": frozenset({0, 1, 3, 8, 9, 10, 11}),
    "none": frozenset(),
}
"""SCL classes that each mask preset drops. `none` drops nothing, not even unclassified DN > 0."""

PRESET_FILTERS: Final[dict[str, tuple[str, ...]]] = {"openeo": ("erosion:1", "dilation:21")}
"""Mask filters (`masks`) that belong to a preset. openEO's `to_scl_dilation_mask` smooths, instead, with Gaussian
windows; how near these filters come to it is measured in ``docs/decisions/0015-mask-filters.md``."""

CLOUD_CLASSES: Final = frozenset({3, 8, 9, 10, 11})
"""What mask filters grow and shrink, where it is dropped: cloud shadow, cloud, cirrus, and snow, for Sen2Cor takes
one for the other."""

OFFSET_BASELINE: Final = (4, 0)
"""First processing baseline whose DN carry the BOA offset (2022-01-25)."""

BOA_OFFSET_DN: Final = -1000
"""BOA_ADD_OFFSET of every band from baseline 04.00, where an item does not say its own."""

OFF_LINE_BASELINE: Final = (99, 99)
"""ESA's own off-line processing: a number that does not order among the others."""

_TILE_NAME = re.compile(r"(0[1-9]|[1-5][0-9]|60)([C-HJ-NP-X])([A-HJ-NP-Z])([A-HJ-NP-V])")
_BANDS = "CDEFGHJKLMNPQRSTUVWX"
_COLUMNS = {1: "ABCDEFGH", 2: "JKLMNPQR", 0: "STUVWXYZ"}  # by zone modulo 3
_ROWS = "ABCDEFGHJKLMNPQRSTUV"
_SQUARE = 100_000
_METRES_A_DEGREE = 110_800  # of latitude, along a meridian in UTM

_DEFAULT_SCALE: Final = 1e-4
BASELINE_KEYS: Final = ("s2:processing_baseline", "sentinel:processing_baseline", "processing:version")
APPLIED_KEYS: Final = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")


@dataclass(frozen=True)
class Offset:
    """A BOA offset in DN and why it is believed."""

    dn: int
    evidence: str


def parse_mask(mask: str | Iterable[int]) -> frozenset[int]:
    """SCL classes to drop, from a preset's name, a list like ``"0,3,8"``, or the classes themselves.

    Raises ConfigError for an unknown preset or a class outside 0–11.
    """
    if isinstance(mask, str):
        if mask in MASKS:
            return MASKS[mask]
        parts = [part.strip() for part in mask.split(",")]
        if not all(re.fullmatch(r"\d+", part) for part in parts):
            near = get_close_matches(mask, MASKS, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ConfigError(
                f"unknown mask {mask!r}{hint}: give one of {', '.join(MASKS)}, or SCL classes like 0,1,3,8,9,10"
            )
        mask = [int(part) for part in parts]
    try:
        classes = frozenset(int(number) for number in mask)
    except (TypeError, ValueError):
        raise ConfigError(
            f"mask {mask!r} is not understood: give one of {', '.join(MASKS)}, or SCL classes like 0,1,3"
        ) from None
    wrong = sorted(number for number in classes if not 0 <= number < len(SCL_CLASSES))
    if wrong:
        raise ConfigError(f"SCL class {wrong[0]} does not exist: classes are 0 to {len(SCL_CLASSES) - 1}")
    return classes


def scl_table(dropped: Iterable[int], *, filtered: bool = False) -> np.ndarray:
    """Kernel bits of every SCL value, shape (256,), uint8: `USE` where kept, `LAND` for classes 4 and 5.

    Values above 11 are not classes and never used, whatever is dropped; but for `filtered` classes
    (`morphology.filter_classes`), where those with the bit `REMOVED` are used and `CLOUD` is what filters change.
    """
    table = np.zeros(256, np.uint8)
    table[: len(SCL_CLASSES)] = USE
    table[[4, 5]] |= LAND
    table[sorted(dropped)] = 0
    if filtered:
        table[sorted(CLOUD_CLASSES & set(dropped))] |= CLOUD
        table[REMOVED : REMOVED + len(SCL_CLASSES)] = USE
    return table


@cache
def scene_table(*, filtered: bool = False) -> np.ndarray:
    """Bits of every SCL value, shape (256,), uint8: whether it is `OBSERVED`, and as `CLOUDY` or `SNOWY`.

    `filtered`: values may carry the bits of mask filters, which change nothing of what was seen.
    """
    table = np.zeros(256, np.uint8)
    for bits in (0, REMOVED, ADDED) if filtered else (0,):
        table[bits + 1 : bits + len(SCL_CLASSES)] = OBSERVED
        table[[bits + 8, bits + 9, bits + 10]] |= CLOUDY
        table[bits + 11] |= SNOWY
    table.flags.writeable = False
    return table


@cache  # few texts, asked of every item
def parse_baseline(text: str) -> tuple[int, int]:
    """``"05.11"`` → (5, 11): numbers that order as baselines do. Raises ValueError for anything else."""
    match = re.fullmatch(r"\s*[Nn]?(\d{1,2})\.(\d{1,2})\s*", text)
    if match is None:
        raise ValueError(f"processing baseline {text!r} is not of the form NN.NN")
    return int(match[1]), int(match[2])


def baseline_rank(baseline: tuple[int, int]) -> tuple[int, int]:
    """What to compare baselines by: 99.99 ranks below all, since it never wins by its number alone."""
    return (-1, -1) if baseline == OFF_LINE_BASELINE else baseline


def item_baseline(properties: Mapping[str, Any]) -> tuple[int, int] | None:
    """Processing baseline from an item's properties, or from its product name; None where neither has it."""
    for key in BASELINE_KEYS:
        if key in properties:
            with contextlib.suppress(ValueError):
                return parse_baseline(str(properties[key]))
    match = re.search(r"_N(\d{2})(\d{2})_", str(properties.get("s2:product_uri", "")))
    return (int(match[1]), int(match[2])) if match else None


def resolve_offset(
    properties: Mapping[str, Any],
    asset: Mapping[str, Any],
    override: int | None = None,
) -> Offset | None:
    """BOA offset in DN of one red or nir asset, given as in the item's JSON; None where nothing tells it.

    In this order: the user's override; 0 below baseline 04.00; 0 where the item says that the offset is
    already in the pixels of its COGs (the flag does not speak of a JP2 beside them); the value the asset
    declares; −1000. Nothing tells it when the baseline is unknown, or is 99.99, whose number means nothing, and
    neither flag nor asset says more. Raises ValueError for a flag or a declared offset that makes no sense, and
    for baselines that contradict each other.
    """
    if override is not None:
        return Offset(override, "given by the user")
    _check_baselines(properties)
    baseline = item_baseline(properties)
    if baseline is None:
        return None
    name = baseline_name(baseline)
    if baseline < OFFSET_BASELINE:
        return Offset(0, f"baseline {name} is before 04.00")
    applied = applied_flag(properties)
    raw = is_jp2(asset)
    if applied and not raw:
        return Offset(0, f"{applied} is true: it is in this COG already")
    aside = f"; {applied} speaks of the COG, not of this JP2" if applied else ""
    declared = declared_offset(asset)
    if declared is not None:
        return Offset(declared, f"declared by the asset, baseline {name}{aside}")
    if baseline == OFF_LINE_BASELINE:
        return None
    return Offset(BOA_OFFSET_DN, f"baseline {name}, nothing declared{aside}")


def _check_baselines(properties: Mapping[str, Any]) -> None:
    """Raises ValueError where two fields tell different baselines; one that is not of the form tells none."""
    said = {}
    for key in BASELINE_KEYS:
        if key in properties:
            with contextlib.suppress(ValueError):
                said[key] = parse_baseline(str(properties[key]))
    if len(set(said.values())) > 1:
        raise ValueError(
            f"{' and '.join(f'{key} {properties[key]}' for key in said)} contradict each other; "
            "give the offset (0 or -1000)"
        )


def baseline_name(baseline: tuple[int, int] | None) -> str:
    """``05.11``, or ``unknown``."""
    return "unknown" if baseline is None else f"{baseline[0]:02}.{baseline[1]:02}"


def applied_flag(properties: Mapping[str, Any]) -> str | None:
    """Name of the flag that says that the offset is in the pixels of the item's COGs; None where none says so.

    True may come as text. Raises ValueError where a flag is neither true nor false, or two contradict.
    """
    said = {key: str(properties[key]).strip().lower() for key in APPLIED_KEYS if properties.get(key) is not None}
    for key, value in said.items():
        if value not in {"true", "false"}:
            raise ValueError(f"{key} is {properties[key]!r}, neither true nor false; give the offset (0 or -1000)")
    if len(set(said.values())) > 1:
        raise ValueError(f"{' and '.join(said)} contradict each other; give the offset (0 or -1000)")
    return next((key for key, value in said.items() if value == "true"), None)


def is_jp2(asset: Mapping[str, Any]) -> bool:
    """Whether an asset is a JPEG 2000 file, which is ESA's own: nobody has touched its pixels."""
    path = urlsplit(str(asset.get("href"))).path
    return "jp2" in str(asset.get("type")).lower() or path.lower().endswith(".jp2")


def declared_offset(asset: Mapping[str, Any]) -> int | None:
    """The offset in DN that an asset declares (`raster_field` offset over scale); None where it does not.

    Raises ValueError for a scale that is not above 0, for an offset above 0, which no product has, and for one that
    is not 0 but less than a DN: signs that the catalog means something else.
    """
    offset, scale = raster_field(asset, "offset"), raster_field(asset, "scale")
    if offset is None:
        return None
    scale = _DEFAULT_SCALE if scale is None else scale
    # A bool is a number to Python, and no scale or offset.
    if bool in {type(offset), type(scale)} or not float(scale) > 0 or float(offset) > 0:
        raise ValueError(
            f"offset {offset} with scale {scale} is declared: a scale is a number above 0 and a BOA offset one of "
            "at most 0; give the offset (0 or -1000)"
        )
    dn = round(float(offset) / float(scale))
    if not dn and float(offset):
        raise ValueError(
            f"offset {offset} with scale {scale} is declared: less than one DN, so one of them is in another unit; "
            "give the offset (0 or -1000)"
        )
    return dn


def raster_field(asset: Mapping[str, Any], name: str) -> Any:
    """``scale`` or ``offset`` of the raster extension: the band's, in any STAC version, before the asset's."""
    bands = [(asset.get(key) or [{}])[0] for key in ("raster:bands", "bands", "eo:bands")]
    places = [(place, key) for place in (*bands, asset) for key in (f"raster:{name}", name)]
    return next((place[key] for place, key in places if place.get(key) is not None), None)


def find_asset_keys(keys: Iterable[str], given: AssetKeys = ()) -> tuple[dict[str, str], tuple[str, ...]]:
    """The naming that an item's asset keys follow best, and the bands it lacks under that naming.

    `given` keys are what they are; only the other bands' are found.
    """
    present, fixed = set(keys), dict(given)
    namings = [names | fixed for names in ASSET_KEYS]
    best = max(namings, key=lambda names: sum(key in present for key in names.values()))
    return best, tuple(band for band, key in best.items() if key not in present)


def item_tile(properties: Mapping[str, Any], item_id: str) -> str:
    """MGRS tile such as ``31TCJ``, from whichever field has it; empty where none does."""
    code = str(properties.get("grid:code") or properties.get("s2:mgrs_tile") or "")
    if not code and "mgrs:grid_square" in properties:
        with contextlib.suppress(KeyError, TypeError, ValueError, OverflowError):  # then the id may have it
            zone = int(properties["mgrs:utm_zone"])
            code = f"{zone:02}{properties['mgrs:latitude_band']}{properties['mgrs:grid_square']}"
    match = re.search(r"(\d{1,2}[C-X][A-Z]{2})(?![A-Z0-9])", code) or re.search(
        r"_T?(\d{1,2}[C-X][A-Z]{2})_", item_id
    )
    return match[1].zfill(5) if match else ""


def tile_corner(tile: str) -> tuple[int, int, int]:
    """EPSG code, left and top (metres) of an MGRS tile's Sentinel-2 grid. Raises ConfigError.

    The MGRS square of 100 km, its corner moved outward to whole 60 m from the zone's origin: the equator, north and
    south. Checked against the origins of recorded items. Sentinel-2 names squares beyond the border of their zone
    as well (31VEL), which MGRS does not know.
    """
    found = _TILE_NAME.fullmatch(tile)
    if found is None:
        raise ConfigError(
            f"tile {tile!r} is no MGRS tile: give zone, latitude band and square, such as 31TCJ or 31TCJ,31TDJ"
        )
    zone, band = int(found[1]), found[2]
    columns, shift = _COLUMNS[zone % 3], 5 * (zone % 2 == 0)
    if found[3] not in columns:
        raise ConfigError(f"tile {tile!r}: zone {zone} has squares {columns[0]} to {columns[-1]}: correct its name")
    east = (columns.index(found[3]) + 1) * _SQUARE
    north = (_ROWS.index(found[4]) - shift) % len(_ROWS) * _SQUARE
    # Letters of rows come again every 2000 km; a band is 890 km high, so one of them lies nearest to its middle.
    middle = (_BANDS.index(band) * 8 - 76) * _METRES_A_DEGREE
    north += round((middle - north) / (len(_ROWS) * _SQUARE)) * len(_ROWS) * _SQUARE
    top = -(-(north + _SQUARE) // 60) * 60
    south = band < "N"
    return (32700 if south else 32600) + zone, east // 60 * 60, top + 10_000_000 * south


def item_datatake(properties: Mapping[str, Any]) -> str:
    """What every processing of one datatake shares: platform and start of sensing; empty where unknown."""
    for key, pattern in (
        ("s2:datatake_id", r"G(S2[A-D])_(\d{8}T\d{6})"),
        ("eopf:datatake_id", r"G(S2[A-D])_(\d{8}T\d{6})"),
        ("s2:product_uri", r"(S2[A-D])_MSIL\w{2}_(\d{8}T\d{6})"),
        ("sentinel:product_id", r"(S2[A-D])_MSIL\w{2}_(\d{8}T\d{6})"),
    ):
        match = re.search(pattern, str(properties.get(key, "")))
        if match:
            return f"{match[1]}_{match[2]}"
    return ""


def solar_day(time: dt.datetime, longitude: float) -> dt.date:
    """Solar date at a longitude in degrees east: UTC shifted by whole hours, truncated toward zero.

    Truncation as odc-stac does it (``int(longitude / 15)``), so that the days of both agree.
    """
    utc = time.astimezone(dt.UTC) if time.tzinfo else time
    return (utc + dt.timedelta(hours=int(longitude / 15))).date()
