"""The whole-cube oracle: NDVI codes of a plan's cube, computed without any code of the pipeline.

Whole files instead of windows, whole layers instead of regions, Python integers' rules instead of floats, the AOI
point by point with shapely instead of GDAL's scan lines. It is given items and the output grid, nothing else.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import rasterio
import shapely
from pyproj import Transformer

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


def granule_codes(item: pystac.Item, rules: Rules) -> np.ndarray:
    """Codes of a whole granule, by integer arithmetic."""
    red, nir, scl = (rasterio.open(item.assets[name].get_absolute_href()) for name in ("red", "nir", "scl"))
    with red, nir, scl:
        r, n, s = red.read(1).astype(object), nir.read(1).astype(object), scl.read(1)
    r, n = r.astype(np.int64), n.astype(np.int64)
    factor = r.shape[0] // s.shape[0]
    s = np.kron(s, np.ones((factor, factor), s.dtype))
    data = (r >= 1) & (r <= 32767) & (n >= 1) & (n <= 32767) & (s <= 11) & ~np.isin(s, rules.dropped_classes)
    shift = offset_of(item) if rules.offset is None else rules.offset
    r, n = r + shift, n + shift
    data &= n + r > 0
    if not rules.clip_range:
        data &= abs(n - r) <= n + r
    total = np.where(n + r > 0, n + r, 1)
    twice = 2 * 10_000 * (n - r)
    # nearest integer to a/b, halves to even: floor((2a + b) / 2b), one less at a half that is odd
    code = (twice + total) // (2 * total)
    code -= ((twice + total) % (2 * total) == 0) & (code % 2 != 0)
    return np.where(data, np.clip(code, -10_000, 10_000), FILL).astype(np.int16)


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
    chosen = [i for i in items if i.id not in lost and i.properties["proj:epsg"] == grid.epsg]
    for item in sorted(chosen, key=lambda i: (i.datetime, i.id), reverse=latest_first):
        day = _solar_day(item, grid)
        if day not in days:
            continue
        codes = granule_codes(item, rules)
        transform = item.assets["red"].extra_fields["proj:transform"]
        row, column = round((grid.y0 - transform[5]) / grid.step), round((transform[2] - grid.x0) / grid.step)
        _first_valid(out[days.index(day)], codes, row, column)
    if aoi is not None:
        out[:, ~_inside(grid, aoi)] = FILL
    return out


def _first_valid(layer: np.ndarray, codes: np.ndarray, row: int, column: int) -> None:
    top, left = max(row, 0), max(column, 0)
    bottom, right = min(row + codes.shape[0], layer.shape[0]), min(column + codes.shape[1], layer.shape[1])
    if top >= bottom or left >= right:
        return
    target = layer[top:bottom, left:right]
    source = codes[top - row : bottom - row, left - column : right - column]
    target[target == FILL] = source[target == FILL]


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
