"""The whole-cube oracle: NDVI codes of a plan's cube, computed without any code of the pipeline.

Whole files instead of windows, whole layers instead of regions, Python integers' rules instead of floats, the AOI
point by point with shapely instead of GDAL's scan lines. It is given items and the output grid, nothing else.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import rasterio
import shapely
from pyproj import Transformer
from scipy import ndimage

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pystac

FILL = -32768


@dataclass(frozen=True)
class Grid:
    """Upper left corner, pixel size, shape and CRS of a cube."""

    x0: float
    y0: float
    step: float
    height: int
    width: int
    epsg: int


@dataclass(frozen=True)
class Rules:
    """What a run asks for."""

    dropped_classes: Sequence[int] = (0, 1, 3, 8, 9, 10)
    clip_range: bool = False
    offset: int | None = None
    all_zones: bool = False
    """Granules of other zones than the output's take part, too."""
    mask_filters: Sequence[str] = ()
    """What is done to cloud of a whole granule before it is dropped, such as ``opening:2``."""
    overview: int = 1
    """Red and nir are those of the overview of so many pixels along one."""


def offset_of(item: pystac.Item) -> int:
    """The BOA offset by the text of the rule, from the item's own words."""
    major = int(str(item.properties["s2:processing_baseline"]).split(".")[0])
    if major < 4 or item.properties.get("earthsearch:boa_offset_applied"):
        return 0
    return -1000


def superseded(items: Iterable[pystac.Item]) -> set[str]:
    """Ids of items that another processing of the same tile and start of sensing outranks."""
    found: dict[tuple[str, str], list[pystac.Item]] = {}
    for item in items:
        product = item.properties.get("s2:product_uri", item.id).split("_")
        sensed = product[2] if len(product) > 2 and "MSIL2A" in product[1] else item.id
        found.setdefault((item.properties["grid:code"], sensed), []).append(item)
    lost = set()
    for same in found.values():
        best = max(float(item.properties["s2:processing_baseline"]) for item in same)
        lost |= {item.id for item in same if float(item.properties["s2:processing_baseline"]) != best}
    return lost


STEPS = {"erosion": ["shrink"], "dilation": ["grow"], "opening": ["shrink", "grow"], "closing": ["grow", "shrink"]}
CLOUDS = (3, 8, 9, 10, 11)
KEPT, DROPPED = -1, 255
"""What cloud that is none any more becomes, which no rule drops, and what was none before: no class."""


def filtered(scl: np.ndarray, dropped: Sequence[int], filters: Sequence[str]) -> np.ndarray:
    """Classes of a whole granule, cloud that filters took away `KEPT`, pixels that they added `DROPPED`."""
    data = (scl >= 1) & (scl <= 11)
    before = np.isin(scl, [number for number in CLOUDS if number in dropped])
    after = before
    for text in filters:
        name, radius = text.split(":")
        y, x = np.ogrid[-int(radius) : int(radius) + 1, -int(radius) : int(radius) + 1]
        disk = x * x + y * y <= int(radius) ** 2
        for step in STEPS[name]:
            # Without data: as cloud where it shrinks, as clear where it grows; and so is all beyond the granule.
            if step == "shrink":
                after = ndimage.binary_erosion(after | ~data, disk, border_value=1) & data
            else:
                after = ndimage.binary_dilation(after, disk) & data
    return np.where(after & ~before, DROPPED, np.where(before & ~after, KEPT, scl.astype(np.int64)))


