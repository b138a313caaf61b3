"""What `cog` does beyond reading right (for that: `test_readers`): what it asks for, keeps and shares."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from ndvi_scale.errors import ReadError
from ndvi_scale.granules import Asset
from ndvi_scale.kernels.blocks import place
from ndvi_scale.lattice import Window
from ndvi_scale.readers import Traffic, blocks, one_ahead
from ndvi_scale.readers.cog import CogReader
from ndvi_scale.readers.patience import Patience

if TYPE_CHECKING:
    from collections.abc import Callable

    from services import RangeServer

HERE = Path(__file__).parent
CORNER = Affine(10, 0, 300_000, 0, -10, 4_900_020)
SIDE, BLOCK = 1000, 256


@pytest.fixture(scope="module")
def dn() -> np.ndarray:
    return np.random.default_rng(3).integers(1, 9000, (SIDE, SIDE), np.uint16)


@pytest.fixture(scope="module")
def image(dn: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import rasterio
    import rasterio.shutil

    folder = tmp_path_factory.mktemp("cog")
    profile: dict[str, Any] = {"driver": "GTiff", "height": SIDE, "width": SIDE, "count": 1, "dtype": "uint16"}
    with rasterio.open(folder / "draft.tif", "w", **profile, crs=32631, transform=CORNER) as file:
        file.write(dn, 1)
    options = {"BLOCKSIZE": BLOCK, "COMPRESS": "DEFLATE", "PREDICTOR": "YES"}
    rasterio.shutil.copy(folder / "draft.tif", folder / "image.tif", driver="COG", **options)
    return folder / "image.tif"


@pytest.fixture
def served(image: Path, range_http: RangeServer, tmp_path: Path) -> Callable[[str], Asset]:
    """Serves the image under a name of its own; what the server was asked before is forgotten."""
    range_http.reset()

    def serve(name: str) -> Asset:
        folder = range_http.directory / tmp_path.name
        folder.mkdir(exist_ok=True)
        shutil.copy(image, folder / name)
        return asset_of(f"{range_http.url}/{tmp_path.name}/{name}")

    return serve


def asset_of(href: object) -> Asset:
    return Asset(str(href), GeoBox((SIDE, SIDE), CORNER, "EPSG:32631"), "image/tiff", 0, "for a test")


def cut(dn: np.ndarray, window: Window) -> np.ndarray:
    return dn[window.slices]


WINDOWS = [Window(row, column, 300, 300) for row in (0, 300, 600) for column in (0, 300, 600)]
"""Nine windows side by side, none of whose borders is one of blocks."""


def test_no_block_twice_and_no_header_twice(
    served: Callable[[str], Asset], range_http: RangeServer, dn: np.ndarray, image: Path
) -> None:
    reader, asset, total = CogReader(), served("once.tif"), Traffic()
    for window in WINDOWS:
        found, traffic = reader.read("item", asset, window)
        np.testing.assert_array_equal(found, cut(dn, window))
        total += traffic
    assert range_http.count() == total.requests <= 1 + 16
    assert range_http.bytes_sent() == total.bytes + (32 << 10) <= image.stat().st_size + (32 << 10)


def test_windows_at_once_share_what_is_on_its_way(
    served: Callable[[str], Asset], range_http: RangeServer, dn: np.ndarray
) -> None:
    reader, asset = CogReader(), served("shared.tif")
    with ThreadPoolExecutor(9) as pool:
        found = list(pool.map(lambda window: reader.read("item", asset, window), WINDOWS))
    for window, (data, _) in zip(WINDOWS, found, strict=True):
        np.testing.assert_array_equal(data, cut(dn, window))
    total = sum((traffic for _, traffic in found), Traffic())
    assert range_http.count() == total.requests <= 1 + 16


def test_what_is_kept_is_bounded(image: Path, dn: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "CACHE_BYTES", 300_000)
    reader, asset = CogReader(), asset_of(image)
    for window in WINDOWS:
        np.testing.assert_array_equal(reader.read("item", asset, window)[0], cut(dn, window))
        state = reader._here()
        kept = sum(entry.size for entry in state._kept.values())
        assert kept == state._bytes <= 300_000


def test_nothing_is_kept_of_blocks_that_nobody_will_want(image: Path) -> None:
    reader, asset = CogReader(), asset_of(image)
    reader.read("item", asset, Window(0, 0, 512, 512))
    reader.read("item", asset, Window(512, 768, 488, 232))
    assert not reader._here()._kept
    for window in (Window(0, 512, 512, 400), Window(0, 912, 512, 88)):  # two halves of blocks
        reader.read("item", asset, window)
    assert not reader._here()._kept


def test_blocks_of_windows_that_overlap_are_fetched_once(
    served: Callable[[str], Asset], range_http: RangeServer, dn: np.ndarray
) -> None:
    """Each window reaches 40 pixels into those around it, after whose own pixels the block would be let go."""
    reader, asset, total = CogReader(), served("shared.tif"), Traffic()
    for row in range(0, SIDE, 256):
        for column in range(0, SIDE, 256):
            grown = Window(row, column, 256, 256).grown(40).overlap(Window(0, 0, SIDE, SIDE))
            data, traffic = reader.start("item", asset, grown, shared=True).result()
            np.testing.assert_array_equal(data, cut(dn, grown))
            total += traffic
    between = 8 * 16  # bytes between neighbours
    assert 0 <= total.bytes - int(reader._headers[asset.href, 1].sizes.sum()) <= between
    assert range_http.count() == total.requests


@given(data=st.data())
def test_any_windows_in_any_order(image: Path, dn: np.ndarray, data: st.DataObject) -> None:
    reader, asset = CogReader(), asset_of(image)
    for _ in range(data.draw(st.integers(1, 6))):
        row, column = (data.draw(st.integers(0, SIDE - 1)) for _ in range(2))
        height, width = (data.draw(st.integers(1, SIDE - at)) for at in (row, column))
        window = Window(row, column, height, width)
        np.testing.assert_array_equal(reader.read("item", asset, window)[0], cut(dn, window))


def test_headers_travel_with_the_reader(
    served: Callable[[str], Asset], range_http: RangeServer, dn: np.ndarray
) -> None:
    reader, assets = CogReader(), [served(f"{number}.tif") for number in range(5)]
    reader.learn(assets)
    assert range_http.count() == 5
    there = pickle.loads(pickle.dumps(reader))  # noqa: S301 - our own
    for asset in assets:
        data, traffic = there.read("item", asset, Window(256, 256, 256, 256))
        np.testing.assert_array_equal(data, cut(dn, Window(256, 256, 256, 256)))
        assert traffic.requests == 1
    assert range_http.count() == 10


def test_learning_leaves_errors_to_the_reads(served: Callable[[str], Asset], range_http: RangeServer) -> None:
    reader, asset = CogReader(Patience(tries=1)), served("there.tif")
    reader.learn([asset_of(f"{asset.href}.absent"), asset])
    assert set(reader._headers) == {(asset.href, 1)}


def test_what_was_read_ahead_is_taken_once(
    served: Callable[[str], Asset], range_http: RangeServer, dn: np.ndarray
) -> None:
    reader, asset, window = CogReader(), served("ahead.tif"), Window(100, 200, 300, 400)
    for _ in range(3):
        reader.prefetch("item", asset, window)
    found, traffic = reader.read("item", asset, window)
    np.testing.assert_array_equal(found, cut(dn, window))
    assert range_http.count() == traffic.requests
    assert not reader._ahead
    np.testing.assert_array_equal(reader.read("item", asset, window)[0], cut(dn, window))


def test_what_went_wrong_ahead_is_told_when_asked_for(served: Callable[[str], Asset]) -> None:
    reader, asset = CogReader(Patience(tries=1)), served("there.tif")
    away = asset_of(f"{asset.href}.absent")
    reader.prefetch("item", away, WINDOWS[0])
    with pytest.raises(ReadError, match="404"):
        reader.read("item", away, WINDOWS[0])


def forked(asset: Asset, child: str) -> int:
    """Exit code of a process that reads an asset and forks one that runs `child`."""
    code = f"""
