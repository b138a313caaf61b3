"""The output grid of a plan: which CRS and pixel size, which granules take part, where it begins. Reads nothing.

Granules of the grid's own zone give their pixels as they are. Those of other zones are left out where that zone
covers the region, and warped where it does not.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox

from ndvi_scale.errors import ConfigError
from ndvi_scale.granules import Dropped, Granule, scl_factor
from ndvi_scale.lattice import PHASE, Bounds, Lattice, PerGrid, distinct, fit_lattice
from ndvi_scale.placement import transformer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from ndvi_scale.config import RunConfig

DENSIFY = 0.01
"""Longest AOI edge in degrees before it is projected: on 1 km a lon/lat line leaves its chord by under 1 m."""

EDGE_PARTS = 32
"""Parts of a granule's edge before it is projected: on 3.4 km it leaves its chord by under a metre."""

LARGEST_FACTOR = 512
"""Native pixels along an output pixel: 5 km of 10 m. More is no map of NDVI but a statistic."""


MOST_OBJECTS = 250_000
"""Objects of a layer: at 2048 pixels of 10 m as much as two thirds of all land, so more is a mistake."""


def choose_granules(granules: list[Granule], config: RunConfig) -> tuple[list[Granule], list[Dropped]]:
    """Granules that make the output, and those of other zones that it does not need.

    Without `config.crs` the output lies in the only zone, or the lowest that covers the region; with it, granules
    of other zones take part unless that zone covers the region by itself. A zone covers it where no granule of
    another one has ground of it to add. Raises ConfigError if none does and no CRS is given.
    """
    zones: dict[int, list[Granule]] = defaultdict(list)
    for granule in granules:
        zones[granule.epsg].append(granule)
    if config.crs is not None:
        own = [epsg for epsg in zones if CRS(f"EPSG:{epsg}") == CRS(config.crs)]
        needed = not own or not _covers(own[0], zones, config)
        return (granules, []) if needed else _only(own[0], zones)
    covering = [epsg for epsg in sorted(zones) if len(zones) == 1 or _covers(epsg, zones, config)]
    if not covering or (len(zones) > 1 and config.aoi is None):
        names = ", ".join(f"EPSG:{epsg}" for epsg in sorted(zones))
        raise ConfigError(
            f"the granules lie in several UTM zones ({names}) and none covers the whole region: give crs = one of "
            "these or any other in metres, to which the others are warped, or grid = per-zone for one group a zone"
        )
    return _only(covering[0], zones)


def _only(epsg: int, zones: dict[int, list[Granule]]) -> tuple[list[Granule], list[Dropped]]:
    others = sorted((g for zone, found in zones.items() if zone != epsg for g in found), key=lambda g: g.order)
    return zones[epsg], [
        Dropped(granule.id, f"lies in EPSG:{granule.epsg}, the output in EPSG:{epsg}") for granule in others
    ]


def _covers(epsg: int, zones: dict[int, list[Granule]], config: RunConfig) -> bool:
    """Whether no other zone has ground of the region to add; a region that is not given is the zone's own."""
    if config.aoi is None:
        return True
    crs = zones[epsg][0].red.geobox.crs
    area = project(config.aoi.geometry, crs)
    own = ground(zones[epsg], crs)
    other = ground([g for zone, found in zones.items() if zone != epsg for g in found], crs)
    pixel = zones[epsg][0].red.geobox.resolution.x
    return area.intersection(other).difference(own).area < pixel**2


def build_lattice(granules: Sequence[Granule], config: RunConfig) -> Lattice:
    """The lattice over the region, or over the ground of all granules. Raises ConfigError for what cannot be."""
    native = _native_resolution(granules)
    resolution = _output_resolution(native, config)
    crs = CRS(config.crs) if config.crs else granules[0].red.geobox.crs
    own = [granule for granule in granules if granule.red.geobox.crs == crs]
    area = _area(granules, config, crs)
    _check_extent(area, resolution, config)
    anchor = _anchor(own, area)
    if anchor is None:
        left, _, _, top = area.bounds
        corner = (
            math.floor(left / resolution + PHASE) * resolution,
            math.ceil(top / resolution - PHASE) * resolution,
        )
        return fit_lattice(area.bounds, _grid(corner, resolution, crs), 1, config.object_side)
    factor = scl_factor(anchor.red.geobox, anchor.scl.geobox) if resolution == native else 1
    if config.chunk % factor:
        raise ConfigError(f"chunk {config.chunk} is not a multiple of {factor}, the pixels of one SCL pixel")
    affine = anchor.red.geobox.affine
    return fit_lattice(area.bounds, _grid((affine.c, affine.f), resolution, crs), factor, config.object_side)


def _check_extent(area: BaseGeometry, resolution: float, config: RunConfig) -> None:
    left, bottom, right, top = area.bounds
    height, width, side = (top - bottom) / resolution, (right - left) / resolution, config.object_side
    if (height / side + 1) * (width / side + 1) > MOST_OBJECTS:
        raise ConfigError(
            f"the region spans {height:.0f} x {width:.0f} pixels, more than {MOST_OBJECTS:,} objects of "
            f"{side}: check it (a part on the other side of the world?), cut it, or use a larger "
            f"{'shard' if config.shard else 'chunk'}"
        )


def _grid(corner: tuple[float, float], resolution: float, crs: CRS | None) -> GeoBox:
    return GeoBox((1, 1), Affine(resolution, 0, corner[0], 0, -resolution, corner[1]), crs)


