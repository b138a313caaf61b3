"""The `cog` reader against origins that fail, lie, dawdle and lure: the right DN, or one error that says all."""

from __future__ import annotations

import datetime as dt
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import hostile_origin as hostile
import runs
from crafted_tiffs import Tiff, apart, peak_memory, pixels, write_tiff
from hostile_origin import Origin, hostile_origin
from ndvi_scale import RunConfig, build_plan, open_store, search_items
from ndvi_scale.errors import ReadError
from ndvi_scale.lattice import Window
from ndvi_scale.readers import ranges
from ndvi_scale.readers.cog import CogReader
from ndvi_scale.readers.patience import REQUESTS_PER_HOST, Patience
from test_batch import Wrapped
from test_readers import asset_of, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ndvi_scale.granules import Asset
    from ndvi_scale.sandbox import Sandbox

pytestmark = pytest.mark.slow  # servers that dawdle

SHAPE = (300, 500)
DN = pixels(SHAPE)
TILED = {"tiled": True, "blockxsize": 128, "blockysize": 128, "compress": "deflate", "predictor": 2}
HURRIED = Patience(
    tries=3,
    first_wait=0.02,
    longest_wait=0.05,
    retry_after=0.5,
    connect=0.5,
    silence=0.3,
    slowest=1e6,
    deadline=3.0,
)
"""As the defaults, in the time of a test."""


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[Origin]:
    folder = tmp_path / "origin"
    folder.mkdir()
    with hostile_origin(folder) as origin:
        yield origin


@pytest.fixture
def tiff(origin: Origin) -> Tiff:
    """A file of 12 blocks at the origin; block (1, 2) is the sixth."""
    return Tiff(write_tiff(origin.directory / "red.tif", DN, **TILED))


def asset_at(origin: Origin, query: str = "") -> Asset:
    return asset_of(f"{origin.url}/red.tif{query}", SHAPE)


def read(origin: Origin, patience: Patience = HURRIED, window: Window | None = None) -> Any:
    return CogReader(patience).read("S2A_item", asset_at(origin), window or whole(SHAPE))[0]


def failing(origin: Origin, patience: Patience = HURRIED, **options: Any) -> ReadError:
    with pytest.raises(ReadError) as caught:
        read(origin, patience, **options)
    error = caught.value
    assert "S2A_item" in str(error)
    assert f"{origin.url}/red.tif" in str(error)
    assert (error.item_id, error.asset) == ("S2A_item", f"{origin.url}/red.tif")
    assert "\n" not in str(error)
    assert "on-error = skip" in str(error)
    return error


# Faults


@dataclass(frozen=True)
class Trouble:
    """A fault, and what it means."""

    fault: Callable[[hostile.Exchange], None]
    again: bool = True
    """Whether the next try may be better: an origin that does this once is read all the same."""
    permanent: bool | None = False
    """Of the error, where it goes on; None where either makes sense."""


