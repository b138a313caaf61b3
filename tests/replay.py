"""The recorded answers of providers, served on loopback as they came: pages, next links, and faults on demand.

A search is answered by the recording whose `*.request.json` asked the same; a page that was never recorded, such
as the one after Earth Search's last, is empty, as the provider's own was. Addresses of the provider in an answer
are this server's; those of assets stay.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import services

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Json = dict[str, Any]

ADDRESSES = {
    "earth-search-v0": "https://earth-search.aws.element84.com/v0",
    "earth-search-v1": "https://earth-search.aws.element84.com/v1",
    "cdse-v1": "https://stac.dataspace.copernicus.eu/v1",
    "planetary-computer": "https://planetarycomputer.microsoft.com/api/stac/v1",
}
DEGREES = 0.005  # recorded boxes of one place differ in the third decimal
EMPTY: Json = {"type": "FeatureCollection", "features": [], "links": []}


@dataclass(frozen=True)
class Fault:
    """What one answer to a search becomes."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None
    """In place of the recorded one."""
    cut: bool = False
    """The body ends half way."""
    stall: float = 0.0
    """Seconds of silence in the middle of the body."""


@dataclass
class Replay:
    """One provider's folder of recordings behind one address."""

    folder: Path
    url: str
    only: str
    """Pattern of the names of recordings that answer searches."""
    faults: list[Fault] = field(default_factory=list)
    """Taken by the next searches, first to last."""
    asked: list[Json] = field(default_factory=list)
    """Bodies of searches, also of those that met a fault."""

    def answer(self, path: str, body: Json) -> tuple[int, Json]:
        if path in {"", "/"}:
            return 200, self._landing()
        if path == "/search":
            return 200, self._page(body)
        parts = path.strip("/").split("/")
        if parts == ["collections"]:
            return 200, self._collections()
        if len(parts) == 3 and parts[0::2] == ["collections", "items"]:
            return 200, self._page({"collections": [parts[1]]} | body)
        return 404, {"code": "NotFound", "description": f"{path} was not recorded"}

    def _landing(self) -> Json:
        recorded = self.folder / "landing.json"
        if recorded.exists():
            return self._read(recorded)
        links = [
            {"rel": "search", "href": f"{self.url}/search", "method": "POST"},
            {"rel": "data", "href": f"{self.url}/collections"},
        ]
        conforms = ["https://api.stacspec.org/v1.0.0-beta.2/item-search"]
        return {"type": "Catalog", "id": "replay", "stac_version": "1.0.0", "conformsTo": conforms, "links": links}

    def _collections(self) -> Json:
        recorded = self.folder / "collections.json"
        if recorded.exists():
            return self._read(recorded) | {"links": []}
        return {"collections": [self._read(path) for path in self.folder.glob("collection_*.json")], "links": []}

    def _page(self, body: Json) -> Json:
        for request in sorted(self.folder.glob(f"{self.only}.request.json")):
            asked = json.loads(request.read_text())
            query = dict(parse_qsl(urlsplit(asked["url"]).query))
            if _same_search(body, (asked["body"] or {}) | query):
                return self._read(request.with_name(request.name.replace(".request", "")))
        return EMPTY

    def _read(self, path: Path) -> Json:
        """A recording with the provider's own address replaced."""
        return json.loads(path.read_text().replace(ADDRESSES[self.folder.name], self.url))


def _same_search(asked: Json, recorded: Json) -> bool:
    if asked.get("next") != recorded.get("next") or asked.get("token") != recorded.get("token"):
        return False
    if _listed(asked.get("collections")) != _listed(recorded.get("collections")):
        return False
    boxes = asked.get("bbox"), recorded.get("bbox")
    if None not in boxes and any(abs(a - b) > DEGREES for a, b in zip(*boxes, strict=True)):
        return False
    dates = asked.get("datetime"), recorded.get("datetime")
    if None in dates:
        return (boxes[0] is None) == (boxes[1] is None) and dates[0] == dates[1]
    pairs = zip(*(map(dt.datetime.fromisoformat, part.split("/")) for part in dates), strict=True)
    return all(abs(a - b) <= dt.timedelta(seconds=1) for a, b in pairs)


def _listed(value: str | list[str] | None) -> list[str]:
    return value.split(",") if isinstance(value, str) else list(value or [])


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    replay: Replay

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def do_GET(self) -> None:
        self._answer(dict(parse_qsl(urlsplit(self.path).query)))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name in the base class)
        pass

    def _answer(self, body: Json) -> None:
        path = urlsplit(self.path).path
        fault = Fault()
        if path == "/search":
            self.replay.asked.append(body)
            with contextlib.suppress(IndexError):  # months come at the same time
                fault = self.replay.faults.pop(0)
        status, document = self.replay.answer(path, body)
        text = (json.dumps(document) if fault.body is None else fault.body).encode()
        self.send_response(fault.status if fault.status != 200 else status)
        for name, value in {**fault.headers, "Content-Length": str(len(text))}.items():
            self.send_header(name, value)
        self.end_headers()
        half = len(text) // 2
        self.wfile.write(text[:half])
        if fault.stall:
            self.wfile.flush()
            time.sleep(fault.stall)
        if fault.cut:
            self.close_connection = True
        else:
            self.wfile.write(text[half:])


@contextlib.contextmanager
def replaying(folder: Path, only: str = "*") -> Iterator[Replay]:
    """Serve a provider's recordings; `only` picks among several recordings of one search."""
    handler = type("Handler", (_Handler,), {})
    with services.serving(handler) as url:
        handler.replay = Replay(folder, url, only)
        yield handler.replay


def recordings(folder: Path) -> list[Path]:
    """All recorded answers that hold items: single ones, pages, lists, Parquet."""
    return [
        path
        for path in sorted(folder.glob("*/*"))
        if not path.name.endswith(".request.json")
        and "collection" not in path.stem.split("_")[0]
        and not path.stem.startswith("landing")
        and not path.name.endswith(".collection.json")
    ]
