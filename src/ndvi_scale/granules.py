"""Items as the pipeline sees them: `Granule`, and which of several processings of one datatake to use.

Pure: a `pystac.Item` comes in, nothing is read.
"""

from __future__ import annotations

import datetime as dt
import math
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property, lru_cache
from sys import intern
from typing import TYPE_CHECKING, Any

import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

from ndvi_scale import sentinel2
from ndvi_scale.errors import ItemError
from ndvi_scale.hrefs import REFUSED, refusal, unsigned
from ndvi_scale.kernels import MAX_DN
from ndvi_scale.lattice import corner

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pystac
    from shapely.geometry.base import BaseGeometry

SAME_PASS = dt.timedelta(seconds=60)
"""Granules of one tile and platform without a datatake id belong together when sensed this close: one tile
passes under the instrument in about 15 s, and the next orbit comes 100 minutes later."""

ZONE_PIXELS = (1_000_000, 100_000)
"""Rows and columns of 10 m that a UTM zone has: 10,000 km from the equator to the pole, 1000 km of easting."""


HELD = 0.05
"""Part of a footprint that a newer processing may miss and still replace it: from baseline to baseline they differ
by a few pixels along the edge, halves of a datatake by half."""


@dataclass(frozen=True)
class Asset:
    """One file of a granule."""

    href: str
    """Absolute and unsigned."""
    geobox: GeoBox
    """Its native pixel grid."""
    media_type: str
    offset: int
    """BOA offset in DN, to be added to every DN but 0; 0 for SCL."""
    evidence: str
    """Why that offset."""
    overview: int = 1
    """Pixels of the file along one of `geobox`: 1 for the image itself, 2 for its copy of half the size."""


@dataclass(frozen=True)
class Granule:
    """One MGRS tile of one datatake in one processing."""

    id: str
    time: dt.datetime
    """Sensing time, aware, UTC."""
    platform: str
    tile: str
    """MGRS tile such as 31TCJ; empty where the item does not say."""
    datatake: str
    """Platform and start of sensing, shared by all processings; empty where the item does not say."""
    baseline: tuple[int, int] | None
    generation: str
    """When and as what it was processed: tells a split datatake from a true duplicate."""
    red: Asset
    nir: Asset
    scl: Asset

    @property
    def assets(self) -> dict[str, Asset]:
        """The three assets by band."""
        return {"red": self.red, "nir": self.nir, "scl": self.scl}

    @cached_property
    def grid(self) -> GeoBox:
        """Grid of the finest of its assets: that of red, or that of SCL where red is a coarser overview."""
        return min((self.red.geobox, self.scl.geobox), key=lambda grid: grid.resolution.x)

    @cached_property
    def spread(self) -> dict[str, int]:
        """Band → pixels of `grid` along one of its own."""
        own = self.grid.resolution.x
        return {band: round(asset.geobox.resolution.x / own) for band, asset in self.assets.items()}

    @property
    def epsg(self) -> int:
        """EPSG code of the native grid."""
        code = self.red.geobox.crs.to_epsg() if self.red.geobox.crs else None
        return int(code or 0)

    @property
    def order(self) -> tuple[dt.datetime, str]:
        """What decides who comes first in a mosaic."""
        return self.time, self.id


@dataclass(frozen=True)
class Dropped:
    """An item that takes no part, and why."""

    id: str
    reason: str


def granule_from_item(
    item: pystac.Item, offset: int | None = None, asset_keys: sentinel2.AssetKeys = ()
) -> Granule:
    """What NDVI needs to know of an item; `offset` (DN) and `asset_keys` override what the item says.

    Raises ItemError when an asset, its projection fields or the baseline are missing, or when the grids of
    red, nir and SCL do not nest, or when a field makes no sense.
    """
    try:
        granule = _granule(item, offset, asset_keys)
        _check_writable(granule)
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise ItemError(
            f"item {item.id} has a field that makes no sense ({type(error).__name__}: {error}): mend the item, "
            "leave it out, or use on-error = skip",
            item_id=item.id,
        ) from error
    return granule


def _check_writable(granule: Granule) -> None:
    """Half surrogates are valid JSON, and no file of a plan can hold them. Raises UnicodeEncodeError."""
    texts = [granule.id, granule.platform, granule.generation]
    texts += [text for asset in granule.assets.values() for text in (asset.href, asset.media_type, asset.evidence)]
    for text in texts:
        text.encode()


