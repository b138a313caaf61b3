"""Items of what can be read as a file, from a path or URL: a catalog, its items, an item collection, Parquet.

Items stay as their provider wrote them (no migration); only hrefs are made absolute. Every failure is one
SearchError that says what to do and shows no secret of a URL.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit
from urllib.request import url2pathname

import pystac
from pystac.errors import STACError, STACTypeError

from ndvi_scale.errors import SearchError
from ndvi_scale.hrefs import is_remote, refusal, refused_asset, unsigned
from ndvi_scale.web import TIMEOUT_S, answers, is_url, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pystac_client.stac_api_io import StacApiIO

logger = logging.getLogger(__name__)

Json = dict[str, Any]

PARQUET = (".parquet", ".geoparquet")
_MAX_DEPTH = 100  # real items nest some ten deep; what copies and writes them does so recursively
_ROWS_AT_ONCE = 1000  # items of a Parquet file that are held at once
_READS_AT_ONCE = 16  # item files of a static catalog; each is one round trip


# Where it is


def locate(text: str) -> str:
    """Absolute path, or URL as it is; a file: URL becomes its path. Raises SearchError."""
    try:
        scheme = urlsplit(text).scheme
    except ValueError as error:
        raise SearchError(f"{shown(text)}: no URL ({error}). Write it like https://host/path.") from None
    if is_url(text):
        return text
    if scheme == "file":
        return url2pathname(urlsplit(text).path)
    if "://" in text:
        raise SearchError(
            f"{shown(text)}: a catalog is read over http(s) or from a path, not {scheme}. Download it first."
        )
    return absolute_path(text)


def absolute_path(path: str | Path) -> str:
    """Absolute, without "..", and through symlinks as they are written."""
    return os.path.normpath(Path(path).absolute())


def is_parquet(where: str) -> bool:
    """Whether a path or URL, whatever its query, ends like stac-geoparquet."""
    return urlsplit(where).path.endswith(PARQUET)


def absolute_href(href: str, base: str) -> str:
    """`href` as seen from the file or page `base`; an empty one, which points nowhere, stays empty."""
    if not href:
        return href
    if is_url(base):
        return urljoin(base, href)
    if "://" in href or Path(href).is_absolute():
        return href
    return os.path.normpath(Path(base).parent / href)


# Reading


def read_json(href: str, web: StacApiIO) -> Json:
    """Read a JSON object, or a list of items, from a path or URL; every failure is a SearchError."""
    with answers(href):
        document = json.loads(web.request(href) if is_url(href) else Path(href).read_text(encoding="utf-8"))
        if _is_list_of_items(document):
            return {"type": "FeatureCollection", "features": document}
        if not isinstance(document, dict):
            raise SearchError(
                f"{shown(href)}: not STAC but a JSON {type(document).__name__}. "
                "Give a catalog, collection, item or item collection."
            )
        return document


def _is_list_of_items(document: Any) -> bool:
    listed = document if isinstance(document, list) else []
    return bool(listed) and all(isinstance(one, dict) and one.get("type") == "Feature" for one in listed)


def parquet_items(href: str, web: StacApiIO) -> Iterator[pystac.Item]:
    """Items of a stac-geoparquet file, from a path or URL; every failure is a SearchError."""
    with tempfile.TemporaryDirectory() as folder:
        file = _download(href, web, Path(folder)) if is_url(href) else Path(href)
        for feature in _parquet_features(file, href):
            yield to_item(feature, href)


def _parquet_features(file: Path, href: str) -> Iterator[Json]:
    """A part of the file after the other: all items of a hundred thousand would fill gigabytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import rustac

    try:
        with pq.ParquetFile(file) as opened:
            # In this thread, as `planfile` says.
            for part in opened.iter_batches(_ROWS_AT_ONCE, use_threads=False):
                yield from rustac.from_arrow(pa.Table.from_batches([part]))["features"]
    except (rustac.RustacError, pa.ArrowException, OSError) as error:
        raise SearchError(
            f"{shown(href)}: cannot be read as stac-geoparquet ({error}). "
            "Check the address, or give the JSON items."
        ) from error


def _download(href: str, web: StacApiIO, folder: Path) -> Path:
    """Fetch a file whole; rustac itself would drop a signature in the query, and has no time-out of ours."""
    from pystac_client.exceptions import APIError

    file = folder / "items.parquet"
    with answers(href):
        answer = web.session.get(href, timeout=TIMEOUT_S)
        if not answer.ok:
            raise APIError.from_response(answer)
        file.write_bytes(answer.content)
    return file


# Documents


def linked_items(document: Json, base: str, web: StacApiIO) -> Iterator[pystac.Item]:
    """All items below a document, level by level; a file is read once, even if links go in circles."""
    level, seen = [(document, base)], {base}
    with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
        while level:
            linked: dict[str, None] = {}
            for found, where in level:
                if found.get("type") == "Feature":
                    yield to_item(found, where, own_file=True, origin=base)
                elif found.get("type") == "FeatureCollection":
                    yield from (to_item(feature, where, origin=base) for feature in _features(found, where))
                else:
                    linked.update(dict.fromkeys(followed(_children(found, where), where, base)))
            hrefs = [href for href in linked if href not in seen]
            seen.update(hrefs)
            level = list(zip(pool.map(partial(read_json, web=web), hrefs), hrefs, strict=True))


