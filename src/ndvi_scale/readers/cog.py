"""Reading COGs block by block: requests in one event loop, decoding in the threads that ask.

Only the blocks that a window touches are asked for, neighbours in one request. A block that reaches beyond its
window is kept, compressed, until the windows around it have been read or `CACHE_BYTES` are exceeded; one that is on
its way for one window serves every other that wants it. Headers are read once a process and go along when a reader
is sent to another. What is no plain COG (JP2, stripes, odd compression) is read by `rasterio`.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ndvi_scale.lattice import Window
from ndvi_scale.readers import CACHE_BYTES, Layout, Traffic, block_pixels, touched_blocks
from ndvi_scale.readers.decode import BlockError, decode_block, load_kernel
from ndvi_scale.readers.fetch import Fetcher, FetchError
from ndvi_scale.readers.files import another_file, grid_difference, refusal_hint, unreadable
from ndvi_scale.readers.header import Header, HeaderError, UnfitError, read_header
from ndvi_scale.readers.loop import Loop, loop_here
from ndvi_scale.readers.patience import GAP_BYTES, HEADERS, RUN_BYTES, Patience
from ndvi_scale.readers.rasterio import RasterioReader

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

    from numpy.typing import NDArray

    from ndvi_scale.errors import ReadError
    from ndvi_scale.granules import Asset

    Block = tuple[int, int]
    """Row and column of a block."""
    Image = tuple[str, int]
    """A file's href and the reduction of its overview, 1 for the image itself."""


class CogReader:
    """The reader for tiled TIFFs; hands everything else to `RasterioReader`."""

    name = "cog"

    def __init__(self, patience: Patience | None = None, headers: dict[Image, Header] | None = None) -> None:
        self._patience = patience or Patience()
        self._headers = dict(headers or {})
        self._unfit: dict[Image, str] = {}
        self._lock = threading.Lock()
        self._ahead: dict[tuple[Image, Window], CogReading] = {}
        self._state: _State | None = None
        self._other = RasterioReader()
        load_kernel()

    def __reduce__(self) -> tuple[type[CogReader], tuple[Patience, dict[Image, Header]]]:
        """Headers go along; blocks and connections stay."""
        return CogReader, (self._patience, dict(self._headers))

    def prefetch(self, item_id: str, asset: Asset, window: Window) -> None:
        """See `Reader.prefetch`."""
        key = _image(asset), window
        if key not in self._ahead:
            self._ahead[key] = self.start(item_id, asset, window)

    def start(self, item_id: str, asset: Asset, window: Window) -> CogReading:
        """See `Reader.start`."""
        ahead = self._ahead.pop((_image(asset), window), None)
        if ahead is not None:
            return ahead
        reading = CogReading(self, item_id, asset, window)
        why = self._unfit_for(asset)
        if why:
            reading.arrived.put(UnfitError(why))
        else:
            state = self._here()
            state.loop.run(state.serve(reading))
        return reading

    def read(self, item_id: str, asset: Asset, window: Window) -> tuple[NDArray[np.generic], Traffic]:
        """See `Reader.read`."""
        return self.start(item_id, asset, window).result()

    def learn(self, assets: Iterable[Asset]) -> None:
        """Read the headers of many files, all at once, so that a reader that is sent to workers brings them along.

        What cannot be read is left for the read of a window to say.
        """
        state = self._here()
        state.loop.run(state.learn([asset for asset in assets if not self._unfit_for(asset)])).result()

    def layout(self, item_id: str, asset: Asset) -> Layout:
        """See `Reader.layout`."""
        if self._unfit_for(asset):
            return self._other.layout(item_id, asset)
        state = self._here()
        try:
            header = state.loop.run(state.header(asset)).result()
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
        state, number = self._here(), header.number(*block)
        span = int(header.offsets[number]), int(header.sizes[number])
        return state.loop.run(state.fetcher.get(asset.href, *span)).result()

    def forget(self, asset: Asset) -> None:
        """Keep nothing of a file."""
        state = self._here()
        state.loop.run(state.forget(asset.href))

    def _unfit_for(self, asset: Asset) -> str:
        """Why an asset is not read here, or an empty string where it may be."""
        return "not TIFF" if "jp2" in asset.media_type else self._unfit.get(_image(asset), "")

    def _here(self) -> _State:
        """What belongs to this process: after a fork it is made anew."""
        loop = loop_here()
        with self._lock:
            if self._state is None or self._state.loop is not loop:
                self._state = _State(loop, self._patience, self._headers, self._unfit)
            return self._state