def _granule(item: pystac.Item, offset: int | None, asset_keys: sentinel2.AssetKeys) -> Granule:
    properties = item.properties
    keys, missing = sentinel2.find_asset_keys(item.assets, asset_keys)
    if missing:
        raise ItemError(
            f"item {item.id} has no asset {keys[missing[0]]!r} for band {missing[0]!r} (it has "
            f"{', '.join(sorted(item.assets)) or 'none'}): NDVI needs red, nir and scl; "
            f"name it by `--asset {missing[0]}=KEY`, leave the item out, or use on-error = skip",
            item_id=item.id,
            asset=keys[missing[0]],
        )
    assets = {band: _asset(item, band, key, offset) for band, key in keys.items()}
    _check_grids(item.id, assets)
    return Granule(
        id=item.id,
        time=_sensing_time(item),
        platform=intern(str(properties.get("platform", "")).lower()),
        tile=intern(sentinel2.item_tile(properties, item.id)),
        datatake=intern(sentinel2.item_datatake(properties)),
        baseline=sentinel2.item_baseline(properties),
        generation=str(
            properties.get("s2:generation_time")
            or properties.get("processing:datetime")
            or properties.get("s2:product_uri")
            or ""
        ),
        **assets,
    )


def _sensing_time(item: pystac.Item) -> dt.datetime:
    time = item.datetime or item.common_metadata.start_datetime
    if time is None:
        raise ItemError(f"item {item.id} has neither datetime nor start_datetime", item_id=item.id)
    return time.astimezone(dt.UTC) if time.tzinfo else time.replace(tzinfo=dt.UTC)


def _asset(item: pystac.Item, band: str, key: str, override: int | None) -> Asset:
    asset = item.assets[key]
    href = _readable_href(item, key)
    fields: Mapping[str, Any] = {"type": asset.media_type, "href": href, **asset.extra_fields}
    media_type = str(asset.media_type or "") or ("image/jp2" if sentinel2.is_jp2(fields) else "")
    offset = sentinel2.Offset(0, "a class, not a reflectance")
    if band != "scl":
        offset = _offset(item, key, fields, override)
    return Asset(
        href=href,
        geobox=_native_geobox(item, key, fields),
        media_type=intern(media_type),
        offset=offset.dn,
        evidence=intern(offset.evidence),
    )


def _readable_href(item: pystac.Item, key: str) -> str:
    """Absolute and unsigned. Raises ItemError where it may not be read, here or when the item was found."""
    asset = item.assets[key]
    why = asset.extra_fields.get(REFUSED)
    href = "" if why else unsigned(asset.href if "://" in asset.href else asset.get_absolute_href() or asset.href)
    if why := why or refusal(href, remote=False):
        raise ItemError(
            f"item {item.id}, asset {key!r}: {why}. Leave the item out, use on-error = skip, or download the file "
            "and its item",
            item_id=item.id,
            asset=key,
        )
    return href


def _offset(item: pystac.Item, key: str, fields: Mapping[str, Any], override: int | None) -> sentinel2.Offset:
    resolved = sentinel2.resolve_offset(item.properties, fields, override)
    if resolved is None:
        what = f"gives no processing baseline ({', '.join(sentinel2.BASELINE_KEYS)})"
        if sentinel2.item_baseline(item.properties) is not None:
            what = "has baseline 99.99, an off-line processing whose number means nothing, and declares no offset"
        raise ItemError(
            f"item {item.id} {what}: whether its DN carry the BOA offset cannot be known; give the offset (0 or "
            "-1000)",
            item_id=item.id,
            asset=key,
        )
    if abs(resolved.dn) > MAX_DN:
        raise ItemError(
            f"item {item.id}, asset {key!r}: an offset of {resolved.dn} DN ({resolved.evidence}) cannot be; "
            "give the offset (0 or -1000)",
            item_id=item.id,
            asset=key,
        )
    return resolved


