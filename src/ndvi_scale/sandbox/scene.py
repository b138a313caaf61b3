"""The ground and the sky of the sandbox: pure numpy, a function of place, day and seed alone.

Every field is worked out on `Window`s of one lattice of 10 m ground cells in EPSG:32631, from hashes of the
cells' integer coordinates, so that any two windows agree where they meet, whatever their shape and order.
On whole arrays only ``+ - * /`` are used: their results do not depend on where a cell stands in its
array, which vectorised ``sin`` or ``exp`` do not promise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]
Bits: TypeAlias = NDArray[np.uint32]
Bools: TypeAlias = NDArray[np.bool_]
Ints: TypeAlias = NDArray[np.int32]
T = TypeVar("T", bound=np.generic)

CELL = 10  # metres: a ground cell, the pixel of B04 and B08
FIRST_ROW_NORTHING = 10_000_000  # metres: row 0; even rows then begin on the 20 m lattice of the SCL
ANCHOR = (FIRST_ROW_NORTHING // CELL - 479_511, 31_368)  # row, col amid the overlap of 31TCJ and 31TCH

DARK, SHADOW, VEGETATION, SOIL, WATER, UNCLASSIFIED, MEDIUM, HIGH, CIRRUS, SNOW = range(2, 12)  # SCL classes
PHASES = 64  # steps by which one parcel runs ahead of, or behind, the others of its crop


@dataclass(frozen=True)
class Window:
    """A rectangle of ground cells: first row (counted southwards), first column, height and width."""

    row: int
    col: int
    height: int
    width: int

    def rows(self) -> NDArray[np.int64]:
        """Row numbers, shape (height,)."""
        return np.arange(self.row, self.row + self.height)

    def cols(self) -> NDArray[np.int64]:
        """Column numbers, shape (width,)."""
        return np.arange(self.col, self.col + self.width)

    def halved(self) -> Window:
        """The same ground in 20 m cells; all four numbers must be even."""
        return Window(self.row // 2, self.col // 2, self.height // 2, self.width // 2)

    def moved(self, rows: int, cols: int) -> Window:
        """As large, further south and east."""
        return Window(self.row + rows, self.col + cols, self.height, self.width)


def salt_of(seed: int, *parts: int) -> int:
    """One 32-bit salt from a seed and the numbers that tell one use of it from another."""
    salt = seed & 0xFFFFFFFF
    for part in parts:
        salt = int(_mixed(np.array([(salt * 0x9E3779B1 + part) & 0xFFFFFFFF], dtype=np.uint32))[0])
    return salt


def _mixed(bits: Bits) -> Bits:
    """Hash each element in place: `lowbias32`, https://github.com/skeeto/hash-prospector."""
    bits ^= bits >> 16
    bits *= 0x7FEB352D
    bits ^= bits >> 15
    bits *= 0x846CA68B
    bits ^= bits >> 16
    return bits


def hashed(rows: NDArray[np.int64], cols: NDArray[np.int64], salt: int) -> Bits:
    """A hash for each pair of a row and a column, shape (rows, cols)."""
    across = _mixed(cols.astype(np.uint32) ^ np.uint32(salt & 0xFFFFFFFF))
    down = rows.astype(np.uint32) * np.uint32(0x9E3779B9)
    return _mixed(across[None, :] ^ down[:, None])


def _signed(bits: Bits) -> Floats:
    """Hashes as float32 in [-1, 1]."""
    return bits.astype(np.float32) * np.float32(2.0**-31) - np.float32(1)


def grain(window: Window, salt: int) -> Floats:
    """Independent bell-shaped noise, one draw a cell: mean 0, deviation 1 (the sum of a hash's bytes)."""
    parts = hashed(window.rows(), window.cols(), salt).view(np.uint8)
    total = parts.reshape(window.height, window.width, 4).sum(axis=2, dtype=np.int16)
    return (total - np.int16(510)).astype(np.float32) * np.float32(1 / 147.8)


