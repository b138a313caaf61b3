"""AOI, dates and limits become items: from a STAC API, a static catalog, a saved search or stac-geoparquet.

`search_items`: where it is (`_locate`), its items (`_read`: `months` of an API, or `catalog`), predicates.
Whatever a server has applied, the same predicates are applied again here, so that every source agrees.
"""

from __future__ import annotations

import datetime as dt
import difflib
import json
import logging
import math
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import shapely
from shapely.geometry import shape

from ndvi_scale.aoi import check_degrees, parse_bbox, polygons_of, split_antimeridian
from ndvi_scale.auto import AUTO, join_collections
from ndvi_scale.catalog import is_parquet, linked_items, locate, parquet_items, read_json
from ndvi_scale.errors import ConfigError, EmptySearchError, SearchError
from ndvi_scale.interval import parse_interval
from ndvi_scale.months import MONTHS_AT_ONCE, MonthlySearch
from ndvi_scale.sources import SOURCES
from ndvi_scale.stac_api import Api, Wanted, check_collection, only_collection
from ndvi_scale.web import is_url, shown, web_session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import pystac
    from shapely.geometry.base import BaseGeometry

    from ndvi_scale.aoi import Aoi
    from ndvi_scale.auto import Joined
    from ndvi_scale.sources import Source

logger = logging.getLogger(__name__)

_PERCENT = 100
_HOLES_TOLD = 10  # ids in a warning; -v tells all


def search_items(
    catalog: str | Path,
    *,
    aoi: Aoi | None = None,
    datetime: str | None = None,
    cloud_cover: float | None = None,
    collection: str | None = None,
    cache: str | Path | None = None,
) -> list[pystac.Item]:
    """Return the items that fit, in order of (datetime, id), each once, asset hrefs absolute.

    `catalog` is a name in `SOURCES`, a path (catalog, collection, item, item collection, stac-geoparquet) or
    an http(s) URL (the same, or a STAC API). An item fits when its footprint shares area with `aoi`, its
    datetime (else start_datetime) lies in `datetime` (see `parse_interval`), and its eo:cloud_cover, which it
    must have then, is at most `cloud_cover` percent. `collection` is that of the source by default; `auto`
    takes each product from the best collection that has it, and warns of holes. APIs are asked month by
    month where `datetime` is longer than one; `cache` is a folder that keeps the months that are over.

    Raises ConfigError, SearchError, and EmptySearchError, which counts what removed the items, if none fits.
    """
    found = iter_items(
        catalog, aoi=aoi, datetime=datetime, cloud_cover=cloud_cover, collection=collection, cache=cache
    )
    return in_order(found)


def in_order(items: Iterable[pystac.Item]) -> list[pystac.Item]:
    """Items by (datetime, id). Raises SearchError for one that does not say when it was sensed."""
    return sorted(items, key=lambda item: (item_moment(item), item.id))


def iter_items(
    catalog: str | Path,
    *,
    aoi: Aoi | None = None,
    datetime: str | None = None,
    cloud_cover: float | None = None,
    collection: str | None = None,
    cache: str | Path | None = None,
) -> Iterator[pystac.Item]:
    """What `search_items` returns, one by one in the order in which the source has them; raises as it does.

    Only ids are kept of what was yielded, so that a file of a hundred thousand items need not fit the memory.
    """
    if cloud_cover is not None and not 0 <= cloud_cover <= _PERCENT:
        raise ConfigError(f"cloud_cover {cloud_cover}: it is a percentage. Give a number from 0 to 100.")
    interval = None if datetime is None else parse_interval(datetime)
    where, source = _locate(catalog)
    wanted = Wanted(aoi, interval, cloud_cover, collection or (source and source.collection), dates=datetime)
    asking = _Asking(where, None if cache is None else Path(cache), _at_once(source))
    found = _search_auto(asking, wanted, source) if collection == AUTO else _search(asking, wanted)
    kept = 0
    for item in found.kept:
        item_moment(item)  # refused here, whoever asks
        kept += 1
        yield item
    if found.removed:
        logger.info("%s: %d items seen; on the client, %s", shown(where), found.seen, _counted(found.removed))
    if not kept:
        raise EmptySearchError(_nothing_fits(where, found.seen, found.removed))


@dataclass(frozen=True)
class _Asking:
    """Where and how it is asked."""

    where: str
    cache: Path | None
    at_once: int


@dataclass
class _Found:
    """What a search brings; the numbers are known when all that is kept was taken."""

    kept: Iterable[pystac.Item]
    seen: int = 0
    removed: Counter[str] = field(default_factory=Counter)
    """How many items failed which predicate."""


