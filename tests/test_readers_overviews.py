"""Overviews as readers read them: the DN that GDAL shows at that size, for any window of any kind of file."""

from __future__ import annotations

import dataclasses
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crafted_tiffs import Tiff
from ndvi_scale.errors import ReadError
from ndvi_scale.granules import Asset, granule_from_item
from ndvi_scale.lattice import Window, coarser_grid
from ndvi_scale.readers import READERS, Traffic, open_reader
from ndvi_scale.readers.cog import CogReader
from ndvi_scale.readers.directory import directories
from ndvi_scale.search import search_items
from test_readers import CORNER, asset_of, pixels, whole, windows

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    import services

NAMES = ["cog", "rasterio"]
SHAPE = (704, 896)


def write(path: Path, dtype: str = "uint16", **options: Any) -> Path:
    """A COG in blocks of 128 with overviews, a corner of which holds nothing but nodata."""
    draft = path.with_suffix(".draft")
    dn = pixels(*SHAPE).astype(dtype)
    height, width = SHAPE
    profile = {"driver": "GTiff", "height": height, "width": width, "count": 1, "dtype": dtype, "nodata": 0}
    with rasterio.open(
        draft, "w", **{**profile, **options.pop("profile", {})}, crs=32631, transform=CORNER
    ) as file:
        file.write(dn, 1)
    usual = {"BLOCKSIZE": 128, "COMPRESS": "DEFLATE", "PREDICTOR": "YES", "SPARSE_OK": "YES"}
    rasterio.shutil.copy(draft, path, driver="COG", **{**usual, **options})
    draft.unlink()
    return path


def overview(path: object, reduction: int, shape: tuple[int, int] = SHAPE) -> Asset:
    asset = asset_of(str(path), shape)
    return dataclasses.replace(asset, geobox=coarser_grid(asset.geobox, reduction), overview=reduction)


def shown(path: Path, reduction: int) -> NDArray[Any]:
    """A whole overview, by its place in GDAL's list."""
    with rasterio.open(path) as source:
        level = source.overviews(1).index(reduction)
    with rasterio.open(path, overview_level=level) as source:
        return source.read(1)


