"""What readers through GDAL share: its options, the access to an asset, what a file must be, why a read failed."""

from __future__ import annotations

import functools
import logging
import math
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
import rasterio
from odc.geo.geobox import GeoBox
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.session import Session

from ndvi_scale.access import Opening, open_access
from ndvi_scale.errors import ReadError
from ndvi_scale.readers import CACHE_BYTES, Layout, Traffic, block_runs, touched_blocks
from ndvi_scale.readers.files import (
    BLOCK_BYTES,
    DTYPES,
    GONE,
    REFUSED,
    another_file,
    grid_difference,
    no_overview,
    refusal_hint,
    unreadable,
)
from ndvi_scale.readers.pacing import Pacer, pacer_of
from ndvi_scale.sources import access_of
from ndvi_scale.tokens import NOT_SIGNED
from ndvi_scale.web import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ndvi_scale.granules import Asset
    from ndvi_scale.lattice import Window

T = TypeVar("T")

GDAL_OPTIONS: Final = {
    "GDAL_CACHEMAX": CACHE_BYTES,
    # The directory of a COG is not ours to list, and side-car files are neither worth a request each nor trusted.
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_HTTP_MAX_RETRY": "4",
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    "GDAL_HTTP_CONNECTTIMEOUT": "10",
    "GDAL_HTTP_LOW_SPEED_TIME": "30",
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1000",
    "GDAL_HTTP_MULTIPLEX": "YES",
    "VSI_CACHE": "FALSE",
    # A COG with its header at the front needs one request for it; 32 kB hold that of a whole 10 m band.
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
}

JP2_REQUESTS: Final = 3
"""Requests a block of a JP2, which GDAL reads piece by piece: 20 for 7 blocks of 1024² measured (GDAL 3.12)."""

_FAILURES: Final = (RasterioError, OSError, ValueError, RuntimeError)
_QUERY: Final = re.compile(r"\?[^\s'\"`]*=[^\s'\"`]*")
_STATUS: Final = re.compile(r"(?:HTTP response code(?: on \S+)?:? ?|HTTP error code ?: ?|response_code=)(\d{3})\b")
_S3_REFUSED: Final = re.compile(
    r"InvalidAccessKeyId|SignatureDoesNotMatch|AccessDenied|Access ?Denied|InvalidToken"
)
_S3_GONE: Final = re.compile(r"NoSuchKey|NoSuchBucket|does not exist in (?:bucket|the file system)")
_FORMAT: Final = "not recognized as being in a supported file format"
_NETWORK: Final = re.compile(r"CURL error|timed out|[Cc]onnection|resolve host|Permission denied")


# Access


def with_access(item_id: str, asset: Asset, action: Callable[[Opening, Pacer], T]) -> T:
    """`action` in the GDAL environment that the asset's rule asks for, within the rule's limits.

    A token that is refused is renewed, once. Raises ReadError for whatever GDAL says, ConfigError for missing keys.
    """
    rule = access_of(asset.href)
    if rule is not None and rule.wants_keys and threading.current_thread() is threading.main_thread():
        # There, rasterio sets options for the whole process: another thread's reads would see the keys.
        return _elsewhere().submit(_attempt, item_id, asset, action).result()
    return _attempt(item_id, asset, action)


def _attempt(item_id: str, asset: Asset, action: Callable[[Opening, Pacer], T]) -> T:
    refused, again = "", False
    while True:
        opening = None
        try:
            opening = open_access(asset.href, refused)
            pacer = pacer_of(opening.rule)
            with pacer.connection(), environment(opening, doubted=asset.href in _failed):
                return action(opening, pacer)
        except _FAILURES as error:
            failure = _failure(error, opening, asset)
            _failed.add(asset.href)
        if opening and opening.token and not refused and failure.status in REFUSED:
            refused = opening.token
        elif failure.unexplained and not again:
            again = True  # opening a file tells the status that reading from an open one does not
        else:
            raise unreadable(item_id, asset, f"{failure.text}{failure.hint}", permanent=failure.permanent)


_failed: Final[set[str]] = set()
"""Hrefs that failed. GDAL remembers that a URL failed, and what a cut answer held: there it has to ask again."""


@functools.cache
def _elsewhere() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="ndvi-scale-keys")


