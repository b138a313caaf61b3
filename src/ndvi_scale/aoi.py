"""The AOI: a box or a GeoJSON file becomes one valid lon/lat geometry, split at the antimeridian."""

from __future__ import annotations

import json
import logging
import math
import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
import shapely.affinity
from shapely.geometry import MultiPolygon, Polygon, mapping, shape

from ndvi_scale.errors import ConfigError
from ndvi_scale.sentinel2 import tile_corner

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

logger = logging.getLogger(__name__)

Area = Polygon | MultiPolygon
Bbox = tuple[float, float, float, float]

# Real footprints reach 180.0000000000001: what a sum of doubles can miss by, 0.1 mm on the ground.
_ROUNDING_DEG = 1e-9
_HALF_TURN = 180.0
_FARTHEST_DEG = 540.0  # a footprint that crosses the antimeridian may be written on beyond it, by one turn
_WGS84_NAME = re.compile(r"(CRS:?84|EPSG:+([0-9.]*:)?4326)$", re.IGNORECASE)
TILE_SIDE = 109_800
"""Metres along a Sentinel-2 tile: its MGRS square and 9.8 km of the next two."""

TILE_INSET = 1.0
"""Metres by which a tile's region stays inside its border: more than lon/lat edges miss, less than a pixel."""

_NO_AREA_TYPES = {"Point", "MultiPoint", "LineString", "MultiLineString"}


@dataclass(frozen=True)
class Aoi:
    """The area of interest in lon/lat degrees (EPSG:4326)."""

    geometry: Area
    """Valid, with area, every part within [-180, 180]: already split at the antimeridian."""
    source: str = field(compare=False)
    """What the user gave (a box or a path), for messages; two that enclose the same are the same."""

    @property
    def bbox(self) -> Bbox:
        """(W, S, E, N) in degrees, the narrowest there is: W > E when it crosses the antimeridian."""
        _, south, _, north = self.geometry.bounds
        west, east = _narrowest_span(polygons_of(self.geometry))
        return west, south, east, north

    @property
    def is_box(self) -> bool:
        """Whether `bbox` says all there is to say: one box that does not cross the antimeridian."""
        west, south, east, north = self.bbox
        return west < east and bool(self.geometry.equals(shapely.box(west, south, east, north)))

    def to_geojson(self) -> dict[str, Any]:
        """Return the geometry as a GeoJSON object."""
        return dict(mapping(self.geometry))


def parse_bbox(value: str | Sequence[float]) -> Aoi:
    """Read "W,S,E,N" (degrees); W > E crosses the antimeridian. Raises ConfigError."""
    source = value.strip() if isinstance(value, str) else ",".join(str(number) for number in value)
    west, south, east, north = _four_numbers(source)
    for name, number, limit in (("W", west, 180), ("S", south, 90), ("E", east, 180), ("N", north, 90)):
        if not -limit <= number <= limit:
            raise ConfigError(
                f"bbox {source!r}: {name} = {number} lies outside [-{limit}, {limit}]. "
                "Give degrees of longitude and latitude (EPSG:4326), in the order W,S,E,N."
            )
    if south >= north:
        raise ConfigError(f"bbox {source!r}: S = {south} must be below N = {north}. The order is W,S,E,N.")
    spans = [(west, east)] if west <= east else [(west, 180.0), (-180.0, east)]
    boxes = [shapely.box(w, south, e, north) for w, e in spans if w < e]
    geometry = _area(MultiPolygon(boxes))
    if not geometry.area > 0:
        raise ConfigError(f"bbox {source!r}: W = {west} and E = {east} enclose no area. Move them apart.")
    if any(e - w > _HALF_TURN for w, e in spans):
        # Else its long edges would read as a crossing of the antimeridian, once saved and read again.
        geometry = _area(shapely.segmentize(geometry, 90.0))
    return Aoi(geometry, source)


def _four_numbers(source: str) -> Bbox:
    with suppress(ValueError):  # not numbers, or not four of them
        west, south, east, north = map(float, source.split(","))
        if all(map(math.isfinite, (west, south, east, north))):
            return west, south, east, north
    raise ConfigError(
        f"bbox {source!r}: four finite numbers are needed. Write W,S,E,N in degrees, for example 1.2,43.5,1.6,43.7."
    )


def read_aoi(path: str | Path) -> Aoi:
    """Read the polygons of a GeoJSON file and unite them; heights are dropped. Raises ConfigError."""
    path = Path(path)
    try:
        found = list(_geometries(_read_json(path), path))
    except RecursionError as error:
        raise ConfigError(
            f"{path}: nested too deep to be GeoJSON. Write the file again from its source."
        ) from error
    areas = [_checked(geometry, path) for geometry in found if geometry["type"] not in _NO_AREA_TYPES]
    areas = [area for area in areas if not area.is_empty]
    if not areas:
        held = ", ".join(sorted({str(geometry["type"]) for geometry in found})) or "no geometry"
        raise ConfigError(
            f"{path}: the AOI must have an area, and this file holds no polygon that has one ({held}). "
            "Give a Polygon or MultiPolygon; buffer points and lines first."
        )
    if len(areas) < len(found):
        logger.warning("%s: left out %d geometries without area", path, len(found) - len(areas))
    return Aoi(_area(shapely.union_all(areas)), str(path))


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: the AOI file cannot be read ({error.strerror}). Check the path.") from error
    except ValueError as error:  # JSON and UTF-8 alike
        raise ConfigError(
            f"{path}: the AOI must be GeoJSON, and this file is not JSON ({error}). "
            f"Convert it, for example: ogr2ogr -t_srs EPSG:4326 aoi.geojson {path.name}"
        ) from error


