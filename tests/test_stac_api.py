"""Searches of an API: a real one, and one that answers as a test wants; what is sent, pages, failures."""

from __future__ import annotations

import copy
import datetime as dt
import json
import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import services
from ndvi_scale import stac_api, web
from ndvi_scale.aoi import parse_bbox, read_aoi
from ndvi_scale.errors import EmptySearchError, SearchError
from ndvi_scale.interval import Interval
from ndvi_scale.search import search_items
from stac import COLLECTION, HOME, Json, ScriptedApi, box, collection_of, days, item, says, scripted_api, utc, write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


# A real STAC API


@pytest.fixture(scope="module")
def rustac_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if services.binary("rustac") is None:
        pytest.skip("no rustac program: pip install rustac")
    items = [item(day) for day in range(1, 26)]
    items += [item(26, geometry=box(179, -17, 180, -16), bbox=[179, -17, 180, -16])]
    items += [item(27, geometry=box(-180, -17, -179, -16), bbox=[-180, -17, -179, -16])]
    path = write(tmp_path_factory.mktemp("rustac") / "items.json", collection_of(*items))
    with services.stac_api(path) as url:
        yield url


def test_api_pages_are_followed(rustac_api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stac_api, "_PAGE_ITEMS", 4)
    assert days(search_items(rustac_api)) == list(range(1, 28))
    assert days(search_items(rustac_api, aoi=HOME, datetime="2023-06-03/2023-06-11")) == list(range(3, 12))


def test_api_that_knows_no_query_is_filtered_here(
    rustac_api: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ndvi_scale")
    monkeypatch.setattr(stac_api, "_PAGE_ITEMS", 4)
    assert days(search_items(f"{rustac_api}/", aoi=HOME, cloud_cover=6.5)) == [1, 2, 3, 4, 5, 6]
    assert "declares neither query nor filter: cloud cover <= 6.5 % is applied on the client" in caplog.text
    assert "25 items seen; on the client, 19 above 6.5 % cloud cover" in caplog.text


def test_api_search_across_the_antimeridian(rustac_api: str) -> None:
    assert days(search_items(rustac_api, aoi=parse_bbox("179.5,-17,-179.5,-16"))) == [26, 27]
    assert days(search_items(rustac_api, aoi=parse_bbox("-179.9,-17,-179.5,-16"))) == [27]


def test_api_search_with_a_real_polygon(rustac_api: str, real_data: Path) -> None:
    region = read_aoi(real_data / "aoi" / "fr_departement_31-haute-garonne.geojson")
    assert len(search_items(rustac_api, aoi=region)) == 25


def test_api_relative_assets_belong_to_their_item(rustac_api: str) -> None:
    found = search_items(rustac_api, datetime="2023-06-03")[0]
    assert found.assets["red"].href == f"{rustac_api}/collections/{COLLECTION}/items/3/red.tif"


def test_api_without_the_collection_or_a_fitting_item(rustac_api: str) -> None:
    with pytest.raises(SearchError) as caught:
        search_items(rustac_api, collection="sentinel-2-l1c")
    says(caught, rustac_api, "no collection 'sentinel-2-l1c'", f"looks like Sentinel-2 L2A: {COLLECTION}")
    with pytest.raises(EmptySearchError, match="no item came back"):
        search_items(rustac_api, datetime="1999")


# What is sent


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedApi]:
    monkeypatch.setattr(web, "_RETRIES", 0)
    with scripted_api() as scripted:
        yield scripted


def test_what_is_sent_to_an_api(api: ScriptedApi) -> None:
    search_items(api.url, aoi=HOME, datetime="2023-06", cloud_cover=50, collection=COLLECTION)
    (body,) = api.bodies
    assert body == {
        "collections": [COLLECTION],
        "limit": 100,
        "bbox": [1.0, 43.0, 2.0, 44.0],
        "datetime": "2023-06-01T00:00:00Z/2023-07-01T00:00:00Z",
    }


