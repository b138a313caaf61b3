"""AOI, dates and limits become items: from a STAC API, a static catalog, a saved search or stac-geoparquet.

`search_items`: where it is (`_locate`), its items (`_read`: `stac_api` or `catalog`), predicates.
Whatever a server has applied, the same predicates are applied again here, so that every source agrees.
"""

from __future__ import annotations

import datetime as dt
import difflib
import logging
import math
import re
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import shapely
from shapely.geometry import shape

from ndvi_scale.aoi import parse_bbox, polygons_of, split_antimeridian
from ndvi_scale.catalog import (
    is_parquet,
    is_url,
    linked_items,
    locate,
    parquet_items,
    read_json,
    shown,
    web_session,
)
from ndvi_scale.errors import ConfigError, EmptySearchError, SearchError
from ndvi_scale.interval import parse_interval
from ndvi_scale.sources import SOURCES
from ndvi_scale.stac_api import Api, Wanted, api_items

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import pystac
    from shapely.geometry.base import BaseGeometry

    from ndvi_scale.aoi import Aoi

logger = logging.getLogger(__name__)

_PERCENT = 100


def search_items(
    catalog: str | Path,
    *,
    aoi: Aoi | None = None,
    datetime: str | None = None,
    cloud_cover: float | None = None,
    collection: str | None = None,
) -> list[pystac.Item]:
    """Return the items that fit, in order of (datetime, id), each once, asset hrefs absolute.

    `catalog` is a name in `SOURCES`, a path (catalog, collection, item, item collection, stac-geoparquet) or
    an http(s) URL (the same, or a STAC API). An item fits when its footprint shares area with `aoi`, its
    datetime (else start_datetime) lies in `datetime` (see `parse_interval`), and its eo:cloud_cover, which it
    must have then, is at most `cloud_cover` percent. `collection` is that of the source by default.

    Raises ConfigError, SearchError, and EmptySearchError, which counts what removed the items, if none fits.
    """
    if cloud_cover is not None and not 0 <= cloud_cover <= _PERCENT:
        raise ConfigError(f"cloud_cover {cloud_cover}: it is a percentage. Give a number from 0 to 100.")
    interval = None if datetime is None else parse_interval(datetime)
    where, collection = _locate(catalog, collection)
    wanted = Wanted(aoi, interval, cloud_cover, collection, dates=datetime)
    items = _unique(_read(where, wanted), where)
    kept, removed = _select(items, wanted)
    if removed:
        logger.info("%s: %d items seen; on the client, %s", shown(where), len(items), _counted(removed))
    if not kept:
        raise EmptySearchError(_nothing_fits(where, len(items), removed))
    return sorted(kept, key=lambda item: (_moment(item), item.id))


def _locate(catalog: str | Path, collection: str | None) -> tuple[str, str | None]:
    """Absolute path or URL, and the collection, by default that of a known source."""
    text = str(catalog)
    source = SOURCES.get(text) if isinstance(catalog, str) else None
    if source is None and is_url(text):
        source = next((known for known in SOURCES.values() if known.url == text.rstrip("/")), None)
    if source is not None:
        return source.url, collection or source.collection
    where = locate(text)
    looks_like_a_name = isinstance(catalog, str) and not re.search(r"[./\\]", text)
    if looks_like_a_name and not is_url(where) and not Path(where).exists():
        near = difflib.get_close_matches(text, SOURCES, n=1, cutoff=0.5)
        guess = f" Did you mean {near[0]!r}?" if near else ""
        raise SearchError(
            f"catalog {text!r} is neither a known source nor a file.{guess} "
            f"Known sources: {', '.join(SOURCES)}; the path or URL of a catalog is accepted too."
        )
    return where, collection


def _read(where: str, wanted: Wanted) -> Iterator[pystac.Item]:
    """Items of any source, before the predicates; an API has applied what it can, a file nothing."""
    with web_session() as web:
        if is_parquet(where):
            yield from parquet_items(where, web)
            return
        document = read_json(where, web)
        if "conformsTo" in document and is_url(where):
            yield from api_items(Api(document, where, web), wanted)
        else:
            yield from linked_items(document, where, web)


