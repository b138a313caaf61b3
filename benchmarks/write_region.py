"""What writing a region costs beside encoding it: zarr-python, the store, the checksum, shards.

One region of the sandbox, 2048 x 2048 int16 codes. Every turn does everything once; ratios are taken within a turn,
of the processor's time (all threads) and of wall time. Writes its table into docs/benchmarks.md.

    uv run python benchmarks/write_region.py
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numcodecs
import numpy as np
import obstore
import xxhash
import zarr
from numcodecs import Blosc

from codec import sandbox_codes
from ndvi_scale import RunConfig, build_plan, open_store, search_items, write
from ndvi_scale.lattice import Region
from ndvi_scale.sandbox import make_sandbox
from pages import PAGE, write_between

if TYPE_CHECKING:
    from collections.abc import Callable

    from ndvi_scale.plan import Plan

BASE = "the codec alone"
REGION = Region(0, 0, 0)


def plan_of(catalog: Path, **settings: int) -> Plan:
    """A plan whose first region has 2048 x 2048 pixels."""
    return build_plan(search_items(str(catalog)), RunConfig(crs="EPSG:32631", **settings))


def writer(plan: Plan, url: str, codes: np.ndarray) -> Callable[[], object]:
    """`write_region` into a new store; what is read back are the codes."""
    store = open_store(url)
    write.create_template(store, plan)
    arrays = write.open_arrays(store, plan)
    write.write_region(arrays, plan, REGION, {"ndvi": codes})
    stored = zarr.open_array(store.zarr(read_only=True), path="ndvi", mode="r")[0, :2048, :2048]
    assert np.array_equal(stored, codes)
    return partial(write.write_region, arrays, plan, REGION, {"ndvi": codes})


def parts(catalog: Path, folder: Path, codes: np.ndarray) -> dict[str, Callable[[], object]]:
    """What is measured, by name."""
    blosc = Blosc(**{**write.COMPRESSION, "shuffle": Blosc.SHUFFLE})
    place = obstore.store.LocalStore(folder)
    plan = plan_of(catalog)
    found: dict[str, Callable[[], object]] = {
        BASE: lambda: blosc.encode(codes),
        "and a put into a folder": lambda: obstore.put(place, "object", blosc.encode(codes)),
        "`write_region` into memory": writer(plan, "memory://plain", codes),
        "`write_region` into a folder": writer(plan, str(folder / "plain.zarr"), codes),
    }
    for chunk in (1024, 512, 256, 128):
        sharded = plan_of(catalog, chunk=chunk, shard=2048)
        found[f"`write_region` into memory, a shard of chunks of {chunk}"] = writer(
            sharded, f"memory://{chunk}", codes
        )
    octets = codes.reshape(-1).view(np.uint8)
    found["checksum: SHA-256"] = lambda: hashlib.sha256(octets).digest()
    found["checksum: BLAKE2b"] = lambda: hashlib.blake2b(octets).digest()
    found["checksum: XXH3, 128 bits"] = lambda: xxhash.xxh3_128_digest(octets)
    return found


def measure(what: dict[str, Callable[[], object]], turns: int) -> dict[str, list[tuple[float, float]]]:
    """Processor and wall seconds of everything, a pair a turn."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in what}
    for _ in range(turns):
        for name, function in what.items():
            processor, wall = time.process_time(), time.perf_counter()
            function()
            times[name].append((time.process_time() - processor, time.perf_counter() - wall))
    return times


def table(times: dict[str, list[tuple[float, float]]]) -> str:
    """The table, with what was measured above it."""
    alone = statistics.median(processor for processor, _ in times[BASE])
    lines = [
        f"{len(times[BASE])} turns, zarr-python {zarr.__version__}; {BASE} takes {alone * 1000:.1f} ms here.",
        "",
        "| | processor, of the codec alone | wall, of the codec alone |",
        "|---|---|---|",
    ]
    for name, own in times.items():
        ratios = [[mine[i] / base[i] for mine, base in zip(own, times[BASE], strict=True)] for i in (0, 1)]
        cells = " | ".join(f"{statistics.median(r):.2f} ({min(r):.2f} to {max(r):.2f})" for r in ratios)
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=21)
    parser.add_argument("--page", type=Path, default=PAGE)
    given = parser.parse_args()
    numcodecs.blosc.use_threads = False
    with tempfile.TemporaryDirectory() as folder:
        made = make_sandbox(Path(folder) / "sandbox", size=2048, dates=3)
        codes = sandbox_codes(made.catalog)
        text = table(measure(parts(made.catalog, Path(folder), codes), given.turns))
    write_between(given.page, "write_region", text)
    print(text)


if __name__ == "__main__":
    main()
