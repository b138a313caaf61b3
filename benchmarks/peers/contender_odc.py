"""odc-stac, set up for COGs as its documentation says: usual expression or one fused kernel. Frozen."""

from __future__ import annotations

import dask
import dask.array as da
import numpy as np
import odc.stac
import pystac
import xarray as xr
from contender import Clock, Workload, count_graph, read_workload
from odc.geo.geobox import GeoBox


def main() -> None:
    """Load, build, write."""
    work = read_workload()
    fused = work.options.get("fused", False)
    if fused:
        from fused import dropped_table, ndvi_codes
    clock = Clock()
    dask.config.set(scheduler="threads", num_workers=work.threads)
    odc.stac.configure_rio(cloud_defaults=True)
    items = pystac.ItemCollection.from_file(work.items)
    bands = odc.stac.load(
        items,
        bands=["red", "nir", "scl"],
        geobox=GeoBox.from_bbox(work.bounds, crs=work.epsg, resolution=10),
        chunks={"x": work.chunk, "y": work.chunk},
        groupby="solar_day",
    )
    offsets = np.array(offsets_by_layer(work))
    if fused:
        shifts = da.from_array(offsets.reshape(-1, 1, 1), chunks=1)
        table = dropped_table(work.dropped)
        codes = da.map_blocks(
            ndvi_codes, bands.red.data, bands.nir.data, bands.scl.data, shifts, dropped=table, dtype=np.int16
        )
        ndvi = xr.DataArray(codes, dims=("time", "y", "x"))
        encoding = work.encoding()
    else:
        ndvi = usual_expression(bands, xr.DataArray(offsets, dims="time"), work.dropped)
        encoding = work.encoding(scale_factor=1e-4)
    if work.graph_only:
        count_graph(clock, ndvi.data)
        return
    ndvi = ndvi.rename("ndvi").drop_attrs()
    clock.graph_built()
    ndvi.to_dataset().to_zarr(work.out, mode="w", zarr_format=3, consolidated=False, encoding=encoding)
    clock.finish(tasks=len(ndvi.__dask_graph__()))


def offsets_by_layer(work: Workload) -> list[int]:
    """The offset of each date, in time order; all items of a date have the same here."""
    by_day = {feature["properties"]["datetime"][:10]: work.offsets[feature["id"]] for feature in work.features}
    return [by_day[day] for day in sorted(by_day)]


def usual_expression(bands: xr.Dataset, offset: xr.DataArray, dropped: list[int]) -> xr.DataArray:
    """NDVI as people write it, with the rules that make the pixels right."""
    data = (bands.red > 0) & (bands.red <= 32767) & (bands.nir > 0) & (bands.nir <= 32767)
    red, nir = bands.red.astype("float32") + offset, bands.nir.astype("float32") + offset
    ndvi = (nir - red) / (nir + red)
    return ndvi.where(data & ~bands.scl.isin(dropped) & (nir + red > 0) & (abs(ndvi) <= 1))


if __name__ == "__main__":
    main()
