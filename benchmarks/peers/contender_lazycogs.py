"""lazycogs: dask chunks as its documentation has them, usual expression or one fused kernel a chunk. Frozen."""

from __future__ import annotations

import platform
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import dask
import lazycogs
import rustac
from contender import Clock, read_workload
from dasked import fused_codes, offsets_by_layer, usual_ndvi, write
from obstore.store import HTTPStore

BANDS = ["red", "nir", "scl"]


def main() -> None:
    """Open, build, write."""
    work = read_workload()
    folder = extension_folder()
    origin = "/".join(work.features[0]["assets"]["red"]["href"].split("/")[:3])
    clock = Clock()
    dask.config.set(scheduler="threads", num_workers=work.threads)
    stack = lazycogs.open(
        work.parquet,
        bbox=work.bounds,
        crs=f"EPSG:{work.epsg}",
        resolution=10.0,
        bands=BANDS,
        chunks={"time": 1, "y": work.chunk, "x": work.chunk},
        store=HTTPStore.from_url(origin, client_options={"allow_http": True}),
        duckdb_client=rustac.DuckdbClient(extension_directory=folder, install_extensions=False),
    )
    offsets = offsets_by_layer(work)
    if work.options.get("fused"):
        ndvi = fused_codes(work, [stack.data[band] for band in range(3)], offsets)
    else:
        ndvi = usual_ndvi(work, [stack.sel(band=name, drop=True) for name in BANDS], offsets)
    write(work, clock, ndvi)


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


if __name__ == "__main__":
    main()