TROUBLES = {
    "cut": Trouble(hostile.cut()),
    "cut before the first byte": Trouble(hostile.cut(0)),
    "short": Trouble(hostile.short()),
    "a byte short": Trouble(hostile.short(1)),
    "no bytes": Trouble(hostile.short(1 << 30)),
    "silent": Trouble(hostile.silent()),
    "halting": Trouble(hostile.halting()),
    "trickling": Trouble(hostile.trickling()),
    "reset": Trouble(hostile.resetting()),
    "reset midway": Trouble(hostile.resetting(5000)),
    "too much": Trouble(hostile.too_much()),
    "endless": Trouble(hostile.endless),
    "endless head": Trouble(hostile.endless_head),
    "unpacks to a gigabyte": Trouble(hostile.packed()),
    "408": Trouble(hostile.refusing(408)),
    "429": Trouble(hostile.refusing(429)),
    "500": Trouble(hostile.refusing(500)),
    "502": Trouble(hostile.refusing(502)),
    "503": Trouble(hostile.refusing(503)),
    "504": Trouble(hostile.refusing(504)),
    "400": Trouble(hostile.refusing(400), again=False),
    "401": Trouble(hostile.refusing(401), again=False),
    "403": Trouble(hostile.refusing(403), again=False),
    "404": Trouble(hostile.refusing(404), again=False, permanent=True),
    "410": Trouble(hostile.refusing(410), again=False, permanent=True),
    "204": Trouble(hostile.refusing(204), again=False),
    "304": Trouble(hostile.refusing(304), again=False),
    "418": Trouble(hostile.refusing(418), again=False),
    "a page, 200": Trouble(hostile.page(200), again=False, permanent=None),
    "a page, 206": Trouble(hostile.page(206), again=False, permanent=None),
    "a page, 503": Trouble(hostile.page(503)),
    "the whole file": Trouble(hostile.whole_file, again=False, permanent=None),
    "another range": Trouble(hostile.other_range(), again=False, permanent=None),
    "a range unsaid": Trouble(hostile.unsaid_range, again=False, permanent=None),
    "loop": Trouble(hostile.moved("{path}"), again=False, permanent=None),
    "a redirect without end": Trouble(hostile.moved("{path}0"), again=False, permanent=None),
    "a redirect to a file": Trouble(hostile.moved("file:///etc/hostname"), again=False, permanent=None),
    "a redirect to FTP": Trouble(hostile.moved("ftp://127.0.0.1/red.tif"), again=False, permanent=None),
    "a redirect to nothing": Trouble(hostile.moved(""), again=False, permanent=None),
    "a redirect to nonsense": Trouble(hostile.moved("http://[::1"), again=False, permanent=None),
    "a redirect to no port": Trouble(hostile.moved("http://127.0.0.1:99999/"), again=False, permanent=None),
    "a redirect in other letters": Trouble(hostile.moved("/r\xe9d.tif"), again=False, permanent=None),
    "a redirect to a closed port": Trouble(hostile.moved("http://127.0.0.1:1/red.tif")),
}


@pytest.mark.parametrize("part", ["header", "block"])
@pytest.mark.parametrize("kind", TROUBLES)
def test_trouble_that_lasts_is_one_error_in_time(origin: Origin, tiff: Tiff, kind: str, part: str) -> None:
    trouble = TROUBLES[kind]
    start, stop = tiff.block(6)
    origin.misbehave(trouble.fault, touching=None if part == "header" else (start + 10_000, start + 10_001))
    before, started = peak_memory(reset=True), time.monotonic()
    # The blocks of the second row: no run with others is longer than what a cut answer sends.
    error = failing(origin, window=Window(128, 256, 128, 128))
    assert time.monotonic() - started < HURRIED.deadline + 1
    assert peak_memory() - before < 64 << 20
    assert origin.sent() < 24 << 20  # mostly what sockets hold
    if trouble.permanent is not None:
        assert error.permanent is trouble.permanent, str(error)
    wrong = [asked for asked in origin.asked if part == "header" or asked.range != origin.asked[0].range]
    tries = HURRIED.tries if trouble.again else 1
    assert len(wrong) <= tries * (7 if "redirect" in kind or kind == "loop" else 1)
    if trouble.again and tries == len(wrong):
        assert f"{tries} times" in str(error)
    if part == "block":
        assert re.search(r"block .*\b1\b.*\b2\b", str(error)), str(error)
        assert stop > start


@pytest.mark.parametrize("kind", [kind for kind, trouble in TROUBLES.items() if trouble.again])
def test_trouble_that_passes_is_not_seen(origin: Origin, tiff: Tiff, kind: str) -> None:
    origin.misbehave(TROUBLES[kind].fault, times=1)
    origin.misbehave(TROUBLES[kind].fault, times=1, touching=(tiff.block(6)[0] + 10_000, tiff.block(6)[1]))
    np.testing.assert_array_equal(read(origin), DN)


