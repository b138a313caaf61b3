"""Items of a STAC API: one search, with all that the server can apply, page after page."""

from __future__ import annotations

import datetime as dt
import json
import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pystac import Link

from ndvi_scale.catalog import Json, followed, links_of, to_item
from ndvi_scale.errors import SearchError
from ndvi_scale.web import answers, is_url, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pystac
    from pystac_client.stac_api_io import StacApiIO

    from ndvi_scale.aoi import Aoi
    from ndvi_scale.interval import Interval

logger = logging.getLogger(__name__)

_PAGE_ITEMS = 100  # an Earth Search item is about 30 kB, and its answers end at 6 MB
_MAX_PAGES = 5000  # half a million items, more than the whole Earth has in a month
_METHODS = ("GET", "POST")
_SENTINEL2_L2A = re.compile(r"s(entinel)?-?s?-?2.*l2a", re.IGNORECASE)


@dataclass(frozen=True)
class Wanted:
    """What an item must fulfil; None asks for nothing."""

    aoi: Aoi | None
    """The footprint shares area with it."""
    interval: Interval | None
    """The datetime lies in it."""
    cloud_cover: float | None
    """eo:cloud_cover is at most this, in percent."""
    collection: str | None
    """The collection it belongs to."""
    dates: str | None = None
    """The interval as the user wrote it, for messages."""


@dataclass(frozen=True)
class Api:
    """A STAC API, known by its landing page."""

    landing: Json
    """The landing page as it came."""
    url: str
    """Where it came from, as given: relative links start here."""
    web: StacApiIO
    """The session in which the API is asked."""

    def conforms(self, conformance: str) -> bool:
        """Whether the landing page declares an item-search extension, in any version."""
        declared = self.landing["conformsTo"]
        listed = declared if isinstance(declared, list) else []
        return any(str(uri).endswith(f"/item-search#{conformance}") for uri in listed)

    def links(self, rel: str) -> list[Json]:
        """Links of one relation, absolute."""
        return [link for link in links_of(self.landing, self.url) if link.get("rel") == rel]

    def pages(self, href: str, listed: str, method: str = "GET", parameters: Json | None = None) -> Iterator[Json]:
        """Pages of an endpoint, next links followed; ends at one whose list, which it must have, is empty.

        Neither the endpoint nor a next link may lead from a remote API to this machine.
        """
        followed([href], self.url, self.url)
        following: str | Link | None = href
        asked: Json = {"method": method, "parameters": parameters}
        while following is not None:
            with answers(href):
                page = self.web.read_json(following, **asked)
                _check_page(page, listed, href)
                if not page[listed]:
                    return
                links = [link for link in links_of(page, href) if link.get("rel") == "next"]
                following = self._next(links[0], href) if links else None
            asked = {"parameters": parameters}  # what a link with `merge` adds to; the method is the link's
            yield page

    def _next(self, link: Json, where: str) -> Link:
        """What may be asked of a next link: http(s), GET or POST, and no headers but ours."""
        followed([link["href"]], where, self.url)
        method = _method(link, "GET")
        if method not in _METHODS or not is_url(link["href"]):
            raise SearchError(
                f"{shown(where)}: its next page is {link.get('method')!r} {shown(link['href'])}, and only GET and "
                "POST over http(s) are sent. Tell the provider, or give another API."
            )
        return Link.from_dict({key: value for key, value in link.items() if key != "headers"} | {"method": method})


def _method(link: Json, default: str) -> str:
    return str(link.get("method") or default).upper()


def _check_page(page: Any, listed: str, where: str) -> None:
    """Raise SearchError unless the page lists objects: what lists nothing must not pass for an empty search."""
    found = page.get(listed) if isinstance(page, dict) else None
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise SearchError(
            f"{shown(where)}: does not answer as STAC (a page without a list of objects {listed!r}). "
            "Check the address, or try again later."
        )


