"""Servers that are busy, slow, broken or wrong: what is tried again, for how long, and what is said."""

from __future__ import annotations

import contextlib
import logging
import time
import zlib
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, ClassVar

import pytest
from pystac_client.exceptions import APIError

import services
from ndvi_scale import web
from ndvi_scale.aoi import parse_bbox
from ndvi_scale.catalog import parquet_items, read_json
from ndvi_scale.errors import SearchError
from ndvi_scale.search import search_items
from replay import Fault, Replay, replaying
from stac import says

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pystac
    from pystac_client.stac_api_io import StacApiIO

CONSTANCE = {"aoi": parse_bbox("9,47,10,48"), "datetime": "2020-03-01/2020-03-05", "collection": "sentinel-2-l2a"}
BUSY = "<html><body>busy</body></html>"


@pytest.fixture
def earth_search(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Replay]:
    """Two recorded pages with 16 items; retries without a pause."""
    monkeypatch.setattr(web, "_BACKOFF_S", 0.0)
    with replaying(real_data / "stac" / "earth-search-v1", "search_lakeconstance_202003_p*") as replay:
        yield replay


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        Fault(429, {"Retry-After": "0"}, BUSY),
        Fault(429, body=BUSY),
        Fault(429, {"Retry-After": "soon"}, BUSY),
        *(Fault(status, body=BUSY) for status in (500, 502, 503, 504)),
        Fault(cut=True),
        Fault(stall=1.6),
    ],
    ids=str,
)
def test_passing_faults_cost_no_item(earth_search: Replay, monkeypatch: pytest.MonkeyPatch, fault: Fault) -> None:
    # On a busy machine any answer may take a while: only one that stalls is to be given up soon.
    monkeypatch.setattr(web, "TIMEOUT_S", (10.0, 1.0 if fault.stall else 30.0))
    earth_search.faults += [fault, fault, Fault(), fault]
    assert len(search_items(earth_search.url, **CONSTANCE)) == 16
    assert len(earth_search.asked) == 6  # two pages and the empty one after them, and three faults


@pytest.mark.parametrize(
    ("fault", "parts"),
    [
        (Fault(429, body=BUSY), ("HTTP 429", "too many requests, also after 2 retries", "ask for less")),
        (Fault(503, body=BUSY), ("HTTP 503", "fails, also after 2 retries", "Try again later")),
        (Fault(cut=True), ("the answer breaks off, also after 2 retries", "Try later")),
        (Fault(stall=0.5), ("timed out after 0.2 s", "ask for less")),
        (Fault(body=BUSY), ("not JSON", "not a web page")),
        (Fault(403, body=BUSY), ("HTTP 403", "access denied")),
    ],
    ids=str,
)
def test_lasting_faults_end(
    earth_search: Replay, monkeypatch: pytest.MonkeyPatch, fault: Fault, parts: tuple[str, ...]
) -> None:
    monkeypatch.setattr(web, "_RETRIES", 2)
    monkeypatch.setattr(web, "TIMEOUT_S", (2.0, 0.2))
    earth_search.faults += [fault] * 50
    with pytest.raises(SearchError) as caught:
        search_items(f"{earth_search.url}?token=secret", **CONSTANCE)
    says(caught, earth_search.url, *parts)
    assert "secret" not in str(caught.value)
    assert len(earth_search.asked) <= 9


# Answers without end


class _Endless(BaseHTTPRequestHandler):
    """Answers that say nothing of their length: 64 MB of blanks, as they are or packed."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200)
        packed = "gzip" in self.path
        if packed:
            self.send_header("Content-Encoding", "gzip, gzip" if "twice" in self.path else "gzip")
        self.end_headers()
        packer = zlib.compressobj(wbits=31)
        piece = b" " * 1_000_000
        with contextlib.suppress(OSError):  # who asked has gone
            for _ in range(64):
                self.wfile.write(packer.compress(piece) if packed else piece)
            self.wfile.write(packer.flush() if packed else b"")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name in the base class)
        pass


@pytest.fixture(scope="module")
def endless() -> Iterator[str]:
    with services.serving(_Endless) as url:
        yield url


def _read_parquet(href: str, session: StacApiIO) -> list[pystac.Item]:
    return list(parquet_items(href, session))


@pytest.mark.parametrize("path", ["/catalog.json", "/gzip.json", "/items.parquet", "/gzip.parquet"])
def test_answers_are_read_up_to_a_limit(endless: str, path: str) -> None:
    _Endless.asked.clear()
    read = _read_parquet if path.endswith("parquet") else read_json
    with web.web_session(5_000_000) as session, pytest.raises(SearchError) as caught:
        read(f"{endless}{path}?sig=secret", session)
    says(caught, f"{endless}{path}: the answer is too large (more than 5,000,000 bytes)", "download it")
    assert "secret" not in str(caught.value)
    assert len(_Endless.asked) == 1  # to ask again would bring the same


def test_what_is_packed_twice_is_not_unpacked(endless: str) -> None:
    with web.web_session() as session, pytest.raises(SearchError, match=r"too large \(packed more than once"):
        read_json(f"{endless}/gzip-twice.json", session)


def test_a_search_has_a_limit() -> None:
    with web.web_session() as session:
        assert session.session.get_adapter("https://example.org").limit == web.ANSWER_BYTES <= 256 << 20  # type: ignore[attr-defined]


def test_no_memory_is_not_no_network() -> None:
    failed = APIError("")
    failed.__context__ = MemoryError()
    with pytest.raises(SearchError, match="does not fit into the memory"), web.answers("https://example.org/"):
        raise failed


def test_retry_after_is_kept_but_capped(earth_search: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_RETRY_AFTER_MAX_S", 1)
    earth_search.faults += [Fault(429, {"Retry-After": "86400"}, BUSY)]
    before = time.monotonic()
    assert len(search_items(earth_search.url, **CONSTANCE)) == 16
    assert 1 <= time.monotonic() - before < 10


def test_retries_wait_longer_each_time_and_never_in_step() -> None:
    patience = web._patience()
    waits = []
    for _ in range(web._RETRIES):
        patience = patience.increment("POST", "/search")
        waits.append(patience.get_backoff_time())
    late = [wait - step for wait, step in zip(waits, [0, 2, 4, 8, 16], strict=True)]
    assert all(0 <= jitter <= 1 for jitter in late)
    assert len(set(late[1:])) > 1


def test_what_is_tried_again_is_logged_without_the_query(
    earth_search: Replay, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "urllib3")
    earth_search.faults += [Fault(503, body=BUSY)]
    search_items(f"{earth_search.url}/?token=secret", **CONSTANCE)
    assert "Retry" in caplog.text
    assert "secret" not in caplog.text