def _image(asset: Asset) -> Image:
    return asset.href, asset.overview


# A reading


class _Plan(NamedTuple):
    """What a reading is to wait for."""

    header: Header
    blocks: list[Block]
    traffic: Traffic


class _Arrived(NamedTuple):
    block: Block
    data: memoryview | None


class CogReading:
    """A window on its way: blocks arrive in a queue and are decoded by whoever asks for the result."""

    def __init__(self, reader: CogReader, item_id: str, asset: Asset, window: Window) -> None:
        self._reader = reader
        self.item_id = item_id
        self.asset = asset
        self.window = window
        self.arrived: SimpleQueue[_Plan | _Arrived | BaseException] = SimpleQueue()

    def result(self) -> tuple[NDArray[np.generic], Traffic]:
        """See `Reading.result`."""
        try:
            return self._result()
        except UnfitError:
            return self._reader.elsewhere(self.item_id, self.asset, self.window)
        except Exception:
            self._reader.forget(self.asset)  # the next try is to see the file as it then is
            raise

    def _result(self) -> tuple[NDArray[np.generic], Traffic]:
        plan = self._next()
        if not isinstance(plan, _Plan):
            raise TypeError(f"the first to arrive is {plan!r}, no plan")
        _check_grid(plan.header, self.item_id, self.asset)
        out = np.empty((self.window.height, self.window.width), plan.header.dtype)
        traffic = plan.traffic
        for _ in plan.blocks:
            block, data = self._next()
            traffic += self._decode(plan.header, block, data, out)
        return out, traffic

    def _next(self) -> Any:
        thing = self.arrived.get()
        if isinstance(thing, FetchError | HeaderError | _BlockFetchError):
            raise _said(thing, self.item_id, self.asset) from None
        if isinstance(thing, BaseException):
            raise thing
        return thing

    def _decode(self, header: Header, block: Block, data: memoryview | None, out: NDArray[Any]) -> Traffic:
        """A block that cannot be decoded is asked for once more: what is broken may have been the way."""
        try:
            decode_block(data, header, block, self.window, out)
        except BlockError:
            pass
        else:
            return Traffic()
        try:
            data = self._reader.again(self.asset, header, block)
            decode_block(data, header, block, self.window, out)
        except (BlockError, FetchError) as error:
            raise _said(_BlockFetchError(block, error), self.item_id, self.asset) from None
        return Traffic(1, len(data))


class _BlockFetchError(Exception):
    """A block could not be had, or not be decoded though it was fetched twice."""

    def __init__(self, block: Block, error: FetchError | BlockError) -> None:
        twice = ", fetched twice" if isinstance(error, BlockError) else ""
        super().__init__(f"block (row {block[0]}, column {block[1]}): {error}{twice}")
        self.cause = error


def _said(error: FetchError | HeaderError | _BlockFetchError, item_id: str, asset: Asset) -> ReadError:
    cause = error.cause if isinstance(error, _BlockFetchError) else error
    if not isinstance(cause, FetchError):
        return unreadable(item_id, asset, str(error), permanent=True)
    hint = refusal_hint(cause.status, cause.address and cause.address.rule, located=cause.address is not None)
    return unreadable(item_id, asset, f"{error}{hint}", permanent=cause.lasting)


def _check_grid(header: Header, item_id: str, asset: Asset) -> None:
    what = grid_difference(header.grid, asset.geobox)
    if what:
        raise another_file(item_id, asset, what)


# In the event loop

_SMALL = 4096
"""What a packed block may take beside its pixels, however few these are."""


@dataclass
class _Kept:
    """A block that a window around the first may want."""

    data: asyncio.Task[memoryview] | memoryview
    """The run it comes in, or itself."""
    place: slice
    """Where in the run it is."""
    size: int
    left: int
    """Its pixels that no window has wanted yet."""