KINDS: dict[str, dict[str, Any]] = {
    "as usual": {},
    "classes": {"dtype": "uint8", "OVERVIEW_RESAMPLING": "NEAREST"},
    "BigTIFF": {"BIGTIFF": "YES"},
    "without predictor": {"PREDICTOR": "NO"},
    "ZSTD": {"COMPRESS": "ZSTD"},
    "LZW": {"COMPRESS": "LZW"},
    "another compression": {"OVERVIEW_COMPRESS": "LZMA"},
    "another nodata": {"profile": {"nodata": 7}},
    "no nodata": {"profile": {"nodata": None}},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reduction", [2, 4])
def test_an_overview_is_what_gdal_shows(tmp_path: Path, kind: str, reduction: int, name: str) -> None:
    path, reader = write(tmp_path / "a.tif", **KINDS[kind]), open_reader(name)
    dn = shown(path, reduction)
    assert dn.shape == (SHAPE[0] // reduction, SHAPE[1] // reduction)
    for window in (whole(dn.shape), Window(3, 100, 130, 1), Window(dn.shape[0] - 1, dn.shape[1] - 1, 1, 1)):
        data, traffic = reader.read("item", overview(path, reduction), window)
        assert data.dtype == dn.dtype
        np.testing.assert_array_equal(data, dn[window.slices])
        assert traffic.bytes > 0


def test_one_that_we_do_not_decode_is_gdals(tmp_path: Path) -> None:
    """The image is read block by block, its overview otherwise."""
    path = write(tmp_path / "a.tif", **KINDS["another compression"])
    reader = CogReader()
    reader.learn([asset_of(path, SHAPE), overview(path, 2)])
    assert set(reader._headers) == {(str(path), 1)}
    assert set(reader._unfit) == {(str(path), 2)}


@pytest.fixture(scope="module")
def served(range_http: services.RangeServer) -> tuple[str, Path]:
    folder = range_http.directory / "overview"
    folder.mkdir()
    path = write(folder / "a.tif")
    return f"{range_http.url}/overview/a.tif", path


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_window_over_http(served: tuple[str, Path], name: str, data: st.DataObject) -> None:
    href, path = served
    reduction = data.draw(st.sampled_from([2, 4]))
    dn = shown(path, reduction)
    window = data.draw(windows(*dn.shape))
    found, _ = open_reader(name).read("item", overview(href, reduction), window)
    np.testing.assert_array_equal(found, dn[window.slices])


def test_image_and_overviews_do_not_mix(served: tuple[str, Path], range_http: services.RangeServer) -> None:
    """One reader, one file, three images of it by turns; each is asked for once, and what is asked for is told."""
    href, path = served
    reader, traffic = CogReader(), Traffic()
    range_http.reset()
    for part in range(4):
        for reduction in (1, 2, 4):
            asset = overview(href, reduction)
            dn = pixels(*SHAPE) if reduction == 1 else shown(path, reduction)
            height = dn.shape[0] // 4
            window = Window(part * height, 0, height, dn.shape[1])
            data, cost = reader.read("item", asset, window)
            np.testing.assert_array_equal(data, dn[window.slices])
            traffic += cost
    assert range_http.count() == traffic.requests
    asked = [one.range for one in range_http.requests]
    headers = [one for one in asked if one and one.startswith("bytes=0-")]
    assert len(headers) == 3
    rest = [one for one in asked if one not in headers]
    assert len(rest) == len(set(rest))


def test_headers_of_overviews_travel_with_the_reader(
    served: tuple[str, Path], range_http: services.RangeServer
) -> None:
    href, path = served
    reader = CogReader()
    reader.learn([overview(href, 2)])
    range_http.reset()
    window = Window(0, 400, 100, 40)
    data, _ = pickle.loads(pickle.dumps(reader)).read("item", overview(href, 2), window)  # noqa: S301 - just made
    np.testing.assert_array_equal(data, shown(path, 2)[window.slices])
    assert range_http.count() == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_a_real_overview(real_data: Path, name: str) -> None:
    (item,) = search_items(real_data / "catalog" / "catalog.json", datetime="2022-10-05")
    red = granule_from_item(item).red
    asset = dataclasses.replace(red, geobox=coarser_grid(red.geobox, 2), overview=2)
    window = Window(100, 300, 512, 600)
    data, _ = open_reader(name).read(item.id, asset, window)
    assert (data > 0).mean() > 0.3
    with rasterio.open(red.href) as source:
        np.testing.assert_array_equal(data, source.read(1, out_shape=(915, 915))[window.slices])


# What is not there


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("reduction", [3, 16])
def test_an_overview_that_is_not_there(tmp_path: Path, name: str, reduction: int) -> None:
    path = write(tmp_path / "a.tif")
    with pytest.raises(ReadError) as caught:
        open_reader(name).read("item", overview(path, reduction), Window(0, 0, 1, 1))
    told = str(caught.value)
    assert f"{path} of item item has no overview of 1/{reduction} of its size (it has: 2, 4, 8)" in told
    assert "leave --overviews out" in told
    with pytest.raises(ReadError, match=f"no overview of 1/{reduction}"):
        open_reader(name).layout("item", overview(path, reduction))


@pytest.mark.parametrize("name", NAMES)
def test_the_overview_of_another_image(tmp_path: Path, name: str) -> None:
    asset = overview(write(tmp_path / "a.tif"), 2, (SHAPE[0] + 256, SHAPE[1]))
    with pytest.raises(ReadError, match="does not describe this file"):
        open_reader(name).read("item", asset, Window(0, 0, 1, 1))


# Directories


def linked(path: Path, number: int) -> Tiff:
    """A file whose directories, from this one on, lead back to the first."""
    tiff = Tiff(path)
    found = list(directories(bytes(tiff.data)))
    link, start = found[number].link, found[0].start
    tiff.data[link] = start.to_bytes(link.stop - link.start, "little")
    return tiff


@pytest.mark.parametrize("big", ["NO", "YES"])
def test_directories_are_those_of_the_image_and_its_overviews(tmp_path: Path, big: str) -> None:
    data = write(tmp_path / "a.tif", BIGTIFF=big).read_bytes()
    found = list(directories(data))
    sides = [(one.numbers[257], one.numbers[256]) for one in found]
    assert sides == [(SHAPE[0] // n, SHAPE[1] // n) for n in (1, 2, 4, 8)]
    assert [one.numbers.get(254, 0) for one in found] == [0, 1, 1, 1]
    for one, side in zip(found, sides, strict=True):
        (alone,) = directories(one.alone(data))
        assert (alone.numbers[257], alone.numbers[256]) == side
        assert len(one.alone(data)) == len(data)
    assert list(directories(data[: found[2].link.stop - 1])) == found[:2]


@pytest.mark.parametrize("number", [0, 1, 3])
def test_a_ring_is_followed_once(tmp_path: Path, number: int) -> None:
    tiff = linked(write(tmp_path / "a.tif"), number)
    assert len(list(directories(bytes(tiff.data)))) == number + 1
    path = tiff.save(tmp_path / "ring.tif")
    reader = CogReader()
    reader.learn([overview(path, 2)])
    assert bool(reader._headers) == (number >= 1)


@pytest.mark.parametrize(
    "junk", [b"", b"II", b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0*", b"II*\0\x08\0\0\0\xff\xff"]
)
def test_what_holds_no_directory(junk: bytes) -> None:
    assert list(directories(junk)) == []


@given(data=st.binary(max_size=200))
def test_any_bytes_end(data: bytes) -> None:
    for form in (b"II*\0", b"II+\0\x08\0\0\0"):
        for found in directories(form + data):
            assert found.link.stop <= len(form + data)
            assert len(found.alone(form + data)) == len(form + data)