def test_open_dates_and_polygons_are_sent(api: ScriptedApi, tmp_path: Path) -> None:
    triangle = {"type": "Polygon", "coordinates": [[[1, 43], [2, 43], [2, 44], [1, 43]]]}
    search_items(api.url, aoi=read_aoi(write(tmp_path / "a.json", triangle)), datetime="2023-06/..")
    assert {body["intersects"]["type"] for body in api.bodies} == {"Polygon"}
    assert not any("bbox" in body for body in api.bodies)
    asked = sorted(body["datetime"] for body in api.bodies)
    assert asked[0] == "2023-06-01T00:00:00Z/2023-07-01T00:00:00Z"
    assert asked[-1].endswith("/..")


@given(st.datetimes(timezones=st.just(dt.UTC)), st.datetimes(timezones=st.just(dt.UTC)))
def test_servers_are_asked_for_no_less_than_the_interval(one: dt.datetime, other: dt.datetime) -> None:
    start, end = sorted((one, other))
    assume(start < end < utc(9999, 12, 31))
    asked = [dt.datetime.fromisoformat(part) for part in stac_api._closed(Interval(start, end)).split("/")]
    assert start - dt.timedelta(seconds=1) < asked[0] <= start
    assert end <= asked[1] < end + dt.timedelta(seconds=1)


@pytest.mark.parametrize(
    ("conformance", "sent"),
    [
        ("v1.0.0/item-search#query", {"query": {"eo:cloud_cover": {"lte": 3}}}),
        (
            "v1.0.0-rc.2/item-search#filter",
            {"filter-lang": "cql2-json", "filter": {"op": "<=", "args": [{"property": "eo:cloud_cover"}, 3]}},
        ),
        ("v1.0.0/ogcapi-features#query", {}),
    ],
)
def test_cloud_cover_is_sent_where_it_is_known_and_applied_here_always(
    api: ScriptedApi, conformance: str, sent: Json
) -> None:
    api.conforms.append(f"https://api.stacspec.org/{conformance}")
    assert days(search_items(api.url, cloud_cover=3)) == [1, 2, 3]
    (body,) = api.bodies
    assert {key: body.get(key) for key in ("query", "filter", "filter-lang") if key in body} == sent


def test_server_that_applies_nothing_changes_nothing(api: ScriptedApi) -> None:
    elsewhere = item(6, geometry=box(5, 43, 6, 44), bbox=[5, 43, 6, 44])
    api.search = lambda _: collection_of(
        *(item(day) for day in range(1, 6)), elsewhere, item(7, collection="other")
    )
    found = search_items(api.url, aoi=HOME, datetime="2023-06-02/..", cloud_cover=4, collection=COLLECTION)
    assert days(found) == [2, 3, 4]


def test_api_that_takes_only_get(api: ScriptedApi) -> None:
    api.methods = ["GET"]
    api.conforms.append("https://api.stacspec.org/v1.0.0/item-search#query")
    assert days(search_items(api.url, aoi=HOME, cloud_cover=3)) == [1, 2, 3]
    (asked,) = [path for command, path, _ in api.asked if path.startswith("/search") and command == "GET"]
    assert "bbox=1.0%2C43.0%2C2.0%2C44.0" in asked
    assert f"collections={COLLECTION}" in asked
    assert "query=%7B%22eo%3Acloud_cover" in asked


# Pages


def paged(*pages: Json) -> Callable[[Json], Json]:
    """Answers page after page; each but where told otherwise links the next."""

    def answer(body: Json) -> Json:
        at = body.get("page", 0)
        page = copy.deepcopy(pages[min(at, len(pages) - 1)])
        page["links"] = [
            {"rel": "next", "href": "REPLACED", "method": "POST", "body": {"page": at + 1}, "merge": True},
        ]
        return page

    return answer


def script_pages(api: ScriptedApi, *pages: Json) -> None:
    answer = paged(*pages)

    def search_page(body: Json) -> Json:
        page = answer(body)
        page["links"][0]["href"] = f"{api.url}/search"
        return page

    api.search = search_page