def _geometries(document: Any, path: Path) -> Iterator[dict[str, Any]]:
    """Every simple geometry of a GeoJSON object, depth first; null geometries are skipped."""
    kind = document.get("type") if isinstance(document, dict) else None
    if kind is not None:
        _check_crs(document, path)
    nested = {"FeatureCollection": "features", "GeometryCollection": "geometries"}.get(str(kind))
    if nested is not None and isinstance(document.get(nested), list):
        for member in document[nested]:
            yield from _geometries(member, path)
    elif kind == "Feature":
        if document.get("geometry") is not None:
            yield from _geometries(document["geometry"], path)
    elif kind in {"Polygon", "MultiPolygon"} | _NO_AREA_TYPES:
        yield document
    else:
        raise ConfigError(
            f"{path}: the AOI must be GeoJSON, and {kind!r} is no GeoJSON type with its members. "
            "Give a Polygon, MultiPolygon, GeometryCollection, Feature or FeatureCollection."
        )


def _check_crs(document: dict[str, Any], path: Path) -> None:
    crs = document.get("crs")
    if crs is None:
        return
    properties = crs.get("properties") if isinstance(crs, dict) else None
    name = str(properties.get("name", crs) if isinstance(properties, dict) else crs)
    if not _WGS84_NAME.search(name):
        raise ConfigError(
            f"{path}: its crs is {name!r}, and GeoJSON is lon/lat on WGS84 (CRS84). "
            "Reproject it, for example: ogr2ogr -t_srs EPSG:4326 out.geojson in.geojson"
        )


def _checked(document: dict[str, Any], path: Path) -> Area:
    """One polygonal geometry, in range, split and valid."""
    try:
        with np.errstate(invalid="ignore"):  # NaN is found below, with a better message
            geometry = shapely.force_2d(shape(document))
        if not geometry.is_empty:
            geometry = shapely.transform(geometry, lambda xy: _in_range(xy, path))
    except (
        TypeError,
        ValueError,
        IndexError,
        KeyError,
        AttributeError,
        RecursionError,
        shapely.errors.ShapelyError,
    ) as error:
        raise ConfigError(
            f"{path}: a {document['type']} has coordinates that are not rings of [lon, lat] pairs ({error}). "
            "Write the file again from its source."
        ) from error
    try:
        return split_antimeridian(geometry)
    except ValueError as error:
        raise ConfigError(
            f"{path}: the polygon is not valid: {error}. "
            "Cut it at the antimeridian if it lies there, repair it, for example with shapely.make_valid, "
            "and look at the result."
        ) from error


def _in_range(xy: NDArray[np.float64], path: Path) -> NDArray[np.float64]:
    limit = np.array([180.0, 90.0])
    outside = ~(np.abs(xy) <= limit + _ROUNDING_DEG).all(axis=1)
    if outside.any():
        x, y = xy[outside.argmax()]
        raise ConfigError(
            f"{path}: the coordinate ({x}, {y}) lies outside lon [-180, 180], lat [-90, 90]; "
            "it is probably projected (metres), or in lat, lon order. Write it in lon/lat (EPSG:4326), "
            "for example: ogr2ogr -t_srs EPSG:4326 out.geojson in.geojson"
        )
    return np.clip(xy, -limit, limit)


def tile_aoi(tiles: Sequence[str]) -> Aoi:
    """The ground of MGRS tiles such as ``31TCJ``: Sentinel-2's squares of 109.8 km. Raises ConfigError."""
    return Aoi(_area(shapely.union_all([_tile_area(tile) for tile in tiles])), f"tile {','.join(tiles)}")


def _tile_area(tile: str) -> Area:
    """A tile's square in lon/lat, `TILE_INSET` inside its border, so that it is not taken for a pixel more."""
    from pyproj import Transformer

    epsg, left, top = tile_corner(tile)
    right, bottom = left + TILE_SIDE, top - TILE_SIDE
    box = shapely.box(left + TILE_INSET, bottom + TILE_INSET, right - TILE_INSET, top - TILE_INSET)
    convert = Transformer.from_crs(epsg, 4326, always_xy=True).transform
    return split_antimeridian(shapely.transform(shapely.segmentize(box, 1000), convert, interleaved=False))  # pyright: ignore[reportCallIssue, reportArgumentType]