PASSING = [kind for kind, trouble in TROUBLES.items() if trouble.again and kind != "unpacks to a gigabyte"]


@settings(max_examples=12)
@given(kinds=st.lists(st.sampled_from(PASSING), max_size=5))
def test_whatever_happens_pixels_are_right_or_there_are_none(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("origin")
    write_tiff(folder / "red.tif", DN, **TILED)
    with hostile_origin(folder) as origin:
        for kind in kinds:
            origin.misbehave(TROUBLES[kind].fault, times=1)
        try:
            data = read(origin, replace(HURRIED, tries=4))
        except ReadError:
            assert len(kinds) >= 4
        else:
            np.testing.assert_array_equal(data, DN)


def test_bits_that_are_flipped_on_the_way_are_asked_for_again(origin: Origin, tiff: Tiff) -> None:
    origin.misbehave(hostile.flipped(tiff.block(6)[0] + 5000), times=1, touching=tiff.block(6))
    np.testing.assert_array_equal(read(origin), DN)


@pytest.mark.parametrize("fault", [hostile.flipped, "elsewhere"])
def test_bits_that_stay_flipped_are_a_corrupt_block(origin: Origin, tiff: Tiff, fault: Any) -> None:
    start, _ = tiff.block(6)
    lie = hostile.other_range(honest=False) if fault == "elsewhere" else fault(start + 5000)
    origin.misbehave(lie, touching=(start + 5000, start + 5001))
    error = failing(origin, window=Window(128, 256, 128, 128))
    assert error.permanent
    assert re.search(r"block .*\b1\b.*\b2\b", str(error)), str(error)
    assert origin.count() <= 1 + HURRIED.tries


@pytest.mark.parametrize("size", [1, 10**15, "*"])
def test_a_wrong_size_is_not_believed(origin: Origin, tiff: Tiff, size: int | str) -> None:
    """Nothing is allocated or asked for by the size of the file."""
    origin.misbehave(hostile.sized(size))
    try:
        np.testing.assert_array_equal(read(origin), DN)
    except ReadError:
        assert size == 1
    assert origin.sent() < 3 * len(tiff.data)


def test_a_small_file_may_come_whole(origin: Origin) -> None:
    """An origin without ranges costs nothing where the header's request covers the file."""
    write_tiff(origin.directory / "red.tif", DN[:20, :20], **TILED)
    origin.misbehave(hostile.whole_file)
    asset = asset_of(f"{origin.url}/red.tif", (20, 20))
    try:
        data, _ = CogReader(HURRIED).read("item", asset, whole((20, 20)))
    except ReadError as error:
        assert "range" in str(error)  # noqa: PT017 - either is right
    else:
        np.testing.assert_array_equal(data, DN[:20, :20])


def test_other_blocks_are_read_beside_one_that_fails(origin: Origin, tiff: Tiff) -> None:
    reader = CogReader(HURRIED)
    start, _ = tiff.block(6)
    origin.misbehave(hostile.refusing(404), touching=(start, start + 1))
    with pytest.raises(ReadError):
        reader.read("item", asset_at(origin), whole(SHAPE))
    window = Window(256, 0, 44, 500)
    np.testing.assert_array_equal(reader.read("item", asset_at(origin), window)[0], DN[window.slices])


def test_an_origin_that_comes_back_is_read_again(origin: Origin, tiff: Tiff) -> None:
    """Nothing remembers that a file failed."""
    reader = CogReader(HURRIED)
    for fault in (hostile.refusing(404), hostile.refusing(503), hostile.page(206), hostile.resetting()):
        origin.misbehave(fault)
        with pytest.raises(ReadError):
            reader.read("item", asset_at(origin), whole(SHAPE))
        origin.behave()
        np.testing.assert_array_equal(reader.read("item", asset_at(origin), whole(SHAPE))[0], DN)


def test_no_query_and_no_password_in_an_error(origin: Origin, tiff: Tiff) -> None:
    href = asset_at(origin, "?sig=canary&se=1").href.replace("http://", "http://user:canary@")
    for kind, trouble in TROUBLES.items():
        if trouble.again and kind not in {"429", "cut", "reset"}:
            continue
        origin.misbehave(trouble.fault)
        with pytest.raises(ReadError) as caught:
            CogReader(HURRIED).read("item", asset_of(href, SHAPE), whole(SHAPE))
        assert "canary" not in repr(caught.value), kind
        assert "canary" not in caught.value.asset
        origin.behave()


# Redirects


def test_a_redirect_is_followed(origin: Origin, tiff: Tiff) -> None:
    tiff.save(origin.directory / "there.tif")
    origin.misbehave(hostile.moved("/there.tif"), "/red.tif")
    np.testing.assert_array_equal(read(origin), DN)


def test_a_redirect_to_another_host_carries_no_query_of_ours(origin: Origin, tiff: Tiff, tmp_path: Path) -> None:
    other_folder = tmp_path / "other"
    other_folder.mkdir()
    tiff.save(other_folder / "red.tif")
    with hostile_origin(other_folder, "127.0.0.6") as other:
        origin.misbehave(hostile.moved(f"{other.url}{{path}}"))
        asset = asset_at(origin, "?mine=canary")
        data, _ = CogReader(HURRIED).read("item", asset, whole(SHAPE))
        np.testing.assert_array_equal(data, DN)
        assert {asked.query for asked in origin.asked} == {"mine=canary"}
        assert {asked.query for asked in other.asked} == {""}


@pytest.mark.parametrize(
    "target", ["http://127.0.0.6:{port}/red.tif", "http://localhost:{port}/red.tif", "http://[::ffff:127.0.0.6]/a"]
)
def test_a_redirect_from_the_internet_to_a_private_place_is_refused(
    origin: Origin, tiff: Tiff, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    monkeypatch.setattr(ranges, "is_remote", lambda _: True)
    with hostile_origin(origin.directory, "127.0.0.6") as inner:
        origin.misbehave(hostile.moved(target.format(port=inner.url.rpartition(":")[2])))
        error = failing(origin)
        assert inner.asked == []
    assert "redirect" in str(error)
    assert origin.count() == 1


# Retries


def test_a_server_that_is_busy_is_asked_again_after_a_while(origin: Origin, tiff: Tiff) -> None:
    """Waits double, and are never the same."""
    patience = replace(HURRIED, tries=4, first_wait=0.2, longest_wait=10.0, deadline=10.0)
    origin.misbehave(hostile.refusing(503))
    failing(origin, patience)
    assert origin.count() == 4
    gaps = origin.gaps()
    for number, gap in enumerate(gaps):
        assert 0.1 * 2**number <= gap < 0.2 * 2**number + 0.5
    assert gaps[2] > gaps[0]


def test_readers_do_not_come_back_in_step(origin: Origin, tiff: Tiff) -> None:
    origin.misbehave(hostile.refusing(500), times=8)
    patience = replace(HURRIED, tries=3, first_wait=0.5, longest_wait=10.0, deadline=10.0)
    readers = [CogReader(patience) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda reader: reader.read("item", asset_at(origin), whole(SHAPE))[0], readers))
    assert all((data == DN).all() for data in found)
    firsts = [asked.time for asked in origin.asked if asked.status == 500]
    again = sorted(asked.time for asked in origin.asked if asked.status != 500)[:8]
    if len(firsts) == 8:  # a header shared by readers is asked for fewer times
        assert again[-1] - again[0] > 0.05


def later(seconds: float) -> str:
    return format_datetime(dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("said", "least", "most"),
    [
        ("1", 1.0, 1.8),
        ("date", 1.0, 2.8),
        ("86400", 1.5, 2.3),
        ("99999999999999999999999", 1.5, 2.3),
        ("0", 0.0, 0.5),
        ("-5", 0.0, 0.5),
        ("soon", 0.0, 0.5),
        ("1.5", 0.0, 2.3),
        ("²", 0.0, 0.5),
        ("Mon, 01 Jan 1990 00:00:00 GMT", 0.0, 0.5),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 1.5, 2.3),
        ("Mon, 99 Foo 2024 00:00:00 GMT", 0.0, 0.5),
    ],
)
def test_a_server_that_says_when_to_come_again_is_heard(
    origin: Origin, tiff: Tiff, status: int, said: str, least: float, most: float
) -> None:
    """Never before the time that it says, up to a cap (here 1.5 s)."""
    patience = replace(HURRIED, retry_after=1.5, deadline=8.0)
    origin.misbehave(
        hostile.refusing(status, later(2) if said == "date" else said.encode().decode("latin-1")), times=1
    )
    np.testing.assert_array_equal(read(origin, patience), DN)
    assert least <= origin.gaps()[0] < most