Bands = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Red, nir and classes, one shape, int64."""


def read_bands(item: pystac.Item, rules: Rules) -> Bands:
    """A whole granule, its classes filtered, what is coarser spread to the pixels of what is finest."""
    overview = rules.overview
    red, nir, scl = (rasterio.open(item.assets[name].get_absolute_href()) for name in ("red", "nir", "scl"))
    with red, nir, scl:
        assert overview == 1 or all(overview in file.overviews(1) for file in (red, nir))
        shape = red.height // overview, red.width // overview  # GDAL takes the overview of just this shape
        found = [*(file.read(1, out_shape=shape) for file in (red, nir)), scl.read(1)]
    found[2] = filtered(found[2], rules.dropped_classes, rules.mask_filters)
    side = max(band.shape[0] for band in found)
    r, n, s = (np.kron(band, np.ones((side // band.shape[0],) * 2, np.int64)) for band in found)
    return r, n, s


def usable(bands: Bands, rules: Rules) -> np.ndarray:
    """Pixels with DN 1...32767 in both bands, and of a class that is kept."""
    r, n, s = bands
    return (r >= 1) & (r <= 32767) & (n >= 1) & (n <= 32767) & (s <= 11) & ~np.isin(s, rules.dropped_classes)


def codes(bands: Bands, rules: Rules, shift: int) -> np.ndarray:
    """Codes, by integer arithmetic."""
    data = usable(bands, rules)
    r, n = bands[0] + shift, bands[1] + shift
    data &= n + r > 0
    if not rules.clip_range:
        data &= abs(n - r) <= n + r
    total = np.where(n + r > 0, n + r, 1)
    code = half_even(10_000 * (n - r), total)
    return np.where(data, np.clip(code, -10_000, 10_000), FILL).astype(np.int16)


def half_even(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Nearest integer to a / b, halves to even: floor((2a + b) / 2b), one less at a half that is odd."""
    code = (2 * a + b) // (2 * b)
    return code - (((2 * a + b) % (2 * b) == 0) & (code % 2 != 0))