def split_antimeridian(geometry: BaseGeometry) -> Area:
    """Cut every polygon that crosses the antimeridian into parts within [-180, 180].

    An edge longer than 180 degrees is taken to go the short way round, as in odd but common GeoJSON; where
    that is not valid and the long way is, the long way. Raises ValueError, with the reason, when neither is
    valid, a ring goes round a pole or `check_degrees` fails.
    """
    check_degrees(geometry)
    west, _, east, _ = geometry.bounds
    if not east - west > _HALF_TURN or not any(_longest_edge(ring) > _HALF_TURN for ring in _rings(geometry)):
        if not geometry.is_valid:
            raise ValueError(shapely.is_valid_reason(geometry))
        return _area(geometry)
    try:
        return _area(shapely.union_all([_fold(_unwrapped(polygon)) for polygon in polygons_of(geometry)]))
    except ValueError:
        if not geometry.is_valid:
            raise
    logger.warning("edges longer than 180 degrees are valid only the long way round: it spans the globe")
    return _area(geometry)


def check_degrees(geometry: BaseGeometry) -> None:
    """Raise ValueError where coordinates cannot be degrees: to fold them would take for ever, or fail."""
    degrees = shapely.get_coordinates(geometry)
    wrong = degrees[~(np.abs(degrees) <= _FARTHEST_DEG)]  # NaN too
    if wrong.size:
        raise ValueError(f"the coordinate {wrong[0]:g} is not within {_FARTHEST_DEG:g} degrees of 0")


def polygons_of(geometry: BaseGeometry) -> list[Polygon]:
    """Return the polygons of any geometry, without points, lines and empty parts."""
    if isinstance(geometry, Polygon):  # most are: a footprint
        return [] if geometry.is_empty else [geometry]
    parts = shapely.get_parts(shapely.get_parts(geometry))
    return [part for part in parts if isinstance(part, Polygon) and not part.is_empty]


def _area(geometry: BaseGeometry) -> Area:
    parts = polygons_of(geometry)
    return parts[0] if len(parts) == 1 else MultiPolygon(parts)


def _rings(geometry: BaseGeometry) -> list[NDArray[np.float64]]:
    polygons = polygons_of(geometry)
    return [np.array(ring.coords) for part in polygons for ring in (part.exterior, *part.interiors)]


def _longest_edge(ring: NDArray[np.float64]) -> float:
    return float(np.abs(np.diff(ring[:, 0])).max(initial=0.0))


def _unwrapped(polygon: Polygon) -> Polygon:
    """Make longitudes continuous, possibly beyond 180; ValueError as `split_antimeridian`."""
    reason = "a ring goes round a pole"
    # An edge of exactly 360 degrees is the edge of a world box, or a step between 180 and -180 in place.
    for longest in (np.nextafter(360.0, 0.0), 360.0):
        rings = [_continuous(ring, longest) for ring in _rings(polygon)]
        if any(abs(ring[0, 0] - ring[-1, 0]) > _HALF_TURN for ring in rings):
            continue
        shell, holes = rings[0], [_beside(ring, rings[0]) for ring in rings[1:]]
        candidate = Polygon(shell, holes)
        if candidate.is_valid:
            return candidate
        reason = shapely.is_valid_reason(candidate)
    raise ValueError(reason)


def _continuous(ring: NDArray[np.float64], longest: float) -> NDArray[np.float64]:
    step = np.diff(ring[:, 0])
    turns = np.where((np.abs(step) > _HALF_TURN) & (np.abs(step) <= longest), -np.sign(step), 0.0)
    lon = ring[:, 0] + 360.0 * np.concatenate([[0.0], np.cumsum(turns)])
    return np.column_stack([lon, ring[:, 1]])


def _beside(hole: NDArray[np.float64], shell: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shift a hole by whole turns until it lies within the longitudes of its shell."""
    turns = np.ceil((shell[:, 0].min() - hole[:, 0].min()) / 360.0)
    return hole + np.array([360.0 * turns, 0.0])


def _fold(polygon: Polygon) -> BaseGeometry:
    """Cut at every odd multiple of 180 degrees and bring the parts back into [-180, 180]."""
    west, _, east, _ = polygon.bounds
    parts = []
    for turn in range(math.floor((west + 180) / 360), math.ceil((east + 180) / 360)):
        strip = shapely.box(360 * turn - 180, -90, 360 * turn + 180, 90)
        parts.append(shapely.affinity.translate(polygon & strip, xoff=-360.0 * turn))
    return shapely.union_all(parts)


def _narrowest_span(polygons: list[Polygon]) -> tuple[float, float]:
    """(W, E) of the shortest arc that holds all polygons; the plain one (W < E) if there is a tie."""
    spans = sorted((west, east) for west, _, east, _ in (polygon.bounds for polygon in polygons))
    first, reached = spans[0]
    gap, span = 0.0, (first, max(east for _, east in spans))
    for west, east in spans[1:]:
        if west - reached > gap:
            gap, span = west - reached, (west, reached)
        reached = max(reached, east)
    outer = 360.0 - (reached - first)
    return span if gap > outer else (first, reached)