def _between(index: NDArray[np.int64], cell: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Lattice nodes around some rows or columns: the nodes, each one's lower node, the smooth weight."""
    node, rest = np.divmod(index, cell)
    part = ((rest + 0.5) / cell).astype(np.float32)
    nodes = np.arange(node[0], node[-1] + 2)
    return nodes, node - node[0], part * part * (3 - 2 * part)


def smooth(window: Window, cell: int, salt: int) -> Floats:
    """Value noise in [-1, 1]: hashes on a lattice of `cell` cells, smoothly joined; (height, width)."""
    row_nodes, lower, row_weight = _between(window.rows(), cell)
    col_nodes, left, col_weight = _between(window.cols(), cell)
    nodes = _signed(hashed(row_nodes, col_nodes, salt))
    west, east = nodes[:, left], nodes[:, left + 1]
    lines = west + (east - west) * col_weight
    north = lines[lower]
    joined = north + (lines[lower + 1] - north) * row_weight[:, None]
    return joined.astype(np.float32, copy=False)


def rough(window: Window, cells: tuple[int, ...], salt: int) -> Floats:
    """Several sizes of `smooth` on top of each other, each half as strong as the one before."""
    total = np.zeros((window.height, window.width), dtype=np.float32)
    for step, cell in enumerate(cells):
        total += smooth(window, cell, salt + step) * np.float32(0.5**step)
    return total


class Cover(NamedTuple):
    """A kind of land: NDVI ``bare + green * (rise - fall)`` over the year; red + nir bare and green."""

    bare: float
    green: float
    rise: float  # day of year at which half of the green has come
    rise_days: float
    fall: float
    fall_days: float
    bare_sum: float
    green_sum: float
    varies: float  # how far NDVI varies inside one parcel


# Believable rather than measured: crops of the Gers and the Toulouse plain, after their sowing and harvest.
COVERS = {
    "lake": Cover(-0.28, 0, 0, 1, 0, 1, 0.060, 0.060, 0.05),
    "river": Cover(-0.12, 0, 0, 1, 0, 1, 0.095, 0.095, 0.05),
    "town": Cover(0.09, 0, 0, 1, 0, 1, 0.440, 0.440, 0.02),
    "garden": Cover(0.32, 0.28, 85, 12, 300, 15, 0.330, 0.380, 0.05),
    "road": Cover(0.07, 0, 0, 1, 0, 1, 0.360, 0.360, 0.01),
    "broadleaf": Cover(0.46, 0.42, 103, 6, 300, 10, 0.290, 0.400, 0.05),
    "conifer": Cover(0.70, 0.10, 110, 15, 290, 20, 0.210, 0.240, 0.04),
    "meadow": Cover(0.46, 0.34, 78, 11, 185, 14, 0.360, 0.460, 0.09),
    "wheat": Cover(0.17, 0.69, 72, 12, 163, 7, 0.470, 0.480, 0.07),
    "rapeseed": Cover(0.18, 0.64, 58, 12, 158, 8, 0.420, 0.520, 0.07),
    "maize": Cover(0.13, 0.74, 158, 8, 262, 9, 0.380, 0.500, 0.05),
    "sunflower": Cover(0.14, 0.66, 152, 8, 226, 9, 0.490, 0.480, 0.06),
    "vineyard": Cover(0.21, 0.34, 128, 12, 285, 12, 0.400, 0.390, 0.05),
    "fallow": Cover(0.26, 0.26, 90, 18, 190, 22, 0.400, 0.410, 0.10),
}
KIND = {name: number for number, name in enumerate(COVERS)}
_SHARES = {
    "wheat": 17, "maize": 12, "sunflower": 10, "meadow": 10,
    "rapeseed": 5, "vineyard": 4, "fallow": 3, "broadleaf": 3,
}  # fmt: skip
PARCEL_KINDS = np.array([KIND[name] for name, share in _SHARES.items() for _ in range(share)], dtype=np.uint8)
WOODS, CONIFERS = 0.52, 0.86  # heights of the noise above which there is forest, and of which kind
ROAD, HEDGE, GRASS = 1.3, 0.75, 0.55  # cells: half widths
CORE = 0.16  # how far inside a cloud its thick core begins, in units of its noise
VARIES = np.array([cover.varies for cover in COVERS.values()], dtype=np.float32)
DIRECTIONS = np.array([(math.cos(k * math.pi / 32), math.sin(k * math.pi / 32)) for k in range(32)], np.float32)


@dataclass(frozen=True)
class Land:
    """What lies on a window, whatever the day; all shapes (height, width)."""

    window: Window
    kind: NDArray[np.uint8]
    phase: NDArray[np.uint8]
    change: Floats  # added to NDVI
    brightness: Floats  # factor of red and nir alike, so that NDVI is the smoother of the three


def land_of(window: Window, seed: int) -> Land:
    """Paint parcels, then forest, towns, roads and water over one another."""
    kind, phase, tone = _parcels(window, seed)
    woods = rough(window, (260, 110, 46, 20, 8), salt_of(seed, 10))
    kind[woods > WOODS] = KIND["broadleaf"]
    kind[woods > CONIFERS] = KIND["conifer"]
    from_river, half_width = _from_river(window, seed)
    kind[np.abs(from_river) < half_width * 2.6 + 3 * woods] = KIND["broadleaf"]
    _paint_towns(window, seed, kind, phase)
    kind[np.abs(_line(window, salt_of(seed, 20), offset=150, slope=-0.35, bend=0.3)) < ROAD] = KIND["road"]
    kind[np.abs(from_river) < half_width] = KIND["river"]
    for q in _blobs(window, salt_of(seed, 30), _lakes(window, seed)):
        kind[q < 1] = KIND["lake"]
    change = rough(window, (56, 24, 9), salt_of(seed, 40)) * VARIES[kind]
    return Land(window, kind, phase, change, _brightness(window, seed, kind, tone))


def _brightness(window: Window, seed: int, kind: NDArray[np.uint8], tone: Floats) -> Floats:
    """Parcels' tones, hills lit from the south-east, and texture down to the single cell."""
    hills = (300, 120, 50)
    salt = salt_of(seed, 50)
    slope = rough(window, hills, salt) - rough(window.moved(4, 4), hills, salt)
    texture = 0.06 * rough(window, (24, 7), salt + 11) + 0.02 * smooth(window, 3, salt + 22)
    pixel = grain(window, salt + 33)
    strength = np.full(len(COVERS), 0.014, dtype=np.float32)
    for name, value in {
        "broadleaf": 0.05,
        "conifer": 0.07,
        "town": 0.16,
        "garden": 0.09,
        "lake": 0.03,
    }.items():
        strength[KIND[name]] = value
    total = 1 + 0.13 * tone + 1.1 * slope + texture + strength[kind] * pixel
    return np.clip(total, 0.35, 1.9).astype(np.float32)


class _Blocks(NamedTuple):
    """For each cell, the nearest of a jittered lattice of points: its hash and the cell's offset from it."""

    bits: Bits
    down: Floats
    right: Floats


def _blocks(window: Window, pitch: int, salt: int) -> _Blocks:
    rows, cols = window.rows(), window.cols()
    row_cell, col_cell = rows // pitch, cols // pitch
    row_nodes = np.arange(row_cell[0] - 1, row_cell[-1] + 2)
    col_nodes = np.arange(col_cell[0] - 1, col_cell[-1] + 2)
    bits = hashed(row_nodes, col_nodes, salt)
    point_row = (row_nodes[:, None] * pitch + ((bits & 0xFF) * pitch >> 8)).astype(np.int32)
    point_col = (col_nodes[None, :] * pitch + ((bits >> 8 & 0xFF) * pitch >> 8)).astype(np.int32)
    best = np.full((window.height, window.width), np.iinfo(np.int32).max, dtype=np.int32)
    chosen = np.zeros_like(best)
    row32, col32 = rows.astype(np.int32)[:, None], cols.astype(np.int32)[None, :]
    for step in range(9):
        below, beside = row_cell - row_nodes[0] + step // 3 - 1, col_cell - col_nodes[0] + step % 3 - 1
        at = (below[:, None] * len(col_nodes) + beside[None, :]).astype(np.int32)
        distance = (row32 - point_row.take(at)) ** 2 + (col32 - point_col.take(at)) ** 2
        nearer = distance < best
        np.copyto(best, distance, where=nearer)
        np.copyto(chosen, at, where=nearer)
    down = (row32 - point_row.take(chosen)).astype(np.float32)
    return _Blocks(bits.take(chosen), down, (col32 - point_col.take(chosen)).astype(np.float32))


def _parcels(window: Window, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], Floats]:
    """Fields: blocks of farmland, each with its own direction, cut into rows and the rows into parcels.

    Returns the kind, the phase and the tone in [-1, 1] of each cell's parcel.
    """
    blocks = _blocks(window, 96, salt_of(seed, 60))
    turn = DIRECTIONS[blocks.bits >> 16 & 31]
    along = blocks.right * turn[..., 0] + blocks.down * turn[..., 1]
    across = blocks.down * turn[..., 0] - blocks.right * turn[..., 1]
    depth = (9 + (blocks.bits >> 21 & 7) * 2).astype(np.float32)
    length = (18 + (blocks.bits >> 24 & 15) * 2).astype(np.float32)
    across /= depth
    row = np.floor(across)
    row_bits = _mixed(blocks.bits + row.astype(np.int32).view(np.uint32))
    along = along / length + (row_bits >> 24).astype(np.float32) * np.float32(1 / 256)
    place = np.floor(along)
    bits = _mixed(row_bits + place.astype(np.int32).view(np.uint32))
    kind = PARCEL_KINDS[bits & 63]
    tone = _signed(bits)
    edge = np.minimum(_to_edge(across - row) * depth, _to_edge(along - place) * length)
    kind[(edge < HEDGE) & (row_bits & 3 == 0)] = KIND["broadleaf"]  # a hedge
    kind[(edge < GRASS) & (row_bits & 3 == 1)] = KIND["fallow"]  # a grass strip
    return kind, (bits >> 6 & (PHASES - 1)).astype(np.uint8), tone


