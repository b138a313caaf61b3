"""The lazy way: a plan as dask-backed xarray, one task a chunk, and NDVI of a person's own arrays."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import xarray as xr

from ndvi_scale import cf
from ndvi_scale.composite import NO_DATE, Output, decoded, outputs
from ndvi_scale.config import RunConfig
from ndvi_scale.errors import ConfigError
from ndvi_scale.graph import PlanGraph, Shared
from ndvi_scale.kernels import FILL_CODE, MAX_DN, USE, cpu
from ndvi_scale.kernels.morphology import filter_classes
from ndvi_scale.lattice import Region
from ndvi_scale.masks import SceneMask, scene_mask
from ndvi_scale.readers import Reader, open_reader
from ndvi_scale.region import compute_region, merged_bands

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from ndvi_scale.plan import Plan

_BAND_NAMES: Final = {
    "red": "surface reflectance, B04",
    "nir": "surface reflectance, B08",
    "scl": "scene classification",
}

_DTYPES: Final = {
    "ndvi": np.dtype(np.float32),
    "observations": np.dtype(np.uint16),
    "date": np.dtype("datetime64[ns]"),
}
"""Of the variables in memory."""

_NOT_A_TIME: Final = np.iinfo(np.int64).min
"""The integer of numpy's NaT."""

BRIGHTEST: Final = 10.0
"""No reflectance comes near this, and hardly a DN lies below."""


def open_ndvi(plan: Plan, *, reader: Reader | None = None) -> xr.DataArray:
    """NDVI of a plan, ``(time, y, x)``, float32 with NaN, named ``ndvi``. Lazy: nothing is read yet.

    One dask task a chunk, each computing the region that `run_batch` would store there, so the values are
    those of the stored cube; of a plan with periods, the composites. `reader`: what reads the assets; `cog` by
    default. Raises ConfigError for a plan that only counts observations.
    """
    if outputs(plan.config)[0].name != "ndvi":
        raise ConfigError("the plan's reducer is count, which makes no NDVI: use open_cube, or another reducer")
    graph = PlanGraph(plan, reader or open_reader())
    array = graph.array(graph.compute("ndvi", _ndvi_chunk, _no_ndvi), np.float32)
    attrs = _attrs(outputs(plan.config)[0], plan.config)
    return xr.DataArray(array, dims=("time", "y", "x"), coords=_coords(plan), attrs=attrs, name="ndvi")


def open_cube(plan: Plan, *, reader: Reader | None = None) -> xr.Dataset:
    """All variables that `run_batch` would store for a plan, ``(time, y, x)``, as xarray opens them. Lazy.

    ``ndvi`` (float32 with NaN); of periods also ``observations`` (uint16, days with NDVI), and with the reducers
    max and min ``date`` (datetime64, NaT without NDVI), the solar day that the value is of. ``time`` is the first
    day, ``time_bnds`` has the first and the one after the last. One task a region computes all, one a variable
    takes its own out.
    """
    graph = PlanGraph(plan, reader or open_reader())
    made = graph.compute("cube", _cube_chunk, _no_cube)
    variables = {}
    for output in outputs(plan.config):
        dtype = _DTYPES[output.name]
        array = graph.array(graph.take(output.name, made, _take_output, output, dtype), dtype)
        variables[output.name] = (("time", "y", "x"), array, _attrs(output, plan.config))
    return xr.Dataset(variables, coords=_coords(plan, bounds=True), attrs={"title": cf.title(plan.config)})


def load_bands(plan: Plan, *, reader: Reader | None = None) -> xr.Dataset:
    """``red``, ``nir`` (reflectance, float32, NaN without data) and ``scl`` (uint8) of a plan, ``(time, y, x)``.

    Lazy: one task a region reads all three bands once, and one a variable takes its own out (where only one is
    computed, dask makes one of both). The BOA offset is applied. Each pixel comes whole from the granule that
    `open_ndvi` takes it from, or from the first that has data where none has NDVI: clouds can be seen, and
    ``compute_ndvi`` of the result with the plan's mask and out-of-range rule gives `open_ndvi` to within half a
    code (5e-5). With mask filters it does not: they act on each granule, before the mosaic, and ``scl`` shows the
    classes as they were before. Raises ConfigError for a plan with
    periods, whose layers are of many days.
    """
    if plan.config.period is not None:
        raise ConfigError(
            f"the plan's period is {plan.config.period}: bands are of solar days, so build the plan without one"
        )
    graph = PlanGraph(plan, reader or open_reader())
    stacks = graph.compute("bands", _bands_chunk, _no_bands)
    variables = {}
    for position, (band, name) in enumerate(_BAND_NAMES.items()):
        dtype = np.dtype(np.uint8 if band == "scl" else np.float32)
        array = graph.array(graph.take(band, stacks, _take_band, position, dtype), dtype)
        attrs = {"long_name": name, "units": "1", "grid_mapping": cf.GRID_MAPPING}
        variables[band] = (("time", "y", "x"), array, attrs)
    return xr.Dataset(variables, coords=_coords(plan), attrs={"title": "Sentinel-2 bands, one layer a solar day"})


