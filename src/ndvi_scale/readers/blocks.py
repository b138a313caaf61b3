"""Compressed blocks: asked for in the event loop, shared on their way, kept while other windows will want them.

Everything here but `Blocks.loop` and the queues is touched in the event loop only.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

from ndvi_scale.lattice import Window
from ndvi_scale.readers import CACHE_BYTES, Traffic, block_pixels, touched_blocks
from ndvi_scale.readers.decode import BlockError
from ndvi_scale.readers.fetch import Fetcher, FetchError
from ndvi_scale.readers.header import Header, HeaderError, UnfitError, read_header
from ndvi_scale.readers.patience import GAP_BYTES, HEADERS, RUN_BYTES, Patience

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

    from ndvi_scale.granules import Asset
    from ndvi_scale.readers.loop import Loop

    Block = tuple[int, int]
    """Row and column of a block."""
    Image = tuple[str, int]
    """A file's href and the reduction of its overview, 1 for the image itself."""


def image_of(asset: Asset) -> Image:
    """Which image of which file an asset is."""
    return asset.href, asset.overview


class Expected(NamedTuple):
    """What a reading is to wait for."""

    header: Header
    blocks: list[Block]
    traffic: Traffic


class Arrived(NamedTuple):
    """A block as it is stored, or None for one that is not."""

    block: Block
    data: memoryview | None


@dataclass(frozen=True)
class Wanted:
    """A window of an asset, and the queue that its blocks are put into."""

    asset: Asset
    window: Window
    shared: bool = False
    """Whether windows around it overlap with it."""
    arrived: SimpleQueue[Expected | Arrived | BaseException] = field(default_factory=SimpleQueue)
    """`Expected` first, then each block as it comes; or what went wrong."""


class BlockFetchError(Exception):
    """A block could not be had, or not be decoded though it was fetched twice."""

    def __init__(self, block: Block, error: FetchError | BlockError) -> None:
        twice = ", fetched twice" if isinstance(error, BlockError) else ""
        super().__init__(f"block (row {block[0]}, column {block[1]}): {error}{twice}")
        self.cause = error


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
    left: float
    """Its pixels that no window has wanted yet; infinite where they are wanted who knows how often."""


@dataclass
class _Run:
    """Neighbouring blocks that are fetched at once."""

    start: int
    stop: int
    blocks: list[Block] = field(default_factory=list)


class Blocks:
    """The headers and blocks of a reader in one process."""

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

    async def serve(self, wanted: Wanted) -> None:
        """Put the plan of a reading, its blocks as they come, or what went wrong into its queue."""
        try:
            await self._serve(wanted)
        except BaseException as error:
            wanted.arrived.put(error)  # whoever asks for the result is to get it, also when all is cancelled
            if not isinstance(error, Exception):
                raise

    async def _serve(self, wanted: Wanted) -> None:
        image, window = image_of(wanted.asset), wanted.window
        known = image in self._headers or image in self._reading_headers
        header = await self.header(wanted.asset)
        rows, columns = touched_blocks(window, header.block)
        blocks = [(row, column) for row in rows for column in columns]
        _check_sizes(header, blocks)
        found, missing = self._look_up(image, header, window, blocks)
        runs = _runs(header, missing)
        requests, size = len(runs), sum(run.stop - run.start for run in runs)
        traffic = Traffic(requests + (0 if known else header.requests), size)
        wanted.arrived.put(Expected(header, blocks, traffic))
        for block in missing:
            if not header.span(block)[1]:
                wanted.arrived.put(Arrived(block, None))
        begun = [self._begin_run(wanted, header, run) for run in runs]  # now: who looks next is to find them
        ends = [self._end_run(wanted, run, *parts) for run, parts in zip(runs, begun, strict=True)]
        await _all_or_none([*ends, *(self._hand_over(wanted, header, block, kept) for block, kept in found)])

    async def header(self, asset: Asset) -> Header:
        """The header of an image, read once. Raises FetchError, HeaderError, UnfitError."""
        image = image_of(asset)
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
        self, wanted: Wanted, header: Header, run: _Run
    ) -> tuple[asyncio.Task[memoryview], dict[Block, _Kept]]:
        task = asyncio.create_task(self.fetcher.get(wanted.asset.href, run.start, run.stop - run.start))
        return task, {block: self._keep(wanted, header, block, run, task) for block in run.blocks}

    async def _end_run(
        self, wanted: Wanted, run: _Run, task: asyncio.Task[memoryview], mine: dict[Block, _Kept]
    ) -> None:
        image = image_of(wanted.asset)
        try:
            data = await task
            _whole(data, run)
        except BaseException as error:
            for block in run.blocks:
                self._drop((image, block))
            if isinstance(error, FetchError):
                raise BlockFetchError(run.blocks[0], error) from None
            raise
        for block, kept in mine.items():
            part = data[kept.place]
            if self._kept.get((image, block)) is kept:
                kept.data, kept.place = (part if len(mine) == 1 else memoryview(bytes(part))), slice(None)
            wanted.arrived.put(Arrived(block, part))

    def _keep(
        self, wanted: Wanted, header: Header, block: Block, run: _Run, task: asyncio.Task[memoryview]
    ) -> _Kept:
        """Note a block that is on its way, for the windows around this one."""
        start, size = header.span(block)
        begin = start - run.start
        whole = Window(0, 0, *header.grid.shape)
        left = block_pixels(block, header.block, whole) - block_pixels(block, header.block, wanted.window)
        if wanted.shared:
            left = math.inf
        kept = _Kept(task, slice(begin, begin + size), size, left)
        if left > 0:
            self._kept[image_of(wanted.asset), block] = kept
            self._bytes += size
            while self._bytes > CACHE_BYTES:
                self._drop(next(iter(self._kept)))
        return kept

    async def _hand_over(self, wanted: Wanted, header: Header, block: Block, kept: _Kept) -> None:
        data, place = kept.data, kept.place  # both are others once the run has come
        if isinstance(data, asyncio.Task):
            try:
                await asyncio.wait([data])
                if data.cancelled():  # with the reading that began it
                    data = await self.fetcher.get(wanted.asset.href, *header.span(block))
                else:
                    data = data.result()[place]
            except FetchError as error:
                raise BlockFetchError(block, error) from None
        wanted.arrived.put(Arrived(block, data))

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
        _, size = header.span((row, column))
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
    for (start, size), block in sorted((header.span(block), block) for block in blocks):
        if not size:
            continue
        last = runs[-1] if runs else None
        if last and 0 <= start - last.stop <= GAP_BYTES and start + size - last.start <= RUN_BYTES:
            last.stop = start + size
            last.blocks.append(block)
        else:
            runs.append(_Run(start, start + size, [block]))
    return runs
