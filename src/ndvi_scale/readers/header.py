"""The header of a COG: where its blocks are and how they are packed. Parsed by async-tiff, from ranges of ours."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from affine import Affine
from async_tiff import TIFF
from async_tiff.enums import PlanarConfiguration, SampleFormat
from odc.geo.geobox import GeoBox
from pyproj.exceptions import ProjError

from ndvi_scale.lattice import coarser_grid
from ndvi_scale.readers.decode import DECODERS
from ndvi_scale.readers.directory import Directory, directories, first_directory
from ndvi_scale.readers.files import BLOCK_BYTES, DTYPES
from ndvi_scale.readers.patience import HEADER_BYTES, HEADER_LIMIT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from async_tiff import ImageFileDirectory
    from numpy.typing import NDArray

    Get = Callable[[int, int], Awaitable[memoryview]]
    """Start and length → bytes, fewer at the end of the file."""

_USER_DEFINED: Final = 32767
_AREA: Final = 1
_SUBFILE: Final = 254
_REDUCED: Final = 1
_WIDTH: Final = 256
_HEIGHT: Final = 257
_FILL_ORDER: Final = 266
_PREDICTOR: Final = 317


class HeaderError(Exception):
    """What was read is no header that blocks can be found by; another try would say the same."""


class UnfitError(Exception):
    """A file that may be fine, but not one that is read here: striped, of several bands, packed otherwise."""


@dataclass(frozen=True)
class Header:
    """One image of one band: the file's own, or an overview."""

    grid: GeoBox
    block: tuple[int, int]
    """Height and width of a block in pixels."""
    dtype: np.dtype[Any]
    compression: int
    """TIFF's number."""
    predictor: int
    """1: none, 2: differences along a row."""
    nodata: int
    """DN of blocks that are not stored."""
    offsets: NDArray[np.uint64]
    """Of each block, row after row."""
    sizes: NDArray[np.uint64]
    """Compressed; 0 where a block is not stored."""
    requests: int
    """That it took to read the header."""

    @property
    def blocks_across(self) -> int:
        """Blocks in a row of them."""
        return math.ceil(self.grid.shape.x / self.block[1])

    def span(self, block: tuple[int, int]) -> tuple[int, int]:
        """First byte and size of a block (row, column); the size is 0 where it is not stored."""
        number = block[0] * self.blocks_across + block[1]
        return int(self.offsets[number]), int(self.sizes[number])


class _Source:
    """A file as async-tiff asks for it; remembers why a read failed, which async-tiff does not."""

    def __init__(self, get: Get, known: bytes = b"") -> None:
        """`known`: bytes that the file is to begin with, where they are no longer to be asked for."""
        self._get = get
        self._known = known
        self.failure: BaseException | None = None
        self.requests = 0
        self.first = known
        self.directory: Directory | None = None

    async def get_range_async(
        self,
        path: str,  # noqa: ARG002 - by keyword
        *,
        start: int,
        end: int | None = None,
        length: int | None = None,
    ) -> bytes:
        try:
            return await self._read(start, end - start if end is not None else int(length or 0))
        except BaseException as error:
            self.failure = error
            raise

    async def _read(self, start: int, length: int) -> bytes:
        if start + length > HEADER_LIMIT:
            raise UnfitError("a long header")
        if self._known:
            known, self._known = self._known, b""
            return known
        self.requests += 1
        data = bytes(await self._get(start, length))
        return data if self.first else self._begin(data)

    def _begin(self, data: bytes) -> bytes:
        """The first bytes, as those of a file of one directory: async-tiff would follow a ring of them for ever."""
        self.first = data
        if data[:2] == b"MM":
            raise UnfitError("big-endian")
        self.directory = directory = first_directory(data)
        if directory is None:
            if data[:2] == b"II" and len(data) == HEADER_BYTES:
                raise UnfitError("its directory is not at the front")
            raise HeaderError(_no_tiff(data, "no directory in it"))
        if not directory.sane:
            raise UnfitError("a strange directory")
        return directory.alone(data)

    def beginning_with(self, data: bytes) -> _Source:
        """The same file, as if it began so."""
        return _Source(self._get, data)

    async def get_ranges_async(
        self,
        path: str,
        *,
        starts: list[int],
        ends: list[int] | None = None,
        lengths: list[int] | None = None,
    ) -> list[bytes]:
        stops = ends or [start + length for start, length in zip(starts, lengths or (), strict=True)]
        return [
            await self.get_range_async(path, start=start, end=stop)
            for start, stop in zip(starts, stops, strict=True)
        ]


async def read_header(get: Get, overview: int = 1) -> Header:
    """The header of a file's image, or of its overview of 1/`overview` of the size.

    Raises HeaderError, UnfitError, and what `get` raises.
    """
    source = _Source(get)
    image = await _first_image(source)
    try:
        _check_pixels(image, source.directory)
        _check_place(image)
        header = _header(image, _grid(image), source.requests)
        return header if overview == 1 else await _read_overview(source, header, overview)
    except (IndexError, ProjError) as error:  # lists too short, an EPSG code that nobody knows
        raise UnfitError(f"a strange header: {error}") from None