def _native_geobox(item: pystac.Item, key: str, fields: Mapping[str, Any]) -> GeoBox:
    said, of_all = fields.get, item.properties.get
    code = said("proj:code") or said("proj:epsg") or of_all("proj:code") or of_all("proj:epsg")
    transform: Any = said("proj:transform") or of_all("proj:transform")
    shape: Any = said("proj:shape") or of_all("proj:shape")
    absent = [
        name
        for name, value in (("proj:code", code), ("proj:transform", transform), ("proj:shape", shape))
        if not value
    ]
    if absent:
        raise ItemError(
            f"item {item.id} says no {' and no '.join(absent)} for asset {key!r}: its pixel grid is unknown; "
            "use a catalog with the STAC projection extension",
            item_id=item.id,
            asset=key,
        )
    try:
        crs = code if isinstance(code, str) else f"EPSG:{code}"
        return _square_grid(tuple(shape), tuple(transform[:6]), crs)
    except (TypeError, ValueError, ProjError) as error:
        raise ItemError(
            f"item {item.id}, asset {key!r}: its projection fields make no grid ({code!r}, {transform!r}, "
            f"{shape!r}): {error}",
            item_id=item.id,
            asset=key,
        ) from None


@lru_cache(maxsize=4096)  # one grid for all dates of a tile
def _square_grid(shape: tuple[Any, ...], transform: tuple[Any, ...], crs: str) -> GeoBox:
    """Of numbers as the item has them. Raises ValueError and TypeError for what is no map of squares."""
    affine = Affine(*map(float, transform))
    if not (affine.a == -affine.e > 0 and affine.b == affine.d == 0 and math.isfinite(affine.c + affine.f)):
        raise ValueError("pixels are squares, north up")
    grid = GeoBox(_zone_shape(shape), affine, crs)
    if not _is_map(crs):
        raise ValueError("the CRS is none in metres")
    return grid


@lru_cache(maxsize=256)
def _is_map(crs: str) -> bool:
    """Whether it is a CRS in metres that PROJ can compute with; raises ProjError for what is none."""
    known = CRS.from_user_input(crs)
    if not known.is_projected:
        return False
    Transformer.from_crs(known, "EPSG:4326", always_xy=True)
    return True


def _zone_shape(shape: tuple[Any, ...]) -> tuple[int, int]:
    """Rows and columns that a UTM zone can hold: what is beyond is refused before memory is asked for."""
    height, width = (int(n) for n in shape)
    if not (0 < height <= ZONE_PIXELS[0] and 0 < width <= ZONE_PIXELS[1]):
        raise ValueError(f"a UTM zone holds at most {ZONE_PIXELS[0]} x {ZONE_PIXELS[1]} pixels of 10 m")
    return height, width


def _check_grids(item_id: str, assets: Mapping[str, Asset]) -> None:
    red, nir, scl = (assets[band].geobox for band in sentinel2.BANDS)
    if red is not nir and red != nir:
        raise ItemError(
            f"item {item_id}: red and nir lie on different grids ({red.shape} and {nir.shape})",
            item_id=item_id,
            asset="nir",
        )
    factor = scl_factor(red, scl)
    same_ground = (scl.crs, corner(scl)) == (red.crs, corner(red))
    if factor < 1 or not same_ground or (scl.shape.y * factor, scl.shape.x * factor) != red.shape.yx:
        raise ItemError(
            f"item {item_id}: SCL ({scl.shape}, {scl.resolution.x} m) does not nest in red "
            f"({red.shape}, {red.resolution.x} m): same CRS, same origin and a whole number of pixels needed",
            item_id=item_id,
            asset="scl",
        )


def scl_factor(red: GeoBox, scl: GeoBox) -> int:
    """Pixels of `red` along one SCL pixel: 2 for 10 and 20 m; 0 when that is not a whole number."""
    factor = scl.resolution.x / red.resolution.x
    return round(factor) if factor >= 1 and factor == round(factor) else 0


@dataclass(frozen=True)
class Processings:
    """Which processing of each acquisition to use."""

    chosen: list[Granule]
    """In (time, id) order."""
    dropped: list[Dropped]
    spares: dict[str, tuple[Granule, ...]]
    """Id of a chosen granule → older processings of its ground, the newest first: read where it cannot be."""


