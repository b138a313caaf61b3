"""AOI, dates and limits become items: from a STAC API, a static catalog, a saved search or stac-geoparquet.

`search_items`: where it is (`_locate`), raw items (`_walk` or `_api_items`), `pystac.Item`, predicates.
Whatever a server has applied, the same predicates are applied again here, so that every source agrees.
Items stay as their provider wrote them (no migration); only hrefs are made absolute.
"""

from __future__ import annotations

import datetime as dt
import difflib
import json
import logging
import math
import os
import re
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit, urlunsplit
from urllib.request import url2pathname

import pystac
import shapely
from pystac.errors import STACError
from shapely.geometry import shape

from ndvi_scale.aoi import parse_bbox, polygons_of, split_antimeridian
from ndvi_scale.errors import ConfigError, EmptySearchError, SearchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pystac_client.stac_api_io import StacApiIO
    from shapely.geometry.base import BaseGeometry

    from ndvi_scale.aoi import Aoi

logger = logging.getLogger(__name__)

Json = dict[str, Any]

_TIMEOUT_S = (10.0, 60.0)  # to connect, to the next byte: a page of 100 items takes seconds to compute
_RETRIES = 3
_PAGE_ITEMS = 100  # an Earth Search item is about 30 kB, and its answers end at 6 MB
_READS_AT_ONCE = 16  # item files of a static catalog; each is one round trip
_PARQUET = (".parquet", ".geoparquet")
_SENTINEL2_L2A = re.compile(r"s(entinel)?-?s?-?2.*l2a", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """A public STAC API known by name."""

    url: str
    """The landing page."""
    collection: str
    """The collection searched when none is given."""
    description: str


SOURCES: dict[str, Source] = {
    "earth-search": Source(
        url="https://earth-search.aws.element84.com/v1",
        collection="sentinel-2-l2a",
        description="Earth Search by Element 84: Sentinel-2 L2A as COGs on AWS, no account",
    ),
}


@dataclass(frozen=True)
class Interval:
    """A stretch of time; both ends are aware, in UTC, and None where open."""

    start: dt.datetime | None
    """The first moment in it."""
    end: dt.datetime | None
    """The first moment after it: exclusive."""

    def __contains__(self, moment: dt.datetime) -> bool:
        """Whether an aware moment lies in it."""
        return (self.start is None or self.start <= moment) and (self.end is None or moment < self.end)


_DATE = re.compile(r"([0-9]{4})(?:-([0-9]{2})(?:-([0-9]{2}))?)?")
_INSTANT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})")


def parse_interval(text: str) -> Interval:
    """Read a STAC datetime: an instant, a year, month or day, or two of them as "A/B", ".." being open.

    An end that is a year, month or day is whole. Raises ConfigError.
    """
    parts = [part.strip() for part in text.split("/")]
    if len(parts) > 2:
        raise ConfigError(f"datetime {text!r}: an interval has one '/'. Write A/B, for example 2023-06/2023-08.")
    open_ends = [part in {"", ".."} for part in parts]
    if all(open_ends):
        raise ConfigError(f"datetime {text!r}: one end must be given. Leave datetime out to search all dates.")
    start = None if open_ends[0] else _span(parts[0], text)[0]
    end = None if open_ends[-1] else _span(parts[-1], text)[1]
    if start is not None and end is not None and start >= end:
        raise ConfigError(f"datetime {text!r}: {parts[0]} is after {parts[-1]}. Swap them: the earlier is first.")
    return Interval(start, end)


def _span(part: str, text: str) -> tuple[dt.datetime, dt.datetime | None]:
    """First moment in and first moment after a date or an instant (which lasts a microsecond)."""
    date = _DATE.fullmatch(part)
    try:
        if date is not None:
            return _date_span(*(int(number) if number else None for number in date.groups()))
        if _INSTANT.fullmatch(part.upper()):
            start = dt.datetime.fromisoformat(part.upper()).astimezone(dt.UTC)
            return start, start + dt.timedelta(microseconds=1)
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"datetime {text!r}: {part} does not exist ({error}). Correct the date.") from error
    raise ConfigError(
        f"datetime {text!r}: {part!r} is neither a date nor an RFC 3339 instant. "
        "Write 2023, 2023-06, 2023-06-01 or 2023-06-01T10:50:00Z (with Z or an offset)."
    )