async def _read_overview(source: _Source, whole: Header, overview: int) -> Header:
    grid = coarser_grid(whole.grid, overview)
    wanted = {_SUBFILE: _REDUCED, _HEIGHT: grid.shape.y, _WIDTH: grid.shape.x}
    found = next((d for d in directories(source.first) if wanted.items() <= d.numbers.items()), None)
    if found is None or not found.sane:
        raise UnfitError("no such overview at the front")  # GDAL's reader looks further, or says so
    part = source.beginning_with(found.alone(source.first))
    image = await _first_image(part)
    _check_pixels(image, found)
    return replace(_header(image, grid, source.requests + part.requests), nodata=whole.nodata)


async def _first_image(source: _Source) -> ImageFileDirectory:
    try:
        tiff = await TIFF.open("", store=source, prefetch=HEADER_BYTES)
        return tiff.ifds[0]
    except BaseException as error:
        if source.failure is not None:
            raise source.failure from None
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise HeaderError(_no_tiff(source.first, str(error))) from None


def _no_tiff(first: bytes, why: str) -> str:
    if first[:2] in {b"II", b"MM"}:
        return f"its TIFF header is damaged ({' '.join(why.split())[:120]})"
    return f"it is no TIFF (it begins with {first[:16]!r})"


def _check_pixels(image: ImageFileDirectory, directory: Directory | None) -> None:
    """Raises UnfitError for blocks that GDAL may read and we do not."""
    numbers = directory.numbers if directory else {}
    bits, formats = list(image.bits_per_sample), list(image.sample_format)
    _refuse(
        {
            "striped": not (image.tile_width and image.tile_height),
            "several bands": image.samples_per_pixel != 1 or len(bits) != 1,
            "not whole bytes": bits[0] not in {8, 16},
            "not unsigned": any(fmt != SampleFormat.Uint for fmt in formats),
            "planar": image.planar_configuration != PlanarConfiguration.Chunky,
            "packed otherwise": int(image.compression) not in DECODERS
            or numbers.get(_PREDICTOR, 1) not in {1, 2}  # async-tiff tells of those that it knows alone
            or numbers.get(_FILL_ORDER, 1) != 1,
        }
    )


def _check_place(image: ImageFileDirectory) -> None:
    """Raises UnfitError for grids that GDAL may know and we do not."""
    geo = image.geo_key_directory
    _refuse(
        {
            "no grid": image.model_tiepoint is None
            or image.model_pixel_scale is None
            or len(image.model_tiepoint) != 6  # noqa: PLR2004 - one point: raster and model coordinates
            or any(image.model_tiepoint[:3]),
            "turned": image.model_transformation is not None,
            "no CRS": geo is None or geo.projected_type in {None, _USER_DEFINED} or geo.raster_type != _AREA,
        }
    )


def _refuse(reasons: dict[str, bool]) -> None:
    for reason, holds in reasons.items():
        if holds:
            raise UnfitError(reason)


def _header(image: ImageFileDirectory, grid: GeoBox, requests: int) -> Header:
    block = int(image.tile_height or 0), int(image.tile_width or 0)
    dtype = np.dtype(DTYPES[next(iter(image.bits_per_sample)) // 8 - 1])
    if block[0] * block[1] * dtype.itemsize > BLOCK_BYTES:
        raise UnfitError("huge blocks")  # GDAL's reader says so
    count = math.ceil(image.image_height / block[0]) * math.ceil(image.image_width / block[1])
    offsets, sizes = image.tile_offsets or [], image.tile_byte_counts or []
    if len(offsets) != count or len(sizes) != count:
        raise HeaderError(
            f"its header lists {len(offsets)} offsets and {len(sizes)} sizes of blocks, its "
            f"{image.image_height} x {image.image_width} pixels are {count} blocks of {block[0]} x {block[1]}"
        )
    return Header(
        grid=grid,
        block=block,
        dtype=dtype,
        compression=int(image.compression),
        predictor=int(image.predictor or 1),
        nodata=_nodata(image.gdal_nodata, dtype),
        offsets=np.array(offsets, np.uint64),
        sizes=np.array(sizes, np.uint64),
        requests=requests,
    )


def _grid(image: ImageFileDirectory) -> GeoBox:
    scale, tie = image.model_pixel_scale or [], image.model_tiepoint or []
    affine = Affine(scale[0], 0, tie[3], 0, -scale[1], tie[4])
    geo = image.geo_key_directory
    return GeoBox((image.image_height, image.image_width), affine, f"EPSG:{geo and geo.projected_type}")


def _nodata(text: str | None, dtype: np.dtype[Any]) -> int:
    try:
        value = float((text or "0").strip("\0 "))
    except ValueError:
        return 0
    return int(value) if value.is_integer() and 0 <= value <= np.iinfo(dtype).max else 0