def _ndvi_chunk(shared: Shared, *region: int) -> NDArray[np.float32]:
    data, _ = compute_region(shared.plan, Region(*region), shared.reader)
    return decoded(data["ndvi"])[np.newaxis]


def _no_ndvi(height: int, width: int) -> NDArray[np.float32]:
    return np.full((1, height, width), np.nan, np.float32)


def _cube_chunk(shared: Shared, *region: int) -> dict[str, NDArray[Any]]:
    return compute_region(shared.plan, Region(*region), shared.reader)[0]


def _no_cube(height: int, width: int) -> tuple[int, int]:
    """The shape of a chunk that no granule touches."""
    return height, width


def _take_output(
    made: dict[str, NDArray[Any]] | tuple[int, int], output: Output, dtype: np.dtype[Any]
) -> NDArray[Any]:
    values = made[output.name] if isinstance(made, dict) else np.full(made, output.fill, output.dtype)
    if output.name == "ndvi":
        values = decoded(values)
    elif output.name == "date":
        values = np.where(values == NO_DATE, _NOT_A_TIME, values.astype(np.int64)).view("datetime64[D]")
    return values.astype(dtype, copy=False)[np.newaxis]


def _bands_chunk(shared: Shared, *region: int) -> NDArray[np.int16]:
    bands = merged_bands(shared.plan, Region(*region), shared.reader)
    return np.stack([bands[band].astype(np.int16) for band in _BAND_NAMES])


def _no_bands(height: int, width: int) -> NDArray[np.int16]:
    nothing = np.full((len(_BAND_NAMES), height, width), FILL_CODE, np.int16)
    nothing[-1] = 0  # SCL
    return nothing


