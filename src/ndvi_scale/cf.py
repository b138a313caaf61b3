"""What the cube says of itself: coordinates and attributes, CF and the Zarr proj/spatial conventions. Pure.

Said here once, and used by `write` (on disk) and `lazy` (in memory), so that the two cannot differ.
"""

from __future__ import annotations

import base64
import datetime as dt
import struct
from collections import defaultdict
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ndvi_scale.composite import fill_of
from ndvi_scale.kernels import CODE_SCALE

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox

    from ndvi_scale.plan import Plan

EPOCH: Final = dt.date(1970, 1, 1)
GRID_MAPPING: Final = "spatial_ref"
ZARR_V2: Final = 2
MOST_IDS: Final = 1000
"""Ids of items that an attribute lists for one offset (60 kB); the run's `items.parquet` has them all."""

CONVENTIONS: Final = (
    {
        "uuid": "f17cb550-5864-4468-aeb7-f3180cfb622f",
        "name": "proj",
        "schema_url": "https://raw.githubusercontent.com/zarr-conventions/proj/refs/tags/v0.1/schema.json",
        "spec_url": "https://github.com/zarr-conventions/proj/blob/v0.1/README.md",
        "description": "Coordinate reference system information for geospatial data",
    },
    {
        "uuid": "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4",
        "name": "spatial",
        "schema_url": "https://raw.githubusercontent.com/zarr-conventions/spatial/refs/tags/v0.1/schema.json",
        "spec_url": "https://github.com/zarr-conventions/spatial/blob/v0.1/README.md",
        "description": "Spatial coordinate information",
    },
)


@dataclass(frozen=True)
class Variable:
    """One coordinate of the cube: dimensions, values and attributes."""

    dims: tuple[str, ...]
    values: NDArray[Any]
    attrs: dict[str, Any]


def coordinates(plan: Plan) -> dict[str, Variable]:
    """``time``, ``time_bnds``, ``y``, ``x`` and the grid mapping of a plan's cube.

    Time is the solar date at 00:00 as whole days since 1970-01-01, with bounds [day, day + 1); y and x are
    pixel centres in metres.
    """
    days = np.array([(day - EPOCH).days for day in plan.days], np.int64)
    geobox = plan.lattice.geobox
    clock = {"units": f"days since {EPOCH}", "calendar": "proleptic_gregorian"}
    return {
        "time": Variable(
            ("time",),
            days,
            {"standard_name": "time", "long_name": "solar day", "axis": "T", "bounds": "time_bnds", **clock},
        ),
        "time_bnds": Variable(("time", "bnds"), np.stack([days, days + 1], axis=1), dict(clock)),
        "y": Variable(("y",), _centres(geobox, "y"), _axis("y")),
        "x": Variable(("x",), _centres(geobox, "x"), _axis("x")),
        GRID_MAPPING: Variable((), np.array(0, np.int64), _grid_mapping(geobox)),
    }


def _centres(geobox: GeoBox, axis: str) -> NDArray[np.floating[Any]]:
    affine = geobox.affine
    if axis == "y":
        return affine.f + affine.e * (np.arange(geobox.shape.y) + 0.5)
    return affine.c + affine.a * (np.arange(geobox.shape.x) + 0.5)


def _axis(name: str) -> dict[str, Any]:
    return {
        "standard_name": f"projection_{name}_coordinate",
        "long_name": f"{name} coordinate of projection",
        "units": "m",
        "axis": name.upper(),
    }


def _grid_mapping(geobox: GeoBox) -> dict[str, Any]:
    from pyproj import CRS

    crs = CRS.from_user_input(str(geobox.crs))
    a, b, c, d, e, f = list(geobox.affine)[:6]
    # GDAL's order, as CF readers of `GeoTransform` expect it.
    transform = " ".join(repr(float(value)) for value in (c, a, b, f, d, e))
    return {**crs.to_cf(), "spatial_ref": crs.to_wkt(), "GeoTransform": transform}


def ndvi_attributes(dtype: str) -> dict[str, Any]:
    """Attributes of the stored ``ndvi`` array, without its fill value."""
    range_: dict[str, Any] = {"valid_min": -1.0, "valid_max": 1.0}
    if dtype == "int16":
        range_ = {"scale_factor": 1 / CODE_SCALE, "valid_min": -CODE_SCALE, "valid_max": CODE_SCALE}
    return {
        "standard_name": "normalized_difference_vegetation_index",
        "long_name": "NDVI",
        "units": "1",
        "grid_mapping": GRID_MAPPING,
        # Else xarray leaves the grid mapping among the data variables, where rioxarray does not look.
        "coordinates": GRID_MAPPING,
        **range_,
    }


def encoded_fill(dtype: str) -> int | float | str:
    """``_FillValue`` as xarray writes it in Zarr v3: a number, and for floats the base64 of a double."""
    if dtype == "int16":
        return fill_of(dtype)
    return base64.standard_b64encode(struct.pack("<d", fill_of(dtype))).decode()


def cube_attributes(plan: Plan) -> dict[str, Any]:
    """Attributes of the group: what it is, from what, and where it lies."""
    geobox = plan.lattice.geobox
    epsg = geobox.crs.to_epsg() if geobox.crs else None
    bounds = geobox.boundingbox
    return {
        "Conventions": "CF-1.11",
        "coordinates": "time_bnds",
        "title": "Sentinel-2 NDVI, one layer a solar day",
        "source": f"{len(plan.granules)} Sentinel-2 L2A items",
        "references": "NDVI = (nir - red) / (nir + red), B08 and B04, BOA offset applied for each item",
        "offsets": _offsets(plan),
        "attribution": f"Contains modified Copernicus Sentinel data {_years(plan)}",
        "zarr_conventions": list(CONVENTIONS),
        **({"proj:code": f"EPSG:{epsg}"} if epsg else {"proj:wkt2": geobox.crs.to_wkt() if geobox.crs else ""}),
        "spatial:dimensions": ["y", "x"],
        "spatial:shape": list(geobox.shape.yx),
        "spatial:transform": [float(value) for value in list(geobox.affine)[:6]],
        "spatial:bbox": [bounds.left, bounds.bottom, bounds.right, bounds.top],
        "spatial:registration": "pixel",
    }


def _offsets(plan: Plan) -> list[dict[str, Any]]:
    """BOA offsets in DN and why, each once with its items."""
    groups: dict[tuple[int, int, str], list[str]] = defaultdict(list)
    spare = [
        (granule, "; only where a newer processing cannot be read") for granule in chain(*plan.spares.values())
    ]
    for granule, aside in [(granule, "") for granule in plan.granules] + spare:
        red, nir = granule.red, granule.nir
        same = red.evidence == nir.evidence
        evidence = red.evidence if same else f"red: {red.evidence}; nir: {nir.evidence}"
        groups[red.offset, nir.offset, evidence + aside].append(granule.id)
    return [
        {"red": red, "nir": nir, "evidence": evidence, "items": len(ids), "ids": ids[:MOST_IDS]}
        for (red, nir, evidence), ids in sorted(groups.items())
    ]


def _years(plan: Plan) -> str:
    first, last = plan.days[0].year, plan.days[-1].year
    return str(first) if first == last else f"{first}-{last}"
