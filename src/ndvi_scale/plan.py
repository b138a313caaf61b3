"""The frozen whole of a run: `Plan`. Built once from items, stored before the first pixel, never changed.

Whatever comes later (compute, resume, retry) reads the plan and never searches again. This module is pure:
`planfile` turns a plan into bytes and back.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import shapely
from pyproj import CRS, Transformer

from ndvi_scale.errors import ConfigError, EmptySearchError, ItemError
from ndvi_scale.granules import Dropped, Granule, choose_processings, granule_from_item, scl_factor
from ndvi_scale.lattice import Bounds, Lattice, Region, fit_lattice
from ndvi_scale.sentinel2 import solar_day

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Iterator, Sequence

    import pystac
    from odc.geo.geobox import GeoBox
    from shapely.geometry.base import BaseGeometry

    from ndvi_scale.config import RunConfig

DENSIFY = 0.01
"""Longest AOI edge in degrees before it is projected: on 1 km a lon/lat line leaves its chord by under 1 m."""


@dataclass(frozen=True)
class Plan:
    """What is computed, from what, onto what grid, and which granules each region needs."""

    config: RunConfig
    lattice: Lattice
    days: tuple[dt.date, ...]
    """Solar day of each layer, ascending."""
    granules: tuple[Granule, ...]
    """In (time, id) order, which is the order of every mosaic."""
    index: dict[Region, tuple[int, ...]]
    """Positions in `granules` that touch a region, ascending; regions that none touches are absent."""
    dropped: tuple[Dropped, ...] = ()
    """Items that take no part, each with the reason."""

    @cached_property
    def id(self) -> str:
        """Digest of the configuration and of every granule's id, hrefs and offsets: what fixes the pixels."""
        text = json.dumps(
            [
                self.config.digest(),
                [
                    [granule.id, [[asset.href, asset.offset] for asset in granule.assets.values()]]
                    for granule in self.granules
                ],
            ]
        )
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (time, y, x) of the output."""
        return len(self.days), self.lattice.geobox.shape.y, self.lattice.geobox.shape.x

    def regions(self) -> Iterator[Region]:
        """Every region that has something to compute, layer by layer, north to south, west to east."""
        return iter(self.index)

    def granules_of(self, region: Region) -> list[Granule]:
        """Granules of a region in mosaic order; empty for a region that none touches."""
        return [self.granules[row] for row in self.index.get(region, ())]

    def region_geobox(self, region: Region) -> GeoBox:
        """Grid of a region."""
        return self.lattice.region_geobox(region.iy, region.ix)

    def region_pixels(self, region: Region) -> int:
        """Number of pixels of a region."""
        height, width = self.region_geobox(region).shape
        return height * width

    @cached_property
    def aoi_geometry(self) -> BaseGeometry | None:
        """The AOI in the lattice's CRS, or None where the whole rectangle is wanted."""
        if self.config.aoi is None or not self.config.clip:
            return None
        return _project(self.config.aoi.geometry, self.lattice.geobox)


def build_plan(items: Iterable[pystac.Item], config: RunConfig) -> Plan:
    """Freeze items and configuration into a plan; reads no pixel and opens no file.

    Raises ItemError for an item that cannot be used (with ``on_error="skip"`` it is dropped with a record),
    EmptySearchError when nothing is left, ConfigError for a CRS or resolution that the granules do not have.
    """
    granules, dropped = _usable_granules(items, config)
    granules, superseded = choose_processings(granules)
    granules, other_zones = _choose_zone(granules, config)
    lattice = _build_lattice(granules, config)
    objects = _touched_objects(lattice, config)
    longitude = _longitude(lattice.geobox)
    granules, outside = _within(granules, lattice, objects)
    days = sorted({solar_day(granule.time, longitude) for granule in granules})
    return Plan(
        config=config,
        lattice=lattice,
        days=tuple(days),
        granules=tuple(granules),
        index=_index(granules, lattice, objects, [days.index(solar_day(g.time, longitude)) for g in granules]),
        dropped=tuple(dropped + superseded + other_zones + outside),
    )


def _usable_granules(items: Iterable[pystac.Item], config: RunConfig) -> tuple[list[Granule], list[Dropped]]:
    granules, dropped = [], []
    for item in items:
        try:
            granules.append(granule_from_item(item, config.offset, config.assets))
        except ItemError as error:
            if config.on_error == "raise":
                raise
            dropped.append(Dropped(item.id, str(error)))
    if not granules:
        reasons = f": {dropped[0].reason}" if dropped else ""
        raise EmptySearchError(f"no usable item among {len(dropped)}{reasons}")
    return granules, dropped


def _choose_zone(granules: list[Granule], config: RunConfig) -> tuple[list[Granule], list[Dropped]]:
    """The granules of one UTM zone: that of `config.crs`, or the only one, or the lowest that covers the AOI."""
    zones: dict[int, list[Granule]] = defaultdict(list)
    for granule in granules:
        zones[granule.epsg].append(granule)
    names = ", ".join(f"EPSG:{epsg}" for epsg in sorted(zones))
    if config.crs is not None:
        wanted = _epsg(config.crs)
        if wanted not in zones:
            raise ConfigError(
                f"crs {config.crs} is not that of any granule ({names}): reprojection is not supported, "
                "give one of these"
            )
    elif len(zones) == 1:
        wanted = next(iter(zones))
    else:
        covering = [epsg for epsg in sorted(zones) if _covers(zones[epsg], config)]
        if not covering:
            raise ConfigError(
                f"the granules lie in several UTM zones ({names}) and none covers the whole region: "
                f"give crs = one of these, or a smaller region"
            )
        wanted = covering[0]
    others = [
        Dropped(granule.id, f"lies in EPSG:{granule.epsg}, the output in EPSG:{wanted}")
        for granule in granules
        if granule.epsg != wanted
    ]
    return zones[wanted], others