def test_a_server_that_puts_off_for_ever_is_given_up_in_time(origin: Origin, tiff: Tiff) -> None:
    origin.misbehave(hostile.refusing(429, "86400"))
    started = time.monotonic()
    error = failing(origin)
    assert time.monotonic() - started < HURRIED.deadline
    assert origin.count() <= HURRIED.tries
    assert min(origin.gaps()) >= HURRIED.retry_after
    assert not error.permanent
    assert "429" in str(error)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_what_is_final_is_asked_once(origin: Origin, tiff: Tiff, status: int) -> None:
    origin.misbehave(hostile.refusing(status))
    assert str(status) in str(failing(origin))
    assert origin.count() == 1


def many_blocks(origin: Origin) -> tuple[Asset, np.ndarray]:
    """A file whose blocks lie apart, so that each is a request: 256 of them."""
    dn = pixels((1024, 1024))
    options = {**TILED, "blockxsize": 64, "blockysize": 64}
    apart(write_tiff(origin.directory / "many.tif", dn, **options))
    return asset_of(f"{origin.url}/many.tif", dn.shape), dn


def test_requests_in_flight_to_a_host_are_bounded(origin: Origin) -> None:
    asset, dn = many_blocks(origin)
    origin.misbehave(hostile.slow(0.03))
    reader = CogReader(replace(HURRIED, deadline=30.0, silence=10.0))
    window = Window(0, 0, 512, 512)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: reader.read("item", asset, window)[0], range(4)))
    assert all((data == dn[window.slices]).all() for data in found)
    assert 4 < origin.most_open <= REQUESTS_PER_HOST


