"""Readers: the DN of any window, from any thread; an error for every file that is not what its item says."""

from __future__ import annotations

import math
import os
import pickle
import shutil
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from ndvi_scale.errors import ConfigError, ReadError
from ndvi_scale.granules import Asset, granule_from_item
from ndvi_scale.lattice import Window
from ndvi_scale.readers import READERS, Layout, Traffic, block_runs, open_reader, touched_blocks
from ndvi_scale.readers.rasterio import OPEN_FILES
from ndvi_scale.search import search_items

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    import services
    from ndvi_scale.readers import Reader
    from ndvi_scale.sandbox import Sandbox

CORNER = Affine(10, 0, 300_000, 0, -10, 4_900_020)
COG_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"


@dataclass(frozen=True)
class Stored:
    """A COG on disk, its pixels and its blocks."""

    path: Path
    dn: NDArray[Any]
    block: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.dn.shape

    def block_bytes(self, row: int, column: int) -> int:
        with rasterio.open(self.path) as source:
            return int(source.get_tag_item(f"BLOCK_SIZE_{column}_{row}", "TIFF", bidx=1) or 0)


def write_cog(path: Path, dn: NDArray[Any], block: int, epsg: int = 32631) -> Stored:
    draft = path.with_suffix(".draft")
    height, width = dn.shape
    profile = {"driver": "GTiff", "height": height, "width": width, "count": 1, "dtype": dn.dtype, "nodata": 0}
    with rasterio.open(draft, "w", **profile, crs=epsg, transform=CORNER) as file:
        file.write(dn, 1)
    # As the archives have it: blocks of zeros take no bytes.
    options = {"BLOCKSIZE": block, "COMPRESS": "DEFLATE", "PREDICTOR": "YES", "SPARSE_OK": "YES"}
    rasterio.shutil.copy(draft, path, driver="COG", **options)
    draft.unlink()
    return Stored(path, dn, block)


