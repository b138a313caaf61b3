"""Reading COGs block by block: requests in one event loop, decoding in the threads that ask.

Only the blocks that a window touches are asked for, neighbours in one request. A block that reaches beyond its
window is kept, compressed, until the windows around it have been read (where these overlap, nobody knows when that
is) or `CACHE_BYTES` are exceeded; one that is on its way for one window serves every other that wants it. Headers
are read once a process and go along when a reader is sent to another. What is no plain COG (JP2, stripes, odd
compression) is read by `rasterio`.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from ndvi_scale.readers import Layout, Traffic
from ndvi_scale.readers.blocks import BlockFetchError, Blocks, Expected, Wanted, image_of
from ndvi_scale.readers.decode import BlockError, decode_block, load_kernel
from ndvi_scale.readers.fetch import FetchError
from ndvi_scale.readers.files import another_file, grid_difference, refusal_hint, unreadable
from ndvi_scale.readers.header import Header, HeaderError, UnfitError
from ndvi_scale.readers.loop import loop_here
from ndvi_scale.readers.patience import Patience
from ndvi_scale.readers.rasterio import RasterioReader

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from ndvi_scale.errors import ReadError
    from ndvi_scale.granules import Asset
    from ndvi_scale.lattice import Window
    from ndvi_scale.readers.blocks import Block, Image


class CogReader:
    """The reader for tiled TIFFs; hands everything else to `RasterioReader`."""

    name = "cog"

    def __init__(self, patience: Patience | None = None, headers: dict[Image, Header] | None = None) -> None:
        self._patience = patience or Patience()
        self._headers = dict(headers or {})
        self._unfit: dict[Image, str] = {}
        self._lock = threading.Lock()
        self._ahead: dict[tuple[int, Image, Window], CogReading] = {}
        self._blocks: Blocks | None = None
        self._other = RasterioReader()
        load_kernel()

    def __reduce__(self) -> tuple[type[CogReader], tuple[Patience, dict[Image, Header]]]:
        """Headers go along; blocks and connections stay."""
        return CogReader, (self._patience, dict(self._headers))

    def bare(self) -> CogReader:
        """See `Reader.bare`."""
        return CogReader(self._patience)

    def prefetch(self, item_id: str, asset: Asset, window: Window, *, shared: bool = False) -> None:
        """See `Reader.prefetch`."""
        key = os.getpid(), image_of(asset), window
        if key not in self._ahead:
            self._ahead[key] = self.start(item_id, asset, window, shared=shared)

    def start(self, item_id: str, asset: Asset, window: Window, *, shared: bool = False) -> CogReading:
        """See `Reader.start`."""
        ahead = self._ahead.pop((os.getpid(), image_of(asset), window), None)
        if ahead is not None:
            return ahead
        reading = CogReading(self, item_id, Wanted(asset, window, shared))
        why = self._unfit_for(asset)
        if why:
            reading.wanted.arrived.put(UnfitError(why))
        else:
            blocks = self._here()
            blocks.loop.run(blocks.serve(reading.wanted))
        return reading

    def read(self, item_id: str, asset: Asset, window: Window) -> tuple[NDArray[np.generic], Traffic]:
        """See `Reader.read`."""
        return self.start(item_id, asset, window).result()

    def learn(self, assets: Iterable[Asset]) -> None:
        """Read the headers of many files, all at once, so that a reader that is sent to workers brings them along.

        What cannot be read is left for the read of a window to say.
        """
        blocks = self._here()
        blocks.loop.run(blocks.learn([asset for asset in assets if not self._unfit_for(asset)])).result()

    def layout(self, item_id: str, asset: Asset) -> Layout:
        """See `Reader.layout`."""
        if self._unfit_for(asset):
            return self._other.layout(item_id, asset)
        blocks = self._here()
        try:
            header = blocks.loop.run(blocks.header(asset)).result()
        except UnfitError:
            return self._other.layout(item_id, asset)
        except (FetchError, HeaderError) as error:
            raise _said(error, item_id, asset) from None
        _check_grid(header, item_id, asset)
        return Layout(header.block, float(header.sizes.mean()), kept=True)

    def elsewhere(self, item_id: str, asset: Asset, window: Window) -> tuple[NDArray[np.generic], Traffic]:
        """Read by the reader for what is no plain COG."""
        return self._other.read(item_id, asset, window)

    def again(self, asset: Asset, header: Header, block: Block) -> memoryview:
        """A block anew from the origin, waiting for it. Raises FetchError."""
        blocks = self._here()
        return blocks.loop.run(blocks.fetcher.get(asset.href, *header.span(block))).result()

    def forget(self, asset: Asset) -> None:
        """Keep nothing of a file."""
        blocks = self._here()
        blocks.loop.run(blocks.forget(asset.href))

    def _unfit_for(self, asset: Asset) -> str:
        """Why an asset is not read here, or an empty string where it may be."""
        return "not TIFF" if "jp2" in asset.media_type else self._unfit.get(image_of(asset), "")

    def _here(self) -> Blocks:
        """What belongs to this process: after a fork it is made anew."""
        loop = loop_here()
        with self._lock:
            if self._blocks is None or self._blocks.loop is not loop:
                self._blocks = Blocks(loop, self._patience, self._headers, self._unfit)
            return self._blocks


# A reading


class CogReading:
    """A window on its way: blocks arrive in a queue and are decoded by whoever asks for the result."""

    def __init__(self, reader: CogReader, item_id: str, wanted: Wanted) -> None:
        self._reader = reader
        self._item_id = item_id
        self.wanted = wanted

    def result(self) -> tuple[NDArray[np.generic], Traffic]:
        """See `Reading.result`."""
        try:
            return self._result()
        except UnfitError:
            return self._reader.elsewhere(self._item_id, self.wanted.asset, self.wanted.window)
        except Exception:
            self._reader.forget(self.wanted.asset)  # the next try is to see the file as it then is
            raise

    def _result(self) -> tuple[NDArray[np.generic], Traffic]:
        expected: Expected = self._next()
        window = self.wanted.window
        _check_grid(expected.header, self._item_id, self.wanted.asset)
        out = np.empty((window.height, window.width), expected.header.dtype)
        traffic = expected.traffic
        for _ in expected.blocks:
            block, data = self._next()
            traffic += self._decode(expected.header, block, data, out)
        return out, traffic

    def _next(self) -> Any:
        thing = self.wanted.arrived.get()
        if isinstance(thing, FetchError | HeaderError | BlockFetchError):
            raise _said(thing, self._item_id, self.wanted.asset) from None
        if isinstance(thing, BaseException):
            raise thing
        return thing

    def _decode(self, header: Header, block: Block, data: memoryview | None, out: NDArray[Any]) -> Traffic:
        """A block that cannot be decoded is asked for once more: what is broken may have been the way."""
        try:
            decode_block(data, header, block, self.wanted.window, out)
        except BlockError:
            pass
        else:
            return Traffic()
        try:
            data = self._reader.again(self.wanted.asset, header, block)
            decode_block(data, header, block, self.wanted.window, out)
        except (BlockError, FetchError) as error:
            raise _said(BlockFetchError(block, error), self._item_id, self.wanted.asset) from None
        return Traffic(1, len(data))


def _said(error: FetchError | HeaderError | BlockFetchError, item_id: str, asset: Asset) -> ReadError:
    cause = error.cause if isinstance(error, BlockFetchError) else error
    if not isinstance(cause, FetchError):
        return unreadable(item_id, asset, str(error), permanent=True)
    hint = refusal_hint(cause.status, cause.address and cause.address.rule, located=cause.address is not None)
    return unreadable(item_id, asset, f"{error}{hint}", permanent=cause.lasting)


def _check_grid(header: Header, item_id: str, asset: Asset) -> None:
    what = grid_difference(header.grid, asset.geobox)
    if what:
        raise another_file(item_id, asset, what)
