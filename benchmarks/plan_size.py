"""A plan of a million regions from a stac-geoparquet of a hundred thousand footprints: seconds, and memory.

The file is invented, but as a search would save it: the tiles of UTM zone 31 from the equator to 45° N, each seen
by two orbits every five days for 900 days, swath edges cut. It is written in parts. Each stage is then measured in
a process of its own: plan (search the file, freeze, write to disk), and what a run does before its first region.

    uv run python -m benchmarks.plan_size --work DIR
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from itertools import batched
from pathlib import Path
from typing import TYPE_CHECKING, Any

import shapely
from pyproj import Transformer

from ndvi_scale.sentinel2 import tile_corner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ZONE, EPSG = 31, 32631
NORTH = 45.0
FIRST = datetime(2023, 1, 1, 10, 40, tzinfo=UTC)
SIDE = 109_800.0
PART = 5_000
"""Items a part of the file has."""
REFERENCE = {"red": 10, "nir": 10, "scl": 20}
BASE = "https://archive.invalid/sentinel-s2-l2a-cogs"


def tiles() -> list[tuple[str, int, int]]:
    """Names, left and top of the tiles whose middle lies in the zone, from the equator to `NORTH`."""
    convert = Transformer.from_crs(EPSG, 4326, always_xy=True)
    found: dict[tuple[int, int], str] = {}
    for band in "NPQRST":
        for column in "ABCDEFGH":
            for row in "ABCDEFGHJKLMNPQRSTUV":
                name = f"{ZONE}{band}{column}{row}"
                _, left, top = tile_corner(name)
                lon, lat = convert.transform(left + SIDE / 2, top - SIDE / 2)
                if 0 <= lon <= 6 and 0 < lat < NORTH and "NPQRST"[int(lat // 8)] == band:
                    found.setdefault((left, top), name)
    return [(name, left, top) for (left, top), name in sorted(found.items())]


def features(days: int) -> Iterator[dict[str, Any]]:
    """Items in order of time: on each day the tiles under that day's orbits."""
    convert = Transformer.from_crs(EPSG, 4326, always_xy=True)
    places = tiles()
    chance = random.Random(31)  # noqa: S311 - nothing secret
    grounds = {}
    for name, left, top in places:
        for cut in (0.0, chance.uniform(0.2, 0.7)):
            east = left + SIDE * (1 - cut)
            corners = [(left, top), (east, top), (east - SIDE * cut / 4, top - SIDE), (left, top - SIDE)]
            ring = [convert.transform(*corner) for corner in corners]
            grounds[name, bool(cut)] = shapely.Polygon([(round(x, 6), round(y, 6)) for x, y in ring])
    for day in range(days):
        for name, left, top in places:
            phase = (left // 200_000 + day) % 5
            if phase in (0, 2):
                seconds = int((9_000_000 - top) / 6_700)
                moment = FIRST + timedelta(days=day, seconds=seconds)
                yield _feature(name, (left, top), moment, grounds[name, phase == 2], "AB"[day % 2], chance)


def _feature(
    tile: str, corner: tuple[int, int], moment: datetime, ground: Any, unit: str, chance: random.Random
) -> dict[str, Any]:
    name = f"S2{unit}_{tile}_{moment:%Y%m%d}_0_L2A"
    folder = f"{BASE}/{tile[:2]}/{tile[2]}/{tile[3:]}/{moment.year}/{moment.month}/{name}"
    take = moment.replace(second=0, minute=moment.minute // 10 * 10)
    made = moment + timedelta(hours=6)
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [
            "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
            "https://stac-extensions.github.io/eo/v1.1.0/schema.json",
            "https://stac-extensions.github.io/grid/v1.1.0/schema.json",
        ],
        "id": name,
        "collection": "sentinel-2-l2a",
        "geometry": shapely.geometry.mapping(ground),
        "bbox": list(ground.bounds),
        "properties": {
            "datetime": moment.isoformat().replace("+00:00", "Z"),
            "created": made.isoformat().replace("+00:00", "Z"),
            "platform": f"sentinel-2{unit.lower()}",
            "constellation": "sentinel-2",
            "instruments": ["msi"],
            "eo:cloud_cover": round(chance.uniform(0, 100), 4),
            "proj:code": f"EPSG:{EPSG}",
            "grid:code": f"MGRS-{tile}",
            "view:sun_azimuth": round(chance.uniform(120, 170), 4),
            "view:sun_elevation": round(chance.uniform(20, 65), 4),
            "s2:processing_baseline": "05.09",
            "s2:datatake_id": f"GS2{unit}_{take:%Y%m%dT%H%M%S}_0{chance.randrange(40000, 50000)}_N05.09",
            "s2:generation_time": made.isoformat().replace("+00:00", "Z"),
            "s2:product_uri": f"S2{unit}_MSIL2A_{take:%Y%m%dT%H%M%S}_N0509_R008_T{tile}_{made:%Y%m%dT%H%M%S}.SAFE",
            "s2:nodata_pixel_percentage": round(chance.uniform(0, 60), 4),
            "s2:vegetation_percentage": round(chance.uniform(0, 60), 4),
            "earthsearch:boa_offset_applied": True,
        },
        "links": [{"rel": "collection", "href": "https://archive.invalid/collections/sentinel-2-l2a"}],
        "assets": {
            band: {
                "href": f"{folder}/{ {'red': 'B04', 'nir': 'B08', 'scl': 'SCL'}[band] }.tif",
                "type": "image/tiff; application=geotiff; profile=cloud-optimized",
                "roles": ["data"],
                "proj:shape": [int(SIDE) // size, int(SIDE) // size],
                "proj:transform": [size, 0, corner[0], 0, -size, corner[1]],
                "raster:bands": [
                    {"scale": 1.0, "offset": 0.0} if band == "scl" else {"scale": 0.0001, "offset": -0.1}
                ],
            }
            for band, size in REFERENCE.items()
        },
    }


def write_items(file: Path, days: int) -> None:
    """The file, `PART` items at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import rustac

    part, writer = file.with_name("part.parquet"), None
    for some in batched(features(days), PART):
        rustac.write_sync(str(part), list(some), format="parquet")
        table = pq.ParquetFile(pa.BufferReader(part.read_bytes())).read(use_threads=False)
        writer = writer or pq.ParquetWriter(file, table.schema, compression="zstd")
        writer.write_table(table.cast(writer.schema))
    if writer is not None:
        writer.close()
    part.unlink()


def measured(stage: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a stage says, with its seconds and the peak of its process."""
    before, started = os.times(), time.perf_counter()
    said = stage()
    seconds, after = time.perf_counter() - started, os.times()
    return {
        "seconds": round(seconds, 1),
        "user": round(after.user - before.user, 1),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000),
        **said,
    }


def make_plan(items: str, out: str) -> dict[str, Any]:
    """What `ndvi-scale plan --items … --save --out …` does, but for what it asks the archive."""
    from ndvi_scale.ledger import save_plan
    from ndvi_scale.settings import Settings

    marks = [time.perf_counter()]
    settings = Settings.from_values(
        {"items": items, "out": out, "bbox": f"0,0.01,6,{NORTH - 0.01}", "chunk": 3584, "crs": f"EPSG:{EPSG}"}
    )
    plan = settings.build_plan()
    marks.append(time.perf_counter())
    save_plan(settings.store(), plan)
    marks.append(time.perf_counter())
    return {
        "regions": len(plan.index),
        "granules": len(plan.granules),
        "layers": len(plan.layers),
        "id": plan.id,
        "build": round(marks[1] - marks[0], 1),
        "save": round(marks[2] - marks[1], 1),
    }


def load(out: str) -> dict[str, Any]:
    """What a worker does once."""
    from ndvi_scale.ledger import load_plan
    from ndvi_scale.store import open_store

    plan = load_plan(open_store(out))
    return {"regions": 0 if plan is None else len(plan.index)}


def begin(out: str) -> dict[str, Any]:
    """What a run, and a run that is taken up, does before its first region."""
    import datetime as dt

    from ndvi_scale import batch, estimate, ledger, write
    from ndvi_scale.kernels import COUNTERS
    from ndvi_scale.readers import Traffic
    from ndvi_scale.region import DayCounts, RegionRecord
    from ndvi_scale.store import open_store

    store = open_store(out)
    plan = ledger.load_plan(store)
    if plan is None:
        raise SystemExit(f"{out} holds no plan")
    said: dict[str, Any] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        found = work()
        said[name] = round(time.perf_counter() - started, 1)
        return found

    timed("region_memory", lambda: estimate.region_memory(plan))
    timed("pending", lambda: ledger.pending(plan, {}))
    timed("write.create_template", lambda: write.create_template(store, plan))
    day = dt.date(2023, 1, 1)

    def fill() -> None:
        book = ledger.Ledger(store, plan.id)
        for region, rows in plan.index.items():
            counters = {plan.granules[row].id: dict.fromkeys(COUNTERS, 9_000_000) for row in rows}
            book.add(
                RegionRecord(
                    region,
                    0,
                    counters,
                    Traffic(100, 20_000_000),
                    1.5,
                    {},
                    {day: DayCounts(9, 1, 1, 7)},
                    9_437_184,
                    {"ndvi": "crc32c:00000000"},
                )
            )
        book.flush()

    timed("all records noted", fill)
    done = timed("ledger.finished", lambda: ledger.finished(store, plan))
    there = timed("still there", lambda: batch._still_there(plan, store, done))  # noqa: SLF001 - as a run does
    timed("nothing pending", lambda: ledger.pending(plan, there))
    timed("report", lambda: batch.read_report(plan, store))
    return said


STAGES = {"plan": make_plan, "load": load, "begin": begin}


def stage(name: str, *args: str) -> dict[str, Any]:
    """Measure a stage in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.plan_size", "--stage", name, *args]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(answer.stdout.splitlines()[-1])


def main() -> None:
    """Make the file where it is missing, measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder for the items and the plan (1 GB)")
    parser.add_argument("--days", type=int, default=900)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--begin", action="store_true", help="measure too what a run does before its first region")
    parser.add_argument("--stage", nargs="+", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.stage:
        name, *args = chosen.stage
        print(json.dumps(measured(lambda: STAGES[name](*args))))  # pyright: ignore[reportCallIssue]
        return
    chosen.work.mkdir(parents=True, exist_ok=True)
    items, out = chosen.work / f"items-{chosen.days}.parquet", chosen.work / "ndvi.zarr"
    if not items.exists():
        write_items(items, chosen.days)
    for _ in range(chosen.turns):
        shutil.rmtree(out, ignore_errors=True)
        print("load average", os.getloadavg()[0])
        print("plan ", stage("plan", str(items), str(out)))
        print("load ", stage("load", str(out)))
    if chosen.begin:
        print("begin", stage("begin", str(out)))


if __name__ == "__main__":
    main()
