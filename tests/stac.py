"""Small STAC documents for tests, and a STAC API over HTTP that answers as a test wants."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

import services
from ndvi_scale.aoi import parse_bbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pystac
    import pytest

Json = dict[str, Any]
COLLECTION = "sentinel-2-l2a"
HOME = parse_bbox("1,43,2,44")


def utc(*parts: int) -> dt.datetime:
    return dt.datetime(*parts, tzinfo=dt.UTC)  # type: ignore[misc,arg-type]


def box(west: float, south: float, east: float, north: float) -> Json:
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {"type": "Polygon", "coordinates": [ring]}


def item(number: int, **changes: Any) -> Json:
    """An item of day `number` of June 2023 over HOME, with `number` percent of cloud."""
    properties = {"datetime": f"2023-06-{number:02}T10:50:00.024Z", "eo:cloud_cover": float(number)}
    whole: Json = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [],
        "id": f"S2A_31TCJ_202306{number:02}_0_L2A",
        "collection": COLLECTION,
        "geometry": box(1.0, 43.0, 2.0, 44.0),
        "bbox": [1.0, 43.0, 2.0, 44.0],
        "properties": properties | changes.pop("properties", {}),
        "links": [],
        "assets": {"red": {"href": f"./{number}/red.tif"}},
    }
    return whole | changes


def write(path: Path, document: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def collection_of(*items: Json) -> Json:
    return {"type": "FeatureCollection", "features": list(items)}


def days(items: list[pystac.Item]) -> list[int]:
    return [int(found.id[16:18]) for found in items]


def says(error: pytest.ExceptionInfo[Exception], *parts: str) -> None:
    assert all(part in str(error.value) for part in parts), str(error.value)


def static_catalog(folder: Path) -> Path:
    """A catalog with a collection, an item beside the collection, an item below, and links in a circle."""
    link = {"rel": "item", "href": "./a/1.json"}
    child = {
        "type": "Collection",
        "id": COLLECTION,
        "stac_version": "1.0.0",
        "links": [link, {"rel": "item", "href": "2.json"}, {"rel": "child", "href": "../catalog.json"}],
    }
    root = {"type": "Catalog", "id": "root", "stac_version": "1.0.0", "links": []}
    root["links"] = [
        {"rel": "self", "href": "./catalog.json"},
        {"rel": "child", "href": "./s2/collection.json"},
    ]
    write(folder / "s2" / "collection.json", child)
    write(folder / "s2" / "a" / "1.json", item(1, links=[{"rel": "collection", "href": "../collection.json"}]))
    write(folder / "s2" / "2.json", item(2, assets={"red": {"href": "s3://bucket/2.tif"}}))
    return write(folder / "catalog.json", root)


class ScriptedApi:
    """A STAC API over HTTP whose every answer is a function of (path, body); it keeps what it was asked."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: list[tuple[str, str, Any]] = []
        self.conforms = ["https://api.stacspec.org/v1.0.0/item-search"]
        self.methods = ["GET", "POST"]
        self.collections = [COLLECTION]
        self.search: Callable[[Json], Any] = lambda _: collection_of(*(item(day) for day in range(1, 6)))
        self.other: dict[str, Any] = {}

    def answer(self, path: str, body: Json) -> Any:
        if path in self.other:
            return self.other[path]
        if path == "/search":
            return self.search(body)
        if path == "/collections":
            return {"collections": [{"id": name} for name in self.collections], "links": []}
        links = [{"rel": "search", "href": f"{self.url}/search", "method": name} for name in self.methods]
        return {
            "type": "Catalog",
            "id": "scripted",
            "stac_version": "1.0.0",
            "description": "",
            "conformsTo": self.conforms,
            "links": [*links, {"rel": "data", "href": "./collections"}],
        }

    @property
    def bodies(self) -> list[Any]:
        return [body for _, path, body in self.asked if path.startswith("/search")]


class _Handler(BaseHTTPRequestHandler):
    api: ScriptedApi

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def do_GET(self) -> None:
        self._answer({})

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name in the base class)
        pass

    def _answer(self, body: Json) -> None:
        self.api.asked.append((self.command, self.path, body))
        answer = self.api.answer(self.path.partition("?")[0], body)
        status, text = answer if isinstance(answer, tuple) else (200, json.dumps(answer))
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())


@contextlib.contextmanager
def scripted_api() -> Iterator[ScriptedApi]:
    handler = type("Handler", (_Handler,), {})
    with services.serving(handler) as url:
        handler.api = ScriptedApi(url)
        yield handler.api