def pixels(height: int, width: int, seed: int = 0) -> NDArray[np.uint16]:
    """DN that compress by about a fifth, with a corner without data."""
    draw = np.random.default_rng(seed)
    coarse = draw.integers(1, 12_000, (height // 4 + 1, width // 4 + 1)).repeat(4, 0).repeat(4, 1)[:height, :width]
    dn = (coarse + draw.integers(0, 300, (height, width))).astype(np.uint16)
    dn[: height // 3, : width // 3] = 0
    return dn


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """Blocks of 128 that do not divide its shape."""
    return write_cog(tmp_path_factory.mktemp("small") / "small.tif", pixels(700, 900), 128)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    return write_cog(tmp_path_factory.mktemp("large") / "large.tif", pixels(2048, 2048), 512)


def asset_of(href: str | Path, shape: tuple[int, int], media_type: str = COG_TYPE, **changes: Any) -> Asset:
    geobox = GeoBox(shape, changes.pop("transform", CORNER), changes.pop("crs", "EPSG:32631"))
    assert not changes
    return Asset(str(href), geobox, media_type, 0, "for a test")


def windows(height: int, width: int) -> st.SearchStrategy[Window]:
    @st.composite
    def draw_window(draw: st.DrawFn) -> Window:
        row, column = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        return Window(row, column, draw(st.integers(1, height - row)), draw(st.integers(1, width - column)))

    return draw_window()


def cut(dn: NDArray[Any], window: Window) -> NDArray[Any]:
    return dn[window.row : window.row + window.height, window.column : window.column + window.width]


def whole(shape: tuple[int, int]) -> Window:
    return Window(0, 0, *shape)


@pytest.fixture(scope="module", params=["cog", "rasterio"])
def new_reader(request: pytest.FixtureRequest) -> Callable[[], Reader]:
    """Makes readers of either kind."""
    return partial(open_reader, request.param)


# Pixels


@pytest.mark.slow
@given(window=windows(700, 900))
def test_any_window_is_the_crop_of_the_whole(
    new_reader: Callable[[], Reader], small: Stored, window: Window
) -> None:
    data, _ = new_reader().read("item", asset_of(small.path, small.shape), window)
    assert data.dtype == np.uint16
    np.testing.assert_array_equal(data, cut(small.dn, window))


@pytest.mark.slow
@settings(max_examples=40)
@given(data=st.data())
def test_any_window_of_the_sandbox(new_reader: Callable[[], Reader], sandbox: Sandbox, data: st.DataObject) -> None:
    granule = granule_from_item(data.draw(st.sampled_from(search_items(sandbox.items))))
    band = data.draw(st.sampled_from(["red", "nir", "scl"]))
    window = data.draw(windows(*granule.assets[band].geobox.shape.yx))
    with rasterio.open(granule.assets[band].href) as source:
        expected = source.read(1)
    found, _ = new_reader().read(granule.id, granule.assets[band], window)
    assert found.dtype == (np.uint8 if band == "scl" else np.uint16)
    np.testing.assert_array_equal(found, cut(expected, window))


@pytest.mark.slow
def test_one_reader_in_many_threads(new_reader: Callable[[], Reader], small: Stored, large: Stored) -> None:
    reader = new_reader()
    draw = np.random.default_rng(1)
    jobs = []
    for _ in range(300):
        stored = (small, large)[draw.integers(2)]
        row, column = (int(draw.integers(side - 1)) for side in stored.shape)
        height, width = (
            int(draw.integers(1, side - at + 1)) for side, at in zip(stored.shape, (row, column), strict=True)
        )
        jobs.append((stored, Window(row, column, height, width)))
    with ThreadPoolExecutor(8) as pool:
        found = list(
            pool.map(lambda job: reader.read("item", asset_of(job[0].path, job[0].shape), job[1])[0], jobs)
        )
    for (stored, window), data in zip(jobs, found, strict=True):
        np.testing.assert_array_equal(data, cut(stored.dn, window))


def test_what_is_read_belongs_to_the_caller(new_reader: Callable[[], Reader], small: Stored) -> None:
    reader, asset, window = new_reader(), asset_of(small.path, small.shape), Window(300, 400, 50, 60)
    first, _ = reader.read("item", asset, window)
    first[:] = 7
    np.testing.assert_array_equal(reader.read("item", asset, window)[0], cut(small.dn, window))


def test_files_stay_open_but_not_many(small: Stored, tmp_path: Path) -> None:
    reader = open_reader("rasterio")
    for number in range(OPEN_FILES + 9):
        copy = tmp_path / f"{number}.tif"
        shutil.copy(small.path, copy)
        for _ in range(2):
            reader.read("item", asset_of(copy, small.shape), Window(0, 0, 10, 10))
    mine = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]
    assert sum(path.startswith(str(tmp_path)) for path in mine) == OPEN_FILES


def test_a_reader_can_be_sent_elsewhere(new_reader: Callable[[], Reader], small: Stored) -> None:
    reader, asset, window = new_reader(), asset_of(small.path, small.shape), Window(100, 200, 300, 400)
    reader.read("item", asset, window)  # with a file open
    there, sent = pickle.loads(pickle.dumps((reader, asset)))  # noqa: S301 - our own
    assert type(there) is type(reader)
    data, traffic = there.read("item", sent, window)
    np.testing.assert_array_equal(data, cut(small.dn, window))
    anew = new_reader().read("item", asset, window)[1]
    header = 1 if there.name == "cog" else 0  # which went along
    assert traffic == Traffic(anew.requests - header, anew.bytes)


def test_readers_by_name() -> None:
    for name in READERS:
        assert open_reader(name).name == name
    with pytest.raises(ConfigError, match="unknown reader 'cog3': give one of cog, rasterio"):
        open_reader("cog3")


def test_a_reader_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(READERS, "fast", ("no_such_module_at_all:Reader", "pip install no-such"))
    with pytest.raises(ConfigError, match=r"'fast' is not installed .*: pip install no-such"):
        open_reader("fast")


# Traffic


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 40), st.data())
def test_blocks_that_a_window_touches(height: int, width: int, block: int, data: st.DataObject) -> None:
    window = data.draw(windows(height, width))
    touched = np.zeros((math.ceil(height / block), math.ceil(width / block)), bool)
    rows = np.arange(window.row, window.row + window.height) // block
    columns = np.arange(window.column, window.column + window.width) // block
    touched[np.ix_(rows, columns)] = True
    found = np.zeros_like(touched)
    found[np.ix_(*touched_blocks(window, (block, block)))] = True
    np.testing.assert_array_equal(found, touched)
    # Runs of touched blocks in the order of the file.
    flat = np.concatenate([[False], touched.ravel()])
    assert block_runs(window, (block, block), width) == int((flat[1:] & ~flat[:-1]).sum())