def _area(granules: Sequence[Granule], config: RunConfig, crs: CRS | None) -> BaseGeometry:
    """What the lattice has to hold: the region, or all ground; of the region only its ground with per-zone."""
    if config.aoi is None:
        return ground([g for g in granules if g.red.geobox.crs == crs] or granules, crs)
    area = project(config.aoi.geometry, crs)
    if config.grid != "per-zone":
        return area
    held = area.intersection(ground(granules, crs))
    return area if held.is_empty else held


def _anchor(own: Sequence[Granule], area: BaseGeometry) -> Granule | None:
    """The granule, of those in the lattice's own CRS, that covers most of it."""
    if not own:
        return None
    held = PerGrid(lambda grid: area.intersection(shapely.box(*bounds_of(grid))).area)
    return max(own, key=lambda granule: held[granule.red.geobox])  # the first of equals


def _native_resolution(granules: Sequence[Granule]) -> float:
    native = granules[0].red.geobox.resolution.x
    odd = next((g for g in granules if g.red.geobox.resolution.x != native), None)
    if odd is not None:
        raise ConfigError(
            f"granules have different pixel sizes ({native} m, and {odd.red.geobox.resolution.x} m in {odd.id}): "
            "plan them apart"
        )
    return native


def _output_resolution(native: float, config: RunConfig) -> float:
    resolution = config.resolution or native
    factor = round(resolution / native)
    if abs(resolution / native - factor) > PHASE or not 1 <= factor <= LARGEST_FACTOR:
        raise ConfigError(
            f"resolution {resolution:g} m is not a whole multiple of the granules' own {native:g} m, up to "
            f"{LARGEST_FACTOR * native:g} m: give {native:g}, {2 * native:g}, {3 * native:g}, … or leave it out"
        )
    return factor * native


def project(geometry: BaseGeometry, crs: CRS | None) -> BaseGeometry:
    """A lon/lat geometry in a CRS, its edges kept within `DENSIFY` of straight on the globe. Raises ConfigError."""
    convert = transformer("EPSG:4326", str(crs)).transform
    dense = shapely.segmentize(geometry, DENSIFY)
    found = shapely.transform(dense, convert, interleaved=False)  # pyright: ignore[reportCallIssue, reportArgumentType]
    if not np.isfinite(shapely.get_coordinates(found)).all():
        raise ConfigError(f"crs {crs} has no place for the whole region: give one made for that part of the world")
    return found if found.is_valid else shapely.make_valid(found)


def ground(granules: Iterable[Granule], crs: CRS | None) -> BaseGeometry:
    """What granules cover, with or without data, in a CRS."""
    return shapely.union_all([ground_of(grid, crs) for grid in distinct(g.red.geobox for g in granules)])


def ground_of(grid: GeoBox, crs: CRS | None) -> BaseGeometry:
    """The rectangle of a native grid in a CRS."""
    box = shapely.box(*bounds_of(grid))
    if grid.crs == crs:
        return box
    convert = transformer(str(grid.crs), str(crs)).transform
    side = max(grid.shape) * grid.resolution.x
    found = shapely.transform(shapely.segmentize(box, side / EDGE_PARTS), convert, interleaved=False)  # pyright: ignore[reportCallIssue, reportArgumentType]
    if not np.isfinite(shapely.get_coordinates(found)).all():
        raise ConfigError(f"crs {crs} has no place for the granules: give one made for that part of the world")
    return found


def bounds_of(geobox: GeoBox) -> Bounds:
    """Left, bottom, right, top of a grid."""
    box = geobox.boundingbox
    return box.left, box.bottom, box.right, box.top


def middle_longitude(grid: GeoBox) -> float:
    """Longitude of the middle of a grid, which decides the run's solar days."""
    left, bottom, right, top = bounds_of(grid)
    return transformer(str(grid.crs), "EPSG:4326").transform((left + right) / 2, (bottom + top) / 2)[0]


def objects_of(lattice: Lattice, grid: GeoBox) -> set[tuple[int, int]]:
    """Objects (iy, ix) of a lattice that a granule's native grid may have pixels in."""
    if grid.crs == lattice.geobox.crs:
        return set(lattice.objects_within(bounds_of(grid)))
    # Chords lie inside the true edge, by less than this.
    area = ground_of(grid, lattice.geobox.crs).buffer(2 * lattice.geobox.resolution.x)
    return objects_in(lattice, area)


def objects_in(lattice: Lattice, area: BaseGeometry) -> set[tuple[int, int]]:
    """Objects (iy, ix) of a lattice that share a point with an area in its CRS."""
    places = list(lattice.objects_within(area.bounds))
    if not places:
        return set()
    shapely.prepare(area)
    touched = shapely.intersects(area, _object_boxes(lattice, np.array(places)))
    return {place for place, touches in zip(places, touched, strict=True) if touches}


def _object_boxes(lattice: Lattice, places: NDArray[np.int64]) -> NDArray[Any]:
    """Polygons of objects, shape (n,); `places` of shape (n, 2)."""
    affine, (height, width) = lattice.geobox.affine, lattice.object_shape
    north, west = places[:, 0] * height, places[:, 1] * width
    south = np.minimum(north + height, lattice.geobox.shape.y)
    east = np.minimum(west + width, lattice.geobox.shape.x)
    left, right = (affine.c + affine.a * column for column in (west, east))
    top, bottom = (affine.f + affine.e * row for row in (north, south))
    return shapely.box(left, bottom, right, top)