def _take_band(stack: NDArray[np.int16], position: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    values = stack[np.newaxis, position]
    return values.astype(dtype) if dtype.kind == "u" else decoded(values)


def _coords(plan: Plan, *, bounds: bool = False) -> dict[str, xr.Variable]:
    """Coordinates in memory, those of time decoded; `bounds` of the layers too."""
    described = cf.coordinates(plan)
    if not bounds:
        described.pop("time_bnds")
    variables = {}
    for name, variable in described.items():
        values, attrs = variable.values, dict(variable.attrs)
        if name in {"time", "time_bnds"}:
            values = values.view("datetime64[D]").astype("datetime64[ns]")
            attrs = cf.time_attributes(plan.config) if name == "time" else {}
        variables[name] = xr.Variable(variable.dims, values, attrs)
    return variables


def compute_ndvi(
    bands: xr.Dataset,
    *,
    offset: int | None = None,
    mask: str | Iterable[int] | None = None,
    mask_filters: str | Iterable[str] | None = None,
    out_of_range: Literal["mask", "clip"] = "mask",
) -> xr.DataArray:
    """NDVI of a person's own bands, float32 with NaN, in the shape and chunks of ``bands.red``.

    `bands`: variables ``red`` and ``nir``, either DN (uint16, 0 is nodata) or reflectance (float, NaN is
    nodata), and ``scl`` (uint8) of the same shape unless `mask` is ``"none"``. `offset`: BOA offset in DN,
    needed for DN (0 before baseline 04.00 or where it was applied already, −1000 otherwise), refused for
    reflectance. `mask`: SCL classes to drop (default: the preset ``default`` where there is an ``scl``).
    `mask_filters`: how cloud grows or shrinks before that, such as ``"opening:2,dilation:5"`` (default: those of
    the preset); their radius counts pixels of this ``scl``, whatever its resolution, along ``y`` and ``x``, which
    are to be the last two dimensions. Beyond the array there is no data. Lazy where the bands are dask-backed, one
    task a chunk more, and what filters need of the chunks around. Raises ConfigError.
    """
    masked = not (isinstance(mask, str) and mask == "none")
    chosen = _checked_bands(bands, ("red", "nir", "scl") if masked else ("red", "nir"))
    if offset is not None and (not isinstance(offset, int) or abs(offset) > MAX_DN):
        raise ConfigError(f"offset {offset!r} is no BOA offset: give whole DN, such as 0 or -1000")
    if out_of_range not in ("mask", "clip"):
        raise ConfigError(f"out-of-range {out_of_range!r} is unknown: give one of mask, clip")
    rules = scene_mask("default" if mask is None else mask, mask_filters)
    red, nir = chosen["red"], chosen["nir"]
    scl = chosen.get("scl", xr.zeros_like(red, dtype=np.uint8))
    ndvi = xr.apply_ufunc(
        _kernel(red.dtype, offset),
        red,
        nir,
        _filtered(scl, rules),
        kwargs={"table": rules.table, "clip": out_of_range == "clip"},
        dask="parallelized",
        output_dtypes=[np.float32],
        keep_attrs=True,  # or the coordinates lose theirs, and with them the CRS
    )
    ndvi.attrs = _attrs(Output("ndvi", "float32", np.nan), RunConfig())
    return ndvi.rename("ndvi")


def _checked_bands(bands: xr.Dataset, wanted: tuple[str, ...]) -> dict[str, xr.DataArray]:
    """The bands that a kernel can take together. Raises ConfigError."""
    for name in wanted:
        if name not in bands:
            raise ConfigError(
                f"compute_ndvi needs a variable {name!r}, the dataset has {', '.join(map(str, bands)) or 'none'}"
                + (': without scene classes say mask="none"' if name == "scl" else ": rename yours")
            )
    red = bands["red"]
    for name in wanted:
        band = bands[name]
        if band.dims != red.dims:
            raise ConfigError(
                f"{name} has dimensions {band.dims}, red {red.dims}: both need the same in the same order; repeat "
                "20 m pixels to 10 m, broadcast or transpose"
            )
        if name == "nir" and band.dtype != red.dtype and {band.dtype.kind, red.dtype.kind} != {"f"}:
            raise ConfigError(
                f"nir is {band.dtype}, red {red.dtype}: give both as DN (uint16) or both as reflectance"
            )
        if name == "scl" and band.dtype != np.uint8:
            raise ConfigError(f'scl is {band.dtype}: scene classes are uint8, so use .astype("uint8") if yours are')
    return {name: bands[name] for name in wanted}


def _attrs(output: Output, config: RunConfig) -> dict[str, Any]:
    """Attributes of a variable in memory, of values and not of codes.

    Without `coordinates`, which is for files and which xarray refuses to write twice.
    """
    left_out = {"coordinates", "ancillary_variables"} | ({"units", "calendar"} if output.name == "date" else set())
    attrs = cf.attributes(output, replace(config, dtype="float32"))
    return {key: value for key, value in attrs.items() if key not in left_out}


def _filtered(scl: xr.DataArray, mask: SceneMask) -> xr.DataArray:
    """Classes after the filters of a mask, in the chunks that they were in. Raises ConfigError."""
    if not mask.steps:
        return scl
    if scl.dims[-2:] != ("y", "x"):
        raise ConfigError(
            f"scl has dimensions {scl.dims}, mask filters act along y and x, the last two: transpose or rename, or "
            "leave the filters out"
        )
    filter_layers = partial(_filter_layers, mask=mask)
    if scl.chunks is None:
        return scl.copy(data=filter_layers(scl.values))
    from dask.array.overlap import map_overlap

    depth = (*[0] * (scl.ndim - 2), mask.margin, mask.margin)
    # Where chunks are smaller than the margin, dask makes larger ones first.
    found = map_overlap(
        filter_layers, scl.data, depth=depth, boundary="none", meta=np.empty((0,) * scl.ndim, np.uint8)
    )
    return scl.copy(data=found.rechunk(scl.chunks))


def _filter_layers(scl: NDArray[np.uint8], *, mask: SceneMask) -> NDArray[np.uint8]:
    layers = [filter_classes(layer, mask.table, mask.steps) for layer in scl.reshape(-1, *scl.shape[-2:])]
    return np.array(layers, np.uint8).reshape(scl.shape)


def _kernel(dtype: np.dtype[Any], offset: int | None) -> Callable[..., NDArray[np.float32]]:
    if dtype.kind == "f":
        if offset:
            raise ConfigError(f"offset {offset} given for {dtype} bands: reflectance has it applied already")
        return _from_reflectance
    if dtype != np.uint16:
        raise ConfigError(f"red is {dtype}: give DN as uint16, or reflectance as floats")
    if offset is None:
        raise ConfigError("offset not given: DN need 0 (before baseline 04.00, or already applied) or -1000")
    return partial(_from_dn, offset=offset)


def _from_dn(
    red: NDArray[Any],
    nir: NDArray[Any],
    scl: NDArray[Any],
    *,
    table: NDArray[np.uint8],
    offset: int,
    clip: bool,
) -> NDArray[np.float32]:
    flat = [band.reshape(-1, band.shape[-1]) for band in (red, nir, scl)]
    ndvi, _ = cpu.ndvi_ratio(flat[0], flat[1], flat[2], table, (offset, offset), clip=clip)
    return ndvi.reshape(red.shape)


def _from_reflectance(
    red: NDArray[Any],
    nir: NDArray[Any],
    scl: NDArray[Any],
    *,
    table: NDArray[np.uint8],
    clip: bool,
) -> NDArray[np.float32]:
    finite = np.isfinite(red) & np.isfinite(nir)
    largest = max(np.abs(band, where=finite, out=np.zeros(band.shape)).max(initial=0) for band in (red, nir))
    if largest > BRIGHTEST:
        raise ConfigError(
            f"reflectance of {largest:g} found: these look like DN; give them as uint16, with their offset"
        )
    rho_red, rho_nir = (np.where(finite, band, 0).astype(np.float64) for band in (red, nir))
    total, difference = rho_nir + rho_red, rho_nir - rho_red
    valid = (total > 0) & ((table[scl] & USE) != 0)
    if clip:
        difference = np.clip(difference, -np.abs(total), np.abs(total))
    else:
        valid &= np.abs(difference) <= total
    return np.divide(difference, total, out=np.full(red.shape, np.nan), where=valid).astype(np.float32)
