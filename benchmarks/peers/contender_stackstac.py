"""stackstac: the usual xarray expression on its float64, or uint16 and one fused kernel a chunk. Frozen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dask
import numpy as np
import pystac
import stackstac
import xarray as xr
from contender import Clock, read_workload
from dasked import BRIGHTEST, fused_codes, write

if TYPE_CHECKING:
    from contender import Workload


def main() -> None:
    """Open, build, write."""
    work = read_workload()
    fused = work.options.get("fused", False)
    clock = Clock()
    dask.config.set(scheduler="threads", num_workers=work.threads)
    # rescale=False: what these items declare is there although it is in the pixels of one of them already.
    stack = stackstac.stack(
        pystac.ItemCollection.from_file(work.items),
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
        ndvi = fused_codes(work, [stack.data[:, band] for band in range(3)], offsets)
    else:
        ndvi = usual_ndvi(work, stack, xr.DataArray(offsets, dims="time"))
    write(work, clock, ndvi)


def usual_ndvi(work: Workload, stack: xr.DataArray, offset: xr.DataArray) -> xr.DataArray:
    """NDVI of floats that are NaN without data, as people write it, with the rules that make the pixels right."""
    red, nir, scl = (stack.sel(band=name, drop=True) for name in ("red", "nir", "scl"))
    red, nir = red.where(red <= BRIGHTEST) + offset, nir.where(nir <= BRIGHTEST) + offset
    ndvi = (nir - red) / (nir + red)
    return ndvi.where(~scl.isin(work.dropped) & scl.notnull() & (nir + red > 0) & (abs(ndvi) <= 1))


if __name__ == "__main__":
    main()