def test_a_host_that_is_busy_is_left_in_peace_by_all(origin: Origin) -> None:
    """What one request is told holds for the others to that host."""
    asset, dn = many_blocks(origin)
    reader = CogReader(replace(HURRIED, retry_after=5.0, deadline=20.0, silence=10.0))
    reader.read("item", asset, Window(0, 0, 1, 1))
    origin.asked.clear()
    origin.misbehave(hostile.refusing(429, "1"), times=1)
    origin.misbehave(hostile.slow(0.05))
    window = Window(0, 0, 1024, 512)
    np.testing.assert_array_equal(reader.read("item", asset, window)[0], dn[window.slices])
    told = origin.asked[0].time
    early = [asked for asked in origin.asked if asked.time - told < 0.95]
    assert len(early) <= REQUESTS_PER_HOST  # those that were on their way
    assert any(asked.time - told > 0.95 for asked in origin.asked)


def test_a_read_has_a_deadline_however_many_blocks_dawdle(origin: Origin) -> None:
    asset, _ = many_blocks(origin)
    reader = CogReader(replace(HURRIED, deadline=1.5, silence=1.0))
    reader.read("item", asset, Window(0, 0, 1, 1))
    origin.misbehave(hostile.halting(10))
    started = time.monotonic()
    with pytest.raises(ReadError) as caught:
        reader.read("item", asset, Window(0, 0, 1024, 1024))
    assert time.monotonic() - started < 3
    assert not caught.value.permanent