def test_duplicates_across_pages(api: ScriptedApi, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ndvi_scale")
    script_pages(api, collection_of(item(1), item(2)), collection_of(item(2), item(3)), collection_of())
    assert days(search_items(api.url)) == [1, 2, 3]
    assert len(api.bodies) == 3
    assert "1 items came more than once" in caplog.text


def test_later_page_that_is_not_stac_is_no_end(api: ScriptedApi) -> None:
    script_pages(api, collection_of(item(1)), {"message": "Endpoint request timed out"})
    with pytest.raises(SearchError, match="does not answer as STAC"):
        search_items(api.url)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_next_links_may_be_relative(api: ScriptedApi, method: str) -> None:
    api.other["/search/2"] = collection_of(item(2))
    api.search = lambda _: (
        collection_of(item(1)) | {"links": [{"rel": "next", "href": "./search/2?token=x", "method": method}]}
    )
    assert days(search_items(api.url)) == [1, 2]


def test_pager_without_end_is_stopped(api: ScriptedApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stac_api, "_MAX_PAGES", 7)
    script_pages(api, *(collection_of(item(day)) for day in range(1, 28)))
    with pytest.raises(SearchError) as caught:
        search_items(api.url)
    says(caught, api.url, "7 pages with 7 items, and still a next one", "fewer days or a smaller region")


def test_server_that_counts_more_than_it_gives_is_not_believed_in_silence(
    api: ScriptedApi, caplog: pytest.LogCaptureFixture
) -> None:
    page = collection_of(item(1), item(2))
    for count in ({"numberMatched": 5}, {"context": {"matched": 5}}):
        caplog.clear()
        api.search = lambda _, count=count: page | count
        assert days(search_items(api.url)) == [1, 2]
        assert "the server counts 5 items and gave 2: some may be missing" in caplog.text
    caplog.clear()
    api.search = lambda _: page | {"numberMatched": 2}
    search_items(api.url)
    assert not caplog.records


def test_last_page_that_links_on_for_ever(api: ScriptedApi, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ndvi_scale")
    script_pages(api, collection_of(item(1), item(2)), collection_of(item(3)))
    assert days(search_items(api.url)) == [1, 2, 3]
    assert len(api.bodies) == 3
    assert "a page without new items ends the search" in caplog.text


def test_recorded_pages_of_earth_search_end(api: ScriptedApi, real_data: Path) -> None:
    folder = real_data / "stac" / "earth-search-v1"
    pages = [json.loads((folder / f"search_lakeconstance_202003_p{page}.json").read_text()) for page in (1, 2)]
    script_pages(api, *pages, collection_of())
    landing = json.loads((folder / "landing.json").read_text())
    api.conforms = landing["conformsTo"]
    found = search_items(api.url, aoi=parse_bbox("9,47,10,48"), datetime="2020-03-01/2020-03-05", cloud_cover=100)
    assert len(found) == 16
    assert api.bodies[0]["query"] == {"eo:cloud_cover": {"lte": 100}}
    assert found[0].assets["red"].href.startswith("https://")
    assert [found_.datetime for found_ in found] == sorted(found_.datetime for found_ in found)  # type: ignore[type-var]


# Failures


@pytest.mark.parametrize(
    ("collections", "offer"),
    [
        (
            ["landsat-c2-l2", COLLECTION, "sentinel-2-c1-l2a"],
            f"Sentinel-2 L2A: {COLLECTION}, sentinel-2-c1-l2a.",
        ),
        (["sentinel-s2-l2a-cogs", "sentinel-s2-l1c"], "Sentinel-2 L2A: sentinel-s2-l2a-cogs."),
        (["naip", "cop-dem"], "None looks like Sentinel-2 L2A; it offers naip, cop-dem"),
        ([], "it offers none"),
    ],
)
def test_collection_must_be_clear(api: ScriptedApi, collections: list[str], offer: str) -> None:
    api.collections = collections
    with pytest.raises(SearchError) as caught:
        search_items(api.url)
    says(caught, api.url, "a collection must be given", f"offers {len(collections)}", offer)


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        ((401, "{}"), ("HTTP 401", "access denied", "credentials")),
        ((403, "{}"), ("HTTP 403", "access denied", "sign the URL again")),
        ((404, "gone"), ("HTTP 404", "not found", "Check the address")),
        ((400, '{"code": "BadRequest"}'), ("HTTP 400", "refuses", "Check")),
        ((500, "oops"), ("HTTP 500", "fails", "Try again later")),
        ((503, "busy"), ("HTTP 503", "fails", "Try again later")),
        ((200, "<html>"), ("not JSON", "Give the JSON")),
        ((200, "\ufffd"), ("not JSON", "Give the JSON")),
        ((200, "[]"), ("STAC",)),
    ],
)
@pytest.mark.parametrize("path", ["/v1", "/search", "/v1/items.parquet"])
def test_what_a_server_may_answer(api: ScriptedApi, path: str, answer: Any, parts: tuple[str, ...]) -> None:
    api.other[path] = answer
    address = api.url.replace("http://", "http://user:secret@") + ("" if path == "/search" else path)
    with pytest.raises(SearchError) as caught:
        search_items(f"{address}?sig=secret")
    if answer[0] == 200 and path.endswith("parquet"):
        parts = ("stac-geoparquet", "Check the address")
    elif answer[1] == "[]":
        parts = ("STAC", "Give a catalog") if path == "/v1" else ("does not answer as STAC", "Check the address")
    says(caught, api.url, *parts)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("page", "parts"),
    [
        ({}, ("does not answer as STAC (a page without a list of objects 'features')", "Check the address")),
        ({"features": None}, ("a page without a list of objects 'features'", "Check the address")),
        ({"features": {}}, ("a page without a list of objects 'features'", "Check the address")),
        (collection_of(item(1)) | {"links": [{"rel": ["next"], "href": "x"}]}, ("are text", "Check the address")),
        (
            collection_of(item(1)) | {"links": [{"rel": "next", "href": "x", "method": 5}]},
            ("its next page is 5", "only GET and POST", "Tell the provider"),
        ),
        (collection_of(item(1, links=[{"rel": "self", "href": "http://[::1/"}])), ("is no URL", "Correct it")),
        ({"code": "Oops", "description": "200, and yet wrong"}, ("does not answer as STAC", "Check the address")),
        ({"features": [3]}, ("does not answer as STAC", "Check the address")),
        ({"features": [{"id": "x"}]}, ("'x' is not a STAC item", "leave it out")),
        ({"collections": [1]}, ("does not answer as STAC", "Check the address")),
        (
            collection_of(item(1)) | {"links": [{"rel": "next"}]},
            ("does not answer as STAC", "Check the address"),
        ),
    ],
)
def test_pages_that_are_not_stac(api: ScriptedApi, page: Json, parts: tuple[str, ...]) -> None:
    api.search = lambda _: page
    with pytest.raises(SearchError) as caught:
        search_items(api.url)
    says(caught, api.url, *parts)


