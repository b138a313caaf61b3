"""What a codec makes of NDVI codes: size against speed. Writes its table into docs/benchmarks.md.

int16 codes as runs store them, computed by the pipeline: fields of 31UES on 72 dates, tile 29UNU (both real), and a
region of the sandbox. One thread, as in a run, where regions share the cores. Every turn encodes and decodes with
every codec; speeds are relative to zstd 3 with byte shuffle in the same turn. Pixels are compared before.

    uv run python benchmarks/codec.py [--data ../shared/data]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
from numcodecs import Blosc, Delta, Zstd

from ndvi_scale import RunConfig, build_plan, open_reader, search_items
from ndvi_scale.composite import is_fill
from ndvi_scale.region import compute_region
from ndvi_scale.sandbox import make_sandbox
from pages import PAGE, write_between

BASE = "blosc zstd 3, byte shuffle"
SHUFFLES = {"no shuffle": Blosc.NOSHUFFLE, "byte shuffle": Blosc.SHUFFLE, "bit shuffle": Blosc.BITSHUFFLE}
PATCHES = 16
"""Patches of 64 x 64 along a side of the real fields."""


@dataclass
class Times:
    """Processor seconds of one codec for all arrays, an entry a turn. Wall time would be that of a busy machine."""

    encode: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)


def codecs() -> dict[str, list[Any]]:
    """Filters and compressor of each candidate by name, first to last as encoding goes."""
    found: dict[str, list[Any]] = {
        f"blosc zstd {level}, {shuffle}": [Blosc("zstd", level, number)]
        for level in (1, 3, 5)
        for shuffle, number in SHUFFLES.items()
    }
    found |= {
        f"blosc zstd {level}, byte shuffle, {size} KiB": [Blosc("zstd", level, Blosc.SHUFFLE, size * 1024)]
        for level, size in ((1, 128), (1, 256), (1, 512), (1, 1024), (2, 512), (3, 512))
    }
    found |= {f"blosc lz4 5, {shuffle}": [Blosc("lz4", 5, number)] for shuffle, number in SHUFFLES.items()}
    found["blosc lz4 5, byte shuffle, 512 KiB"] = [Blosc("lz4", 5, Blosc.SHUFFLE, 512 * 1024)]
    found |= {f"zstd {level}": [Zstd(level=level)] for level in (1, 3)}
    # Not one of Zarr v3's own codecs: here to know what it would bring.
    found["delta, blosc zstd 1, byte shuffle, 512 KiB"] = [
        Delta("<i2"),
        Blosc("zstd", 1, Blosc.SHUFFLE, 512 * 1024),
    ]
    return found


def computed(catalog: Path, **settings: Any) -> list[np.ndarray]:
    """Codes of every region of a plan."""
    plan = build_plan(search_items(str(catalog)), RunConfig(**settings))
    return [compute_region(plan, region, open_reader())[0]["ndvi"] for region in plan.regions()]


def real_fields(data: Path) -> np.ndarray:
    """1024 x 1024: the 72 dates in four orientations, none twice; rows of pixels recur in none of them."""
    dates = computed(data / "catalog/catalog.json", tiles=("31UES",))
    turned = [
        turn(codes) for turn in (np.asarray, np.fliplr, np.transpose, lambda a: np.fliplr(a.T)) for codes in dates
    ]
    rows = [np.hstack(turned[start : start + PATCHES]) for start in range(0, PATCHES**2, PATCHES)]
    return np.ascontiguousarray(np.vstack(rows))


def sandbox_codes(catalog: Path) -> np.ndarray:
    """The region of a sandbox with the most NDVI."""
    return max(computed(catalog, crs="EPSG:32631"), key=lambda codes: np.count_nonzero(~is_fill(codes)))


def fields(data: Path) -> dict[str, np.ndarray]:
    """Codes by what they are of."""
    with tempfile.TemporaryDirectory() as folder:
        sandbox = sandbox_codes(make_sandbox(Path(folder), size=2048, dates=3).catalog)
    return {
        "fields, 72 dates": real_fields(data),
        "tile at 60 m": computed(data / "catalog/catalog.json", tiles=("29UNU",))[0],
        "sandbox": sandbox,
    }


def encode(steps: list[Any], codes: np.ndarray) -> Any:
    """Bytes of one object."""
    for step in steps:
        codes = step.encode(codes)
    return codes


def decode(steps: list[Any], data: Any) -> np.ndarray:
    """The codes again, flat."""
    for step in reversed(steps):
        data = step.decode(data)
    return np.frombuffer(data, np.int16)


def check_same_pixels(candidates: dict[str, list[Any]], arrays: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """Compression ratios by codec, an entry an array; every codec gives the codes back."""
    ratios: dict[str, list[float]] = {}
    for name, steps in candidates.items():
        ratios[name] = []
        for codes in arrays.values():
            data = encode(steps, codes)
            assert np.array_equal(decode(steps, data), codes.ravel()), name
            ratios[name].append(codes.nbytes / len(data))
    return ratios


def measure(candidates: dict[str, list[Any]], arrays: dict[str, np.ndarray], turns: int) -> dict[str, Times]:
    """Times of every codec, all in every turn."""
    times = {name: Times() for name in candidates}
    for _ in range(turns):
        for name, steps in candidates.items():
            started = time.thread_time()
            packed = [encode(steps, codes) for codes in arrays.values()]
            middle = time.thread_time()
            for data in packed:
                decode(steps, data)
            times[name].encode.append(middle - started)
            times[name].decode.append(time.thread_time() - middle)
    return times


def relative(base: list[float], times: list[float]) -> str:
    """Speed over the base's of the same turn: median and range."""
    ratios = [one / other for one, other in zip(base, times, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def table(arrays: dict[str, np.ndarray], ratios: dict[str, list[float]], times: dict[str, Times]) -> str:
    """The table, with what was measured above it."""
    turns, megabytes = len(times[BASE].encode), sum(codes.nbytes for codes in arrays.values()) / 1e6
    shapes = ", ".join(f"{name} ({codes.shape[0]}²)" for name, codes in arrays.items())
    speeds = [megabytes / statistics.median(one) for one in (times[BASE].encode, times[BASE].decode)]
    said = (
        f"{shapes}; {turns} turns; numcodecs {numcodecs.__version__}. KiB are Blosc's blocks, by its own choice if "
        f"not named. Speed: codes of all three a processor second, over that of {BASE} in the same turn, which "
        f"encodes {speeds[0]:.0f} MB/s and decodes {speeds[1]:.0f} MB/s here: median (range)."
    )
    lines = [said, "", f"| codec | {' | '.join(f'ratio, {name}' for name in arrays)} | encode | decode |"]
    lines.append("|---" * (len(arrays) + 3) + "|")
    base = times[BASE]
    for name, one in times.items():
        sizes = " | ".join(f"{ratio:.2f}" for ratio in ratios[name])
        speed = f"{relative(base.encode, one.encode)} | {relative(base.decode, one.decode)}"
        lines.append(f"| {name} | {sizes} | {speed} |")
    return "\n".join(lines)


def data_folder() -> Path:
    """Real data: named by the environment, or beside the checkout."""
    return Path(os.environ.get("NDVI_SCALE_REAL_DATA") or Path(__file__).parents[2] / "shared" / "data")


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--data", type=Path, default=data_folder())
    parser.add_argument("--page", type=Path, default=PAGE)
    given = parser.parse_args()
    numcodecs.blosc.use_threads = False
    arrays, candidates = fields(given.data), codecs()
    ratios = check_same_pixels(candidates, arrays)
    text = table(arrays, ratios, measure(candidates, arrays, given.turns))
    write_between(given.page, "codec", text)
    print(text)


if __name__ == "__main__":
    main()