def _features(collection: Json, where: str) -> list[Json]:
    features = collection.get("features")
    if not isinstance(features, list):
        raise SearchError(f"{shown(where)}: an item collection needs a list of features. Write it again.")
    if any(link.get("rel") == "next" for link in links_of(collection, where)):
        if is_url(where):
            raise SearchError(
                f"{shown(where)}: one page of a search, and there may be more. "
                "Give the URL of the API's landing page, and the region and dates as parameters."
            )
        # Earth Search links a next page even from the last one: for a recorded page no proof of a gap.
        logger.warning("%s: one page of a search, with a next link that is not followed", where)
    return features


def _children(document: Json, where: str) -> list[str]:
    """Absolute hrefs of the children and items of a catalog or collection."""
    if "links" not in document or "stac_version" not in document:
        raise SearchError(
            f"{shown(where)}: not STAC (type {document.get('type')!r}). "
            "Give a catalog, collection, item or item collection."
        )
    links = links_of(document, where)
    hrefs = [link["href"] for link in links if link.get("rel") in {"child", "item"}]
    served = "conformsTo" in document or any(link.get("rel") == "items" for link in links)
    if served and ("conformsTo" in document or not hrefs):
        raise SearchError(
            f"{shown(where)}: this is a page of a STAC API, and its items are not linked from it. "
            "Give the URL of the API's landing page, and the collection by its id."
        )
    return hrefs


def followed(hrefs: list[str], where: str, base: str) -> list[str]:
    """The links themselves, once none leads from a remote catalog or API to this machine.

    They stand in the document `where`; the search began at `base`. Raises SearchError.
    """
    remote = is_remote(base) or is_remote(where)
    for href in hrefs:
        if why := refusal(href, remote=remote):
            raise SearchError(f"{shown(where)}: links to {shown(href)}, and {why}. Download the catalog to use it.")
    return hrefs


def links_of(document: Json, where: str) -> list[Json]:
    """Links of any STAC document, with absolute hrefs."""
    with answers(where):
        return [_absolute_link(link, where) for link in document.get("links") or []]


def _absolute_link(link: Json, where: str) -> Json:
    href = link["href"] or ""
    if not isinstance(href, str) or not isinstance(link.get("rel", ""), str):
        raise TypeError("href and rel of a link are text")
    try:
        return {**link, "href": absolute_href(href, where)}
    except ValueError as error:
        raise SearchError(
            f"{shown(where)}: links to {shown(href)}, which is no URL ({error}). Correct it."
        ) from None


def to_item(feature: Json, base: str, *, own_file: bool = False, origin: str = "") -> pystac.Item:
    """Make the item and its absolute, unsigned hrefs; `base` is where it was read, its self link if `own_file`.

    `origin` is the file or server whose word the item is, where that is not `base`. An asset that may not be read
    (see `hrefs.refusal`) keeps no href, but a field that says why.
    """
    try:
        _check_feature(feature)
        remote = is_remote(base) or is_remote(origin)
        assets = {key: _asset(asset, base, remote=remote) for key, asset in feature["assets"].items()}
        # pystac fetches a linked root by itself (in to_dict, get_self_href, …), without any time-out.
        dropped = {"root", "parent", "self"} if own_file else {"root", "parent"}
        links = [link for link in links_of(feature, base) if link.get("rel") not in dropped]
        links += [{"rel": "self", "href": base}] if own_file else []
        bbox = list(feature["bbox"]) if feature.get("bbox") else None
        whole = {**feature, "links": links, "assets": assets, "bbox": bbox}
        return pystac.Item.from_dict(whole, migrate=False, preserve_dict=False)  # `whole` is ours
    except (STACError, STACTypeError, KeyError, TypeError, ValueError, AttributeError) as error:
        name = feature.get("id") if isinstance(feature, dict) else feature
        raise SearchError(
            f"{shown(base)}: {name!r} is not a STAC item ({type(error).__name__}: {error}). "
            "Correct it or leave it out."
        ) from error


def _check_feature(feature: Json) -> None:
    """What pystac takes, and what would fail later without the item's name."""
    _check_id(feature["id"])
    if _is_deeper(feature, _MAX_DEPTH):
        raise ValueError(f"nested more than {_MAX_DEPTH} deep")


def _is_deeper(value: Any, depth: int) -> bool:
    """Whether objects and lists stand in one another more than `depth` times; itself without recursion."""
    level, holders = [value], {dict, list}
    for _ in range(depth):
        level = [
            inner
            for one in level
            for inner in (one.values() if type(one) is dict else one)
            if type(inner) in holders
        ]
        if not level:
            return False
    return True


def _check_id(name: Any) -> None:
    """An id is compared, printed and written to files. Raises ValueError."""
    if not isinstance(name, str):
        raise TypeError(f"its id is a {type(name).__name__}, not text")
    try:
        name.encode()
    except UnicodeEncodeError:  # "\\ud800" is JSON, and no text
        raise ValueError("its id holds half a surrogate pair, which no file can hold") from None


def _asset(asset: Json, base: str, *, remote: bool) -> Json:
    try:
        href = absolute_href(asset["href"], base)
        why = refusal(href, remote=remote)
        return refused_asset(asset, f"{why}: {shown(href)}") if why else {**asset, "href": unsigned(href)}
    except ValueError as error:
        return refused_asset(asset, f"an href is no URL ({error})")
