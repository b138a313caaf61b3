"""odc-stac, set up for COGs as its documentation says: usual expression, fused kernel, or loaded whole. Frozen."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import dask
import odc.stac
import pystac
from contender import Clock, read_workload
from dasked import fused_codes, offsets_by_layer, usual_ndvi, write
from fused import dropped_table, ndvi_codes
from odc.geo.geobox import GeoBox

if TYPE_CHECKING:
    import xarray as xr
    from contender import Workload

BANDS = ["red", "nir", "scl"]


def main() -> None:
    """Load, build, write."""
    work = read_workload()
    pool = work.options.get("pool")
    clock = Clock()
    dask.config.set(scheduler="threads", num_workers=work.threads)
    odc.stac.configure_rio(cloud_defaults=True)
    loaded = odc.stac.load(
        pystac.ItemCollection.from_file(work.items),
        bands=BANDS,
        geobox=GeoBox.from_bbox(work.bounds, crs=work.epsg, resolution=10),
        chunks=None if pool else {"x": work.chunk, "y": work.chunk},
        pool=pool,
        groupby="solar_day",
    )
    if pool:
        write_loaded(work, clock, loaded)
        return
    bands = [loaded[name] for name in BANDS]
    if work.options.get("fused"):
        ndvi = fused_codes(work, [band.data for band in bands], offsets_by_layer(work))
    else:
        ndvi = usual_ndvi(work, bands, offsets_by_layer(work))
    write(work, clock, ndvi)


def write_loaded(work: Workload, clock: Clock, loaded: xr.Dataset) -> None:
    """Kernel and writing, chunk by chunk in threads, of what is in memory."""
    clock.graph_built()
    array, offsets, table = work.create(), offsets_by_layer(work), dropped_table(work.dropped)

    def compute(place: tuple[int, int, int]) -> None:
        layer, row, column = place
        part = (layer, slice(row, row + work.chunk), slice(column, column + work.chunk))
        array[part] = ndvi_codes(*(loaded[name].values[part] for name in BANDS), offsets[layer], table)

    with ThreadPoolExecutor(work.threads) as threads:
        list(threads.map(compute, work.chunks()))
    clock.finish()


if __name__ == "__main__":
    main()
