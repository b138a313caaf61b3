"""What contenders with dask-backed arrays do alike: NDVI of three bands in two ways, and writing it. Frozen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr
import zarr  # noqa: F401 - by all before their clocks start, not by xarray when it first writes
from fused import dropped_table, ndvi_codes

if TYPE_CHECKING:
    from contender import Clock, Workload

BRIGHTEST = 32767


def offsets_by_layer(work: Workload) -> np.ndarray:
    """The offset of each date, in time order; all items of a date have the same here."""
    by_day = {feature["properties"]["datetime"][:10]: work.offsets[feature["id"]] for feature in work.features}
    return np.array([by_day[day] for day in sorted(by_day)])


def fused_codes(work: Workload, bands: list[da.Array], offsets: np.ndarray) -> xr.DataArray:
    """Codes of red, nir and scl by one kernel a chunk."""
    shifts = da.from_array(offsets.reshape(-1, 1, 1), chunks=1)
    codes = da.map_blocks(ndvi_codes, *bands, shifts, dropped=dropped_table(work.dropped), dtype=np.int16)
    return xr.DataArray(codes, dims=("time", "y", "x"))


def usual_ndvi(work: Workload, bands: list[xr.DataArray], offsets: np.ndarray) -> xr.DataArray:
    """NDVI of red, nir and scl as DN, as people write it, with the rules that make the pixels right."""
    red, nir, scl = bands
    offset = xr.DataArray(offsets, dims="time")
    data = (red > 0) & (red <= BRIGHTEST) & (nir > 0) & (nir <= BRIGHTEST)
    red, nir = red.astype("float32") + offset, nir.astype("float32") + offset
    ndvi = (nir - red) / (nir + red)
    return ndvi.where(data & ~scl.isin(work.dropped) & (nir + red > 0) & (abs(ndvi) <= 1))


def write(work: Workload, clock: Clock, ndvi: xr.DataArray, **more: Any) -> None:
    """Codes as they are, NDVI as codes. Where the graph alone is wanted, make every task of it and count them."""
    if work.graph_only:
        clock.graph_built()
        clock.finish(tasks=len(dict(ndvi.data.__dask_graph__())), chunks=ndvi.data.npartitions, **more)
        return
    scaled: dict[str, Any] = {} if ndvi.dtype == np.int16 else {"scale_factor": 1e-4}
    plain = ndvi.rename("ndvi").drop_vars(ndvi.coords).drop_attrs().to_dataset()
    clock.graph_built()
    plain.to_zarr(work.out, mode="w", zarr_format=3, consolidated=False, encoding=work.encoding(**scaled))
    clock.finish(tasks=len(ndvi.__dask_graph__()))