def _locate(catalog: str | Path) -> tuple[str, Source | None]:
    """Absolute path or URL, and the source if it is a known one."""
    text = str(catalog)
    source = SOURCES.get(text) if isinstance(catalog, str) else None
    if source is None and is_url(text):
        source = next((known for known in SOURCES.values() if known.url == text.rstrip("/")), None)
    if source is not None:
        return source.url, source
    where = locate(text)
    looks_like_a_name = isinstance(catalog, str) and not re.search(r"[./\\]", text)
    if looks_like_a_name and not is_url(where) and not Path(where).exists():
        near = difflib.get_close_matches(text, SOURCES, n=1, cutoff=0.5)
        guess = f" Did you mean {near[0]!r}?" if near else ""
        raise SearchError(
            f"catalog {text!r} is neither a known source nor a file.{guess} "
            f"Known sources: {', '.join(SOURCES)}; the path or URL of a catalog is accepted too."
        )
    return where, None


def _at_once(source: Source | None) -> int:
    allowed = source.limits.connections if source else None
    return min(MONTHS_AT_ONCE, allowed or MONTHS_AT_ONCE)


def _search(asking: _Asking, wanted: Wanted) -> _Found:
    found = _Found(())
    found.kept = _select(_unique(_read(asking, wanted), asking.where, found), wanted, found)
    return found


def _search_auto(asking: _Asking, wanted: Wanted, source: Source | None) -> _Found:
    """Search all collections that hold the same products, and join them.

    Cloud cover is judged after the join: processings differ in it, and a better one that is too cloudy must
    not be replaced by a worse one that says it is not.
    """
    if source is None or not source.auto:
        able = ", ".join(name for name, known in SOURCES.items() if known.auto)
        raise ConfigError(
            f"collection {AUTO!r}: {shown(asking.where)} is not known to hold one product in several "
            f"collections. Give the collection by its id, or leave it out; {AUTO} is for {able}."
        )
    parts = {name: _search(asking, replace(wanted, collection=name, cloud_cover=None)) for name in source.auto}
    joined = join_collections({name: list(part.kept) for name, part in parts.items()})
    _report_holes(joined, asking.where)
    found = _Found((), sum(part.seen for part in parts.values()))
    found.kept = list(_select(joined.items, Wanted(None, None, wanted.cloud_cover, None), found))
    found.removed = sum((part.removed for part in parts.values()), found.removed)
    return found


def _report_holes(joined: Joined, where: str) -> None:
    """Say what each collection lacks: loudly of the preferred one, whose substitutes are used in its place."""
    preferred = next(iter(joined.holes))
    for collection, ids in joined.holes.items():
        level = logging.WARNING if ids and collection == preferred else logging.INFO
        told = ", ".join(ids[:_HOLES_TOLD]) + (", …" if len(ids) > _HOLES_TOLD else "")
        message = f"{shown(where)}: {collection} lacks {len(ids)} of {joined.products} products"
        logger.log(level, "%s", f"{message}; used from elsewhere: {told}" if ids else message)
        if len(ids) > _HOLES_TOLD:
            logger.info("%s lacks: %s", collection, ", ".join(ids))


def _read(asking: _Asking, wanted: Wanted) -> Iterator[pystac.Item]:
    """Items of any source, before the predicates; an API has applied what it can, a file nothing."""
    where = asking.where
    with web_session() as web:
        if is_parquet(where):
            yield from parquet_items(where, web)
            return
        document = read_json(where, web)
        if "conformsTo" not in document or not is_url(where):
            yield from linked_items(document, where, web)
            return
        api = Api(document, where, web)
        collection = wanted.collection or only_collection(api)
        nothing = True
        for item in MonthlySearch(api, wanted, collection, asking.cache, asking.at_once).items():
            nothing = False
            yield item
        if nothing:
            check_collection(api, collection)


def _unique(items: Iterable[pystac.Item], where: str, found: _Found) -> Iterator[pystac.Item]:
    """The first of items with the same collection and id, counted; pages of a server may overlap."""
    names: dict[str | None, set[str]] = defaultdict(set)
    again = 0
    for item in items:
        known = names[item.collection_id]
        if item.id in known:
            again += 1
            continue
        known.add(item.id)
        found.seen += 1
        yield item
    if again:
        logger.info("%s: %d items came more than once and are kept once", shown(where), again)


def _select(items: Iterable[pystac.Item], wanted: Wanted, found: _Found) -> Iterator[pystac.Item]:
    """Items that fit; how many others failed which predicate first is counted."""
    predicates = _predicates(wanted)
    removed = Counter({reason: 0 for reason, _ in predicates})
    for item in items:
        failed = next((reason for reason, fits in predicates if not fits(item)), None)
        if failed is None:
            yield item
        else:
            removed[failed] += 1
    found.removed = Counter({reason: number for reason, number in removed.items() if number})


