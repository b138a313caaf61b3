"""How DN get from an asset into an array: one Protocol, one file an implementation.

A reader does nothing but read: no offset, no mask, no mosaic, no warp. Readers differ in speed, never in DN.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TypeVar

from ndvi_scale.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from ndvi_scale.granules import Asset
    from ndvi_scale.lattice import Window

T = TypeVar("T")

READERS: Final[dict[str, tuple[str, str]]] = {
    "cog": ("ndvi_scale.readers.cog:CogReader", "pip install ndvi-scale"),
    "rasterio": ("ndvi_scale.readers.rasterio:RasterioReader", "pip install rasterio"),
    "stackstac": ("ndvi_scale.readers.stackstac:StackstacReader", "pip install stackstac"),
}
"""Reader name → where it is, how to install it."""

DEFAULT_READER: Final = "cog"


CACHE_BYTES: Final = 64 << 20
"""A reader's cache for the whole process (GDAL's block cache): a window never uses a block twice, so it need not
be large."""

OPEN_FILES: Final = 9
"""Files a thread keeps open: three bands of three granules, so that neighbouring regions open each once."""

FILE_BYTES: Final = 4 << 20
"""What an open file keeps: one block decoded (2 MiB for 1024² uint16) and one compressed. Measured with GDAL 3.12:
2.6 MB a file, and up to a megabyte more of what the allocator keeps."""


@dataclass(frozen=True)
class Traffic:
    """What a read asked of the origin."""

    requests: int = 0
    """Runs of neighbouring blocks; a run of blocks that lie one after another in the file is one request."""
    bytes: int = 0
    """Compressed bytes of the blocks that the windows touch."""

    def __add__(self, other: Traffic) -> Traffic:
        """Sum of both."""
        return Traffic(self.requests + other.requests, self.bytes + other.bytes)


@dataclass(frozen=True)
class Layout:
    """How an asset is cut into blocks: what an estimate needs."""

    block: tuple[int, int]
    """Height and width of a block in pixels."""
    block_bytes: float
    """Mean compressed size of a block."""
    kept: bool = False
    """Whether a block is fetched once for all windows around it."""


def touched_blocks(window: Window, block: tuple[int, int]) -> tuple[range, range]:
    """Block rows and block columns that a window touches."""
    return (
        range(window.row // block[0], math.ceil((window.row + window.height) / block[0])),
        range(window.column // block[1], math.ceil((window.column + window.width) / block[1])),
    )


def block_pixels(block: tuple[int, int], shape: tuple[int, int], window: Window) -> int:
    """How many pixels of a block (row and column of blocks of that shape) a window wants."""
    top, left = block[0] * shape[0], block[1] * shape[1]
    height = min(top + shape[0], window.row + window.height) - max(top, window.row)
    width = min(left + shape[1], window.column + window.width) - max(left, window.column)
    return max(0, height) * max(0, width)


def block_runs(window: Window, block: tuple[int, int], width: int) -> int:
    """Requests for a window of an image `width` pixels wide: one a row of blocks, or one if the rows are whole.

    Blocks lie row after row in the file, and readers ask for neighbours at once.
    """
    rows, columns = touched_blocks(window, block)
    return 1 if len(columns) == math.ceil(width / block[1]) else len(rows)


class Reading(Protocol):
    """A read that may be on its way."""

    def result(self) -> tuple[NDArray[np.generic], Traffic]:
        """What `Reader.read` returns, once it is there; raises what that raises. To be asked for once."""
        ...


@dataclass(frozen=True)
class Deferred:
    """The reading of a reader that cannot begin before its result is asked for."""

    read: Callable[[], tuple[NDArray[Any], Traffic]]

    def result(self) -> tuple[NDArray[Any], Traffic]:
        """See `Reading.result`."""
        return self.read()


def one_ahead(started: Iterable[T]) -> Iterator[T]:
    """The same things, each taken before the one in front of it is handed out; the first at once.

    Of things that start when they are taken, one is then on its way while another is worked on.
    """
    source = iter(started)
    waiting = list(islice(source, 1))

    def rest() -> Iterator[T]:
        while waiting:
            waiting.extend(islice(source, 1))
            yield waiting.pop(0)

    return rest()


class Reader(Protocol):
    """Reads windows of assets. Safe to call from many threads; keeps nothing that must be closed by hand."""

    name: str

    def bare(self) -> Reader:
        """One that is set up alike and knows nothing of any file: what goes along with each of many tasks."""
        ...

    def start(self, item_id: str, asset: Asset, window: Window, *, shared: bool = False) -> Reading:
        """Begin to read a window, where the reader can; never waits, and raises nothing that `result` can.

        `shared`: windows around it overlap with it, so that a pixel is wanted more than once.
        """
        ...

    def prefetch(self, item_id: str, asset: Asset, window: Window, *, shared: bool = False) -> None:
        """Begin, where the reader can, what the next `start` of this window is to find begun."""
        ...

    def read(self, item_id: str, asset: Asset, window: Window) -> tuple[NDArray[np.generic], Traffic]:
        """DN of a window, shape (height, width), in the asset's own dtype, and what it cost.

        Raises ReadError when the asset is absent, cannot be decoded, or is not on the grid that its item
        says.
        """
        ...

    def layout(self, item_id: str, asset: Asset) -> Layout:
        """How the asset is cut into blocks; reads its header only. Raises ReadError."""
        ...


class BlockingReader(ABC):
    """A reader that reads when the result is asked for, in the thread that asks."""

    def bare(self) -> Self:
        """See `Reader.bare`: it takes along nothing by itself."""
        return self

    @abstractmethod
    def read(self, item_id: str, asset: Asset, window: Window) -> tuple[NDArray[np.generic], Traffic]:
        """See `Reader.read`."""

    def prefetch(self, item_id: str, asset: Asset, window: Window, *, shared: bool = False) -> None:  # noqa: ARG002
        """Nothing: there is no reading before its result is asked for."""
        return

    def start(self, item_id: str, asset: Asset, window: Window, *, shared: bool = False) -> Reading:  # noqa: ARG002
        """See `Reader.start`."""
        return Deferred(partial(self.read, item_id, asset, window))


def open_reader(name: str = DEFAULT_READER) -> Reader:
    """A reader by name. Raises ConfigError for an unknown or uninstalled one."""
    if name not in READERS:
        raise ConfigError(f"unknown reader {name!r}: give one of {', '.join(READERS)}")
    target, how = READERS[name]
    module, _, attribute = target.partition(":")
    try:
        return getattr(import_module(module), attribute)()
    except ImportError as error:
        raise ConfigError(f"reader {name!r} is not installed ({error}): {how}") from None