def test_a_broken_page_is_not_kept_as_an_empty_month(api: ScriptedApi, tmp_path: Path) -> None:
    api.search = lambda _: {"type": "FeatureCollection", "features": None}
    with pytest.raises(SearchError, match="a page without a list"):
        search_items(api.url, datetime="2023-06", collection=COLLECTION, cache=tmp_path)
    api.search = lambda _: collection_of(item(1))
    assert days(search_items(api.url, datetime="2023-06", collection=COLLECTION, cache=tmp_path)) == [1]


@pytest.mark.parametrize("collections", [None, [1], ["a"], {"id": "a"}])
def test_collections_that_are_none(api: ScriptedApi, collections: Any) -> None:
    api.other["/collections"] = {"collections": collections, "links": []}
    with pytest.raises(SearchError, match=r"a page without a list of objects 'collections'.*Check the address"):
        search_items(api.url)


def test_what_a_landing_page_may_say_wrongly(api: ScriptedApi) -> None:
    api.conforms = 5  # type: ignore[assignment]
    api.methods = [5, None, "PATCH"]  # type: ignore[list-item]
    assert days(search_items(api.url, cloud_cover=3, collection=COLLECTION)) == [1, 2, 3]
    assert {method for method, path, _ in api.asked if path == "/search"} == {"POST"}
    api.methods = ["PATCH"]
    with pytest.raises(SearchError, match="links no item search"):
        search_items(api.url, collection=COLLECTION)


# Where a remote API may lead


