"""What every contender does alike: reads its workload, keeps its clock, prints one line of JSON. Frozen.

It runs in each peer's environment, so at import it uses the standard library alone. A contender is called with the
path of its workload.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FILL = -32768


@dataclass(frozen=True)
class Workload:
    """What to compute and where to. Items are in time order, one a date but where tiles overlap."""

    items: str
    """FeatureCollection with absolute hrefs to the origin."""
    parquet: str
    """The same as stac-geoparquet."""
    archive: str
    """Folder of the same COGs, for what reads no network."""
    out: str
    """Zarr v3 group to write, with the array ``ndvi`` (time, y, x), int16 codes."""
    epsg: int
    bounds: tuple[float, float, float, float]
    """Left, bottom, right, top in metres."""
    shape: tuple[int, int, int]
    """Layers, rows, columns."""
    chunk: int
    codec: dict[str, Any]
    """Arguments of Zarr's BloscCodec."""
    offsets: dict[str, int]
    """Item → BOA offset in DN."""
    dropped: list[int]
    """SCL classes without NDVI."""
    threads: int | None = None
    """Threads that compute; None takes the library's own default."""
    graph_only: bool = False
    """Build the graph and count its tasks; read nothing."""
    options: dict[str, Any] = field(default_factory=dict)
    """A contender's own."""

    @property
    def features(self) -> list[dict[str, Any]]:
        """The items as plain JSON."""
        return json.loads(Path(self.items).read_text(encoding="utf-8"))["features"]

    def encoding(self, **more: Any) -> dict[str, Any]:
        """How xarray is to write ``ndvi``."""
        from zarr.codecs import BloscCodec

        return {
            "ndvi": {
                "chunks": (1, self.chunk, self.chunk),
                "compressors": (BloscCodec(**self.codec),),
                "dtype": "int16",
                "_FillValue": FILL,
                **more,
            }
        }

    def create(self) -> Any:
        """The array ``ndvi``, made for writing whole chunks into it."""
        import zarr
        from zarr.codecs import BloscCodec

        return zarr.open_group(self.out, mode="w", zarr_format=3).create_array(
            "ndvi",
            shape=self.shape,
            dtype="int16",
            chunks=(1, self.chunk, self.chunk),
            fill_value=FILL,
            compressors=BloscCodec(**self.codec),
            dimension_names=("time", "y", "x"),
        )

    def chunks(self) -> list[tuple[int, int, int]]:
        """Layer, first row and first column of each chunk."""
        layers, height, width = self.shape
        return [
            (layer, row, column)
            for layer in range(layers)
            for row in range(0, height, self.chunk)
            for column in range(0, width, self.chunk)
        ]


class Clock:
    """Phases of a run: import, then build, then compute; the work is what follows the imports."""

    def __init__(self) -> None:
        """End the imports."""
        self.age = process_age()
        self.imported = self.built = time.perf_counter()
        self.memory = peak_memory()
        self.processor = time.process_time()

    def graph_built(self) -> None:
        """End the building of the graph or plan."""
        self.built = time.perf_counter()

    def elapsed(self) -> float:
        """Seconds of work so far."""
        return time.perf_counter() - self.imported

    def finish(self, tasks: int | None = None, **more: Any) -> None:
        """End the work and print what it took."""
        ended, processor = time.perf_counter(), time.process_time()
        record = {
            "import": self.age,
            "build": self.built - self.imported,
            "compute": ended - self.built,
            "wall": ended - self.imported,
            "processor": processor - self.processor,
            "memory_imported": self.memory,
            "memory": peak_memory(),
            "tasks": tasks,
            **more,
        }
        print(json.dumps(record))


def process_age() -> float:
    """Seconds since this process was started."""
    fields = Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")


def peak_memory() -> int:
    """Most bytes of memory that this process had at once, as the kernel counts them."""
    with Path("/proc/self/status").open(encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def read_workload() -> Workload:
    """The workload named on the command line."""
    values = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    return Workload(**{**values, "bounds": tuple(values["bounds"]), "shape": tuple(values["shape"])})
