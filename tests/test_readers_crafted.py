"""TIFFs that are legal in ways that archives seldom use, and TIFFs that lie: right DN, or one error in time."""

from __future__ import annotations

import re
import time
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio

import crafted_tiffs as crafted
from crafted_tiffs import Tiff, peak_memory, pixels, write_tiff
from hostile_origin import hostile_origin
from ndvi_scale.errors import ReadError
from ndvi_scale.lattice import Window
from ndvi_scale.readers import READERS, open_reader
from test_readers import asset_of, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from hostile_origin import Origin

NAMES = [name for name in READERS if name != "stackstac"]
SHAPE = (300, 500)
WINDOWS = (Window(0, 0, *SHAPE), Window(0, 0, 1, 1), Window(299, 499, 1, 1), Window(100, 250, 130, 20))
TILED = {"tiled": True, "blockxsize": 128, "blockysize": 128, "compress": "deflate", "predictor": 2}

pytestmark = [
    pytest.mark.slow,  # 180 files
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
]


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Origin]:
    with hostile_origin(tmp_path_factory.mktemp("origin")) as origin:
        yield origin


# Legal


def tiff(dtype: str = "uint16", **options: Any) -> Callable[[Path], Path]:
    return lambda path: write_tiff(path, pixels(SHAPE, dtype, sparse=140), **{**TILED, **options})


def striped(dtype: str = "uint16", **options: Any) -> Callable[[Path], Path]:
    return lambda path: write_tiff(path, pixels(SHAPE, dtype), **options)


def few_bits(bits: int, dtype: str) -> Callable[[Path], Path]:
    dn = pixels(SHAPE, dtype) % 2**bits
    return lambda path: write_tiff(path, dn, **{**TILED, "predictor": 1}, nbits=bits)


def changed(change: Callable[[Tiff], None], **options: Any) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        tiff = Tiff(write_tiff(path, pixels(SHAPE), **{**TILED, **options}))
        change(tiff)
        return tiff.save()

    return make


def old_deflate(tiff: Tiff) -> None:
    tiff.put(crafted.COMPRESSION, 32946)


def two_blocks_in_one(tiff: Tiff) -> None:
    for code in (crafted.TILE_OFFSETS, crafted.TILE_COUNTS):
        tiff.put(code, tiff.values(code)[5], 6)


def blocks_in_disorder(tiff: Tiff) -> None:
    """The blocks of the first row stand in the file the other way round."""
    for code in (crafted.TILE_OFFSETS, crafted.TILE_COUNTS):
        for index, value in enumerate(tiff.values(code)[3::-1]):
            tiff.put(code, value, index)


def a_block_of_no_bytes(tiff: Tiff) -> None:
    tiff.put(crafted.TILE_OFFSETS, 0, 5)
    tiff.put(crafted.TILE_COUNTS, 0, 5)


def bytes_after_a_block(tiff: Tiff) -> None:
    """The compressed stream ends before its count says, as padding does."""
    start, stop = tiff.block(11)
    tiff.data += bytes(64)
    tiff.put(crafted.TILE_COUNTS, stop - start + 64, 11)