def api_items(api: Api, wanted: Wanted, collection: str) -> Iterator[pystac.Item]:
    """Items of one search; ends when a page brings nothing new, as some servers link on for ever."""
    href, method, parameters = _request(api, wanted, collection)
    seen: set[tuple[Any, Any]] = set()
    matched = 0
    for number, page in enumerate(api.pages(href, "features", method, parameters)):
        if number == _MAX_PAGES:
            raise SearchError(
                f"{shown(api.url)}: {number} pages with {len(seen)} items, and still a next one: no search has "
                "that many. Ask for fewer days or a smaller region, or tell the provider."
            )
        with answers(href):
            keys = {(feature.get("collection"), feature.get("id")) for feature in page["features"]}
            matched = max(matched, _matched(page))
        if keys <= seen:
            logger.info("%s: a page without new items ends the search", shown(api.url))
            break
        seen |= keys
        for feature in page["features"]:
            own = [link["href"] for link in links_of(feature, href) if link.get("rel") == "self"]
            yield to_item(feature, own[0] if own else href, origin=api.url)
    if matched > len(seen):
        logger.warning(
            "%s: the server counts %d items and gave %d: some may be missing", shown(api.url), matched, len(seen)
        )


def _matched(page: Json) -> int:
    """How many items the server says that the whole search has; 0 where it does not say."""
    count = page.get("numberMatched") or (page.get("context") or {}).get("matched")
    return count if isinstance(count, int) else 0


def _request(api: Api, wanted: Wanted, collection: str) -> tuple[str, str, Json]:
    """Address, method and parameters of the search; POST where both are offered."""
    links = reversed(api.links("search"))  # the first of a method is the one that stays
    endpoints = {method: link["href"] for link in links if (method := _method(link, "POST")) in _METHODS}
    if not endpoints:
        raise SearchError(
            f"{shown(api.url)}: this STAC API links no item search. Give another API, or saved items."
        )
    parameters = _parameters(api, wanted, collection)
    if "POST" in endpoints:
        return endpoints["POST"], "POST", parameters
    return endpoints["GET"], "GET", _in_query_string(parameters)


def _parameters(api: Api, wanted: Wanted, collection: str) -> Json:
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


def _cloud_parameters(api: Api, limit: float) -> Json:
    if api.conforms("query"):
        return {"query": {"eo:cloud_cover": {"lte": limit}}}
    if api.conforms("filter"):
        comparison = {"op": "<=", "args": [{"property": "eo:cloud_cover"}, limit]}
        return {"filter-lang": "cql2-json", "filter": comparison}
    logger.info(
        "%s declares neither query nor filter: cloud cover <= %g %% is applied on the client",
        shown(api.url),
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


def _collections(api: Api) -> list[str]:
    data = api.links("data") or [{"href": api.url.rstrip("/") + "/collections"}]
    pages = api.pages(data[0]["href"], "collections")
    return [str(collection.get("id")) for page in pages for collection in page["collections"]]


def only_collection(api: Api) -> str:
    """The one collection that the API offers. Raises SearchError when there are several, or none."""
    offered = _collections(api)
    if len(offered) == 1:
        return offered[0]
    raise SearchError(
        f"{shown(api.url)}: a collection must be given, as this API offers {len(offered)}. {_offer(offered)}"
    )


def check_collection(api: Api, collection: str) -> None:
    """Raise SearchError, with what is offered, when the API has no such collection."""
    offered = _collections(api)
    if collection not in offered:
        raise SearchError(f"{shown(api.url)}: there is no collection {collection!r}. {_offer(offered)}")


def _offer(offered: list[str]) -> str:
    likely = [name for name in offered if _SENTINEL2_L2A.search(name)]
    if likely:
        return f"Give one that looks like Sentinel-2 L2A: {', '.join(likely)}."
    return f"None looks like Sentinel-2 L2A; it offers {', '.join(offered[:10]) or 'none'}. Give one of these."
