"""What a workload cannot do without: the distinct blocks that touch its window, from the headers of the COGs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import rasterio
from rasterio.windows import from_bounds

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


@dataclass(frozen=True)
class Needed:
    """Distinct blocks, and their compressed bytes."""

    files: int
    blocks: int
    bytes: int


def needed_blocks(paths: Iterable[Path], bounds: tuple[float, float, float, float]) -> Needed:
    """Blocks of the finest level of some COGs that touch `bounds` (left, bottom, right, top in their CRS)."""
    sizes = [_block_sizes(path, bounds) for path in paths]
    touched = [held for held in sizes if held]
    return Needed(len(touched), sum(map(len, touched)), sum(map(sum, touched)))


def _block_sizes(path: Path, bounds: tuple[float, float, float, float]) -> list[int]:
    with rasterio.open(path) as source:
        window = from_bounds(*bounds, transform=source.transform)
        rows = _touched(window.row_off, window.height, source.block_shapes[0][0], source.height)
        columns = _touched(window.col_off, window.width, source.block_shapes[0][1], source.width)
        tags = [f"BLOCK_SIZE_{column}_{row}" for row in rows for column in columns]
        return [int(source.get_tag_item(tag, "TIFF", bidx=1) or 0) for tag in tags]


def _touched(start: float, length: float, side: int, size: int) -> range:
    # A window's edge a billionth of a pixel inside the next block does not touch it.
    first, last = max(0, math.floor(start + 1e-6)), min(size, math.ceil(start + length - 1e-6))
    return range(first // side, math.ceil(last / side)) if first < last else range(0)