def directory_at_the_end(path: Path) -> Path:
    write_tiff(path, pixels(SHAPE), **TILED)
    with rasterio.open(path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
        file.update_tags(note="x" * 5000)
    tiff = Tiff(path)
    assert tiff.first > len(tiff.data) * 0.9
    return path


def directory_far_from_the_front(path: Path) -> Path:
    """As of a file of 5 MB that was written in one go."""
    tiff = Tiff(write_tiff(path, pixels(SHAPE), **TILED))
    start, stop = tiff.first, tiff.first + 2 + 12 * len(tiff.entries) + 4
    directory = tiff.data[start:stop]
    tiff.data += bytes(5 << 20)
    tiff.start_at(len(tiff.data))
    tiff.data += directory
    return tiff.save()


def offsets_far_from_the_front(path: Path) -> Path:
    tiff = Tiff(write_tiff(path, pixels(SHAPE), **TILED))
    entry = tiff.entries[crafted.TILE_OFFSETS]
    values = tiff.data[entry.values_at : entry.values_at + 4 * entry.count]
    tiff.data += bytes(5 << 20)
    tiff.place(crafted.TILE_OFFSETS, len(tiff.data))
    tiff.data += values
    return tiff.save()


def bits_the_other_way_round(path: Path) -> Path:
    """FillOrder 2: each byte of the compressed stream is mirrored."""
    tiff = Tiff(write_tiff(path, pixels(SHAPE), **TILED))
    mirrored = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
    for number in range(12):
        start, stop = tiff.block(number)
        tiff.data[start:stop] = tiff.data[start:stop].translate(mirrored)
    tiff.retag(crafted.PLANAR, crafted.FILL_ORDER, 2)
    return tiff.save()


def with_a_mask(path: Path) -> Path:
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        write_tiff(path, pixels(SHAPE), **TILED)
        with rasterio.open(path, "r+") as file:
            file.write_mask(np.ones(SHAPE, bool))
    return path


def pixel_is_point(path: Path) -> Path:
    write_tiff(path, pixels(SHAPE), **TILED)
    with rasterio.open(path, "r+") as file:
        file.update_tags(AREA_OR_POINT="Point")
    return path


def cog(path: Path) -> Path:
    write_tiff(path.with_suffix(".draft"), pixels(SHAPE, sparse=200), **TILED)
    options = {"BLOCKSIZE": 128, "COMPRESS": "DEFLATE", "PREDICTOR": "YES", "SPARSE_OK": "YES"}
    rasterio.shutil.copy(path.with_suffix(".draft"), path, driver="COG", **options)
    return path


LEGAL: dict[str, Callable[[Path], Path]] = {
    "cog": cog,
    "sparse": tiff(sparse_ok=True),
    "no predictor": tiff(predictor=1),
    "scl": tiff("uint8", predictor=1),
    "uint8, predictor 2": tiff("uint8"),
    "lzw": tiff(compress="lzw", predictor=1),
    "lzw, predictor 2": tiff(compress="lzw"),
    "zstd": tiff(compress="zstd"),
    "lzma": tiff(compress="lzma"),
    "packbits": tiff(compress="packbits", predictor=1),
    "lerc": tiff(compress="lerc", predictor=1),
    "jpeg": tiff("uint8", compress="jpeg", predictor=1),
    "not compressed": tiff(compress="none", predictor=1),
    "deflate by its old number": changed(old_deflate),
    "big": tiff(bigtiff="yes"),
    "big-endian": tiff(endianness="big"),
    "big-endian, no predictor": tiff(endianness="big", predictor=1),
    "big-endian, not compressed": tiff(endianness="big", compress="none", predictor=1),
    "big and big-endian": tiff(bigtiff="yes", endianness="big", predictor=1),
    "blocks of 16": tiff(blockxsize=16, blockysize=16),
    "one block": tiff(blockxsize=512, blockysize=512),
    "blocks wider than high": tiff(blockxsize=256, blockysize=64),
    "blocks higher than wide": tiff(blockxsize=64, blockysize=256),
    "strips": striped(compress="deflate", predictor=2),
    "strips of one row": striped(compress="deflate", blockysize=1),
    "one strip": striped(blockysize=300),
    "strips, not compressed": striped(),
    "12 bits": few_bits(12, "uint16"),
    "4 bits": few_bits(4, "uint8"),
    "1 bit": few_bits(1, "uint8"),
    "palette": tiff("uint8", predictor=1, photometric="palette"),
    "white is zero": tiff("uint8", predictor=1, photometric="miniswhite"),
    "bands apart, of which there is one": tiff(interleave="band"),
    "two blocks share their bytes": changed(two_blocks_in_one),
    "blocks in disorder": changed(blocks_in_disorder),
    "a block of no bytes": changed(a_block_of_no_bytes),
    "bytes after a block": changed(bytes_after_a_block),
    "directory at the end": directory_at_the_end,
    "directory far from the front": directory_far_from_the_front,
    "offsets far from the front": offsets_far_from_the_front,
    "bits the other way round": bits_the_other_way_round,
    "with a mask": with_a_mask,
    "pixel is point": pixel_is_point,
}


def ways(kinds: dict[str, Any]) -> list[Any]:
    """Each kind by each reader; from a file what GDAL reads, and over HTTP too what it does not."""
    return [(name, kind, "file" if name == "rasterio" else "http") for name in NAMES for kind in kinds] + [
        (name, kind, "http" if name == "rasterio" else "file") for name in NAMES for kind in list(kinds)[:3]
    ]


@pytest.mark.parametrize(("name", "kind", "place"), ways(LEGAL))
def test_a_legal_tiff_is_read_as_gdal_reads_it(
    origin: Origin, tmp_path: Path, name: str, kind: str, place: str
) -> None:
    folder = origin.directory / tmp_path.name
    folder.mkdir()
    path = LEGAL[kind](folder / "a.tif")
    with rasterio.open(path) as source:
        expected = source.read(1)
    reader = open_reader(name)
    href = path if place == "file" else f"{origin.url}/{folder.name}/a.tif"
    for window in WINDOWS:
        data, _ = reader.read("item", asset_of(href, SHAPE), window)
        assert data.dtype == expected.dtype
        np.testing.assert_array_equal(data, expected[window.slices])


@pytest.mark.parametrize("name", NAMES)
def test_a_header_longer_than_the_first_request(origin: Origin, tmp_path: Path, name: str) -> None:
    """16,384 blocks: 100 kB of offsets and sizes before the first pixel."""
    dn = pixels((2048, 2048))
    path = write_tiff(
        origin.directory / f"{tmp_path.name}.tif", dn, **{**TILED, "blockxsize": 16, "blockysize": 16}
    )
    tiff = Tiff(path)
    assert tiff.block(0)[0] > 90_000
    reader, window = open_reader(name), Window(1000, 1000, 40, 30)
    data, _ = reader.read("item", asset_of(f"{origin.url}/{path.name}", dn.shape), window)
    np.testing.assert_array_equal(data, dn[window.slices])
    assert origin.sent(f"/{path.name}") < 1_000_000


# Not legal


@dataclass(frozen=True)
class Lie:
    """A file that is not what it says."""

    change: Callable[[Tiff], None]
    tolerable: bool = False
    """Whether a reader may as well find the right DN."""
    block: tuple[int, int] | None = None
    """Row and column of the block that is wrong, where it is one."""
    options: tuple[tuple[str, Any], ...] = ()
    unseen: bool = False
    """Whether GDAL does not notice: it stops at the last pixel, before the checksum of a stream."""


def putting(code: int, value: int, index: int = 0) -> Callable[[Tiff], None]:
    return lambda tiff: tiff.put(code, value, index)


def recounting(code: int, count: int) -> Callable[[Tiff], None]:
    return lambda tiff: tiff.recount(code, count)


def replacing(code: int, at: int) -> Callable[[Tiff], None]:
    return lambda tiff: tiff.place(code, at)


def fewer_blocks(tiff: Tiff) -> None:
    for code in (crafted.TILE_OFFSETS, crafted.TILE_COUNTS):
        tiff.recount(code, 11)


def more_blocks(tiff: Tiff) -> None:
    for code in (crafted.TILE_OFFSETS, crafted.TILE_COUNTS):
        tiff.recount(code, 400_000_000)


def unknown_kind(tiff: Tiff) -> None:
    at = tiff.entries[crafted.NODATA].at
    tiff.data[at + 2 : at + 4] = b"\xee\xee"


def two_predictors(tiff: Tiff) -> None:
    """GDAL believes the first, which is right."""
    tiff.retag(339, crafted.PREDICTOR, 1)


def no_such_crs(tiff: Tiff) -> None:
    keys = tiff.values(crafted.GEO_KEYS)
    tiff.put(crafted.GEO_KEYS, 375, keys.index(32631))


def a_short_scale(tiff: Tiff) -> None:
    tiff.recount(crafted.PIXEL_SCALE, 1)


def a_loop(tiff: Tiff) -> None:
    tiff.link(tiff.first)


def a_directory_beyond(tiff: Tiff) -> None:
    tiff.start_at(len(tiff.data) + 1000)


def a_directory_of_65535(tiff: Tiff) -> None:
    tiff.data[tiff.first : tiff.first + 2] = b"\xff\xff"


def a_directory_of_many(tiff: Tiff) -> None:
    tiff.data[tiff.first : tiff.first + 8] = b"\xff" * 7 + b"\x0f"


def cut_in_the_directory(tiff: Tiff) -> None:
    del tiff.data[tiff.first + 60 :]


def cut_to(size: int) -> Callable[[Tiff], None]:
    def change(tiff: Tiff) -> None:
        del tiff.data[size:]

    return change


def a_page(tiff: Tiff) -> None:
    tiff.data[:] = b"<!DOCTYPE html><html><body>Sign in</body></html>"


def refill(number: int, raw: bytes) -> Callable[[Tiff], None]:
    """Another compressed stream at the end of the file for a block."""

    def change(tiff: Tiff) -> None:
        packed = zlib.compress(raw, 1)
        tiff.put(crafted.TILE_OFFSETS, len(tiff.data), number)
        tiff.put(crafted.TILE_COUNTS, len(packed), number)
        tiff.data += packed

    return change


def corrupt(number: int, at: float = 0.5) -> Callable[[Tiff], None]:
    def change(tiff: Tiff) -> None:
        start, stop = tiff.block(number)
        place = start + int((stop - start) * at)
        for index in range(place, min(place + 200, stop)):
            tiff.data[index] ^= 0x5A

    return change


def cut_block(tiff: Tiff) -> None:
    start, stop = tiff.block(6)
    tiff.put(crafted.TILE_COUNTS, (stop - start) // 2, 6)


BLOCK = 128 * 128 * 2
BOMB = bytes(256 << 20)
RAW = (("compress", "none"), ("predictor", 1))
BIG = (("bigtiff", "yes"),)
LIES = {
    "fewer offsets than blocks": Lie(fewer_blocks),
    "fewer sizes than blocks": Lie(recounting(crafted.TILE_COUNTS, 11)),
    "more offsets than there is memory": Lie(more_blocks, tolerable=True),
    "more offsets than there are addresses": Lie(recounting(crafted.TILE_OFFSETS, 0xFFFFFFFF), tolerable=True),
    "a nodata value of 4 GB": Lie(recounting(crafted.NODATA, 0xFFFFFFFF), tolerable=True),
    "two predictors": Lie(two_predictors, tolerable=True),
    "a CRS that nobody knows": Lie(no_such_crs, tolerable=True),
    "a pixel of one side": Lie(a_short_scale, tolerable=True),
    "a tag of no known kind": Lie(unknown_kind, tolerable=True),
    "offsets that lie beyond the file": Lie(replacing(crafted.TILE_OFFSETS, 0x7FFFFFF0)),
    "a block beyond the file": Lie(putting(crafted.TILE_OFFSETS, 0x7FFFFFF0, 6), block=(1, 2)),
    "a block at the very end": Lie(lambda tiff: tiff.put(crafted.TILE_OFFSETS, len(tiff.data), 6), block=(1, 2)),
    "a block of 4 GB": Lie(putting(crafted.TILE_COUNTS, 0xFFFFFFFF, 6), block=(1, 2)),
    "a block 2^62 bytes away": Lie(putting(crafted.TILE_OFFSETS, 1 << 62, 6), block=(1, 2), options=BIG),
    "a block cut by its size": Lie(cut_block, block=(1, 2)),
    "an image too wide": Lie(putting(crafted.WIDTH, 0xFFFF)),
    "an image too high": Lie(putting(crafted.HEIGHT, 0xFFFF)),
    "an image of no pixels": Lie(putting(crafted.WIDTH, 0)),
    "blocks too large": Lie(lambda tiff: [tiff.put(code, 0xFFF0) for code in (322, 323)] and None),
    "blocks of no pixels": Lie(putting(crafted.TILE_WIDTH, 0)),
    "blocks of half the size": Lie(putting(crafted.TILE_WIDTH, 64)),
    "a loop of directories": Lie(a_loop, tolerable=True),
    "a directory beyond the file": Lie(a_directory_beyond),
    "a directory 2^63 bytes away": Lie(lambda tiff: tiff.start_at(1 << 63), options=BIG),
    "a directory within the header": Lie(lambda tiff: tiff.start_at(2)),
    "a directory of 65,535 tags": Lie(a_directory_of_65535, tolerable=True),
    "a directory of 2^60 tags": Lie(a_directory_of_many, options=BIG),
    "cut in the directory": Lie(cut_in_the_directory),
    "cut after the header": Lie(cut_to(8)),
    "cut in the header": Lie(cut_to(3)),
    "no bytes": Lie(cut_to(0)),
    "a page": Lie(a_page),
    "64 bits": Lie(putting(crafted.BITS, 64)),
    "no bits": Lie(putting(crafted.BITS, 0)),
    "a compression that nobody knows": Lie(putting(crafted.COMPRESSION, 9999)),
    "another compression than there is": Lie(putting(crafted.COMPRESSION, 5)),
    "a predictor that nobody knows": Lie(putting(crafted.PREDICTOR, 7)),
    "a predictor of floats": Lie(putting(crafted.PREDICTOR, 3)),
    "five samples": Lie(putting(crafted.SAMPLES, 5)),
    "a corrupt stream": Lie(corrupt(6), block=(1, 2), unseen=True),
    "a stream corrupt at its start": Lie(corrupt(6, 0.0), block=(1, 2)),
    "a stream of too few pixels": Lie(refill(6, bytes(BLOCK - 2)), block=(1, 2)),
    "a stream of no pixels": Lie(refill(6, b""), block=(1, 2)),
    "a stream of too many pixels": Lie(refill(6, bytes(BLOCK + 2)), block=(1, 2), tolerable=True),
    "a stream of 256 MiB": Lie(refill(6, BOMB), block=(1, 2), tolerable=True),
    "a raw block that is short": Lie(cut_block, block=(1, 2), options=RAW, unseen=True),
}


@pytest.mark.parametrize(("name", "kind", "place"), ways(LIES))
def test_a_tiff_that_lies_is_one_error_in_time(
    origin: Origin, tmp_path: Path, name: str, kind: str, place: str
) -> None:
    lie = LIES[kind]
    folder = origin.directory / tmp_path.name
    folder.mkdir()
    tiff = Tiff(write_tiff(folder / "a.tif", pixels(SHAPE), **{**TILED, **dict(lie.options)}))
    lie.change(tiff)
    tiff.save()
    path = f"/{folder.name}/a.tif"
    asset = asset_of(folder / "a.tif" if place == "file" else f"{origin.url}{path}", SHAPE)
    before, started = peak_memory(reset=True), time.monotonic()
    try:
        data, _ = open_reader(name).read("S2A_item", asset, whole(SHAPE))
    except ReadError as caught:
        error = caught
    else:
        assert lie.tolerable or (lie.unseen and name == "rasterio"), "a silent hole"
        sound = ~damaged(lie.block)
        np.testing.assert_array_equal(data[sound], pixels(SHAPE)[sound])
        error = None
    assert time.monotonic() - started < 5
    assert peak_memory() - before < 100 << 20
    assert origin.sent(path) < 5 * len(tiff.data) + 1_000_000
    if error is not None:
        assert error.permanent
        assert_names(error, name, lie.block)


def damaged(block: tuple[int, int] | None) -> NDArray[np.bool_]:
    """Pixels of which nobody knows what they were."""
    out = np.zeros(SHAPE, bool)
    if block is not None:
        out[block[0] * 128 : (block[0] + 1) * 128, block[1] * 128 : (block[1] + 1) * 128] = True
    return out


def assert_names(error: ReadError, reader: str, block: tuple[int, int] | None) -> None:
    """The error says what is wrong where."""
    assert "S2A_item" in str(error)
    assert error.asset in str(error)
    assert "a.tif" in error.asset
    assert error.item_id == "S2A_item"
    assert "\n" not in str(error)
    if reader == "cog" and block is not None:
        assert re.search(rf"block .*{block[0]}\b.*{block[1]}\b", str(error)), str(error)


@pytest.mark.parametrize("name", NAMES)
def test_blocks_that_are_not_wanted_do_no_harm(tmp_path: Path, name: str) -> None:
    """A wrong block spoils its own pixels only."""
    tiff = Tiff(write_tiff(tmp_path / "a.tif", pixels(SHAPE), **TILED))
    corrupt(6)(tiff)
    tiff.put(crafted.TILE_COUNTS, 0xFFFFFFFF, 7)
    tiff.save()
    window = Window(0, 0, 128, 500)
    data, _ = open_reader(name).read("item", asset_of(tmp_path / "a.tif", SHAPE), window)
    np.testing.assert_array_equal(data, pixels(SHAPE)[window.slices])