import os, sys
sys.path[:0] = {[str(HERE)]!r}
from test_readers_cog import CogReader, ReadError, Window, asset_of
reader, asset = CogReader(), asset_of({asset.href!r})
reader.read("item", asset, Window(0, 0, 300, 300))
process = os.fork()
if process == 0:
{indent(child, "    ")}
assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
reader.read("item", asset, Window(5, 5, 5, 5))
"""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code]
    return subprocess.run(command, check=False, timeout=50).returncode


@pytest.mark.slow
def test_a_forked_child_reads_too(image: Path, dn: np.ndarray) -> None:
    """A pool that forks copies a loop whose thread stays behind."""
    child = f"""
again, _ = reader.read("item", asset, Window(100, 100, 300, 300))
os._exit(0 if again[0, 0] == {int(dn[100, 100])} else 3)
"""
    assert forked(asset_of(image), child) == 0


@pytest.mark.slow
def test_a_child_forked_after_http_is_told_what_to_do(served: Callable[[str], Asset]) -> None:
    child = """
try:
    reader.read("item", asset, Window(500, 500, 300, 300))
except ReadError as error:
    os._exit(0 if "spawn" in str(error) else 3)
os._exit(4)
"""
    assert forked(served("fork.tif"), child) == 0


@pytest.mark.slow
def test_processes_end_cleanly(served: Callable[[str], Asset]) -> None:
    """Native threads that outlive the interpreter end a process by a signal."""
    asset = served("end.tif")
    code = f"""