@pytest.mark.slow
@given(window=windows(700, 900))
def test_traffic_is_that_of_the_touched_blocks(
    new_reader: Callable[[], Reader], small: Stored, window: Window
) -> None:
    _, traffic = new_reader().read("item", asset_of(small.path, small.shape), window)
    rows, columns = touched_blocks(window, (128, 128))
    blocks = sum(small.block_bytes(row, column) for row in rows for column in columns)
    assert 0 <= traffic.bytes - blocks <= 8 * len(rows) * len(columns)  # GDAL frames blocks, and runs hold frames
    assert 1 <= traffic.requests <= 1 + block_runs(window, (128, 128), 900)  # none for blocks without data


def test_a_header_counts_once(new_reader: Callable[[], Reader], small: Stored, tmp_path: Path) -> None:
    other = tmp_path / "other.tif"
    shutil.copy(small.path, other)
    reader = new_reader()
    apart = [Window(256, 256, 256, 256), Window(256, 512, 256, 256), Window(512, 256, 188, 256)]

    def requests(path: Path, window: Window) -> int:
        return reader.read("item", asset_of(path, small.shape), window)[1].requests

    found = [requests(small.path, window) for window in apart[:2]]
    with ThreadPoolExecutor(1) as elsewhere:
        found.append(elsewhere.submit(requests, small.path, apart[2]).result())
    found.append(requests(other, apart[0]))
    assert found == [3, 2, 2, 3]


def test_blocks_without_data_cost_nothing(new_reader: Callable[[], Reader], small: Stored) -> None:
    reader, asset = new_reader(), asset_of(small.path, small.shape)
    assert small.block_bytes(0, 0) == 0
    data, traffic = reader.read("item", asset, Window(0, 0, 128, 128))
    assert not data.any()
    assert traffic.bytes == 0
    assert reader.read("item", asset, Window(512, 512, 128, 128))[1].bytes == small.block_bytes(4, 4) > 10_000


def test_traffic_adds_up() -> None:
    assert sum([Traffic(1, 10), Traffic(2, 30)], Traffic()) == Traffic(3, 40)


def test_layout(new_reader: Callable[[], Reader], small: Stored, tmp_path: Path) -> None:
    sizes = [small.block_bytes(row, column) for row in range(6) for column in range(8)]
    reader = new_reader()
    layout = reader.layout("item", asset_of(small.path, small.shape))
    assert layout == Layout((128, 128), pytest.approx(sum(sizes) / len(sizes)), kept=reader.name == "cog")
    with pytest.raises(ReadError, match=r"absent.tif"):
        new_reader().layout("item", asset_of(tmp_path / "absent.tif", small.shape))


# Files that cannot be read


def truncated(small: Stored, path: Path) -> None:
    data = small.path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])


def as_driver(driver: str) -> Callable[[Stored, Path], None]:
    def make(small: Stored, path: Path) -> None:
        rasterio.shutil.copy(small.path, path, driver=driver)

    return make


