"""Local copies of the assets of recorded items: real metadata, known pixels, at the places the hrefs name.

The same patch of ground lies under every item. Its reflectance is encoded as the item's source encodes it, so that
whoever reads all of the metadata rightly gets the same NDVI from every source.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import rasterio
import rasterio.transform
import rustac
import shapely.geometry
from affine import Affine
from pyproj import Transformer
from rasterio.windows import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from numpy.typing import NDArray

Json = dict[str, Any]
SIDE = 96
"""Pixels of 10 m of the patch."""
FILL = -32768
NAMINGS = (("red", "nir", "scl"), ("B04", "B08", "SCL"), ("B04_10m", "B08_10m", "SCL_20m"))


@dataclass(frozen=True)
class Ground:
    """A patch of ground: reflectance times 10,000 and scene classes."""

    red: NDArray[np.int64]
    nir: NDArray[np.int64]
    scl: NDArray[np.uint8]

    def codes(self) -> NDArray[np.int16]:
        """NDVI of its land, times 10,000, halves to even, by exact fractions."""
        keep = np.isin(np.kron(self.scl, np.ones((2, 2), np.uint8)), (2, 4, 5, 6, 7, 11))
        out = np.full(self.red.shape, FILL, np.int16)
        for place in zip(*np.nonzero(keep), strict=True):
            red, nir = int(self.red[place]), int(self.nir[place])
            if nir + red > 0 and abs(nir - red) <= nir + red:
                out[place] = round(Fraction(10_000 * (nir - red), nir + red))
        return out


@cache
def ground() -> Ground:
    """Vegetation, soil and water with a little cloud; every pixel is different."""
    draw = np.random.default_rng(2022)
    red = draw.integers(120, 3000, (SIDE, SIDE))
    nir = draw.integers(150, 6000, (SIDE, SIDE))
    scl = draw.choice([2, 4, 4, 5, 5, 6, 7, 8, 9, 11], (SIDE // 2, SIDE // 2)).astype(np.uint8)
    return Ground(red, nir, scl)


def recorded(file: Path, item_id: str) -> Json:
    """One item of a recorded answer, as it came."""
    if file.suffix == ".parquet":
        document: Any = rustac.read_sync(str(file))
    else:
        document = json.loads(file.read_text())
    features = document if isinstance(document, list) else document.get("features", [document])
    return next(feature for feature in features if feature["id"] == item_id)


def naming(item: Json) -> tuple[str, str, str]:
    """Keys of red, nir and scl in an item."""
    return next(names for names in NAMINGS if all(name in item["assets"] for name in names))


def mirror(item: Json, shift: int, folder: Path, keep: Callable[[str, Path], str]) -> Json:
    """The item with local copies of its three assets; `shift` is what its pixels have in addition (1000 or 0).

    `keep` puts a file at the place that an href names and returns the href that is read instead. All other
    metadata stay as they are.
    """
    changed = copy.deepcopy(item)
    land = ground()
    for key, pixels in zip(naming(item), (land.red + shift, land.nir + shift, land.scl), strict=True):
        asset = changed["assets"][key]
        file = folder / urlsplit(asset["href"]).path.rpartition("/")[2]
        _write(file, item, asset, pixels.astype(np.uint8 if pixels is land.scl else np.uint16))
        asset["href"] = keep(asset["href"], file)
    return changed


def _write(file: Path, item: Json, asset: Json, pixels: NDArray[Any]) -> None:
    transform, (height, width) = transform_of(item, asset), _field(item, asset, "proj:shape")
    row, column = (round(number * 10 / transform.a) for number in place_of(item))
    profile: Json = {
        "height": height,
        "width": width,
        "count": 1,
        "dtype": pixels.dtype,
        "crs": epsg_of(item, asset),
        "transform": transform,
    }
    if file.suffix == ".jp2":
        whole = np.zeros((height, width), pixels.dtype)
        whole[row : row + pixels.shape[0], column : column + pixels.shape[1]] = pixels
        options = {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"}
        with rasterio.open(file, "w", **profile, **options) as out:
            out.write(whole, 1)
        return
    options = {"tiled": True, "blockxsize": 1024, "blockysize": 1024, "compress": "deflate", "sparse_ok": True}
    with rasterio.open(file, "w", driver="GTiff", nodata=0, **profile, **options) as out:
        out.write(pixels, 1, window=Window(column, row, pixels.shape[1], pixels.shape[0]))


def _field(item: Json, asset: Json, name: str) -> Any:
    return asset.get(name) or item["properties"].get(name)


def epsg_of(item: Json, asset: Json) -> int:
    """EPSG code, by either version of the projection extension."""
    code = _field(item, asset, "proj:code") or _field(item, asset, "proj:epsg")
    return int(str(code).rpartition(":")[2])


def transform_of(item: Json, asset: Json) -> Affine:
    """Pixel grid of an asset."""
    return Affine(*_field(item, asset, "proj:transform")[:6])


def place_of(item: Json) -> tuple[int, int]:
    """Row and column of the patch's first pixel, whole SCL pixels: as far inside the footprint as can be."""
    asset = item["assets"][naming(item)[0]]
    project = Transformer.from_crs(4326, epsg_of(item, asset), always_xy=True)
    footprint = shapely.transform(
        shapely.geometry.shape(item["geometry"]), project.transform, interleaved=False
    ).intersection(shapely.box(*rasterio.transform.array_bounds(10980, 10980, transform_of(item, asset))))
    inside = shapely.maximum_inscribed_circle(footprint, tolerance=100)
    assert inside.length > SIDE * 10, f"{item['id']} has no room for the patch"
    column, row = ~transform_of(item, asset) @ inside.coords[0]
    return 2 * round(row / 2 - SIDE / 4), 2 * round(column / 2 - SIDE / 4)


def bbox_of(item: Json) -> str:
    """A lon/lat box around the patch, and around nothing much else."""
    return ",".join(map(str, _box(item, *place_of(item), margin=2)))


def _box(item: Json, row: int, column: int, margin: int) -> tuple[float, float, float, float]:
    asset = item["assets"][naming(item)[0]]
    transform, ends = transform_of(item, asset), (-margin, SIDE + margin)
    corners = [transform @ (column + x, row + y) for x in ends for y in ends]
    to_degrees = Transformer.from_crs(epsg_of(item, asset), 4326, always_xy=True)
    lon, lat = zip(*(to_degrees.transform(*corner) for corner in corners), strict=True)
    return min(lon), min(lat), max(lon), max(lat)


def save(items: Iterable[Json], path: Path) -> Path:
    """An item collection."""
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(items)}))
    return path


def patch_of(cube: NDArray[Any], grid: Affine, item: Json) -> NDArray[Any]:
    """The patch, cut out of a cube (time, y, x) on `grid`."""
    corner = transform_of(item, item["assets"][naming(item)[0]]) @ place_of(item)[::-1]
    column, row = (round(number) for number in ~grid @ corner)
    return cube[:, row : row + SIDE, column : column + SIDE]