import sys
sys.path[:0] = {[str(HERE)]!r}
from test_readers_cog import CogReader, Window, asset_of
reader = CogReader()
reader.read("item", asset_of({asset.href!r}), Window(0, 0, 900, 900))
reader.start("item", asset_of({asset.href!r}), Window(100, 0, 900, 900))  # and nobody waits for it
"""
    for _ in range(3):
        assert subprocess.run([sys.executable, "-c", code], check=False, timeout=50).returncode == 0


# Parts


@given(st.integers(1, 9), st.integers(1, 40), st.sampled_from([np.uint8, np.uint16]), st.data())
def test_placing_undoes_the_predictor(height: int, width: int, dtype: type, data: st.DataObject) -> None:
    top = np.iinfo(dtype).max
    pixels = np.random.default_rng(data.draw(st.integers(0, 99))).integers(
        0, top, (height, width), dtype, endpoint=True
    )
    row, column = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    rows, columns = data.draw(st.integers(1, height - row)), data.draw(st.integers(1, width - column))
    differences = np.diff(pixels, axis=1, prepend=dtype(0))  # wraps, as TIFF's predictor does
    for stored, predictor in ((pixels, 1), (differences, 2)):
        out = np.full((rows + 2, columns + 3), 7, dtype)
        place(stored, predictor, (row, column), out[1:-1, 2:-1])
        np.testing.assert_array_equal(out[1:-1, 2:-1], pixels[row : row + rows, column : column + columns])
        assert (out[0] == 7).all()
        assert (out[:, :2] == 7).all()


@given(st.integers(0, 9))
def test_one_ahead(count: int) -> None:
    log: list[str] = []

    def things() -> Any:
        for number in range(count):
            log.append(f"start {number}")
            yield number

    ahead = one_ahead(things())
    assert log == ["start 0"][:count]
    for number in ahead:
        assert f"start {min(number + 1, count - 1)}" in log
        assert f"start {number + 2}" not in log
        log.append(f"use {number}")
    assert [entry for entry in log if entry.startswith("use")] == [f"use {number}" for number in range(count)]


def test_waits_grow_and_believe_the_server_up_to_a_cap() -> None:
    patience = Patience(first_wait=1, longest_wait=8, retry_after=60)
    for tries, most in ((1, 1), (2, 2), (3, 4), (4, 8), (9, 8)):
        waits = [patience.wait(tries) for _ in range(50)]
        assert most / 2 <= min(waits) <= max(waits) <= most
        assert len(set(waits)) > 40, "without jitter all come back at once"
    assert patience.wait(1, said=30) == 30
    assert patience.wait(1, said=86_400) == 60


def test_where_nobody_answers_is_not_asked_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(Patience, "wait", lambda *_, **__: waits.append(0.01) or 0.01)
    reader = CogReader(Patience(deadline=50.5))  # connections and memory of its own
    for number in range(4):
        with pytest.raises(ReadError, match="refused") as caught:
            reader.read("item", asset_of(f"http://127.0.0.1:9/{number}.tif"), Window(0, 0, 9, 9))
        assert not caught.value.permanent
    assert len(waits) == 3 + 1 + 1 + 1
