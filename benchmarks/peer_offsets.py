"""What NDVI comes out where one follows the usual recipe of other libraries: the table of docs/offsets.md.

One real tile (29UNU of 2022-10-05, baseline 04.00, 60 m) in the four states in which catalogs hand out such tiles:
with its offset or shifted, told or not. Median NDVI over SCL 4 and 5, each library by its defaults.

    uv run --with odc-stac python benchmarks/peer_offsets.py ../shared/data
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pystac
import rasterio
import rioxarray
import stackstac
import xarray as xr

from ndvi_scale import RunConfig, build_plan, open_ndvi
from ndvi_scale.doctor import take_sample
from ndvi_scale.granules import granule_from_item
from ndvi_scale.readers import open_reader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAME = "S2A_29UNU_20221005_0_L2A"
STATES = {
    # name: (pixels shifted, flag, declared)
    "raw, −0.1 declared (c1, CDSE)": (False, None, True),
    "raw, nothing declared (Planetary Computer)": (False, None, False),
    "shifted, flag true, −0.1 still declared (Earth Search)": (True, True, True),
    "shifted, flag false (known wrong items)": (True, False, True),
}


def main() -> None:
    """Print the table."""
    origin = Path(sys.argv[1]) / "catalog" / "sentinel-2-l2a" / NAME
    with rasterio.open(origin / "scl.tif") as source:
        land = np.isin(source.read(1), (4, 5))
    print("| pixels and metadata |", " | ".join(TOOLS), "| guard |")
    print("|---" * (len(TOOLS) + 2) + "|")
    with tempfile.TemporaryDirectory() as folder:
        for state, item in items_in_every_state(origin, Path(folder)):
            values = [np.nanmedian(np.where(land, tool(copy.deepcopy(item)), np.nan)) for tool in TOOLS.values()]
            sample = take_sample(granule_from_item(item), open_reader())
            verdict = sample.verdict.judgement
            print("|", state, "|", " | ".join(f"{value:.3f}" for value in values), "|", verdict, "|")


def items_in_every_state(origin: Path, folder: Path) -> Iterator[tuple[str, pystac.Item]]:
    """The real item and its pixels as the catalogs would have them."""
    document = json.loads((origin / f"{NAME}.json").read_text())
    for state, (shifted, flag, declared) in STATES.items():
        changed = copy.deepcopy(document)
        changed["links"] = []
        changed["properties"]["earthsearch:boa_offset_applied"] = flag
        for key, asset in changed["assets"].items():
            asset["href"] = str(shift(origin, folder, key) if shifted and key != "scl" else origin / f"{key}.tif")
            if not declared:
                asset.pop("raster:bands", None)
        # stackstac knows no proj:code, to which pystac would migrate.
        yield state, pystac.Item.from_dict(changed, migrate=False)


def shift(origin: Path, folder: Path, band: str) -> Path:
    """A band with 1000 subtracted from every DN but nodata."""
    path = folder / f"{band}.tif"
    with rasterio.open(origin / f"{band}.tif") as source:
        dn, profile = source.read(1).astype(np.int32), source.profile
    with rasterio.open(path, "w", **profile) as target:
        target.write(np.where(dn == 0, 0, np.maximum(dn - 1000, 1)).astype(np.uint16), 1)
    return path


def ratio(red: Any, nir: Any) -> np.ndarray:
    """NDVI of what a library hands out."""
    red, nir = np.asarray(red, np.float64), np.asarray(nir, np.float64)
    return (nir - red) / np.where((nir + red) == 0, np.nan, nir + red)


def by_stackstac(item: pystac.Item) -> np.ndarray:
    """`stackstac.stack` as it is called without a thought: it rescales by what is declared."""
    cube = stackstac.stack(item.to_dict(include_self_link=False, transform_hrefs=False), assets=["red", "nir"])
    return ratio(*(cube.sel(band=name).isel(time=0).values for name in ("red", "nir")))


def by_odc_stac(item: pystac.Item) -> np.ndarray:
    """`odc.stac.load`: DN as they are."""
    import odc.stac

    cube = odc.stac.load([item], bands=["red", "nir"])
    dn = [cube[name].isel(time=0).values.astype(np.float64) for name in ("red", "nir")]
    return ratio(*(np.where(band == 0, np.nan, band) for band in dn))


def by_rioxarray(item: pystac.Item) -> np.ndarray:
    """`rioxarray.open_rasterio`, masked: it scales by what the file itself declares, which is nothing."""
    bands = [
        rioxarray.open_rasterio(item.assets[name].href, mask_and_scale=True).isel(band=0)  # pyright: ignore[reportAttributeAccessIssue]
        for name in ("red", "nir")
    ]
    assert all(isinstance(band, xr.DataArray) for band in bands)
    return ratio(*(band.values for band in bands))


def by_date(item: pystac.Item) -> np.ndarray:
    """The recipe that goes by date: subtract 1000 from everything sensed since 2022-01-25, after a clip."""
    bands = []
    for name in ("red", "nir"):
        with rasterio.open(item.assets[name].href) as source:
            dn = source.read(1)
        bands.append(np.where(dn == 0, np.nan, np.clip(dn, 1000, None) - 1000.0))
    return ratio(*bands)


def by_ndvi_scale(item: pystac.Item) -> np.ndarray:
    """Ours."""
    return open_ndvi(build_plan([item], RunConfig())).isel(time=0).values


TOOLS: dict[str, Callable[[pystac.Item], np.ndarray]] = {
    "stackstac": by_stackstac,
    "odc-stac": by_odc_stac,
    "rioxarray": by_rioxarray,
    "by date": by_date,
    "ndvi-scale": by_ndvi_scale,
}

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
