"""TIFFs as they can be and as they must not be: written by GDAL, or with single numbers of a directory changed."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import rasterio
from affine import Affine

if TYPE_CHECKING:
    from numpy.typing import NDArray

CORNER: Final = Affine(10, 0, 300_000, 0, -10, 4_900_020)
WIDTH, HEIGHT, TILE_WIDTH, TILE_HEIGHT = 256, 257, 322, 323
BITS, COMPRESSION, PREDICTOR, SAMPLES = 258, 259, 317, 277
PHOTOMETRIC, FILL_ORDER, PLANAR, NODATA = 262, 266, 284, 42113
PIXEL_SCALE, GEO_KEYS = 33550, 34735
TILE_OFFSETS, TILE_COUNTS = 324, 325
_SIZES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 12: 8, 16: 8}
_CODES: Final = {1: "B", 3: "H", 4: "I", 16: "Q"}


def pixels(shape: tuple[int, int], dtype: str = "uint16", *, seed: int = 3, sparse: int = 0) -> NDArray[Any]:
    """DN that compress a little, no two neighbours alike; the first `sparse` rows and columns are 0."""
    draw = np.random.default_rng(seed)
    if dtype == "uint8":
        dn = draw.integers(0, 12, shape)
    else:
        dn = draw.integers(1, 3000, shape) + 7 * np.arange(shape[0])[:, None]
    dn[:sparse, :sparse] = 0
    return dn.astype(dtype)


def write_tiff(path: Path, dn: NDArray[Any], **options: Any) -> Path:
    """A TIFF on the usual grid; options as GDAL's GTiff driver has them."""
    bands = dn if dn.ndim == 3 else dn[None]
    count, height, width = bands.shape
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": dn.dtype, "nodata": 0}
    with rasterio.open(path, "w", **profile, crs=32631, transform=CORNER, **options) as file:
        file.write(bands)
    return path


@dataclass(frozen=True)
class Entry:
    """One tag of a directory."""

    code: int
    kind: int
    count: int
    at: int
    """Where its entry stands."""
    values_at: int
    """Where its values stand."""


class Tiff:
    """The bytes of a TIFF, to change single numbers of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = bytearray(path.read_bytes())
        self.order = "<" if self.data[:2] == b"II" else ">"
        self.big = self._get("H", 2) == 43

    def save(self, path: Path | None = None) -> Path:
        """Write them."""
        path = path or self.path
        path.write_bytes(self.data)
        return path

    @property
    def first(self) -> int:
        """Where the first directory stands."""
        return self._get("Q", 8) if self.big else self._get("I", 4)

    @property
    def entries(self) -> dict[int, Entry]:
        """Tags of the first directory."""
        start = self.first + (8 if self.big else 2)
        length = 20 if self.big else 12
        found = {}
        for number in range(self._get("Q" if self.big else "H", self.first)):
            at = start + number * length
            code, kind = self._get("H", at), self._get("H", at + 2)
            count = self._get("Q" if self.big else "I", at + 4)
            inline = at + (12 if self.big else 8)
            fits = _SIZES.get(kind, 8) * count <= (8 if self.big else 4)
            values_at = inline if fits else self._get("Q" if self.big else "I", inline)
            found[code] = Entry(code, kind, count, at, values_at)
        return found

    def values(self, code: int) -> list[int]:
        """The numbers of a tag."""
        entry = self.entries[code]
        step, letter = _SIZES[entry.kind], _CODES[entry.kind]
        return [self._get(letter, entry.values_at + step * number) for number in range(entry.count)]

    def put(self, code: int, value: int, index: int = 0) -> None:
        """Change one number of a tag."""
        entry = self.entries[code]
        self._put(_CODES[entry.kind], entry.values_at + _SIZES[entry.kind] * index, value)

    def recount(self, code: int, count: int) -> None:
        """Say that a tag has another number of values, which stay where they are."""
        entry = self.entries[code]
        self._put("Q" if self.big else "I", entry.at + 4, count)

    def place(self, code: int, at: int) -> None:
        """Say that a tag's values stand elsewhere."""
        entry = self.entries[code]
        self._put("Q" if self.big else "I", entry.at + (12 if self.big else 8), at)

    def retag(self, code: int, new: int, value: int) -> None:
        """Make a tag another one, of the same kind."""
        self.put(code, value)
        self._put("H", self.entries[code].at, new)

    def link(self, to: int) -> None:
        """Say where the next directory stands."""
        length = 20 if self.big else 12
        at = self.first + (8 if self.big else 2) + length * len(self.entries)
        self._put("Q" if self.big else "I", at, to)

    def start_at(self, first: int) -> None:
        """Say where the first directory stands."""
        self._put("Q" if self.big else "I", 8 if self.big else 4, first)

    def block(self, number: int) -> tuple[int, int]:
        """Start and stop of a block."""
        start = self.values(TILE_OFFSETS)[number]
        return start, start + self.values(TILE_COUNTS)[number]

    def _get(self, letter: str, at: int) -> int:
        return int(struct.unpack_from(self.order + letter, self.data, at)[0])

    def _put(self, letter: str, at: int, value: int) -> None:
        struct.pack_into(self.order + letter, self.data, at, value)


def apart(path: Path, gap: int = 70_000) -> Path:
    """Moves the blocks of a TIFF so far away from each other that nobody reads two at once."""
    tiff = Tiff(path)
    blocks = [tiff.block(number) for number in range(len(tiff.values(TILE_OFFSETS)))]
    for number, (start, stop) in enumerate(blocks):
        tiff.data += bytes(gap)
        tiff.put(TILE_OFFSETS, len(tiff.data), number)
        tiff.data += tiff.data[start:stop]
    return tiff.save()


def peak_memory(*, reset: bool = False) -> int:
    """Most bytes that this process held since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    (line,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(line) * 1024
