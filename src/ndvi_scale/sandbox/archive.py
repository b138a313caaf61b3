"""Storing the sandbox as Earth Search stores Sentinel-2: COGs, STAC items, a catalog around them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyproj
import rasterio
import rasterio.shutil
import rustac
import shapely

from ndvi_scale.sandbox.scene import ANCHOR, CELL, CIRRUS, FIRST_ROW_NORTHING, MEDIUM, SHADOW, Window

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray
    from rasterio.io import DatasetWriter
    from shapely.geometry.base import BaseGeometry

    from ndvi_scale.sandbox.scene import Sky

COLLECTION = "sentinel-2-l2a"
GROUND_EPSG = 32631  # the zone whose lattice the ground is made on
SATURATED = 65535  # ESA's DN of a saturated pixel
BLOCK = 1024  # pixels: the internal tile of Earth Search's COGs
DTYPES = {"red": "uint16", "nir": "uint16", "scl": "uint8"}
_MARGIN = 30.0  # metres a footprint may reach beyond its data: half-plane edges cut through 20 m cells

MEDIA_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"
EXTENSIONS = [
    f"https://stac-extensions.github.io/{name}/schema.json"
    for name in (
        "raster/v1.1.0",
        "mgrs/v1.0.0",
        "eo/v1.1.0",
        "grid/v1.0.0",
        "view/v1.0.0",
        "projection/v1.1.0",
    )
]
_BANDS = {
    "red": ("Red (band 4) - 10m", 0.665, 0.038),
    "nir": ("NIR 1 (band 8) - 10m", 0.842, 0.145),
}


@dataclass(frozen=True)
class Crop:
    """The part of an MGRS tile that is stored: `size` pixels of 10 m each way from `left`, `top` (metres)."""

    name: str  # "31TCJ"
    epsg: int
    left: int
    top: int
    size: int

    @property
    def window(self) -> Window:
        """The crop in ground cells; only for a crop in `GROUND_EPSG`."""
        return Window((FIRST_ROW_NORTHING - self.top) // CELL, self.left // CELL, self.size, self.size)

    def transform(self, pixel: int = CELL) -> list[int]:
        """Affine of pixels of `pixel` metres, in STAC's and rasterio's order."""
        return [pixel, 0, self.left, 0, -pixel, self.top]


@dataclass(frozen=True)
class Edge:
    """A straight border in the ground's CRS: data where ``east * x + south * y >= limit``, in 20 m cells.

    x counts columns and y rows, from the 20 m cell at `ANCHOR`.
    """

    east: float
    south: float
    limit: float

    def keeps(self, rows: NDArray[np.int64], cols: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether 20 m ground cells lie on the data's side; `rows` and `cols` broadcast."""
        return self.east * (cols - ANCHOR[1] // 2) + self.south * (rows - ANCHOR[0] // 2) >= self.limit

    def half_plane(self) -> shapely.Polygon:
        """The data's side as a large rectangle in the ground's CRS, `_MARGIN` wider than the data."""
        normal = np.array([self.east, -self.south]) / np.hypot(self.east, self.south)
        anchor = np.array([ANCHOR[1] * CELL, FIRST_ROW_NORTHING - ANCHOR[0] * CELL], dtype=float)
        start = anchor + normal * (self.limit * 2 * CELL / np.hypot(self.east, self.south) - _MARGIN)
        along, far = np.array([-normal[1], normal[0]]) * 1e6, normal * 1e6
        return shapely.Polygon([start - along, start + along, start + along + far, start - along + far])


@dataclass(frozen=True)
class Pass:
    """One datatake: when, by which satellite, under which sky."""

    begins: datetime
    platform: str  # "sentinel-2a"
    relative_orbit: int
    absolute_orbit: int
    sky: Sky
    swath: tuple[Edge, ...]  # what bounds the data on the ground, () when it reaches beyond every crop
    negative: bool  # some red reflectance is below 0
    missed_clouds: bool = False  # its scene classes are wrong in places

    @property
    def day(self) -> date:
        """Its solar day: at 0-1 E the UTC date."""
        return self.begins.date()

    @property
    def day_of_year(self) -> int:
        """1...366, for the state of the crops."""
        return self.begins.timetuple().tm_yday


@dataclass(frozen=True)
class Granule:
    """One item to store: a crop as one datatake saw it and one baseline processed it."""

    crop: Crop
    seen: Pass
    sequence: int
    sensed: datetime
    generated: datetime
    baseline: str
    applied: bool  # the BOA offset is in the stored DNs
    part: tuple[Edge, ...] = ()  # of a split datatake
    gains: tuple[float, float] = (1.0, 1.0)  # of red and nir: an older calibration
    superseded: bool = False  # a newer baseline of the same granule is in the archive

    @property
    def id(self) -> str:
        """Earth Search's item id."""
        return f"S2{self.letter}_{self.crop.name}_{self.seen.day:%Y%m%d}_{self.sequence}_L2A"

    @property
    def letter(self) -> str:
        """A or B, of the satellite."""
        return self.seen.platform[-1].upper()

    @property
    def edges(self) -> tuple[Edge, ...]:
        """All that bounds its data, besides the crop."""
        return self.seen.swath + self.part

    def reaches(self, rows: NDArray[np.int64], cols: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether it has data on 20 m ground cells; `rows` and `cols` broadcast."""
        data = np.ones(np.broadcast_shapes(rows.shape, cols.shape), dtype=bool)
        for edge in self.edges:
            data &= edge.keeps(rows, cols)
        return data

    @property
    def declared_offset(self) -> float:
        """`offset` in `raster:bands`, in reflectance: Earth Search declares -0.1 even when it is applied."""
        return -0.1 if self.baseline >= "04.00" else 0

    @property
    def dn_shift(self) -> int:
        """DN minus reflectance in steps of 1e-4: 1000 where the BOA offset is still to be applied."""
        return 1000 if self.declared_offset and not self.applied else 0

    def dn(self, reflectance: NDArray[np.int32], gain: float, saturated: NDArray[np.bool_]) -> NDArray[np.uint16]:
        """Stored DN of data pixels: 1...32767 or `SATURATED`; never 0, which is nodata."""
        scaled = reflectance if gain == 1 else np.rint(reflectance * gain).astype(np.int32)
        dn = np.clip(scaled + self.dn_shift, 1, 32767)
        return np.where(saturated, SATURATED, dn).astype(np.uint16)


def footprint(granule: Granule) -> shapely.Polygon:
    """Where a granule has data: a lon/lat polygon, counter-clockwise, at most about 30 m too large."""
    crop = granule.crop
    extent = crop.size * CELL
    box = shapely.box(crop.left, crop.top - extent, crop.left + extent, crop.top)
    shape = shapely.segmentize(box, extent / 6)  # a straight side of 110 km is an arc of 100 m in lon/lat
    if granule.edges:
        shape = _moved(shape, crop.epsg, GROUND_EPSG)
        for edge in granule.edges:
            shape = shape.intersection(edge.half_plane())
        shape = _moved(shapely.segmentize(shape, extent / 6), GROUND_EPSG, 4326)
    else:
        shape = _moved(shape, crop.epsg, 4326)
    # a convex shape cut by half-planes is still one polygon
    return shapely.geometry.polygon.orient(cast("shapely.Polygon", shapely.set_precision(shape, 1e-7)))


def _moved(shape: BaseGeometry, source: int, target: int) -> BaseGeometry:
    to = pyproj.Transformer.from_crs(source, target, always_xy=True)
    return shapely.transform(shape, lambda points: np.column_stack(to.transform(*points.T)))


class GranuleWriter:
    """Takes a granule strip by strip into plain TIFFs, and turns them into COGs at the end."""

    def __init__(self, granule: Granule, directory: Path) -> None:
        """Open the drafts in `directory`."""
        self.granule = granule
        self.counts = np.zeros(256, dtype=np.int64)  # of SCL classes
        self._drafts = {name: directory / f"{granule.id}.{name}.tif" for name in DTYPES}
        self._open = {name: self._draft(name) for name in DTYPES}

    def _draft(self, name: str) -> DatasetWriter:
        crop, pixel = self.granule.crop, 2 * CELL if name == "scl" else CELL
        size = crop.size * CELL // pixel
        return rasterio.open(
            self._drafts[name], "w", driver="GTiff", width=size, height=size, count=1, dtype=DTYPES[name],
            crs=crop.epsg, transform=rasterio.Affine(*crop.transform(pixel)), nodata=0, BIGTIFF="IF_SAFER",
        )  # fmt: skip

    def write(self, row: int, col: int, arrays: dict[str, NDArray[Any]]) -> None:
        """Write from an even 10 m row and column on: `red` and `nir` of (h, w), `scl` of (h / 2, w / 2)."""
        self.counts += np.bincount(arrays["scl"].ravel(), minlength=256)
        for name, array in arrays.items():
            height, width = array.shape
            top, left = (row // 2, col // 2) if name == "scl" else (row, col)
            self._open[name].write(array, 1, window=((top, top + height), (left, left + width)))

    def finish(self, directory: Path, block: int = BLOCK) -> dict[str, Path]:
        """Store the COGs in `directory`, drop the drafts, return the paths by asset; `block`: a block's side."""
        directory.mkdir(parents=True)
        paths = {name: directory / f"{name}.tif" for name in DTYPES}
        for name, path in paths.items():
            self._open[name].close()
            rasterio.shutil.copy(
                self._drafts[name], path, driver="COG", BLOCKSIZE=block, COMPRESS="DEFLATE", PREDICTOR="YES",
                OVERVIEW_RESAMPLING="MODE" if name == "scl" else "AVERAGE", NUM_THREADS="ALL_CPUS",
            )  # fmt: skip
            self._drafts[name].unlink()
        return paths


def item_of(granule: Granule, counts: NDArray[np.int64], paths: dict[str, Path]) -> dict[str, Any]:
    """The STAC item as Earth Search v1 writes it, with hrefs relative to the item's own folder.

    `counts`: SCL cells by class, shape (256,). `paths`: the stored files by asset.
    """
    shape = footprint(granule)
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": EXTENSIONS,
        "id": granule.id,
        "collection": COLLECTION,
        "bbox": list(shape.bounds),
        "geometry": json.loads(shapely.to_geojson(shape)),
        "properties": _properties(granule, counts),
        "links": [
            {"rel": "root", "href": "../../catalog.json", "type": "application/json"},
            {"rel": "parent", "href": "../collection.json", "type": "application/json"},
            {"rel": "collection", "href": "../collection.json", "type": "application/json"},
        ],
        "assets": {name: _asset(granule, name, path) for name, path in paths.items()},
    }


def _properties(granule: Granule, counts: NDArray[np.int64]) -> dict[str, Any]:
    seen, name = granule.seen, granule.crop.name
    zone, band, square = name[:2], name[2], name[3:]
    data = max(1, int(counts[1:].sum()))
    start, made = f"{seen.begins:%Y%m%dT%H%M%S}", f"{granule.generated:%Y%m%dT%H%M%S}"
    digits = granule.baseline.replace(".", "")
    satellite = f"S2{granule.letter}"
    uri = f"{satellite}_MSIL2A_{start}_N{digits}_R{seen.relative_orbit:03}_T{name}_{made}.SAFE"
    return {
        "created": _stamp(granule.generated),
        "updated": _stamp(granule.generated),
        "datetime": _stamp(granule.sensed),
        "platform": seen.platform,
        "constellation": "sentinel-2",
        "instruments": ["msi"],
        "eo:cloud_cover": round(100 * float(counts[MEDIUM : CIRRUS + 1].sum()) / data, 4),
        "proj:epsg": granule.crop.epsg,
        "mgrs:utm_zone": int(zone),
        "mgrs:latitude_band": band,
        "mgrs:grid_square": square,
        "grid:code": f"MGRS-{name}",
        "view:sun_azimuth": 150.0,
        "view:sun_elevation": 55.0,
        "s2:nodata_pixel_percentage": round(100 * float(counts[0]) / int(counts.sum()), 4),
        "s2:cloud_shadow_percentage": round(100 * float(counts[SHADOW]) / data, 4),
        "s2:product_type": "S2MSI2A",
        "s2:processing_baseline": granule.baseline,
        "s2:product_uri": uri,
        "s2:generation_time": _stamp(granule.generated),
        "s2:datatake_id": f"G{satellite}_{start}_{seen.absolute_orbit:06}_N{granule.baseline}",
        "s2:datatake_type": "INS-NOBS",
        "s2:sequence": str(granule.sequence),
        "earthsearch:boa_offset_applied": granule.applied,
    }


def _stamp(when: datetime) -> str:
    return when.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _asset(granule: Granule, name: str, path: Path) -> dict[str, Any]:
    pixel = 2 * CELL if name == "scl" else CELL
    size = granule.crop.size * CELL // pixel
    band: dict[str, Any] = {"nodata": 0, "data_type": DTYPES[name], "spatial_resolution": pixel}
    asset: dict[str, Any] = {
        "href": f"./{path.name}",
        "type": MEDIA_TYPE,
        "title": "Scene classification map (SCL)",
        "roles": ["data", "reflectance"],  # for SCL too: so Earth Search has it
        "file:size": path.stat().st_size,
        "gsd": pixel,
        "proj:shape": [size, size],
        "proj:transform": granule.crop.transform(pixel),
        "raster:bands": [band],
    }
    if name in _BANDS:
        title, wavelength, width = _BANDS[name]
        band |= {"bits_per_sample": 15, "scale": 0.0001, "offset": granule.declared_offset}
        asset["title"] = title
        asset["eo:bands"] = [
            {"name": name, "common_name": name, "center_wavelength": wavelength, "full_width_half_max": width}
        ]
    return asset


def write_catalog(directory: Path, items: list[dict[str, Any]]) -> None:
    """Write the items beside their COGs, the catalog above them, and all items as JSON and as GeoParquet.

    `items` come from `item_of` and lie in ``sentinel-2-l2a/ID``; in ``items.json`` and ``items.parquet``
    the hrefs are relative to `directory`, so that the whole can be moved.
    """
    folder = directory / COLLECTION
    for item in items:
        _dump(folder / item["id"] / f"{item['id']}.json", item)
    _dump(folder / "collection.json", _collection(items))
    _dump(directory / "catalog.json", _catalog())
    gathered = [_gathered(item) for item in items]
    _dump(directory / "items.json", {"type": "FeatureCollection", "features": gathered})
    rustac.write_sync(os.fspath(directory / "items.parquet"), gathered)


def _gathered(item: dict[str, Any]) -> dict[str, Any]:
    """The item with hrefs relative to the catalog's folder and without links, which would then be wrong."""
    assets = {
        name: asset | {"href": f"./{COLLECTION}/{item['id']}/{asset['href'].removeprefix('./')}"}
        for name, asset in item["assets"].items()
    }
    return item | {"assets": assets, "links": []}


def _catalog() -> dict[str, Any]:
    return {
        "type": "Catalog",
        "stac_version": "1.0.0",
        "id": "ndvi-scale-sandbox",
        "description": "Made-up ground stored as Earth Search stores Sentinel-2 L2A: to try and test with.",
        "links": [
            {"rel": "root", "href": "./catalog.json", "type": "application/json"},
            {"rel": "child", "href": f"./{COLLECTION}/collection.json", "type": "application/json"},
        ],
    }


def _collection(items: Iterable[dict[str, Any]]) -> dict[str, Any]:
    boxes = np.array([item["bbox"] for item in items])
    times = sorted(item["properties"]["datetime"] for item in items)
    bbox = [*boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:].max(axis=0).tolist()]
    links = [{"rel": rel, "href": "../catalog.json", "type": "application/json"} for rel in ("root", "parent")]
    links += [
        {"rel": "item", "href": f"./{item['id']}/{item['id']}.json", "type": "application/geo+json"}
        for item in items
    ]
    return {
        "type": "Collection",
        "stac_version": "1.0.0",
        "id": COLLECTION,
        "title": "Sentinel-2 Level 2A (sandbox)",
        "description": "Granules of made-up ground, stored as Earth Search stores real ones.",
        "license": "CC0-1.0",
        "extent": {"spatial": {"bbox": [bbox]}, "temporal": {"interval": [[times[0], times[-1]]]}},
        "links": links,
    }