def environment(opening: Opening, *, doubted: bool = False) -> rasterio.Env:
    """GDAL's options for one asset, and its keys if it has any; never those of the surroundings.

    What GDAL keeps of a `doubted` one is not used.
    """
    _watch_logs()
    heard.clear()
    doubts = {"CPL_VSIL_CURL_NON_CACHED": opening.path} if doubted else {}
    return rasterio.Env(session=_Keys(opening.keys), **{**GDAL_OPTIONS, **opening.options, **doubts})


class _Keys(Session):
    """Hands GDAL the keys of one rule: without a session, rasterio would look for some by itself."""

    def __init__(self, keys: dict[str, str]) -> None:
        self._keys = keys

    def get_credential_options(self) -> dict[str, str]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """GDAL's options that are secret."""
        return self._keys


# Files


def open_checked(opening: Opening, item_id: str, asset: Asset) -> rasterio.DatasetReader:
    """The file of an asset, opened as the one format that it may have, once it is what its item says.

    Left to guess, GDAL would follow a VRT to wherever it points.
    """
    driver = "JP2OpenJPEG" if "jp2" in asset.media_type else "GTiff"
    try:
        source = _open_image(opening.path, driver, item_id, asset)
    except NotGeoreferencedWarning as warning:  # where warnings are errors
        raise another_file(item_id, asset, str(warning)) from None
    try:
        _check_pixels(item_id, asset, source)
        _check_grid(item_id, asset, source)
    except ReadError:
        source.close()
        raise
    return source


def _open_image(path: str, driver: str, item_id: str, asset: Asset) -> rasterio.DatasetReader:
    """The file's own image, or its overview that the asset means."""
    source = rasterio.open(path, driver=driver, sharing=False)
    if asset.overview == 1:
        return source
    with source:
        found = source.overviews(1)
    if asset.overview not in found:
        raise no_overview(item_id, asset, found)
    return rasterio.open(path, driver=driver, sharing=False, overview_level=found.index(asset.overview))


def _check_pixels(item_id: str, asset: Asset, source: rasterio.DatasetReader) -> None:
    if source.count != 1:
        raise another_file(item_id, asset, f"it has {source.count} bands, an asset of Sentinel-2 L2A has one")
    dtype = source.dtypes[0]
    if dtype not in DTYPES:
        raise another_file(item_id, asset, f"it holds {dtype}, Sentinel-2 L2A {' or '.join(DTYPES)}")
    height, width = source.block_shapes[0]
    size = height * width * np.dtype(dtype).itemsize
    if size > BLOCK_BYTES:
        raise another_file(
            item_id,
            asset,
            f"its blocks are {height} x {width} pixels, and {size} bytes are more than {BLOCK_BYTES}",
        )


def _check_grid(item_id: str, asset: Asset, source: rasterio.DatasetReader) -> None:
    found = GeoBox((source.height, source.width), source.transform, _known_crs(source))
    what = grid_difference(found, asset.geobox)
    if what:
        raise another_file(item_id, asset, what)


def _known_crs(source: rasterio.DatasetReader) -> str | None:
    code = source.crs.to_epsg() if source.crs else None
    return f"EPSG:{code}" if code else None


def layout_of(source: rasterio.DatasetReader) -> Layout:
    """See `Reader.layout`."""
    height, width = source.block_shapes[0]
    rows, columns = math.ceil(source.height / height), math.ceil(source.width / width)
    sizes = [_block_bytes(source, row, column) for row in range(rows) for column in range(columns)]
    return Layout((height, width), sum(sizes) / len(sizes))


def traffic_of(source: rasterio.DatasetReader, window: Window) -> Traffic:
    """What reading a window asks for."""
    block = source.block_shapes[0]
    rows, columns = touched_blocks(window, block)
    size = sum(_block_bytes(source, row, column) for row in rows for column in columns)
    if source.driver == "GTiff":
        return Traffic(block_runs(window, block, source.width), size)
    return Traffic(JP2_REQUESTS * len(rows) * len(columns), size)


