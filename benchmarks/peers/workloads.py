"""What is measured: items, window and dates of each workload, and who takes part."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import rustac
from benchmarks.peers.contender import Workload
from pyproj import Transformer

from ndvi_scale.bench.archive import EPSG, LEFT, TILE, TOP, Recipe, nine_tiles, whole_tile
from ndvi_scale.bench.workload import later
from ndvi_scale.sentinel2 import MASKS

if TYPE_CHECKING:
    from pathlib import Path

CHUNK: Final = 2048


@dataclass(frozen=True)
class Contender:
    """A script in an environment, with its options."""

    name: str
    label: str
    env: str
    script: str
    threads: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    once: bool = False
    """Takes minutes: in the first round alone."""


FUSED: Final = {"fused": True}
BATCH: Final = Contender("ours", "**ours**, `run_batch`, defaults", "ours", "contender_ours.py")
BATCH_2: Final = Contender("ours-2", "**ours**, `run_batch`, 2 threads", "ours", "contender_ours.py", 2)
LAZY: Final = Contender(
    "ours-lazy", "**ours**, `open_ndvi` → `to_zarr`, 2 threads", "ours", "contender_ours.py", 2, {"way": "lazy"}
)
STACKSTAC: Final = Contender(
    "stackstac", "stackstac, usual expression, 2 threads", "stackstac", "contender_stackstac.py", 2
)
ODC: Final = Contender("odc", "odc-stac, usual expression, 2 threads", "odc", "contender_odc.py", 2)
ODC_2: Final = Contender("odc-2", "odc-stac, fused, 2 threads", "odc", "contender_odc.py", 2, FUSED)
LAZYCOGS: Final = Contender(
    "lazycogs", "lazycogs, usual expression, 2 threads", "lazycogs", "contender_lazycogs.py", 2
)
FLOOR: Final = Contender("floor", "*processor floor*, 2 threads", "floor", "contender_floor.py", 2)
EVERYBODY: Final = (
    BATCH,
    BATCH_2,
    LAZY,
    STACKSTAC,
    Contender(
        "stackstac-2", "stackstac, uint16, fused, 2 threads", "stackstac", "contender_stackstac.py", 2, FUSED
    ),
    Contender(
        "stackstac-8", "stackstac, uint16, fused, 8 threads", "stackstac", "contender_stackstac.py", 8, FUSED
    ),
    ODC,
    ODC_2,
    Contender("odc-8", "odc-stac, fused, 8 threads", "odc", "contender_odc.py", 8, FUSED),
    Contender("odc-pool", "odc-stac, loaded whole (pool=8), fused", "odc", "contender_odc.py", 2, {"pool": 8}),
    Contender("rasterio-2", "rasterio, fused, 2 threads", "odc", "contender_rasterio.py", 2),
    Contender("rasterio-8", "rasterio, fused, 8 threads", "odc", "contender_rasterio.py", 8),
    LAZYCOGS,
    Contender("lazycogs-2", "lazycogs, fused, 2 threads", "lazycogs", "contender_lazycogs.py", 2, FUSED),
    Contender("lazycogs-8", "lazycogs, fused, 8 threads", "lazycogs", "contender_lazycogs.py", 8, FUSED),
    FLOOR,
)
MEMORY: Final = (Contender("ours-4", "**ours**, `run_batch`, 4 threads", "ours", "contender_ours.py", 4),)


@dataclass(frozen=True)
class Spec:
    """One workload."""

    name: str
    title: str
    recipe: Recipe | None
    """The archive that it reads; None where no pixels are needed."""
    bounds: tuple[float, float, float, float]
    """Left, bottom, right, top in metres."""
    dates: int
    contenders: tuple[Contender, ...]
    copies: int = 1
    """Times that the dates are repeated, under other ids, days and paths."""
    rounds: int | None = None
    """Where not as many as asked for."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Layers, rows and columns of the output."""
        left, bottom, right, top = self.bounds
        return self.dates * self.copies, round((top - bottom) / 10), round((right - left) / 10)


def specs(*, quick: bool = False) -> dict[str, Spec]:
    """All workloads by name; `quick` ones of one block in place of a tile."""
    if quick:
        recipe = whole_tile(CHUNK, 2)
        box = _box(0, 0, CHUNK, CHUNK)
        return {spec.name: spec for spec in (Spec("tile", "2048², 1 date", recipe, box, 1, EVERYBODY),)}
    tile, nine = whole_tile(), nine_tiles()
    window = _box(CHUNK, CHUNK, CHUNK, CHUNK)
    right = max(crop.left + 10 * crop.size for crop in nine.crops)
    bottom = min(crop.top - 10 * crop.size for crop in nine.crops)
    around = (LEFT, bottom, right, TOP)
    graph = (
        replace(BATCH, label="**ours**, `open_ndvi`"),
        replace(STACKSTAC, once=True),
        ODC_2,
    )
    found = (
        Spec("tile", "One whole tile (10980²), 1 date", tile, _box(0, 0, TILE, TILE), 1, EVERYBODY),
        Spec("window", "A window of 2048² on blocks, 4 dates", tile, window, 4, EVERYBODY),
        Spec("nine", "Nine tiles (3812² each, laid out as MGRS tiles), 1 date", nine, around, 1, (BATCH, *MEMORY)),
        Spec("graph", "25 tiles × 20 dates: the graph alone", None, (LEFT, TOP - 509_760, LEFT + 509_760, TOP), 20,
             graph, rounds=3),
        Spec("dates", "A window of 2048² on blocks, 40 dates", tile, window, 4, MEMORY, copies=10, rounds=2),
        Spec("few", "A window of 2048² on blocks, 4 dates", tile, window, 4, MEMORY, rounds=2),
    )  # fmt: skip
    return {spec.name: spec for spec in found}