def web_page(small: Stored, path: Path) -> None:
    path.write_text("<!DOCTYPE html><html><body>Sign in to go on</body></html>")


def empty(small: Stored, path: Path) -> None:
    path.write_bytes(b"")


def absent(small: Stored, path: Path) -> None:
    pass


def folder(small: Stored, path: Path) -> None:
    path.mkdir()


def garbage_inside(small: Stored, path: Path) -> None:
    data = bytearray(small.path.read_bytes())
    data[len(data) // 2 :] = b"\x55" * (len(data) - len(data) // 2)
    path.write_bytes(data)


UNREADABLE = {
    "absent": absent,
    "truncated": truncated,
    "garbage inside": garbage_inside,
    "a web page": web_page,
    "empty": empty,
    "a folder": folder,
    "a VRT": as_driver("VRT"),
    "a PNG": as_driver("PNG"),
}


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("kind", UNREADABLE)
def test_an_unreadable_file(new_reader: Callable[[], Reader], small: Stored, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "red.tif"
    UNREADABLE[kind](small, path)
    with pytest.raises(ReadError) as caught:
        new_reader().read("S2A_31TCJ", asset_of(path, small.shape), whole(small.shape))
    error = caught.value
    assert (error.item_id, error.asset, error.exit_code) == ("S2A_31TCJ", str(path), 6)
    assert all(part in str(error) for part in ("S2A_31TCJ", str(path), "on-error = skip")), str(error)


def test_a_vrt_is_not_followed(new_reader: Callable[[], Reader], small: Stored, tmp_path: Path) -> None:
    """An href is the catalog's word: it must not make us open whatever a VRT names."""
    as_driver("VRT")(small, tmp_path / "red.tif")
    with rasterio.open(tmp_path / "red.tif") as lured:  # GDAL itself would follow it
        assert lured.read(1).any()
    with pytest.raises(ReadError):
        new_reader().read("item", asset_of(tmp_path / "red.tif", small.shape), whole(small.shape))


def test_a_cut_file_gives_no_zeros(new_reader: Callable[[], Reader], small: Stored, tmp_path: Path) -> None:
    """Each window of it is right or an error."""
    truncated(small, tmp_path / "red.tif")
    reader, outcomes = new_reader(), set()
    for row in range(0, 700, 100):
        for column in range(0, 900, 100):
            window = Window(row, column, 100, 100)
            try:
                data, _ = reader.read("item", asset_of(tmp_path / "red.tif", small.shape), window)
            except ReadError:
                outcomes.add("error")
            else:
                np.testing.assert_array_equal(data, cut(small.dn, window))
                outcomes.add("right")
    assert outcomes == {"error", "right"}


@pytest.mark.parametrize(
    ("shape", "transform"),
    [
        ((700, 902), CORNER),
        ((1400, 1800), CORNER),
        ((900, 700), CORNER),
        ((700, 900), CORNER @ Affine.translation(1, 0)),
        ((700, 900), CORNER @ Affine.translation(0, -0.5)),
        ((700, 900), CORNER @ Affine.scale(2)),
    ],
)
def test_a_file_that_is_not_on_its_items_grid(
    new_reader: Callable[[], Reader], small: Stored, shape: tuple[int, int], transform: Affine
) -> None:
    with pytest.raises(ReadError) as caught:
        new_reader().read("item", asset_of(small.path, shape, transform=transform), Window(0, 0, 10, 10))
    said = ("700 x 900", f"{shape[0]} x {shape[1]}", "item item", str(small.path), "does not describe this file")
    assert all(part in str(caught.value) for part in said), str(caught.value)


def test_a_file_in_another_zone_than_its_item_says(new_reader: Callable[[], Reader], small: Stored) -> None:
    with pytest.raises(ReadError, match=r"small.tif"):
        new_reader().read("item", asset_of(small.path, small.shape, crs="EPSG:32630"), Window(0, 0, 10, 10))


def test_a_file_without_a_place(new_reader: Callable[[], Reader], tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        profile = {"driver": "GTiff", "height": 20, "width": 20, "count": 1, "dtype": "uint16"}
        with rasterio.open(tmp_path / "red.tif", "w", **profile) as file:
            file.write(np.ones((20, 20), np.uint16), 1)
    with pytest.raises(ReadError, match="does not describe this file"):
        new_reader().read("item", asset_of(tmp_path / "red.tif", (20, 20)), Window(0, 0, 10, 10))


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("kind", ["absent", "truncated", "a web page", "empty"])
def test_the_same_reader_reads_a_repaired_file(
    new_reader: Callable[[], Reader], small: Stored, tmp_path: Path, kind: str
) -> None:
    path, reader = tmp_path / "red.tif", new_reader()
    UNREADABLE[kind](small, path)
    asset = asset_of(path, small.shape)
    with pytest.raises(ReadError):
        reader.read("item", asset, whole(small.shape))
    shutil.copy(small.path, tmp_path / "whole.tif")
    (tmp_path / "whole.tif").replace(path)  # another file under its name, as downloads end
    data, _ = reader.read("item", asset, whole(small.shape))
    np.testing.assert_array_equal(data, small.dn)


# Over HTTP. GDAL keeps what it knows of an address, so each test has addresses of its own.


@pytest.fixture
def served(range_http: services.RangeServer, tmp_path: Path) -> Callable[[Stored, str], str]:
    """Serve a copy of a file and return its address; the server's memory is empty."""
    range_http.reset()

    def serve(stored: Stored, name: str) -> str:
        place = range_http.directory / tmp_path.name / name
        place.parent.mkdir(exist_ok=True)
        shutil.copy(stored.path, place)
        return f"{range_http.url}/{tmp_path.name}/{name}"

    return serve


def path_of(href: str) -> str:
    return "/" + href.split("/", 3)[3]


@pytest.mark.slow
@given(window=windows(700, 900))
@settings(max_examples=30)
def test_any_window_over_http(
    new_reader: Callable[[], Reader], small: Stored, range_http: services.RangeServer, window: Window
) -> None:
    place = range_http.directory / "any.tif"
    if not place.exists():
        shutil.copy(small.path, place)
    data, _ = new_reader().read("item", asset_of(f"{range_http.url}/any.tif", small.shape), window)
    np.testing.assert_array_equal(data, cut(small.dn, window))


@pytest.mark.parametrize("threads", [1, 4])
def test_requests_and_bytes_are_what_the_reader_says(
    new_reader: Callable[[], Reader],
    large: Stored,
    served: Callable[[Stored, str], str],
    range_http: services.RangeServer,
    threads: int,
) -> None:
    reader = new_reader()
    hrefs = [served(large, f"{threads}-{number}.tif") for number in range(3)]
    jobs = [(h, Window(y, x, 1024, 1024)) for y in (0, 1024) for x in (0, 1024) for h in hrefs]
    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(lambda job: reader.read("item", asset_of(job[0], large.shape), job[1]), jobs))
    for (_, window), (data, _) in zip(jobs, found, strict=True):
        np.testing.assert_array_equal(data, cut(large.dn, window))
    said = sum((traffic for _, traffic in found), Traffic())
    assert range_http.count() == pytest.approx(said.requests, rel=0.25)
    assert range_http.bytes_sent() == pytest.approx(said.bytes, rel=0.25)


def test_single_blocks_cost_no_more_than_the_reader_says(
    new_reader: Callable[[], Reader],
    large: Stored,
    served: Callable[[Stored, str], str],
    range_http: services.RangeServer,
) -> None:
    reader, href = new_reader(), served(large, "blocks.tif")
    said = Traffic()
    for row in range(0, 2048, 512):
        for column in range(0, 2048, 512):
            said += reader.read("item", asset_of(href, large.shape), Window(row, column, 512, 512))[1]
    assert range_http.count() <= 1.25 * said.requests
    assert range_http.bytes_sent() <= 1.25 * said.bytes


def test_nothing_but_the_file_is_asked_for(
    new_reader: Callable[[], Reader],
    large: Stored,
    served: Callable[[Stored, str], str],
    range_http: services.RangeServer,
) -> None:
    """No side-car, no listing of the folder: each would be a request, and a 404 to explain."""
    href = served(large, "alone.tif")
    new_reader().read("item", asset_of(href, large.shape), Window(0, 0, 512, 512))
    assert {request.path for request in range_http.requests} == {path_of(href)}


@pytest.mark.parametrize("status", [403, 404])
def test_an_address_that_is_refused(
    new_reader: Callable[[], Reader],
    small: Stored,
    served: Callable[[Stored, str], str],
    range_http: services.RangeServer,
    status: int,
) -> None:
    href = served(small, f"{status}.tif")
    range_http.fail(path_of(href), status)
    with pytest.raises(ReadError) as caught:
        new_reader().read("S2A_31TCJ", asset_of(href, small.shape), Window(0, 0, 10, 10))
    assert (caught.value.item_id, caught.value.asset) == ("S2A_31TCJ", href)
    assert all(part in str(caught.value) for part in (href, "S2A_31TCJ", str(status), "Run again"))


@pytest.mark.slow
def test_a_body_that_ends_too_early(
    new_reader: Callable[[], Reader],
    large: Stored,
    served: Callable[[Stored, str], str],
    range_http: services.RangeServer,
) -> None:
    href = served(large, "short.tif")
    range_http.truncate(path_of(href), 40_000)
    with pytest.raises(ReadError, match=r"short.tif of item item"):
        new_reader().read("item", asset_of(href, large.shape), Window(1024, 1024, 1024, 1024))


def test_a_page_in_place_of_a_file(new_reader: Callable[[], Reader], range_http: services.RangeServer) -> None:
    range_http.reset()
    (range_http.directory / "page.tif").write_text("<!DOCTYPE html><html>Sign in</html>")
    with pytest.raises(ReadError, match=r"page.tif"):
        new_reader().read("item", asset_of(f"{range_http.url}/page.tif", (700, 900)), Window(0, 0, 10, 10))


def test_a_server_that_is_busy_for_a_moment_is_asked_again(
    new_reader: Callable[[], Reader],
    small: Stored,
    served: Callable[[Stored, str], str],
    range_http: services.RangeServer,
) -> None:
    href = served(small, "busy.tif")
    range_http.fail(path_of(href), 503)
    timer = threading.Timer(0.3, range_http.statuses.clear)
    timer.start()
    data, _ = new_reader().read("item", asset_of(href, small.shape), whole(small.shape))
    timer.join()
    np.testing.assert_array_equal(data, small.dn)
    assert {503, 206} <= {request.status for request in range_http.requests}


@pytest.mark.slow
@pytest.mark.parametrize("fault", [403, 404, "short"])
def test_the_same_reader_reads_a_repaired_address(
    new_reader: Callable[[], Reader],
    small: Stored,
    served: Callable[[Stored, str], str],
    range_http: services.RangeServer,
    fault: int | str,
) -> None:
    """A failure of the origin must not outlast itself: a session, or a worker, lives on."""
    href, reader = served(small, f"repaired-{fault}.tif"), new_reader()
    if fault == "short":
        range_http.truncate(path_of(href), 20_000)
    else:
        range_http.fail(path_of(href), int(fault))
    with pytest.raises(ReadError):
        reader.read("item", asset_of(href, small.shape), whole(small.shape))
    range_http.reset()
    data, _ = reader.read("item", asset_of(href, small.shape), whole(small.shape))
    np.testing.assert_array_equal(data, small.dn)