def _predicates(wanted: Wanted) -> list[tuple[str, Callable[[pystac.Item], bool]]]:
    """List the tests in order of application, each with what an item that fails it is."""
    tests: list[tuple[str, Callable[[pystac.Item], bool]]] = []
    if (collection := wanted.collection) is not None:
        tests.append((f"not of collection {collection}", lambda item: item.collection_id == collection))
    if wanted.aoi is not None:
        shapely.prepare(wanted.aoi.geometry)
        tests.append((f"outside the region {wanted.aoi.source}", partial(_overlaps, wanted.aoi)))
    if (interval := wanted.interval) is not None:
        tests.append((f"outside the dates {wanted.dates}", lambda item: item_moment(item) in interval))
    if (limit := wanted.cloud_cover) is not None:
        tests.append(("without eo:cloud_cover", lambda item: item_cloud_cover(item) is not None))
        tests.append((f"above {limit:g} % cloud cover", lambda item: (item_cloud_cover(item) or 0.0) <= limit))
    return tests


def _counted(removed: Counter[str]) -> str:
    return ", ".join(f"{number} {reason}" for reason, number in removed.items())


def _nothing_fits(where: str, seen: int, removed: Counter[str]) -> str:
    if not seen:
        return (
            f"{shown(where)}: no item came back for this region, dates, limits and collection: "
            "it holds none. Widen one of them, or use a catalog that covers the region."
        )
    last = list(removed)[-1]
    return (
        f"{shown(where)}: no item fits. {seen} items in the catalog; {_counted(removed)}. "
        f"Change what removed the last ones: {last}."
    )


# What an item says of itself


def item_moment(item: pystac.Item) -> dt.datetime:
    """When it was sensed, aware. Raises SearchError if it does not say."""
    moment = item.datetime or item.common_metadata.start_datetime
    if moment is None:
        raise SearchError(
            f"item {item.id} has neither datetime nor start_datetime: when is it? Correct it or leave it out."
        )
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=dt.UTC)


def item_cloud_cover(item: pystac.Item) -> float | None:
    """Percent, or None when it is absent, null or not a number."""
    value = item.properties.get("eo:cloud_cover")
    try:
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
    except OverflowError:  # JSON has numbers that no float can hold
        return None


def _overlaps(aoi: Aoi, item: pystac.Item) -> bool:
    """Whether the footprint shares area, not only an edge, with the AOI (prepared)."""
    ground = footprint(item)
    # DE-9IM: the interiors meet in an area (2).
    return aoi.geometry.intersects(ground) and aoi.geometry.relate_pattern(ground, "2********")


_footprints: WeakKeyDictionary[pystac.Item, tuple[Any, Any, BaseGeometry]] = WeakKeyDictionary()
"""What items said (geometry, bbox), and what that is: a search asks it, and then the plan of what was found."""


def footprint(item: pystac.Item) -> BaseGeometry:
    """Where an item says it has data, lon/lat, split at the antimeridian. Raises SearchError if it does not say."""
    known = _footprints.get(item)
    if known is None or known[0] is not item.geometry or known[1] is not item.bbox:
        _footprints[item] = known = item.geometry, item.bbox, _read_footprint(item)
    return known[2]


def _read_footprint(item: pystac.Item) -> BaseGeometry:
    try:
        if item.geometry is not None:
            return _ground_of(json.dumps(item.geometry))
        if item.bbox is not None:
            half = len(item.bbox) // 2  # six numbers when heights are given
            return parse_bbox([item.bbox[at] for at in (0, 1, half, half + 1)]).geometry
    except (
        ConfigError,
        TypeError,
        ValueError,
        LookupError,
        AttributeError,
        RecursionError,
        shapely.errors.ShapelyError,
    ) as error:
        raise SearchError(
            f"item {item.id}: its geometry or bbox is not one ({error}). Correct it or leave it out."
        ) from error
    raise SearchError(f"item {item.id} has neither geometry nor bbox: where is it? Correct it or leave it out.")


@lru_cache(maxsize=4096)  # whole tiles look the same at every date
def _ground_of(geojson: str) -> BaseGeometry:
    with np.errstate(invalid="ignore"):  # NaN is found below, with a better message
        geometry = shapely.force_2d(shape(json.loads(geojson)))
    check_degrees(geometry)
    try:
        return split_antimeridian(geometry)
    except ValueError:
        # Some real footprints touch themselves; their area is still meant.
        return shapely.MultiPolygon(polygons_of(shapely.make_valid(geometry)))