def test_nothing_goes_on_after_an_error(origin: Origin) -> None:
    """A read that failed asks for no more blocks, and what was on its way is broken off."""
    asset, _ = many_blocks(origin)
    reader = CogReader(HURRIED)
    reader.read("item", asset, Window(0, 0, 1, 1))
    origin.misbehave(hostile.refusing(404), times=1)
    origin.misbehave(hostile.slow(0.2))
    with pytest.raises(ReadError):
        reader.read("item", asset, Window(0, 0, 1024, 1024))
    time.sleep(0.5)
    assert origin.count() < 2 * REQUESTS_PER_HOST
    assert origin.open == 0


def test_a_read_does_not_fail_with_another_that_began_its_blocks(origin: Origin) -> None:
    asset, dn = many_blocks(origin)
    reader = CogReader(replace(HURRIED, silence=5.0, deadline=20.0))
    reader.read("item", asset, Window(0, 0, 1, 1))
    start, stop = Tiff(origin.directory / "many.tif").block(2)
    origin.misbehave(hostile.refusing(404), touching=(start, stop))
    origin.misbehave(hostile.slow(0.3))
    fails, goes_on = Window(0, 0, 96, 512), Window(64, 0, 64, 512)
    one, other = reader.start("item", asset, fails), reader.start("item", asset, goes_on)
    with pytest.raises(ReadError, match="404"):
        one.result()
    np.testing.assert_array_equal(other.result()[0], dn[goes_on.slices])


# Runs


@pytest.fixture
def archive(sandbox: Sandbox) -> Iterator[Origin]:
    with hostile_origin(sandbox.items.parent) as origin:
        yield origin


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cut", "404", "503", "trickling", "another range", "a page, 200"])
def test_a_run_leaves_out_or_fails_as_it_is_told(
    archive: Origin, sandbox: Sandbox, tmp_path: Path, kind: str
) -> None:
    """`skip`: the granule is not in, with a record. `raise`: its regions fail and the others go on."""
    items = search_items(f"{archive.url}/{sandbox.items.name}")
    policies: tuple[Literal["skip", "raise"], ...] = ("skip", "raise")
    plans = {
        policy: build_plan(items, RunConfig(crs="EPSG:32631", chunk=128, on_error=policy)) for policy in policies
    }
    lost = plans["skip"].granules[0]
    assert lost.id not in plans["skip"].spares
    archive.misbehave(TROUBLES[kind].fault, lost.nir.href.removeprefix(archive.url))
    reports, stores = {}, {}
    for policy, plan in plans.items():
        stores[policy] = open_store(str(tmp_path / f"{policy}.zarr"))
        patience = replace(HURRIED, tries=2, deadline=1.0)
        reports[policy] = runs.run(plan, stores[policy], reader=CogReader(patience), workers=4)
    assert not reports["skip"].failed
    assert list(reports["skip"].skipped) == [lost.id]
    assert lost.id in reports["skip"].skipped[lost.id]
    touched = {region for region in plans["raise"].regions() if lost in plans["raise"].granules_of(region)}
    assert set(reports["raise"].failed) == touched
    assert reports["raise"].done == reports["raise"].regions - len(touched) > 0

    archive.behave()
    without, expected = Wrapped(), open_store(str(tmp_path / "without.zarr"))
    without.broken = {lost.id}
    runs.run(plans["skip"], expected, reader=without)
    codes = [zarr.open_array(s.zarr(read_only=True), path="ndvi", mode="r")[:] for s in (stores["skip"], expected)]
    np.testing.assert_array_equal(codes[0], codes[1])
