"""What a file must be to be read at all, and what can be said of one that cannot be read."""

from __future__ import annotations

import logging
import shutil
import socket
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio
from affine import Affine

from ndvi_scale.errors import ItemError, ReadError
from ndvi_scale.granules import granule_from_item
from ndvi_scale.lattice import Window
from ndvi_scale.readers import READERS, gdal, open_reader
from ndvi_scale.readers.gdal import without_queries
from test_granules import feature, to_item
from test_readers import CORNER, UNREADABLE, Stored, asset_of, cut, pixels, whole, write_cog

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import services

pytestmark = pytest.mark.slow  # servers that answer badly, and pauses between tries

FIRST = Window(0, 0, 10, 10)


@pytest.fixture(scope="module")
def cog(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    return write_cog(tmp_path_factory.mktemp("cog") / "cog.tif", pixels(700, 900), 128)


def failing(name: str, href: str | Path, shape: tuple[int, int] = (700, 900), window: Window = FIRST) -> ReadError:
    with pytest.raises(ReadError) as caught:
        open_reader(name).read("item", asset_of(href, shape), window)
    return caught.value


# Formats and sizes


def write_tiff(path: Path, shape: tuple[int, int] = (20, 20), **changes: Any) -> Path:
    profile = {"driver": "GTiff", "height": shape[0], "width": shape[1], "count": 1, "dtype": "uint16", **changes}
    with rasterio.open(path, "w", **profile, crs=32631, transform=CORNER) as file:
        if shape[0] < 1000:
            file.write(np.ones((profile["count"], *shape), profile["dtype"]))
    return path


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("dtype", ["int16", "float32", "float64", "complex64", "uint32"])
def test_other_types_than_sentinel_2s(tmp_path: Path, name: str, dtype: str) -> None:
    error = failing(name, write_tiff(tmp_path / "a.tif", dtype=dtype), (20, 20))
    assert f"it holds {dtype}, Sentinel-2 L2A uint8 or uint16" in str(error)
    assert error.permanent


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("count", [2, 3])
def test_more_than_one_band(tmp_path: Path, name: str, count: int) -> None:
    error = failing(name, write_tiff(tmp_path / "a.tif", count=count), (20, 20))
    assert f"it has {count} bands" in str(error)
    assert error.permanent


@pytest.mark.parametrize("name", READERS)
def test_blocks_that_would_take_all_memory(tmp_path: Path, name: str) -> None:
    """A few kB on disk that decode to 20 GB a block: refused by their header."""
    shape = (100_000, 100_000)
    path = write_tiff(tmp_path / "a.tif", shape, tiled=True, blockxsize=99_984, blockysize=99_984, sparse_ok=True)
    assert path.stat().st_size < 100_000
    error = failing(name, path, shape)
    assert "its blocks are 99984 x 99984 pixels" in str(error)
    assert error.permanent


@pytest.mark.parametrize("name", READERS)
def test_a_whole_band_in_one_block_is_read(tmp_path: Path, name: str) -> None:
    path = write_tiff(
        tmp_path / "a.tif", (10980, 10980), tiled=True, blockxsize=10992, blockysize=10992, sparse_ok=True
    )
    data, _ = open_reader(name).read("item", asset_of(path, (10980, 10980)), FIRST)
    assert not data.any()


@pytest.mark.parametrize("shape", [[10**9, 10980], [10980, 100_001], [0, 10980], [-5, 10980], [1_000_001, 10]])
def test_a_grid_that_no_zone_holds(shape: list[int]) -> None:
    document = feature()
    document["assets"]["red"]["proj:shape"] = shape
    with pytest.raises(ItemError, match="a UTM zone holds at most 1000000 x 100000 pixels of 10 m"):
        granule_from_item(to_item(document))


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("prefix", ["GTIFF_DIR:1:", "GTIFF_DIR:off:8:", "GTIFF_RAW:"])
def test_gdals_special_names_are_files_names_here(cog: Stored, name: str, prefix: str) -> None:
    """`granules` refuses them before; a reader that is given one does not open what it stands for either."""
    document = feature()
    document["assets"]["red"]["href"] = f"{prefix}{cog.path}"
    with pytest.raises(ItemError, match="names a GDAL driver"):
        granule_from_item(to_item(document))


@pytest.mark.parametrize("name", READERS)
def test_side_cars_change_nothing(cog: Stored, tmp_path: Path, name: str) -> None:
    """Files that lie beside an asset, as a hostile archive may have them: statistics, grid, overviews, masks."""
    path = tmp_path / "a.tif"
    shutil.copy(cog.path, path)
    grid = "<GeoTransform>0, 1, 0, 0, 0, -1</GeoTransform>"
    (tmp_path / "a.tif.aux.xml").write_text(f"<PAMDataset><SRS>EPSG:4326</SRS>{grid}</PAMDataset>")
    (tmp_path / "a.tfw").write_text("1\n0\n0\n-1\n0\n0\n")
    (tmp_path / "a.tif.ovr").write_text("<VRTDataset rasterXSize='450' rasterYSize='350'></VRTDataset>")
    shutil.copy(cog.path, tmp_path / "a.tif.msk")
    data, _ = open_reader(name).read("item", asset_of(path, cog.shape), whole(cog.shape))
    np.testing.assert_array_equal(data, cog.dn)


@pytest.mark.parametrize("name", READERS)
def test_a_jp2_that_calls_itself_tiff_and_the_other_way_round(cog: Stored, tmp_path: Path, name: str) -> None:
    jp2 = tmp_path / "a.jp2"
    rasterio.shutil.copy(cog.path, jp2, driver="JP2OpenJPEG", QUALITY="100", REVERSIBLE="YES")
    for path, kind in ((jp2, "image/tiff"), (cog.path, "image/jp2")):
        with pytest.raises(ReadError) as caught:
            open_reader(name).read("item", asset_of(path, cog.shape, kind), FIRST)
        assert caught.value.permanent


@pytest.mark.parametrize("name", READERS)
def test_a_file_that_becomes_a_vrt_is_not_followed(cog: Stored, tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.tif"
    rasterio.shutil.copy(cog.path, path, driver="VRT")
    assert failing(name, path).permanent


# What can be said of a failure


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_local_file_that_cannot_be_read_stays_so(cog: Stored, tmp_path: Path, kind: str, name: str) -> None:
    UNREADABLE[kind](cog, tmp_path / "a.tif")
    assert failing(name, tmp_path / "a.tif", window=whole(cog.shape)).permanent


@pytest.mark.parametrize("name", READERS)
def test_another_grid_stays_so(cog: Stored, name: str) -> None:
    assert failing(name, cog.path, (700, 902)).permanent


@pytest.fixture
def place(range_http: services.RangeServer, tmp_path: Path) -> Iterator[Path]:
    """A folder that is served, of this test alone: GDAL keeps what it knows of an address."""
    range_http.reset()
    folder = range_http.directory / tmp_path.name
    folder.mkdir()
    yield folder
    range_http.reset()


def served(range_http: services.RangeServer, folder: Path, cog: Stored, name: str = "a.tif") -> tuple[str, str]:
    shutil.copy(cog.path, folder / name)
    path = f"/{folder.name}/{name}"
    return f"{range_http.url}{path}", path


PERMANENT = {401: False, 403: False, 404: True, 410: True, 429: False, 500: False, 502: False, 503: False}


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """One try more, at once: how often GDAL asks again is not what is tested."""
    monkeypatch.setitem(gdal.GDAL_OPTIONS, "GDAL_HTTP_MAX_RETRY", "1")
    monkeypatch.setitem(gdal.GDAL_OPTIONS, "GDAL_HTTP_RETRY_DELAY", "0.05")


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("status", PERMANENT)
def test_what_a_server_answers_at_first(
    range_http: services.RangeServer, place: Path, cog: Stored, status: int, name: str
) -> None:
    href, path = served(range_http, place, cog)
    range_http.fail(path, status)
    error = failing(name, href)
    assert error.permanent is PERMANENT[status]
    assert str(status) in str(error)


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("status", PERMANENT)
def test_what_a_server_answers_later(
    range_http: services.RangeServer, place: Path, cog: Stored, status: int
) -> None:
    """A file that was open: GDAL says "read failed", and the status only as a warning."""
    href, path = served(range_http, place, cog)
    reader = open_reader()
    reader.read("item", asset_of(href, cog.shape), FIRST)
    range_http.fail(path, status)
    with pytest.raises(ReadError) as caught:
        reader.read("item", asset_of(href, cog.shape), Window(512, 512, 100, 100))
    assert caught.value.permanent is PERMANENT[status], str(caught.value)
    assert str(status) in str(caught.value)


@pytest.mark.parametrize("name", READERS)
def test_an_answer_that_is_cut_once_is_asked_for_again(
    range_http: services.RangeServer, place: Path, cog: Stored, name: str
) -> None:
    href, path = served(range_http, place, cog)
    range_http.truncate(path, 40_000)

    class Once(dict[str, int]):
        def get(self, key: str, default: int) -> int:  # type: ignore[override]
            return super().pop(key, default) if default > 40_000 else default

    range_http.truncations = Once(range_http.truncations)
    data, _ = open_reader(name).read("item", asset_of(href, cog.shape), whole(cog.shape))
    range_http.truncations = {}
    np.testing.assert_array_equal(data, cog.dn)
    assert any(request.sent == 40_000 for request in range_http.requests)


@pytest.mark.parametrize("name", READERS)
def test_a_file_that_is_cut_stays_so(range_http: services.RangeServer, place: Path, cog: Stored, name: str) -> None:
    href, _ = served(range_http, place, cog)
    data = (place / "a.tif").read_bytes()
    (place / "a.tif").write_bytes(data[: len(data) * 6 // 10])
    assert failing(name, href, window=whole(cog.shape)).permanent


def test_garbage_over_http_stays_so(range_http: services.RangeServer, place: Path, cog: Stored) -> None:
    href, _ = served(range_http, place, cog)
    UNREADABLE["garbage inside"](cog, place / "a.tif")
    assert failing("rasterio", href, window=whole(cog.shape)).permanent


def test_a_page_over_http_stays_so(range_http: services.RangeServer, place: Path, cog: Stored) -> None:
    href, _ = served(range_http, place, cog)
    (place / "a.tif").write_text("<!DOCTYPE html><html>Sign in</html>")
    assert failing("rasterio", href).permanent


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("href", ["http://127.0.0.1:1/a.tif", "http://no-such-host.invalid/a.tif"])
def test_a_host_that_is_not_there_may_come_back(href: str, name: str) -> None:
    assert not failing(name, href).permanent


@pytest.mark.usefixtures("hurried")
def test_a_server_that_is_silent_may_wake_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gdal.GDAL_OPTIONS, "GDAL_HTTP_TIMEOUT", "1")
    monkeypatch.setitem(gdal.GDAL_OPTIONS, "GDAL_HTTP_MAX_RETRY", "0")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        error = failing("rasterio", f"http://127.0.0.1:{silent.getsockname()[1]}/a.tif")
    assert not error.permanent
    assert "timed out" in str(error).lower()


@pytest.mark.usefixtures("hurried")
def test_a_connection_that_is_reset_may_hold_the_next_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            while True:
                try:
                    server.accept()[0].close()
                except OSError:
                    return

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        error = failing("rasterio", f"http://127.0.0.1:{server.getsockname()[1]}/a.tif")
        server.shutdown(socket.SHUT_RDWR)
    assert not error.permanent


def test_where_warnings_are_not_heard_nothing_is_called_permanent(
    range_http: services.RangeServer, place: Path, cog: Stored
) -> None:
    href, _ = served(range_http, place, cog)
    data = (place / "a.tif").read_bytes()
    (place / "a.tif").write_bytes(data[: len(data) * 6 // 10])
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        assert not failing("rasterio", href, window=whole(cog.shape)).permanent
    finally:
        logging.disable(level)


def test_warnings_are_heard_where_they_are_not_shown(
    range_http: services.RangeServer, place: Path, cog: Stored, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """As the command line has it: rasterio may log errors only."""
    monkeypatch.setattr(logging.getLogger("rasterio"), "level", logging.ERROR)
    monkeypatch.setattr(logging.getLogger("rasterio._err"), "level", logging.NOTSET)
    logging.getLogger("rasterio._err").manager._clear_cache()  # type: ignore[attr-defined]
    href, path = served(range_http, place, cog)
    reader = open_reader()
    reader.read("item", asset_of(href, cog.shape), FIRST)
    range_http.fail(path, 404)
    with pytest.raises(ReadError) as caught:
        reader.read("item", asset_of(href, cog.shape), Window(300, 0, 400, 900))
    assert caught.value.permanent
    assert "response_code" not in "".join(capsys.readouterr())
    (place / "b.tif").write_bytes(cog.path.read_bytes()[: cog.path.stat().st_size // 2])
    assert failing("rasterio", href.replace("a.tif", "b.tif"), window=whole(cog.shape)).permanent
    monkeypatch.undo()
    logging.getLogger("rasterio._err").manager._clear_cache()  # type: ignore[attr-defined]


def test_a_failure_says_nothing_of_another_threads(
    range_http: services.RangeServer, place: Path, cog: Stored
) -> None:
    """What was heard of a server's 503 must not make a corrupt file of another place temporary."""
    href, path = served(range_http, place, cog)
    reader = open_reader()
    reader.read("item", asset_of(href, cog.shape), FIRST)
    range_http.fail(path, 403)
    with pytest.raises(ReadError):
        reader.read("item", asset_of(href, cog.shape), Window(512, 512, 100, 100))
    (place / "b.tif").write_bytes(cog.path.read_bytes()[: cog.path.stat().st_size // 2])
    assert failing("rasterio", place / "b.tif", window=whole(cog.shape)).permanent


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cannot read https://a.org/b.tif?sv=1&sig=x%3D: 403", "cannot read https://a.org/b.tif 403"),
        ("'/vsicurl/https://a.org/b.tif?sig=x' not recognized", "'/vsicurl/https://a.org/b.tif' not recognized"),
        ("what? nothing", "what? nothing"),
    ],
)
def test_messages_without_queries(text: str, expected: str) -> None:
    assert without_queries(text) == expected


@pytest.mark.parametrize("name", READERS)
def test_windows_of_a_grid_far_away(tmp_path: Path, name: str) -> None:
    """Southern zones, 20 m: the grid of an asset is its own."""
    transform = Affine(20, 0, 399_960, 0, -20, 10_000_000)
    dn = pixels(90, 110)
    profile = {"driver": "GTiff", "height": 90, "width": 110, "count": 1, "dtype": "uint16", "crs": 32741}
    with rasterio.open(tmp_path / "a.tif", "w", **profile, transform=transform) as file:
        file.write(dn, 1)
    asset = asset_of(tmp_path / "a.tif", (90, 110), transform=transform, crs="EPSG:32741")
    window = Window(7, 90, 80, 20)
    np.testing.assert_array_equal(open_reader(name).read("item", asset, window)[0], cut(dn, window))