def cells(bands: Bands, rules: Rules, factor: int) -> Bands:
    """Means of factor x factor pixels; whole cells only, usable where all pixels are."""
    rows, columns = (side // factor for side in bands[0].shape)

    def stack(band: np.ndarray) -> np.ndarray:
        """Pixels of each cell along the last axis, row after row."""
        cut = band[: rows * factor, : columns * factor]
        apart = cut.reshape(rows, factor, columns, factor).swapaxes(1, 2)
        return apart.reshape(rows, columns, factor * factor)

    kept = stack(usable(bands, rules)).all(axis=-1)
    r, n, s = (stack(band) for band in bands)
    size = np.array(factor * factor)
    middle = s[..., (factor // 2) * factor + factor // 2]
    mean = [np.where(kept, half_even(band.sum(axis=-1), size), 0) for band in (r, n)]
    return mean[0], mean[1], np.where(kept, middle, 0)


def positions(grid: Grid, transform: Sequence[float], epsg: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of every pixel of a grid in those of a granule, in 256ths; 0 is a centre.

    Exact at every 64th pixel, there in 65536ths, and bilinear between.
    """
    down, across = np.arange(0, grid.height + 64, 64), np.arange(0, grid.width + 64, 64)
    x, y = np.meshgrid(grid.x0 + grid.step * (across + 0.5), grid.y0 - grid.step * (down + 0.5))
    x, y = Transformer.from_crs(grid.epsg, epsg, always_xy=True).transform(x, y)
    size = transform[0]
    found = []
    for exact in ((transform[5] - y) / size - 0.5, (x - transform[2]) / size - 0.5):
        node = np.round(exact * 65536).astype(np.int64)
        j, i = np.arange(grid.height), np.arange(grid.width)
        b, a = (j % 64)[:, None], (i % 64)[None, :]
        j, i = (j // 64)[:, None], (i // 64)[None, :]
        total = (
            node[j, i] * (64 - b) * (64 - a)
            + node[j, i + 1] * (64 - b) * a
            + node[j + 1, i] * b * (64 - a)
            + node[j + 1, i + 1] * b * a
        )
        found.append(np.floor_divide(2 * total + 2**20, 2**21))
    return found[0], found[1]


def warped(bands: Bands, rules: Rules, where: tuple[np.ndarray, np.ndarray]) -> Bands:
    """Bilinear of the usable ones of four pixels where the nearest is usable; else nothing."""
    good = usable(bands, rules)
    height, width = good.shape

    def at(band: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        return np.where(inside, band[row.clip(0, height - 1), column.clip(0, width - 1)], 0)

    row, column = where
    nearest = (row + 128) // 256, (column + 128) // 256
    kept = at(good, *nearest).astype(bool)
    sums = [np.zeros(row.shape, np.int64) for _ in range(3)]
    for south in (0, 1):
        for east in (0, 1):
            y, x = row // 256 + south, column // 256 + east
            weight = (256 - abs(row - 256 * y)) * (256 - abs(column - 256 * x)) * at(good, y, x)
            for place, band in enumerate((bands[0], bands[1], np.ones_like(bands[0]))):
                sums[place] += weight * at(band, y, x)
    weights = np.where(kept, sums[2], 1)
    r, n = (np.where(kept, half_even(total, weights), 0) for total in sums[:2])
    return r, n, np.where(kept, at(bands[2], *nearest), 0)


def placed_codes(item: pystac.Item, grid: Grid, rules: Rules) -> np.ndarray:
    """Codes of a granule in every pixel of the output."""
    transform, epsg = item.assets["red"].extra_fields["proj:transform"], item.properties["proj:epsg"]
    bands = read_bands(item, rules)
    size = transform[0] * item.assets["red"].extra_fields["proj:shape"][0] / bands[0].shape[0]
    shift = offset_of(item) if rules.offset is None else rules.offset
    factor = round(grid.step / size)
    fine = replace(grid, step=size, height=grid.height * factor, width=grid.width * factor)
    if epsg != grid.epsg:
        bands = warped(bands, rules, positions(fine, transform, epsg))
    else:
        row = round((transform[5] - fine.y0) / fine.step)  # of the output's corner, in native pixels
        column = round((fine.x0 - transform[2]) / fine.step)
        bands = cropped(bands, (row, column), (fine.height, fine.width))
    return codes(cells(bands, rules, factor) if factor > 1 else bands, rules, shift)


def cropped(bands: Bands, first: tuple[int, int], shape: tuple[int, int]) -> Bands:
    """From a pixel on, which may lie outside; nothing where there is none."""
    found = []
    for band in bands:
        out = np.zeros(shape, np.int64)
        _place(out, band, -first[0], -first[1])
        found.append(out)
    return found[0], found[1], found[2]


def cube(
    items: Sequence[pystac.Item],
    grid: Grid,
    days: Sequence[dt.date],
    aoi: shapely.Geometry | None,
    rules: Rules,
    *,
    latest_first: bool = False,
) -> np.ndarray:
    """Codes of every layer, shape (days, height, width); `latest_first` turns the order of the mosaic round."""
    out = np.full((len(days), grid.height, grid.width), FILL, np.int16)
    lost = superseded(items)
    chosen = [i for i in items if i.id not in lost and (rules.all_zones or i.properties["proj:epsg"] == grid.epsg)]
    for item in sorted(chosen, key=lambda i: (i.datetime, i.id), reverse=latest_first):
        day = _solar_day(item, grid)
        if day in days:
            layer, later = out[days.index(day)], placed_codes(item, grid, rules)
            layer[layer == FILL] = later[layer == FILL]
    if aoi is not None:
        out[:, ~_inside(grid, aoi)] = FILL
    return out


def _place(layer: np.ndarray, data: np.ndarray, row: int, column: int) -> None:
    """Put `data` into a layer, from a row and column on, where they meet."""
    top, left = max(row, 0), max(column, 0)
    bottom, right = min(row + data.shape[0], layer.shape[0]), min(column + data.shape[1], layer.shape[1])
    if top < bottom and left < right:
        layer[top:bottom, left:right] = data[top - row : bottom - row, left - column : right - column]


def _solar_day(item: pystac.Item, grid: Grid) -> dt.date:
    to_degrees = Transformer.from_crs(grid.epsg, 4326, always_xy=True)
    centre = grid.x0 + grid.step * grid.width / 2, grid.y0 - grid.step * grid.height / 2
    longitude, _ = to_degrees.transform(*centre)
    hours = int(abs(longitude) // 15) * (1 if longitude > 0 else -1)
    return (item.datetime.astimezone(dt.UTC) + dt.timedelta(hours=hours)).date()


def _inside(grid: Grid, aoi: shapely.Geometry) -> np.ndarray:
    """Whether each pixel's centre lies in the AOI: its edges, cut into 1 km pieces, projected vertex by vertex."""
    project = Transformer.from_crs(4326, grid.epsg, always_xy=True)
    area = shapely.transform(
        shapely.segmentize(aoi, 0.01), lambda xy: np.column_stack(project.transform(xy[:, 0], xy[:, 1]))
    )
    x = grid.x0 + grid.step * (np.arange(grid.width) + 0.5)
    y = grid.y0 - grid.step * (np.arange(grid.height) + 0.5)
    shapely.prepare(area)
    return shapely.contains_xy(area, *np.meshgrid(x, y))