def _date_span(year: int | None, month: int | None, day: int | None) -> tuple[dt.datetime, dt.datetime | None]:
    start = dt.datetime(year or 0, 1 if month is None else month, 1 if day is None else day, tzinfo=dt.UTC)
    try:
        if day is not None:
            return start, start + dt.timedelta(days=1)
        months = start.year * 12 + start.month - 1 + (12 if month is None else 1)
        return start, start.replace(year=months // 12, month=months % 12 + 1)
    except (ValueError, OverflowError):
        return start, None  # the end of year 9999 is the end of time here


@dataclass(frozen=True)
class _Wanted:
    """What an item must fulfil; None asks for nothing."""

    aoi: Aoi | None
    interval: Interval | None
    cloud_cover: float | None
    collection: str | None
    dates: str | None = None
    """The interval as the user wrote it, for messages."""

    def predicates(self) -> list[tuple[str, Callable[[pystac.Item], bool]]]:
        """List the tests in order of application, each with what an item that fails it is."""
        tests: list[tuple[str, Callable[[pystac.Item], bool]]] = []
        if (collection := self.collection) is not None:
            tests.append((f"not of collection {collection}", lambda item: item.collection_id == collection))
        if self.aoi is not None:
            shapely.prepare(self.aoi.geometry)
            tests.append((f"outside the region {self.aoi.source}", partial(_overlaps, self.aoi)))
        if (interval := self.interval) is not None:
            tests.append((f"outside the dates {self.dates}", lambda item: _moment(item) in interval))
        if (limit := self.cloud_cover) is not None:
            tests.append(("without eo:cloud_cover", lambda item: _cloud_cover(item) is not None))
            tests.append((f"above {limit:g} % cloud cover", lambda item: (_cloud_cover(item) or 0.0) <= limit))
        return tests


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
    if cloud_cover is not None and not 0 <= cloud_cover <= 100:
        raise ConfigError(f"cloud_cover {cloud_cover}: it is a percentage. Give a number from 0 to 100.")
    interval = None if datetime is None else parse_interval(datetime)
    where, collection = _locate(catalog, collection)
    wanted = _Wanted(aoi, interval, cloud_cover, collection, dates=datetime)
    items = _unique(_read_catalog(where, wanted), where)
    kept, removed = _select(items, wanted)
    if removed:
        logger.info("%s: %d items seen; on the client, %s", _shown(where), len(items), _counted(removed))
    if not kept:
        raise EmptySearchError(_nothing_fits(where, len(items), removed))
    return sorted(kept, key=lambda item: (_moment(item), item.id))


def _locate(catalog: str | Path, collection: str | None) -> tuple[str, str | None]:
    """Absolute path or URL, and the collection, by default that of a known source."""
    text = str(catalog)
    source = SOURCES.get(text) if isinstance(catalog, str) else None
    if source is None and _is_url(text):
        source = next((known for known in SOURCES.values() if known.url == text.rstrip("/")), None)
    if source is not None:
        return source.url, collection or source.collection
    scheme = urlsplit(text).scheme
    if _is_url(text):
        return text, collection
    if scheme == "file":
        return url2pathname(urlsplit(text).path), collection
    if "://" in text:
        raise SearchError(
            f"{_shown(text)}: a catalog is read over http(s) or from a path, not {scheme}. Download it first."
        )
    if not Path(text).exists() and isinstance(catalog, str) and not re.search(r"[./\\]", text):
        near = difflib.get_close_matches(text, SOURCES, n=1, cutoff=0.5)
        guess = f" Did you mean {near[0]!r}?" if near else ""
        raise SearchError(
            f"catalog {text!r} is neither a known source nor a file.{guess} "
            f"Known sources: {', '.join(SOURCES)}; the path or URL of a catalog is accepted too."
        )
    return os.path.abspath(text), collection


def _read_catalog(where: str, wanted: _Wanted) -> Iterator[pystac.Item]:
    with _web() as web:
        if urlsplit(where).path.endswith(_PARQUET):
            yield from (_to_item(feature, where) for feature in _read_parquet(where, web))
            return
        read = partial(_read_json, web=web)
        document = read(where)
        if "conformsTo" in document and _is_url(where):
            yield from _api_items(_Api(document, where, web), wanted)
        else:
            yield from _walk(document, where, read)


def _unique(items: Iterable[pystac.Item], where: str) -> list[pystac.Item]:
    """Keep the first of items with the same collection and id; pages of a server may overlap."""
    found: dict[tuple[str | None, str], pystac.Item] = {}
    seen = 0
    for item in items:
        seen += 1
        found.setdefault((item.collection_id, item.id), item)
    if seen > len(found):
        logger.info("%s: %d items came more than once and are kept once", _shown(where), seen - len(found))
    return list(found.values())


def _select(items: list[pystac.Item], wanted: _Wanted) -> tuple[list[pystac.Item], Counter[str]]:
    """Items that fit, and how many others failed which predicate first."""
    predicates = wanted.predicates()
    removed = Counter({reason: 0 for reason, _ in predicates})
    kept = []
    for item in items:
        failed = next((reason for reason, fits in predicates if not fits(item)), None)
        if failed is None:
            kept.append(item)
        else:
            removed[failed] += 1
    return kept, Counter({reason: number for reason, number in removed.items() if number})


def _counted(removed: Counter[str]) -> str:
    return ", ".join(f"{number} {reason}" for reason, number in removed.items())


def _nothing_fits(where: str, seen: int, removed: Counter[str]) -> str:
    if not seen:
        return (
            f"{_shown(where)}: no item came back for this region, dates, limits and collection: "
            "it holds none. Widen one of them, or use a catalog that covers the region."
        )
    last = list(removed)[-1]
    return (
        f"{_shown(where)}: no item fits. {seen} items in the catalog; {_counted(removed)}. "
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
    footprint = _footprint(item)
    # DE-9IM: the interiors meet in an area (2).
    return aoi.geometry.intersects(footprint) and aoi.geometry.relate_pattern(footprint, "2********")


def _footprint(item: pystac.Item) -> BaseGeometry:
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


# Files, and URLs that are files


def _is_url(href: str) -> bool:
    return urlsplit(href).scheme.lower() in {"http", "https"}


def _shown(href: str) -> str:
    """Strip what may be secret from a URL: user, password, query; a path stays."""
    if "://" not in href:
        return href
    parts = urlsplit(href)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _absolute(href: str, base: str) -> str:
    """`href` as seen from the file or page `base`."""
    if _is_url(base):
        return urljoin(base, href)
    if "://" in href or os.path.isabs(href):
        return href
    return os.path.normpath(os.path.join(os.path.dirname(base), href))


def _read_json(href: str, *, web: StacApiIO) -> Json:
    """Read a JSON object from a path or URL; every failure is a SearchError."""
    with _answers(href):
        document = json.loads(web.request(href) if _is_url(href) else Path(href).read_text(encoding="utf-8"))
        if not isinstance(document, dict):
            raise SearchError(
                f"{_shown(href)}: not STAC but a JSON {type(document).__name__}. "
                "Give a catalog, collection, item or item collection."
            )
        return document


def _read_parquet(href: str, web: StacApiIO) -> list[Json]:
    import rustac

    with tempfile.TemporaryDirectory() as folder:
        file = _download(href, web, Path(folder)) if _is_url(href) else Path(href)
        try:
            document = rustac.read_sync(str(file), format="parquet", set_self_link=False)
        except rustac.RustacError as error:
            raise SearchError(
                f"{_shown(href)}: cannot be read as stac-geoparquet ({error}). "
                "Check the address, or give the JSON items."
            ) from error
    return list(document["features"])


def _download(href: str, web: StacApiIO, folder: Path) -> Path:
    """Fetch a file whole; rustac itself would drop a signature in the query, and has no time-out of ours."""
    from pystac_client.exceptions import APIError

    file = folder / "items.parquet"
    with _answers(href):
        answer = web.session.get(href, timeout=_TIMEOUT_S)
        if not answer.ok:
            raise APIError.from_response(answer)
        file.write_bytes(answer.content)
    return file


def _walk(document: Json, base: str, read: Callable[[str], Json]) -> Iterator[pystac.Item]:
    """All items below a document, level by level; a file is read once, even if links go in circles."""
    level, seen = [(document, base)], {base}
    with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
        while level:
            linked: dict[str, None] = {}
            for found, where in level:
                if found.get("type") == "Feature":
                    yield _to_item(found, where, own_file=True)
                elif found.get("type") == "FeatureCollection":
                    yield from (_to_item(feature, where) for feature in _features(found, where))
                else:
                    linked.update(dict.fromkeys(_children(found, where)))
            hrefs = [href for href in linked if href not in seen]
            seen.update(hrefs)
            level = list(zip(pool.map(read, hrefs), hrefs, strict=True))


def _features(collection: Json, where: str) -> list[Json]:
    features = collection.get("features")
    if not isinstance(features, list):
        raise SearchError(f"{_shown(where)}: an item collection needs a list of features. Write it again.")
    if any(link.get("rel") == "next" for link in _links(collection, where)):
        if _is_url(where):
            raise SearchError(
                f"{_shown(where)}: one page of a search, and there may be more. "
                "Give the URL of the API's landing page, and the region and dates as parameters."
            )
        # Earth Search links a next page even from the last one: for a recorded page no proof of a gap.
        logger.warning("%s: one page of a search, with a next link that is not followed", where)
    return features


def _children(document: Json, where: str) -> list[str]:
    """Absolute hrefs of the children and items of a catalog or collection."""
    if "links" not in document or "stac_version" not in document:
        raise SearchError(
            f"{_shown(where)}: not STAC (type {document.get('type')!r}). "
            "Give a catalog, collection, item or item collection."
        )
    links = _links(document, where)
    hrefs = [link["href"] for link in links if link.get("rel") in {"child", "item"}]
    served = "conformsTo" in document or any(link.get("rel") == "items" for link in links)
    if served and ("conformsTo" in document or not hrefs):
        raise SearchError(
            f"{_shown(where)}: this is a page of a STAC API, and its items are not linked from it. "
            "Give the URL of the API's landing page, and the collection by its id."
        )
    return hrefs


def _links(document: Json, where: str) -> list[Json]:
    """Links of any STAC document, with absolute hrefs."""
    with _answers(where):
        return [{**link, "href": _absolute(link["href"], where)} for link in document.get("links") or []]


def _to_item(feature: Json, base: str, *, own_file: bool = False) -> pystac.Item:
    """Make the item and its absolute hrefs; `base` is where it was read, its self link if `own_file`."""
    try:
        assets = {
            key: {**asset, "href": _absolute(asset["href"], base)} for key, asset in feature["assets"].items()
        }
        # pystac fetches a linked root by itself (in to_dict, get_self_href, …), without any time-out.
        dropped = {"root", "parent", "self"} if own_file else {"root", "parent"}
        links = [link for link in _links(feature, base) if link.get("rel") not in dropped]
        links += [{"rel": "self", "href": base}] if own_file else []
        bbox = list(feature["bbox"]) if feature.get("bbox") else None
        whole = {**feature, "links": links, "assets": assets, "bbox": bbox}
        return pystac.Item.from_dict(whole, migrate=False, preserve_dict=True)
    except (STACError, KeyError, TypeError, ValueError, AttributeError) as error:
        name = feature.get("id") if isinstance(feature, dict) else feature
        raise SearchError(
            f"{_shown(base)}: {name!r} is not a STAC item ({type(error).__name__}: {error}). "
            "Correct it or leave it out."
        ) from error


# STAC APIs


@dataclass(frozen=True)
class _Api:
    landing: Json
    url: str
    web: StacApiIO

    def conforms(self, conformance: str) -> bool:
        """Whether the landing page declares an item-search extension, in any version."""
        return any(str(uri).endswith(f"/item-search#{conformance}") for uri in self.landing["conformsTo"] or [])

    def links(self, rel: str) -> list[Json]:
        """Links of one relation, absolute."""
        return [link for link in _links(self.landing, self.url) if link.get("rel") == rel]

    def pages(self, href: str, method: str = "GET", parameters: Json | None = None) -> Iterator[Json]:
        """Pages of an endpoint, next links followed; ends at an empty one."""
        pages = self.web.get_pages(href, method, parameters)
        while True:
            with _answers(href):
                page = next(pages, None)
            if page is None:
                return
            yield page


@contextmanager
def _web() -> Iterator[StacApiIO]:
    """One HTTP session with time-outs and retries, closed at the end."""
    from pystac_client.stac_api_io import StacApiIO
    from urllib3 import Retry

    retry = Retry(
        total=_RETRIES,
        backoff_factor=0.5,
        status_forcelist=(429, 502, 503, 504),
        allowed_methods=None,  # a search is a POST that changes nothing
        raise_on_status=False,
    )
    web = StacApiIO(timeout=_TIMEOUT_S, max_retries=retry)
    retries = logging.getLogger("urllib3.connectionpool")
    retries.addFilter(_without_queries)
    try:
        yield web
    finally:
        retries.removeFilter(_without_queries)
        web.session.close()


def _without_queries(record: logging.LogRecord) -> bool:
    """Cut query strings from urllib3's notes on retries: they may hold a signature."""
    if isinstance(record.args, tuple):
        record.args = tuple(value.partition("?")[0] if isinstance(value, str) else value for value in record.args)
    return True


@contextmanager
def _answers(href: str) -> Iterator[None]:
    """Tell every way in which a file or a server does not answer as one SearchError, without secrets."""
    from pystac_client.exceptions import APIError

    try:
        yield
    except (APIError, OSError) as error:
        if _is_url(href):
            raise SearchError(f"{_shown(href)}: {_network_failure(error)}") from None
        why = error.strerror if isinstance(error, OSError) else error
        raise SearchError(f"{href}: cannot be read ({why}). Check the path, and the links to it.") from error
    except ValueError as error:  # JSON and UTF-8 alike
        raise SearchError(
            f"{_shown(href)}: not JSON ({error}). Give the JSON of a catalog, not a web page."
        ) from None
    except (KeyError, TypeError, AttributeError) as error:
        raise SearchError(
            f"{_shown(href)}: does not answer as STAC ({type(error).__name__}: {error}). Check the address."
        ) from None


def _network_failure(error: Exception) -> str:
    """Say what went wrong and what to do; never the text of the error, which holds the whole URL."""
    status = getattr(error, "status_code", None)
    if status in {401, 403}:
        return f"HTTP {status}, access denied. Check the credentials, or sign the URL again."
    if status == 404:
        return "HTTP 404, not found. Check the address and the collection."
    if status is not None and status < 500:
        return f"HTTP {status}: the server refuses the request. Check the address, region and dates."
    if status is not None:
        return f"HTTP {status}: the server fails, also after {_RETRIES} retries. Try again later."
    cause = error if isinstance(error, OSError) else error.__context__ or error
    if "timed out" in str(cause).lower():
        return f"timed out after {_TIMEOUT_S[1]:g} s, {_RETRIES} times again. Try later, or ask for less."
    return f"cannot be reached ({type(cause).__name__}). Check the address and the network."


def _api_items(api: _Api, wanted: _Wanted) -> Iterator[pystac.Item]:
    """Items of a search; ends when a page brings nothing new, as some servers link on for ever."""
    endpoints = api.links("search")
    if not endpoints:
        raise SearchError(
            f"{_shown(api.url)}: this STAC API links no item search. Give another API, or saved items."
        )
    post = [link for link in endpoints if link.get("method", "POST").upper() == "POST"]
    collection = wanted.collection or _only_collection(api)
    parameters = _parameters(api, wanted, collection)
    href, method = (post or endpoints)[0]["href"], "POST" if post else "GET"
    seen: set[tuple[Any, Any]] = set()
    for page in api.pages(href, method, parameters if post else _in_query_string(parameters)):
        with _answers(href):
            keys = {(feature.get("collection"), feature.get("id")) for feature in page["features"]}
        if keys <= seen:
            logger.info("%s: a page without new items ends the search", _shown(api.url))
            break
        seen |= keys
        for feature in page["features"]:
            own = [link["href"] for link in _links(feature, href) if link.get("rel") == "self"]
            yield _to_item(feature, own[0] if own else href)
    if not seen and collection not in (offered := _collections(api)):
        raise SearchError(f"{_shown(api.url)}: there is no collection {collection!r}. {_offer(offered)}")


def _parameters(api: _Api, wanted: _Wanted, collection: str) -> Json:
    """Body of the search: what the server can apply."""
    parameters: Json = {"collections": [collection], "limit": _PAGE_ITEMS}
    if wanted.aoi is not None and wanted.aoi.is_box:
        parameters["bbox"] = list(wanted.aoi.bbox)
    elif wanted.aoi is not None:
        parameters["intersects"] = wanted.aoi.to_geojson()
    if wanted.interval is not None:
        parameters["datetime"] = _closed(wanted.interval)
    if wanted.cloud_cover is not None:
        parameters |= _cloud_parameters(api, wanted.cloud_cover)
    return parameters


def _cloud_parameters(api: _Api, limit: float) -> Json:
    if api.conforms("query"):
        return {"query": {"eo:cloud_cover": {"lte": limit}}}
    if api.conforms("filter"):
        comparison = {"op": "<=", "args": [{"property": "eo:cloud_cover"}, limit]}
        return {"filter-lang": "cql2-json", "filter": comparison}
    logger.info(
        "%s declares neither query nor filter: cloud cover <= %g %% is applied on the client",
        _shown(api.url),
        limit,
    )
    return {}


def _closed(interval: Interval) -> str:
    """Write it as servers know it: whole seconds, both ends inclusive, so at times a little wider."""
    start = interval.start and interval.start.replace(microsecond=0)
    end = interval.end and (interval.end + dt.timedelta(microseconds=999_999)).replace(microsecond=0)
    return "/".join(
        ".." if moment is None else moment.isoformat().replace("+00:00", "Z") for moment in (start, end)
    )


def _in_query_string(parameters: Json) -> Json:
    """Parameters of a GET, as the STAC API specification writes them."""
    listed = {key: ",".join(map(str, value)) for key, value in parameters.items() if isinstance(value, list)}
    nested = {key: json.dumps(value) for key, value in parameters.items() if isinstance(value, dict)}
    return parameters | listed | nested


def _collections(api: _Api) -> list[str]:
    data = api.links("data") or [{"href": api.url.rstrip("/") + "/collections"}]
    pages = api.pages(data[0]["href"])
    return [str(collection.get("id")) for page in pages for collection in page.get("collections") or []]


def _only_collection(api: _Api) -> str:
    offered = _collections(api)
    if len(offered) == 1:
        return offered[0]
    raise SearchError(
        f"{_shown(api.url)}: a collection must be given, as this API offers {len(offered)}. {_offer(offered)}"
    )


def _offer(offered: list[str]) -> str:
    likely = [name for name in offered if _SENTINEL2_L2A.search(name)]
    if likely:
        return f"Give one that looks like Sentinel-2 L2A: {', '.join(likely)}."
    return f"None looks like Sentinel-2 L2A; it offers {', '.join(offered[:10]) or 'none'}. Give one of these."


# Saved searches


def save_items(items: Iterable[pystac.Item], path: str | Path) -> None:
    """Write an item collection (.json, .geojson) or stac-geoparquet (.parquet).

    Asset hrefs are absolute, but relative for files below the folder of `path`, so that it can move whole.
    Raises ConfigError for another extension, SearchError when Parquet cannot hold the items.
    """
    path = Path(path)
    features = [_portable(item, path) for item in items]
    if path.suffix in {".json", ".geojson"}:
        collection = {"type": "FeatureCollection", "features": features}
        path.write_text(json.dumps(collection), encoding="utf-8")
    elif path.suffix in _PARQUET:
        _write_parquet(features, path)
    else:
        raise ConfigError(f"{path}: items are saved as .json, .geojson or .parquet. Give one of these extensions.")


def _write_parquet(features: list[Json], path: Path) -> None:
    import rustac

    try:
        rustac.write_sync(str(path), features, format="parquet")
    except rustac.RustacError as error:
        raise SearchError(
            f"{path}: {len(features)} items cannot be written as stac-geoparquet ({error}). Save them as .geojson."
        ) from error


def _portable(item: pystac.Item, path: Path) -> Json:
    feature = item.to_dict(include_self_link=True, transform_hrefs=False)
    # Links to files of a catalog say nothing where this file will be read.
    feature["links"] = [link for link in feature["links"] if _is_url(str(link["href"]))]
    folder = Path(os.path.abspath(path)).parent
    for key, asset in item.assets.items():
        href = asset.get_absolute_href() or asset.href
        if "://" not in href and Path(href).is_relative_to(folder):
            href = f"./{Path(href).relative_to(folder).as_posix()}"
        feature["assets"][key]["href"] = href
    return feature


def load_items(path: str | Path) -> list[pystac.Item]:
    """Read what `save_items` wrote, in its order, or any item collection or item. Raises SearchError."""
    where, _ = _locate(Path(path), None)
    return list(_read_catalog(where, _Wanted(None, None, None, None)))