class FakeWeb:
    """Answers every question of a session with one page, and keeps the questions."""

    def __init__(self, page: Json) -> None:
        self.page = page
        self.asked: list[Any] = []

    def read_json(self, source: Any, **_: Any) -> Json:
        self.asked.append(source)
        return self.page if len(self.asked) == 1 else {"features": [], "collections": []}


def remote_api(page: Json, **hrefs: str) -> tuple[stac_api.Api, FakeWeb]:
    links = {"search": "https://api.example.org/search", "data": "https://api.example.org/collections"} | hrefs
    landing = {"conformsTo": [], "links": [{"rel": rel, "href": href} for rel, href in links.items()]}
    fake = FakeWeb(page)
    return stac_api.Api(landing, "https://api.example.org/", fake), fake  # type: ignore[arg-type]


HERE = ["http://127.0.0.1:8080/x", "http://169.254.169.254/latest", "file:///etc/passwd", "//[::1]/x"]


@pytest.mark.parametrize("href", HERE)
def test_a_remote_api_does_not_lead_to_this_machine(href: str) -> None:
    page = collection_of(item(1)) | {"links": [{"rel": "next", "href": href}]}
    api, fake = remote_api(page)
    with pytest.raises(SearchError, match=r"example.org/search: links to .*a remote catalog may not point to"):
        list(stac_api.api_items(api, stac_api.Wanted(None, None, None, None), COLLECTION))
    assert len(fake.asked) == 1
    api, fake = remote_api(page, search=href, data=href)
    with pytest.raises(SearchError, match=r"example.org/: links to .*a remote catalog may not point to"):
        list(stac_api.api_items(api, stac_api.Wanted(None, None, None, None), COLLECTION))
    with pytest.raises(SearchError, match="may not point to"):
        stac_api.check_collection(api, COLLECTION)
    assert fake.asked == []


@pytest.mark.parametrize("method", ["PUT", "DELETE", "patch", 5])
def test_next_links_only_get_and_post(method: Any) -> None:
    link = {"rel": "next", "href": "https://api.example.org/search", "method": method}
    api, fake = remote_api(collection_of(item(1)) | {"links": [link]})
    with pytest.raises(SearchError, match="only GET and POST over http"):
        list(api.pages("https://api.example.org/search", "features"))
    assert len(fake.asked) == 1


def test_headers_of_next_links_are_not_sent() -> None:
    link = {"rel": "next", "href": "?page=2", "method": "post", "headers": {"X-Secret": "1"}, "body": {"a": 1}}
    api, fake = remote_api(collection_of(item(1)) | {"links": [link]})
    assert len(list(api.pages("https://api.example.org/search", "features"))) == 1
    sent = fake.asked[1].to_dict()
    assert sent == {
        "rel": "next",
        "href": "https://api.example.org/search?page=2",
        "method": "POST",
        "body": {"a": 1},
    }


def test_landing_page_without_search(api: ScriptedApi) -> None:
    api.methods = []
    with pytest.raises(SearchError, match=r"links no item search.*Give another"):
        search_items(api.url)


@pytest.mark.slow
def test_busy_server_is_asked_again(api: ScriptedApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_RETRIES", 3)
    answers = iter([(503, "busy"), (429, "slow down"), collection_of(item(1))])
    api.search = lambda _: next(answers)
    assert days(search_items(api.url)) == [1]


def test_time_out(api: ScriptedApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "TIMEOUT_S", (0.2, 0.2))
    done = threading.Event()
    api.search = lambda _: done.wait(5) and collection_of()
    with pytest.raises(SearchError, match=r"timed out after 0\.2 s.*Try later"):
        search_items(api.url)
    done.set()


def test_no_server(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_RETRIES", 1)
    caplog.set_level("DEBUG")
    caplog.set_level("DEBUG", "urllib3")  # the command line, once used in this process, makes it quieter
    (port,) = services.free_ports(1)
    with pytest.raises(SearchError) as caught:
        search_items(f"http://me:secret@127.0.0.1:{port}/v1?token=secret")
    says(caught, f"http://127.0.0.1:{port}/v1", "cannot be reached", "Check the address and the network")
    assert "secret" not in str(caught.value)
    assert "Retrying" in caplog.text
    assert "secret" not in caplog.text