@dataclass
class _Run:
    """Neighbouring blocks that are fetched at once."""

    start: int
    stop: int
    blocks: list[Block] = field(default_factory=list)


class _State:
    """A reader in one process. Everything but `loop` is touched in the event loop only."""

    def __init__(
        self, loop: Loop, patience: Patience, headers: dict[Image, Header], unfit: dict[Image, str]
    ) -> None:
        self.loop = loop
        self.fetcher = loop.shared(patience, lambda: Fetcher(loop, patience))
        self._headers = headers
        self._unfit = unfit
        self._reading_headers: dict[Image, asyncio.Task[Header]] = {}
        self._kept: OrderedDict[tuple[Image, Block], _Kept] = OrderedDict()
        self._bytes = 0

    async def serve(self, reading: CogReading) -> None:
        """Put the plan of a reading, its blocks as they come, or what went wrong into its queue."""
        try:
            await self._serve(reading)
        except BaseException as error:
            reading.arrived.put(error)  # whoever asks for the result is to get it, also when all is cancelled
            if not isinstance(error, Exception):
                raise

    async def _serve(self, reading: CogReading) -> None:
        image, window = _image(reading.asset), reading.window
        known = image in self._headers or image in self._reading_headers
        header = await self.header(reading.asset)
        rows, columns = touched_blocks(window, header.block)
        blocks = [(row, column) for row in rows for column in columns]
        _check_sizes(header, blocks)
        found, missing = self._look_up(image, header, window, blocks)
        runs = _runs(header, missing)
        requests, size = len(runs), sum(run.stop - run.start for run in runs)
        traffic = Traffic(requests + (0 if known else header.requests), size)
        reading.arrived.put(_Plan(header, blocks, traffic))
        for block in missing:
            if not header.sizes[header.number(*block)]:
                reading.arrived.put(_Arrived(block, None))
        begun = [self._begin_run(reading, header, run) for run in runs]  # now: who looks next is to find them
        ends = [self._end_run(reading, run, *parts) for run, parts in zip(runs, begun, strict=True)]
        await _all_or_none([*ends, *(self._hand_over(reading, header, block, kept) for block, kept in found)])

    async def header(self, asset: Asset) -> Header:
        """The header of an image, read once. Raises FetchError, HeaderError, UnfitError."""
        image = _image(asset)
        if image in self._headers:
            return self._headers[image]
        if image not in self._reading_headers:
            self._reading_headers[image] = asyncio.create_task(
                read_header(lambda start, length: self.fetcher.get(asset.href, start, length), asset.overview)
            )
        try:
            header = await asyncio.shield(self._reading_headers[image])
        except UnfitError as error:
            self._unfit[image] = str(error)
            raise
        finally:
            self._reading_headers.pop(image, None)
        self._headers[image] = header
        if len(self._headers) > HEADERS:
            del self._headers[next(iter(self._headers))]
        return header

    async def learn(self, assets: Iterable[Asset]) -> None:
        """Read headers; errors are for later."""
        await asyncio.gather(*(self.header(asset) for asset in assets), return_exceptions=True)

    async def forget(self, href: str) -> None:
        """Keep neither header nor blocks of a file."""
        for image in [image for image in self._headers if image[0] == href]:
            del self._headers[image]
        for key in [key for key in self._kept if key[0][0] == href]:
            self._drop(key)

    def _look_up(
        self, image: Image, header: Header, window: Window, blocks: Iterable[Block]
    ) -> tuple[list[tuple[Block, _Kept]], list[Block]]:
        """Blocks that are here or on their way, and those that are not."""
        found, missing = [], []
        for block in blocks:
            kept = self._kept.get((image, block))
            if kept is None:
                missing.append(block)
                continue
            found.append((block, kept))
            kept.left -= block_pixels(block, header.block, window)
            if kept.left <= 0:
                self._drop((image, block))
            else:
                self._kept.move_to_end((image, block))
        return found, missing

    def _begin_run(
        self, reading: CogReading, header: Header, run: _Run
    ) -> tuple[asyncio.Task[memoryview], dict[Block, _Kept]]:
        task = asyncio.create_task(self.fetcher.get(reading.asset.href, run.start, run.stop - run.start))
        return task, {block: self._keep(reading, header, block, run, task) for block in run.blocks}

    async def _end_run(
        self, reading: CogReading, run: _Run, task: asyncio.Task[memoryview], mine: dict[Block, _Kept]
    ) -> None:
        image = _image(reading.asset)
        try:
            data = await task
            _whole(data, run)
        except BaseException as error:
            for block in run.blocks:
                self._drop((image, block))
            if isinstance(error, FetchError):
                raise _BlockFetchError(run.blocks[0], error) from None
            raise
        for block, kept in mine.items():
            part = data[kept.place]
            if self._kept.get((image, block)) is kept:
                kept.data, kept.place = (part if len(mine) == 1 else memoryview(bytes(part))), slice(None)
            reading.arrived.put(_Arrived(block, part))

    def _keep(
        self, reading: CogReading, header: Header, block: Block, run: _Run, task: asyncio.Task[memoryview]
    ) -> _Kept:
        """Note a block that is on its way, for the windows around this one."""
        number = header.number(*block)
        begin, size = int(header.offsets[number]) - run.start, int(header.sizes[number])
        whole = Window(0, 0, *header.grid.shape)
        left = block_pixels(block, header.block, whole) - block_pixels(block, header.block, reading.window)
        kept = _Kept(task, slice(begin, begin + size), size, left)
        if left > 0:
            self._kept[_image(reading.asset), block] = kept
            self._bytes += size
            while self._bytes > CACHE_BYTES:
                self._drop(next(iter(self._kept)))
        return kept

    async def _hand_over(self, reading: CogReading, header: Header, block: Block, kept: _Kept) -> None:
        data, place = kept.data, kept.place  # both are others once the run has come
        if isinstance(data, asyncio.Task):
            task, number = data, header.number(*block)
            try:
                await asyncio.wait([task])
                if task.cancelled():  # with the reading that began it
                    span = int(header.offsets[number]), int(header.sizes[number])
                    data = await self.fetcher.get(reading.asset.href, *span)
                else:
                    data = task.result()[place]
            except FetchError as error:
                raise _BlockFetchError(block, error) from None
        reading.arrived.put(_Arrived(block, data))

    def _drop(self, key: tuple[Image, Block]) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._bytes -= kept.size


