"""Long searches: split by month without a difference, kept, taken up again, and never too many at once."""

from __future__ import annotations

import datetime as dt
import json
import logging
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
import rustac
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

import services
from ndvi_scale import months, search, web
from ndvi_scale.aoi import parse_bbox
from ndvi_scale.errors import ConfigError, EmptySearchError, SearchError
from ndvi_scale.granules import granule_from_item
from ndvi_scale.search import search_items
from ndvi_scale.sources import Source
from replay import EMPTY, replaying
from stac import COLLECTION, HOME, Json, ScriptedApi, collection_of, item, says, scripted_api, utc, write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow  # real servers

YEARS = "2022-01/2023-12"
MONTHS = [f"{year}-{month:02}" for year in (2022, 2023) for month in range(1, 13)]


def archive() -> list[Json]:
    """Items all through 2022 and 2023, on the borders of months, and before and after all others."""
    times = [utc(2022, 1, 1) + dt.timedelta(days=5.37) * number for number in range(135)]
    times += [utc(2023, month, 1) for month in range(1, 13)]
    times += [utc(2023, month, 1) - dt.timedelta(milliseconds=1) for month in range(1, 13)]
    times += [utc(2014, 4, 3), utc(2015, 6, 1), utc(2024, 2, 29, 23, 59, 59)]
    return [
        item(1, id=f"{number:03}", properties={"datetime": when.isoformat(), "eo:cloud_cover": number % 100})
        for number, when in enumerate(times)
    ]


ARCHIVE = archive()


# No difference