def _block_bytes(source: rasterio.DatasetReader, row: int, column: int) -> int:
    """Compressed size of one block; formats other than TIFF do not tell, and count as half of their pixels."""
    size = source.get_tag_item(f"BLOCK_SIZE_{column}_{row}", "TIFF", bidx=1)
    if size is not None:
        return int(size)
    if source.driver == "GTiff":
        return 0  # a sparse block, which is nodata and takes no bytes
    height, width = source.block_shapes[0]
    return height * width * np.dtype(source.dtypes[0]).itemsize // 2


# Failures


@dataclass(frozen=True)
class _Failure:
    text: str
    """What happened, without anything secret."""
    status: int | None
    """The HTTP status that was the reason, if one was."""
    permanent: bool
    unexplained: bool
    """Whether nothing tells a network's failure from a broken file."""
    hint: str = ""


class _Heard(logging.Filter):
    """Notes what GDAL only warns of (it tells the HTTP status of a failed read nowhere else), by thread.

    And cuts the queries of URLs out of rasterio's log, for they may be signed.
    """

    def __init__(self) -> None:
        super().__init__()
        self._local = threading.local()
        self._shown_from: dict[str, int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = without_queries(record.getMessage()), ()
        self._messages().append(record.msg)
        return record.levelno >= self._shown_from.get(record.name, 0)

    def listen(self, name: str) -> None:
        """Hear a logger's warnings; where they are not to be shown, as on the command line, they still are not."""
        logger = logging.getLogger(name)
        logger.addFilter(self)
        level = logger.getEffectiveLevel()
        if level > logging.WARNING:
            self._shown_from[name] = level
            logger.setLevel(logging.WARNING)

    def _messages(self) -> list[str]:
        return self._local.__dict__.setdefault("messages", [])

    def clear(self) -> None:
        """Forget what this thread heard."""
        self._messages().clear()

    @property
    def messages(self) -> Sequence[str]:
        """What this thread heard since."""
        return tuple(self._messages())


heard: Final = _Heard()


def _watch_logs() -> None:
    # Anew each time: modules of rasterio that are imported later log too. A filter is added once.
    names = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] == "rasterio"]
    for name in names:
        if name != "rasterio":
            heard.listen(name)
    logging.getLogger("rasterio").addFilter(heard)


def without_queries(text: str) -> str:
    """A text in which no URL keeps its query."""
    return _QUERY.sub("", text)


def _failure(error: BaseException, opening: Opening | None, asset: Asset) -> _Failure:
    told = [*_chain(error), *heard.messages]
    everything = " ".join(told)
    statuses = [int(number) for number in _STATUS.findall(everything)]
    bad = [status for status in statuses if status >= HTTPStatus.BAD_REQUEST]
    status = bad[-1] if bad else None
    if status is None and _S3_REFUSED.search(everything):
        status = HTTPStatus.FORBIDDEN
    if status is None and _S3_GONE.search(everything):
        status = HTTPStatus.NOT_FOUND
    text = without_queries(told[0] if len(told) == 1 else _reason(error))
    if status is not None and str(status) not in text:
        text = f"{text} (HTTP status {int(status)})"
    remote = opening is None or opening.is_remote
    known = status is not None or bool(statuses) or bool(_NETWORK.search(everything)) or _FORMAT in everything
    return _Failure(
        text=" ".join(text.split()).rstrip(".").replace(asset.href, shown(asset.href)),
        status=status,
        permanent=_is_permanent(everything, statuses, status, remote=remote),
        unexplained=remote and not known,
        hint=refusal_hint(status, opening and opening.rule, located=opening is not None),
    )


def _chain(error: BaseException | None) -> list[str]:
    told = []
    while error is not None:
        told.append(str(error))
        error = error.__cause__ or error.__context__
    return told


def _reason(error: BaseException) -> str:
    """GDAL's reason stands behind rasterio's, which says "read failed", and behind other libraries' wrapping."""
    while isinstance(error, RuntimeError | RasterioError) and error.__cause__ is not None:
        error = error.__cause__
    return str(error)


def _is_permanent(everything: str, statuses: Sequence[int], status: int | None, *, remote: bool) -> bool:
    if status is not None and NOT_SIGNED not in everything:
        return status in GONE
    if statuses or _NETWORK.search(everything):  # a status below 400 that failed: an answer that was cut
        return False
    # Where nobody listens to warnings, a network's failures cannot be told from a broken file.
    return not remote or logging.getLogger("rasterio._err").isEnabledFor(logging.WARNING)