def _to_edge(part: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """How far a part of 1 is from the nearer end."""
    return np.minimum(part, 1 - part)


def _line(window: Window, salt: int, *, offset: float, slope: float, bend: float) -> Floats:
    """Rows between each cell and a wandering west-east line that passes `offset` rows south of the anchor."""
    cols = window.cols()
    across = Window(0, window.col - 1, 1, window.width + 2)
    sizes = ((330, 190.0), (140, 75.0), (58, 24.0))
    at = Window(0, ANCHOR[1], 1, 1)
    path = sum(bend * size * (smooth(across, cell, salt)[0] - smooth(at, cell, salt)[0]) for cell, size in sizes)
    path = np.asarray(path, dtype=np.float32)
    steep = (path[2:] - path[:-2]) / 2 + slope
    centre = path[1:-1] + np.float32(offset) + (slope * (cols - ANCHOR[1])).astype(np.float32)
    rows = (window.rows() - ANCHOR[0]).astype(np.float32)
    return ((rows[:, None] - centre) / np.sqrt(1 + steep * steep)).astype(np.float32, copy=False)


def _from_river(window: Window, seed: int) -> tuple[Floats, Floats]:
    """Distance in cells to the middle of the river, and half its width there."""
    salt = salt_of(seed, 70)
    wander = 9 * rough(window, (34, 15), salt + 9)
    return _line(window, salt, offset=0, slope=0.3, bend=1.0) + wander, 4.5 + 1.2 * smooth(window, 90, salt + 8)


class _Blob(NamedTuple):
    """A rounded place: middle row and column, half height and half width in cells."""

    row: float
    col: float
    high: float
    wide: float


def _scattered(window: Window, salt: int, pitch: int, reach: int) -> list[tuple[int, int, int]]:
    """Points of a jittered lattice, at least `reach` cells around a window too: row, column, hash."""
    row_nodes = np.arange((window.row - reach) // pitch, (window.row + window.height + reach) // pitch + 1)
    col_nodes = np.arange((window.col - reach) // pitch, (window.col + window.width + reach) // pitch + 1)
    bits = hashed(row_nodes, col_nodes, salt)
    return [
        (
            int(row) * pitch + int(b & 511) * pitch // 512,
            int(col) * pitch + int(b >> 9 & 511) * pitch // 512,
            int(b >> 18),
        )
        for row, line in zip(row_nodes, bits, strict=True)
        for col, b in zip(col_nodes, line, strict=True)
    ]


def _lakes(window: Window, seed: int) -> list[_Blob]:
    """One lake north-west of the anchor, a pond near it, and reservoirs of the hills everywhere."""
    scattered = _scattered(window, salt_of(seed, 31), 310, 100)
    ponds = [_Blob(row, col, 6 + b % 9, 8 + b % 13) for row, col, b in scattered if b % 3 == 0]
    lake = _Blob(ANCHOR[0] - 420, ANCHOR[1] - 380, 105, 165)
    return [lake, _Blob(ANCHOR[0] - 70, ANCHOR[1] + 60, 9, 15), *ponds]


def _blobs(window: Window, salt: int, blobs: list[_Blob]) -> list[Floats]:
    """For each blob in reach: 0 in its middle, 1 on its uneven shore."""
    near = [
        b
        for b in blobs
        if window.row - 2 * b.high < b.row < window.row + window.height + 2 * b.high
        and window.col - 2 * b.wide < b.col < window.col + window.width + 2 * b.wide
    ]
    if not near:
        return []
    uneven = np.float32(0.6) * rough(window, (70, 43, 30, 12), salt)
    rows, cols = window.rows().astype(np.float32), window.cols().astype(np.float32)
    return [
        np.square((rows - np.float32(b.row)) / np.float32(b.high))[:, None]
        + np.square((cols - np.float32(b.col)) / np.float32(b.wide))
        + uneven * min(1, b.high / 40 + 0.3)
        for b in near
    ]


def _paint_towns(window: Window, seed: int, kind: NDArray[np.uint8], phase: NDArray[np.uint8]) -> None:
    """Streets, roofs and gardens on the blobs where people live; the middle has fewer gardens."""
    scattered = _scattered(window, salt_of(seed, 81), 520, 150)
    villages = [_Blob(row, col, 16 + b % 17, 18 + b % 23) for row, col, b in scattered if b % 2 == 0]
    town = _Blob(ANCHOR[0] + 330, ANCHOR[1] + 300, 95, 120)
    for q in _blobs(window, salt_of(seed, 82), [town, _Blob(ANCHOR[0] + 95, ANCHOR[1] - 40, 14, 18), *villages]):
        houses = hashed(window.rows() // 3, window.cols() // 4, salt_of(seed, 83))
        free = (houses & 255).astype(np.float32) / 255 < 0.08 + 0.75 * np.maximum(q, 0)
        street = (window.rows() % 13 < 1)[:, None] | (window.cols() % 17 < 1)
        inside = q < 1
        kind[inside] = np.where(street, KIND["road"], np.where(free, KIND["garden"], KIND["town"]))[inside]
        phase[inside] = (houses >> 8 & (PHASES - 1)).astype(np.uint8)[inside]


@cache
def season(day_of_year: int) -> tuple[Floats, Floats]:
    """NDVI and red + nir by kind and phase, each of shape (kinds, PHASES)."""
    ndvi = np.empty((len(COVERS), PHASES), dtype=np.float32)
    total = np.empty_like(ndvi)
    for number, cover in enumerate(COVERS.values()):
        for phase in range(PHASES):
            day = day_of_year + (phase - PHASES / 2) * 0.4  # a parcel is up to 13 days ahead or behind
            green = _sigmoid((day - cover.rise) / cover.rise_days) - _sigmoid((day - cover.fall) / cover.fall_days)
            ndvi[number, phase] = cover.bare + cover.green * green
            total[number, phase] = cover.bare_sum + (cover.green_sum - cover.bare_sum) * green
    return ndvi, total


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-max(-50.0, min(50.0, value))))


def reflectance_of(land: Land, day_of_year: int, salt: int, *, negative: bool) -> tuple[Ints, Ints]:
    """Red and nir under a clear sky in steps of 1e-4, int32 (height, width).

    At least 1, unless `negative`: some cells of dark water then have a red below 0, as atmospheric
    correction leaves them. `salt` is the datatake's.
    """
    ndvi, total = season(day_of_year)
    index = land.kind.astype(np.int16) * np.int16(PHASES) + land.phase
    n = np.clip(ndvi.ravel().take(index) + land.change, -0.75, 0.93).astype(np.float32)
    half = total.ravel().take(index) * land.brightness * (5000 + 30 * grain(land.window, salt))
    red = np.rint(half * (1 - n)).astype(np.int32)
    nir = np.rint(half * (1 + n)).astype(np.int32)
    np.maximum(red, 1, out=red)
    np.maximum(nir, 1, out=nir)
    if negative:
        bits = hashed(land.window.rows(), land.window.cols(), salt + 1)
        dark = (land.kind <= KIND["river"]) & (bits & 31 == 0)
        red[dark] = -(bits[dark] >> 8 & 31).astype(np.int32)
    return red, nir


@dataclass(frozen=True)
class Sky:
    """The clouds of one datatake: salt, share of the ground under cloud, size of a cloud in 20 m cells.

    `thick` and `thin` are the heights of the two noises above which there is cloud and cirrus.
    """

    salt: int
    size: int
    thick: float
    thin: float

    @staticmethod
    def over(window: Window, salt: int, cover: float) -> Sky:
        """Return a sky that covers about `cover` (0...1) of a window of 10 m cells."""
        ground = window.halved()
        size = max(10, min(150, ground.width // 7))
        if cover <= 0:
            return Sky(salt, size, math.inf, math.inf)
        step = max(1, ground.width // 96)
        draft = Sky(salt, size, 0, 0)
        thick = float(np.quantile(draft._heap(ground)[::step, ::step], 1 - 0.85 * cover))
        return Sky(salt, size, thick, float(np.quantile(draft._veil(ground)[::step, ::step], 1 - 0.25 * cover)))

    def _heap(self, ground: Window) -> Floats:
        cells = tuple(max(2, round(self.size / part)) for part in (1, 1.45, 2.3, 4.7, 9, 20))
        return rough(ground, cells, self.salt + 100)

    def _veil(self, ground: Window) -> Floats:
        return rough(ground, (self.size, max(2, self.size // 3), max(2, self.size // 8)), self.salt + 200)

    def seen(self, ground: Window) -> tuple[NDArray[np.uint8], Floats]:
        """SCL class (0 where clear) and opacity 0...1 (0 where clear or in shadow), on 20 m cells."""
        scl = np.zeros((ground.height, ground.width), dtype=np.uint8)
        opacity = np.zeros(scl.shape, dtype=np.float32)
        if math.isinf(self.thick):
            return scl, opacity
        shift = max(4, self.size // 3)  # the sun stands in the south-east: shadows fall to the north-west
        scl[self._heap(ground.moved(shift, shift * 2 // 3)) > self.thick + 0.03] = SHADOW
        veil = self._veil(ground) - np.float32(self.thin)
        scl[veil > 0] = CIRRUS
        heap = self._heap(ground) - np.float32(self.thick)
        scl[heap > 0] = MEDIUM
        scl[heap > CORE] = HIGH
        np.copyto(opacity, np.clip(0.12 + 0.5 * veil, 0, 0.4), where=scl == CIRRUS)
        np.copyto(opacity, np.clip(0.3 + 2.6 * heap, 0, 0.97), where=heap > 0)
        return scl, opacity


@dataclass(frozen=True)
class View:
    """What a datatake sees of a window: 10 m arrays of shape (h, w), `scl` of shape (h / 2, w / 2).

    `clear_red` and `clear_nir` are what it would see without clouds; where `scl` is none of shadow, cloud
    and cirrus they equal `red` and `nir` (but for `mistakes`).
    """

    red: Ints
    nir: Ints
    scl: NDArray[np.uint8]
    saturated: Bools
    clear_red: Ints
    clear_nir: Ints


def view_of(land: Land, sky: Sky, day_of_year: int, *, negative: bool) -> View:
    """Look at the ground through the sky of one datatake."""
    window = land.window
    red, nir = reflectance_of(land, day_of_year, sky.salt, negative=negative)
    scl, opacity = sky.seen(window.halved())
    strays = hashed(window.halved().rows(), window.halved().cols(), sky.salt + 2)
    ground = ground_classes(land, red, nir)
    for number, stray in enumerate((UNCLASSIFIED, DARK, SNOW)):
        ground[strays >> 20 == number] = stray  # 1 in 4096 each
    under = _doubled(opacity)
    shade = np.where(_doubled(scl) == SHADOW, np.float32(0.38), np.float32(1)) * (1 - under)
    white = under * (
        6800 + 1900 * _doubled(smooth(window.halved(), 9, sky.salt + 3)) + 60 * grain(window, sky.salt + 4)
    )
    covered = _doubled(scl) != 0
    return View(
        red=np.where(covered, np.rint(red * shade + white).astype(np.int32).clip(1), red),
        nir=np.where(covered, np.rint(nir * shade + white).astype(np.int32).clip(1), nir),
        scl=np.where(scl == 0, ground, scl),
        saturated=hashed(window.rows(), window.cols(), sky.salt + 5) >> 18 == 0,  # 1 in 16384
        clear_red=red,
        clear_nir=nir,
    )


def _doubled(coarse: NDArray[T]) -> NDArray[T]:
    """20 m cells on the 10 m lattice."""
    return np.repeat(np.repeat(coarse, 2, axis=0), 2, axis=1)


def quads(values: NDArray[Any]) -> NDArray[np.int32]:
    """Sums of the four 10 m cells of each 20 m cell."""
    height, width = values.shape
    return values.reshape(height // 2, 2, width // 2, 2).sum(axis=(1, 3), dtype=np.int32)


def ground_classes(land: Land, red: Ints, nir: Ints) -> NDArray[np.uint8]:
    """SCL of clear ground from the four 10 m cells of each 20 m cell."""
    wet = quads(land.kind <= KIND["river"]) > 1
    green = quads(nir) > 2 * quads(red)  # NDVI above 1/3
    return np.where(wet, np.uint8(WATER), np.where(green, np.uint8(VEGETATION), np.uint8(SOIL)))
