"""rasterio in threads: read a chunk's windows, one fused kernel, straight to Zarr. Frozen."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import rasterio
from contender import Clock, read_workload
from fused import dropped_table, ndvi_codes
from rasterio.windows import from_bounds

OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_HTTP_MULTIPLEX": "YES",
    "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": ".tif",
}


def main() -> None:
    """One chunk after another on each thread; a thread keeps its files open."""
    work = read_workload()
    clock = Clock()
    features, array = work.features, work.create()
    table = dropped_table(work.dropped)
    local = threading.local()
    with ExitStack() as files:

        def source(href: str) -> rasterio.DatasetReader:
            held = local.__dict__.setdefault("files", {})
            if href not in held:
                held[href] = files.enter_context(rasterio.open(href))
            return held[href]

        def compute(place: tuple[int, int, int]) -> None:
            layer, row, column = place
            height, width = min(work.chunk, work.shape[1] - row), min(work.chunk, work.shape[2] - column)
            left, top = work.bounds[0] + 10 * column, work.bounds[3] - 10 * row
            box = (left, top - 10 * height, left + 10 * width, top)
            with rasterio.Env(**OPTIONS):
                red, nir, scl = (
                    (src := source(features[layer]["assets"][name]["href"])).read(
                        1, window=from_bounds(*box, transform=src.transform).round()
                    )
                    for name in ("red", "nir", "scl")
                )
            codes = ndvi_codes(red, nir, scl, work.offsets[features[layer]["id"]], table)
            array[layer, row : row + height, column : column + width] = codes

        clock.graph_built()
        with ThreadPoolExecutor(work.threads) as pool:
            list(pool.map(compute, work.chunks()))
        clock.finish()


if __name__ == "__main__":
    main()
