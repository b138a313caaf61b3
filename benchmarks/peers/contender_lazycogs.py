"""lazycogs: dask chunks as its documentation has them, usual expression or one fused kernel a chunk. Frozen."""

from __future__ import annotations

import platform
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import dask
import dask.array as da
import lazycogs
import numpy as np
import rustac
import xarray as xr
from contender import Clock, read_workload
from obstore.store import HTTPStore


def main() -> None:
    """Open, build, write."""
    work = read_workload()
    fused = work.options.get("fused", False)
    if fused:
        from fused import dropped_table, ndvi_codes
    folder = extension_folder()
    origin = "/".join(work.features[0]["assets"]["red"]["href"].split("/")[:3])
    clock = Clock()
    dask.config.set(scheduler="threads", num_workers=work.threads)
    bands = lazycogs.open(
        work.parquet,
        bbox=work.bounds,
        crs=f"EPSG:{work.epsg}",
        resolution=10.0,
        bands=["red", "nir", "scl"],
        chunks={"time": 1, "y": work.chunk, "x": work.chunk},
        store=HTTPStore.from_url(origin, client_options={"allow_http": True}),
        duckdb_client=rustac.DuckdbClient(extension_directory=folder, install_extensions=False),
    )
    offsets = np.array([work.offsets[feature["id"]] for feature in work.features])
    if fused:
        shifts = da.from_array(offsets.reshape(-1, 1, 1), chunks=1)
        codes = da.map_blocks(
            ndvi_codes, *(bands.data[band] for band in range(3)), shifts,
            dropped=dropped_table(work.dropped), dtype=np.int16,
        )  # fmt: skip
        ndvi = xr.DataArray(codes, dims=("time", "y", "x"))
        encoding = work.encoding()
    else:
        ndvi = usual_expression(bands, xr.DataArray(offsets, dims="time"), work.dropped)
        encoding = work.encoding(scale_factor=1e-4)
    ndvi = ndvi.rename("ndvi").drop_vars(ndvi.coords).drop_attrs()
    clock.graph_built()
    ndvi.to_dataset().to_zarr(work.out, mode="w", zarr_format=3, consolidated=False, encoding=encoding)
    clock.finish(tasks=len(ndvi.__dask_graph__()))


def extension_folder() -> Path:
    """DuckDB's extensions, which it would download, from packages: laid out as it wants them."""
    folder = Path(tempfile.mkdtemp(prefix="extensions-", dir=Path(sys.argv[1]).parent))
    machine = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    for name in ("spatial", "icu", "parquet"):
        package = Path(str(find_spec(f"duckdb_extension_{name}").origin)).parent
        file = next(package.glob(f"extensions/*/{name}.duckdb_extension"))
        place = folder / file.parent.name / f"linux_{machine}" / file.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(file)
    return folder


def usual_expression(bands: xr.DataArray, offset: xr.DataArray, dropped: list[int]) -> xr.DataArray:
    """NDVI as people write it, with the rules that make the pixels right."""
    red, nir, scl = (bands.sel(band=name, drop=True) for name in ("red", "nir", "scl"))
    data = (red > 0) & (red <= 32767) & (nir > 0) & (nir <= 32767)
    red, nir = red.astype("float32") + offset, nir.astype("float32") + offset
    ndvi = (nir - red) / (nir + red)
    return ndvi.where(data & ~scl.isin(dropped) & (nir + red > 0) & (abs(ndvi) <= 1))


if __name__ == "__main__":
    main()