def _unique(items: Iterable[pystac.Item], where: str) -> list[pystac.Item]:
    """Keep the first of items with the same collection and id; pages of a server may overlap."""
    found: dict[tuple[str | None, str], pystac.Item] = {}
    seen = 0
    for item in items:
        seen += 1
        found.setdefault((item.collection_id, item.id), item)
    if seen > len(found):
        logger.info("%s: %d items came more than once and are kept once", shown(where), seen - len(found))
    return list(found.values())


def _select(items: list[pystac.Item], wanted: Wanted) -> tuple[list[pystac.Item], Counter[str]]:
    """Items that fit, and how many others failed which predicate first."""
    predicates = _predicates(wanted)
    removed = Counter({reason: 0 for reason, _ in predicates})
    kept = []
    for item in items:
        failed = next((reason for reason, fits in predicates if not fits(item)), None)
        if failed is None:
            kept.append(item)
        else:
            removed[failed] += 1
    return kept, Counter({reason: number for reason, number in removed.items() if number})


def _predicates(wanted: Wanted) -> list[tuple[str, Callable[[pystac.Item], bool]]]:
    """List the tests in order of application, each with what an item that fails it is."""
    tests: list[tuple[str, Callable[[pystac.Item], bool]]] = []
    if (collection := wanted.collection) is not None:
        tests.append((f"not of collection {collection}", lambda item: item.collection_id == collection))
    if wanted.aoi is not None:
        shapely.prepare(wanted.aoi.geometry)
        tests.append((f"outside the region {wanted.aoi.source}", partial(_overlaps, wanted.aoi)))
    if (interval := wanted.interval) is not None:
        tests.append((f"outside the dates {wanted.dates}", lambda item: _moment(item) in interval))
    if (limit := wanted.cloud_cover) is not None:
        tests.append(("without eo:cloud_cover", lambda item: _cloud_cover(item) is not None))
        tests.append((f"above {limit:g} % cloud cover", lambda item: (_cloud_cover(item) or 0.0) <= limit))
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


def _moment(item: pystac.Item) -> dt.datetime:
    moment = item.datetime or item.common_metadata.start_datetime
    if moment is None:
        raise SearchError(
            f"item {item.id} has neither datetime nor start_datetime: when is it? Correct it or leave it out."
        )
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=dt.UTC)


def _cloud_cover(item: pystac.Item) -> float | None:
    """Percent, or None when it is absent, null or not a number."""
    value = item.properties.get("eo:cloud_cover")
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _overlaps(aoi: Aoi, item: pystac.Item) -> bool:
    """Whether the footprint shares area, not only an edge, with the AOI (prepared)."""
    ground = footprint(item)
    # DE-9IM: the interiors meet in an area (2).
    return aoi.geometry.intersects(ground) and aoi.geometry.relate_pattern(ground, "2********")


def footprint(item: pystac.Item) -> BaseGeometry:
    """Where an item says it has data, lon/lat, split at the antimeridian. Raises SearchError if it does not say."""
    try:
        if item.geometry is not None:
            geometry = shapely.force_2d(shape(item.geometry))
        elif item.bbox is not None:
            half = len(item.bbox) // 2  # six numbers when heights are given
            return parse_bbox([item.bbox[at] for at in (0, 1, half, half + 1)]).geometry
        else:
            raise SearchError(
                f"item {item.id} has neither geometry nor bbox: where is it? Correct it or leave it out."
            )
    except (
        ConfigError,
        TypeError,
        ValueError,
        LookupError,
        AttributeError,
        shapely.errors.ShapelyError,
    ) as error:
        raise SearchError(
            f"item {item.id}: its geometry or bbox is not one ({error}). Correct it or leave it out."
        ) from error
    try:
        return split_antimeridian(geometry)
    except ValueError:
        # Some real footprints touch themselves; their area is still meant.
        return shapely.MultiPolygon(polygons_of(shapely.make_valid(geometry)))
