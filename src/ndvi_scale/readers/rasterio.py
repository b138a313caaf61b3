"""Reading through GDAL: one dataset a thread and asset, kept open for the regions that follow."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window as RasterWindow

from ndvi_scale.catalog import shown
from ndvi_scale.errors import ReadError
from ndvi_scale.readers import CACHE_BYTES, OPEN_FILES, Layout, Traffic, block_runs, touched_blocks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ndvi_scale.granules import Asset
    from ndvi_scale.lattice import Window

GDAL_OPTIONS: Final = {
    "GDAL_CACHEMAX": CACHE_BYTES,
    # The directory of a COG is not ours to list, and has no side-car files worth a request each.
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
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


class RasterioReader:
    """The reader for everything that GDAL decodes."""

    name = "rasterio"

    def __init__(self) -> None:
        self._local = threading.local()
        self._seen: set[str] = set()
        self._failed: set[str] = set()

    def __reduce__(self) -> tuple[type[RasterioReader], tuple[()]]:
        """Open files stay where they were opened."""
        return RasterioReader, ()

    def read(self, item_id: str, asset: Asset, window: Window) -> tuple[NDArray[np.generic], Traffic]:
        """See `Reader.read`."""
        with rasterio.Env(**GDAL_OPTIONS):
            source = self._open(item_id, asset)
            try:
                area = RasterWindow(window.column, window.row, window.width, window.height)  # pyright: ignore[reportCallIssue]
                data = source.read(1, window=area)
            except (RasterioError, OSError, ValueError) as error:
                self._forget(asset.href)
                raise _unreadable(item_id, asset, error) from None
            return data, _traffic(source, window) + self._header_traffic(asset.href)

    def layout(self, item_id: str, asset: Asset) -> Layout:
        """See `Reader.layout`."""
        with rasterio.Env(**GDAL_OPTIONS):
            source = self._open(item_id, asset)
            height, width = source.block_shapes[0]
            rows, columns = math.ceil(source.height / height), math.ceil(source.width / width)
            sizes = [_block_bytes(source, row, column) for row in range(rows) for column in range(columns)]
            return Layout((height, width), sum(sizes) / len(sizes))

    def _open(self, item_id: str, asset: Asset) -> rasterio.DatasetReader:
        files: OrderedDict[str, rasterio.DatasetReader] = self._local.__dict__.setdefault("files", OrderedDict())
        if asset.href in files:
            files.move_to_end(asset.href)
            return files[asset.href]
        try:
            with rasterio.Env(**self._doubts(asset.href)):
                source = rasterio.open(asset.href, driver=_driver(asset), sharing=False)
        except NotGeoreferencedWarning as warning:  # where warnings are errors
            raise _another_file(item_id, asset, str(warning)) from None
        except (RasterioError, OSError, ValueError) as error:
            self._failed.add(asset.href)
            raise _unreadable(item_id, asset, error) from None
        _check_grid(item_id, asset, source)
        files[asset.href] = source
        if len(files) > OPEN_FILES:
            files.popitem(last=False)[1].close()
        return source

    def _header_traffic(self, href: str) -> Traffic:
        # Counted once a process: another thread that opens the same file is served from GDAL's own cache.
        new = href not in self._seen
        self._seen.add(href)
        return Traffic(requests=int(new))

    def _doubts(self, href: str) -> dict[str, Any]:
        # GDAL remembers that a URL failed, and what a cut answer held: after a failure it has to ask again.
        return {"CPL_VSIL_CURL_NON_CACHED": f"/vsicurl/{href}"} if href in self._failed else {}

    def _forget(self, href: str) -> None:
        self._failed.add(href)
        source = self._local.files.pop(href, None)
        if source is not None:
            source.close()


def _driver(asset: Asset) -> str:
    """The one format an asset may have: left to guess, GDAL would follow a VRT to wherever it points."""
    return "JP2OpenJPEG" if "jp2" in asset.media_type else "GTiff"


def _check_grid(item_id: str, asset: Asset, source: rasterio.DatasetReader) -> None:
    geobox = asset.geobox
    said = geobox.crs.to_epsg() if geobox.crs else None
    found = source.crs.to_epsg() if source.crs else None
    same_crs = None in (said, found) or said == found
    same_shape = (source.height, source.width) == geobox.shape.yx
    if not same_crs or not same_shape or not source.transform.almost_equals(geobox.affine, 1e-6):
        source.close()
        raise _another_file(
            item_id,
            asset,
            f"it is {source.height} x {source.width} pixels at ({source.transform.c}, {source.transform.f}) in "
            f"EPSG:{found}, not {geobox.shape.y} x {geobox.shape.x} at ({geobox.affine.c}, {geobox.affine.f}) in "
            f"EPSG:{said}",
        )


def _another_file(item_id: str, asset: Asset, what: str) -> ReadError:
    return ReadError(
        f"item {item_id} does not describe this file, {shown(asset.href)}: {what}. Leave the item out, or use "
        "on-error = skip",
        item_id=item_id,
        asset=shown(asset.href),
    )


def _unreadable(item_id: str, asset: Asset, error: Exception) -> ReadError:
    # GDAL's reason stands behind rasterio's; the query of a URL may hold a signature, which is nobody's business.
    text = " ".join(str(error.__cause__ or error).split()).rstrip(".").replace(asset.href, shown(asset.href))
    return ReadError(
        f"cannot read {shown(asset.href)} of item {item_id}: {text}. Run again if the origin was away for a while; "
        "use on-error = skip to leave unreadable items out with a record",
        item_id=item_id,
        asset=shown(asset.href),
    )


def _block_bytes(source: rasterio.DatasetReader, row: int, column: int) -> int:
    """Compressed size of one block; formats other than TIFF do not tell, and count as half of their pixels."""
    size = source.get_tag_item(f"BLOCK_SIZE_{column}_{row}", "TIFF", bidx=1)
    if size is not None:
        return int(size)
    if source.driver == "GTiff":
        return 0  # a sparse block, which is nodata and takes no bytes
    height, width = source.block_shapes[0]
    return height * width * np.dtype(source.dtypes[0]).itemsize // 2


def _traffic(source: rasterio.DatasetReader, window: Window) -> Traffic:
    block = source.block_shapes[0]
    rows, columns = touched_blocks(window, block)
    size = sum(_block_bytes(source, row, column) for row in rows for column in columns)
    return Traffic(block_runs(window, block, source.width), size)
