"""The processor floor: decode, kernel and encode of the workload's blocks from memory, and nothing else. Frozen.

Reading the compressed blocks, and putting the finished chunks where a Zarr reader finds them, are not timed.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagecodecs
import numba
import numpy as np
import tifffile
from contender import FILL, Clock, Workload, read_workload
from fused import dropped_table
from numcodecs import blosc

SIDE = 1024
"""Of a block, in pixels of 10 m or of SCL's 20 m."""


SHUFFLES = {"noshuffle": blosc.NOSHUFFLE, "shuffle": blosc.SHUFFLE, "bitshuffle": blosc.BITSHUFFLE}


class Blocks:
    """One COG's compressed blocks of its finest level."""

    def __init__(self, path: Path, wanted: set[tuple[int, int]]) -> None:
        """Read those (row, column) that are wanted."""
        with tifffile.TiffFile(path) as tiff, path.open("rb") as file:
            page = tiff.pages[0]
            across = -(-page.imagewidth // page.tilewidth)
            self.predicted = page.predictor == 2
            self.held = {}
            for row, column in wanted:
                number = row * across + column
                file.seek(page.dataoffsets[number])
                self.held[row, column] = file.read(page.databytecounts[number])

    def decode(self, at: tuple[int, int], side: int, out: np.ndarray) -> None:
        """The block of `side` pixels of 10 m that begins at a row and column of the tile."""
        imagecodecs.deflate_decode(self.held[at[0] // side, at[1] // side], out=out.reshape(-1).view(np.uint8))


@numba.njit(nogil=True, cache=True)
def sum_rows(block) -> None:  # noqa: ANN001
    """Undo the horizontal predictor, in place."""
    for row in range(block.shape[0]):
        for column in range(1, block.shape[1]):
            block[row, column] += block[row, column - 1]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def fuse(red, nir, scl, predicted, offset, dropped, out) -> None:  # noqa: ANN001
    """Codes of one block; `red` and `nir` as DEFLATE leaves them, which a predicted row is the running sum of."""
    height, width = out.shape
    keep = np.empty(width, np.bool_)
    for row in range(height):
        reds, nirs, codes = red[row], nir[row], out[row]
        if predicted:
            for column in range(1, width):
                reds[column] += reds[column - 1]
                nirs[column] += nirs[column - 1]
        for column in range(width // 2):
            keep[2 * column] = keep[2 * column + 1] = not dropped[scl[row // 2, column]]
        for column in range(width):
            r, n = np.int32(reds[column]), np.int32(nirs[column])
            total, difference = r + n + 2 * offset, n - r
            usable = keep[column] & (r > 0) & (r <= 32767) & (n > 0) & (n <= 32767)
            usable &= (total > 0) & (difference <= total) & (-difference <= total)
            quotient = np.rint(np.float64(10_000 * difference) / np.float64(total if usable else 1))
            codes[column] = np.int16(quotient) if usable else np.int16(-32768)


class Floor:
    """The workload's blocks in memory, and what makes a chunk of them."""

    def __init__(self, work: Workload, folder: Path) -> None:
        """Read the blocks; the window must begin on a chunk of the tile, so that no block is needed twice."""
        self.work = work
        self.table = dropped_table(work.dropped)
        feature = work.features[0]
        _, _, left, _, _, top = feature["assets"]["red"]["proj:transform"]
        self.first = round((top - work.bounds[3]) / 10), round((work.bounds[0] - left) / 10)
        if self.first[0] % (2 * SIDE) or self.first[1] % (2 * SIDE) or work.chunk % (2 * SIDE):
            raise SystemExit("the floor is measured on windows that begin on whole blocks of all bands")
        rows, columns = ((start, start + length) for start, length in zip(self.first, work.shape[1:], strict=True))
        fine, coarse = (
            {(i, j) for i in _blocks(rows, side) for j in _blocks(columns, side)} for side in (SIDE, 2 * SIDE)
        )
        self.layers = [
            (
                work.offsets[item["id"]],
                *(
                    Blocks(folder / item["id"] / f"{name}.tif", wanted)
                    for name, wanted in (("red", fine), ("nir", fine), ("scl", coarse))
                ),
            )
            for item in work.features
        ]
        self.local = threading.local()

    def compute(self, place: tuple[int, int, int]) -> bytes:
        """One chunk, encoded."""
        layer, top, left = place
        offset, red, nir, scl = self.layers[layer]
        height, width = (
            min(self.work.chunk, self.work.shape[1] - top),
            min(self.work.chunk, self.work.shape[2] - left),
        )
        codes = np.empty((self.work.chunk, self.work.chunk), np.int16)
        if (height, width) != codes.shape:
            codes[...] = FILL
        reds, nirs, classes = self._buffers()
        for row in range(0, height, 2 * SIDE):
            for column in range(0, width, 2 * SIDE):
                scl.decode((self.first[0] + top + row, self.first[1] + left + column), 2 * SIDE, classes)
                if scl.predicted:
                    sum_rows(classes)
                for down in range(row, min(row + 2 * SIDE, height), SIDE):
                    for right in range(column, min(column + 2 * SIDE, width), SIDE):
                        at = self.first[0] + top + down, self.first[1] + left + right
                        red.decode(at, SIDE, reds)
                        nir.decode(at, SIDE, nirs)
                        part = classes[(down - row) // 2 :, (right - column) // 2 :]
                        out = codes[down : min(down + SIDE, height), right : min(right + SIDE, width)]
                        fuse(reds, nirs, part, red.predicted, np.int32(offset), self.table, out)
        name, level, shuffle, size = (
            self.work.codec.get(key) for key in ("cname", "clevel", "shuffle", "blocksize")
        )
        return blosc.compress(codes, name.encode(), level, SHUFFLES[shuffle], size or blosc.AUTOBLOCKS)

    def _buffers(self) -> list[np.ndarray]:
        if not hasattr(self.local, "buffers"):
            self.local.buffers = [np.zeros((SIDE, SIDE), dtype) for dtype in ("u2", "u2", "u1")]
        return self.local.buffers


def _blocks(span: tuple[int, int], side: int) -> range:
    return range(span[0] // side, -(-span[1] // side))


def main() -> None:
    """Chunk after chunk, on as many threads as everybody else has cores."""
    work = read_workload()
    array = work.create()
    floor = Floor(work, Path(work.archive, "sentinel-2-l2a"))
    floor.compute((0, 0, 0))  # loads the kernels; whatever else a process does once is no part of a floor
    clock = Clock()
    clock.graph_built()
    chunks = work.chunks()
    with ThreadPoolExecutor(work.threads) as pool:
        finished = list(pool.map(floor.compute, chunks))
    clock.finish()
    for (layer, row, column), data in zip(chunks, finished, strict=True):
        key = array.metadata.encode_chunk_key((layer, row // work.chunk, column // work.chunk))
        path = Path(work.out, "ndvi", key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


if __name__ == "__main__":
    main()