@pytest.fixture(scope="module", params=["rustac", "stac-fastapi"])
def archive_api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The archive behind two real servers: one that filters nothing, one that declares filter and sort."""
    folder = tmp_path_factory.mktemp("archive")
    if request.param == "rustac":
        with services.stac_api(write(folder / "items.json", collection_of(*ARCHIVE))) as url:
            yield url
        return
    if not services.STAC_FASTAPI.exists():
        pytest.skip("no stac-fastapi: .ci/stac-api makes its environment")
    rustac.write_sync(str(folder / "items.parquet"), ARCHIVE, format="parquet")
    with services.filtering_stac_api(folder / "items.parquet") as url:
        yield url


def found(url: str, **wanted: Any) -> list[str]:
    try:
        return [one.id for one in search_items(url, **wanted)]
    except EmptySearchError:
        return []


moments = st.datetimes(dt.datetime(2021, 11, 1), dt.datetime(2024, 3, 31)).map(  # noqa: DTZ001 - made aware below
    lambda moment: f"{moment.replace(microsecond=0).isoformat()}Z"
)
ends = moments | st.sampled_from(["..", "2022-06", "2023-01-31", "2023", "2014", "2030"])


@pytest.mark.slow
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=ends, end=ends, cloud_cover=st.none() | st.integers(0, 100))
def test_months_find_what_one_search_finds(
    archive_api: str, start: str, end: str, cloud_cover: float | None
) -> None:
    wanted = {"datetime": f"{start}/{end}", "cloud_cover": cloud_cover, "aoi": HOME}
    try:
        split = found(archive_api, **wanted)
    except ConfigError:
        return  # both ends open, or in the wrong order
    with patch.object(months, "split_by_month", lambda interval, _: [interval]):
        assert split == found(archive_api, **wanted)


@pytest.mark.slow
def test_months_find_everything_of_the_years(archive_api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {one["id"] for one in ARCHIVE if one["properties"]["datetime"][:4] in {"2022", "2023"}}
    assert set(found(archive_api, datetime=YEARS)) == expected
    assert set(found(archive_api, datetime="../2030")) == {one["id"] for one in ARCHIVE}
    monkeypatch.setattr("ndvi_scale.stac_api._PAGE_ITEMS", 3)
    assert set(found(archive_api, datetime=YEARS)) == expected


def test_cloud_cover_is_applied_by_the_server_that_filters(
    archive_api: str, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    caplog.set_level(logging.INFO, "ndvi_scale")
    expected = [one["id"] for one in ARCHIVE if one["properties"]["eo:cloud_cover"] <= 3]
    assert set(found(archive_api, cloud_cover=3)) == set(expected)
    filters = "stac-fastapi" in request.node.name
    assert ("declares neither query nor filter" in caplog.text) != filters
    assert (f"{len(ARCHIVE)} items seen; on the client" in caplog.text) != filters


# Kept, and taken up again


class Archive:
    """A scripted API over the archive that can fail at a month and counts what is in flight."""

    def __init__(self, api: ScriptedApi) -> None:
        self.api = api
        self.url = api.url
        self.fail_at: str | None = None
        self.stall_at: str | None = None
        self.stalled = threading.Event()
        self.seconds = 0.005
        self.months: list[str] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        api.search = self._search

    def _search(self, body: Json) -> Any:
        start, end = (part.replace("Z", "+00:00") for part in body["datetime"].split("/"))
        with self._lock:
            self.months.append(start[:7])
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        if start[:7] != self.fail_at:
            time.sleep(self.seconds)
        if start[:7] == self.stall_at:
            self.stalled.wait(50)
        with self._lock:
            self._at_once -= 1
        if start[:7] == self.fail_at:
            return 503, "busy"
        found = [one for one in ARCHIVE if start <= one["properties"]["datetime"] <= end]
        return collection_of(*found) if found else EMPTY


@pytest.fixture
def archive_of_tests(monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    monkeypatch.setattr(web, "_RETRIES", 0)
    with scripted_api() as api:
        yield Archive(api)


def test_a_search_that_died_resumes_at_its_month(archive_of_tests: Archive, tmp_path: Path) -> None:
    server, folder = archive_of_tests, tmp_path / "deep" / "kept"
    whole = found(server.url, datetime=YEARS)
    server.months.clear()
    server.fail_at = "2023-05"
    with pytest.raises(SearchError) as caught:
        search_items(server.url, datetime=YEARS, cache=folder)
    says(caught, "HTTP 503", "stopped in 2023-05, after 16 of 24 months", f"which {folder} keeps", "resumes there")
    assert {path.name[:7] for path in folder.iterdir()} >= set(MONTHS[:12])
    server.fail_at = None
    server.months.clear()
    assert found(server.url, datetime=YEARS, cache=folder) == whole
    assert set(server.months) <= set(MONTHS[16:])
    assert "2023-05" in server.months
    server.months.clear()
    assert found(server.url, datetime=YEARS, cache=folder) == whole
    assert server.months == []
    assert len(list(folder.iterdir())) == 24


@pytest.mark.slow
def test_a_search_that_was_killed_resumes(archive_of_tests: Archive, tmp_path: Path) -> None:
    server, folder = archive_of_tests, tmp_path / "kept"
    whole = found(server.url, datetime=YEARS)
    server.months.clear()
    server.stall_at = "2023-05"
    command = [sys.executable, "-m", "ndvi_scale", "search", "--catalog", server.url, "--datetime", YEARS]
    with subprocess.Popen([*command, "--search-cache", folder], stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 40
            while len(list(folder.glob("2*.parquet"))) < 12 and time.monotonic() < deadline:
                time.sleep(0.01)
        finally:
            process.kill()
            server.stalled.set()
    kept = {path.name[:7] for path in folder.glob("2*.parquet")}
    assert 12 <= len(kept) < 24
    server.months.clear()
    assert found(server.url, datetime=YEARS, cache=folder) == whole
    assert sorted(server.months) == sorted(set(MONTHS) - kept)


def test_without_a_cache_the_error_names_the_option(archive_of_tests: Archive) -> None:
    archive_of_tests.fail_at = "2022-03"
    with pytest.raises(SearchError) as caught:
        search_items(archive_of_tests.url, datetime=YEARS)
    says(caught, "stopped in 2022-03, after 2 of 24 months", "--search-cache DIR (cache= in Python)")


def test_a_short_search_that_fails_speaks_of_no_months(archive_of_tests: Archive) -> None:
    archive_of_tests.fail_at = "2022-03"
    with pytest.raises(SearchError) as caught:
        search_items(archive_of_tests.url, datetime="2022-03")
    assert "month" not in str(caught.value)
    assert archive_of_tests.months == ["2022-03"]


def test_what_is_kept_is_stac_geoparquet(archive_of_tests: Archive, tmp_path: Path) -> None:
    search_items(archive_of_tests.url, datetime="2023-12/2024-03", cache=tmp_path)
    counted = {path.name[:7]: parquet.read_metadata(path).num_rows for path in tmp_path.iterdir()}
    december = sum(one["properties"]["datetime"].startswith("2023-12") for one in ARCHIVE)
    assert counted == {"2023-12": december, "2024-01": 0, "2024-02": 1, "2024-03": 0}
    for path in tmp_path.iterdir():
        assert json.loads(parquet.read_metadata(path).metadata[b"geo"])["primary_column"] == "geometry"
    archive_of_tests.months.clear()
    assert len(search_items(archive_of_tests.url, datetime="2023-12/2024-03", cache=tmp_path)) == december + 1
    assert archive_of_tests.months == []
    (february,) = tmp_path.glob("2024-02-*.parquet")
    assert search_items(february)[0].id == ARCHIVE[-1]["id"]


def test_a_month_that_is_not_over_is_not_kept(
    archive_of_tests: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for now, kept in (
        (utc(2023, 5, 31, 23), ["2023-03", "2023-04"]),
        (utc(2023, 6, 5), ["2023-03", "2023-04"]),  # late products may still come
        (utc(2023, 6, 8), ["2023-03", "2023-04", "2023-05"]),
    ):
        monkeypatch.setattr(months, "_now", lambda now=now: now)
        search_items(archive_of_tests.url, datetime="2023-03/..", cache=tmp_path)
        assert sorted(path.name[:7] for path in tmp_path.iterdir()) == kept


def test_another_search_is_kept_apart(archive_of_tests: Archive, tmp_path: Path) -> None:
    url = archive_of_tests.url
    archive_of_tests.api.collections = [COLLECTION, "other"]
    searches: list[Json] = [
        {"collection": COLLECTION},
        {"collection": COLLECTION, "aoi": HOME},
        {"collection": COLLECTION, "aoi": parse_bbox("1,43,2,45")},
        {"collection": COLLECTION, "cloud_cover": 50},
        {"collection": "other"},
    ]
    for number, wanted in enumerate(searches, start=1):
        found(url, datetime="2022-03", cache=tmp_path, **wanted)
        same = {name: float(value) if name == "cloud_cover" else value for name, value in wanted.items()}
        found(f"{url}?token=secret", datetime="2022-03", cache=tmp_path, **same)
        assert len(list(tmp_path.iterdir())) == number
    assert len(archive_of_tests.months) == len(searches)
    found(f"{url}/", datetime="2022-03-02/2022-03", cache=tmp_path, collection=COLLECTION)
    assert len(list(tmp_path.iterdir())) == len(searches) + 1
    assert not any(b"secret" in path.read_bytes() for path in tmp_path.iterdir())


def test_what_cannot_be_read_any_more_is_searched_again(
    archive_of_tests: Archive, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = found(archive_of_tests.url, datetime="2022-03/2022-05", cache=tmp_path)
    (april,) = tmp_path.glob("2022-04-*")
    april.write_bytes(april.read_bytes()[:-20])
    archive_of_tests.months.clear()
    assert found(archive_of_tests.url, datetime="2022-03/2022-05", cache=tmp_path) == first
    assert archive_of_tests.months == ["2022-04"]
    assert f"searched again: {april}: cannot be read as stac-geoparquet" in caplog.text
    assert found(archive_of_tests.url, datetime="2022-03/2022-05", cache=tmp_path) == first
    assert archive_of_tests.months == ["2022-04"]


def test_folder_that_cannot_be_written(archive_of_tests: Archive, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError) as caught:
        search_items(archive_of_tests.url, datetime="2022-03", cache=tmp_path / "file")
    says(caught, str(tmp_path / "file"), "cannot be written", "Give a folder")


def test_kept_items_give_the_same_granules(real_data: Path, tmp_path: Path) -> None:
    for provider in ("earth-search-v1", "cdse-v1"):
        with replaying(real_data / "stac" / provider) as server:
            wanted = {"aoi": parse_bbox("29.387,53.1624,29.389,53.1636"), "datetime": "2023-11-01/2023-11-10"}
            wanted |= {"collection": COLLECTION, "cache": tmp_path}
            asked, kept = search_items(server.url, **wanted), search_items(server.url, **wanted)
            assert len(server.asked) == {"earth-search-v1": 2, "cdse-v1": 1}[provider]
        assert [granule_from_item(one) for one in kept] == [granule_from_item(one) for one in asked]
        assert [one.geometry for one in kept] == [one.geometry for one in asked]


# In flight


@pytest.mark.parametrize(("source", "most"), [(None, 4), ("cdse", 4), ("earth-search", 4)])
def test_few_months_are_in_flight(
    archive_of_tests: Archive, monkeypatch: pytest.MonkeyPatch, source: str | None, most: int
) -> None:
    known = Source(archive_of_tests.url, (COLLECTION,), "a test", access=source or "")
    monkeypatch.setitem(search.SOURCES, "scripted", known)
    search_items("scripted", datetime=YEARS)
    assert 1 < archive_of_tests.most_at_once <= most
    assert sorted(archive_of_tests.months) == MONTHS


def test_a_provider_may_allow_fewer(archive_of_tests: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    from ndvi_scale import sources

    shy = sources.Access(name="shy", limits=sources.Limits(connections=1))
    monkeypatch.setattr(sources, "ACCESS", (*sources.ACCESS, shy))
    known = Source(archive_of_tests.url, (COLLECTION,), "a test", access="shy")
    monkeypatch.setitem(search.SOURCES, "scripted", known)
    search_items("scripted", datetime=YEARS)
    assert archive_of_tests.most_at_once == 1


def test_a_failure_stops_the_months_not_yet_asked(archive_of_tests: Archive) -> None:
    archive_of_tests.fail_at = "2022-01"
    archive_of_tests.seconds = 0.5
    with pytest.raises(SearchError, match=r"stopped in 2022-01, after 0 of 24 months"):
        search_items(archive_of_tests.url, datetime=YEARS)
    assert len(archive_of_tests.months) <= 8


def test_a_collection_that_is_not_there_is_told_once(archive_of_tests: Archive) -> None:
    with pytest.raises(SearchError, match="no collection 'sentinel-2-l1c'"):
        search_items(archive_of_tests.url, collection="sentinel-2-l1c", datetime="2015-07/2018")
    asked = Counter(path for _, path, _ in archive_of_tests.api.asked)
    assert asked["/collections"] == 1


def test_a_month_that_parquet_cannot_hold_is_not_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with scripted_api() as api:
        api.search = lambda _: collection_of(item(1, properties={"x:huge": 10**30}))
        assert len(search_items(api.url, datetime="2023-06", cache=tmp_path)) == 1
    assert "is not kept: " in caplog.text
    assert not list(tmp_path.iterdir())