def _box(row: int, column: int, height: int, width: int) -> tuple[float, float, float, float]:
    left, top = LEFT + 10 * column, TOP - 10 * row
    return left, top - 10 * height, left + 10 * width, top


def features_of(spec: Spec, archive: Path | None, base: str) -> list[dict[str, Any]]:
    """The items of a workload, in time order, with hrefs below `base`."""
    if archive is None:
        return invented_features(spec.dates, base)
    held = json.loads((archive / "items.json").read_text(encoding="utf-8"))["features"]
    held.sort(key=lambda feature: (feature["properties"]["datetime"], feature["id"]))
    days = sorted({feature["properties"]["datetime"][:10] for feature in held})[: spec.dates]
    held = [feature for feature in held if feature["properties"]["datetime"][:10] in days]
    found = []
    for number in range(spec.copies):
        for feature in held:
            item = later(feature, timedelta(days=number))
            for asset in item["assets"].values():
                path = asset["href"].removeprefix("./")
                asset["href"] = f"{base}/{f'copy-{number}/' if number else ''}{archive.name}/{path}"
            found.append(item)
    return sorted(found, key=lambda feature: (feature["properties"]["datetime"], feature["id"]))


def invented_features(dates: int, base: str, side: int = 5) -> list[dict[str, Any]]:
    """Items of `side` × `side` whole tiles in one zone, 99,960 m apart; there are no files behind them."""
    to_degrees = Transformer.from_crs(EPSG, 4326, always_xy=True)
    found = []
    for date in range(dates):
        when = datetime.fromisoformat("2023-05-01T10:56:19+00:00") + timedelta(days=5 * date)
        for down in range(side):
            for across in range(side):
                left, top = LEFT + 99_960 * across, TOP - 99_960 * down
                name = f"31T{'CDEFG'[across]}{'KJHGF'[down]}"
                seconds = timedelta(seconds=10 * down + across)
                box = to_degrees.transform_bounds(left, top - 109_800, left + 109_800, top)
                found.append(_invented(name, when + seconds, (left, top), box, base))
    return found


def _invented(
    tile: str, when: datetime, corner: tuple[int, int], box: tuple[float, float, float, float], base: str
) -> dict[str, Any]:
    west, south, east, north = box
    name = f"S2A_{tile}_{when:%Y%m%d}_0_L2A"
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    assets = {}
    for band, pixel, dtype in (("red", 10, "uint16"), ("nir", 10, "uint16"), ("scl", 20, "uint8")):
        assets[band] = {
            "href": f"{base}/{name}/{band}.tif",
            "type": "image/tiff; application=geotiff; profile=cloud-optimized",
            "roles": ["data"],
            "proj:shape": [109_800 // pixel] * 2,
            "proj:transform": [pixel, 0, corner[0], 0, -pixel, corner[1]],
            "raster:bands": [{"nodata": 0, "data_type": dtype, "spatial_resolution": pixel, "offset": 0}],
        }
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [
            "https://stac-extensions.github.io/projection/v1.1.0/schema.json",
            "https://stac-extensions.github.io/raster/v1.1.0/schema.json",
        ],
        "id": name,
        "collection": "sentinel-2-l2a",
        "bbox": list(box),
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {
            "datetime": f"{when:%Y-%m-%dT%H:%M:%S}.000Z",
            "platform": "sentinel-2a",
            "proj:epsg": EPSG,
            "grid:code": f"MGRS-{tile}",
            "s2:processing_baseline": "05.09",
            "s2:datatake_id": f"GS2A_{when:%Y%m%d}T105619_040000_N05.09",
            "s2:generation_time": f"{when:%Y-%m-%d}T18:00:00.000Z",
            "earthsearch:boa_offset_applied": True,
        },
        "links": [],
        "assets": assets,
    }


def offset_of(feature: dict[str, Any]) -> int:
    """BOA offset in DN of an item as the sandbox writes them."""
    properties = feature["properties"]
    applied = properties["earthsearch:boa_offset_applied"] or properties["s2:processing_baseline"] < "04.00"
    return 0 if applied else -1000


def write_workload(
    spec: Spec, contender: Contender, folder: Path, features: list[dict[str, Any]], archive: Path | None
) -> Path:
    """The workload of one run in a new folder, where its output goes too; returns the path of its JSON."""
    from ndvi_scale.write import COMPRESSION

    folder.mkdir(parents=True)
    collection = {"type": "FeatureCollection", "features": features}
    (folder / "items.json").write_text(json.dumps(collection), encoding="utf-8")
    rustac.write_sync(str(folder / "items.parquet"), features)
    work = Workload(
        items=str(folder / "items.json"),
        parquet=str(folder / "items.parquet"),
        archive=str(archive),
        out=str(folder / "out.zarr"),
        epsg=EPSG,
        bounds=spec.bounds,
        shape=spec.shape,
        chunk=CHUNK,
        codec=dict(COMPRESSION),
        offsets={feature["id"]: offset_of(feature) for feature in features},
        dropped=sorted(MASKS["default"]),
        threads=contender.threads,
        graph_only=archive is None,
        options=contender.options,
    )
    path = folder / "workload.json"
    path.write_text(json.dumps(asdict(work)), encoding="utf-8")
    return path