def _dump(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


class TruthWriter:
    """The true NDVI of one solar day, and where the archive shows it, on the zone-31 lattice."""

    def __init__(self, directory: Path, day: date, window: Window) -> None:
        """Create both files in `directory`, for the ground of `window`."""
        self._open = {
            name: self._raster(directory / f"{name}_{day:%Y%m%d}.tif", window, dtype, fill)
            for name, dtype, fill in (("ndvi", "int16", -32768), ("valid", "uint8", None))
        }

    @staticmethod
    def _raster(path: Path, window: Window, dtype: str, fill: int | None) -> DatasetWriter:
        top = FIRST_ROW_NORTHING - window.row * CELL
        return rasterio.open(
            path, "w", driver="GTiff", width=window.width, height=window.height, count=1,
            dtype=dtype, nodata=fill,
            crs=GROUND_EPSG, transform=rasterio.Affine(CELL, 0, window.col * CELL, 0, -CELL, top),
            tiled=True, blockxsize=256, blockysize=256, compress="DEFLATE", predictor=2, BIGTIFF="IF_SAFER",
        )  # fmt: skip

    def write(self, row: int, codes: NDArray[np.int16], valid: NDArray[np.uint8]) -> None:
        """Write whole rows from row `row` on."""
        for name, array in (("ndvi", codes), ("valid", valid)):
            height, width = array.shape
            self._open[name].write(array, 1, window=((row, row + height), (0, width)))

    def close(self) -> None:
        """Finish both files."""
        for raster in self._open.values():
            raster.close()