async def _all_or_none(parts: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run all at once; where one fails nobody waits for the others, and an origin in trouble is left in peace."""
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        raise


def _check_sizes(header: Header, blocks: Iterable[Block]) -> None:
    """Raises HeaderError for a block that would be larger packed than its pixels are: a damaged header."""
    raw = header.block[0] * header.block[1] * header.dtype.itemsize
    for row, column in blocks:
        size = int(header.sizes[header.number(row, column)])
        if size > 2 * raw + _SMALL:
            raise HeaderError(
                f"block (row {row}, column {column}) is said to take {size} bytes for {raw} of pixels"
            )


def _whole(data: memoryview, run: _Run) -> None:
    """Raises HeaderError when the file ended before the run did."""
    if len(data) < run.stop - run.start:
        row, column = run.blocks[-1]
        raise HeaderError(
            f"block (row {row}, column {column}) should end at byte {run.stop}, the file ends at "
            f"{run.start + len(data)}: it is cut off, or its header is damaged"
        )


def _runs(header: Header, blocks: Iterable[Block]) -> list[_Run]:
    """Stored blocks in the order of the file, neighbours together."""
    runs: list[_Run] = []
    placed = sorted(
        (int(header.offsets[n]), int(header.sizes[n]), b) for b in blocks if header.sizes[n := header.number(*b)]
    )
    for start, size, block in placed:
        last = runs[-1] if runs else None
        if last and 0 <= start - last.stop <= GAP_BYTES and start + size - last.start <= RUN_BYTES:
            last.stop = start + size
            last.blocks.append(block)
        else:
            runs.append(_Run(start, start + size, [block]))
    return runs