def _epsg(crs: str) -> int:
    return CRS.from_user_input(crs).to_epsg() or 0


def _covers(granules: Sequence[Granule], config: RunConfig) -> bool:
    if config.aoi is None:
        return False
    grid = granules[0].red.geobox
    ground = shapely.union_all([shapely.box(*_bounds(g.red.geobox)) for g in granules])
    return bool(ground.covers(_project(config.aoi.geometry, grid)))


def _project(geometry: BaseGeometry, grid: GeoBox) -> BaseGeometry:
    """A lon/lat geometry in the CRS of a grid, its edges kept within `DENSIFY` of straight on the globe."""
    transformer = Transformer.from_crs("EPSG:4326", str(grid.crs), always_xy=True)
    dense = shapely.segmentize(geometry, DENSIFY)
    return shapely.transform(dense, transformer.transform, interleaved=False)  # pyright: ignore[reportCallIssue, reportArgumentType]


def _longitude(grid: GeoBox) -> float:
    """Longitude of the middle of a grid, which decides the run's solar days."""
    bounds = _bounds(grid)
    transformer = Transformer.from_crs(str(grid.crs), "EPSG:4326", always_xy=True)
    return transformer.transform((bounds[0] + bounds[2]) / 2, (bounds[1] + bounds[3]) / 2)[0]


def _bounds(geobox: GeoBox) -> Bounds:
    box = geobox.boundingbox
    return box.left, box.bottom, box.right, box.top


def _build_lattice(granules: Sequence[Granule], config: RunConfig) -> Lattice:
    anchor, bounds = _anchor(granules, config)
    factor = scl_factor(anchor.red.geobox, anchor.scl.geobox)
    native = anchor.red.geobox.resolution.x
    _check_resolution(granules, native, config)
    if config.chunk % factor:
        raise ConfigError(f"chunk {config.chunk} is not a multiple of {factor}, the pixels of one SCL pixel")
    return fit_lattice(bounds, anchor.red.geobox, factor, config.chunk)


def _check_resolution(granules: Sequence[Granule], native: float, config: RunConfig) -> None:
    odd = next((g for g in granules if g.red.geobox.resolution.x != native), None)
    if odd is not None:
        raise ConfigError(
            f"granules have different pixel sizes ({native} m, and {odd.red.geobox.resolution.x} m in {odd.id}): "
            "plan them apart"
        )
    if config.resolution not in (None, native):
        raise ConfigError(
            f"resolution {config.resolution} m is not the granules' own ({native:g} m): resampling is not "
            f"supported, leave it out or give {native:g}"
        )


def _anchor(granules: Sequence[Granule], config: RunConfig) -> tuple[Granule, Bounds]:
    """The granule that covers most of the AOI, and the AOI's bounds (else all granules' bounds)."""
    if config.aoi is None:
        ground = shapely.union_all([shapely.box(*_bounds(g.red.geobox)) for g in granules])
        return granules[0], ground.bounds
    area = _project(config.aoi.geometry, granules[0].red.geobox)
    grids = {granule.red.geobox: granule for granule in reversed(granules)}
    best = max(grids, key=lambda grid: area.intersection(shapely.box(*_bounds(grid))).area)
    return grids[best], area.bounds


def _touched_objects(lattice: Lattice, config: RunConfig) -> set[tuple[int, int]]:
    """Objects that hold ground of the AOI."""
    everything = set(lattice.objects_within(_bounds(lattice.geobox)))
    if config.aoi is None or not config.clip:
        return everything
    area = _project(config.aoi.geometry, lattice.geobox)
    shapely.prepare(area)
    return {
        (iy, ix) for iy, ix in everything if area.intersects(shapely.box(*_bounds(lattice.region_geobox(iy, ix))))
    }


def _within(
    granules: Sequence[Granule], lattice: Lattice, objects: set[tuple[int, int]]
) -> tuple[list[Granule], list[Dropped]]:
    inside, outside = [], []
    for granule in granules:
        if objects.isdisjoint(lattice.objects_within(_bounds(granule.red.geobox))):
            outside.append(Dropped(granule.id, "its pixels lie outside the region"))
        else:
            inside.append(granule)
    if not inside:
        raise EmptySearchError(
            f"the region lies outside the pixels of all {len(granules)} items: check its coordinates "
            "(longitude first) against the footprints that `ndvi-scale search` prints"
        )
    return inside, outside


def _index(
    granules: Sequence[Granule],
    lattice: Lattice,
    objects: set[tuple[int, int]],
    layers: Sequence[int],
) -> dict[Region, tuple[int, ...]]:
    rows: dict[Region, list[int]] = defaultdict(list)
    for row, (granule, layer) in enumerate(zip(granules, layers, strict=True)):
        for iy, ix in lattice.objects_within(_bounds(granule.red.geobox)):
            if (iy, ix) in objects:
                rows[Region(layer, iy, ix)].append(row)
    return {region: tuple(rows[region]) for region in sorted(rows)}
