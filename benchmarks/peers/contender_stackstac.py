"""stackstac: the usual xarray expression on its float64, or uint16 and one fused kernel a chunk. Frozen."""

from __future__ import annotations

import dask
import dask.array as da
import numpy as np
import pystac
import stackstac
import xarray as xr
from contender import Clock, count_graph, read_workload


def main() -> None:
    """Open, build, write."""
    work = read_workload()
    fused = work.options.get("fused", False)
    if fused:
        from fused import dropped_table, ndvi_codes
    clock = Clock()
    dask.config.set(scheduler="threads", num_workers=work.threads)
    items = pystac.ItemCollection.from_file(work.items)
    # rescale=False: what these items declare is there although it is in the pixels of one of them already.
    stack = stackstac.stack(
        items,
        assets=["red", "nir", "scl"],
        bounds=work.bounds,
        epsg=work.epsg,
        resolution=10,
        chunksize=work.chunk,
        rescale=False,
        dtype="uint16" if fused else "float64",
        fill_value=np.uint16(0) if fused else np.nan,
        properties=False,
        band_coords=False,
        sortby_date="asc",
    )
    offsets = np.array([work.offsets[name] for name in stack["id"].values])
    if fused:
        bands = stack.data
        shifts = da.from_array(offsets.reshape(-1, 1, 1), chunks=1)
        table = dropped_table(work.dropped)
        codes = da.map_blocks(
            ndvi_codes, bands[:, 0], bands[:, 1], bands[:, 2], shifts, dropped=table, dtype=np.int16
        )
        ndvi = xr.DataArray(codes, dims=("time", "y", "x"))
        encoding = work.encoding()
    else:
        ndvi = usual_expression(stack, xr.DataArray(offsets, dims="time"), work.dropped)
        encoding = work.encoding(scale_factor=1e-4)
    if work.graph_only:
        count_graph(clock, ndvi.data)
        return
    ndvi = ndvi.rename("ndvi").drop_vars(set(ndvi.coords) - {"time", "y", "x"}).drop_attrs()
    clock.graph_built()
    ndvi.to_dataset().to_zarr(work.out, mode="w", zarr_format=3, consolidated=False, encoding=encoding)
    clock.finish(tasks=len(ndvi.__dask_graph__()))


def usual_expression(stack: xr.DataArray, offset: xr.DataArray, dropped: list[int]) -> xr.DataArray:
    """NDVI as people write it, with the rules that make the pixels right."""
    red, nir, scl = (stack.sel(band=name, drop=True) for name in ("red", "nir", "scl"))
    red, nir = red.where(red <= 32767) + offset, nir.where(nir <= 32767) + offset
    ndvi = (nir - red) / (nir + red)
    return ndvi.where(~scl.isin(dropped) & scl.notnull() & (nir + red > 0) & (abs(ndvi) <= 1))


if __name__ == "__main__":
    main()
