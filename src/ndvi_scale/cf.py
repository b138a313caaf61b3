"""What the cube says of itself: coordinates and attributes, CF and the Zarr proj/spatial conventions. Pure.

Said here once, and used by `write` (on disk) and `lazy` (in memory), so that the two cannot differ.
"""

from __future__ import annotations

import base64
import struct
from collections import defaultdict
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ndvi_scale.composite import outputs
from ndvi_scale.kernels import CODE_SCALE
from ndvi_scale.periods import EPOCH, days_since_epoch, period_name
from ndvi_scale.reducers import reducer_name

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox

    from ndvi_scale.composite import Output
    from ndvi_scale.config import RunConfig
    from ndvi_scale.plan import Plan

GRID_MAPPING: Final = "spatial_ref"
ZARR_V2: Final = 2
_CLOCK: Final = {"units": f"days since {EPOCH}", "calendar": "proleptic_gregorian"}
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

    Time is the solar date at 00:00 as whole days since 1970-01-01, of a period the first, with bounds [first day,
    day after the last); y and x are pixel centres in metres.
    """
    days = [days_since_epoch(day) for layer in plan.layers for day in (layer.start, layer.end)]
    bounds = np.array(days, np.int64).reshape(-1, 2)
    geobox = plan.lattice.geobox
    return {
        "time": Variable(
            ("time",),
            bounds[:, 0],
            {**time_attributes(plan.config), "bounds": "time_bnds", **_CLOCK},
        ),
        "time_bnds": Variable(("time", "bnds"), bounds, dict(_CLOCK)),
        "y": Variable(("y",), _centres(geobox, "y"), _axis("y")),
        "x": Variable(("x",), _centres(geobox, "x"), _axis("x")),
        GRID_MAPPING: Variable((), np.array(0, np.int64), _grid_mapping(geobox)),
    }


def time_attributes(config: RunConfig) -> dict[str, Any]:
    """Attributes of ``time``, without those that say how it is encoded."""
    name = "solar day" if config.period is None else "first solar day of the period"
    return {"standard_name": "time", "long_name": name, "axis": "T"}


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


def attributes(output: Output, config: RunConfig) -> dict[str, Any]:
    """Attributes of a stored variable, without its fill value."""
    own = {"ndvi": _ndvi_attributes, "observations": _observations_attributes, "date": _date_attributes}
    return {
        **own[output.name](config),
        "grid_mapping": GRID_MAPPING,
        # Else xarray leaves the grid mapping among the data variables, where rioxarray does not look.
        "coordinates": GRID_MAPPING,
    }


def _ndvi_attributes(config: RunConfig) -> dict[str, Any]:
    range_: dict[str, Any] = {"valid_min": -1.0, "valid_max": 1.0}
    if config.dtype == "int16":
        range_ = {"scale_factor": 1 / CODE_SCALE, "valid_min": -CODE_SCALE, "valid_max": CODE_SCALE}
    return {
        "standard_name": "normalized_difference_vegetation_index",
        "long_name": "NDVI" if config.reducer is None else f"NDVI, {reducer_name(config.reducer)} of solar days",
        "units": "1",
        **range_,
        **_cell_methods(config.reducer),
        **({} if config.reducer is None else {"ancillary_variables": _beside(config)}),
    }


def _cell_methods(reducer: str | None) -> dict[str, str]:
    """CF has a word for these; it has none for percentiles, and a day is what it is."""
    named = reducer in {"median", "mean", "max", "min"}
    return {"cell_methods": f"time: {reducer_name(reducer)}"} if reducer and named else {}


def _beside(config: RunConfig) -> str:
    return " ".join(output.name for output in outputs(config)[1:])


def _observations_attributes(_: RunConfig) -> dict[str, Any]:
    return {
        "standard_name": "number_of_observations",
        "long_name": "solar days of the period with NDVI",
        "units": "1",
    }


def _date_attributes(config: RunConfig) -> dict[str, Any]:
    return {
        "long_name": f"first solar day with the {reducer_name(config.reducer or '')} of NDVI",
        **_CLOCK,
    }


def encoded_fill(output: Output) -> dict[str, Any]:
    """``_FillValue`` of a variable as xarray writes it in Zarr v3: a number, and for floats base64 of a double.

    Of a count there is none: 0 days are no missing value.
    """
    if output.name == "observations":
        return {}
    if output.dtype != "float32":
        return {"_FillValue": output.fill}
    return {"_FillValue": base64.standard_b64encode(struct.pack("<d", output.fill)).decode()}


def cube_attributes(plan: Plan) -> dict[str, Any]:
    """Attributes of the group: what it is, from what, and where it lies."""
    geobox = plan.lattice.geobox
    epsg = geobox.crs.to_epsg() if geobox.crs else None
    bounds = geobox.boundingbox
    return {
        "Conventions": "CF-1.11",
        "coordinates": "time_bnds",
        "title": title(plan.config),
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


def title(config: RunConfig) -> str:
    """What the output is, in a line."""
    if config.reducer is None or config.period is None:
        return "Sentinel-2 NDVI, one layer a solar day"
    what = (
        "Sentinel-2 days with NDVI"
        if config.reducer == "count"
        else f"Sentinel-2 NDVI, {reducer_name(config.reducer)}"
    )
    return f"{what} of {'all days' if config.period == 'all' else f'each {period_name(config.period)}'}"


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
    days = plan.granule_days or plan.days
    first, last = days[0].year, days[-1].year
    return str(first) if first == last else f"{first}-{last}"