def choose_processings(
    granules: Iterable[Granule], footprints: Mapping[str, BaseGeometry] | None = None
) -> Processings:
    """One processing a tile and datatake: the highest baseline; all halves of a split datatake.

    Same tile and datatake in several baselines is one acquisition processed again: only the highest counts
    (99.99 never wins by its number), and what it replaces stands in where it cannot be read. An older one whose
    ground the newer ones do not hold (`footprints`: lon/lat, by id; unknown ground is held) is the half of a split
    datatake that was not processed again: it stays. The same baseline again under another generation time, or of
    other ground, is a split datatake, too: both halves stay. A copy under another id counts once, and so does an id
    that comes twice: the one that was made last.
    """
    once, dropped = _each_once(granules)
    chosen: list[Granule] = []
    spares: dict[str, list[Granule]] = defaultdict(list)
    for same in _by_datatake(once):
        kept, superseded = _choose(same, footprints or {})
        chosen += kept
        for found in superseded:
            dropped.append(Dropped(found.granule.id, found.reason))
            for granule in found.by:
                if granule.red.geobox == found.granule.red.geobox:
                    spares[granule.id].append(found.granule)
    chosen.sort(key=lambda granule: granule.order)
    return Processings(chosen, dropped, {name: tuple(older) for name, older in spares.items()})


def _each_once(granules: Iterable[Granule]) -> tuple[list[Granule], list[Dropped]]:
    """In (time, id) order; of those with one id the one that was made last."""
    kept: dict[str, Granule] = {}
    dropped = []
    newest_first = sorted(granules, key=lambda g: (g.generation, g.red.href), reverse=True)
    for granule in sorted(newest_first, key=lambda g: g.order):
        if granule.id in kept:
            dropped.append(Dropped(granule.id, "the same id comes twice"))
        kept.setdefault(granule.id, granule)
    return list(kept.values()), dropped


@dataclass(frozen=True)
class _Superseded:
    """A granule that others take the place of."""

    granule: Granule
    by: list[Granule]
    reason: str


def _choose(
    same: Sequence[Granule], footprints: Mapping[str, BaseGeometry]
) -> tuple[list[Granule], list[_Superseded]]:
    """Of one acquisition: what is used, and what is superseded, newest first."""
    newest_first = sorted(same, key=_rank, reverse=True)
    kept: list[Granule] = []
    superseded = []
    for granule in newest_first:
        copies = [other for other in kept if _is_copy(granule, other, footprints)]
        older = granule.baseline != newest_first[0].baseline
        replacing = copies or (_replacing(granule, kept, footprints) if older else [])
        if not replacing:
            kept.append(granule)
            continue
        newer = f"{replacing[0].id} ({_name(replacing[0])})"
        why = f"is the same product as {newer}" if copies else f"baseline {_name(granule)} is superseded by {newer}"
        superseded.append(_Superseded(granule, replacing, why))
    return kept, superseded


def _is_copy(one: Granule, other: Granule, footprints: Mapping[str, BaseGeometry]) -> bool:
    """Whether two items are of one product: halves of a datatake differ in ground or in when they were made."""
    grounds = footprints.get(one.id), footprints.get(other.id)
    if not one.generation or (one.baseline, one.generation) != (other.baseline, other.generation):
        return False
    if grounds[0] is None or grounds[1] is None:
        return False
    return grounds[0].symmetric_difference(grounds[1]).area <= HELD * grounds[0].area


def _rank(granule: Granule) -> tuple[int, int]:
    return sentinel2.baseline_rank(granule.baseline or (0, 0))


def _replacing(older: Granule, newer: Sequence[Granule], footprints: Mapping[str, BaseGeometry]) -> list[Granule]:
    """Those that hold the ground of an older processing, together; none if they leave some of it out."""
    ground = footprints.get(older.id)
    known = {granule.id: footprints[granule.id] for granule in newer if granule.id in footprints}
    if ground is None or len(known) < len(newer):
        return list(newer)
    missing = ground.difference(shapely.union_all(list(known.values()))).area
    if missing > HELD * ground.area:
        return []
    return [granule for granule in newer if known[granule.id].intersection(ground).area > 0]


def _name(granule: Granule) -> str:
    return "unknown" if granule.baseline is None else "{:02}.{:02}".format(*granule.baseline)


def _by_datatake(granules: Iterable[Granule]) -> list[Sequence[Granule]]:
    groups: dict[tuple[str, ...], list[Granule]] = defaultdict(list)
    for granule in granules:
        groups[(granule.tile or granule.id, granule.datatake or granule.platform)].append(granule)
    found: list[Sequence[Granule]] = []
    for members in groups.values():
        start = 0
        for i in range(1, len(members) + 1):
            # Members come in order of time; only those without a datatake id need the gap.
            if i == len(members) or (not members[i].datatake and members[i].time - members[i - 1].time > SAME_PASS):
                found.append(members[start:i])
                start = i
    return found
