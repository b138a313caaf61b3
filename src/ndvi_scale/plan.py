"""The frozen whole of a run: `Plan`. Built once from items, stored before the first pixel, never changed.

Whatever comes later (compute, resume, retry) reads the plan and never searches again. This module is pure:
`planfile` turns a plan into bytes and back.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from ndvi_scale.errors import ConfigError, EmptySearchError, ItemError, SearchError
from ndvi_scale.garbage import seldom_collected
from ndvi_scale.granules import Dropped, Granule, Processings, choose_processings, granule_from_item
from ndvi_scale.grid import (
    bounds_of,
    build_lattice,
    choose_granules,
    middle_longitude,
    objects_in,
    objects_of,
    project,
)
from ndvi_scale.interval import asked_days
from ndvi_scale.lattice import Lattice, PerGrid, Region
from ndvi_scale.overviews import with_overviews
from ndvi_scale.periods import one_day, period_index, periods_of
from ndvi_scale.search import footprint
from ndvi_scale.sentinel2 import solar_day

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import pystac
    from odc.geo.geobox import GeoBox
    from shapely.geometry.base import BaseGeometry

    from ndvi_scale.config import RunConfig
    from ndvi_scale.periods import Period


MOST_PERIODS: Final = 20_000
"""Layers of periods that a plan has at most: every day of 54 years. More is a slip in a date."""


@dataclass(frozen=True)
class Plan:
    """What is computed, from what, onto what grid, and which granules each region needs."""

    config: RunConfig
    lattice: Lattice
    layers: tuple[Period, ...]
    """Solar days of each layer, ascending: one day, or a period."""
    granules: tuple[Granule, ...]
    """In (time, id) order, which is the order of every mosaic."""
    index: dict[Region, tuple[int, ...]]
    """Positions in `granules` that touch a region, ascending; regions that none touches are absent."""
    dropped: tuple[Dropped, ...] = ()
    """Items that take no part, each with the reason."""
    spares: dict[str, tuple[Granule, ...]] = field(default_factory=dict)
    """Id of a granule → older processings of it, the newest first: read where it cannot be."""
    ancestors: tuple[str, ...] = ()
    """Ids of the plans that the output had before this one, the first at the front."""
    since: dict[Region, int] = field(default_factory=dict)
    """Region → place among the ancestors (their number: this plan) of the first plan that says of it what this one
    says; those that have been the same since the first plan are absent."""

    @cached_property
    def id(self) -> str:
        """Digest of the configuration and of every granule's id, hrefs and offsets: what fixes the pixels.

        And of the plans before: no two plans that an output had are the same, though a catalog may go back to what
        it was.
        """
        spares = [[name, [_identity(spare) for spare in held]] for name, held in sorted(self.spares.items())]
        digest = hashlib.sha256(f"[{json.dumps(self.config.digest())}, [".encode())
        # One JSON list, but never as a whole: it would be as large as the granules themselves.
        for number, granule in enumerate(self.granules):
            digest.update(f"{', ' if number else ''}{json.dumps(_identity(granule))}".encode())
        before = f", {json.dumps(self.ancestors)}" if self.ancestors else ""
        digest.update(f"], {json.dumps(spares)}{before}]".encode())
        return digest.hexdigest()

    @cached_property
    def revisions(self) -> dict[str, int]:
        """Id → place in the row of plans, this one the last."""
        return {name: place for place, name in enumerate((*self.ancestors, self.id))}

    def as_first(self) -> Plan:
        """What is computed, without what was before."""
        return replace(self, ancestors=(), since={}) if self.ancestors else self

    @property
    def days(self) -> tuple[dt.date, ...]:
        """First solar day of each layer, ascending."""
        return tuple(layer.start for layer in self.layers)

    @cached_property
    def granule_days(self) -> tuple[dt.date, ...]:
        """Solar day of each of `granules`, ascending."""
        longitude = middle_longitude(self.lattice.geobox)
        return tuple(solar_day(granule.time, longitude) for granule in self.granules)

    @cached_property
    def most_days(self) -> int:
        """Solar days of the layer of a region that has most of them."""
        return max((len({self.granule_days[row] for row in rows}) for rows in set(self.index.values())), default=0)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (time, y, x) of the output."""
        return len(self.layers), self.lattice.geobox.shape.y, self.lattice.geobox.shape.x

    @property
    def chunk_shape(self) -> tuple[int, int]:
        """Shape (y, x) of what can be read at once: an object, or where it is a shard a chunk of it."""
        height, width = self.lattice.object_shape
        return min(self.config.chunk, height), min(self.config.chunk, width)

    @property
    def shard_shape(self) -> tuple[int, int] | None:
        """Shape (y, x) of an object in whole chunks; None where a chunk is an object."""
        if self.config.shard is None:
            return None
        (height, width), (chunk_y, chunk_x) = self.lattice.object_shape, self.chunk_shape
        return -(-height // chunk_y) * chunk_y, -(-width // chunk_x) * chunk_x

    def regions(self) -> Iterator[Region]:
        """Every region that has something to compute, layer by layer, north to south, west to east."""
        return iter(self.index)

    def granules_of(self, region: Region) -> list[Granule]:
        """Granules of a region in mosaic order; empty for a region that none touches."""
        return [self.granules[row] for row in self.index.get(region, ())]

    def hrefs(self) -> Iterator[str]:
        """Every asset's href, unsigned; those of spares too."""
        spares = (spare for held in self.spares.values() for spare in held)
        return (asset.href for granule in (*self.granules, *spares) for asset in granule.assets.values())

    def region_geobox(self, region: Region) -> GeoBox:
        """Grid of a region."""
        return self.lattice.region_geobox(region.iy, region.ix)

    def region_pixels(self, region: Region) -> int:
        """Number of pixels of a region."""
        window = self.lattice.window(region.iy, region.ix)
        return window.height * window.width

    @cached_property
    def aoi_geometry(self) -> BaseGeometry | None:
        """The AOI in the lattice's CRS, or None where the whole rectangle is wanted."""
        if self.config.aoi is None or not self.config.clip:
            return None
        return project(self.config.aoi.geometry, self.lattice.geobox.crs)


def _identity(granule: Granule) -> list[Any]:
    return [granule.id, [[asset.href, asset.offset] for asset in granule.assets.values()]]


@seldom_collected()
def build_plan(items: Iterable[pystac.Item], config: RunConfig) -> Plan:
    """Freeze items and configuration into a plan; reads no pixel and opens no file.

    Raises ItemError for an item that cannot be used (with ``on_error="skip"`` it is dropped with a record),
    EmptySearchError when nothing is left, ConfigError for a grid that cannot be, or for ``grid="per-zone"``.
    """
    if config.grid == "per-zone":
        raise ConfigError("grid = per-zone makes a plan of every zone: use build_plans, or one grid and its crs")
    return _freeze(_acquisitions(items, config), config)


@seldom_collected()
def build_plans(items: Iterable[pystac.Item], config: RunConfig) -> dict[str, Plan]:
    """One plan a UTM zone, of native pixels, by the name of its group: ``EPSG_32631``. Raises as `build_plan`.

    Granules stay in their own zone, so ground that two zones hold is in both. Zones that hold nothing of the region
    are left out. Each plan's configuration says its zone's `crs`. Periods are the same in all: they begin and end
    with the days of all zones.
    """
    check_no_crs(config)
    everything = _acquisitions(items, config)
    zones: dict[int, list[Granule]] = defaultdict(list)
    for granule in everything.chosen:
        zones[granule.epsg].append(granule)
    plans, empty = {}, None
    for epsg, granules in sorted(zones.items()):
        part = replace(everything, chosen=granules, dropped=_dropped_with(granules, everything, first=not plans))
        try:
            plans[zone_name(epsg)] = _freeze(part, zone_config(config, zone_name(epsg)))
        except EmptySearchError as error:
            empty = error
    if empty is not None and not plans:
        raise empty
    if config.period is None:
        return plans
    layers = layers_of({day for plan in plans.values() for day in plan.granule_days}, config)
    return {name: _in_layers(plan, layers) for name, plan in plans.items()}


def _in_layers(plan: Plan, layers: tuple[Period, ...]) -> Plan:
    """The same granules and objects in other layers."""
    layer_of = [period_index(layers, day) for day in plan.granule_days]
    rows: dict[Region, list[int]] = defaultdict(list)
    for region, touching in plan.index.items():
        for row in touching:
            rows[Region(layer_of[row], region.iy, region.ix)].append(row)
    return replace(plan, layers=layers, index=in_order(rows))


def _dropped_with(granules: Sequence[Granule], everything: Processings, *, first: bool) -> list[Dropped]:
    """What these granules took the place of; with the first zone's, what is of none."""
    replaced = {name: {spare.id for spare in spares} for name, spares in everything.spares.items()}
    own = set().union(*(replaced.get(granule.id, set()) for granule in granules))
    others = set().union(*replaced.values()) - own
    return [item for item in everything.dropped if item.id in own or (first and item.id not in others)]


def check_no_crs(config: RunConfig) -> None:
    """Refuse a CRS beside ``grid="per-zone"``. Raises ConfigError."""
    if config.crs is not None:
        raise ConfigError(f"crs {config.crs} and grid = per-zone: every zone has its own CRS, leave crs out")


def zone_name(epsg: int) -> str:
    """Name of the group of a zone."""
    return f"EPSG_{epsg}"


def zone_config(config: RunConfig, name: str) -> RunConfig:
    """What is computed in the group of a zone."""
    return replace(config, grid="per-zone", crs=name.replace("_", ":"))


def _acquisitions(items: Iterable[pystac.Item], config: RunConfig) -> Processings:
    """The granules that count, each acquisition once."""
    granules, footprints, dropped = _usable_granules(items, config)
    granules, other_tiles = _of_tiles(granules, config.tiles)
    found = choose_processings(granules, footprints)
    return replace(found, dropped=dropped + other_tiles + found.dropped)


def _freeze(acquisitions: Processings, config: RunConfig) -> Plan:
    granules, other_zones = choose_granules(acquisitions.chosen, config)
    lattice = build_lattice(granules, config)
    objects = _touched_objects(lattice, config)
    touched = PerGrid(lambda grid: objects & objects_of(lattice, grid))
    longitude = middle_longitude(lattice.geobox)
    granules, outside = _within(granules, touched)
    spares = {g.id: acquisitions.spares[g.id] for g in granules if g.id in acquisitions.spares}
    days = [solar_day(granule.time, longitude) for granule in granules]
    layers = layers_of(days, config)
    index = _index(granules, touched, [period_index(layers, day) for day in days])
    if config.overviews:
        granules, spares = with_overviews(granules, spares, lattice)
    return Plan(
        config=config,
        lattice=lattice,
        layers=layers,
        granules=tuple(granules),
        index=index,
        spares=spares,
        dropped=tuple(acquisitions.dropped + other_zones + outside),
    )


def _usable_granules(
    items: Iterable[pystac.Item], config: RunConfig
) -> tuple[list[Granule], dict[str, BaseGeometry], list[Dropped]]:
    """Granules, what is known of their ground by id, and the items that are no granule, in order of time."""
    granules, footprints, refused = [], {}, []
    for item in items:
        try:
            granule = granule_from_item(item, config.offset, config.assets)
            if item.geometry is not None or item.bbox is not None:
                footprints[item.id] = _ground(item)
            granules.append(granule)
        except ItemError as error:
            if config.on_error == "raise":
                raise
            refused.append((str(item.properties.get("datetime")), Dropped(item.id, str(error))))
    dropped = [item for _, item in sorted(refused, key=lambda found: (found[0], found[1].id))]
    if not granules:
        reasons = f": {dropped[0].reason}" if dropped else ""
        raise EmptySearchError(f"no usable item among {len(dropped)}{reasons}")
    return granules, footprints, dropped


def _ground(item: pystac.Item) -> BaseGeometry:
    try:
        return footprint(item)
    except SearchError as error:
        raise ItemError(str(error), item_id=item.id) from error


def _of_tiles(granules: list[Granule], tiles: tuple[str, ...]) -> tuple[list[Granule], list[Dropped]]:
    if not tiles:
        return granules, []
    names = ", ".join(tiles)
    wanted = [granule for granule in granules if granule.tile in tiles]
    if not wanted:
        raise EmptySearchError(f"none of {len(granules)} items is of tile {names}: check its name")
    others = [granule for granule in granules if granule.tile not in tiles]
    return wanted, [Dropped(other.id, f"is of tile {other.tile or 'unknown'}, not {names}") for other in others]


def _touched_objects(lattice: Lattice, config: RunConfig) -> set[tuple[int, int]]:
    """Objects that hold ground of the AOI."""
    if config.aoi is None or not config.clip:
        return set(lattice.objects_within(bounds_of(lattice.geobox)))
    return objects_in(lattice, project(config.aoi.geometry, lattice.geobox.crs))


def _within(
    granules: Sequence[Granule], touched: PerGrid[set[tuple[int, int]]]
) -> tuple[list[Granule], list[Dropped]]:
    inside, outside = [], []
    for granule in granules:
        if touched[granule.red.geobox]:
            inside.append(granule)
        else:
            outside.append(Dropped(granule.id, "its pixels lie outside the region"))
    if not inside:
        raise EmptySearchError(
            f"the region lies outside the pixels of all {len(granules)} items: check its coordinates "
            "(longitude first) against the footprints that `ndvi-scale search` prints"
        )
    return inside, outside


def layers_of(days: Iterable[dt.date], config: RunConfig) -> tuple[Period, ...]:
    """A layer a solar day that has granules; or a layer a period, none left out between the first and the last."""
    found = sorted(set(days))
    if config.period is None:
        return tuple(map(one_day, found))
    periods = periods_of(found, config.period, asked_days(config.datetime))
    if len(periods) > MOST_PERIODS:
        raise ConfigError(
            f"period {config.period} from {periods[0].start} to {periods[-1].end} makes {len(periods):,} layers, "
            f"more than {MOST_PERIODS:,}: narrow datetime, or take a longer period"
        )
    return periods


def _index(
    granules: Sequence[Granule], touched: PerGrid[set[tuple[int, int]]], layers: Sequence[int]
) -> dict[Region, tuple[int, ...]]:
    rows_of: dict[int, list[int]] = defaultdict(list)
    for row, layer in enumerate(layers):
        rows_of[layer].append(row)
    index: dict[Region, tuple[int, ...]] = {}
    # Layer by layer, so that what is in the making is small; regions with the same granules share them.
    for layer, rows in sorted(rows_of.items()):
        touching: dict[tuple[int, int], list[int]] = defaultdict(list)
        for row in rows:
            for place in touched[granules[row].red.geobox]:
                touching[place].append(row)
        shared: dict[tuple[int, ...], tuple[int, ...]] = {}
        for iy, ix in sorted(touching):
            own = tuple(touching[iy, ix])
            index[Region(layer, iy, ix)] = shared.setdefault(own, own)
    return index


def in_order(rows: Mapping[Region, list[int]]) -> dict[Region, tuple[int, ...]]:
    """An index by region, its rows ascending."""
    return {region: tuple(sorted(rows[region])) for region in sorted(rows)}
